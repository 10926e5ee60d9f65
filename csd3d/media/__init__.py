"""Pictures and clips as files: reading, writing, probing, and what is done to pixels beside any edit.

    pictures/   one picture: levels (8 and 16 bits, upright), read and write with all that a file carries
    clip/       a clip: probe, source (decoded frames), sink (encoded frames), folders of frames, what can be written
    masks       where to edit
    geometry    sizes a prior works at, and back
    detail      fine detail that a codec loses, put back
    sheet       contact sheets
    atomic      files that appear whole or not at all

Knows no prior and no run.
"""
