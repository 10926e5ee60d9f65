"""A prior without networks: small, deterministic, and quick enough for many runs."""

from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.engine.schedule import Schedule
from csd3d.runs.progress import RunProgress
from video import edit_video


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; infinite for equal ones."""
    assert a.shape == b.shape
    error = (a.double() - b.double()).square().mean()
    return float("inf") if error == 0 else float(-10 * torch.log10(error))


class ToyCodec:
    """Means of 8 x 8 blocks as latents (three colours and their mean)."""

    factor = 8

    def encode(self, rgb):
        small = 2 * avg_pool2d(rgb, self.factor) - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(self, z):
        return interpolate((z[:, :3] + 1) / 2, scale_factor=self.factor, mode="nearest").clamp(0, 1)


class ToyScore:
    """Predicts the noise that leads from z_t to `goal(s)`; the source's is the noise that leads to s itself."""

    def __init__(self, goals, schedule, watch=None, assign=None):
        self.schedule, self._goals, self._watch, self._assign = schedule, goals, watch, assign

    def target(self, z_t, t, s, index):
        if self._watch:
            self._watch(index)
        said = self._assign[index].tolist() if self._assign is not None else [0] * len(s)
        return self._noise(z_t, t, torch.cat([self._goals[k](s[i : i + 1]) for i, k in enumerate(said)]))

    def source(self, s_t, t, s, index):
        return self._noise(s_t, t, s)

    def _noise(self, z_t, t, clean):
        ab = self.schedule.alphas_cumprod[t]
        return (z_t - ab.sqrt() * clean) / (1 - ab).sqrt()


class ToyPrior:
    """Knows two sentences: "make it red" and "make it dark"."""

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
        goals = {
            "make it red": lambda s: torch.tensor([1.0, -1, -1, -1 / 3]).reshape(1, 4, 1, 1).expand_as(s),
            "make it dark": lambda s: 0.5 * s - 0.5,
        }
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if unknown := [p for p in prompts if p not in goals]:
            raise ValueError(f"this prior does not know {unknown[0]!r}. It knows: {', '.join(goals)}")
        return ToyScore([goals[p] for p in prompts], self.schedule, self._watch, assign)


def toy_edit(clip, run_dir, prompt="make it red", *, config, prior=None, output=None, resume=False):
    """One start of a run with the toy prior, without a word."""
    return edit_video(
        clip, prompt, output, config,
        run_dir=run_dir, resume=resume, prior=prior or ToyPrior(), progress=RunProgress(quiet=True),
    )  # fmt: skip
