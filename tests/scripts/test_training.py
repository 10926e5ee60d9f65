"""Training of the built-in priors: same result after a stop, truthful pairs, repeatable batches."""

import json
import random
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from csd3d.priors.store.resolve import builtin_directory
from csd3d.world.edits import about_absent, all_edits
from csd3d.world.families import all_families, every_edit
from csd3d.world.filters import moonlight
from csd3d.world.render import ID_FIRST_THING, ID_GROUND, ID_SKY, render, truth
from csd3d.world.scene import SceneSampler
from scripts.train_builtin import Settings, main, world_tokenizer, write_start
from scripts.training import loop
from scripts.training.codec import CodecWork, make_codec
from scripts.training.denoiser import (
    ABSENT_SHARE,
    CHANGED_WEIGHT,
    FAMILY_SHARE,
    Editor,
    PooledDropout,
    change_weight,
    first_sentences,
    trained_sentences,
    weigh,
    without_pooled,
)
from scripts.training.loop import FastGroupNorm, Plan, train
from scripts.training.padding import Watched, is_padding
from scripts.training.pairs import ABSENT_PER_GROUP, PairStore, group_pairs, open_pairs
from scripts.training.pictures import (
    EDITS_PER_GROUP,
    PHOTO_SHARE,
    VIEW_KINDS,
    VIEW_SHARE,
    _members,
    group_camera,
    load_photos,
    photo_group,
    training_camera,
    view_of,
    world_group,
)
from scripts.training.start import begin_with

UNFINISHED = Path(__file__).resolve().parents[2] / "scripts" / "training" / "unfinished" / "instruct"


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
    scene, camera, known = SceneSampler().sample(seed), training_camera(seed), every_edit()
    scenes = [scene, *(known[e].scene(scene) if e >= 0 else scene for e in group.edits.tolist())]
    for i, j, e in pairs:
        edit = known[e]
        if edit.on_pixels is not None:
            continue
        after = render([edit.scene(scenes[i])], [camera])
        shown = group.images[j].float() / 255
        assert (after[0] - shown).abs().max() < 0.51 / 255 + 1e-6, (i, j, edit.name)


def test_photographs_pair_with_styles_and_night_only() -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the training photographs")
    group = photo_group(5, load_photos(("coffee.png",)))
    pairs = group_pairs(PHOTO_SHARE - 1, 0, group.images, group.edits.tolist())
    assert pairs
    assert {every_edit()[e].kind for _, _, e in pairs} == {"style", "time"}
    assert {i for i, _, _ in pairs} == {0}
    (night,) = [j for _, j, e in pairs if every_edit()[e].name == "night"]
    expected = moonlight(group.images[:1].float() / 255)[0]
    assert (group.images[night].float() / 255 - expected).abs().max() < 0.01


def test_sentences_of_an_edit_or_family_lie_where_the_index_says() -> None:
    first, sentences = first_sentences(), trained_sentences()
    assert sentences[-1] == ""
    assert len(sentences) == first[-1] + 1
    for i, asked in enumerate((*all_edits(), *all_families())):
        assert sentences[first[i] : first[i + 1]] == list(asked.trained)
        assert asked.held_out not in sentences


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
    write_start(prior, tmp_path / "editor", tmp_path / "codec")
    start = load_file(tmp_path / "editor")
    scale = start.pop("scaling_factor")
    config = json.loads((prior / "vae" / "config.json").read_text())
    assert float(scale) == pytest.approx(config["scaling_factor"])
    tokenizer = world_tokenizer()
    vocabulary = tokenizer.get_vocab()
    editor = Editor(len(tokenizer), vocabulary["<|endoftext|>"], vocabulary["<|startoftext|>"])
    begin_with(editor, without_pooled(start))  # every name and shape fits
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
    names = {"edits": json.dumps([e.name for e in every_edit()])}
    save_file({"images": images, "edits": torch.zeros(2, 1).long()}, tmp_path / "shard-00000.safetensors", names)
    torch.manual_seed(0)
    before = make_codec().state_dict()
    save_file(before, tmp_path / "start")
    work = CodecWork(tmp_path, tmp_path, Plan(steps=1, lr=0.0), batch=1, start_from=tmp_path / "start")
    work()
    after = load_file(tmp_path / "codec.safetensors")
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_a_family_is_drawn_where_its_sentence_is_open() -> None:
    pairs = torch.tensor(
        [[0, 0, 1, 7], [0, 0, 2, 8], [0, 1, 2, 8], [1, 0, 1, 7], [1, 0, 2, 5], [2, 0, 1, 8], [2, 0, 2, 7]]
    )
    assert open_pairs(pairs, [7, 8, 9]).tolist() == [[0, 0, 1, 7], [0, 0, 2, 8], [2, 0, 1, 8], [2, 0, 2, 7]]
    assert open_pairs(pairs, [5]).shape == (0, 4)


def test_families_have_their_share_each_as_often_as_the_others() -> None:
    rows, none = torch.zeros(3, 4, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long)
    names = [f.name for f in all_families()]
    families = {names[2]: rows, names[0]: rows, names[1]: none}
    kinds = {"sky": rows, "time": rows, "add": none}
    piles, weights = weigh(PairStore(torch.zeros(1, 1, 4, 2, 2), kinds, families, none))
    assert [p.family for p in piles] == [None, None, 2, 0]
    torch.testing.assert_close(weights[2:], torch.full((2,), FAMILY_SHARE / 2))
    assert weights.sum().item() == pytest.approx(1)
    assert weigh(PairStore(torch.zeros(1, 1, 4, 2, 2), {"sky": rows}, {}, none))[1].tolist() == [1.0]


def test_what_is_asked_of_a_thing_that_is_not_there_changes_nothing() -> None:
    rows = torch.zeros(3, 4, dtype=torch.long)
    piles, weights = weigh(PairStore(torch.zeros(1, 1, 4, 2, 2), {"sky": rows}, {}, rows))
    assert [len(p.rows) for p in piles] == [3, 3]
    torch.testing.assert_close(weights, torch.tensor([1 - ABSENT_SHARE, ABSENT_SHARE]))
    group = world_group(3)
    absent = [e for i, j, e in group_pairs(0, 3, group.images, group.edits.tolist()) if i == j]
    assert len(absent) == ABSENT_PER_GROUP
    assert {every_edit()[e] for e in absent} <= {*about_absent(SceneSampler().sample(3))}


@torch.inference_mode()
def test_members_of_one_group_start_from_one_source_equally_often() -> None:
    """Over many groups every colour that a ball may get is rendered about as often as the others."""
    number = {e.name: i for i, e in enumerate(every_edit())}
    family = next(f for f in all_families() if f.name == "any sky")
    counts = dict.fromkeys((number[m.name] for m in family.members), 0)
    scene = SceneSampler(plain=1.0).sample(0)
    edits = [e for e in every_edit() if e.applies(scene)]
    for seed in range(400):
        for e in _members(scene, edits, random.Random(seed)):
            if number[e.name] in counts:
                counts[number[e.name]] += 1
    seen = torch.tensor([n for n in counts.values() if n])
    assert len(seen) == len(family.open_in(scene))
    assert (seen / seen.sum() - 1 / len(seen)).abs().max() < 0.08


def test_special_views_show_what_they_are_for() -> None:
    views = [view_of(s) for s in range(2000)]
    assert {v: views.count(v) / 2000 for v in VIEW_SHARE} == pytest.approx(VIEW_SHARE, abs=0.02)
    for view, expected in (("sky", ID_SKY), ("ground", ID_GROUND)):
        seeds = [s for s, v in enumerate(views) if v == view][:6]
        scenes = [SceneSampler().sample(s) for s in seeds]
        ids = truth(scenes, [group_camera(s, scene, 32) for s, scene in zip(seeds, scenes, strict=True)]).ids
        assert (ids == expected).float().mean() > 0.8, view
    seeds = [s for s, v in enumerate(views) if v == "surface"][:6]
    scenes = [SceneSampler().sample(s) for s in seeds]
    ids = truth(scenes, [group_camera(s, scene, 32) for s, scene in zip(seeds, scenes, strict=True)]).ids
    assert (ids >= ID_FIRST_THING).float().mean() > 0.4
    group = world_group(views.index("sky"))
    kinds = {every_edit()[e].kind for e in group.edits.tolist() if e >= 0}
    assert kinds
    assert kinds.issubset(VIEW_KINDS["sky"])


def test_new_attention_begins_silent() -> None:
    torch.manual_seed(0)
    attention = _attention()
    old, new = nn.Sequential(nn.Conv2d(32, 32, 1)), nn.Sequential(nn.Conv2d(32, 32, 1), attention)
    begin_with(new, old.state_dict() | {"2.weight": torch.zeros(3)})
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(attention(x, encoder_hidden_states=torch.randn(2, 5, 8), return_dict=False)[0], x)
    assert torch.equal(new[0](x), old[0](x))
    known = new.state_dict() | {"1.proj_out.weight": torch.ones(32, 32, 1, 1)}
    begin_with(new, known)  # what was known is taken as it is
    assert torch.equal(new.state_dict()["1.proj_out.weight"], known["1.proj_out.weight"])


def test_an_editor_unlearns_its_pooled_sentence() -> None:
    torch.manual_seed(0)
    old = Editor(10, 1, 0, pooled=True).eval()
    z, s, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    ids = torch.randint(2, 10, (2, 16))
    whole = old(z, t, s, ids)
    dropout = PooledDropout(old.unet)
    torch.testing.assert_close(old(z, t, s, ids), whole)
    dropout.there = torch.tensor([True, False])
    some = old(z, t, s, ids)
    torch.testing.assert_close(some[0], whole[0])
    new = Editor(10, 1, 0).eval()
    new.load_state_dict(without_pooled(old.state_dict()))
    torch.testing.assert_close(some[1], new(z, t, s, ids)[1])
    assert not torch.allclose(some[1], whole[1], atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: expected \(3, 2\), got \(4, 2\)"):
        begin_with(nn.Linear(2, 3), nn.Linear(2, 4).state_dict())
    with pytest.raises(ValueError, match="bias: expected the weights to start from to hold it"):
        begin_with(nn.Linear(2, 3), {"weight": torch.zeros(3, 2)})


def _attention() -> Transformer2DModel:
    return Transformer2DModel(2, 16, in_channels=32, num_layers=1, norm_num_groups=4, cross_attention_dim=8)


def test_padding_is_what_follows_the_first_end() -> None:
    ids = torch.tensor([[8, 3, 4, 9, 9, 9], [8, 9, 9, 9, 9, 9], [8, 1, 2, 3, 4, 9]])
    assert is_padding(ids, 9).tolist() == [[False] * 4 + [True] * 2, [False] * 2 + [True] * 4, [False] * 6]


def test_watched_attention_is_plain_attention_and_sees_what_padding_gets() -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=16, cross_attention_dim=8, heads=2, dim_head=8, processor=AttnProcessor())
    x, text = torch.randn(2, 5, 16), torch.randn(2, 4, 8)
    expected = attention(x, encoder_hidden_states=text)
    watch = Watched()
    attention.set_processor(watch)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(attention(x, encoder_hidden_states=text), expected)
    with pytest.raises(ValueError, match="expected a forward pass with `padding` set"):
        watch.share()
    for padding, share in (([True] * 4, 1.0), ([False] * 4, 0.0)):
        watch.padding = torch.tensor([padding] * 2)
        attention(x, encoder_hidden_states=text)
        assert watch.share().item() == pytest.approx(share, abs=1e-6)
    watch.padding = torch.tensor([[False, False, True, True]] * 2)
    attention(x, encoder_hidden_states=text)
    share = watch.share()
    assert 0 < share.item() < 1
    share.backward()
    slope = dict(attention.named_parameters())["to_k.weight"].grad
    assert slope is not None
    assert slope.abs().max() > 0


def test_an_unfinished_run_is_exported_from_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "a.state", Plan(steps=40, lr=1e-2, warmup=5, save_seconds=0), stop_at=17)
    stopped = loop.averaged(tmp_path / "a.state")
    again = _run(tmp_path / "a.state", Plan(steps=17, lr=1e-2, warmup=5, save_seconds=0))  # nothing is left to do
    assert stopped.keys() == again.keys()
    for name, value in again.items():
        assert torch.equal(value, stopped[name]), name


def test_a_stage_before_its_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Settings(tmp_path, stage="latents")) == 2
    assert capsys.readouterr().err.strip().endswith("expected the trained codec; --stage codec makes it")


def test_the_unfinished_editor_knows_the_sentences_of_the_world() -> None:
    known = json.loads((UNFINISHED / "vocabulary.json").read_text())["edits"]
    assert set(known) == {asked.name for asked in (*all_edits(), *all_families())}
    assert (UNFINISHED / "vae" / "config.json").is_file()
