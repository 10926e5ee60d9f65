"""Personal priors: what a text-to-image prior learns of one subject, from a few pictures of it.

config      settings
subject     pictures of the subject: a folder, a scene, a clip, one picture
adapters    what learns: vectors of a new word, or a low-rank change of the network's weights
train       one step of learning
job         from pictures to a file that `--embedding` or `--lora` of every command reads
"""
