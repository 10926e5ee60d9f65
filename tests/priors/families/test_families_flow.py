"""A flow model with meaning: the built-in editor, dressed as one. It edits as the epsilon model does."""

import pytest
import torch
from torch.nn.functional import interpolate

from csd3d.engine.config import CsdConfig
from csd3d.engine.step import csd_step
from csd3d.engine.types import Batch
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from scripts.benchmarks.as_flow import as_flow


@pytest.fixture(scope="module")
def pair() -> tuple[InstructPrior, FamilyPrior]:
    """The built-in editor as it is, and as a flow model."""
    own = InstructPrior.load("builtin", device="cpu")
    return own, as_flow(own)


def test_it_predicts_and_moves_as_the_model_that_it_is(pair: tuple[InstructPrior, FamilyPrior]) -> None:
    own, flow = pair
    assert (flow.levels.noising, own.schedule.num_timesteps) == ("flow", 1000)
    rgb = interpolate(torch.rand(2, 3, 4, 4), size=64, mode="bicubic").clamp(0, 1)
    s = own.encode(rgb)
    assert torch.allclose(flow.encode(rgb), s, atol=1e-5)
    scores = [prior.score(Prompts("make it snowy"), Guidance(1.5, 1.5)) for prior in pair]
    for t in (50, 300, 700):
        x = own.schedule.noised(Batch(s, s, torch.arange(2)), t, torch.randn(s.shape))
        for predict in ("target", "source"):
            a, b = (getattr(score, predict)(x) for score in scores)
            assert (a - b).abs().max() <= 2e-5 * a.abs().max(), (t, predict)
        a, b = (csd_step(score, x, CsdConfig()).g for score in scores)
        assert (a - b).abs().max() <= 5e-5
        assert a.abs().max() > 0.01
