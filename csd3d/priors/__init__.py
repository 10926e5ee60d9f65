"""Diffusion models behind one small interface. The only room that imports diffusers and transformers.

Rooms: `resolve` says where a prior lies (built-in, a directory, a hub id), `load` reads its parts, `codec` goes between
pictures and latents, `text` turns sentences into embeddings, `denoiser` calls the UNet in chunks, `instruct` joins them
into the score of an instruction editor, `vocabulary` is the closed set of sentences a small prior knows, `layout`
writes a prior to disk. Nothing is imported here: each room is asked for by name; `resolve` and `vocabulary` are light.
"""
