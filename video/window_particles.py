"""Windows of a clip in time as particles: the panorama over time.

    z_k = z[a_k : a_k + f]        g = the mean, at every latent frame, of the directions of the windows that hold it

A clip of many windows is moved in batches of them. A latent frame is moved when all windows that hold it have said
their direction, so that, in whatever batches they come, all saw it at the same place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import Epochs
from csd3d.engine.types import Batch, Index, Latents, numbers
from csd3d.priors.families.clips import fold, unfold
from video.particles import Batching, LatentRows, LatentState, state_arrays

_SUM = "sum"


def window_arrays(config: CsdConfig) -> tuple[str, ...]:
    """Names of what is stored for every latent frame: as `state_arrays`, and the directions that were said so far."""
    return (*state_arrays(config), _SUM)


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
        self._state = LatentState(s, config, arrays, more=(_SUM,))
        self._places = [torch.arange(rows.start, rows.stop) for rows in windows]
        self._batching, self._device = batching, torch.device(device)
        self._epochs = Epochs(lambda rng: batching.partition(len(windows), rng), shared_t=config)
        self._count = torch.zeros(len(s), dtype=torch.int64)
        for places in self._places:
            self._count[places] += 1
        self._heard = torch.zeros_like(self._count)

    def __len__(self) -> int:
        return len(self._places)

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
        z, s = (self._cut(x, index).to(self._device) for x in (self.z, self.s))
        return Batch(z, s, index, self._epochs.t)

    def _cut(self, x: LatentRows, index: Index) -> Latents:
        return torch.stack([fold(x[self._places[k]]) for k in numbers(index)])

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        """Hear the directions of some windows; a step of the optimiser for the latent frames of which all are known."""
        sums = self._state.arrays[_SUM]
        for k, direction in zip(numbers(index), g.cpu(), strict=True):
            places = self._places[k]
            sums[places] = sums[places] + unfold(direction, self.s[:1].shape[1])
            self._heard[places] += 1
        known = ((self._heard == self._count) & (self._count > 0)).nonzero().flatten()
        for some in known.split(len(self._places[int(index[0])])):
            self._state.descend(some, sums[some] / self._count[some].view(-1, 1, 1, 1), lr=lr)
            sums[some] = torch.zeros_like(sums[some])
        self._heard[known] = 0

    def state_dict(self) -> dict[str, Any]:
        """The batches left in the epoch, its timestep, how often each latent frame was moved and of how many windows it
        has heard since, and the arrays if our own."""
        return {**self._epochs.state_dict(), **self._state.state_dict(), "heard": self._heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip or optimiser."""
        self._state.load_state_dict(state, {*self._epochs.state_dict(), "heard"})
        self._epochs.load_state_dict(state)
        self._heard = state["heard"].clone()
