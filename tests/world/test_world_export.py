"""Files: other programs read them, they hold what was rendered, and they appear whole or not at all."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.world.camera import sphere_camera, strip_camera
from csd3d.world.edits import Edit, find_edit
from csd3d.world.export import (
    gpano_packet,
    transforms,
    truth_path,
    write_clip,
    write_panorama,
    write_photo,
    write_scene,
)
from csd3d.world.sample import sample_clip, sample_panorama, sample_photo, sample_scene

NIGHT = find_edit("make it night")


def levels(rgb: torch.Tensor) -> np.ndarray:
    return (rgb * 255).round().byte().permute(0, 2, 3, 1).numpy()


def read_clip(path: Path) -> tuple[np.ndarray, Fraction, list[Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(f.to_ndarray(format="rgb24"), f.pts * f.time_base) for f in container.decode(stream)]
        assert stream.average_rate is not None
        return np.stack([f for f, _ in frames]), stream.average_rate, [t for _, t in frames]


def mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a.astype(float) - b.astype(float)) ** 2).mean())


@pytest.mark.parametrize(("fps", "rate"), [(12.0, Fraction(12)), (29.97, Fraction(2997, 100))])
def test_a_clip_and_its_truth_have_every_frame_at_its_time(tmp_path: Path, fps: float, rate: Fraction) -> None:
    clip = sample_clip(3, frames=7, height_px=48, width_px=64, fps=fps)
    ticks: list[int] = []
    out = tmp_path / "new" / "clip.mp4"
    assert write_clip(clip, out, edit=NIGHT, tick=ticks.append) == [out, out.with_name("clip.truth.mp4")]
    assert sum(ticks) == 14
    for path, expected in ((out, clip.source()), (truth_path(out), clip.truth(NIGHT))):
        frames, found, times = read_clip(path)
        assert frames.shape == (7, 48, 64, 3)
        assert found == rate
        assert times == [i / rate for i in range(7)]
        assert mse(frames, levels(expected)) < 20  # 35 dB
    assert sorted(p.name for p in out.parent.iterdir()) == ["clip.mp4", "clip.truth.mp4"]
    with av.open(str(truth_path(out))) as container:
        assert "at night" in container.metadata["title"]


def test_colours_survive_and_odd_sizes_are_kept(tmp_path: Path) -> None:
    clip = sample_clip(7, frames=2, height_px=33, width_px=47)
    write_clip(clip, tmp_path / "odd.mp4", crf=1)
    frames, _, _ = read_clip(tmp_path / "odd.mp4")
    assert frames.shape == (2, 33, 47, 3)
    assert mse(frames, levels(clip.source())) < 4  # 42 dB: the matrix of the colours is the one that is tagged
    with av.open(str(tmp_path / "odd.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_range) == (1, 1, 1)  # BT.709, limited range


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    clip = sample_clip(1, frames=3, height_px=32, width_px=32)
    for name in "ab":
        write_clip(clip, tmp_path / f"{name}.mp4")
        write_photo(sample_photo(1, height_px=16, width_px=16), tmp_path / f"{name}.png")
    for suffix in ("mp4", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_posed_scene_is_what_nerfstudio_reads(tmp_path: Path) -> None:
    scene = sample_scene(4, train_views=5, test_views=2, height_px=24, width_px=32)
    out = tmp_path / "scene"
    ticks: list[int] = []
    assert write_scene(scene, out, edit=NIGHT, tick=ticks.append) == [out, out / "truth"]
    assert sum(ticks) == 14
    for folder, train, test in (
        (out, scene.train.source(), scene.test.source()),
        (out / "truth", scene.train.truth(NIGHT), scene.test.truth(NIGHT)),
    ):
        meta = json.loads((folder / "transforms.json").read_text())
        names = [f["file_path"] for f in meta["frames"]]
        assert names == meta["train_filenames"] + meta["test_filenames"]
        assert meta["val_filenames"] == meta["test_filenames"]
        assert (len(meta["train_filenames"]), len(meta["test_filenames"])) == (5, 2)
        assert sorted(str(p.relative_to(folder)) for p in (folder / "images").iterdir()) == sorted(names)
        found = np.stack([np.array(Image.open(folder / n)) for n in names])
        assert np.array_equal(found, levels(torch.cat([train, test])))
        assert (meta["w"], meta["h"], meta["cx"], meta["cy"]) == (32, 24, 16, 12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene"]


def test_poses_and_intrinsics_project_points_to_where_they_are_seen() -> None:
    """With nothing but transforms.json: a pixel of view 0 at its depth lands in view 3 where the flow says."""
    scene = sample_scene(4, train_views=5, test_views=2, height_px=24, width_px=32)
    meta = json.loads(json.dumps(transforms(scene)))
    first, other = (np.array(meta["frames"][i]["transform_matrix"]) for i in (0, 3))
    flow, seen = scene.train.flow(0, 3), scene.train.surfaces(0, 1)
    checked = 0
    for y in range(24):
        for x in range(32):
            if not flow.visible[y, x] or not seen.depth[0, y, x] < 30:
                continue
            ray = np.array([(x + 0.5 - meta["cx"]) / meta["fl_x"], -(y + 0.5 - meta["cy"]) / meta["fl_y"], -1.0])
            point = first @ np.append(ray / np.linalg.norm(ray) * seen.depth[0, y, x].item(), 1.0)
            u, v, w, _ = np.linalg.inv(other) @ point
            position = (meta["cx"] + meta["fl_x"] * u / -w, meta["cy"] - meta["fl_y"] * v / -w)
            moved = flow.flow[:, y, x].tolist()
            assert position == pytest.approx((x + 0.5 + moved[0], y + 0.5 + moved[1]), abs=5e-3)
            checked += 1
    assert checked > 100


def gpano(path: Path) -> dict[str, str]:
    packet = Image.open(path).info["xmp"].decode()
    return dict(re.findall(r'GPano:(\w+)="([^"]*)"', packet))


def test_a_sphere_carries_the_tags_of_a_full_panorama(tmp_path: Path) -> None:
    views = sample_panorama(2, height_px=48)
    out = tmp_path / "pano.jpg"
    assert write_panorama(views, out, edit=NIGHT) == [out, tmp_path / "pano.truth.jpg"]
    for path, expected in ((out, views.source()), (truth_path(out), views.truth(NIGHT))):
        tags = gpano(path)
        assert tags["ProjectionType"] == "equirectangular"
        assert (tags["FullPanoWidthPixels"], tags["FullPanoHeightPixels"]) == ("96", "48")
        assert (tags["CroppedAreaImageWidthPixels"], tags["CroppedAreaImageHeightPixels"]) == ("96", "48")
        assert (tags["CroppedAreaLeftPixels"], tags["CroppedAreaTopPixels"]) == ("0", "0")
        assert mse(np.array(Image.open(path)), levels(expected)[0]) < 10
    assert out.read_bytes()[:4] == b"\xff\xd8\xff\xe0"  # JFIF comes first, then the packet
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pano.jpg", "pano.truth.jpg"]


def test_tags_tell_a_strip_from_a_full_turn() -> None:
    def width(camera) -> tuple[int, int]:
        packet = gpano_packet(camera)
        found = {
            k: int(re.findall(rf'GPano:{k}="(\d+)"', packet)[0])
            for k in ("FullPanoWidthPixels", "CroppedAreaLeftPixels")
        }
        return found["FullPanoWidthPixels"], found["CroppedAreaLeftPixels"]

    strip = strip_camera(40, turn=90.0)
    assert width(strip)[0] == pytest.approx(4 * strip.width_px, abs=3)
    assert width(strip)[1] == (width(strip)[0] - strip.width_px) // 2
    whole = strip_camera(40, turn=360.0)
    assert width(whole) == (whole.width_px, 0)
    assert width(sphere_camera(20)) == (40, 0)


def test_a_photo_is_exact_and_says_what_it_shows(tmp_path: Path) -> None:
    photo = sample_photo(4, height_px=20, width_px=30)
    sketch = find_edit("make it a pencil sketch")
    written = write_photo(photo, tmp_path / "p.png", edit=sketch)
    for path, expected, caption in zip(
        written, (photo.source(), photo.truth(sketch)), sketch.captions(photo.scene), strict=True
    ):
        picture = Image.open(path)
        assert np.array_equal(np.array(picture), levels(expected)[0])
        assert picture.info["Title"] == caption
    assert write_photo(photo, tmp_path / "q.png") == [tmp_path / "q.png"]


def failing(picture):
    raise RuntimeError("disk full")


FAILING = replace(find_edit("make it sepia"), on_pixels=failing)


@pytest.mark.parametrize("what", ["clip", "scene", "panorama", "photo"])
def test_a_failure_leaves_nothing_half_written(tmp_path: Path, what: str) -> None:
    small: dict[str, Any] = {"height_px": 16, "width_px": 16}
    writers = {
        "clip": lambda e: write_clip(sample_clip(1, frames=2, **small), tmp_path / "a.mp4", edit=e),
        "scene": lambda e: write_scene(sample_scene(1, train_views=2, test_views=1, **small), tmp_path / "a", edit=e),
        "panorama": lambda e: write_panorama(sample_panorama(1, height_px=16), tmp_path / "a.jpg", edit=e),
        "photo": lambda e: write_photo(sample_photo(1, **small), tmp_path / "a.png", edit=e),
    }
    with pytest.raises(RuntimeError, match="disk full"):
        writers[what](FAILING)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == {"clip": ["a.mp4"], "scene": [], "panorama": ["a.jpg"], "photo": ["a.png"]}[what]
    writers[what](None)
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    photo = sample_photo(1, height_px=16, width_px=16)
    with pytest.raises(ValueError, match=r"expected a name ending in \.png, got"):
        write_photo(photo, tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"expected a name ending in \.jpg or \.jpeg, got"):
        write_panorama(photo, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected a name ending in \.mp4"):
        write_clip(sample_clip(1, frames=1), tmp_path / "a.avi")
    scene = sample_scene(1, train_views=1, test_views=1, height_px=16, width_px=16)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("full", "file"):
        with pytest.raises(ValueError, match="expected a new or empty folder, got"):
            write_scene(scene, tmp_path / name)
    (tmp_path / "empty").mkdir()
    write_scene(scene, tmp_path / "empty")
    assert (tmp_path / "empty" / "transforms.json").is_file()
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_places_are_looked_at_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    (tmp_path / "a.truth.png").mkdir()
    seen: list[int] = []
    photo = sample_photo(1, height_px=16, width_px=16)
    scene = sample_scene(1, train_views=1, test_views=1, height_px=16, width_px=16)
    for write in (
        lambda: write_photo(photo, tmp_path / "file" / "a.png", tick=seen.append),
        lambda: write_photo(photo, tmp_path / "a.png", edit=NIGHT, tick=seen.append),
        lambda: write_panorama(photo, tmp_path / ("x" * 250 + ".jpg"), tick=seen.append),
        lambda: write_clip(sample_clip(1, frames=1), tmp_path / "file" / "a.mp4", tick=seen.append),
        lambda: write_scene(scene, tmp_path / "file" / "scene", tick=seen.append),
    ):
        with pytest.raises(ValueError, match="output: expected"):
            write()
    assert seen == []
    assert {p.name for p in tmp_path.iterdir()} == {"file", "a.truth.png"}


def test_an_edit_is_an_edit() -> None:
    assert isinstance(FAILING, Edit)
