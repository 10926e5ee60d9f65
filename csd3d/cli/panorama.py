"""`csd3d panorama`: parse, build the settings, edit, say where the result is."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from csd3d.cli.flags import CommonFlags, given, preset_changes, put_flags
from csd3d.priors.editor import USUAL_PX, suited_to
from csd3d.priors.store.resolve import read_json, resolve
from csd3d.runs.folder import free_name, recorded
from csd3d.runs.settings import override
from panorama.config import PanoramaConfig, paper_changes
from panorama.edit import edit_panorama
from panorama.stitched_file import stitch_files
from panorama.windows import Draw
from panorama.wrap import WrapChoice


@dataclass(frozen=True)
class PictureFlags(CommonFlags):
    """Flags of both commands for pictures."""

    size: int | None = None
    """Shorter side in px at which the prior works. Default: what the prior was trained at (twice that for a sphere)."""
    detail: float | None = None
    """How much of the source's fine detail is put back, 0 to 1."""
    coupling: Literal["svgd", "independent"] | None = None
    """Whether windows move together (`svgd`, default) or each for itself."""
    lr: float | None = None
    """Learning rate."""
    s_text: float | None = None
    """How strongly the sentence is followed; 1 = no guidance."""
    s_image: float | None = None
    """How strongly the source is kept; 1 = no guidance."""
    mask: Path | None = None
    """Picture file that says where to edit: white yes, black not at all, grey in part."""
    prompt_at: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A sentence for a span of the width: 0,0.5="make it night" is the left half. As often as there are spans; --prompt
    is for the rest."""
    prompt_mask: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A sentence for a soft mask: sky.png="make it sunset". As often as there are masks."""
    quality: int | None = None
    """Of JPEG and WebP, 1 to 100 (default 95)."""


@dataclass(frozen=True)
class Command(PictureFlags):
    """Edit a picture of any size from one sentence, without seams; full turns and spheres close."""

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG, JPEG, TIFF or WebP; several photos are stitched first. Only --resume can do without."""
    wrap: WrapChoice | None = None
    """Whether the left border goes on at the right: `none`, `cylinder`, `sphere` (equirectangular); default: found out
    and said."""
    window: int | None = None
    """Side of a window in latents (8 px each). Default: what the prior was trained at."""
    stride: int | None = None
    """Most latents between neighbouring windows. Default: half a window."""
    windows_per_step: int | None = None
    """Most windows in a step (default 8): bounds memory."""
    draw: Draw | None = None
    """`rounds` (default): all windows before the picture moves. `random`: some for every move."""


def run(command: Command) -> int:
    """Edit as `command` says; returns the exit code. Mistakes raise, see `panorama.edit.edit_panorama`."""
    if len(command.pictures) < 2:
        return run_on(command.pictures[0] if command.pictures else None, command, "panorama")
    if command.resume:
        raise ValueError("resume: expected no photos, the run knows its panorama")
    if not (command.prompt or command.prompt_at or command.prompt_mask):
        raise ValueError('expected a sentence, --prompt "...", got none (csd3d stitch only joins photos)')
    build_config(command, single=False)  # mistakes in the flags come before the work
    stem = f"{command.pictures[0].stem}-{len(command.pictures)}-photos"
    run_dir = command.run_dir or free_name(stem, command.prompt or "regions")
    joined = run_dir.with_name(f"{run_dir.name}-stitched.png")
    made = stitch_files(command.pictures, joined)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"stitched {joined}")
    return run_on(joined, replace(command, run_dir=run_dir), "panorama")


def run_on(picture: Path | None, command: PictureFlags, name: str) -> int:
    """Edit one picture with the flags of `csd3d name`."""
    if not command.resume and picture is None:
        raise ValueError("expected a picture, got none (--help shows an overview)")
    config = build_config(command, single=name == "image")
    if not command.resume and not (command.prompt or config.prompt_at or config.prompt_mask):
        raise ValueError('expected a sentence, --prompt "...", got none (--help shows an overview)')
    result = edit_panorama(
        picture, command.prompt, command.output, config, run_dir=command.run_dir, resume=command.resume
    )
    print(f"picture  {result.path}")
    print(f"report   {result.report}")
    return 0


def build_config(command: PictureFlags, *, single: bool) -> PanoramaConfig:
    """The settings: those that suit the prior (or those of the run to resume), then the preset, then the flags.

    Raises:
        ValueError, TypeError, FileNotFoundError: a setting that makes no sense, or that the prior cannot serve.
    """
    config = _start(command, single)
    if command.preset is not None:
        own = command.preset == "paper" and command.method in (None, "csd-edit")
        changed = _paper(config) if own else preset_changes(command.preset, editor="panorama", method=command.method)
        config = override(config, changed, where="preset")
    return put_flags(config, given(command))


def _start(command: PictureFlags, single: bool) -> PanoramaConfig:
    if command.resume:
        return recorded(command.run_dir, PanoramaConfig(), "panorama", "image")[1]
    prior, csd = suited_to(command.prior, command.method, device=command.device)
    return replace(PanoramaConfig(), prior=prior, csd=csd, single=single)


def _paper(config: PanoramaConfig) -> dict[str, Any]:
    """The published settings for the windows of the prior: a big one has 64 latents, whatever the hub says later."""
    path = resolve(config.prior).path
    unet = None if path is None else read_json(path / "unet" / "config.json", "not a prior: it has no UNet")
    size = None if unet is None else unet.get("sample_size")
    return paper_changes(size if isinstance(size, int) else USUAL_PX // 8)
