"""A flow model with meaning: the built-in editor, dressed as one. It edits as the epsilon model does."""

from math import hypot
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.functional import interpolate

from csd3d.engine.config import CsdConfig
from csd3d.engine.step import csd_step
from csd3d.engine.types import Batch
from csd3d.priors.families.load import make_prior
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.families.table import Family
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store.resolve import resolve

ROW = Family(
    "InstructPix2Pix", "instruct", ("IT", "I0", "00"), s_text=1.5, s_image=1.5, image_scale="image_guidance_scale"
)


class AsFlow(nn.Module):
    """Reads x = (1 - sigma) z + sigma e and 1000 sigma, says e - z: by the table of levels, from a UNet that says e."""

    def __init__(self, unet: Any, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.unet, self.config, self.dtype, self.device = unet, unet.config, unet.dtype, unet.device
        self._ab = alphas_cumprod.double()

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **more: Any) -> tuple[Tensor]:
        sigma = float(torch.as_tensor(timestep).flatten()[0]) / 1000
        c = hypot(1 - sigma, sigma)
        t = int((self._ab - (1 - sigma) ** 2 / c**2).abs().argmin())
        x, condition = sample.chunk(2, dim=1)
        seen = torch.cat([x / c, condition], 1)
        e = self.unet(seen, torch.tensor(t), encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        return ((e - x) / (1 - sigma),)


@pytest.fixture(scope="module")
def pair() -> tuple[InstructPrior, FamilyPrior]:
    """The built-in editor as it is, and as a flow model."""
    found = resolve("builtin")
    own = InstructPrior.load(found, device="cpu")
    pipe: Any = DiffusionPipeline.from_pretrained(str(found.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(torch.float32)
    pipe.unet = AsFlow(pipe.unet, own.schedule.alphas_cumprod)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    return own, make_prior(pipe, ROW, found, device=torch.device("cpu"))


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
