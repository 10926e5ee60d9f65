"""Diffusion models behind one small interface. The only room that imports diffusers and transformers.

    prior       what every prior has; instruct and text_to_image are the two kinds, auto loads whichever it is
    editor      the size and settings that suit a prior
    store/      where a prior lies (built-in, a directory, a hub id), reading and writing it, what tells two apart
    networks/   denoiser, codec and text encoder, called in chunks; features of inner layers
    prompts/    what a small prior knows, and sentences as embeddings

Nothing is imported here: each room is asked for by name; `store.resolve`, `editor` and `prompts.vocabulary` are light.
"""
