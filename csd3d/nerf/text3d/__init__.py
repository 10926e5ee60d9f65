"""`ns-train csd-3d`: a scene from a sentence, by CSD on renders of it.

orbit      random cameras on a sphere, and captions of what they see
anneal     what changes while a scene grows
terms      where density begins, and what it is held to
model      the field, as a model of nerfstudio
data       a data manager without data
settings   what can be set
pipeline   all of it in a training step
viewer     controls in the viewer
turntable  a video and a contact sheet of the result
trainer    nerfstudio's trainer for it
"""
