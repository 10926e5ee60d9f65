"""Training of the built-in priors: same result after a stop, truthful pairs, repeatable batches."""

from pathlib import Path

import pytest
import torch
from torch import nn

from csd3d.world.edits import all_edits
from csd3d.world.render import render
from csd3d.world.scene import SceneSampler
from scripts.training import loop
from scripts.training.denoiser import first_sentence_of_edit, trained_sentences
from scripts.training.loop import FastGroupNorm, Plan, train
from scripts.training.pairs import group_pairs
from scripts.training.pictures import (
    EDITS_PER_GROUP,
    PHOTO_SHARE,
    load_photos,
    photo_group,
    training_camera,
    world_group,
)


def test_fast_group_norm_is_group_norm() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 8, 5, 7, requires_grad=True)
    expected = norm(x)
    (slow,) = torch.autograd.grad(expected.square().sum(), x)
    norm.__class__ = FastGroupNorm
    got = norm(x)
    (fast,) = torch.autograd.grad(got.square().sum(), x)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def _run(checkpoint: Path, plan: Plan, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_of(step: int, rng: torch.Generator) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=rng)
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    return train(model, loss_of, plan, checkpoint)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    plan = Plan(steps=40, lr=1e-2, warmup=5, save_seconds=0)
    whole = _run(tmp_path / "whole.state", plan)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "stopped.state", plan, stop_at=17)
    resumed = _run(tmp_path / "stopped.state", plan)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_loop_learns(tmp_path: Path) -> None:
    plan = Plan(steps=400, lr=1e-2, warmup=10, ema=0.9)
    weights = _run(tmp_path / "a.state", plan)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    model.load_state_dict(weights)
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(9))
    assert (model(x)[:, 0] - x.sum(1)).square().mean() < 0.3


def test_learning_rate_warms_up_and_falls() -> None:
    plan = Plan(steps=1000, lr=1.0, warmup=100)
    assert plan.lr_at(0) == pytest.approx(0.01)
    assert plan.lr_at(100) == pytest.approx(1.0)
    assert plan.lr_at(999) == pytest.approx(0.01, abs=1e-3)


def test_ranks_draw_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    for rank in range(2):
        monkeypatch.setattr(loop, "rank_and_world", lambda rank=rank: (rank, 2))
        draws.append(torch.rand(4, generator=loop.step_generator(Plan(1, 1.0), 0)))
    assert not torch.equal(*draws)


@torch.inference_mode()
def test_every_pair_of_a_group_is_joined_by_its_edit() -> None:
    seed = 3
    group = world_group(seed)
    pairs = group_pairs(0, seed, group.images, group.edits.tolist())
    assert len(pairs) > EDITS_PER_GROUP  # more than source-to-edit
    scene, camera, known = SceneSampler().sample(seed), training_camera(seed), all_edits()
    scenes = [scene, *(known[e].scene(scene) if e >= 0 else scene for e in group.edits.tolist())]
    for i, j, e in pairs:
        edit = known[e]
        if edit.on_pixels is not None:
            continue
        after = render([edit.scene(scenes[i])], [camera])
        shown = group.images[j].float() / 255
        assert (after[0] - shown).abs().max() < 0.51 / 255 + 1e-6, (i, j, edit.name)


def test_photographs_pair_with_styles_only() -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the training photographs")
    group = photo_group(5, load_photos(("coffee.png",)))
    pairs = group_pairs(PHOTO_SHARE - 1, 0, group.images, group.edits.tolist())
    assert pairs
    assert {all_edits()[e].kind for _, _, e in pairs} == {"style"}
    assert {i for i, _, _ in pairs} == {0}


def test_sentences_of_an_edit_lie_where_the_index_says() -> None:
    first, sentences = first_sentence_of_edit(), trained_sentences()
    assert sentences[-1] == ""
    assert len(sentences) == first[-1] + 1
    for i, edit in enumerate(all_edits()):
        assert sentences[first[i] : first[i + 1]] == list(edit.trained)
        assert edit.held_out not in sentences
