"""Windows of a clip in time as particles: the panorama over time.

    z_k = z[a_k : a_k + f]        g, e = the mean, at every latent frame, of what the windows that hold it say

g is the direction in which it is moved, e the noise by which it is sampled (MultiDiffusion, Bar-Tal et al. 2023). A
clip of many windows is edited in batches of them. A latent frame goes on when all windows that hold it have been heard,
so that, in whatever batches they come, all saw it at the same place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Epochs
from csd3d.engine.sampling import Drawn, Sampling, Transition
from csd3d.engine.types import Batch, Index, Latents, numbers
from csd3d.priors.families.clips import fold, unfold
from video.particles import Batching, LatentRows, LatentState, state_arrays
from video.sampled import SampledInBatches, SampledRows, sampled_arrays, saved

SUM = "sum"
"""What the windows of a latent frame that were heard so far say, added up."""


def window_arrays(config: CsdConfig) -> tuple[str, ...]:
    """Names of what is stored for every latent frame: as `state_arrays`, and the directions that were said so far."""
    return (*state_arrays(config), SUM)


def sampled_window_arrays(sampling: Sampling) -> tuple[str, ...]:
    """The same where windows are sampled: as `sampled_arrays`, and the noise that was said so far."""
    return (*sampled_arrays(sampling), SUM)


class Overlaps:
    """Which windows hold each latent frame, and of how many of them it has heard."""

    def __init__(self, windows: Sequence[range], rows: int) -> None:
        """`windows`: of so many latent frames. Those that are heard together are equally long."""
        self._places = [torch.arange(own.start, own.stop) for own in windows]
        self._count = torch.zeros(rows, dtype=torch.int64)
        for places in self._places:
            self._count[places] += 1
        self.heard = torch.zeros_like(self._count)

    def __len__(self) -> int:
        return len(self._places)

    def cut(self, index: Index, rows: Callable[[Index], Tensor]) -> Latents:
        """Some windows, of `rows` of latent frames."""
        return torch.stack([fold(rows(self._places[k])) for k in numbers(index)])

    def hear(self, index: Index, said: Latents, sums: LatentRows) -> Iterator[tuple[Index, Float[Tensor, "_f c h w"]]]:
        """What some windows say is added to `sums`; of the latent frames that have now heard all, a few at a time, the
        mean."""
        for k, of in zip(numbers(index), said.cpu(), strict=True):
            places = self._places[k]
            sums[places] = sums[places] + unfold(of, sums[:1].shape[1])
            self.heard[places] += 1
        known = ((self.heard == self._count) & (self._count > 0)).nonzero().flatten()
        for some in known.split(len(self._places[int(index[0])])):
            yield some, sums[some] / self._count[some].view(-1, 1, 1, 1)
            sums[some] = torch.zeros_like(sums[some])
        self.heard[known] = 0


class ClipWindows:
    """The windows of a clip; satisfies the engine's `Particles` and `Stateful`. Memory is that of a batch of them."""

    def __init__(
        self, s: LatentRows, config: CsdConfig, windows: Sequence[range], *, batching: Batching,
        device: torch.device | str = "cpu", arrays: Mapping[str, LatentRows] | None = None,
    ) -> None:  # fmt: skip
        """Start at the source `s`, the latent frames of a clip.

        Args:
            s: what is in no window does not move.
            config: of the engine.
            windows: rows of `s`. Those of a step are equally long, and all that hold a latent frame are of one group.
            batching: which windows share a step.
            device: of the prior.
            arrays: what `window_arrays` names, as for `LatentState`.
        """
        self._state = LatentState(s, config, arrays, more=(SUM,))
        self._overlaps = Overlaps(windows, len(s))
        self._batching, self._device = batching, torch.device(device)
        self._epochs = Epochs(lambda rng: batching.partition(len(windows), rng), shared_t=config)

    def __len__(self) -> int:
        return len(self._overlaps)

    @property
    def s(self) -> LatentRows:
        """The latent frames of the source."""
        return self._state.s

    @property
    def z(self) -> LatentRows:
        """The latent frames as they are now."""
        return self._state.z

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every window is moved once."""
        return self._batching.steps(len(self))

    def draw(self, rng: torch.Generator) -> Batch:
        """The next batch of windows."""
        index = self._epochs.batch(rng)
        z, s = (self._overlaps.cut(index, x.__getitem__).to(self._device) for x in (self.z, self.s))
        return Batch(z, s, index, self._epochs.t)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """Hear the directions of some windows; a step of the optimiser for the latent frames of which all are known."""
        for some, direction in self._overlaps.hear(index, g, self._state.arrays[SUM]):
            self._state.descend(some, direction, lr=lr)

    def state_dict(self) -> dict[str, Any]:
        """The batches left in the epoch, its timestep, how often each latent frame was moved and of how many windows it
        has heard since, and the arrays if our own."""
        return {**self._epochs.state_dict(), **self._state.state_dict(), "heard": self._overlaps.heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip or optimiser."""
        self._state.load_state_dict(state, {*self._epochs.state_dict(), "heard"})
        self._epochs.load_state_dict(state)
        self._overlaps.heard = state["heard"].clone()


class SampledWindows(SampledInBatches):
    """The windows of a clip that are sampled; satisfies the engine's `SampledParticles` and `Stateful`. Memory is that
    of a batch of them."""

    def __init__(
        self,
        rows: SampledRows,
        windows: Sequence[range],
        *,
        sums: LatentRows,
        batching: Batching,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start at the sources of `rows`, one for each latent frame of the clip.

        Args:
            rows: what is in no window is not sampled.
            windows: as for `ClipWindows`.
            sums: the array `SUM` of `sampled_window_arrays`.
            batching: which windows share a step.
            device: of the prior.
        """
        super().__init__(rows, batching.of(len(windows)), budget=batching.budget, device=device)
        self._overlaps, self._sums = Overlaps(windows, len(rows.s)), sums

    def draw(self, transition: Transition, number: int) -> Drawn:
        """The next batch of windows."""
        (_, index), rows = self._batches[number], self._rows
        of = (partial(rows.read, transition), rows.s.__getitem__, partial(rows.source, transition))
        x, s, s_t = (self._overlaps.cut(index, some).to(self._device) for some in of)
        return Drawn(transition.seen(x, s, s_t, index))

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        """Hear the noise of some windows; the latent frames of which all is known go to the next level."""
        for some, noise in self._overlaps.hear(index, e, self._sums):
            self._rows.bring(transition, some, noise)

    def state_dict(self) -> dict[str, Any]:
        """Of how many windows each latent frame has heard. All else is in arrays, which whoever made them saves."""
        return {"heard": self._overlaps.heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip."""
        self._overlaps.heard = saved(state, "heard", like=self._overlaps.heard)
