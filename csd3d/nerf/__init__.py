"""The nerfstudio plugin: scenes are edited with `ns-train csd-edit`. The only room that imports nerfstudio.

methods     what `ns-train` lists; imports neither diffusers nor a prior
host        whatever touches nerfstudio's insides: trainer, data manager, models
pipeline    when views are edited, and what the viewer shows of it
edit        rendered views in, edited views out: CSD-Edit of all of them together
cover       which views come next
keep        edited views on disk and in checkpoints
"""
