"""The process in which decord decodes: a script on its own, of which whatever decord does to a process is the end.

Told is, on standard output, the number of frames; then for each line "START STOP" on standard input "N H W" and as many
bytes, or "-1 0 0" where decord refuses. It ends when its input does.
"""

import os
import sys


def main(path: str) -> None:
    """Serve the frames of a file, upright RGB."""
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decord's libraries may print
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    refusals = (decord.DECORDError, RuntimeError, IndexError)
    video = decord.VideoReader(path, ctx=decord.cpu(0))
    told.write(b"%d\n" % len(video))
    told.flush()
    for line in sys.stdin:
        start, stop = map(int, line.split())
        try:
            pixels = video.get_batch(range(start, stop)).asnumpy()
        except refusals:
            told.write(b"-1 0 0\n")
        else:
            told.write(b"%d %d %d\n" % pixels.shape[:3])
            told.write(pixels.data)
        told.flush()


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose names are not those of packages
    main(sys.argv[1])
