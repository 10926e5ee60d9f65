"""Steps with a gradient through the network, on a device of no memory that torch lets gradients be taken on.

On a pretended GPU that needs a driver. Another kind of device, which torch lets Python define, needs none, and
like it raises where devices are mixed or the host waits. It stays defined, so this runs in a process of its own.
"""

from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from csd3d.engine import METHODS, CsdConfig, FeatureSite, regularisers
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance
from csd3d.priors.text_to_image import TextToImagePrior
from tests.priors.test_priors_fake_cuda import know, pretended_gpu, score_of, step

SITES: tuple[FeatureSite, ...] = ("self-attention", "cross-attention", "score")


def main(editor: str, stock: str) -> None:
    """Steps of both kinds of priors, in the folders, with every place of features."""
    backend_registration._setup_privateuseone_for_python_backend("pretended")
    device = torch.device("pretended:0")
    priors = InstructPrior.load(Path(editor), device="cpu"), TextToImagePrior.load(Path(stock), device="cpu")
    with pytest.MonkeyPatch.context() as patched:
        know(patched)
        patched.setattr(regularisers, "seed_of", lambda e: 0)  # which waits, for the bits of a noise for each particle
        for prior in priors:
            for dtype, site in zip((torch.float16, torch.bfloat16, torch.float16), SITES, strict=True):
                with pretended_gpu():
                    score = score_of(prior, dtype, Guidance(1.0, 1.0), sentences=1, big=False, device=device)
                    step(score, _with_site(site), device=device)
    with pretended_gpu(), pytest.raises(RuntimeError, match="two different devices"):
        _ = torch.empty(2, device=device) + torch.empty(2)
    print("no device is mixed, nothing waits")


def _with_site(site: FeatureSite) -> CsdConfig:
    return CsdConfig(**{**vars(METHODS["cds"]), "nce_layers": site, "nce_patches": 16})
