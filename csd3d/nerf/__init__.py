"""The nerfstudio plugin: `ns-train csd-edit` edits scenes, `csd-3d` makes them. The only room that imports nerfstudio.

methods       what `ns-train` lists; imports neither diffusers nor a prior
configs       the methods
settings      what can be set of an edit
pipeline      nerfstudio's pipeline, put together from what follows
schedule      when the next batch of views is edited; cover: which views it has
current_edit  sentences and scales as they are now, and the prior
edit_history  which prompt edited which views, in memory, in checkpoints and on disk
drivers       the two ways of editing a training step
edit          driver "update": rendered views in, edited views out, CSD-Edit of all of them together
distil        driver "distil": the gradient of a few renders, on its way to the field
viewer        controls in the viewer, and the commands that they give
scene         field, training views and region that may change
views         what the field shows of a camera
correspond    where the points of one view are in the others, by depth
masks         where views may change
ranks         several processes, one coupled step
host          what touches nerfstudio's trainer and data managers
transforms    what a scene's data must be
checkpoints   reading them safely
text3d        scenes from a sentence: `ns-train csd-3d`
backends      what touches nerfstudio's models; ngp: the pipeline where the number of rays varies
"""
