"""A canvas sampled through its windows: at each level a place has one prediction, the mean of all windows that see it.

    E = sum_i a_i e_i / sum_i a_i        x_t -> x_t' by E (MultiDiffusion, Bar-Tal et al. 2023)
    x_t' <- m x_t' + (1 - m) s_t'        s_t', the source at that level, where the mask m says so (DiffEdit, 2023)

Layers that show the same things, the views of a sphere, are brought to agree now and then: their clean estimates x0^
are settled, and the step goes on from those. With `--share anchors` all windows look at the same few; colours of
`--like` are those of the same few.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import ANCHORS
from csd3d.engine.ddim import CLEAN, alpha_bar, clean, ddim_step
from csd3d.engine.loop import draw_noise
from csd3d.engine.sampling import Drawn, Transition
from csd3d.engine.types import Index, Latents, Noised
from csd3d.media.sheet import evenly
from csd3d.runs.sampling import SampledEdit
from panorama.windows import Settle, Windows


class SampledWindows:
    """Satisfies the engine's `SampledParticles` and `Stateful`."""

    def __init__(
        self,
        s: Float[Tensor, "k c H W"],
        windows: Windows,
        edit: SampledEdit,
        *,
        budget: int,
        seed: int,
        device: torch.device | str = "cpu",
        mask: Float[Tensor, "k 1 H W"] | None = None,
        settle: Settle | None = None,
        settle_every: int = 10,
    ) -> None:
        """Start at the sources `s`.

        Args:
            s: the source canvas.
            windows: they cover it.
            edit: how it is sampled.
            budget: most windows in a step.
            seed: of the noise.
            device: of a step's windows.
            mask: in [0, 1], how much of the edit each place takes.
            settle: brings clean layers to agree, after every `settle_every` levels and at the end.
            settle_every: levels.
        """
        self.s = s.detach().cpu().contiguous()
        self.z = self.s.clone()
        self._windows, self._edit, self._sampling = windows, edit, edit.sampling
        self._device, self._mask, self._settle, self._settle_every = torch.device(device), mask, settle, settle_every
        self._batches = torch.arange(len(windows)).tensor_split(-(-len(windows) // budget))
        shares = edit.shares and len(windows) > 1
        self._anchors = torch.tensor(evenly(len(windows), ANCHORS) if shares else [], dtype=torch.int64)
        self._noise, self._trajectory = None, None
        if edit.start == "noised":
            self._noise = draw_noise(self.s, torch.Generator().manual_seed(seed), edit.sampling.config)
        elif edit.sees_sources or mask is not None:
            self._trajectory = torch.zeros(len(edit.sampling.levels), *self.s.shape)
        self._guess, self._predicted = self.s.clone(), torch.zeros_like(self.s)

    @property
    def steps_per_epoch(self) -> int:
        """Steps for one transition of the canvas."""
        return len(self._batches)

    def draw(self, transition: Transition, number: int) -> Drawn:
        """The next batch of windows."""
        canvas = self._guess if transition.round else self._leaving(transition)
        sources = canvas if transition.inverts else self._source_at(transition.t, transition.level)
        anchors = None
        if len(self._anchors) and not transition.inverts:
            seen = self._noised(canvas, sources, transition, self._anchors)
            anchors = replace(seen, anchors=torch.arange(len(self._anchors)))
        return Drawn(self._noised(canvas, sources, transition, self._batches[number]), anchors)

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        """Collect the windows' predictions; with the last of them the canvas goes to the next level."""
        self._windows.select(index).scatter_add(self._predicted, e.cpu())
        if number < len(self._batches) - 1:
            return
        x = self._leaving(transition)
        x = self._inverted(x, transition) if transition.inverts else self._sampled(x, transition)
        self._predicted = torch.zeros_like(self.s)
        if transition.last:
            self.z = x
        else:
            self._guess = x

    def _inverted(self, x: Float[Tensor, "k c H W"], transition: Transition) -> Float[Tensor, "k c H W"]:
        x = ddim_step(x, self._predicted, self._ab(transition.t), self._ab(transition.to))
        if transition.last and self._trajectory is not None:
            self._trajectory[transition.level] = x
        return x

    def _sampled(self, x: Float[Tensor, "k c H W"], transition: Transition) -> Float[Tensor, "k c H W"]:
        e, to = self._predicted, self._ab(transition.to)
        x0 = clean(x, e, self._ab(transition.t))
        done = len(self._sampling.levels) - transition.level
        if self._settle is not None and (done % self._settle_every == 0 or transition.to == CLEAN):
            x0 = self._settle(x0).cpu()
        x = to**0.5 * x0 + (1 - to) ** 0.5 * e
        if self._mask is None:
            return x
        return torch.lerp(self._source_at(transition.to, transition.level - 1), x, self._mask.expand_as(x))

    def _leaving(self, transition: Transition) -> Float[Tensor, "k c H W"]:
        """The canvas at the level that a transition leaves."""
        if self._noise is not None and transition.level == len(self._sampling.levels) - 1:
            return self._source_at(transition.t, transition.level)
        return self.z

    def _source_at(self, t: int, level: int) -> Float[Tensor, "k c H W"]:
        """The source canvas at a level; NaN where nobody looks at it."""
        if t == CLEAN:
            return self.s
        if self._noise is not None:
            return self._sampling.score.schedule.add_noise(self.s, self._noise, t)
        return torch.full_like(self.s, torch.nan) if self._trajectory is None else self._trajectory[level]

    def _ab(self, t: int) -> float:
        return alpha_bar(self._sampling.score.schedule, t)

    def _noised(
        self, canvas: Float[Tensor, "k c H W"], sources: Float[Tensor, "k c H W"], transition: Transition, index: Index
    ) -> Noised:
        """What some windows predict from, on the device of the prior."""
        some = self._windows.select(index)
        x, s, s_t = (some.gather(part).to(self._device) for part in (canvas, self.s, sources))
        return transition.seen(x, s, s_t, index)

    def state_dict(self) -> dict[str, Any]:
        """Canvas, guess, what was collected and, if there is one, the trajectory, as tensors by name."""
        state: dict[str, Any] = {"z": self.z, "guess": self._guess, "predicted": self._predicted}
        return state if self._trajectory is None else {**state, "trajectory": self._trajectory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another picture or other settings."""
        mine = self.state_dict()
        if set(state) != set(mine) or any(state[name].shape != value.shape for name, value in mine.items()):
            got = {name: tuple(value.shape) for name, value in sorted(state.items())}
            raise ValueError(f"state: expected {sorted(mine)} for a canvas {tuple(self.z.shape)}, got {got}")
        self.z, self._guess, self._predicted = (state[name].clone() for name in ("z", "guess", "predicted"))
        if self._trajectory is not None:
            self._trajectory = state["trajectory"].clone()
