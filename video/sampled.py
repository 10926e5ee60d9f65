"""The frames of a clip sampled together: their latents at one noise level, brought to the next a few at a time.

All frames leave a level before any leaves the next. Frames of one sentence look at the same anchors (`--share
anchors`): a few of them, spread over the clip, as they are when the level begins, so that batches, their order and a
stop in between change nothing. Latents, guesses and trajectories may be rows of files, so that memory does not grow
with the clip.
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
from csd3d.runs.log import StepLog
from csd3d.runs.rows import Rows, blank_rows, writing_rows
from csd3d.runs.sampling import SampledEdit
from csd3d.runs.session import Session
from video.config import ANCHORS, VideoConfig
from video.latents_store import LatentsStore, noise_path, saved_step, trajectory_path
from video.particles import LatentRows

_DRAWN = 64


def sampled_arrays(sampling: Sampling) -> tuple[str, ...]:
    """Names of what is stored for every frame: its latent and, where fixed points take rounds, the last guess at the
    next level."""
    return ("z", "guess") if sampling.inverter is not None and sampling.rounds else ("z",)


def sample_frames(
    session: Session,
    store: LatentsStore,
    edit: SampledEdit,
    config: VideoConfig,
    groups: Sequence[Sequence[int]],
    *,
    device: torch.device,
    writes: float,
) -> StepLog:
    """Sample the frames of a run, from its last saved state to the end; arguments and errors are those of
    `Session.sample`.

    Raises:
        FileNotFoundError: the trajectory of a run that goes on is gone.
    """
    sampling, s, folder = edit.sampling, store.sources, session.folder
    frames = SampledFrames(
        s, sampling, budget=config.frames_per_step, groups=groups,
        anchors=_anchors(config),
        noise=_noise(store, config, folder) if edit.start == "noised" else None, device=device, arrays=store.arrays,
    )  # fmt: skip
    path, total = trajectory_path(folder), len(sampling.transitions) * frames.steps_per_epoch
    done = saved_step(folder) or 0
    if edit.start == "inverted" and edit.sees_sources and done < total:
        if done == 0:
            blank_rows(path, len(s) * len(sampling.levels), s.shape[1:])
        frames.trajectory = Rows(path)
        store.beside.append(frames.trajectory)
    log = session.sample(frames, sampling, config, count=len(s), checkpointer=store, writes=writes)
    path.unlink(missing_ok=True)
    return log


def frames_in_memory(
    s: Latents, edit: SampledEdit, config: VideoConfig, groups: Sequence[Sequence[int]], *, device: torch.device | str
) -> "SampledFrames":
    """Frames that are few enough for it, with noise as a run draws it."""
    noise = trajectory = None
    if edit.start == "noised":
        noise = draw_noise(s, torch.Generator().manual_seed(config.seed), config.engine)
    elif edit.sees_sources:
        trajectory = torch.zeros(len(s) * len(edit.sampling.levels), *s.shape[1:])
    return SampledFrames(
        s, edit.sampling, budget=config.frames_per_step, groups=groups, anchors=_anchors(config), noise=noise,
        trajectory=trajectory, device=device,
    )  # fmt: skip


def _anchors(config: VideoConfig) -> int:
    """How many frames all others look at."""
    return (config.anchors or ANCHORS) if config.share == "anchors" else 0


def _noise(store: LatentsStore, config: VideoConfig, folder: RunFolder) -> Rows:
    """A file of it, drawn once."""
    path, rng = noise_path(folder), torch.Generator().manual_seed(config.seed)
    shared, count = config.engine.noise == "shared", len(store.sources)
    if not path.exists():
        with writing_rows(path, 1 if shared else count) as append:
            for k in range(0, 1 if shared else count, _DRAWN):
                append(torch.randn(1 if shared else min(_DRAWN, count - k), *store.sources.shape[1:], generator=rng))
    store.beside.append(Rows(path))
    return store.beside[-1]


class SampledFrames:
    """Satisfies the engine's `SampledParticles` and `Stateful`."""

    def __init__(
        self,
        s: LatentRows,
        sampling: Sampling,
        *,
        budget: int,
        groups: Sequence[Sequence[int]],
        anchors: int = 0,
        noise: LatentRows | None = None,
        trajectory: LatentRows | None = None,
        device: torch.device | str = "cpu",
        arrays: Mapping[str, LatentRows] | None = None,
    ) -> None:
        """Start at the sources `s`.

        Args:
            s: latents of the sources.
            sampling: how they are sampled.
            budget: most frames in a step.
            groups: numbers of the frames of each sentence. What is in no group stays its source.
            anchors: so many of each group are looked at by all of it.
            noise: of every frame, or one row for all; None where sources are inverted.
            trajectory: where an inversion leaves every level, row i T + k of frame i and level k of T, for particles
                that look at their sources; None: nobody does.
            device: of a step's frames.
            arrays: what `sampled_arrays` names, as the caller made it: `z` equal to `s`, or of an earlier state. None:
                tensors of our own.
        """
        if arrays is None:
            own = s[:].cpu().contiguous()
            arrays = {name: own.clone() for name in sampled_arrays(sampling)}
        self.s, self._arrays, self._sampling = s, dict(arrays), sampling
        self._noise, self._device = noise, torch.device(device)
        self.trajectory = trajectory
        members = [torch.tensor(group) for group in groups]
        self._batches = [
            (k, part) for k, group in enumerate(members) for part in group.tensor_split(-(-len(group) // budget))
        ]
        shown = [evenly(len(group), anchors) if anchors and len(group) > 1 else [] for group in members]
        self._anchors = [group[some] for group, some in zip(members, shown, strict=True)]
        self._at_anchors = torch.zeros(sum(map(len, self._anchors)), *s[:1].shape[1:])

    @property
    def z(self) -> LatentRows:
        """The latents as they are now: at different levels while a run goes on, clean at its end."""
        return self._arrays["z"]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every frame makes one transition."""
        return len(self._batches)

    def draw(self, transition: Transition, number: int) -> Drawn:
        """The next batch. With the first one the anchors are taken as they are."""
        group, index = self._batches[number]
        if transition.inverts:
            x = self._arrays["guess" if transition.round else "z"][index]
            return Drawn(self._noised(x, transition, index))
        if number == 0 and len(self._at_anchors):
            self._at_anchors = self._leaving(transition, torch.cat(self._anchors))
        anchors = None
        if len(own := self._anchors[group]):
            first = sum(map(len, self._anchors[:group]))
            seen = self._noised(self._at_anchors[first : first + len(own)], transition, own)
            anchors = replace(seen, anchors=torch.arange(len(own)))
        return Drawn(self._noised(self._leaving(transition, index), transition, index), anchors, group)

    def take(self, transition: Transition, number: int, index: Index, e: Latents) -> None:
        """Bring the batch to the next level."""
        schedule = self._sampling.score.schedule
        x = self.z[index] if transition.inverts else self._leaving(transition, index)
        x = ddim_step(x, e.cpu(), alpha_bar(schedule, transition.t), alpha_bar(schedule, transition.to))
        self._arrays["z" if transition.last else "guess"][index] = x
        if transition.inverts and transition.last and self.trajectory is not None:
            self.trajectory[self._rows(index, transition.level)] = x

    def _leaving(self, transition: Transition, index: Index) -> Float[Tensor, "_n c h w"]:
        """Frames at the level that a transition of sampling leaves."""
        if self._noise is not None and transition.level == len(self._sampling.levels) - 1:
            return self._source_at(transition.t, transition.level, index)
        return self.z[index]

    def _source_at(self, t: int, level: int, index: Index) -> Float[Tensor, "_n c h w"]:
        """Sources at a level; NaN where nobody looks at them."""
        if self._noise is not None:
            e = self._noise[torch.zeros_like(index) if len(self._noise) == 1 else index]
            return self._sampling.score.schedule.add_noise(self.s[index], e, t)
        if self.trajectory is not None:
            return self.trajectory[self._rows(index, level)]
        return torch.full_like(self.s[index], torch.nan)

    def _rows(self, index: Index, level: int) -> Index:
        return index * len(self._sampling.levels) + level

    def _noised(self, x: Float[Tensor, "_n c h w"], transition: Transition, index: Index) -> Noised:
        """What predicts, on the device of the prior."""
        s = self.s[index].to(self._device)
        nan = torch.full_like(s, torch.nan)
        x = x.to(self._device)
        s_t = x if transition.inverts else self._source_at(transition.t, transition.level, index).to(self._device)
        return Noised(nan, s, index, nan, transition.asked, x, s_t)

    def state_dict(self) -> dict[str, Any]:
        """The anchors of the level. Everything else is in the arrays, which whoever made them saves."""
        return {"anchors": self._at_anchors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state of `state_dict`. Raises ValueError for that of another clip."""
        if set(state) != {"anchors"} or state["anchors"].shape != self._at_anchors.shape:
            got = {name: tuple(value.shape) for name, value in sorted(state.items())}
            raise ValueError(f"state: expected anchors {tuple(self._at_anchors.shape)}, got {got}")
        self._at_anchors = state["anchors"].clone()
