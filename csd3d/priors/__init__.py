"""Diffusion models behind one small interface. The only room that imports diffusers and transformers.

    prior       the abstract class that everybody else knows, with prompts, guidance and codec
    latent_diffusion   what Stable Diffusion's shapes have in common; instruct and text_to_image are its two kinds
    families/   pipelines of other models, each recorded once and replayed; a row of a table each
    auto        finds and loads whichever kind a name stands for
    defaults    which prior a method is for, the size and settings that suit a prior; lookup: the one that is asked for
    store/      where a prior lies (built-in, a directory, a hub id), reading and writing it, what tells two apart
    networks/   denoiser, codec and text encoder, called in chunks; sampler; features of inner layers
    prompts/    what a small prior knows, and sentences as embeddings

Nothing is imported here: each room is asked for by name. `store.resolve`, `prior`, `defaults` and
`prompts.vocabulary` are light.
"""
