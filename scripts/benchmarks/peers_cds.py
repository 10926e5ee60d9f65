"""CDS by the published pipeline of a checkout, on our networks, and by our engine with the same random numbers.

The published code draws places for PatchNCE by a generator of its own; on maps with no more places than it draws, as
here, all are taken and their order does not matter. Its softmax goes over the places of the edited picture for each
place of the source, transposed to the formula of the paper, which is ours (`csd3d.engine.regularisers`): `Transposed`
is what it computes.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd3d.engine import PAPER, Batch, CsdConfig, Noised, csd_step, descend
from csd3d.engine.regularisers import RESIDUAL_SCALE
from csd3d.engine.types import Latents
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior, TextToImageScore
from scripts.benchmarks.checkouts import imported, quiet

FILE = "pipeline_cds.py"
PUBLISHED_LR = 0.1
Captions = tuple[str, str]
"""What the source shows, and what the result is to show."""


def settings(size_lat: tuple[int, int]) -> CsdConfig:
    """The published ones, whose learning rate belongs to a mean over the places of the latents."""
    return replace(PAPER["cds"], lr=PUBLISHED_LR * RESIDUAL_SCALE / (size_lat[0] * size_lat[1]))


def published(folder: Path) -> ModuleType:
    """The module of a checkout. Raises ValueError if it cannot be imported."""
    return imported(folder, FILE, flag="cds")


def theirs(module: ModuleType, prior: TextToImagePrior, s: Latents, captions: Captions, steps: int) -> Latents:
    """The latents that the published loop ends with; of one picture."""
    null, source, target = prior.embed(["", *captions])
    final: list[Tensor] = []

    class Fed(module.CDSPipeline):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues] - of another project
        """Their class with our networks and latents in the places of those that it loads."""

        _execution_device = prior.device

        def __init__(self) -> None:
            unet = copy.deepcopy(prior.denoiser._unet)  # whose attention they replace
            self.__dict__ |= {"_internal_dict": {}, "unet": unet, "scheduler": prior.scheduler, "vae_scale_factor": 8}

        def check_inputs(self, *_: object) -> None:
            pass

        def _encode_prompt(self, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            return torch.stack([null, source])[None], torch.stack([null, target])[None]

        def prepare_latents(self, *_: object) -> Tensor:
            return s.clone()

        def decode_latents(self, latents: Tensor) -> np.ndarray:
            final.append(latents.detach().clone())
            return np.zeros((8, 8, 3))

    with quiet():
        Fed()(prompt=captions[0], trg_prompt=captions[1], num_inference_steps=steps)
    return final[-1]


def ours(prior: TextToImagePrior, s: Latents, captions: Captions, steps: int, *, transposed: bool = True) -> Latents:
    """The latents that our engine ends with, by the same random numbers; with the term as published code has it, or as
    the paper has it."""
    csd = settings((s.shape[-2], s.shape[-1]))
    score = prior.score(Prompts(captions[1], source=captions[0]), Guidance.of(csd))
    term, now = (), csd
    if transposed:
        term, now = (Transposed(score, csd),), replace(csd, regulariser="none")
    z, index = s.clone(), torch.arange(len(s))
    for _ in range(steps):
        t = int(torch.randint(csd.t_min, csd.t_max - 1, (1,), device=s.device))
        x = score.schedule.noised(Batch(z, s, index), t, torch.randn_like(s))
        z, _ = descend(z, csd_step(score, x, now, regularisers=term).g, None, lr=csd.lr)
    return z


class Transposed:
    """PatchNCE with the softmax over the places of the edited picture; a `Regulariser`."""

    def __init__(self, score: TextToImageScore, csd: CsdConfig) -> None:
        self._score, self._csd = score, csd

    def __call__(self, x: Noised) -> Latents:
        """As `PatchNce`, with all places."""
        gradient = self._score.feature_gradient(x, self._csd.nce_layers, self._loss)
        places, ab = x.z.shape[-2] * x.z.shape[-1], self._score.schedule.alpha_bar(x.t)
        return self._csd.nce_weight * places / RESIDUAL_SCALE * ab**0.5 * gradient

    def _loss(
        self, target: Sequence[Float[Tensor, "n _d _a _b"]], source: Sequence[Float[Tensor, "n _d _a _b"]]
    ) -> Float[Tensor, ""]:
        terms: list[Tensor] = []
        for q, p in zip(target, source, strict=True):
            for size in self._csd.nce_patch_sizes:
                a, b = (functional.normalize(functional.avg_pool2d(m, size).flatten(2), dim=1) for m in (q, p.detach()))
                logits = torch.einsum("ndk,ndl->nkl", b, a) / self._csd.nce_temperature
                terms.append(-logits.log_softmax(2).diagonal(dim1=1, dim2=2).mean(1).sum())
        return torch.stack(terms).sum()
