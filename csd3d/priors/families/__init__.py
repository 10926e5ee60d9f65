"""Priors that a diffusers pipeline drives itself: one call of it is recorded, and replayed at other noise levels.

    table     what differs between pipeline classes, one row each; light, imports no diffusers
    levels    noise levels of variance-preserving, EDM and flow models, converted to the engine's at the edge
    record    runs a pipeline up to its scheduler, and keeps the arguments of its network; replay calls it again
    codec     any of their autoencoders, as latents of about unit variance; clips: those of video
    references   anchors of a step as further pictures of an editor
    check     does a replay say what the pipeline itself says? Runs when a prior is loaded
    conditions   what was recorded, by sentence and source
    prior     `FamilyEditor` and `FamilyTextToImage`, and the scores that the engine drives; load reads them

A pipeline does three things: it makes conditions, lays noisy latents into the input of its network at one place, and
hands a guided prediction to its scheduler. Everything here follows from that; a new family is a row of the table.
"""
