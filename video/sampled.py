"""The frames of a clip sampled together: their latents at one noise level, brought to the next a few at a time.

All frames leave a level before any leaves the next. Frames of one sentence go by the same anchors (`--share anchors`,
colours of `--like`, `--attention eye`): a few of them, spread over the clip, as they are when the level begins, so that
batches, their order and a stop in between change nothing. Latents, guesses and trajectories may be rows of files, so
that memory does not grow with the clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.ddim import alpha_bar, ddim_step
from csd3d.engine.loop import draw_noise
from csd3d.engine.sampling import Drawn, Sampling, Transition
from csd3d.engine.types import Index, Latents, Noised
from csd3d.media.sheet import evenly
from csd3d.runs.folder import RunFolder
from csd3d.runs.rows import Rows, blank_rows, writing_rows
from csd3d.runs.sampling import SampledEdit
from video.config import ANCHORS, VideoConfig
from video.latents_store import LatentsStore, noise_path, saved_step, trajectory_path
from video.particles import LatentRows

_DRAWN = 64


def sampled_arrays(sampling: Sampling) -> tuple[str, ...]:
    """Names of what is stored for every frame: its latent and, where fixed points take rounds, the last guess at the
    next level."""
    return ("z", "guess") if sampling.inverter is not None and sampling.rounds else ("z",)


def frames_of_run(
    folder: RunFolder,
    store: LatentsStore,
    edit: SampledEdit,
    config: VideoConfig,
    groups: Sequence[Sequence[int]],
    *,
    device: torch.device,
) -> "SampledFrames":
    """The frames of a run, as its last saved state has them.

    Raises:
        FileNotFoundError: the trajectory of a run that goes on is gone.
    """
    sampling, s = edit.sampling, store.sources
    rows = SampledRows(s, sampling, store.arrays, noise=noise_of_run(folder, store, edit, config))
    frames = SampledFrames(
        rows, budget=config.frames_per_step, groups=groups, anchors=_anchors(config, edit), device=device
    )
    path, total = trajectory_path(folder), len(sampling.transitions) * frames.steps_per_epoch
    done = saved_step(folder) or 0
    if edit.start == "inverted" and edit.sees_sources and done < total:
        if done == 0:
            blank_rows(path, len(s) * len(sampling.levels), s.shape[1:])
        rows.trajectory = Rows(path).of((len(s) * len(sampling.levels), *s.shape[1:]))
        store.beside.append(rows.trajectory)
    return frames


def frames_in_memory(
    s: Latents, edit: SampledEdit, config: VideoConfig, groups: Sequence[Sequence[int]], *, device: torch.device | str
) -> "SampledFrames":
    """Frames that are few enough for it, with noise as a run draws it."""
    s, noise, trajectory = s.cpu().contiguous(), None, None
    if edit.start == "noised":
        noise = draw_noise(s, torch.Generator().manual_seed(config.seed), config.engine)
    elif edit.sees_sources:
        trajectory = torch.zeros(len(s) * len(edit.sampling.levels), *s.shape[1:])
    arrays = {name: s.clone() for name in sampled_arrays(edit.sampling)}
    rows = SampledRows(s, edit.sampling, arrays, noise=noise, trajectory=trajectory)
    return SampledFrames(
        rows, budget=config.frames_per_step, groups=groups, anchors=_anchors(config, edit), device=device
    )


def _anchors(config: VideoConfig, edit: SampledEdit) -> int:
    """How many frames all others go by."""
    return (config.anchors or ANCHORS) if edit.shares else 0


def noise_of_run(folder: RunFolder, store: LatentsStore, edit: SampledEdit, config: VideoConfig) -> Rows | None:
    """A file of what sources are mixed with, drawn once; None where they are inverted."""
    if edit.start != "noised":
        return None
    path, rng = noise_path(folder), torch.Generator().manual_seed(config.seed)
    row, count = store.sources.shape[1:], 1 if config.engine.noise == "shared" else len(store.sources)
    if not path.exists():
        with writing_rows(path, count) as append:
            for k in range(0, count, _DRAWN):
                append(torch.randn(min(_DRAWN, count - k), *row, generator=rng))
    store.beside.append(Rows(path).of((count, *row)))
    return store.beside[-1]


class SampledRows:
    """Latents that are sampled, a row for each frame, at the levels of their sampling."""

    def __init__(
        self,
        s: LatentRows,
        sampling: Sampling,
        arrays: Mapping[str, LatentRows],
        *,
        noise: LatentRows | None = None,
        trajectory: LatentRows | None = None,
    ) -> None:
        """Start at the sources `s`.

        Args:
            s: latents of the sources.
            sampling: how they are sampled.
            arrays: what `sampled_arrays` names, as the caller made it: `z` equal to `s`, or of an earlier state.
            noise: of every row, or one for all; None where sources are inverted.
            trajectory: where an inversion leaves every level, row i T + k of frame i and level k of T, for particles
                that look at their sources; None: nobody does.
        """
        self.s, self.sampling, self._arrays = s, sampling, arrays
        self._noise, self.trajectory = noise, trajectory

    @property
    def z(self) -> LatentRows:
        """The latents as they are now: at different levels while a run goes on, clean at its end."""
        return self._arrays["z"]

    def read(self, transition: Transition, index: Index) -> Float[Tensor, "_n c h w"]:
        """Rows of which a transition asks for the noise."""
        return self._arrays["guess"][index] if transition.round else self._leaving(transition, index)

    def source(self, transition: Transition, index: Index) -> Float[Tensor, "_n c h w"]:
        """Their sources at the same level; NaN where nobody looks at them."""
        return self.read(transition, index) if transition.inverts else self._source(transition, index)

    def bring(self, transition: Transition, index: Index, e: Float[Tensor, "_n c h w"]) -> None:
        """Rows to the next level by their noise `e`."""
        schedule = self.sampling.score.schedule
        x = self._leaving(transition, index)
        x = ddim_step(x, e, alpha_bar(schedule, transition.t), alpha_bar(schedule, transition.to))
        self._arrays["z" if transition.last else "guess"][index] = x
        if transition.inverts and transition.last and self.trajectory is not None:
            self.trajectory[self._places(transition, index)] = x

    def _leaving(self, transition: Transition, index: Index) -> Float[Tensor, "_n c h w"]:
        """At the level that a transition leaves: where sampling begins, sources with noise."""
        if self._noise is not None and transition.level == len(self.sampling.levels) - 1:
            return self._source(transition, index)
        return self.z[index]

    def _source(self, transition: Transition, index: Index) -> Float[Tensor, "_n c h w"]:
        if self._noise is not None:
            e = self._noise[torch.zeros_like(index) if len(self._noise) == 1 else index]
            return self.sampling.score.schedule.add_noise(self.s[index], e, transition.t)
        if self.trajectory is not None:
            return self.trajectory[self._places(transition, index)]
        return torch.full_like(self.s[index], torch.nan)

    def _places(self, transition: Transition, index: Index) -> Index:
        return index * len(self.sampling.levels) + transition.level


class SampledInBatches:
    """What frames and windows that are sampled share of the engine's `SampledParticles`."""

    def __init__(
        self, rows: SampledRows, groups: Sequence[Sequence[int]], *, budget: int, device: torch.device | str
    ) -> None:
        """Particles of `rows`, by number, in `groups` that may share a step, of which at most `budget` do."""
        self._rows, self._device = rows, torch.device(device)
        self._groups = [torch.tensor(group) for group in groups]
        self._batches = [
            (k, part) for k, group in enumerate(self._groups) for part in group.tensor_split(-(-len(group) // budget))
        ]

    @property
    def z(self) -> LatentRows:
        """See `SampledRows`."""
        return self._rows.z

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every particle makes one transition."""
        return len(self._batches)


class SampledFrames(SampledInBatches):
    """Satisfies the engine's `SampledParticles` and `Stateful`."""

    def __init__(
        self,
        rows: SampledRows,
        *,
        budget: int,
        groups: Sequence[Sequence[int]],
        anchors: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start at the sources of `rows`, one for each frame.

        Args:
            rows: of the frames.
            budget: most frames in a step.
            groups: numbers of the frames of each sentence. What is in no group stays its source.
            anchors: all of each group goes by so many of it.
            device: of a step's frames.
        """
        super().__init__(rows, groups, budget=budget, device=device)
        shown = [evenly(len(group), anchors) if anchors and len(group) > 1 else [] for group in self._groups]
        self._anchors = [group[some] for group, some in zip(self._groups, shown, strict=True)]
        self._at_anchors = torch.zeros(sum(map(len, self._anchors)), *rows.s[:1].shape[1:])

    def draw(self, transition: Transition, number: int) -> Drawn:
        """The next batch. With the first one the anchors are taken as they are."""
        (group, index), rows = self._batches[number], self._rows
        own = self._anchors[group]
        if not transition.inverts and number == 0 and len(self._at_anchors):
            self._at_anchors = rows.read(transition, torch.cat(self._anchors))
        anchors = None
        if not transition.inverts and len(own):
            first = sum(map(len, self._anchors[:group]))
            seen = self._noised(self._at_anchors[first : first + len(own)], transition, own)
            anchors = replace(seen, anchors=torch.arange(len(own)))
        return Drawn(self._noised(rows.read(transition, index), transition, index), anchors, group)

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        """Bring the batch to the next level."""
        self._rows.bring(transition, index, e.cpu())

    def _noised(self, x: Float[Tensor, "_n c h w"], transition: Transition, index: Index) -> Noised:
        """What predicts, on the device of the prior."""
        rows = self._rows
        x, s, s_t = (y.to(self._device) for y in (x, rows.s[index], rows.source(transition, index)))
        return transition.seen(x, s, s_t, index)

    def state_dict(self) -> dict[str, Any]:
        """The anchors of the level. Everything else is in the arrays, which whoever made them saves."""
        return {"anchors": self._at_anchors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip."""
        self._at_anchors = saved(state, "anchors", like=self._at_anchors)


def saved(state: Mapping[str, Any], name: str, *, like: Tensor) -> Tensor:
    """The only tensor of a state. Raises ValueError for another state."""
    if set(state) != {name} or state[name].shape != like.shape:
        got = {other: tuple(value.shape) for other, value in sorted(state.items())}
        raise ValueError(f"state: expected {name} {tuple(like.shape)}, got {got}")
    return state[name].clone()
