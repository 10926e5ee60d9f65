"""Pictures to latents and back, against the autoencoder itself."""

import pytest
import torch

from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.codec import VaeCodec


@pytest.fixture
def rgb() -> torch.Tensor:
    return torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def with_chunks(codec: VaeCodec, most: int) -> VaeCodec:
    return VaeCodec(codec._vae, chunks=Chunks(torch.device("cpu"), max_rows=most))


def test_encoding_is_the_scaled_mode_of_the_posterior(prior: InstructPrior, rgb: torch.Tensor) -> None:
    codec = prior.codec
    z = codec.encode(rgb)
    moments = codec._vae._encode(2 * rgb - 1)
    assert (codec.factor, codec.channels, codec.scaling) == (8, 4, 0.5)
    assert z.shape == (5, 4, 4, 6)
    assert z.dtype == torch.float32
    assert z.is_contiguous()
    torch.testing.assert_close(z, moments[:, :4] * 0.5)


def test_encoding_is_deterministic(prior: InstructPrior, rgb: torch.Tensor) -> None:
    assert torch.equal(prior.codec.encode(rgb), prior.codec.encode(rgb))


@pytest.mark.parametrize("most", [1, 2, 4])
def test_pieces_give_the_same_as_the_whole(prior: InstructPrior, rgb: torch.Tensor, most: int) -> None:
    whole, pieces = prior.codec, with_chunks(prior.codec, most)
    z = whole.encode(rgb)
    torch.testing.assert_close(pieces.encode(rgb), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(pieces.decode(z), whole.decode(z), atol=1e-5, rtol=0)


def test_decoding_is_the_autoencoders_in_unit_range(prior: InstructPrior) -> None:
    z = 3 * torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    rgb = prior.codec.decode(z)
    expected = (prior.codec._vae.decode(z / 0.5).sample / 2 + 0.5).clamp(0, 1)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    torch.testing.assert_close(rgb, expected)
    assert rgb.shape == (2, 3, 32, 48)
    assert rgb.is_contiguous()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_no_numbers_are_refused(prior: InstructPrior, value: float) -> None:
    z = torch.zeros(5, 4, 4, 6)
    z[3, 0, 0, 0] = value
    with pytest.raises(FloatingPointError, match=r"autoencoder decodes is not finite, for pictures \[3\]"):
        with_chunks(prior.codec, 2).decode(z)


def test_gradients_reach_the_picture_and_not_the_weights(prior: InstructPrior, rgb: torch.Tensor) -> None:
    x = rgb[:2].clone().requires_grad_()
    with_chunks(prior.codec, 1).encode(x).square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(dim=(1, 2, 3)) > 0).all())
    assert all(p.grad is None for p in prior.codec._vae.parameters())


@pytest.mark.parametrize("size", [(30, 32), (32, 30), (4, 8), (0, 8)])
def test_sides_that_are_no_multiple_are_refused(prior: InstructPrior, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 8 px, got {size[1]}x{size[0]}"):
        prior.codec.encode(torch.zeros(1, 3, *size))


def test_perceptual_features_are_unit_columns_of_the_decoders_first_maps(prior: InstructPrior) -> None:
    codec = prior.codec
    z = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(3), requires_grad=True)
    f = codec.perceptual_features(z)
    assert f.shape == (3, 8 * 4 * 6 + 8 * 8 * 12)  # the middle, and twice as large after the first block up
    torch.testing.assert_close(f.square().sum(1), torch.full((3,), 2 * 4 * 6.0))
    torch.testing.assert_close(with_chunks(codec, 1).perceptual_features(z), f, atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(f[1, :50].sum(), z)
    assert slope[1].any()
    assert not slope[[0, 2]].any()
    assert all(weight.grad is None for weight in codec._vae.parameters())
