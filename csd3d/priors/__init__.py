"""Diffusion models behind one small interface. The only room that imports diffusers and transformers.

Rooms: `resolve` says where a prior lies (built-in, a directory, a hub id), `load` reads its parts, `codec` goes between
pictures and latents, `text` turns sentences into embeddings, `denoiser` calls the UNet in chunks, `taps` listens to its
layers, `instruct` and `text_to_image` join them into the score of an instruction editor and of a text-to-image model,
`either` loads one or the other, `vocabulary` and `words` are what a small prior knows, `editor` is what editors need of
a prior, `layout` writes one to disk. Nothing is imported here: each room is asked for by name; `resolve`, `editor` and
`vocabulary` are light.
"""
