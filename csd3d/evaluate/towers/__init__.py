"""Networks that metrics look through, each loaded from files at hand. What they give is described where they are.

    efficientnet    EfficientNet-Lite0, whose ImageNet weights a package ships: the learned features
    clip            CLIP: embeddings of pictures and sentences
    dino            DINO: keys of the last layer
    lpips           AlexNet or VGG16 with LPIPS's weights of channels
    inception       Inception of the FID
    weights         where their files are; quiet: transformers, kept from talking
    scaling         pictures as a network wants them

They measure; they are no priors. That is why transformers may be imported here as in `csd3d.priors`, whose import
takes diffusers along, which no metric needs. It is imported when a network is loaded, not before.
"""
