"""The demo: render a clip whose edit is known exactly, edit it from one sentence, and show both beside the truth."""

import shutil
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.sink import write_clip
from csd3d.media.clip.source import open_clip
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.metrics import background_change, psnr, warp_error
from csd3d.priors.defaults import BUILTIN
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.report import Clip as Player
from csd3d.runs.report import Report, write_report
from csd3d.world.sample import Clip, sample_clip
from video.config import VideoConfig
from video.edit import edit_video

FPS = Fraction(12)


@dataclass(frozen=True)
class Demo:
    """Edit a sample clip and compare it with the exact truth."""

    out: Path = Path("demo")
    """Folder for the clips, the contact sheet and the report."""
    prompt: str = "make it snowy"
    """One of the sentences that `csd3d priors show builtin` lists."""
    seed: int = 8
    """Which sample clip."""
    frames: int = 24
    steps: int = BUILTIN.steps
    height_px: int = 256
    width_px: int = 448


def write(path: Path, clip: Float[Tensor, "n 3 H W"]) -> None:
    """Write a clip for browsers."""
    height, width = clip.shape[-2:]
    with write_clip(
        path,
        width_px=width,
        height_px=height,
        fps=FPS,
        pts=range(len(clip)),
        time_base=1 / FPS,
        encoding=Encoding(crf=14),
    ) as writer:
        for frames in clip.split(8):
            writer.write(frames)


def read(path: Path) -> Float[Tensor, "n 3 H W"]:
    """All frames of a short clip."""
    with open_clip(path) as clip:
        return torch.cat([rgb for _, rgb in clip.chunks(8)])


def measure(sample: Clip, edited: Float[Tensor, "n 3 H W"], truth: Float[Tensor, "n 3 H W"]) -> dict[str, str]:
    """The numbers of the report."""
    flows = [sample.flow(i, i + 1) for i in range(len(sample) - 1)]
    flow, visible = torch.stack([f.flow for f in flows]), torch.stack([f.visible for f in flows])

    def steadiness(clip: Float[Tensor, "n 3 H W"]) -> float:
        return warp_error(clip[:-1], clip[1:], flow, visible).nanmean().item()

    background = background_change(edited, sample.source(), truth).nanmean().item()
    numbers = {
        "distance to the exact truth (PSNR, higher is better)": f"{psnr(edited, truth).mean():.1f} dB",
        "the unedited clip's": f"{psnr(sample.source(), truth).mean():.1f} dB",
        "warp error by the exact flow (lower is steadier)": f"{steadiness(edited):.4f}",
        "the truth's own warp error": f"{steadiness(truth):.4f}",
    }
    if background == background:
        numbers["change where the truth changes nothing"] = f"{background:.4f}"
    return numbers


def main(demo: Demo) -> None:
    """Render, edit, measure, show."""
    console = Console()
    demo.out.mkdir(parents=True, exist_ok=True)
    sample = sample_clip(
        demo.seed, frames=demo.frames, height_px=demo.height_px, width_px=demo.width_px, path="orbit", moving=True
    )
    edit = sample.edit(demo.prompt)
    console.print(f"rendering sample clip {demo.seed} and the exact truth of {demo.prompt!r}")
    source, truth = sample.source(), sample.truth(edit)
    write(demo.out / "source.mp4", source)
    write(demo.out / "truth.mp4", truth)
    config = VideoConfig(csd=replace(BUILTIN, steps=demo.steps))
    run_dir = demo.out / "run"
    if run_dir.exists():
        shutil.rmtree(run_dir)
    result = edit_video(
        demo.out / "source.mp4",
        demo.prompt,
        demo.out / "edited.mp4",
        config,
        run_dir=run_dir,
    )
    edited = read(result.path)
    numbers = measure(sample, edited, truth)
    write(demo.out / "side_by_side.mp4", torch.cat([source, edited, truth], dim=3))
    some = evenly(len(source), 6)
    rows = {"source": source[some], demo.prompt: edited[some], "exact truth": truth[some]}
    save_picture(contact_sheet(rows, columns=[f"{float(i / FPS):.2f} s" for i in some]), demo.out / "sheet.png")
    write_report(
        demo.out / "report.html",
        Report(
            title=demo.prompt,
            subtitle="a sample clip, edited by the built-in prior, beside the exact truth",
            clips=(Player("Source", "source.mp4"), Player("Edited", "edited.mp4"), Player("Truth", "truth.mp4")),
            fps=float(FPS),
            sheet="sheet.png",
            numbers=numbers,
            notes=result.notes,
        ),
    )
    for name, value in numbers.items():
        console.print(f"  {name}: [bold]{value}[/bold]")
    console.print(f"look at {demo.out / 'report.html'} (or {demo.out / 'sheet.png'}, {demo.out / 'side_by_side.mp4'})")


if __name__ == "__main__":
    try:
        main(tyro.cli(Demo))
    except RunInterrupted as stop:
        print("stopped; the next start begins anew", file=sys.stderr)
        sys.exit(stop.exit_code)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
