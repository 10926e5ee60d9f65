"""Damaged files are read as far as they can be, or refused in one line: never a hang, a crash or a traceback."""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from csd3d.media.pictures.tags import Tags
from csd3d.media.pictures.write import write_picture
from tests.clips import encode, moving_picture
from tests.forking import in_fork
from tests.priors.tiny import write_tiny_prior

CLIPS = {
    "a.mp4": "libx264", "a.mkv": "libx264", "a.mov": "libx264", "a.ts": "libx264", "a.avi": "mpeg4",
    "a.mpg": "mpeg1video", "a.flv": "flv", "a.webm": "libvpx",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Small files of all kinds, with sound and metadata where they hold them."""
    folder = tmp_path_factory.mktemp("corpus")
    rgb = moving_picture(6, 32, 48)
    for name, codec in CLIPS.items():
        sound = 0.2 if name in ("a.mp4", "a.mkv", "a.mov", "a.ts") else 0.0
        encode(folder / name, rgb, codec=codec, pix_fmt="yuv420p", rate=Fraction(25), sound=sound)
    with av.open(str(folder / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "rgb8"
        for k in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 50 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    tags = Tags(
        exif.tobytes(), b'<x:xmpmeta><rdf:Description GPano:ProjectionType="equirectangular"/></x:xmpmeta>',
        iptc=b"\x1c\x02\x19\x00\x05beach", comment=b"mine", text=(("parameters", "a cat"),), dpi=(300.0, 300.0),
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        write_picture(folder / f"p{suffix}", pixels, tags=tags)
    write_picture(
        folder / "deep.png", pixels.astype(np.uint16) * 257, alpha=pixels[:, :, 0].astype(np.uint16), tags=tags
    )
    Image.fromarray(pixels).quantize(16).save(folder / "palette.png", transparency=3)
    return folder


RUN = "import sys; from tests.media.fuzzing import main; main(*sys.argv[1:])"


def fuzzed(server, corpus, count, seed):
    """Ends of so many damaged files: (those that are faults, how often each was seen)."""
    process = in_fork(server, "-c", RUN, str(corpus), str(count), str(seed), cwd=corpus)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-2000:]
    *faults, seen = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    return faults, seen


def test_whole_files_are_read(corpus):
    """What is changed below is right as it is."""
    from tests.media.fuzzing import use

    for path in sorted(corpus.iterdir()):
        if path.is_file():
            place = corpus / f"whole-{path.name}"
            place.mkdir()
            copy = place / f"x{path.suffix}"
            copy.write_bytes(path.read_bytes())
            use(copy)


def test_some_damaged_files(corpus, server):
    faults, seen = fuzzed(server, corpus, 64, 1)
    assert faults == []
    assert seen["done"] > 12
    assert seen["refused"] > 5


@pytest.mark.slow
def test_three_hundred_damaged_files(corpus, server):
    """`CSD3D_FUZZ=7 pytest tests/media/test_media_fuzz.py` damages others."""
    faults, _ = fuzzed(server, corpus, 300, int(os.environ.get("CSD3D_FUZZ", "2")))
    assert faults == []


@pytest.mark.slow
def test_damaged_priors(tmp_path, server):
    write_tiny_prior(tmp_path / "prior")
    faults, seen = fuzzed(server, tmp_path, 52, 4)
    assert faults == []
    assert seen["refused"] > 20


ENDS = """
import json, os, signal
from pathlib import Path
from tests.media import fuzzing

def use(path):
    if path.name == "leaves":
        os._exit(0)
    if path.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "hangs":
        signal.pause()
    if path.name == "raises":
        raise KeyError

fuzzing.use, fuzzing.LIMIT_S = use, 1.0
names = ("good", "leaves", "good", "dies", "hangs", "raises", "leaves", "good")
print(json.dumps([kind for kind, _ in fuzzing.outcomes([Path(name) for name in names])]))
"""


def test_a_file_that_ends_its_child_is_told_and_the_next_are_read(server, tmp_path):
    said = in_fork(server, "-c", ENDS, cwd=tmp_path).communicate(timeout=60)[0]
    assert json.loads(said) == ["done", "died", "done", "died", "hangs", "raised", "died", "done"]
