"""CSD-Edit by the published loop of a checkout, on our networks, and by our engine with the same random numbers."""

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from csd3d.engine import PAPER, Batch, CsdConfig, csd_step, descend, lr_at
from csd3d.engine.types import Latents
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from scripts.benchmarks.checkouts import imported, quiet

FILE = "csdedit.py"


def settings(steps: int) -> CsdConfig:
    """The published ones of clips."""
    return replace(PAPER["csd-edit-video"], steps=steps, s_text=7.5, s_image=1.5)


def published(folder: Path) -> ModuleType:
    """The module of a checkout. Raises ValueError if it cannot be imported."""
    return imported(folder, FILE, flag="csd")


def theirs(module: ModuleType, prior: InstructPrior, s: Latents, prompt: str, steps: int) -> Latents:
    """The latents that the published loop ends with."""
    csd, n = settings(steps), len(s)
    text = {name: prior.embed([name])[0] for name in ("", prompt)}
    final: list[Tensor] = []

    def encode_prompt(prompts: list[str], **_: object) -> Tensor:
        return (
            torch.stack([text[""]] * n * 3) if not prompts[0] else torch.stack([text[prompt]] * n + [text[""]] * 2 * n)
        )

    class Fed(module.CSDEdit):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues] - of another project
        """Their class with our networks and latents in the places of those that it loads."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.opt = SimpleNamespace(
                tgt_prompt=prompt, src_prompt="", neg_prompt="", lr=csd.lr, wd=0.0, num_steps=csd.steps,
                decay_iter=csd.lr_decay_every, decay_rate=csd.lr_decay, min_step=csd.t_min, max_step=csd.t_max - 1,
                svgd=True,
            )  # fmt: skip
            self.device = prior.device
            self.pipe = SimpleNamespace(_encode_prompt=encode_prompt)
            self.unet, self.scheduler = prior.denoiser._unet, prior.scheduler
            self.alphas = prior.scheduler.alphas_cumprod.to(prior.device)  # pyright: ignore[reportAttributeAccessIssue]

        def encode_latents(self, images: object) -> Tensor:
            return s.clone()

        def decode_latents(self, latents: Tensor) -> Tensor:
            final.append(latents.detach().clone())
            return torch.zeros(1, 3, 8, 8)

    with quiet():
        Fed().edit_video([None] * n, csd.s_text, csd.s_image)
    return final[0]


def ours(prior: InstructPrior, s: Latents, prompt: str, steps: int) -> Latents:
    """The latents that our engine ends with, by the same random numbers.

    The published code shows the editor scaled latents of the source, which its pipeline does not; so does this.
    """
    csd = settings(steps)
    codec = copy.copy(prior.codec)
    codec.scaling = 1.0  # by which the editor's picture is divided
    score = replace(prior, codec=codec).score(Prompts(prompt), Guidance.of(csd))
    z, index = s.clone(), torch.arange(len(s))
    for step in range(csd.steps):
        t = int(torch.randint(csd.t_min, csd.t_max, [1], device=s.device))
        x = score.schedule.noised(Batch(z, s, index), t, torch.randn_like(s))
        z, _ = descend(z, csd_step(score, x, csd).g, None, lr=lr_at(step, csd))
    return z
