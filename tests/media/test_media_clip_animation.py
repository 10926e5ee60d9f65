"""Small animations as clips: frames and times as they were written, whatever the file is called."""

import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from csd3d.evaluate.frames import Frames
from csd3d.media.clip.probe import NO_ALPHA, ClipInfo, probe
from csd3d.media.clip.source import open_clip
from csd3d.media.clip.times import durations
from csd3d.media.masks import ClipMask
from csd3d.media.pictures.levels import from_levels

SHOWN_MS = [100, 100, 200, 250]
LEVELS = [
    np.random.default_rng(i).integers(0, 255, (24, 32, 3), dtype=np.uint8) // 3 + 40 * i for i in range(len(SHOWN_MS))
]


def animation(path: Path, shown_ms: list[int], levels: list[np.ndarray] = LEVELS) -> Path:
    first, *others = map(Image.fromarray, levels)
    kind = {".apng": "PNG"}.get(path.suffix, path.suffix[1:])
    lossless = {"lossless": True} if kind == "webp" else {}
    first.save(path, kind, save_all=True, append_images=others, duration=shown_ms, **lossless)
    return path


def shown_s(info: ClipInfo) -> list[float]:
    return [float(ticks * info.time_base) for ticks in durations(info.pts, info.time_base, info.fps)]


@pytest.mark.parametrize("suffix", [".webp", ".apng", ".gif"])
def test_every_frame_stays_as_long_as_it_was_written(suffix, tmp_path):
    info = probe(animation(tmp_path / f"a{suffix}", SHOWN_MS))
    assert shown_s(info) == pytest.approx([ms / 1000 for ms in SHOWN_MS])
    assert (info.width_px, info.height_px, info.constant_rate) == (32, 24, False)


def test_frames_of_a_webp_in_any_order(tmp_path):
    path = animation(tmp_path / "a.webp", [40] * 4).rename(tmp_path / "called.mp4")
    with open_clip(path) as clip:
        assert (clip.info.fps, clip.info.constant_rate, clip.info.frames) == (25, True, 4)
        whole = from_levels(np.stack(LEVELS))
        assert torch.equal(clip.read(0, 4), whole)
        assert torch.equal(clip.read(1, 3, exact=True), whole[1:3])
    with open_clip(path, max_frames=2) as clip:
        assert (clip.info.frames, clip.info.complete) == (2, False)


def test_times_that_a_webp_does_not_say(tmp_path):
    info = probe(animation(tmp_path / "a.webp", [0, 0, 0, 0]))
    assert (info.fps, info.frames) == (Fraction(25), 4)
    assert all(a < b for a, b in pairwise(info.pts))
    assert "25 is assumed" in " ".join(info.notes)


def test_a_transparent_webp_is_a_moving_mask_or_loses_it_with_a_note(tmp_path):
    levels = [np.full((24, 32, 4), 255, np.uint8) for _ in range(3)]
    for i, frame in enumerate(levels):
        frame[:, : 8 * i + 8, 3] = 0
    path = animation(tmp_path / "a.webp", [40] * 3, levels)
    info = probe(path)
    assert NO_ALPHA in info.notes
    with ClipMask(path, info) as mask:
        assert [float(m.mean()) for m in mask(range(3))] == [0.75, 0.5, 0.25]


def test_a_webp_that_is_cut_short_is_one_line(tmp_path):
    path = animation(tmp_path / "a.webp", SHOWN_MS)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ValueError, match=r"clip: expected .* got .*a\.webp"):
        open_clip(path).read(0, 4)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animation_is_measured_and_masks_as_a_clip(suffix, tmp_path):
    path = animation(tmp_path / f"a{suffix}", [40] * 4)
    with Frames(path) as frames:
        assert (len(frames), frames.clip is not None) == (4, True)
    with ClipMask(path, probe(path)) as mask:
        assert mask(range(4)).shape == (4, 1, 24, 32)
    first = Image.fromarray(LEVELS[0])
    first.save(tmp_path / f"one{suffix}")
    with Frames(tmp_path / f"one{suffix}") as frames:
        assert (len(frames), frames.clip) == (1, None)


def test_what_never_ends_is_no_clip(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for place in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(ValueError, match="got the device or pipe"):
            probe(place)


def test_a_named_colour_profile_does_not_end_the_process(tmp_path):
    """It is side data of a decoded PNG, which PyAV frees twice: this would crash a process of its own."""
    first, *others = map(Image.fromarray, LEVELS)
    kind = {"format": "PNG", "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    first.save(tmp_path / "a.png", **kind)
    first.save(tmp_path / "b.mov", **kind)
    first.save(tmp_path / "c.png", save_all=True, append_images=others, duration=40, **kind)
    code = "import gc, sys; from pathlib import Path; from csd3d.media.clip.probe import probe\n"
    code += "for p in sorted(Path(sys.argv[1]).iterdir()): print(probe(p).frames); gc.collect()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "1", "4"]), done.stderr


def test_one_picture_is_a_clip_with_its_orientation_and_colours(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(LEVELS[0]).save(tmp_path / "a.png", exif=exif)
    with open_clip(tmp_path / "a.png", fps=Fraction(5)) as clip:
        assert (clip.info.width_px, clip.info.height_px, clip.info.fps, clip.info.content) == (24, 32, 5, ())
        assert torch.equal(clip.read(0, 1), from_levels(np.rot90(LEVELS[0], -1).copy())[None])
