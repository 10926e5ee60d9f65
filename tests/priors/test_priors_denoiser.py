"""Calls of the UNet in pieces, and what its output means."""

import pytest
import torch
from torch import Tensor

from csd3d.attention import Rows, Tokens
from csd3d.engine.schedule import Schedule
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser, to_epsilon

NAMED = Rows.of("target", ["null"], range(7), lambda *_: Tokens((), 16), noise=0.3, size_lat=(8, 8))


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(7, 8, 8, 8, generator=rng), torch.randn(7, 16, 64, generator=rng)


@pytest.mark.parametrize("most", [1, 3, 7])
def test_pieces_give_the_same_as_one_call(prior: InstructPrior, rows: tuple[Tensor, Tensor], most: int) -> None:
    x, text = rows
    unet = prior.denoiser._unet
    expected = unet(x, torch.tensor(321), encoder_hidden_states=text).sample
    denoiser = Denoiser(unet, chunks=Chunks(torch.device("cpu"), max_rows=most))
    out = denoiser.predict(lambda r: (x[r], text[r]), NAMED, 321)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert out.dtype == torch.float32
    assert out.is_contiguous()


def test_a_unet_on_a_cpu_sees_contiguous_rows(
    prior: InstructPrior, rows: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    unet = prior.denoiser._unet
    monkeypatch.setattr(unet, "forward", lambda x, *_, **__: (seen.append(x), (x[:, :4],))[1])
    x = rows[0].to(memory_format=torch.channels_last)
    prior.denoiser.predict(lambda r: (x[r], rows[1][r]), NAMED, 321)
    assert seen[0].is_contiguous()
    assert unet.conv_in.weight.is_contiguous()


def test_velocity_and_noise_say_the_same() -> None:
    schedule = Schedule.scaled_linear()
    rng = torch.Generator().manual_seed(4)
    z, e = (torch.randn(2, 4, 3, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    for t in (0, 500, 999):
        ab = schedule.alpha_bar(t)
        z_t = schedule.add_noise(z, e, t)
        v = ab**0.5 * e - (1 - ab) ** 0.5 * z
        torch.testing.assert_close(to_epsilon(v, z_t, t, schedule=schedule, prediction="v_prediction"), e)
        assert to_epsilon(e, z_t, t, schedule=schedule, prediction="epsilon") is e
