"""Edits of one object only: a box in a scene whose exact depth is known, masks, and what holds the rest. Needs
nerfstudio."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.nerf import scene as scenes
from csd3d.nerf.masks import read_masks
from csd3d.nerf.scene import Scene
from csd3d.world.sample import PosedScene, sample_scene
from tests.nerf.tiny import PX, ToyEditor, config_for, trainer_for, write_small_scene

pytestmark = pytest.mark.slow

Look = tuple[int, tuple[slice, slice], torch.Tensor]
"""A view, the window of it, and what the field shows there."""
THING = 2
"""The object that is edited."""
FAR = 1e4
"""Distance of the sky."""


def darker(rgb: torch.Tensor) -> torch.Tensor:
    """An edit that changes every pixel that is not black."""
    return rgb * 0.4


@dataclass(frozen=True)
class Exact:
    """What is known of a scene, in the coordinates that nerfstudio gives it."""

    folder: Path
    distances: torch.Tensor
    points: torch.Tensor
    of_thing: torch.Tensor
    """Which pixels show the object."""
    box: tuple[float, ...]
    """Holds the object, and nothing of others."""


def point(posed: PosedScene, view: int, y: int, x: int, distance: float, to_scene: Any) -> list[float]:
    """Where the pixel in row y and column x of a view is in the scene: with numbers, and without any code of ours."""
    camera = posed.train.cameras[view]
    half = math.tan(math.radians(camera.fov) / 2)
    local = [half * (2 * (x + 0.5) / PX - 1), half * (1 - 2 * (y + 0.5) / PX), -1.0]
    length = math.sqrt(sum(v * v for v in local))
    pose, transform = camera.c2w.tolist(), to_scene.dataparser_transform.tolist()
    world = [pose[i][3] + distance * sum(pose[i][k] * local[k] for k in range(3)) / length for i in range(3)]  # metres
    return [
        to_scene.dataparser_scale * (sum(transform[i][k] * world[k] for k in range(3)) + transform[i][3])
        for i in range(3)
    ]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Exact:
    folder = write_small_scene(tmp_path_factory.mktemp("scenes") / "small")
    posed = sample_scene(8, train_views=6, test_views=2, height_px=PX, width_px=PX)
    data = trainer_for(config_for(folder, folder, folder.parent, prompt=None, prior="builtin")).pipeline.datamanager
    found = data.train_dataparser_outputs
    surfaces = posed.train.surfaces()
    depth = surfaces.depth.clamp_max(FAR)
    points = torch.tensor(
        [
            [[point(posed, v, y, x, float(depth[v, y, x]), found) for x in range(PX)] for y in range(PX)]
            for v in range(6)
        ]
    )
    of_thing = surfaces.ids == 2 + THING
    low, high = (points[of_thing].amin(0) - 0.01).tolist(), (points[of_thing].amax(0) + 0.01).tolist()
    return Exact(folder, depth[:, None] * found.dataparser_scale, points, of_thing, (*low, *high))


def in_box_by_loops(exact: Exact) -> torch.Tensor:
    """Which pixels' points lie in the box."""
    low, high = exact.box[:3], exact.box[3:]

    def inside(p: list[float]) -> bool:
        return all(least <= value <= most for least, value, most in zip(low, p, high, strict=True))

    return torch.tensor([[[inside(p) for p in row] for row in view] for view in exact.points.tolist()])


def pipeline_for(exact: Exact, out: Path, **changes: object) -> Any:
    """A pipeline with an editor that darkens."""
    settings: dict[str, object] = {"prompt": None, "prior": "builtin", "box": exact.box, "views_per_edit": 6} | changes
    pipeline = trainer_for(config_for(exact.folder, out, out, **settings)).pipeline
    pipeline.current.prior, pipeline.current.prompt = ToyEditor(darker), "make it darker"
    return pipeline


def test_a_box_changes_what_lies_in_it_and_not_a_bit_of_the_rest(
    exact: Exact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_for(exact, tmp_path, edit_steps=8)
    data = pipeline.datamanager
    monkeypatch.setattr(Scene, "render", lambda self, views, *_: (data.photographs[views], exact.distances[views]))
    inside = in_box_by_loops(exact)
    assert torch.equal(pipeline.scene.inside(list(range(6)), exact.distances)[:, 0], inside)
    assert (inside & exact.of_thing).sum() == exact.of_thing.sum()
    pipeline.driver.edit(0)
    changed = (data._images[..., :3] != data.photographs.permute(0, 2, 3, 1)).any(dim=-1)
    assert not changed[~inside].any()
    assert changed[inside].float().mean() > 0.99
    assert inside.sum() > 300


@pytest.fixture
def looks(exact: Exact, monkeypatch: pytest.MonkeyPatch) -> list[Look]:
    """The renders of distillation; what they show is where it exactly is."""
    found: list[Look] = []
    real = scenes.look

    def look(model: Any, camera: Any, view: int, window: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rgb, _ = real(model, camera, view, window)
        rgb.retain_grad()
        found.append((view, window, rgb))
        return rgb, exact.points[view][window]

    monkeypatch.setattr(scenes, "look", look)
    return found


@pytest.mark.parametrize("patches", [False, True])
def test_no_gradient_of_distillation_arrives_outside_of_the_box(
    patches: bool, exact: Exact, looks: list[Look], tmp_path: Path
) -> None:
    pipeline = pipeline_for(
        exact,
        tmp_path,
        driver="distil",
        scene_steps=0,
        distil_views=6,
        distil_px=16 if patches else PX,
        distil_patches=patches,
    )
    for step in range(3):
        pipeline.get_train_loss_dict(step)[1]["csd_loss"].backward()
    inside = in_box_by_loops(exact)
    arrived, could = 0, 0
    for view, window, rgb in looks:
        assert rgb.grad is not None
        there = inside[view][window]
        assert not rgb.grad[:, ~there].any()
        arrived += int((rgb.grad[:, there] != 0).any(dim=0).sum())
        could += int(there.sum())
    assert len(looks) == 18
    assert arrived > 0.9 * could > 100


def masks_in(folder: Path, masks: torch.Tensor) -> Path:
    """Masks of the first views as files."""
    folder.mkdir()
    for view, white in enumerate(masks):
        Image.fromarray((white * 255).to(torch.uint8).numpy()).save(folder / f"train_{view:04d}.png")
    return folder


@pytest.mark.parametrize(("masked", "boxed"), [(True, False), (False, True), (True, True)])
def test_the_photographs_go_on_holding_what_is_outside(masked: bool, boxed: bool, exact: Exact, tmp_path: Path) -> None:
    white = torch.rand(5, PX, PX, generator=torch.Generator().manual_seed(0)) < 0.5  # the sixth view has no mask
    pipeline = pipeline_for(
        exact,
        tmp_path,
        driver="distil",
        scene_steps=0,
        distil_px=16,
        distil_views=1,
        box=(-9.0, -9.0, -0.2, 9.0, 0.9, 9.0) if boxed else None,
        mask_dir=masks_in(tmp_path / "masks", white) if masked else None,
    )
    outputs, losses, _ = pipeline.get_train_loss_dict(0)
    data = pipeline.datamanager
    total, outside = 0.0, 0
    for i, (view, y, x) in enumerate(data.seen["indices"].tolist()):
        at = data.rays.origins[i] + data.rays.directions[i] * outputs["depth"][i]
        in_mask = not masked or view == 5 or bool(white[view, y, x])
        in_box = not boxed or (at[1] <= 0.9 and at[2] >= -0.2)
        if not (in_mask and in_box):
            outside += 1
            total += float((outputs["rgb"][i] - data.seen["image"][i]).square().sum())
    assert 0 < outside < 64
    assert float(losses["rgb_loss"]) == pytest.approx(total / (3 * 64), rel=1e-4)


def test_distillation_in_half_of_a_scene_keeps_the_other_half(exact: Exact, tmp_path: Path) -> None:
    inside = exact.points[..., 0] < 0
    trainer = trainer_for(
        config_for(
            exact.folder,
            tmp_path,
            tmp_path / "out",
            prompt=None,
            prior="builtin",
            driver="distil",
            scene_steps=40,
            distil_views=3,
            distil_px=16,
            mask_dir=masks_in(tmp_path / "masks", inside),
        )
    )
    pipeline = trainer.pipeline
    pipeline.current.prior, pipeline.current.prompt = ToyEditor(darker), "make it darker"
    photographs = pipeline.datamanager.photographs

    def away_from(goal: torch.Tensor, where: torch.Tensor) -> float:
        shown = slice(0, 6, 2)
        renders, _ = pipeline.scene.render(list(range(6))[shown], PX)
        return float((renders - goal[shown]).square().mean(dim=1)[where[shown]].mean())

    for step in range(40):
        trainer.train_iteration(step)
    before = away_from(photographs, ~inside)
    for step in range(40, 60):
        trainer.train_iteration(step)
    assert away_from(photographs, ~inside) < 1.5 * before
    assert away_from(darker(photographs), inside) < 0.5 * away_from(photographs, inside)


def test_a_found_mask_holds_the_rest_is_written_and_survives(
    exact: Exact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor darkens what is dark already, and the mask is found where it does."""
    pipeline = pipeline_for(exact, tmp_path, edit_steps=8, box=None, mask="auto")
    data = pipeline.datamanager
    dim = data.photographs.mean() * 0.6
    pipeline.current.prior = ToyEditor(lambda x: torch.where(x.mean(1, keepdim=True) < dim, x - 0.3, x))
    monkeypatch.setattr(Scene, "render", lambda self, views, *_: (data.photographs[views], exact.distances[views]))
    pipeline.publish_in(tmp_path / "run")
    pipeline.driver.edit(0)
    masks = pipeline.history.masks
    assert masks is not None
    assert 0.02 < masks.float().mean() < 0.9
    changed = (data._images[..., :3] != data.photographs.permute(0, 2, 3, 1)).any(dim=-1)
    assert not changed[~masks[:, 0]].any()
    assert changed[masks[:, 0]].float().mean() > 0.3
    names = [path.stem for path in data.train_dataset.image_filenames]
    assert torch.equal(read_masks(tmp_path / "run" / "masks", names, PX, PX), masks)
    assert (tmp_path / "run" / "edited_views" / "sheet.png").is_file()
    state, again = pipeline.edit_state(), pipeline_for(exact, tmp_path, box=None, mask="auto")
    again.begin(1, state)
    again.driver.begin()
    assert torch.equal(again.scene.found, masks)
