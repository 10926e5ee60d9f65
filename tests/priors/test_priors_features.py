"""Features of a UNet's decoder and the gradient through it, against the UNet called by hand and against differences."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention.sites import Site
from csd3d.engine import METHODS, Batch, Features, Noised, csd_step
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser
from csd3d.priors.networks.features import as_map, feature_sites
from csd3d.priors.networks.sites import leaving, sites_of
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.tiny import write_tiny_prior

T = 321
LAYERS = ("self-attention", "cross-attention", "score")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("taps") / "t2i", kind="text-to-image", closed=False)


@pytest.fixture(scope="session")
def t2i(directory: Path) -> TextToImagePrior:
    return TextToImagePrior.load(directory, device="cpu")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy particles, noisy sources, particle numbers; neither square nor multiples of four."""
    rng = torch.Generator().manual_seed(5)
    return torch.randn(3, 4, 6, 10, generator=rng), torch.randn(3, 4, 6, 10, generator=rng), torch.arange(3)


def squares(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """A smooth loss, a sum over particles."""
    return torch.stack([((q - p) ** 2).sum() for q, p in zip(target, source, strict=True)]).sum()


def modules(unet: Any, layers: Any) -> list[Any]:
    """What features are taken from."""
    return [unet.get_submodule(site.name) for site in feature_sites(sites_of(unet), layers)]


def test_features_are_what_leaves_the_decoders_attentions_and_nothing_is_left_behind(t2i: TextToImagePrior) -> None:
    unet: Any = t2i.denoiser._unet
    assert modules(unet, "self-attention") == [
        unet.up_blocks[0].attentions[k].transformer_blocks[0].attn1 for k in range(2)
    ]
    assert modules(unet, "score") == [unet.conv_out]
    before = {name: (type(m), m.__dict__.keys(), len(m._forward_hooks)) for name, m in unet.named_modules()}
    with pytest.raises(RuntimeError), leaving(unet, feature_sites(sites_of(unet), "self-attention")):
        raise RuntimeError("on the way")
    after = {name: (type(m), m.__dict__.keys(), len(m._forward_hooks)) for name, m in unet.named_modules()}
    assert before == after


def pair(z_t: Tensor, s_t: Tensor, s: Tensor, index: Tensor) -> Noised:
    """Noisy latents of particles and of their sources, whose clean part and noise play no role."""
    return replace(Noised.from_noisy(z_t, T, s, index), s_t=s_t)


def test_a_decoder_without_attention_is_refused(t2i: TextToImagePrior) -> None:
    bare = copy.deepcopy(t2i.denoiser._unet)
    for name in ("attn1", "attn2"):
        for module in list(bare.up_blocks.modules()):
            module._modules.pop(name, None)
    with pytest.raises(ValueError, match="nce_layers: expected layers that the prior's UNet has, got 'self-attention'"):
        feature_sites(sites_of(bare), "self-attention")


@pytest.mark.parametrize(
    ("tokens", "level", "size"), [(60, 0, (6, 10)), (15, 1, (3, 5)), (6, 2, (2, 3)), (2, 3, (1, 2)), (12, 1, (3, 4))]
)
def test_tokens_become_maps_at_every_level(tokens: int, level: int, size: tuple[int, int]) -> None:
    top = (5, 7) if tokens == 12 else (6, 10)
    output = torch.arange(tokens * 3).reshape(1, tokens, 3).float()
    got = as_map(output, Site("a", "self", "up", 0, level), top)
    assert got.shape == (1, 3, *size)
    assert torch.equal(got[0, :, 0, 1], output[0, 1])
    assert torch.equal(got[0, :, -1, 0], output[0, (size[0] - 1) * size[1]])


@pytest.mark.parametrize("layers", LAYERS)
def test_the_gradient_is_that_through_the_unet_called_by_hand(
    layers: Any, t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z_t, s_t, index = batch
    score = t2i.score(Prompts(["a red ball", "snow", "a cube"], "a blue cube"), Guidance(7.5))
    assert isinstance(score, Features)
    got = score.feature_gradient(pair(z_t, s_t, s_t, index), layers, squares)
    assert got.isfinite().all()
    unet: Any = t2i.denoiser._unet
    texts = t2i.text.encode(["a red ball", "snow", "a cube", "a blue cube"])
    for i in range(3):
        z = z_t[i : i + 1].clone().requires_grad_()
        kept: list[list[Tensor]] = []
        for x, text in ((z, texts[i : i + 1]), (s_t[i : i + 1], texts[3:])):
            found = []
            hooks = [
                m.register_forward_hook(lambda _m, _a, out, found=found: found.append(out))
                for m in modules(unet, layers)
            ]
            unet(x, torch.tensor(T), encoder_hidden_states=text)
            for hook in hooks:
                hook.remove()
            kept.append(found)
        (expected,) = torch.autograd.grad(squares(kept[0], [p.detach() for p in kept[1]]), z)
        torch.testing.assert_close(got[i : i + 1], expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_an_editor_compares_the_sentence_with_none(
    prior: InstructPrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z_t, s_t, index = batch
    s = s_t.flip(0)
    score = prior.score(Prompts("make it snowy"), Guidance(7.5, 1.5))
    got = score.feature_gradient(pair(z_t, s_t, s, index), "score", squares)
    condition, (null, snow) = s / prior.codec.scaling, prior.text.encode(["", "make it snowy"])
    unet: Any = prior.denoiser._unet
    z = z_t.clone().requires_grad_()
    e_IT, e_I0 = (
        unet(torch.cat([x, condition], 1), torch.tensor(T), encoder_hidden_states=text.expand(3, -1, -1)).sample
        for x, text in ((z, snow), (s_t, null))
    )
    (expected,) = torch.autograd.grad(squares([e_IT], [e_I0.detach()]), z)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_by_differences(t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Through everything: along its gradient the loss grows by the gradient's length."""
    z_t, s_t, index = batch
    score = t2i.score(Prompts("a red ball", "a cube"), Guidance(1.0))
    values: list[float] = []

    def loss(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        total = squares(target, source)
        values.append(float(total.detach()))
        return total

    def gradient(z: Tensor) -> Tensor:
        return score.feature_gradient(pair(z, s_t, s_t, index), "self-attention", loss)

    g = gradient(z_t)
    along = g / g.norm()
    h = 1e-2
    gradient(z_t + h * along)
    gradient(z_t - h * along)
    slope = (values[1] - values[2]) / (2 * h)
    assert slope == pytest.approx(float(g.norm()), rel=5e-3)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_pieces_and_checkpointing_give_the_same(
    most: int, checkpointing: bool, directory: Path, t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z_t, s_t, index = batch
    other = TextToImagePrior.load(directory, device="cpu", checkpointing=checkpointing)
    small = Denoiser(other.denoiser._unet, chunks=Chunks(torch.device("cpu"), max_rows=most))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    modules(other.denoiser._unet, "self-attention")[0].register_forward_hook(count)
    whole, pieces = (
        p.score(Prompts("a red ball", "a cube"), Guidance(7.5)).feature_gradient(
            pair(z_t, s_t, s_t, index), "self-attention", squares
        )
        for p in (t2i, replace(other, denoiser=small))
    )
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)
    assert calls == (3 if checkpointing else 2) * -(-3 // most)


@pytest.mark.parametrize("layers", LAYERS)
def test_cds_runs_on_it_and_differs_from_dds(
    layers: Any, t2i: TextToImagePrior, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    z, s, index = batch
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    score = t2i.score(Prompts("a red ball", "a blue cube"), Guidance(7.5))
    cds, x = replace(METHODS["cds"], nce_layers=layers), t2i.schedule.noised(Batch(z, s, index), T, e)
    g, plain = (csd_step(score, x, c).g for c in (cds, METHODS["dds"]))
    assert g.isfinite().all()
    assert (g - plain).abs().max() > 1e-6
    with pytest.raises(ValueError, match="source_prompt"):
        csd_step(t2i.score(Prompts("a red ball"), Guidance(7.5)), x, replace(cds, residual="noise"))
