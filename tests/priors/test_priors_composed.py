"""Sampling that is steered or picks among noises: pictures of a tiny prior, against the same done by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from csd3d.attention import Attention
from csd3d.attention.steer import Pick, Steer, Steering
from csd3d.priors.composed import Composed
from csd3d.priors.defaults import suited
from csd3d.priors.networks.sampler import timesteps_of
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.test_priors_sites import fingerprint
from tests.priors.tiny import write_tiny_prior

CAPTIONS = ("a red ball and a snowy cover", "a red paint and a night day")
STEER = Steering.of("conform:rms=0.05,rounds=1")
SIZE = (4, 4)
CLOSE: Any = {"atol": 2e-3, "rtol": 1e-3}


@pytest.fixture(scope="module")
def t2i(tmp_path_factory: pytest.TempPathFactory) -> TextToImagePrior:
    folder = write_tiny_prior(tmp_path_factory.mktemp("composed") / "t2i", kind="text-to-image", closed=False)
    return TextToImagePrior.load(folder, device="cpu")


def noise(n: int) -> Tensor:
    return torch.randn(n, 4, *SIZE, generator=torch.Generator().manual_seed(1))


def sample(prior: TextToImagePrior, first: Tensor, *, captions: Any = CAPTIONS, count: int = 2, **how: Any) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return prior.sample(Prompts(captions), Guidance(6.0), count, size_lat=SIZE, rng=rng, steps=4, noise=first,
                        **{"sampler": "ddim", **how})  # fmt: skip


def test_nothing_asked_for_is_the_plain_sampler(t2i: TextToImagePrior) -> None:
    assert torch.equal(sample(t2i, noise(2), composed=Composed()), sample(t2i, noise(2)))


def test_steered_pictures_are_others_and_each_for_itself(t2i: TextToImagePrior) -> None:
    before = fingerprint(t2i.denoiser._unet)
    steered = sample(t2i, noise(2), composed=Composed(STEER))
    assert (steered - sample(t2i, noise(2))).abs().max() > 1e-4
    assert torch.equal(sample(t2i, noise(2), composed=Composed(STEER)), steered), "the same again"
    alone = sample(t2i, noise(2)[1:], captions=CAPTIONS[1], count=1, composed=Composed(STEER))
    torch.testing.assert_close(alone, steered[1:], **CLOSE)
    assert fingerprint(t2i.denoiser._unet) == before


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("steering", [None, STEER], ids=["plain", "steered"])
def test_the_best_of_several_noises_goes_on(t2i: TextToImagePrior, after: int, steering: Steering | None) -> None:
    """Against looking at all of them, one caption at a time, and sampling the best alone from the beginning."""
    first, composed = noise(6), Composed(steering, Pick(3, after))
    got = sample(t2i, first, composed=composed)
    for k, caption in enumerate(CAPTIONS):
        own = first[3 * k : 3 * k + 3]
        score = t2i.score(Prompts(caption), Guidance(6.0))
        look = Steer.over(score, suited(STEER, builtin=False), steps=4)
        every = torch.arange(3)

        def before(z: Tensor, t: Tensor, step: int, look: Steer = look, every: Tensor = every) -> Tensor:
            return z if steering is None else look(z, int(t), step, every)

        z = t2i.denoise(
            lambda z, t, score=score, every=every: score.predict(score.prompt, z, t, every), own.shape, own,
            torch.Generator(), steps=4, sampler="ddim", before=before, part=slice(0, after),
        )  # fmt: skip
        worth = look.worth(z, timesteps_of(t2i.scheduler, "ddim", 4)[after], every)
        best = int(worth.argmax())
        expected = sample(t2i, own[best : best + 1], captions=caption, count=1, composed=Composed(steering))
        torch.testing.assert_close(got[k : k + 1], expected, **CLOSE)


def test_what_cannot_be_sampled_is_one_line(t2i: TextToImagePrior) -> None:
    with pytest.raises(ValueError, match="sampler: expected ddim"):
        sample(t2i, noise(2), composed=Composed(STEER), sampler="own")
    with pytest.raises(ValueError, match="pick_after: expected less than the 4 steps"):
        sample(t2i, noise(4), composed=Composed(STEER, pick=Pick(2, 4)))
    with pytest.raises(ValueError, match="attention: expected one of reweight, structure, sag, like, dense"):
        sample(t2i, noise(2), attention=Attention.of("none", ("kv-fusion",)))


def test_compositions_act_while_sampling_is_steered(t2i: TextToImagePrior) -> None:
    structure = Attention.of("none", ("structure",))
    plain, steered = (sample(t2i, noise(2), attention=structure, composed=Composed(s)) for s in (None, STEER))
    assert (plain - sample(t2i, noise(2))).abs().max() > 1e-5
    assert (steered - plain).abs().max() > 1e-5
