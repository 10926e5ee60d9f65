"""Steering on a tiny UNet: against the published loops, written again from them; differences; what is left behind."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from csd3d.attention import Control, Rows, Site, Tokens, choose
from csd3d.attention.energy import SIGMA, Columns, Contrast, Energy, Excite
from csd3d.attention.steer import Pick, Steer, Steering
from csd3d.priors.defaults import suited
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.attention.test_attention_attended import sharp
from tests.priors.test_priors_sites import fingerprint, tiny_unet
from tests.priors.tiny import write_tiny_prior

STEPS = 10
"""So refinement is in steps 0, 2 and 4, and updates are in the first five."""
GROUPS = [[2, 3], [8, 9]]
CAPTIONS = ("a red ball and a snowy cover", "a red paint and a night day")
PUBLISHED = Steering(step=20.0, rounds=2, columns="all", level=1, sites="")


def exact(prior: Any) -> Any:
    """In float64, as steering amplifies rounding, with attentions that tell places apart."""
    prior.denoiser._unet.double()
    prior.denoiser._dtype = torch.float64
    return sharp(prior, 3)


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("steer") / "t2i", kind="text-to-image", closed=False)
    return exact(TextToImagePrior.load(folder, device="cpu"))


@pytest.fixture
def score(t2i: TextToImagePrior) -> Any:
    return t2i.score(Prompts(CAPTIONS), Guidance(6.0))


def noise(n: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(steer: Steer, z: Tensor, count: int = 6) -> list[Tensor]:
    """Latents before every step; between steps something happens to them."""
    out = []
    for i in range(count):
        z = steer(z, 900 - 90 * i, i, torch.arange(len(z)))
        out.append(z)
        z = 0.9 * z
    return out


class Loops:
    """One latent at a time, as the public pipelines do it; maps by hooks, from inputs of the attentions."""

    def __init__(self, prior: TextToImagePrior, caption: str, how: Steering) -> None:
        self.unet: Any = prior.denoiser._unet
        self.text, self.how = prior.embed([caption]).double(), how
        self.last = prior.text.tokens(caption).end - 1
        self.before: Tensor | None = None

    def maps(self, z: Tensor, t: int) -> Tensor:
        found: list[Tensor] = []

        def catch(module: Any, arguments: Any, options: Any) -> None:
            q, k = module.to_q(arguments[0])[0], module.to_k(options["encoder_hidden_states"])[0]
            d = q.shape[1] // module.heads
            for h in range(module.heads):
                part = slice(h * d, (h + 1) * d)
                found.append((q[:, part] @ k[:, part].T / math.sqrt(d)).softmax(1) / module.heads)

        modules = [m for name, m in self.unet.named_modules() if name.endswith("attn2")]
        hooks = [m.register_forward_pre_hook(catch, with_kwargs=True) for m in modules]
        self.unet(z, torch.tensor(t), encoder_hidden_states=self.text)
        for hook in hooks:
            hook.remove()
        return (sum(found) / len(modules)).unflatten(0, (4, 4))  # type: ignore[union-attr]

    def of_token(self, A: Tensor, token: int) -> Tensor:
        if self.how.columns == "all":
            one = (100 * A[:, :, 1:-1]).softmax(2)[:, :, token - 1]
        else:
            one = A[:, :, token] / A[:, :, 1 : self.last + 1].sum(2)
        mirrored = pad(one[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
        weights = [[math.exp(-((a - 1) ** 2 + (b - 1) ** 2) / (2 * SIGMA**2)) for b in range(3)] for a in range(3)]
        total = sum(map(sum, weights))
        return sum(weights[a][b] / total * mirrored[a : a + 4, b : b + 4] for a in range(3) for b in range(3))  # type: ignore[return-value]

    def loss(self, A: Tensor) -> Tensor:
        if isinstance(self.how.energy, Excite):
            return max(1 - self.of_token(A, group[-1]).max() for group in GROUPS)
        vectors, classes = [], []
        for c, group in enumerate(GROUPS):
            for token in group:
                for every in (A,) if self.before is None else (A, self.before):
                    vectors.append(self.of_token(every, token).flatten())
                    classes.append(c)
        terms = []
        for i in range(len(vectors)):
            like = [torch.exp(torch.cosine_similarity(vectors[i], v, 0) / 0.5) for v in vectors]
            others = sum(like[n] for n in range(len(vectors)) if classes[n] != classes[i])
            for j in range(len(vectors)):
                if j != i and classes[i] == classes[j]:
                    terms.append(-torch.log(like[j] / (like[j] + others)))
        return torch.stack(terms).mean()

    def value(self, z: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        z = z.detach().requires_grad_()
        A = self.maps(z, t)
        loss = self.loss(A)
        return loss.detach(), torch.autograd.grad(loss, z)[0], A.detach()

    def step(self, z: Tensor, t: int, i: int) -> Tensor:
        if i >= STEPS // 2:
            return z
        assert self.how.step is not None
        size = self.how.step * float(torch.linspace(1, 0.5, STEPS, dtype=torch.float64)[i].sqrt())
        excites = isinstance(self.how.energy, Excite)
        loss, slope, A = self.value(z, t)
        target = {0: 1 - 0.05, 2: 1 - 0.5, 4: 1 - 0.8}.get(i)
        if target is not None and (loss > target or not excites):
            for _ in range(self.how.rounds or 0):
                loss, slope, A = self.value(z, t)
                z = z - size * slope
                if excites and loss <= target:
                    break
            loss, slope, A = self.value(z, t)
        self.before = A
        return z - size * slope


@pytest.mark.parametrize("columns", ["all", "words"])
@pytest.mark.parametrize("energy", [Contrast(), Excite()], ids=["conform", "excite"])
def test_steering_is_the_published_loop(t2i: TextToImagePrior, score: Any, energy: Energy, columns: Columns) -> None:
    how = replace(PUBLISHED, energy=energy, columns=columns, step=0.2 if isinstance(energy, Contrast) else 5.0)
    got = walk(Steer.over(score, how, steps=STEPS), noise())
    for j, caption in enumerate(CAPTIONS):
        loops, z = Loops(t2i, caption, how), noise()[j : j + 1]
        for i in range(6):
            z = loops.step(z, 900 - 90 * i, i)
            torch.testing.assert_close(got[i][j], z[0], atol=1e-6, rtol=1e-5)
            z = 0.9 * z
    moved = (got[4] - noise() * 0.9**4).abs().max()
    assert moved > 5e-3, "it does something"


def test_steps_relative_to_the_latent(score: Any) -> None:
    how = replace(PUBLISHED, step=None, rms=0.05, rounds=0)
    z = noise()
    moved = Steer.over(score, how, steps=STEPS)(z, 900, 0, torch.arange(2)) - z
    shares = moved.square().mean((1, 2, 3)).sqrt() / z.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(shares, torch.full((2,), 0.05).double())


@pytest.mark.parametrize("energy", [Contrast(), Excite()], ids=["conform", "excite"])
def test_pieces_order_and_company_change_nothing(t2i: TextToImagePrior, score: Any, energy: Energy) -> None:
    how = replace(PUBLISHED, energy=energy, step=0.002, rounds=1)
    whole = walk(Steer.over(score, how, steps=STEPS), noise(), 2)[1]
    assert torch.equal(whole, walk(Steer.over(score, how, steps=STEPS), noise(), 2)[1]), "the same again"
    for chunks in t2i.chunks:
        chunks.max_rows = 1
    close: Any = {"atol": 1e-8, "rtol": 1e-7}
    torch.testing.assert_close(walk(Steer.over(score, how, steps=STEPS), noise(), 2)[1], whole, **close)
    for chunks in t2i.chunks:
        chunks.max_rows = None
    alone = Steer.over(score, how, steps=STEPS)
    z = noise()[1:]
    for i in range(2):
        z = alone((1.0, 0.9)[i] * z, 900 - 90 * i, i, torch.tensor([1]))
    torch.testing.assert_close(z, whole[1:], **close)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_differences_in_float64(checkpointing: bool) -> None:
    unet = tiny_unet(checkpointing=checkpointing)
    denoiser = Denoiser(unet, chunks=Chunks(torch.device("cpu"), max_rows=1))
    text = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(2)).double()
    sites = choose(denoiser.sites, kind="cross", levels=(0,))
    rows = Rows.of("target", ["text"], [0, 1], lambda *_: Tokens((), 9), noise=0.3, size_lat=(8, 8))

    def read(z: Tensor, *, gradient: bool) -> Any:
        return denoiser.map_energy(
            z, 321, rows, make=lambda z, i: (z, text.expand(len(i), -1, -1)), sites=sites, controls=(),
            energy=lambda A, _: (A[:, 2] * A[:, 3]).sum((1, 2)) + A[:, 4].amax((1, 2)), gradient=gradient,
        )  # fmt: skip

    z, along = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    found = read(z, gradient=True)
    assert found.gradient.dtype == found.energy.dtype == torch.float64
    slope = (read(z + 1e-5 * along, gradient=False).energy - read(z - 1e-5 * along, gradient=False).energy) / 2e-5
    torch.testing.assert_close((found.gradient * along).sum((1, 2, 3)), slope, atol=1e-10, rtol=1e-5)
    assert not found.maps.requires_grad


def test_an_exception_leaves_the_same_processors_behind(t2i: TextToImagePrior, score: Any) -> None:
    before = fingerprint(t2i.denoiser._unet)

    class Fails:
        targets, compares = Excite.targets, False

        def __call__(self, *_: Any) -> Any:
            raise RuntimeError("on the way")

    how = replace(PUBLISHED, energy=Fails())
    with pytest.raises(RuntimeError, match="on the way"):
        Steer.over(score, how, steps=STEPS)(noise(), 900, 0, torch.arange(2))
    assert fingerprint(t2i.denoiser._unet) == before
    with pytest.raises(ValueError, match="steer: expected sites and a level"):
        Steer.over(score, replace(PUBLISHED, level=3), steps=STEPS)


def test_controls_act_while_maps_are_read(score: Any) -> None:
    seen: list[str] = []

    def reads(site: Any, rows: Rows, A: Tensor) -> Tensor:
        seen.extend(rows.branch)
        return A

    control = Control(choose(score.sites, kind="cross"), weigh=reads)
    Steer.over(score, PUBLISHED, steps=STEPS, controls=[control])(noise(), 900, 7, torch.arange(2))
    assert not seen, "after the first half nothing is read"
    Steer.over(score, PUBLISHED, steps=STEPS, controls=[control])(noise(), 900, 1, torch.arange(2))
    assert set(seen) == {"text"}


def test_worth_is_the_smallest_peak_and_the_best_is_kept(score: Any, t2i: TextToImagePrior) -> None:
    worth = Steer.over(score, PUBLISHED, steps=STEPS).worth(noise(), 900, torch.arange(2))
    for j, caption in enumerate(CAPTIONS):
        loops = Loops(t2i, caption, replace(PUBLISHED, energy=Excite()))
        assert float(worth[j]) == pytest.approx(1 - float(loops.value(noise()[j : j + 1], 900)[0]), abs=1e-4)
    best: Sequence[int] = Pick(3).best(torch.tensor([0.1, 0.4, 0.2, 0.9, 0.9, 0.0])).tolist()
    assert best == [1, 3]


def test_settings_in_one_word() -> None:
    assert Steering.of("conform") == Steering(Contrast())
    text = "excite: step=10, until=0.3, rounds=0, columns=words, level=1, sites=up_blocks"
    assert Steering.of(text) == Steering(Excite(), 10.0, None, 0.3, 0, "words", 1, "up_blocks")
    said = Steering.of("conform:temperature=0.1,previous=no,negatives=yes,rms=0.1")
    assert said == Steering(Contrast(0.1, previous=False), rms=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boost", "steer: expected conform, excite, layout, got 'boost'"),
        ("excite:temperature=1", "steer: expected excite with step=..., .*, got 'temperature=1'"),
        ("conform:rounds=2.5", "steer: expected a whole number for conform rounds, got '2.5'"),
        ("conform:previous=1", "steer: expected yes or no for conform previous, got '1'"),
        ("conform:step=1,rms=1", "rms: expected none beside step"),
        ("conform:until=2", "until: expected"),
        ("conform:columns=some", "steer: expected one of all, words for conform columns, got 'some'"),
        ("conform:energy=x", "got 'energy=x'"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Steering.of(text)
    assert "\n" not in str(error.value)


def test_what_suits_a_prior_fills_what_was_not_said() -> None:
    published = suited(Steering(), builtin=False)
    assert (published.step, published.rms, published.rounds, published.columns) == (20, None, 20, "all")
    levels = [Site("a", "cross", "up", 0, level, 2) for level in (0, 1, 2, 3)]
    assert published.chosen(levels) == (levels[2],), "16 x 16 maps of Stable Diffusion"
    assert published.chosen(levels[:2]) == (levels[1],)
    builtin = suited(Steering.of("excite:step=3"), builtin=True)
    assert (builtin.step, builtin.rms, builtin.columns) == (3, None, "words")
    assert suited(Steering(), builtin=True).rms is not None


def test_a_caption_without_things_is_refused(t2i: TextToImagePrior) -> None:
    with pytest.raises(ValueError, match="group: expected things in the prompt"):
        Steer.over(t2i.score(Prompts("a photo"), Guidance(1.0)), PUBLISHED, steps=STEPS)
    named = Steer.over(t2i.score(Prompts("make it night"), Guidance(1.0)), PUBLISHED, steps=STEPS, group="make | night")
    assert [g.text for g in next(iter(named.groups.values()))] == ["make", "night"]
