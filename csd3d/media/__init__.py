"""Pictures and clips as files: probing, reading and writing them, and the pixel work that every editor needs.

    pictures/   one picture: levels (pixels of 8 and 16 bits, upright), read and write (with metadata)
    clip/       a clip: probe, source (decoded frames), sink (encoded frames), frames (PNG folders, animations), formats
    masks       where to edit
    place       what may be written where
    geometry    scaling to the size at which a prior works, and back
    detail      fine detail that a codec loses, put back
    sheet       contact sheets
    overlap     reading and writing beside the work in between
    atomic      files that appear whole or not at all

Knows no prior and no run.
"""
