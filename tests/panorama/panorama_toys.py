"""Pictures made on the spot, a file writer independent of the code under test, and runs with the toy prior."""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from csd3d.runs.progress import RunProgress
from panorama import edit_panorama
from tests.toys import ToyPrior


def toy_edit(
    picture, run_dir, prompt="make it red", *, config, prior=None, output=None, resume=False, editor=edit_panorama
):
    """One start of a run with the toy prior, without a word."""
    return editor(
        picture, prompt, output, config,
        run_dir=run_dir, resume=resume, prior=prior or ToyPrior(), progress=RunProgress(quiet=True),
    )  # fmt: skip


def scenery(height, width, *, seed=0, wraps=False):
    """[H W 3] uint8: smooth colours with some grain; with `wraps` the left border goes on at the right."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 7, generator=rng)
    if wraps:
        coarse = torch.cat([coarse, coarse, coarse], -1)
    smooth = interpolate(coarse, (height, (3 if wraps else 1) * width), mode="bicubic")[0]
    smooth = smooth[..., width : 2 * width] if wraps else smooth
    grain = 0.06 * torch.randn(3, height, width, generator=rng)
    levels = (0.15 + 0.7 * smooth + grain).clamp(0, 1) * 255
    return np.ascontiguousarray(levels.round().byte().permute(1, 2, 0).numpy())


def save(path, array, **options):
    """Write with Pillow."""
    Image.fromarray(array).save(path, **options)
    return path


def load(path):
    """[H W c] as Pillow reads it."""
    with Image.open(path) as image:
        return np.asarray(image).copy()
