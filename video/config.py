"""The settings of the video editor."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from csd3d.engine.validate import require, require_choice, require_int, require_number, require_side
from csd3d.media.clip.formats import Codec, Depth
from csd3d.runs.config import EditConfig

Draw = Literal["stratified", "window"]
Motion = Literal["flow", "features"]
ANCHORS = 4
"""Frames from the whole clip that are coupled with every window."""


@dataclass(frozen=True)
class VideoConfig(EditConfig):
    """How a clip is edited. `csd.steps` counts the moves of every frame, however long the clip."""

    size: int | None = None
    """Shorter side in px at which the prior works; aspect is kept. None: what the prior was trained at."""
    frames_per_step: int = 24
    """Frames moved together in a step (the paper's 24). Bounds memory; longer clips are moved in batches."""
    draw: Draw | None = None
    """Which frames of a longer clip share a step: `stratified` = spread over the clip, `window` = neighbours. With
    either every frame is moved equally often. None: window with --coupling motion, else stratified."""
    anchors: int = ANCHORS
    """Of the frames of a step that moves a window, how many are taken from the whole clip: the window is coupled with
    them and they are not moved, so that all windows agree; at most half of the frames."""
    steady: bool = True
    """Average decoded frames along optical flow, over four frames to either side of the same shot, which takes out
    trembling."""
    motion: Motion = "flow"
    """How points are followed for --coupling motion, --attention eye and masks that are found: by optical `flow`, or
    where that is lost by `features` of the prior (DIFT), such as between frames that are far apart. Decoded frames are
    averaged and key frames carried along flow alone."""
    window_frames: int = 81
    """With a prior that edits clips: how many frames it sees at once, 1 more than a multiple of those that its codec
    compresses to one (4 in Wan's layout). Bounds memory; longer clips are windows that overlap."""
    overlap_frames: int = 20
    """Of such a window, how many frames the next one holds too, in which both agree."""
    windows_per_step: int = 8
    """Of such windows, how many are moved together in a step. Bounds memory; a clip of more is moved in batches."""
    keyframes: int | None = None
    """Quick: edit only so many frames together and carry the edit to the others along their motion. None: edit all."""
    fade: float = 0.5
    """Seconds of cross-fade where one sentence of a prompt with times follows another."""
    strength: float = 1.0
    """How far the result goes from the source (0) to the edit (1)."""
    mask: str | None = None
    """Edit only where this is white: a picture, or a folder, pattern or video with one for each frame. Black stays as
    it is. `auto`: where the prior finds the edit, if that is not the whole picture. None: everywhere."""
    feather: float = 0.0
    """Pixels over which the edit fades in from the border of the mask, inwards."""
    detail: float = 1.0
    """How much of the source's fine detail, which the prior's codec and working size lose, is put back, changed as the
    edit changes what is around it: 0 = none, 1 = all of it."""
    max_frames: int | None = None
    """Edit only the first frames. None: all."""
    fps: Fraction | None = None
    """Frame rate of a folder of frames, such as 24 or 30000/1001; video files know their own. None: 25."""
    stream: int | None = None
    """Which of several video streams, counted from 0. None: the one with the most pixels."""
    strict: bool = False
    """Refuse a damaged file, of which otherwise what can be decoded is edited."""
    codec: Codec | None = None
    """Codec of the output; ffv1 is lossless and wants .mkv. None: H.264, VP9 in .webm."""
    crf: int = 18
    """Quality of the output: 0 = best (lossless for 8-bit H.264), 18 = visually close, 51 = worst."""
    depth: Depth = 8
    """Bits a channel of the output."""
    chunk_frames: int = 16
    """Most full-size frames held at a time; large frames take fewer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_side(self, 8, "size")
        require_int(self, 1, None, "frames_per_step", "keyframes", "max_frames", "chunk_frames", "window_frames")
        require_int(self, 1, None, "windows_per_step")
        require_int(self, 0, None, "anchors", "stream", "overlap_frames")
        require_int(self, 0, 51, "crf")
        require_choice(self, "draw", "codec", "depth", "motion")
        require_number(self, 0, 1, "detail", "strength")
        require_number(self, 0, None, "fade", "feather")
        fps = self.fps
        require(self, "fps", fps is None or Fraction(1, 1000) <= fps <= 1000, "0.001 to 1000")
        if self.csd is not None:
            require(self.csd, "coupling", self.csd.coupling != "depth", "svgd, motion or independent for a clip")
