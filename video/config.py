"""The settings of the video editor."""

from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Literal

from csd3d.engine.config import CsdConfig
from csd3d.media.clip.formats import CODECS, Codec, Depth

Draw = Literal["stratified", "window"]
ANCHORS = 4
"""Frames from the whole clip that every window sees."""


@dataclass(frozen=True)
class VideoConfig:
    """How a clip is edited. Immutable; the manifest holds it in full."""

    csd: CsdConfig | None = None
    """Engine settings; none = those that suit the prior. `steps` counts the moves of every frame, however long the
    clip."""
    prior: str = "builtin"
    """`builtin`, `builtin:t2i`, a folder in diffusers layout, or a hub id."""
    source_prompt: str | None = None
    """What the clip shows, for text-to-image priors."""
    size: int | None = None
    """Shorter side in px at which the prior works; none = what the prior was trained at. Aspect is kept."""
    frames_per_step: int = 24
    """Frames moved together in a step (the paper's 24). Bounds memory; longer clips take turns."""
    draw: Draw | None = None
    """Which frames of a longer clip share a step: `stratified` = spread over the clip, `window` = neighbours. With
    either every frame is moved equally often. None = `window` along motion, else `stratified`."""
    anchors: int = ANCHORS
    """Of the frames of a step that moves a window, how many are taken from the whole clip to be seen and not moved, so
    that all windows agree; at most half of them."""
    motion: bool = False
    """Whether frames are also coupled along optical flow, within a shot, and not only pixel by pixel."""
    steady: bool = True
    """Whether decoded frames are averaged along optical flow, over four frames to either side of the same shot."""
    keyframes: int | None = None
    """Quick: edit only so many frames together and carry the edit to the others along their motion; none = edit all."""
    fade: float = 0.5
    """Seconds of cross-fade where one sentence of a prompt with times follows another."""
    strength: float = 1.0
    """How far the result goes from the source (0) to the edit (1)."""
    mask: str | None = None
    """Where to edit (white): a picture, or a folder, pattern or video with one for each frame. Black stays as it is."""
    feather: float = 0.0
    """Pixels over which the edit fades in from the border of the mask, inwards."""
    detail: float = 1.0
    """How much of the source's fine detail, which the prior's codec and working size lose, is put back, changed as the
    edit changes what is around it: 0 = none, 1 = all of it."""
    seed: int = 0
    """Seed of all randomness."""
    device: str | None = None
    """`cpu`, `cuda`, ...; none = CUDA where there is one."""
    max_frames: int | None = None
    """Edit only the first frames; none = all."""
    fps: Fraction | None = None
    """Frame rate of a folder of frames (25 where not given); video files know their own."""
    stream: int | None = None
    """Which of several video streams, counted from 0; none = the one with the most pixels."""
    strict: bool = False
    """Whether a damaged file is refused; else what can be decoded of it is edited."""
    codec: Codec | None = None
    """Codec of the output: h264, hevc, vp9, av1, or lossless ffv1 (.mkv); none = H.264, or VP9 in .webm."""
    crf: int = 18
    """Quality of the output: 0 = best (lossless for 8-bit H.264), 18 = visually close, 51 = worst."""
    depth: Depth = 8
    """Bits a channel of the output, 8 or 10."""
    checkpoint_every: int = 10
    """Steps between two saved states."""
    chunk_frames: int = 16
    """Most full-size frames held at a time; large frames take fewer."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 8, None),
            ("frames_per_step", 1, None),
            ("anchors", 0, None),
            ("keyframes", 1, None),
            ("max_frames", 1, None),
            ("crf", 0, 51),
            ("stream", 0, None),
            ("checkpoint_every", 1, None),
            ("chunk_frames", 1, None),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("size", "keyframes", "max_frames", "stream"):
                continue
            if type(value) is not int:
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < low or (high is not None and value > high):
                limits = f"{low} or more" if high is None else f"{low} to {high}"
                raise ValueError(f"{name}: expected {limits}, got {value}")
        if self.draw not in (None, "stratified", "window"):
            raise ValueError(f"draw: expected stratified or window, got {self.draw!r}")
        if self.codec not in (None, *CODECS):
            raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.depth not in (8, 10):
            raise ValueError(f"depth: expected 8 or 10, got {self.depth}")
        if self.motion and self.csd is not None and self.csd.coupling == "independent":
            raise ValueError("motion: expected coupled frames, got independent ones")
        for name in ("detail", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        for name in ("fade", "feather"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.fps is not None and not Fraction(1, 1000) <= self.fps <= 1000:
            raise ValueError(f"fps: expected 0.001 to 1000, got {self.fps}")
