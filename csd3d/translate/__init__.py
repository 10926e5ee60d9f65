"""Translation networks (Hertz et al. 2023, section 4): an edit learnt once by DDS, then one pass a picture.

config      tasks and settings
network     the UNet of a text-to-image prior, with learnt embeddings for text and time
train       learning from unpaired pictures and their captions
apply       pictures and clips through the network
"""
