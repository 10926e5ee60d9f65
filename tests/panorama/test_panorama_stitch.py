"""Photos in any order become one panorama, strangers are named, a full turn closes."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from panorama_toys import load, save
from torch.nn.functional import interpolate, pad

import panorama.stitch as stitching
from csd3d.cli.main import main
from csd3d.media.pictures.read import Picture, Tags, open_picture
from csd3d.runs.progress import RunProgress
from panorama.stitch import StitchConfig, largest_rectangle, stitch
from panorama.stitched_file import given_up, in_one_space, panorama_fields
from panorama.views import View, view_of
from tests.media.test_media_pictures_profile import P3, SRGB, SRGB_CURVE, profile


def texture(seed, height=640):
    """[3 H 2H] in [0, 1]: noise of several sizes that goes on around the seam."""
    rng = torch.Generator().manual_seed(seed)
    out = torch.zeros(3, height, 2 * height)
    for cells, strength in ((8, 0.25), (24, 0.3), (72, 0.35), (160, 0.3)):
        coarse = torch.rand(1, 3, cells, 2 * cells, generator=rng) - 0.5
        framed = pad(coarse, (2, 2, 0, 0), mode="circular")
        wide = interpolate(framed, (height, 2 * height + 4 * height // cells), mode="bicubic")[0]
        out += strength * wide[..., 2 * height // cells : 2 * height // cells + 2 * height]
    return (0.5 + out).clamp(0, 1)


def photo(world, name, yaw, pitch=0.0):
    """What a camera of 63 degrees sees of it."""
    seen = view_of(world, View(yaw, pitch, 1.1, 260))
    return Picture(Path(name), (seen * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


@pytest.fixture(scope="module")
def turn():
    """Ten photos of a whole turn of a world that is known, in no order."""
    photos = [photo(texture(0), f"{k}.png", math.radians(36 * k)) for k in range(10)]
    return [photos[k] for k in (4, 0, 7, 2, 9, 8, 5, 1, 3, 6)]


def test_a_full_turn_closes_to_the_pixel(turn):
    made = stitch(turn, StitchConfig())
    assert made.closed
    assert made.turn == 360
    assert sorted(made.used) == list(range(10))
    assert made.notes == ()
    height, width = made.pixels.shape[:2]
    focal = View(0.0, 0.0, 1.1, 260).focal_px
    assert width == pytest.approx(2 * math.pi * focal, rel=0.02)
    x = made.pixels.astype(float)
    inner = np.abs(np.diff(x, axis=1)).mean()
    assert np.abs(x[:, 0] - x[:, -1]).mean() < 2 * inner
    # it shows the world: the true cylinder, turned by whatever yaw the cameras were given
    lat = ((height / 2 - torch.arange(height) - 0.5) / (width / (2 * math.pi))).atan()
    rows = ((0.5 - lat / math.pi) * 640).long()
    columns = ((torch.arange(width) + 0.5) / width * 1280).long()
    truth = (texture(0)[:, rows][:, :, columns] * 255).permute(1, 2, 0).numpy()
    best = max(_alike(x, np.roll(truth, shift, 1)) for shift in range(width))
    assert best > 0.9


def _alike(a, b):
    """Correlation of the middle rows, blurred a little."""
    rows = slice(len(a) // 2 - 12, len(a) // 2 + 12)
    means = [z[rows].astype(float).reshape(4, 6, z.shape[1], 3).mean(1) for z in (a, b)]
    return np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1]


def test_part_of_a_turn_and_a_stranger(turn, monkeypatch):
    calls, matches = [], stitching._matches
    monkeypatch.setattr(stitching, "_matches", lambda features: calls.append(len(features)) or matches(features))
    stranger = photo(texture(1), "stranger.png", 0.0)
    plain = Picture(Path("plain.png"), np.full((240, 240, 3), 99, np.uint8))
    by_name = {p.path.name: p for p in turn}
    made = stitch([by_name["3.png"], stranger, by_name["1.png"], plain, by_name["2.png"]])
    assert made.used == (0, 2, 4)
    assert not made.closed
    assert 100 < made.turn < 160
    assert len(made.notes) == 2
    assert "stranger.png is left out: nothing in it is found again" in made.notes[0]
    assert "plain.png is left out: it has next to no detail" in made.notes[1]
    assert made.alpha is None
    assert calls == [4], "matched once: all but the plain one"


def through_a_lens(photo, strength):
    """The same photo with the distortion of a plain lens, which alone makes every camera look narrower than it is."""
    height, width = photo.pixels.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    more = 1 + strength * (u * u + v * v)
    at = [(z * more * side / 2 + side / 2 - 0.5).astype(np.float32) for z, side in ((u, width), (v, height))]
    return Picture(photo.path, cv2.remap(photo.pixels, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def test_a_weak_overlap_closes_a_turn_but_not_at_any_price(turn, monkeypatch):
    photos = [through_a_lens(p, 0.04) for p in sorted(turn, key=lambda p: p.path.name)]
    photos[9].pixels[70:, 130:] = 90  # little is left of what it shares with the first
    cv2.setRNGSeed(0)
    features, _ = stitching._features([stitching._bgr(p) for p in photos], RunProgress(quiet=True))
    matches = stitching._matches(features)
    assert len(stitching._links(features, matches, 1.5)) == 9
    assert len(stitching._links(features, matches, 0.75)) == 10

    def last_step():
        first, last = (stitching._cameras(features, matches, 1.5)[k].R for k in (0, 9))
        return math.degrees(math.acos((np.trace(first.T @ last) - 1) / 2))

    assert last_step() == pytest.approx(36, abs=4)
    monkeypatch.setattr(stitching, "MOST_OFF", 1e-6)
    assert last_step() > 50


def test_the_same_photo_twice(turn):
    by_name = {p.path.name: p for p in turn}
    made = stitch([by_name["3.png"], by_name["2.png"], by_name["3.png"]])
    assert made.notes == ("3.png is left out: it is the same picture as 3.png",)
    with pytest.raises(ValueError, match="got 2 times the same"):
        stitch([turn[0], turn[0]])


def test_the_border_is_cropped_filled_or_kept(turn):
    some = sorted(turn, key=lambda p: p.path.name)[1:4]
    kept = stitch(some, StitchConfig(border="keep"))
    filled = stitch(some, StitchConfig(border="fill"))
    cropped = stitch(some, StitchConfig(border="crop"))
    assert kept.alpha is not None
    assert 0.7 < (kept.alpha > 0).mean() < 1
    assert filled.pixels.shape == kept.pixels.shape
    solid = kept.alpha > 0
    assert np.array_equal(filled.pixels[solid], kept.pixels[solid])
    assert cropped.pixels.shape[0] < kept.pixels.shape[0]
    assert np.array_equal(cropped.pixels, stitch(some).pixels)  # and the same every time


def test_photos_that_cannot_be_stitched(turn):
    with pytest.raises(ValueError, match="two or more"):
        stitch(turn[:1])
    plain = [Picture(Path(f"{k}.png"), np.full((60, 80, 3), 90 + k, np.uint8)) for k in range(2)]
    with pytest.raises(ValueError, match="no two of the 2"):
        stitch(plain)


@pytest.mark.parametrize("projection", ["cylindrical", "spherical", "plane"])
def test_a_photo_that_lies_on_its_side_is_said_and_takes_no_memory(projection, monkeypatch):
    monkeypatch.setattr(stitching, "_compose", lambda *_: pytest.fail("as many gigabytes as there are"))
    rng = np.random.default_rng(0)
    wall = cv2.resize((255 * rng.random((60, 80, 3))).astype(np.uint8), (400, 300), interpolation=cv2.INTER_CUBIC)
    photos = [Picture(Path("upright.png"), wall), Picture(Path("lying.png"), np.ascontiguousarray(np.rot90(wall)))]
    with pytest.raises(ValueError, match=r"are all upright .* got (upright|lying)\.png, which would be \d+x\d+ px"):
        stitch(photos, StitchConfig(projection=projection))


def rectangle_by_loops(full, whole_width):
    height, width = full.shape
    best = (0, None)
    for top in range(height):
        for bottom in range(top + 1, height + 1):
            for left in range(width):
                for right in range(left + 1, width + 1):
                    if whole_width and right - left < width:
                        continue
                    area = (bottom - top) * (right - left)
                    if area > best[0] and full[top:bottom, left:right].all():
                        best = (area, (top, bottom, left, right))
    return best[0]


@pytest.mark.parametrize("whole_width", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_largest_rectangle_equals_trying_all(seed, whole_width):
    full = np.random.default_rng(seed).random((7, 9)) < (0.97 if whole_width else 0.75)
    full[3] |= whole_width
    top, bottom, left, right = largest_rectangle(full, whole_width=whole_width)
    assert full[top:bottom, left:right].all()
    assert (bottom - top) * (right - left) == rectangle_by_loops(full, whole_width)


def test_fields_say_which_part_of_the_turn():
    from csd3d.media.pictures.read import Tags

    whole, part = (Tags(xmp=panorama_fields(100, 800, turn, StitchConfig())) for turn in (360.0, 180.0))
    assert whole.gpano("ProjectionType") == "cylindrical"
    assert whole.gpano("FullPanoWidthPixels") == "800"
    assert part.gpano("FullPanoWidthPixels") == "1600"
    assert part.gpano("CroppedAreaLeftPixels") == "400"


@pytest.mark.usefixtures("only_toys")
def test_the_commands(turn, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(save(tmp_path / p.path.name, p.pixels)) for p in sorted(turn, key=lambda p: p.path.name)[1:4]]
    assert main(["stitch", *names, "--output", "pano.jpg"]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 photos" in printed
    assert open_picture(tmp_path / "pano.jpg").tags.gpano("ProjectionType") == "cylindrical"
    words = ["panorama", *names, "--prompt", "make it red", "--steps", "2", "--output", "red.png"]
    assert main([*words, "--run-dir", "run"]) == 0
    assert load(tmp_path / "red.png").shape == load(tmp_path / "run-stitched.png").shape
    assert main(["stitch", names[0], "--output", "a.jpg"]) == 2
    assert main(["stitch", *names, "--output", names[0]]) == 2
    assert main(["stitch", *names, "--output", "a.gif"]) == 2
    assert main(["stitch", *names, str(tmp_path / "none.jpg"), "--output", "a.jpg"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_real_turn_whose_last_overlap_is_weak(real_data):
    photos = [open_picture(p) for p in sorted((real_data / "stitching" / "openpano_apartment").glob("*.jpg"))]
    made = stitch(photos)
    assert made.closed
    assert len(made.used) == 12


def test_real_photos(real_data):
    photos = [open_picture(p) for p in sorted((real_data / "stitching" / "arches_9518").glob("*.jpg"))]
    made = stitch(photos)
    assert made.used == (0, 1, 2)
    height, width = made.pixels.shape[:2]
    assert 1300 < width < 1600
    assert 350 < height < 520


def test_it_is_said_what_the_photos_have_and_the_panorama_has_not():
    deep = Picture(Path("a.png"), np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4), np.uint16))
    tagged = Picture(Path("b.jpg"), np.zeros((4, 4, 3), np.uint8), tags=Tags(exif=b"Exif"))
    assert [note.split()[-1] for note in given_up([deep])] == ["8", "out"]
    assert "EXIF" in given_up([tagged])[0]
    assert not given_up([Picture(Path("c.png"), np.zeros((4, 4, 3), np.uint8))])


def test_photos_of_different_colours_are_joined_in_srgb():
    """(32, 192, 64) in Display P3 is (0, 195, 32) in sRGB."""
    p3, srgb = profile(P3, SRGB_CURVE), profile(SRGB, SRGB_CURVE)
    green = np.full((8, 8, 3), (32, 192, 64), np.uint8)
    photos = [Picture(Path("a.jpg"), green, tags=Tags(icc=icc)) for icc in (b"", p3, srgb, b"tables")]
    joined, notes = in_one_space(photos)
    assert [tuple(photo.pixels[0, 0]) for photo in joined] == [
        (32, 192, 64),
        (0, 195, 32),
        (32, 192, 64),
        (32, 192, 64),
    ]
    assert {photo.tags.icc for photo in joined} == {b""}
    assert notes == [
        "photos of different colour profiles are joined in sRGB", "a colour profile that is no simple one is left out"
    ]  # fmt: skip
    same, notes = in_one_space(photos[1:2] * 2)
    assert (same[0].tags.icc, notes) == (p3, [])
    assert np.array_equal(same[0].pixels, green)
