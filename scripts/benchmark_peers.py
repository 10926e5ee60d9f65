"""The published code of CSD beside ours, on the built-in weights, in one run: is the update the same, at what cost?

    python scripts/benchmark_peers.py --csd CHECKOUT [--frames 8] [--steps 4] [--out FOLDER] [--device cpu]

CHECKOUT is a clone of github.com/subin-kim-cv/CSD, whose loop runs as it is: it gets our networks, latents of a sample
clip and embeddings of a sentence in the places of those that it would load. Both get the same random numbers, and ours
the published settings. Writes peers.md and peers.json; of the checkout nothing is kept.
"""

import copy
import importlib.util
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.engine import PAPER, Batch, CsdConfig, csd_step, descend, lr_at
from csd3d.media.atomic import write_json, write_text
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.prior import Guidance, Prompts
from csd3d.runs.progress import RunProgress
from csd3d.world.sample import sample_clip
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.memory import peak_memory

Latents = Float[Tensor, "n c h w"]


@dataclass(frozen=True)
class Settings:
    """The published code of CSD beside ours, on the built-in weights."""

    csd: Path
    """Checkout of the published code of CSD, which has csdedit.py."""
    out: Path = Path("outputs/benchmark_peers")
    """Folder for the page and the numbers."""
    prior: str = "builtin"
    """Instruction editor."""
    frames: tuple[int, ...] = (8, 24)
    """Frames of a clip, each a row."""
    steps: int = 4
    repeats: int = 5
    """Runs of either, in turn, of which the median counts."""
    size_px: int = 128
    device: str = "cpu"
    prompt: str = "make it snowy"
    seed: int = 0
    print: bool = False
    """Print the page too."""

    def __post_init__(self) -> None:
        if not (self.csd / "csdedit.py").is_file():
            raise ValueError(f"csd: expected a checkout with csdedit.py, got {self.csd}")
        for name, least in (("steps", 1), ("repeats", 1), ("size_px", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if not self.frames or min(self.frames) < 3:
            raise ValueError(f"frames: expected 3 or more, which the published bandwidth needs, got {self.frames}")


@dataclass(frozen=True)
class Case:
    """What both edit."""

    prior: InstructPrior
    s: Latents
    settings: Settings

    @property
    def csd(self) -> CsdConfig:
        """The published settings of clips."""
        return replace(PAPER["csd-edit-video"], steps=self.settings.steps, s_text=7.5, s_image=1.5)


@dataclass(frozen=True)
class Spent:
    """What a run took."""

    z: Latents
    seconds: float
    """Of the processor; of the clock on a GPU."""
    peak_mb: float


def published(folder: Path) -> ModuleType:
    """The module of a checkout. Raises ValueError if it cannot be imported."""
    spec = importlib.util.spec_from_file_location("published_csdedit", folder / "csdedit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind: it is not ours
        raise ValueError(
            f"csd: {folder / 'csdedit.py'} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    finally:
        sys.dont_write_bytecode = before
    return module


def theirs(case: Case, module: ModuleType) -> Latents:
    """The latents that the published loop ends with."""
    prior, csd, settings = case.prior, case.csd, case.settings
    n = len(case.s)
    text = {name: prior.embed([name])[0] for name in ("", settings.prompt)}
    final: list[Tensor] = []

    def encode_prompt(prompts: list[str], **_: object) -> Tensor:
        return (
            torch.stack([text[""]] * n * 3)
            if not prompts[0]
            else torch.stack([text[settings.prompt]] * n + [text[""]] * 2 * n)
        )

    class Fed(module.CSDEdit):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues] - of another project
        """Their class with our networks and latents in the places of those that it loads."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.opt = SimpleNamespace(
                tgt_prompt=settings.prompt, src_prompt="", neg_prompt="", lr=csd.lr, wd=0.0, num_steps=csd.steps,
                decay_iter=csd.lr_decay_every, decay_rate=csd.lr_decay, min_step=csd.t_min, max_step=csd.t_max - 1,
                svgd=True,
            )  # fmt: skip
            self.device = prior.device
            self.pipe = SimpleNamespace(_encode_prompt=encode_prompt)
            self.unet, self.scheduler = prior.denoiser._unet, prior.scheduler
            self.alphas = prior.scheduler.alphas_cumprod.to(prior.device)  # pyright: ignore[reportAttributeAccessIssue]

        def encode_latents(self, images: object) -> Tensor:
            return case.s.clone()

        def decode_latents(self, latents: Tensor) -> Tensor:
            final.append(latents.detach().clone())
            return torch.zeros(1, 3, 8, 8)

    with quiet():
        Fed().edit_video([None] * n, csd.s_text, csd.s_image)
    return final[0]


def ours(case: Case) -> Latents:
    """The latents that our engine ends with, by the same random numbers.

    The published code shows the editor scaled latents of the source, which its pipeline does not; so does this.
    """
    prior, csd, s = case.prior, case.csd, case.s
    codec = copy.copy(prior.codec)
    codec.scaling = 1.0  # by which the editor's picture is divided
    score = replace(prior, codec=codec).score(Prompts(case.settings.prompt), Guidance.of(csd))
    z, index = s.clone(), torch.arange(len(s))
    for step in range(csd.steps):
        t = int(torch.randint(csd.t_min, csd.t_max, [1], device=s.device))
        x = score.schedule.noised(Batch(z, s, index), t, torch.randn_like(s))
        z, _ = descend(z, csd_step(score, x, csd).g, None, lr=lr_at(step, csd))
    return z


@contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor warnings."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield


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


def compare(case: Case, module: ModuleType) -> dict[str, float]:
    """Both in turn, after one run of either that does not count."""
    settings, device = case.settings, case.prior.device
    runs: dict[str, Callable[[], Latents]] = {"theirs": lambda: theirs(case, module), "ours": lambda: ours(case)}
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
    return {
        "frames": len(case.s),
        "difference": float((a - b).abs().max()) / move,
        "theirs_s": seconds["theirs"] / settings.steps,
        "ours_s": seconds["ours"] / settings.steps,
        "time_ratio": seconds["theirs"] / seconds["ours"],
        "theirs_mb": peaks["theirs"],
        "ours_mb": peaks["ours"],
        "memory_ratio": peaks["theirs"] / peaks["ours"],
    }


def to_markdown(records: list[dict[str, float]], settings: Settings) -> str:
    """The page."""
    unit = "processor seconds" if settings.device == "cpu" else "seconds"
    lines = [
        "# The published code beside ours",
        "",
        f"CSD-Edit of clips of {settings.size_px} px with the published settings (guidance 7.5 / 1.5) and the prior "
        f"`{Path(settings.prior).name}`, {settings.steps} steps, median of {settings.repeats} runs in turn, float32 on "
        f"{settings.device}, torch {torch.__version__}. The published loop runs as it is, with our networks, latents "
        "and embeddings; random numbers are the same. It evaluates six UNet rows a frame and step, ours five.",
        "",
        "Difference: the largest between final latents, against the root mean square of how far they moved. Memory is "
        "the peak of the process, networks and libraries included.",
        "",
        f"| frames | difference | theirs, {unit} / step | ours | ratio | theirs, MB | ours, MB | ratio |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in records:
        time_cells = f"{r['theirs_s']:.2f} | {r['ours_s']:.2f} | {r['time_ratio']:.2f}"
        memory_cells = f"{r['theirs_mb']:.0f} | {r['ours_mb']:.0f} | {r['memory_ratio']:.2f}"
        lines.append(f"| {r['frames']} | {r['difference']:.0e} | {time_cells} | {memory_cells} |")
    return "\n".join([*lines, ""])


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """A clip for each number of frames."""
    prior = InstructPrior.load(settings.prior, device=settings.device, dtype=torch.float32)
    for frames in settings.frames:
        clip = sample_clip(8, frames=frames, height_px=settings.size_px, width_px=settings.size_px)
        yield Case(prior, prior.codec.encode(clip.source()).to(prior.device), settings)


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure and write; returns the folder. Raises ValueError or FileNotFoundError for what cannot be used."""
    module, records = published(settings.csd), list[dict[str, float]]()
    for case in progress.track("clips", cases(settings), total=len(settings.frames)):
        records.append(compare(case, module))
    about = {k: v for k, v in asdict(settings).items() if k not in ("csd", "out", "print")}
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
