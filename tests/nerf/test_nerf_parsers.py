"""Scenes in COLMAP's and Blender's layouts, panoramic cameras, and masks of pictures. Needs nerfstudio."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

from tests.nerf.test_nerf_inputs import edited, refusal
from tests.nerf.tiny import PX

pytestmark = pytest.mark.slow

PINHOLE = f"PINHOLE {PX} {PX} 30 30 16 16"
POINT = "1 0.1 0.2 0.3 255 0 0 0.5 1 0\n"


def about(scene: Path) -> dict[str, Any]:
    """Its transforms.json."""
    return json.loads((scene / "transforms.json").read_text())


def quaternion(rotation: torch.Tensor) -> list[float]:
    """w, x, y, z of a rotation that is no half turn about an axis: its eigenvector of eigenvalue 1, and its trace."""
    r: list[list[float]] = rotation.tolist()
    w = math.sqrt(max(0.0, 1 + r[0][0] + r[1][1] + r[2][2])) / 2
    x, y, z = (r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1])
    return [w, x / (4 * w), y / (4 * w), z / (4 * w)]


def colmap(scene: Path, out: Path, camera: str, rename: Callable[[str], str] = lambda name: name) -> Path:
    """A scene as COLMAP leaves it, as text; `camera`: model, size and parameters of them all."""
    sparse = out / "colmap" / "sparse" / "0"
    sparse.mkdir(parents=True)
    (out / "images").mkdir()
    (sparse / "cameras.txt").write_text(f"# cameras\n1 {camera}\n")
    (sparse / "points3D.txt").write_text(POINT)
    lines = ["# images"]
    for number, frame in enumerate(about(scene)["frames"], start=1):
        c2w = torch.tensor(frame["transform_matrix"]).double()[:3] * torch.tensor([1.0, -1, -1, 1])
        rotation = c2w[:, :3].T
        where = (-rotation @ c2w[:, 3]).tolist()
        name = rename(Path(frame["file_path"]).name)
        (out / "images" / name).write_bytes((scene / frame["file_path"]).read_bytes())
        lines += [" ".join(map(str, [number, *quaternion(rotation), *where, 1, name])), ""]
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    return out


def blender(scene: Path, out: Path) -> Path:
    """A scene as Blender's synthetic ones are."""
    found = about(scene)
    angle = 2 * math.atan(found["w"] / 2 / found["fl_x"])
    for split in ("train", "val", "test"):
        (out / split).mkdir(parents=True)
        frames = []
        for i, frame in enumerate(f for f in found["frames"] if Path(f["file_path"]).name.startswith("train")):
            picture = Image.open(scene / frame["file_path"]).convert("RGBA")
            picture.putpixel((0, 0), (255, 0, 255, 0))
            picture.save(out / split / f"r {i}.png")
            frames.append({"file_path": f"./{split}/r {i}", "transform_matrix": frame["transform_matrix"]})
        (out / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return out


PINHOLE = f"PINHOLE {PX} {PX} 30 30 16 16"


def test_a_scene_of_colmap_is_edited_by_depth(scene: Path, prior: Path, tmp_path: Path) -> None:
    made = colmap(scene, tmp_path / "my scene", PINHOLE)
    pipeline = edited(made, prior, tmp_path / "out", dataparser=ColmapDataParserConfig()).pipeline
    assert pipeline.scene.perspective
    assert len(pipeline.history.photographs) == 7  # one of eight is held out
    assert pipeline.scene.cameras.fx.unique().tolist() == [30.0]


def test_fisheyes_of_colmap_are_coupled_pixel_by_pixel(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = colmap(scene, tmp_path / "data", f"OPENCV_FISHEYE {PX} {PX} 30 30 16 16 0.01 0 0 0")
    pipeline = edited(made, prior, tmp_path / "out", dataparser=ColmapDataParserConfig(load_3D_points=False)).pipeline
    assert not pipeline.scene.perspective
    assert "views are coupled pixel by pixel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("camera", "spoil", "message"),
    [
        (f"FOV {PX} {PX} 30 30 16 16 0.9", None, "nerfstudio cannot use"),
        (f"PINHOLE {PX + 8} {PX} 30 30 16 16", None, f"expected pictures of the size of their cameras, {PX + 8}x{PX}"),
        (PINHOLE, "points3D", "expected points in"),
        (PINHOLE, "cameras", "expected cameras.txt or cameras.bin in"),
    ],
)
def test_what_colmap_has_not_finished_is_refused(
    camera: str,
    spoil: str | None,
    message: str,
    scene: Path,
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = colmap(scene, tmp_path / "data", camera)
    sparse = made / "colmap" / "sparse" / "0"
    if spoil == "points3D":
        (sparse / "points3D.txt").write_text("# points\n\n")
    elif spoil:
        (sparse / f"{spoil}.txt").unlink()
    assert message in refusal(made, prior, tmp_path / "out", capsys, dataparser=ColmapDataParserConfig())


def test_names_with_spaces_which_colmap_cannot_write_as_text_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = colmap(scene, tmp_path / "data", PINHOLE, lambda name: f"my {name}")
    line = refusal(made, prior, tmp_path / "out", capsys, dataparser=ColmapDataParserConfig())
    assert "images/my: No such file or directory" in line


def test_pictures_that_nerfstudio_asks_about_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nerfstudio.data.dataparsers.colmap_dataparser.MAX_AUTO_RESOLUTION", PX - 1)

    def nobody(*_: object, **__: object) -> bool:
        raise EOFError

    monkeypatch.setattr("nerfstudio.data.dataparsers.colmap_dataparser.Confirm.ask", nobody)
    made = colmap(scene, tmp_path / "data", PINHOLE)
    line = refusal(made, prior, tmp_path / "out", capsys, dataparser=ColmapDataParserConfig())
    assert "got larger ones, which nerfstudio asks whether to scale down" in line


def test_a_scene_of_blender_is_composited_on_its_colour(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = blender(scene, tmp_path / "my scene")
    pipeline = edited(made, prior, tmp_path / "out", dataparser=BlenderDataParserConfig()).pipeline
    assert (pipeline.history.photographs[:, :, 0, 0] == 1).all()  # white, as that parser has it
    assert "composited on RGB 1 1 1" in capsys.readouterr().out
    assert pipeline.scene.cameras.fx.dtype == torch.float32
    pipeline.history.publish_in(tmp_path / "views")
    assert len(list((tmp_path / "views").glob("r ?.png"))) == 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "transforms_train.json").unlink(), "transforms_train.json: No such file"),
        (lambda folder: (folder / "train" / "r 1.png").unlink(), "r 1.png cannot be read as a picture"),
        (lambda folder: (folder / "transforms_train.json").write_text('{"frames": []}'), "nerfstudio cannot use"),
        (
            lambda folder: Image.new("RGB", (PX, PX - 8)).save(folder / "train" / "r 1.png"),
            f"expected pictures of the size of their cameras, {PX}x{PX} px, got {PX}x{PX - 8} px",
        ),
    ],
)
def test_what_is_no_scene_of_blender_is_refused(
    spoil: Callable[[Path], object],
    message: str,
    scene: Path,
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = blender(scene, tmp_path / "data")
    spoil(made)
    assert message in refusal(made, prior, tmp_path / "out", capsys, dataparser=BlenderDataParserConfig())


def test_panoramic_cameras_are_coupled_pixel_by_pixel(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = about(scene)
    found["camera_model"] = "EQUIRECTANGULAR"
    made = Path(shutil.copytree(scene, tmp_path / "scene"))
    (made / "transforms.json").write_text(json.dumps(found))
    pipeline = edited(made, prior, tmp_path / "out").pipeline
    assert not pipeline.scene.perspective
    assert "views are coupled pixel by pixel" in capsys.readouterr().out


def test_training_sees_no_ray_outside_of_the_masks_of_pictures(scene: Path, prior: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(scene, tmp_path / "scene"))
    found = about(made)
    mask = np.zeros((PX, PX), dtype=np.uint8)
    mask[: PX // 2] = 255
    for frame in found["frames"]:
        path = made / frame["file_path"]
        picture = Image.open(path).convert("RGBA")
        picture.putalpha(Image.fromarray(mask))
        picture.save(path)
        frame["mask_path"] = f"my masks/{path.name}"
        (made / "my masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(made / frame["mask_path"])
    (made / "transforms.json").write_text(json.dumps(found))
    data = edited(made, prior, tmp_path / "out").pipeline.datamanager
    assert not data.photographs[:, :, PX // 2 :].any()
    _, seen = data.next_train(5)
    assert (seen["indices"][:, 1] < PX // 2).all()
