"""Training of the built-in priors: same result after a stop, truthful pairs, repeatable batches."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from csd3d.priors.store.resolve import builtin_directory
from csd3d.world.edits import all_edits
from csd3d.world.render import render
from csd3d.world.scene import SceneSampler
from scripts.train_builtin import world_tokenizer, write_start
from scripts.training import loop
from scripts.training.codec import CodecWork, make_codec
from scripts.training.denoiser import CHANGED_WEIGHT, Editor, change_weight, first_sentence_of_edit, trained_sentences
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


def test_changed_latents_weigh_more_and_every_picture_the_same() -> None:
    s = torch.zeros(2, 4, 8, 8)
    z = s.clone()
    z[0, 1, 2:4, 3:5] = 1.0  # an edit of one thing
    z[1] = 1.0  # an edit of everything
    weight = change_weight(z, s)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.ones(2))
    assert float(weight[0, 0, 2, 3] / weight[0, 0, 0, 0]) == pytest.approx(CHANGED_WEIGHT)
    torch.testing.assert_close(weight[1], torch.ones(1, 8, 8))


def test_training_goes_on_from_a_finished_prior_word_by_word(tmp_path: Path) -> None:
    prior = builtin_directory("builtin:instruct")
    write_start(prior, tmp_path / "codec", tmp_path / "editor")
    start = load_file(tmp_path / "editor")
    scale = start.pop("scaling_factor")
    config = json.loads((prior / "vae" / "config.json").read_text())
    assert float(scale) == pytest.approx(config["scaling_factor"])
    tokenizer = world_tokenizer()
    vocabulary = tokenizer.get_vocab()
    editor = Editor(len(tokenizer), vocabulary["<|endoftext|>"], vocabulary["<|startoftext|>"])
    editor.load_state_dict(start)  # every name and shape fits
    name = next(k for k in start if k.endswith("token_embedding.weight"))
    known = load_file(prior / "text_encoder" / "model.safetensors")
    old = next(v for k, v in known.items() if k.endswith("token_embedding.weight")).float()
    words = json.loads((prior / "tokenizer" / "vocab.json").read_text())
    row = vocabulary["snowy</w>"]
    assert torch.equal(start[name][row], old[words["snowy</w>"]])
    make_codec().load_state_dict(load_file(tmp_path / "codec"))


def test_a_codec_goes_on_from_the_given_weights(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 2, 3, 128, 128), generator=rng, dtype=torch.uint8)
    names = {"edits": json.dumps([e.name for e in all_edits()])}
    save_file({"images": images, "edits": torch.zeros(2, 1).long()}, tmp_path / "shard-00000.safetensors", names)
    torch.manual_seed(0)
    before = make_codec().state_dict()
    save_file(before, tmp_path / "start")
    work = CodecWork(tmp_path, tmp_path, Plan(steps=1, lr=0.0), batch=1, start_from=tmp_path / "start")
    work()
    after = load_file(tmp_path / "codec.safetensors")
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
