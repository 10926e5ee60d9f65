"""Calls of the UNet in pieces, and what its output means."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from csd3d.attention import Rows, Tokens
from csd3d.engine import Latents, Noised, sample, timesteps
from csd3d.engine.schedule import Schedule
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.networks.denoiser import Denoiser, Prediction, from_epsilon, to_epsilon
from csd3d.priors.store.load import LEAST_ALPHA_BAR, read_schedule

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


class ZeroSnr:
    """The exact velocities of data N(0.7, 0.3), by a schedule that ends at noise alone."""

    schedule: Schedule
    prediction: Prediction

    def __init__(self) -> None:
        ending = DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", rescale_betas_zero_snr=True
        )
        self.schedule, self.prediction = read_schedule(ending)

    def velocity(self, x: Tensor, t: int) -> Tensor:
        ab = self.schedule.alpha_bar(t)
        away = (x - 0.7 * ab**0.5) / (0.3 * ab + 1 - ab)
        return ab**0.5 * (1 - ab) ** 0.5 * away - (1 - ab) ** 0.5 * (0.7 + 0.3 * ab**0.5 * away)

    def target(self, x: Noised) -> Latents:
        v = self.velocity(x.z_t, x.t)
        return to_epsilon(v, x.z_t, x.t, schedule=self.schedule, prediction=self.prediction)

    source = target


def test_a_schedule_that_ends_at_noise_alone_keeps_what_a_velocity_says_of_the_picture() -> None:
    score, x = ZeroSnr(), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert score.schedule.alpha_bar(999) == LEAST_ALPHA_BAR < score.schedule.alpha_bar(998)
    e = score.target(Noised.from_noisy(x, 999, x, torch.arange(4)))
    back = from_epsilon(e, x, 999, schedule=score.schedule, prediction=score.prediction)
    torch.testing.assert_close(back, score.velocity(x, 999), atol=2e-3, rtol=0)
    made = sample(score, x, x, timesteps(100, 1000))
    assert float(made.mean()) == pytest.approx(0.7, abs=0.05)
    assert float(made.std()) == pytest.approx(0.3**0.5, abs=0.03)
