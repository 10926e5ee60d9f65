"""The published code of CSD and CDS beside ours, on the built-in weights, in one run: the same update, at what cost?

    python scripts/benchmark_peers.py --csd CHECKOUT [--cds CHECKOUT] [--frames 8] [--steps 4] [--out FOLDER]

CHECKOUT is a clone of github.com/subin-kim-cv/CSD, or of github.com/HyelinNAM/ContrastiveDenoisingScore (which needs
torchvision). Its loop runs as it is: it gets our networks, latents of a sample clip or picture and embeddings of
sentences in the places of those that it would load. Both get the same random numbers, and ours the published settings.
Writes peers.md and peers.json; of a checkout nothing is kept.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from csd3d.engine.types import Latents
from csd3d.engine.validate import require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.world.sample import sample_clip
from scripts.benchmarks import peers_cds, peers_csd
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.memory import peak_memory

ABOUT_CSD = (
    "CSD: CSD-Edit of clips with the published settings (guidance 7.5 / 1.5) and the prior `{prior}`. It evaluates six "
    "UNet rows a frame and step, ours five."
)
ABOUT_CDS = (
    "CDS: a picture, with the published settings (guidance 7.5, weight 3) and the prior `{prior}`. Its PatchNCE is "
    "transposed to the formula of the paper: which place of the result is that of a place of the source, not the other "
    "way round. The difference is to our engine with that term; with the paper's, which is ours, latents end "
    "{otherwise} % of the move apart (root mean square). It also computes gradients of the self-attention's weights, "
    "which nothing uses."
)


@dataclass(frozen=True)
class Settings:
    """The published code of CSD and CDS beside ours, on the built-in weights."""

    csd: Path | None = None
    """Checkout of the published code of CSD, which has csdedit.py."""
    cds: Path | None = None
    """Checkout of the published code of CDS, which has pipeline_cds.py."""
    out: Path = Path("outputs/benchmark_peers")
    """Folder for the page and the numbers."""
    prior: str = "builtin"
    """Instruction editor, for CSD."""
    captioned: str = "builtin:t2i"
    """Text-to-image model, for CDS."""
    frames: tuple[int, ...] = (8, 24)
    """Frames of a clip, each a row; CDS takes single pictures."""
    steps: int = 4
    repeats: int = 5
    """Runs of either, in turn, of which the median counts."""
    size_px: int = 128
    device: str = "cpu"
    prompt: str = "make it snowy"
    captions: tuple[str, str] = ("a red cube on grass", "a blue ball on grass")
    """What the source shows, and what the result of CDS is to show."""
    seed: int = 0
    print: bool = False
    """Print the page too."""

    def __post_init__(self) -> None:
        for name, folder, file in (("csd", self.csd, peers_csd.FILE), ("cds", self.cds, peers_cds.FILE)):
            if folder is not None and not (folder / file).is_file():
                raise ValueError(f"{name}: expected a checkout with {file}, got {folder}")
        if self.csd is None and self.cds is None:
            raise ValueError("csd: expected a checkout, of CSD or with --cds of CDS, got none")
        require_int(self, 1, None, "steps", "repeats")
        require_int(self, 64, None, "size_px")
        if not self.frames or min(self.frames) < 3:
            raise ValueError(f"frames: expected 3 or more, which the published bandwidth needs, got {self.frames}")


@dataclass(frozen=True)
class Case:
    """What both edit, and how."""

    peer: str
    """Whose code."""
    s: Latents
    theirs: Callable[[], Latents]
    ours: Callable[[], Latents]
    otherwise: Callable[[], Latents] | None = None
    """Ours where we compute something else than the published code on purpose."""


@dataclass(frozen=True)
class Spent:
    """What a run took."""

    z: Latents
    seconds: float
    """Of the processor; of the clock on a GPU."""
    peak_mb: float


def spend(run: Callable[[], Latents], device: torch.device, seed: int) -> Spent:
    """What a run takes and makes, from a seed."""
    torch.manual_seed(seed)
    random.seed(seed)
    peak = peak_memory(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    z = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Spent(z.cpu(), clock() - began, peak())


def compare(case: Case, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Both in turn, after one run of either that does not count."""
    runs = {"theirs": case.theirs, "ours": case.ours}
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    for turn in range(settings.repeats + 1):
        for name, run in runs.items():
            found = spend(run, device, settings.seed)
            if turn or settings.repeats == 1:
                spent[name].append(found)
    a, b = spent["theirs"][-1].z, spent["ours"][-1].z
    move = float((b - case.s.cpu()).square().mean().sqrt())
    seconds = {name: median(s.seconds for s in runs) for name, runs in spent.items()}
    peaks = {name: median(s.peak_mb for s in runs) for name, runs in spent.items()}
    other = None if case.otherwise is None else spend(case.otherwise, device, settings.seed).z
    return {
        "peer": case.peer,
        "frames": len(case.s),
        "difference": float((a - b).abs().max()) / move,
        "otherwise": None if other is None else float((a - other).square().mean().sqrt()) / move,
        "theirs_s": seconds["theirs"] / settings.steps,
        "ours_s": seconds["ours"] / settings.steps,
        "time_ratio": seconds["theirs"] / seconds["ours"],
        "theirs_mb": peaks["theirs"],
        "ours_mb": peaks["ours"],
        "memory_ratio": peaks["theirs"] / peaks["ours"],
    }


def to_markdown(records: list[dict[str, Any]], settings: Settings) -> str:
    """The page."""
    unit = "processor seconds" if settings.device == "cpu" else "seconds"
    lines = [
        "# The published code beside ours",
        "",
        f"The published loops run as they are, with our networks, latents and embeddings; random numbers are the same. "
        f"Pictures of {settings.size_px} px, {settings.steps} steps, median of {settings.repeats} runs in turn, "
        f"float32 on {settings.device}, torch {torch.__version__}.",
        "",
        "Difference: the largest between final latents, against the root mean square of how far they moved. Memory is "
        "the peak of the process, networks and libraries included.",
        "",
        f"| | frames | difference | theirs, {unit} / step | ours | ratio | theirs, MB | ours, MB | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in records:
        time_cells = f"{r['theirs_s']:.2f} | {r['ours_s']:.2f} | {r['time_ratio']:.2f}"
        memory_cells = f"{r['theirs_mb']:.0f} | {r['ours_mb']:.0f} | {r['memory_ratio']:.2f}"
        name = r["peer"].upper()
        lines.append(f"| {name} | {r['frames']} | {r['difference']:.0e} | {time_cells} | {memory_cells} |")
    peers = {r["peer"]: r for r in records}
    if "csd" in peers:
        lines += ["", ABOUT_CSD.format(prior=Path(settings.prior).name)]
    if "cds" in peers:
        otherwise = 100 * peers["cds"]["otherwise"]
        lines += ["", ABOUT_CDS.format(prior=Path(settings.captioned).name, otherwise=f"{otherwise:.2g}")]
    return "\n".join([*lines, ""])


def csd_cases(settings: Settings, checkout: Path) -> Iterator[Case]:
    """A clip for each number of frames."""
    module = peers_csd.published(checkout)
    prior = InstructPrior.load(settings.prior, device=settings.device, dtype=torch.float32)
    for frames in settings.frames:
        s = latents(prior, settings, frames)
        about = (prior, s, settings.prompt, settings.steps)
        yield Case("csd", s, partial(peers_csd.theirs, module, *about), partial(peers_csd.ours, *about))


def cds_cases(settings: Settings, checkout: Path) -> Iterator[Case]:
    """A picture."""
    module = peers_cds.published(checkout)
    prior = TextToImagePrior.load(settings.captioned, device=settings.device, dtype=torch.float32)
    s = latents(prior, settings, 1)
    about = (prior, s, settings.captions, settings.steps)
    ours = partial(peers_cds.ours, *about)
    yield Case("cds", s, partial(peers_cds.theirs, module, *about), ours, partial(ours, transposed=False))


@torch.no_grad()
def latents(prior: InstructPrior | TextToImagePrior, settings: Settings, frames: int) -> Latents:
    """Of a sample clip."""
    clip = sample_clip(8, frames=max(frames, 2), height_px=settings.size_px, width_px=settings.size_px)
    return prior.codec.encode(clip.source(0, frames)).to(prior.device)


def cases(settings: Settings) -> Iterator[Case]:
    """All that there are checkouts for."""
    if settings.csd is not None:
        yield from csd_cases(settings, settings.csd)
    if settings.cds is not None:
        yield from cds_cases(settings, settings.cds)


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure and write; returns the folder. Raises ValueError or FileNotFoundError for what cannot be used."""
    total = (settings.csd is not None) * len(settings.frames) + (settings.cds is not None)
    records = [
        compare(case, settings, torch.device(settings.device))
        for case in progress.track("clips", cases(settings), total=total)
    ]
    about = {k: v for k, v in asdict(settings).items() if k not in ("csd", "cds", "out", "print")}
    about |= {"prior": Path(settings.prior).name, "torch": torch.__version__}
    write_json(settings.out / "peers.json", {"about": about, "records": records})
    write_text(settings.out / "peers.md", to_markdown(records, settings))
    if settings.print:
        print(to_markdown(records, settings))
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the checkout, settings or prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/peers.md, peers.json")


def read_settings() -> Settings:
    """Those of the command line; ends the program with one line where they make no sense."""
    try:
        return tyro.cli(Settings, description=__doc__)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main(read_settings()))
