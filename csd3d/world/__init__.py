"""A procedural 3-D world with exact truth: pictures, depth, object ids, flow, and what every edit should look like.

Rooms: `scene` says what is there, `camera` from where it is seen, `cast` finds what each ray hits, `shade`
gives it colour, `flow` relates two pictures, `filters` are edits of pixels, `edits` is the one place where a
sentence becomes an edit, `sample` and `export` make and write clips, posed scenes, panoramas and photos.
"""
