"""Sharing and compositions over the tiny UNet: what must be exactly equal, and loops written from the definitions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention.attended import AttendedScore, anchors_of
from csd3d.attention.compositions import Composition, KvFusion, MasaCtrl, PlugAndPlay, PromptToPrompt, Reweight
from csd3d.attention.presets import PRESETS, Attention, parse
from csd3d.attention.score import Controllable
from csd3d.engine import METHODS, Batch, CsdConfig, Noised, Schedule, Score, csd_step
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior

T = 900
"""Near enough to noise for all that acts on the noisiest timesteps only; for what acts later see MasaCtrl."""
assert_same = partial(torch.testing.assert_close, atol=1e-3, rtol=1e-3)
"""Guidance and sharp attentions amplify the rounding of single precision; what controls do is larger than `DOES`."""
DOES = 5e-3
CAPTIONS = Prompts("make the ball red snow", "paint the ball red")


@pytest.fixture(scope="session")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("attended") / "t2i", kind="text-to-image", closed=False)
    return sharp(TextToImagePrior.load(folder, device="cpu"))


@pytest.fixture(scope="session")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> InstructPrior:
    return sharp(InstructPrior.load(write_tiny_prior(tmp_path_factory.mktemp("attended") / "instruct"), device="cpu"))


def sharp(prior: Any, by: float = 6) -> Any:
    """With attentions that tell places apart: random ones look everywhere alike."""
    for name, module in prior.denoiser._unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            module.weight.data *= by
    return prior


def step(n: int = 5, t: int = T, *, same: bool = False) -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng) for _ in range(3))
    index = torch.randperm(n + 2, generator=rng)[:n]
    return Schedule.scaled_linear().noised(Batch(s if same else z, s, index), t, e)


def controllable(prior: Any, prompts: Prompts = CAPTIONS, guidance: float = 7.5) -> Any:
    if isinstance(prior, InstructPrior):
        prompts = Prompts("make it snowy")
    score = prior.score(prompts, Guidance(guidance, 1.5))
    assert isinstance(score, Controllable)
    return score


ALL: list[Composition] = [
    Reweight("red", 2.0), PromptToPrompt(), PlugAndPlay(), MasaCtrl(after=0.0), KvFusion(),
]  # fmt: skip


def test_nothing_asked_for_is_the_score_itself(t2i: TextToImagePrior) -> None:
    score = controllable(t2i)
    assert Attention().over(score) is score


@pytest.mark.parametrize(
    ("kind", "composition", "shares"),
    [("t2i", c, False) for c in (None, *ALL)]
    + [("instruct", c, False) for c in (None, Reweight("snowy", 0.5), MasaCtrl(0.0))]
    + [("t2i", c, True) for c in (None, PromptToPrompt(), PlugAndPlay(), KvFusion())]
    + [("instruct", c, True) for c in (None, MasaCtrl(0.0))],
    ids=lambda c: str(c) if isinstance(c, (str, bool)) else type(c).__name__,
)
def test_pieces_order_and_company_change_nothing(
    kind: str, composition: Composition | None, shares: bool, request: pytest.FixtureRequest
) -> None:
    """A particle's prediction depends on itself and what anchors left: in any call, in any order, alone."""
    prior, x = request.getfixturevalue(kind), step()
    compositions = () if composition is None else (composition,)
    score = AttendedScore(controllable(prior), compositions, shares=shares)
    whole = score.for_step(x)
    target, source = whole.target(x), whole.source(x)
    plain = controllable(prior)
    if compositions or shares:
        assert (target - plain.target(x)).abs().max() > DOES, "it does something"
    assert_same(source, score.for_step(x).source(x))
    if not shares:
        assert_same(source, plain.source(x))
    else:
        assert (source - plain.source(x)).abs().max() > DOES
    for chunks in prior.chunks:
        chunks.max_rows = 2
    assert_same(score.for_step(x).target(x), target)
    for chunks in prior.chunks:
        chunks.max_rows = None
    again, pieces = score.for_step(x), [x.rows(rows) for rows in ([0], [1, 2], [3, 4])]
    assert_same(torch.cat([again.target(piece) for piece in pieces]), target)
    assert_same(torch.cat([again.source(piece) for piece in pieces]), source)
    order = [3, 0, 4, 1, 2]
    assert_same(score.target(x.rows(order)), target[order])


def test_anchors_are_the_same_in_any_order_and_those_that_are_named() -> None:
    x = step(9)
    chosen = x.index[anchors_of(x)].tolist()
    turned = x.rows(list(reversed(range(9))))
    assert chosen == turned.index[anchors_of(turned)].tolist() == sorted(chosen)
    ordered = sorted(x.index.tolist())
    assert chosen == [ordered[k] for k in (0, 3, 5, 8)]
    assert anchors_of(replace(x, anchors=torch.tensor([1, 2]))).tolist() == [1, 2]
    assert len(anchors_of(step(1))) == 0
    assert [len(anchors_of(step(n))) for n in (2, 3, 4, 5)] == [2, 3, 4, 4]


def test_sharing_with_ones_own_likeness_changes_nothing(t2i: TextToImagePrior) -> None:
    """All particles alike: every anchor's keys are one's own, and softmax over duplicates is the softmax."""
    x = step()
    alike = replace(x, z=x.z[:1].expand_as(x.z), z_t=x.z_t[:1].expand_as(x.z))
    score = controllable(t2i)
    shared = AttendedScore(score, shares=True).target(alike)
    assert_same(shared, score.target(alike))


@pytest.mark.parametrize("kind", ["t2i", "instruct"])
@pytest.mark.parametrize(
    "composition", [PlugAndPlay(1.0, 1.0), MasaCtrl(0.0), KvFusion()], ids=lambda c: type(c).__name__
)
def test_looking_at_a_source_that_is_oneself_changes_nothing(
    kind: str, composition: Composition, request: pytest.FixtureRequest
) -> None:
    """Target = source, under the same sentence: an editor's only without instruction."""
    prior = request.getfixturevalue(kind)
    prompts = Prompts("make it night", "make it night") if kind == "t2i" else Prompts("")
    x, score = step(same=True), prior.score(prompts, Guidance(7.5, 1.5))
    got = AttendedScore(score, (composition,)).for_step(x)
    assert_same(got.target(x), score.target(x))
    torch.testing.assert_close(got.target(x) - got.source(x), torch.zeros_like(x.z), atol=1e-4, rtol=0)


def test_prompt_to_prompt_with_the_same_sentence_and_place_changes_nothing(t2i: TextToImagePrior) -> None:
    x, score = step(same=True), controllable(t2i, Prompts("make it night", "make it night"))
    got = AttendedScore(score, (PromptToPrompt(1.0, 1.0),)).target(x)
    assert_same(got, score.target(x))


def test_a_weight_of_one_changes_no_bit(t2i: TextToImagePrior) -> None:
    x, score = step(), controllable(t2i)
    assert torch.equal(AttendedScore(score, (Reweight("red", 1.0),)).target(x), score.target(x))


def test_composed_methods_leave_the_prior_as_it_was(t2i: TextToImagePrior) -> None:
    x, score = step(), controllable(t2i)
    before = score.target(x)
    together = (Reweight("red", 2.0), PromptToPrompt(self_until=0.0), PlugAndPlay(), MasaCtrl(0.0), KvFusion())
    assert AttendedScore(score, together, shares=True).target(x).isfinite().all()
    with pytest.raises(ValueError, match="p2p with self-until=0 beside kv-fusion"):
        AttendedScore(score, tuple(ALL))
    assert torch.equal(score.target(x), before)


# Loops, written from the papers: one row at a time, attentions called by hand through a forward that the test owns.


@contextmanager
def by_hand(unet: Any, edit: Any) -> Iterator[None]:
    """`edit(name, q, k, v) -> x` computes every attention of a batch of one row, `edit(name, x)` every conv2."""
    undo = []
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):

            class Own:
                def __init__(self, name: str) -> None:
                    self.name = name

                def __call__(self, a: Any, x: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None):
                    y = x if encoder_hidden_states is None else encoder_hidden_states
                    parts = zip(*(w(u)[0].chunk(a.heads, 1) for w, u in ((a.to_q, x), (a.to_k, y), (a.to_v, y))),
                                strict=True)  # fmt: skip
                    out = [edit(self.name, h, q, k, v) for h, (q, k, v) in enumerate(parts)]
                    return a.to_out[0](torch.cat(out, 1)[None])

            undo.append((module.set_processor, module.processor))
            module.set_processor(Own(name))
        elif ".resnets." in name and name.endswith("conv2"):
            hook = module.register_forward_hook(lambda _m, _a, out, name=name: edit(name, 0, out, out, out))
            undo.append((lambda hook: hook.remove(), hook))
    yield
    for put, value in undo:
        put(value)


def rows_by_hand(prior: TextToImagePrior, x: Noised, i: int, target: Any, source: Any) -> Tensor:
    """The guided prediction of one particle: both branches of its source, then of itself, each a call of one row."""
    unet: Any = prior.denoiser._unet
    texts = {"target": ("", CAPTIONS.target), "source": ("", CAPTIONS.source)}
    out: dict[tuple[str, int], Tensor] = {}
    for role, z, edit in (("source", x.s_t, source), ("target", x.z_t, target)):
        for branch in (0, 1):
            text = prior.text.encode([str(texts[role][branch])])
            with by_hand(unet, lambda name, h, *qkv, b=branch, edit=edit: edit(b, name, h, *qkv)), torch.no_grad():
                out[role, branch] = unet(z[i : i + 1], torch.tensor(x.t), encoder_hidden_states=text).sample
    return out["target", 0] + 7.5 * (out["target", 1] - out["target", 0])


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v


DECODER = [f"up_blocks.0.attentions.{k}.transformer_blocks.0.attn1" for k in range(2)]


@pytest.mark.parametrize("method", ["pnp", "masactrl", "kv-fusion", "p2p", "reweight"])
def test_against_loops_written_from_the_papers(method: str, t2i: TextToImagePrior) -> None:
    x, kept = step(2), {}
    old, new = (t2i.text.tokens(str(s)) for s in (CAPTIONS.source, CAPTIONS.target))
    (red,) = new.find("red")
    assert old.end == new.end - 1 == 5

    def source(branch: int, name: str, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept[branch, name, head] = q, k, v
        return q if "conv2" in name else attend(q, k, v)

    def target(branch: int, name: str, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if "conv2" in name:
            return kept[branch, name, 0][0] if method == "pnp" and name == "up_blocks.1.resnets.1.conv2" else q
        q_s, k_s, v_s = kept[branch, name, head]
        if method == "pnp" and name == DECODER[1]:
            return attend(q_s, k_s, v)
        if method == "masactrl" and name in DECODER:
            return attend(q, k_s, v_s)
        if method == "kv-fusion" and name.endswith("attn1"):
            return attend(q, torch.cat([k, k_s]), torch.cat([v, v_s]))
        A = (q @ k.T / q.shape[1] ** 0.5).softmax(1)
        if method == "reweight" and name.endswith("attn2") and branch == 1:
            A[:, red] *= 3
        if method == "p2p" and branch == 1:
            A_s = (q_s @ k_s.T / q.shape[1] ** 0.5).softmax(1)
            if name.endswith("attn1"):
                A = A_s
            else:  # "paint the ball red" to "make the ball red snow": token 5 is added, what follows moves by one
                A[:, :5] = A_s[:, :5]
                A[:, 6:] = A_s[:, 5:15]
        return A @ v

    composition = {
        "pnp": PlugAndPlay(), "masactrl": MasaCtrl(0.0), "kv-fusion": KvFusion(), "p2p": PromptToPrompt(),
        "reweight": Reweight("red", 3.0),
    }[method]  # fmt: skip
    x = replace(x, t=980)  # in which all of them act
    got = AttendedScore(controllable(t2i), (composition,)).target(x)
    expected = torch.cat([rows_by_hand(t2i, x, i, target, source) for i in range(2)])
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert (got - controllable(t2i).target(x)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("composition", "acts", "rests"),
    [
        (PlugAndPlay(0.8, 0.5), 201, 199), (PlugAndPlay(0.0, 0.5), 501, 499), (PromptToPrompt(0.8, 0.0), 201, 199),
        (PromptToPrompt(0.0, 0.4), 601, 599), (MasaCtrl(0.08), 919, 921), (PlugAndPlay(1.0, 1.0), 0, None),
        (PlugAndPlay(0.0, 0.0), None, 999),
    ],
)  # fmt: skip
def test_methods_act_in_their_share_of_the_timesteps(
    composition: Composition, acts: int | None, rests: int | None, t2i: TextToImagePrior
) -> None:
    score = controllable(t2i)
    for t in (acts, rests):
        if t is not None:
            x = step(2, t)
            changed = not torch.equal(AttendedScore(score, (composition,)).target(x), score.target(x))
            assert changed == (t == acts), f"{composition} at {t}"


@pytest.mark.parametrize("method", ["csd-edit", "sds", "csd", "dds", "cds"])
def test_every_method_takes_a_controlled_score(method: str, t2i: TextToImagePrior, instruct: InstructPrior) -> None:
    config: CsdConfig = replace(METHODS[method], t_max=1000)
    prior = instruct if method == "csd-edit" else t2i
    x = step()
    plain = controllable(prior)
    g, other = (csd_step(s, x, config).g for s in (AttendedScore(plain, (KvFusion(),), shares=True), plain))
    assert g.isfinite().all()
    assert (g - other).abs().max() > 1e-3


def test_two_ranks_give_what_one_gives(t2i: TextToImagePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks after one another: each with every second particle and an anchors' pass of its own."""
    from csd3d.runs import ranks

    def of_two(count: int, do: Any) -> Tensor:
        rows = torch.cat([do(list(range(rank, count, 2))) for rank in (0, 1)])
        return rows[torch.cat([torch.arange(rank, count, 2) for rank in (0, 1)]).argsort()]

    x, score = step(), AttendedScore(controllable(t2i), (KvFusion(),), shares=True)
    config = replace(METHODS["dds"], t_max=1000)
    expected = csd_step(score, x, config).g
    monkeypatch.setattr(ranks, "map_sharded", of_two)
    torch.testing.assert_close(csd_step(ranks.SharedScore(score), x, config).g, expected, atol=1e-4, rtol=1e-3)


def test_what_settings_say_is_read() -> None:
    assert parse("reweight:word=snow,scale=1.5") == Reweight("snow", 1.5)
    assert parse("reweight: word = red ball , scale=-2") == Reweight("red ball", -2.0)
    assert parse("p2p") == PromptToPrompt()
    assert parse("pnp:features-until=0.5") == PlugAndPlay(0.5, 0.5)
    assert parse("masactrl:after=0.2") == MasaCtrl(0.2)
    assert parse("kv-fusion") == KvFusion()
    assert Attention.of("anchors", ("p2p", "kv-fusion")) == Attention("anchors", (PromptToPrompt(), KvFusion()))
    assert Attention.of("none", ()) == Attention()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snow", "expected reweight, p2p, pnp, masactrl, kv-fusion, structure, sag, like, dense, eye, got 'snow'"),
        ("", "expected reweight, .* got ''"),
        ("reweight", "expected reweight with word, scale, got none of word, scale"),
        ("reweight:word=snow", "got none of scale"),
        ("reweight:word=snow,scale=much", "expected a number for reweight scale, got 'much'"),
        ("reweight:word=snow,scale=nan", "scale: expected"),
        ("pnp:until=0.5", "expected pnp with features-until=..., attention-until=..., got 'until=0.5'"),
        ("pnp:features-until", "got 'features-until'"),
        ("pnp:features-until=2", "features.until: expected"),
        ("kv-fusion:a=1", "expected kv-fusion with no keys, got 'a=1'"),
    ],
)
def test_what_makes_no_sense_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_what_a_prior_cannot_serve_is_refused_before_anything_is_computed(
    t2i: TextToImagePrior, instruct: InstructPrior, tmp_path: Path
) -> None:
    def over(score: Score, *texts: str) -> Any:
        return Attention.of("none", texts).over(score)

    with pytest.raises(ValueError, match=r"word: expected one of the prompt \(make it snowy\), got 'rain'"):
        over(controllable(instruct), "reweight:word=rain,scale=2")
    with pytest.raises(ValueError, match="p2p: expected a caption of the source"):
        over(controllable(instruct), "p2p")
    with pytest.raises(ValueError, match="p2p: expected a caption of the source"):
        over(t2i.score(Prompts("a ball"), Guidance(7.5)), "p2p")
    compiled = TextToImagePrior.load(t2i.path, device="cpu", compiled=True)
    with pytest.raises(ValueError, match="got one that is compiled"):
        over(controllable(compiled), "kv-fusion")

    class Foreign:
        schedule = t2i.schedule

        def target(self, x: Noised) -> Tensor: ...

        def source(self, x: Noised) -> Tensor: ...

    with pytest.raises(ValueError, match="expected a prior of Stable Diffusion's kind, got Foreign"):
        over(Foreign(), "kv-fusion")


def test_presets_are_documented() -> None:
    """One table has them all, with their keys and what these are where they are not said."""
    text = (Path(__file__).parents[2] / "docs" / "attention.md").read_text(encoding="utf-8")
    _, _, *rows = text[text.index("| name | keys (default)") :].split("\n\n")[0].splitlines()
    found = {cells[0].strip(" `"): cells[1] for cells in (row.strip("|").split("|") for row in rows)}
    assert list(found) == list(PRESETS)
    for name, kind in PRESETS.items():
        table: Any = kind
        keys = [f for f in fields(table) if f.name not in ("regions", "correspondences")]
        said = re.findall(r"`([^`]+)`(?: \(([^)]+)\))?", found[name])
        assert [key for key, _ in said] == [f.name.replace("_", "-") for f in keys]
        numbers = [(default, f.default) for (_, default), f in zip(said, keys, strict=True) if f.type is float]
        assert all(default == ("" if value is MISSING else f"{value:g}") for default, value in numbers), name
