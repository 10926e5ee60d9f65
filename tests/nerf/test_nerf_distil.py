"""Distillation: the surrogate's derivative, and a field that goes where the edit wants it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

pytest.importorskip("nerfstudio", reason="the nerf extra is not installed")

from csd3d.engine.config import METHODS
from csd3d.engine.loop import draw_noise, draw_timestep
from csd3d.engine.stein import RbfKernel
from csd3d.engine.step import csd_step
from csd3d.engine.transport import TransportKernel
from csd3d.engine.types import Batch
from csd3d.media.geometry import WorkingSize
from csd3d.nerf.distil import distil_loss
from csd3d.nerf.viewer import Undo
from csd3d.nerf.views import square
from csd3d.priors.prior import Prompts
from tests.nerf.tiny import PX, ToyEditor, config_for, trainer_for, write_small_scene

pytestmark = pytest.mark.slow

CSD = replace(METHODS["csd-edit"], steps=1)


def redder(rgb: torch.Tensor) -> torch.Tensor:
    """The edit: half of green and blue are gone."""
    return rgb * torch.tensor([1.0, 0.5, 0.5]).view(3, 1, 1)


def test_the_derivative_by_a_render_is_the_gradient_of_its_latent_through_the_encoder() -> None:
    toy, rng = ToyEditor(redder), torch.Generator().manual_seed(0)
    renders, sources = (torch.rand(3, 3, PX, PX, generator=rng) for _ in range(2))
    renders.requires_grad_()
    inside = torch.ones(3, 1, PX, PX, dtype=torch.bool)
    inside[:, :, :8] = False
    loss = distil_loss(
        renders,
        sources,
        3,
        toy,
        Prompts(""),
        CSD,
        rng=torch.Generator().manual_seed(1),
        step=0,
        size_px=PX,
        inside=inside,
    )
    loss.backward()
    rng = torch.Generator().manual_seed(1)
    z, s = toy.codec.encode(renders.detach()), toy.codec.encode(sources)
    t, e = draw_timestep(rng, CSD), draw_noise(z, rng, CSD)
    g = csd_step(toy, toy.schedule.noised(Batch(z, s, torch.arange(3)), t, e), CSD).g
    expected = interpolate(g / 16 / g.numel(), scale_factor=4.0)  # a latent is the mean of 16 pixels
    assert renders.grad is not None
    assert torch.allclose(renders.grad[:, :, 8:], expected[:, :, 8:], atol=1e-9)
    assert not renders.grad[:, :, :8].any()


def test_what_goes_through_the_encoder_is_not_divided_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision a gradient divided by the number of latents would be 0 there."""
    toy, arrived = ToyEditor(redder), list[torch.Tensor]()
    encode = toy.codec.encode

    def watched(rgb: torch.Tensor) -> torch.Tensor:
        z = encode(rgb)
        if z.requires_grad:
            z.register_hook(arrived.append)
        return z

    monkeypatch.setattr(toy.codec, "encode", watched)
    renders = torch.rand(3, 3, PX, PX).requires_grad_()
    sources = torch.rand(3, 3, PX, PX)
    distil_loss(
        renders, sources, 3, toy, Prompts(""), CSD, rng=torch.Generator().manual_seed(1), step=0, size_px=PX
    ).backward()
    rng = torch.Generator().manual_seed(1)
    z, s = encode(renders.detach()), encode(sources)
    t, e = draw_timestep(rng, CSD), draw_noise(z, rng, CSD)
    assert len(arrived) == 1
    assert torch.allclose(
        arrived[0], csd_step(toy, toy.schedule.noised(Batch(z, s, torch.arange(3)), t, e), CSD).g, atol=1e-6
    )


def test_squares_reach_every_corner_and_never_out_of_the_view() -> None:
    assert square(40, 60, 16, (0.0, 0.0)) == (slice(0, 16), slice(0, 16))
    assert square(40, 60, 16, (1.0, 1.0)) == (slice(24, 40), slice(44, 60))
    assert square(40, 60, 90, (0.3, 0.9999)) == (slice(0, 40), slice(20, 60))
    assert square(40, 60, None, (0.3, 0.9)) == (slice(0, 40), slice(0, 60))


def away_from(goal: torch.Tensor, trainer: Any) -> float:
    """Mean squared distance between what the field shows of the training views and `goal`."""
    renders, _ = trainer.pipeline.scene.render(list(range(len(goal))), PX)
    return float((renders - goal).square().mean())


class Shifted:
    """Every place of a picture is one place to the right in the next."""

    def __call__(self, i: int, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n, side = len(index), PX // 4
        at = torch.stack(torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="xy"), -1)
        away = (index - index[i]).view(n, 1, 1) * torch.ones(side, side)
        moved = at + torch.stack([away, torch.zeros_like(away)], -1)
        return moved, ((moved >= 0) & (moved <= side)).all(-1).float()


def test_renders_move_together_where_they_correspond() -> None:
    toy = ToyEditor(redder)
    renders, sources = torch.rand(3, 3, PX, PX).requires_grad_(), torch.rand(3, 3, PX, PX)
    asked = list[tuple[tuple[int, int], int]]()

    def correspondences(size: WorkingSize, unit_px: int) -> Shifted:
        asked.append((size.padded, unit_px))
        return Shifted()

    distil_loss(
        renders, sources, 3, toy, Prompts(""), CSD, rng=torch.Generator().manual_seed(1), step=0, size_px=PX,
        correspondences=correspondences,
    ).backward()  # fmt: skip
    assert asked == [((PX, PX), 4)]
    rng = torch.Generator().manual_seed(1)
    z, s = toy.codec.encode(renders.detach()), toy.codec.encode(sources)
    t, e = draw_timestep(rng, CSD), draw_noise(z, rng, CSD)
    x = toy.schedule.noised(Batch(z, s, torch.arange(3)), t, e)
    g = csd_step(toy, x, CSD, kernel=TransportKernel(Shifted(), RbfKernel(CSD.bandwidth))).g
    assert renders.grad is not None
    assert torch.allclose(renders.grad, interpolate(g / 16 / g.numel(), scale_factor=4.0), atol=1e-9)
    assert not torch.allclose(g, csd_step(toy, x, CSD).g, atol=1e-3)


@pytest.mark.parametrize("patches", [False, True])
def test_the_field_goes_where_the_edit_wants_it(patches: bool, tmp_path: Path) -> None:
    scene = write_small_scene(tmp_path / "scene")
    config = config_for(
        scene,
        tmp_path,
        tmp_path / "out",
        prompt=None,
        prior="builtin",
        driver="distil",
        scene_steps=30,
        distil_views=3,
        distil_px=16,
        distil_patches=patches,
        coupling="depth" if patches else None,
    )
    trainer = trainer_for(config)
    pipeline = trainer.pipeline
    pipeline.current.prior, pipeline.current.prompt = ToyEditor(redder), "make it redder"
    photographs = pipeline.datamanager.photographs
    goal = redder(photographs)
    for step in range(30):
        trainer.train_iteration(step)
    before = away_from(goal, trainer)
    for step in range(30, 55):
        _, losses, _ = trainer.train_iteration(step)
        assert "csd_loss" in losses
        assert "rgb_loss" not in losses
    assert away_from(goal, trainer) < 0.5 * before
    assert away_from(goal, trainer) < away_from(photographs, trainer)
    if patches:
        return
    pipeline.carry_out([Undo()])
    for step in range(55, 75):  # and back to the photographs
        trainer.train_iteration(step)
    assert away_from(photographs, trainer) < away_from(goal, trainer)
    assert torch.equal(pipeline.datamanager.photographs, photographs)
