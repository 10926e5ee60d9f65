"""Cross-Image attention: what must be exactly equal, loops written from its definition, and colours that move."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd3d.attention.attended import AttendedScore, anchors_of
from csd3d.attention.compositions import KvFusion, PromptToPrompt
from csd3d.attention.like import CrossImage, Reference, contrasted, statistics
from csd3d.attention.presets import Attention, parse
from csd3d.engine import Batch, Noised, Schedule
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks import sites
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.manifest import Manifest
from csd3d.world.sample import sample_photo
from panorama import PanoramaConfig, edit_image
from panorama.generate import generate
from panorama.generate_config import GenerateConfig
from tests.priors.tiny import write_tiny_prior

T = 500
assert_same = partial(torch.testing.assert_close, atol=1e-3, rtol=1e-3)
PLAIN = CrossImage(contrast=1.0, colours=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("like")
    write_tiny_prior(place / "t2i", kind="text-to-image", closed=False, sample_size=4)
    write_tiny_prior(place / "instruct", sample_size=4)
    return place


@pytest.fixture(scope="module")
def priors(folder: Path) -> dict[str, Any]:
    found = {
        "t2i": TextToImagePrior.load(folder / "t2i", device="cpu"),
        "instruct": InstructPrior.load(folder / "instruct", device="cpu"),
    }
    for prior in found.values():
        for name, module in prior.denoiser._unet.named_modules():
            if name.endswith(("to_q", "to_k", "to_v")):
                module.weight.data *= 6  # random attentions look everywhere alike
    return found


def score_of(prior: Any, scale: float = 3.0) -> Any:
    prompts = Prompts("make it snowy") if isinstance(prior, InstructPrior) else Prompts("a red ball", "a ball")
    return prior.score(prompts, Guidance(scale, 1.5))


def reference(height: int = 8, width: int = 8) -> Reference:
    return Reference(torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(9)))


def step(n: int = 5, t: int = T) -> Noised:
    rng = torch.Generator().manual_seed(5)
    z, s, e = (torch.randn(n, 4, 8, 8, generator=rng) for _ in range(3))
    return Schedule.scaled_linear().noised(Batch(z, s, torch.randperm(n + 2, generator=rng)[:n]), t, e)


@pytest.mark.parametrize("kind", ["t2i", "instruct"])
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_a_picture_that_is_like_itself_is_as_it_is(priors: dict[str, Any], kind: str, scale: float) -> None:
    """The same latents, noise and sentence (none): its own keys and values come back, whatever the scale."""
    theirs, prior = reference(), priors[kind]
    score = prior.score(Prompts(""), Guidance(3.0, 1.5))
    x = score.schedule.noised(Batch(theirs.z, theirs.z, torch.tensor([4])), T, theirs.e)
    got = AttendedScore(score, (replace(PLAIN, scale=scale),), reference=theirs).target(x)
    assert_same(got, score.target(x))
    other = AttendedScore(score, (replace(PLAIN, scale=scale),), reference=reference(8, 6)).target(x)
    assert (other - got).abs().max() > 5e-3, "another picture does something"


def test_no_scale_and_no_colours_change_no_bit_and_cost_nothing(priors: dict[str, Any]) -> None:
    score, x, before = score_of(priors["t2i"]), step(), priors["t2i"].rows_done
    off = AttendedScore(score, (CrossImage(scale=0.0, colours=0.0),), reference=reference())
    assert torch.equal(off.target(x), score.target(x))
    assert priors["t2i"].rows_done - before == 2 * 10


def test_against_loops_written_from_the_paper(priors: dict[str, Any]) -> None:
    """One row at a time; every attention computed by hand, those of the decoder over the reference's places."""
    prior, x, theirs = priors["t2i"], step(2), reference(8, 6)
    unet: Any = prior.denoiser._unet
    left: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    class Own:
        def __init__(self, name: str, mode: str) -> None:
            self.name, self.mode = name, mode

        def __call__(self, a: Any, x: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None) -> Tensor:
            y = x if encoder_hidden_states is None else encoder_hidden_states
            out = []
            for h, (q, k, v) in enumerate(
                zip(*(w(u)[0].chunk(a.heads, 1) for w, u in ((a.to_q, x), (a.to_k, y), (a.to_v, y))), strict=True)
            ):
                if self.mode == "leave":
                    left[self.name, h] = k, v
                swaps = self.mode == "look" and self.name.startswith("up_blocks") and self.name.endswith("attn1")
                k, v = left[self.name, h] if swaps else (k, v)
                A = (q @ k.T / q.shape[1] ** 0.5).softmax(1)
                if swaps:
                    m = A.shape[1]
                    A = torch.tensor([[min(max(1.67 * (a - 1 / m) + 1 / m, 0), 1) for a in row] for row in A.tolist()])
                out.append(A @ v)
            return a.to_out[0](torch.cat(out, 1)[None])

    def call(mode: str, z_t: Tensor, sentence: str) -> Tensor:
        stock = dict(unet.attn_processors)
        for name, module in unet.named_modules():
            if name.endswith(("attn1", "attn2")):
                module.set_processor(Own(name, mode))
        with torch.no_grad():
            out = unet(z_t, torch.tensor(T), encoder_hidden_states=prior.text.encode([sentence])).sample
        unet.set_attn_processor(stock)
        return out

    score = score_of(prior)
    ab = score.schedule.alpha_bar(T)
    expected = []
    for i in range(2):
        made = {}
        for mode in ("plain", "look"):
            call("leave", ab**0.5 * theirs.z + (1 - ab) ** 0.5 * theirs.e, "")
            null, text = (call(mode, x.z_t[i : i + 1], sentence) for sentence in ("", "a red ball"))
            made[mode] = null + 3.0 * (text - null)
        expected.append(made["plain"] + 3.5 * (1 + T / 1000) / 2 * (made["look"] - made["plain"]))
    got = AttendedScore(score, (CrossImage(colours=0.0),), reference=theirs).target(x)
    torch.testing.assert_close(got, torch.cat(expected), atol=2e-3, rtol=2e-3)
    assert (got - score.target(x)).abs().max() > 2e-2


def test_colours_are_those_of_the_reference_over_the_anchors(priors: dict[str, Any]) -> None:
    score, x, theirs = score_of(priors["t2i"]), step(), reference()
    ab, like = score.schedule.alpha_bar(T), CrossImage(scale=0.0)
    e = AttendedScore(score, (like,), reference=theirs).target(x)
    x0 = (x.z_t - (1 - ab) ** 0.5 * e) / ab**0.5
    plain = (x.z_t - (1 - ab) ** 0.5 * score.target(x)) / ab**0.5
    for c in range(4):
        values = plain[anchors_of(x), c].flatten().tolist()
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        wanted = theirs.z[0, c].flatten()
        moved = (plain[:, c] - mean) / deviation * wanted.std(correction=0) + wanted.mean()
        torch.testing.assert_close(x0[:, c], moved, atol=2e-3, rtol=2e-3)
    alone = x.rows([0])
    e = AttendedScore(score, (like,), reference=theirs).target(alone)
    own = statistics((alone.z_t - (1 - ab) ** 0.5 * e) / ab**0.5)
    for got, wanted in zip(own, theirs.colours, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["t2i", "instruct"])
@pytest.mark.parametrize("shares", [False, True])
def test_pieces_order_and_company_change_nothing(priors: dict[str, Any], kind: str, shares: bool) -> None:
    x, prior = step(), priors[kind]
    score = AttendedScore(score_of(prior, 1.5), (CrossImage(scale=1.5),), shares=shares, reference=reference(6, 10))
    whole = score.for_step(x).target(x)
    again = score.for_step(x)
    assert_same(torch.cat([again.target(x.rows([i])) for i in range(5)]), whole, atol=3e-3)
    for chunks in prior.chunks:
        chunks.max_rows = 2
    assert_same(score.for_step(x).target(x), whole, atol=3e-3)
    for chunks in prior.chunks:
        chunks.max_rows = None
    order = [3, 0, 4, 1, 2]
    assert_same(score.target(x.rows(order)), whole[order], atol=3e-3)


def test_the_reference_is_read_once_a_level(priors: dict[str, Any]) -> None:
    prior, theirs = priors["t2i"], reference()
    score = AttendedScore(score_of(prior), (PLAIN,), reference=theirs)
    before = prior.rows_done
    for t in (T, T, 400):
        score.target(step(3, t))
    assert prior.rows_done - before == 3 * (3 * 2 * 2) + 2, "one row a level, however many particles"


@pytest.mark.parametrize(("t", "acts"), [(901, False), (899, True), (301, True), (299, False)])
def test_it_acts_in_the_middle_of_the_timesteps(priors: dict[str, Any], t: int, acts: bool) -> None:
    """The tiny decoder has attention at level 1 alone, where it ends at 70 %."""
    score, x = score_of(priors["t2i"]), step(1, t)
    got = AttendedScore(score, (PLAIN,), reference=reference()).target(x)
    assert torch.equal(got, score.target(x)) != acts
    for never in (replace(PLAIN, after=1.0), replace(PLAIN, until=0.0, coarse_until=0.0)):
        assert torch.equal(AttendedScore(score, (never,), reference=reference()).target(x), score.target(x))


def test_large_maps_come_some_queries_at_a_time(priors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    score, x = score_of(priors["t2i"]), step(2)
    like = AttendedScore(score, (CrossImage(),), reference=reference())
    whole = like.target(x)
    monkeypatch.setattr(sites, "MOST_WEIGHTS", 40)
    assert_same(AttendedScore(score, (CrossImage(),), reference=reference()).target(x), whole)


def test_contrast_keeps_the_mean_and_stays_within_bounds() -> None:
    A = torch.rand(2, 3, 4, 7).softmax(-1)
    torch.testing.assert_close(contrasted(A, 1.0), A)
    torch.testing.assert_close(contrasted(A, 1.2).sum(-1), torch.ones(2, 3, 4))
    sharp = contrasted(torch.eye(7), 1.67)
    torch.testing.assert_close(sharp, torch.eye(7))


@pytest.mark.parametrize(
    ("texts", "likes", "message"),
    [
        (("like",), False, "expected like beside a picture, --like photo.jpg, got it alone"),
        (("like:contrast=0",), True, "contrast: expected 1 to 10"),
        (("like:picture=a.png",), True, "expected like with contrast=..., scale=..."),
    ],
)
def test_what_makes_no_sense_is_one_line(texts: tuple[str, ...], likes: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention.of("none", texts, likes=likes)


def test_what_cannot_be_served_is_refused(priors: dict[str, Any]) -> None:
    assert Attention.of("none", (), likes=True).compositions == (CrossImage(),)
    assert parse("like:scale=2,colours=0.5") == CrossImage(scale=2.0, colours=0.5)
    score = score_of(priors["t2i"])
    with pytest.raises(ValueError, match="like: expected a picture"):
        AttendedScore(score, (CrossImage(),))
    with pytest.raises(ValueError, match="expected like once"):
        AttendedScore(score, (CrossImage(), CrossImage()), reference=reference())
    with pytest.raises(ValueError, match="p2p with self-until=0 beside like"):
        AttendedScore(score, (PromptToPrompt(), CrossImage()), reference=reference())
    both = AttendedScore(score, (KvFusion(), PromptToPrompt(self_until=0.0), CrossImage()), reference=reference())
    assert both.target(step(2)).isfinite().all()


def save(picture: Tensor, path: Path) -> str:
    Image.fromarray((255 * picture[0].permute(1, 2, 0)).round().byte().numpy()).save(path)
    return str(path)


def test_an_edit_goes_on_where_it_stopped_and_knows_its_picture(folder: Path, tmp_path: Path) -> None:
    source, other = (save(sample_photo(k, height_px=32, width_px=40).source(), tmp_path / f"{k}.png") for k in (3, 8))
    prior = InstructPrior.load(folder / "instruct", device="cpu")
    config = PanoramaConfig(
        csd=replace(prior.defaults(), steps=4, s_text=2.0), prior=str(folder / "instruct"), like=other
    )

    def edit(name: str, config: PanoramaConfig, **more: Any) -> np.ndarray:
        run = tmp_path / f"run-{name}"
        return np.array(
            Image.open(edit_image(source, "make it snowy", None, config, run_dir=run, prior=prior, **more).path)
        )

    whole = edit("whole", config)
    assert config.csd is not None
    edit("parts", replace(config, csd=replace(config.csd, steps=2)))
    assert np.array_equal(edit("parts", config, resume=True), whole)
    assert not np.array_equal(edit("without", replace(config, like=None)), whole)
    named = [Path(entry["path"]).name for entry in Manifest.read(tmp_path / "run-whole" / "manifest.json").inputs]
    assert named == ["3.png", "8.png"]
    with pytest.raises(FileNotFoundError, match="expected a file, got"):
        edit("gone", replace(config, like=str(tmp_path / "none.png")))
    assert not (tmp_path / "run-gone").exists()


@pytest.mark.parametrize("method", ["ddim", "csd"])
def test_pictures_are_made_like_another(folder: Path, tmp_path: Path, method: Any) -> None:
    other = save(sample_photo(8, height_px=32, width_px=40).source(), tmp_path / "other.png")
    prior = TextToImagePrior.load(folder / "t2i", device="cpu")
    csd = replace(prior.generation(method), steps=2)
    config = GenerateConfig(csd=csd, prior=str(folder / "t2i"), method=method, n=2, like=other, width=48)
    made = generate("a red ball", tmp_path / "like.png", config, run_dir=tmp_path / "run", prior=prior)
    few = replace(config, windows_per_step=1, n=1)
    one = generate("a red ball", tmp_path / "one.png", few, run_dir=tmp_path / "one", prior=prior)
    first, single = (np.array(Image.open(path)).astype(float) for path in (made.outputs[0], one.path))
    if method == "ddim":
        assert abs(first - single).max() <= 2, "each for itself, windows in any pieces"
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.source is None
    assert manifest.inputs[0]["path"] == other


@pytest.mark.slow
def test_colours_of_world_pictures_move_to_the_reference() -> None:
    prior = TextToImagePrior.load("builtin:t2i", device="cpu")
    theirs = sample_photo(21, height_px=128, width_px=128).source()  # on sand
    like = Attention(compositions=(CrossImage(),), reference=prior.encode(theirs))

    def away(rgb: Tensor) -> float:
        return float((rgb.mean((0, 2, 3)) - theirs.mean((0, 2, 3))).norm())

    made = {
        name: prior.sample(
            Prompts("a red ball on grass"), Guidance(6.0), 2, size_lat=(16, 16), steps=10, sampler="ddim",
            rng=torch.Generator().manual_seed(0), attention=attention,
        )
        for name, attention in (("plain", None), ("like", like))
    }  # fmt: skip
    assert away(made["like"]) < 0.5 * away(made["plain"])
