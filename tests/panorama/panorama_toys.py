"""A prior without networks, pictures made on the spot, and a file writer independent of the code under test."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.engine.schedule import Schedule
from csd3d.runs.progress import RunProgress
from panorama import edit_panorama


class ToyCodec:
    """Means of 8 x 8 blocks as latents (three colours and their mean)."""

    factor = 8

    def __init__(self):
        self.sizes = []

    def encode(self, rgb):
        self.sizes.append(tuple(rgb.shape))
        small = 2 * avg_pool2d(rgb, self.factor) - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(self, z):
        self.sizes.append((len(z), 3, 8 * z.shape[-2], 8 * z.shape[-1]))
        return interpolate((z[:, :3] + 1) / 2, scale_factor=self.factor, mode="bilinear").clamp(0, 1)


GOALS = {
    "make it red": lambda s: torch.tensor([1.0, -1, -1, -1 / 3]).reshape(1, 4, 1, 1).expand_as(s),
    "make it dark": lambda s: 0.5 * s - 0.5,
}


class ToyScore:
    """Predicts the noise that leads from z_t to the goal of each particle's sentence; the source's leads to itself."""

    def __init__(self, goals, assign, schedule, watch=None):
        self.schedule, self._goals, self._assign, self._watch = schedule, goals, assign, watch

    def target(self, z_t, t, s, index):
        if self._watch:
            self._watch(index)
        which = torch.zeros_like(index) if self._assign is None else self._assign[index]
        clean = torch.stack([self._goals[int(k)](s[i : i + 1])[0] for i, k in enumerate(which)])
        return self._noise(z_t, t, clean)

    def source(self, s_t, t, s, index):
        return self._noise(s_t, t, s)

    def _noise(self, z_t, t, clean):
        ab = self.schedule.alphas_cumprod[t]
        return (z_t - ab.sqrt() * clean) / (1 - ab).sqrt()


class ToyPrior:
    """Knows two sentences; its windows are 4 latents."""

    kind = "instruct"
    builtin = False
    name = "toy"
    working_px = 32
    path = Path("/nonexistent/toy")
    device = torch.device("cpu")

    def __init__(self, watch=None):
        self.codec = ToyCodec()
        self.schedule = Schedule(torch.linspace(0.999, 0.01, 1000))
        self._watch = watch

    def score(self, prompt, *, s_text, s_image, assign=None):
        sentences = [prompt] if isinstance(prompt, str) else list(prompt)
        for sentence in sentences:
            if sentence not in GOALS:
                raise ValueError(f"this prior does not know {sentence!r}. It knows: {', '.join(GOALS)}")
        return ToyScore([GOALS[s] for s in sentences], assign, self.schedule, self._watch)


def toy_edit(picture, run_dir, prompt="make it red", *, config, prior=None, output=None, resume=False):
    """One start of a run with the toy prior, without a word."""
    return edit_panorama(
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
