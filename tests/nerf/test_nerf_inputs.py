"""Scenes as people have them: each works, or is refused in one line before anything is done. Needs nerfstudio."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf.checkpoints import load_checkpoint
from csd3d.nerf.starts import require_steps
from tests.nerf.tiny import PX, config_for, trainer_for

pytestmark = pytest.mark.slow


@pytest.fixture
def scene(scene: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(scene, tmp_path / "scene"))


def change(scene: Path, how: Callable[[dict[str, Any]], object]) -> Path:
    """Change the scene's transforms.json."""
    path = scene / "transforms.json"
    about = json.loads(path.read_text())
    how(about)
    path.write_text(json.dumps(about))
    return scene


def edited(scene: Path, prior: Path, out: Path, **changes: object) -> Any:
    """A trainer that has edited one batch of views."""
    trainer = trainer_for(config_for(scene, prior, out, **changes))
    trainer.train_iteration(4)
    assert trainer.pipeline.history.edited()
    return trainer


def refusal(scene: Path, prior: Path, out: Path, capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    """The line that a start ends with, which leaves nothing behind."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        trainer_for(config_for(scene, prior, out, **changes))
    assert end.value.code == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.count("csd-edit: ") == 1
    return error[error.index("csd-edit: ") :]


def test_transparent_pictures_are_composited_as_training_sees_them(scene: Path, prior: Path, tmp_path: Path) -> None:
    for path in (scene / "images").iterdir():
        picture = Image.open(path).convert("RGB")
        alpha = Image.new("L", picture.size, 255)
        alpha.paste(0, (0, 0, PX // 2, PX))
        picture.paste((255, 0, 255), (0, 0, PX // 2, PX))  # rubbish under the transparency
        picture.putalpha(alpha)
        picture.save(path)
    data = edited(scene, prior, tmp_path / "out").pipeline.datamanager
    assert data.photographs.shape[1] == data._images.shape[-1] == 3
    assert not data.photographs[..., : PX // 2].any()
    assert data.photographs[..., PX // 2 :].any()
    batch = data.next_eval(0)[1]
    assert batch["image"].shape[-1] == 3


def test_views_of_fisheye_cameras_are_coupled_pixel_by_pixel(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(scene, lambda about: about.update(camera_model="OPENCV_FISHEYE", k1=0.01))
    line = refusal(scene, prior, tmp_path / "out", capsys, coupling="depth")
    assert "coupling: expected svgd, paper or independent for fisheye and panoramic cameras, got depth" in line
    by_default = edited(scene, prior, tmp_path / "default").pipeline
    assert "views are coupled pixel by pixel" in capsys.readouterr().out
    by_pixel = edited(scene, prior, tmp_path / "svgd", coupling="svgd").pipeline
    assert torch.equal(by_default.datamanager._images, by_pixel.datamanager._images)


def test_pictures_that_lie_down_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for path in (scene / "images").iterdir():
        Image.open(path).resize((PX, PX - 8)).save(path, exif=exif)
    line = refusal(scene, prior, tmp_path / "out", capsys)
    assert f"expected pictures of the size of their cameras, {PX}x{PX} px, got {PX}x{PX - 8} px in" in line
    assert "EXIF orientation 8" in line


def flatten(about: dict[str, Any]) -> None:
    """Poses that have no up."""
    for frame in about["frames"]:
        frame["transform_matrix"] = [[0.0, 0.0, 0.0, row[3]] for row in frame["transform_matrix"]]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda about: about.pop("h"), "expected a number above 0 for h"),
        (lambda about: about.pop("frames"), "expected a list of frames"),
        (lambda about: about.update(fl_x=0), "expected a number above 0 for fl_x"),
        (lambda about: about.update(train_filenames=["images/nowhere.png"]), "nerfstudio cannot use"),
        (lambda about: about.update(train_filenames=[]), "expected at least 3 training views, got 0"),
        (lambda about: about.update(orientation_override="upside"), "scene (Unknown value for method: upside)"),
        (lambda about: about.update(camera_model="SPHERE9"), "nerfstudio cannot use"),
        (lambda about: about.update(camera_model=["OPENCV"]), "nerfstudio cannot use"),
        (lambda about: about.update(k1=float("nan")), "expected a finite number for k1, got nan"),
        (flatten, "expected finite numbers for camera_to_worlds of all cameras"),
    ],
)
def test_transforms_that_make_no_scene_are_refused(
    how: Callable[[dict[str, Any]], object],
    message: str,
    scene: Path,
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refusal(change(scene, how), prior, tmp_path / "out", capsys)


def test_transforms_that_nerfstudio_cannot_decode_are_named(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scene / "transforms.json"
    path.write_text("\ufeff" + path.read_text())
    assert f"data: nerfstudio cannot use {scene} (Unexpected UTF-8 BOM" in refusal(scene, prior, tmp_path / "o", capsys)


def test_every_frame_may_have_a_camera_of_its_own_and_a_name_with_spaces(
    scene: Path, prior: Path, tmp_path: Path
) -> None:
    def of_its_own(about: dict[str, Any]) -> None:
        for i, frame in enumerate(about["frames"]):
            frame.update({key: about[key] for key in ("w", "h", "fl_y", "cx", "cy")}, fl_x=about["fl_x"] + i)
            old = scene / frame["file_path"]
            frame["file_path"] = f"images/{old.stem} of the garden.png"
            old.rename(scene / frame["file_path"])
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            del about[key]

        for split in ("train", "val", "test"):
            names = about.get(f"{split}_filenames")
            if names is not None:
                about[f"{split}_filenames"] = [f"images/{Path(n).stem} of the garden.png" for n in names]

    trainer = edited(change(scene, of_its_own), prior, tmp_path / "out")
    trainer.pipeline.history.publish_in(tmp_path / "views")
    assert len(list((tmp_path / "views").glob("* of the garden.png"))) == 4


def test_masks_of_a_rig_are_found_by_folder_and_name(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_cameras(about: dict[str, Any]) -> None:
        for side in ("left", "right"):
            (scene / side).mkdir()
        moved = {}
        for i, frame in enumerate(sorted(about["frames"], key=lambda frame: frame["file_path"])):
            name = f"{('left', 'right')[i % 2]}/{i // 2:04d}.png"
            shutil.move(scene / frame["file_path"], scene / name)
            moved[frame["file_path"]] = frame["file_path"] = name
        for split in ("train", "val", "test"):
            if f"{split}_filenames" in about:
                about[f"{split}_filenames"] = [moved[name] for name in about[f"{split}_filenames"]]

    change(scene, two_cameras)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (PX, PX), 0).save(masks / "0000.png")  # of which camera?
    line = refusal(scene, prior, tmp_path / "out", capsys, mask_dir=masks)
    assert "mask-dir: expected masks named as the images, such as left/0001.png, got none" in line
    for side in ("left", "right"):
        (masks / side).mkdir()
    for path in (masks / "left" / "0000.png", masks / "right" / "0001.png"):
        Image.new("L", (PX, PX), 0).save(path)
    pipeline = trainer_for(config_for(scene, prior, tmp_path / "out", mask_dir=masks)).pipeline
    black = [not mask.any() for mask in pipeline.scene.region.masks]
    names = [f"{p.parent.name}/{p.name}" for p in pipeline.datamanager.train_dataset.image_filenames]
    assert {name for name, is_black in zip(names, black, strict=True) if is_black} == {
        "left/0000.png",
        "right/0001.png",
    } & set(names)
    assert any(black)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt: expected a sentence, got ''"),
        ({"max_num_iterations": 4}, "max-num-iterations: expected more than the 4 of --pipeline.scene-steps"),
        (
            {"prompt": None, "max_num_iterations": 5},
            "prompt: expected --pipeline.prompt, got none, and --vis tensorboard has",
        ),
    ],
)
def test_what_would_edit_nothing_is_refused(
    changes: dict[str, object],
    message: str,
    scene: Path,
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refusal(scene, prior, tmp_path / "out", capsys, **changes)


def test_the_prompt_of_nerfstudio_is_ours_too(scene: Path, prior: Path, tmp_path: Path) -> None:
    config: Any = config_for(scene, prior, tmp_path / "out", prompt=None, max_num_iterations=9)
    config.pipeline.model.prompt = "make it night"  # what ns-train makes of --prompt
    assert trainer_for(config).pipeline.current.prompt == "make it night"


def test_two_different_prompts_are_refused(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = config_for(scene, prior, tmp_path / "out", prompt=None)
    config.pipeline.model.prompt = ""
    with pytest.raises(ValueError, match="prompt: expected a sentence"):
        config.pipeline.check()
    config: Any = config_for(scene, prior, tmp_path / "out")
    config.pipeline.model.prompt = "make it so"
    with pytest.raises(SystemExit):
        trainer_for(config)
    said = capsys.readouterr().err
    assert "prompt: expected the same as --prompt, 'make it so', got 'make it snowy'" in said
    assert not (tmp_path / "out").exists()


def test_a_prompt_can_come_from_the_viewer_or_later(
    scene: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_a_viewer = config_for(
        scene, prior, tmp_path / "out", prompt=None, vis="viewer+tensorboard", max_num_iterations=9
    )
    require_steps(in_a_viewer)
    assert "no prompt: nothing is edited until one is typed in the viewer" in capsys.readouterr().out
    alone = trainer_for(config_for(scene, prior, tmp_path / "out", prompt=None, scene_steps=2, max_num_iterations=2))
    alone.train()
    path = alone.checkpoint_dir / "step-000000001.ckpt"
    state = load_checkpoint(path)
    del state["csd3d"]  # as of a plain method
    torch.save(state, path)
    line = refusal(scene, prior, tmp_path / "next", capsys, prompt=None, load_dir=path.parent)
    assert "prompt: expected --pipeline.prompt, got none" in line
