"""How the points of a clip are followed in a run: along optical flow within shots and, where that is lost, by features
of the prior, if they are asked for.

features.npy    of the particles, in the run's folder, written once: a resumed run finds the same points
"""

from collections.abc import Sequence
from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.attention.correspondences import features, matches
from csd3d.attention.score import Controllable
from csd3d.media.geometry import WorkingSize
from csd3d.priors.defaults import feature_level
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.crew import SharedPrior
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.session import Session
from video.config import VideoConfig
from video.latents_store import greys_path
from video.motion import ClipMotion, Move, grey_px
from video.particles import LatentRows
from video.plan import Plan, prompts_of
from video.shots import changes, shots_of

_GREYS = 64


def follow(
    session: Session,
    prior: Prior,
    config: VideoConfig,
    plan: Plan,
    sources: LatentRows,
    size: WorkingSize,
    *,
    frames: int,
) -> ClipMotion:
    """The motion of the clip of a run, whose grey `frames` are in its folder, between the particles of `plan`."""
    factor, by_features = prior.codec.factor, None
    if config.motion == "features":
        read = kept_features(session, prior, config, plan, sources)
        height, width = (side // factor for side in size.padded)
        by_features = FeatureMatches(session.enter(closing(read)), plan.frames, (height, width))
    height, width = (side // (factor // grey_px(size, factor)) for side in size.padded)
    greys = session.enter(closing(_greys(session, (frames, height, width))))
    return ClipMotion(greys, grey_px(size, factor), shots_told(session), by_features)


def shots_told(session: Session) -> list[int]:
    """To which shot each frame belongs; cuts are noted."""
    with closing(_greys(session, (None, None, None))) as greys:
        shots = shots_of(changes(greys[k : k + _GREYS] for k in range(0, len(greys), _GREYS)))
    if shots[-1]:
        cuts = [k for k in range(1, len(shots)) if shots[k] != shots[k - 1]]
        named = ", ".join(map(str, cuts[:8])) + (", ..." if len(cuts) > 8 else "")
        session.note(f"{len(cuts) + 1} shots, cut at frames {named}: each has a motion of its own")
    return shots


def _greys(session: Session, shape: Sequence[int | None]) -> Rows:
    """The grey frames of a run. Raises ValueError for a file of something else, or of none."""
    greys = Rows(greys_path(session.folder)).of(shape, torch.uint8)
    if not len(greys):
        raise ValueError(f"rows: expected frames, got none in {greys.path}")
    return greys


def readable(prior: Prior, prompts: Prompts) -> Controllable:
    """What features are read of, under the sentences of an edit, of which none is read. Raises ValueError for a prior
    that has none, and where its layers are on several GPUs."""
    if prior.how.device_map != "none":
        raise ValueError("motion: expected flow with --device-map balanced, got features")
    own = prior.own if isinstance(prior, SharedPrior) else prior  # attention is read by one process alone
    score = own.score(prompts, Guidance(1.0))
    if not isinstance(score, Controllable):
        raise ValueError(
            f"motion: expected flow with a prior of another kind than Stable Diffusion, {prior.name}, got features"
        )
    return score


def kept_features(session: Session, prior: Prior, config: VideoConfig, plan: Plan, sources: LatentRows) -> Rows:
    """Those of all particles, found now or before, as float16.

    Raises:
        ValueError: the prior cannot be read.
        RunInterrupted: the run was asked to stop.
    """
    path, count, batch = session.folder.path / "features.npy", len(sources), config.frames_per_step
    score, level = readable(prior, prompts_of(plan, config)), feature_level(builtin=prior.builtin)
    if not path.exists():
        parts = torch.arange(count).split(batch)
        tracked = session.progress.track("features", parts, total=count, unit=batch)
        with session.manifest.timed("features"), writing_rows(path, count) as append:
            for index in tracked:
                s = sources[index].to(prior.device)
                append(features(score, s, index.to(s.device), level=level, seed=config.seed).half())
                session.stop_if_asked("features are not read yet, which the next start does again")
    return Rows(path).of((count, None, None, None), torch.float16)


class FeatureMatches:
    """Matches between frames, in latents; `ClipMotion` takes it where flow is not trusted."""

    def __init__(self, rows: Rows, frames: Sequence[int], size_lat: tuple[int, int]) -> None:
        """Features `rows` of particles that show `frames`, on latents of `size_lat`."""
        self._rows, self._size = rows, size_lat
        self._row = {frame: k for k, frame in reversed(list(enumerate(frames)))}

    def __call__(self, i: int, j: int) -> tuple[Move, Move]:
        """From frame i to j, and back."""
        f, g = (self._rows[torch.tensor([self._row[frame]])][0].float() for frame in (i, j))
        there, known, back, back_known = matches(f, g)
        return self._move(there.float(), known.float()), self._move(back.float(), back_known.float())

    def _move(self, move: Float[Tensor, "a b 2"], known: Float[Tensor, "a b"]) -> Move:
        """At every latent, in latents."""
        (height, width), (rows, columns) = self._size, known.shape
        large = interpolate(torch.cat([move, known[..., None]], 2).permute(2, 0, 1)[None], self._size)[0]
        scale = torch.tensor([width / columns, height / rows])
        return large[:2].permute(1, 2, 0) * scale, large[2]
