"""The nerfstudio plugin: scenes are edited with `ns-train csd-edit`. The only room that imports nerfstudio.

methods     what `ns-train` lists; imports neither diffusers nor a prior
configs     the methods
settings    what can be set of an edit
host        what touches nerfstudio's trainer and data managers
backends    what touches nerfstudio's models
pipeline    when views are edited; the two drivers
ngp         the same where the number of rays varies
views       what the field shows of a camera
edit        driver "update": rendered views in, edited views out, CSD-Edit of all of them together
distil      driver "distil": the gradient of a few renders, on its way to the field
cover       which views come next
correspond  where the points of one view are in the others, by depth
masks       where views may change
ranks       several processes, one coupled step
controls    what the viewer shows of it
keep        edited views on disk and in checkpoints
"""
