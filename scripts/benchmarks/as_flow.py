"""The built-in editor dressed as a flow model: a flow prior with meaning, whose edits have an exact truth."""

from math import hypot
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from csd3d.priors.families.load import make_prior
from csd3d.priors.families.prior import FamilyEditor
from csd3d.priors.families.table import Family
from csd3d.priors.instruct import InstructPrior
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
        """The velocity in a tuple, as UNets of diffusers return it."""
        sigma = float(torch.as_tensor(timestep).flatten()[0]) / 1000
        c = hypot(1 - sigma, sigma)
        t = int((self._ab - (1 - sigma) ** 2 / c**2).abs().argmin())
        x, condition = sample.chunk(2, dim=1)
        seen = torch.cat([x / c, condition], 1)
        e = self.unet(seen, torch.tensor(t), encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        return ((e - x) / (1 - sigma),)


def as_flow(own: InstructPrior) -> FamilyEditor:
    """The same editor, on the CPU in float32, as a flow model of a family."""
    found = resolve(own.name)
    pipe: Any = DiffusionPipeline.from_pretrained(str(found.path), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(torch.float32)
    pipe.unet = AsFlow(pipe.unet, own.schedule.alphas_cumprod)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    prior = make_prior(pipe, ROW, found, device=torch.device("cpu"))
    assert isinstance(prior, FamilyEditor)
    return prior
