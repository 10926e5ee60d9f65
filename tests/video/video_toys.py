"""Runs with the toy prior, and how far clips are apart."""

import torch

from csd3d.runs.progress import RunProgress
from tests.toys import ToyPrior
from video import edit_video


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; infinite for equal ones."""
    assert a.shape == b.shape
    error = (a.double() - b.double()).square().mean()
    return float("inf") if error == 0 else float(-10 * torch.log10(error))


def toy_edit(clip, run_dir, prompt="make it red", *, config, prior=None, output=None, resume=False):
    """One start of a run with the toy prior, without a word."""
    return edit_video(
        clip, prompt, output, config,
        run_dir=run_dir, resume=resume, prior=prior or ToyPrior(), progress=RunProgress(quiet=True),
    )  # fmt: skip
