"""What `csd3d priors show` says of time: counted from files, or measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from csd3d.engine.config import CsdConfig
from csd3d.engine.guidance import evaluated, instruct_coefficients, instruct_source_coefficients, text_coefficients
from csd3d.priors.cost import row_flops_of
from csd3d.priors.defaults import default_config
from csd3d.priors.families.table import Family
from csd3d.priors.loading import Loading
from csd3d.priors.store.resolve import part_folder
from csd3d.runs.estimate import LEAST, Work, measure
from csd3d.runs.progress import duration
from video.config import VideoConfig

CLIP_FRAMES = 24
"""Of the clip whose edit is estimated."""
WINDOW = VideoConfig().window_frames
"""Of a clip, which an editor of clips sees at once."""
SHOWN_PX = (512, 1024)
"""Sides of pictures for which memory and cost are said."""
FAST = 1e14
"""Operations a second, about what a large GPU does in half precision."""


@dataclass(frozen=True)
class Cost:
    """Of a prior, counted."""

    rows_flops: Mapping[int, float]
    """Operations of a row, by the side of the picture in px."""
    moves: int
    """Of every particle, by default."""
    rows: int
    """Of a move of one particle, at default scales."""
    particles: int
    """Of the clip whose edit is estimated."""
    what: str
    """That clip."""

    @property
    def lines(self) -> list[str]:
        """A row, and an edit."""
        if not self.rows_flops:
            return []
        each = ", ".join(f"{_flop(value)} at {px} px" for px, value in self.rows_flops.items())
        px, value = next(iter(self.rows_flops.items()))
        total = value * self.particles * self.moves * self.rows
        edit = f"{self.what} at {px} px, {self.moves} moves x {self.rows} rows: {_flop(total)}"
        return [
            f"cost of a row: {each} (about, by csd3d.priors.cost)",
            f"{edit}, {duration(total / FAST)} at {_flop(FAST)} a second; --measure says how long it takes here",
        ]


def counted(path: Path, kind: str, family: Family | None, *, builtin: bool, guard: Path | None = None) -> Cost:
    """The cost of a prior in `path`, maybe with a ControlNet beside it, from their files."""
    clips, editor = family is not None and family.of_clips, kind == "instruct"
    packed = family is not None and family.layout in ("packed", "patched")
    vae, frames = part_folder(path, "vae"), WINDOW if clips else None
    found = row_flops_of(path, vae, SHOWN_PX, editor=editor, packed=packed, frames=frames, guard=guard)
    csd = default_config(
        None, builtin=builtin, kind="instruct" if editor else "text-to-image", family=family, of="frames"
    )
    what = f"a clip of {WINDOW if clips else CLIP_FRAMES} frames"
    return Cost(found, csd.steps, rows_of(csd, editor, family), 1 if clips else CLIP_FRAMES, what)


def rows_of(csd: CsdConfig, editor: bool, family: Family | None) -> int:
    """Rows of the network for a move of one particle."""
    if family is not None and len(family.branches) == 1:
        return 2
    if not editor:
        return (2 if csd.residual == "source" else 1) * len(evaluated(text_coefficients(csd.s_text)))
    image = csd.s_image if family is None or "00" in family.branches or family.picture_optional else 1.0
    target, source = instruct_coefficients(csd.s_text, image), instruct_source_coefficients(image)
    return len(evaluated(target)) + len(evaluated(source))


def _flop(count: float) -> str:
    return f"{count / 1e12:,.3g} TFLOP" if count < 1e15 else f"{count / 1e15:,.3g} PFLOP"


def measured(name: str, how: Loading, *, device: str | None) -> list[str]:
    """How long a row of the network, a picture in the autoencoder and an edit of a clip take here; loads the prior."""
    from csd3d.priors.auto import load_prior  # slow to import
    from csd3d.priors.families.clip_editor import ClipEditor
    from csd3d.priors.latent_diffusion import LatentDiffusion
    from csd3d.priors.prior import Guidance, Prompts

    prior = load_prior(name, device=device, how=how)
    side = prior.native_px // prior.codec.factor
    particles, frames, what, length = CLIP_FRAMES, CLIP_FRAMES, "picture", 1
    if isinstance(prior, ClipEditor):
        particles, frames, what, length = 1, WINDOW, f"window of {WINDOW} frames", prior.codec.latents_of(WINDOW)
    whole = Work(
        prior.score(Prompts(""), Guidance(1.0)),
        CsdConfig(steps=LEAST),
        particles,
        (side, side),
        frames_lat=length,
        together=particles,
    )
    found = measure(prior, replace(whole, csd=replace(whole.csd, residual="noise"), particles=1))
    assert found is not None
    at = f"at {prior.native_px} px on {prior.device}"
    row = f"measured {at}: {found.each_s:.3g} s a row, {found.codec_s / 2:.3g} s to decode a {what}"
    csd, empty = prior.defaults(of="frames"), isinstance(prior, LatentDiffusion)  # which may know a closed set only
    source = None if prior.kind == "instruct" else ""
    score = prior.score(Prompts("" if empty else "make it snowy", source), Guidance.of(csd))
    edit = measure(prior, replace(whole, score=score, csd=csd))
    assert edit is not None
    return [row, f"a clip of {frames} frames, {csd.steps} moves of each: about {duration(edit.total_s)}"]
