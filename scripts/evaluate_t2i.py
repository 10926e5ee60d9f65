"""Evaluate a small text-to-image prior: does a picture show what its caption names?

    python scripts/evaluate_t2i.py PRIOR --work WORK [--out FOLDER] [--search] [--quick]

Captions are those of held-out scenes. A small network reads what is in a picture; it is trained first on the pictures
in WORK/shards (those of `train_builtin.py WORK`) and kept in WORK/reader.safetensors, and its own accuracy on real
pictures is measured with everything else. Writes evaluation.md, evaluation.json and evaluation.jpg. Same seed, same
numbers on the same machine. The default takes some five minutes on one CPU core for the built-in prior, and some twenty
more for the network.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import save_picture
from csd3d.metrics import jsonable
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store.fingerprint import prior_fingerprint
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import describe
from csd3d.world.render import ID_FIRST_THING, render, truth
from csd3d.world.scene import Scene, SceneSampler
from scripts.benchmarks.composition import SHAPES, Reader, content_of, judge, questions, train_reader
from scripts.benchmarks.composition_tables import Row, rows_of, to_markdown
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.heldout import FIRST_SEED
from scripts.benchmarks.sheet import Triple, triples_sheet
from scripts.training.pictures import training_camera

SEARCH_S_TEXT = (2.0, 3.0, 4.0, 6.0, 8.0, 11.0)
LEAST_SHARE = 0.005
"""Of a real picture that a thing must cover to be asked for."""
SHEET_CAPTIONS, SHEET_SAMPLES = 12, 3


@dataclass(frozen=True)
class Settings:
    """Evaluate a small text-to-image prior on captions of the world."""

    prior: tyro.conf.Positional[str] = "builtin:t2i"
    """"builtin:t2i" or a directory in diffusers layout."""
    work: Path = Path("work")
    """Folder of `train_builtin.py`: its pictures train the network that reads pictures."""
    out: Path | None = None
    """Folder for the results; by default the prior's own."""
    captions: int = 300
    """Captions of held-out scenes, a picture each."""
    s_text: float = 3.0
    """Text guidance."""
    search: bool = False
    """First measure some guidance scales, on other captions, and take the best."""
    steps: int = 25
    """Denoising steps."""
    size_px: int = 128
    """Side of the pictures."""
    real: int = 400
    """Real pictures on which the reading network is measured."""
    reader_steps: int = 8000
    """How long the reading network is trained."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """Few samples: for tests, and for a look at a prior in training."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "captions", "steps", "real", "reader_steps")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        return replace(self, captions=min(self.captions, 48), real=min(self.real, 48)) if self.quick else self


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    prior: TextToImagePrior
    reader: Reader
    settings: Settings
    progress: RunProgress

    def sample(self, what: str, captions: Sequence[str], *, s_text: float, number: int = 0) -> Float[Tensor, "n 3 S S"]:
        """A picture for each caption, with noise number `number` of the seed."""
        settings, out, side = self.settings, [], self.settings.size_px // self.prior.codec.factor
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
        starts = range(0, len(captions), 16)
        for i in self.progress.track(what, starts, total=len(starts)):
            some = captions[i : i + 16]
            made = self.prior.sample(
                Prompts(some), Guidance(s_text), len(some), size_lat=(side, side), rng=rng, steps=settings.steps,
                sampler="ddim",
            )  # fmt: skip
            out.append(made.cpu())
        return torch.cat(out)


def held_out(first: int, count: int) -> list[Scene]:
    """Scenes whose pictures no prior was trained on."""
    return [SceneSampler().sample(FIRST_SEED + first + i) for i in range(count)]


@torch.inference_mode()
def real_pictures(first: int, count: int, size_px: int) -> tuple[Float[Tensor, "n 3 S S"], Bool[Tensor, "n 8"]]:
    """Pictures of the scenes of `held_out`, and which of `SHAPES` can be seen in each."""
    pictures, visible = [], torch.zeros(count, len(SHAPES), dtype=torch.bool)
    for i, scene in enumerate(held_out(first, count)):
        camera = training_camera(FIRST_SEED + first + i, size_px)
        pictures.append(render([scene], [camera]))
        ids = truth([scene], [camera]).ids
        for k, thing in enumerate(scene.things):
            visible[i, SHAPES.index(thing.shape)] = (ids == ID_FIRST_THING + k).float().mean() >= LEAST_SHARE
    return torch.cat(pictures), visible


def measured_reader(work: Path, *, steps: int, seed: int, count: int, size_px: int) -> tuple[Reader, tuple[int, int]]:
    """The network that reads pictures, trained on those of `work` unless it is there; and how many questions about
    `count` real pictures it answers right, of how many."""
    reader = train_reader(work / "shards", work / "reader.safetensors", steps=steps)
    first = 100_000 + 1000 * seed
    real, visible = real_pictures(first, count, size_px)
    answers = questions(reader.read(real), content_of(held_out(first, count)), visible)
    return reader, (int(answers.sum()), len(answers))


@torch.no_grad()
def reconstruct(prior: TextToImagePrior, pictures: Float[Tensor, "n 3 S S"]) -> Float[Tensor, "n 3 S S"]:
    """What the codec leaves of pictures."""
    return torch.cat([prior.codec.decode(prior.codec.encode(p.to(prior.device))).cpu() for p in pictures.split(32)])


def search_guidance(bench: Bench) -> list[dict[str, float]]:
    """Share of captions whose things are all right, for some guidance scales, on captions that nothing else uses."""
    scenes = held_out(500_000 + 1000 * bench.settings.seed, 48)
    captions, wanted = [describe(s) for s in scenes], content_of(scenes)
    found = []
    for s_text in SEARCH_S_TEXT:
        seen = bench.reader.read(bench.sample(f"guidance {s_text:g}", captions, s_text=s_text))
        verdict = judge(seen, wanted)
        right = verdict.right[verdict.asked].float().mean().item()
        found.append(
            {"s_text": s_text, "n": len(scenes), "right": right, "all": verdict.all_right.float().mean().item()}
        )
    return found


def draw_sheet(bench: Bench, scenes: Sequence[Scene], s_text: float, path: Path) -> None:
    """Write a contact sheet: some captions, three pictures each."""
    captions = [describe(s) for s in scenes]
    samples = [bench.sample("contact sheet", captions, s_text=s_text, number=1 + k) for k in range(SHEET_SAMPLES)]
    verdicts = [judge(bench.reader.read(s), content_of(scenes)).all_right for s in samples]
    triples = []
    for i, caption in enumerate(captions):
        right = sum(int(v[i]) for v in verdicts)
        said = f"all things right in {right} of {SHEET_SAMPLES}"
        triples.append(Triple(caption, said, right == SHEET_SAMPLES, torch.stack([s[i] for s in samples])))
    save_picture(triples_sheet([triples[i : i + 2] for i in range(0, len(triples), 2)]), path)


def evaluate(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used, or if there are no pictures to learn from.
    """
    began = time.monotonic()
    given, settings = settings, settings.effective()
    prior = TextToImagePrior.load(settings.prior, device=settings.device)
    progress.say("training the network that reads pictures, unless it is there")
    reader = train_reader(settings.work / "shards", settings.work / "reader.safetensors", steps=settings.reader_steps)
    bench = Bench(prior, reader, settings, progress)

    first = 1000 * settings.seed
    real, visible = real_pictures(first + 100_000, settings.real, settings.size_px)
    known = content_of(held_out(first + 100_000, settings.real))
    answers = {
        "real pictures": questions(reader.read(real), known, visible),
        "real pictures through the codec": questions(reader.read(reconstruct(prior, real)), known, visible),
    }
    search = search_guidance(bench) if settings.search else []
    s_text = max(search, key=lambda s: s["right"])["s_text"] if search else settings.s_text

    scenes = held_out(first, settings.captions)
    made = bench.sample("captions", [describe(s) for s in scenes], s_text=s_text)
    pictures, _ = real_pictures(first, settings.captions, settings.size_px)
    rows: dict[str, list[Row]] = {
        "generated": rows_of(scenes, judge(reader.read(made), content_of(scenes))),
        "real pictures of the scenes": rows_of(scenes, judge(reader.read(pictures), content_of(scenes))),
    }
    out = settings.out or prior.path
    draw_sheet(bench, scenes[:SHEET_CAPTIONS], s_text, out / "evaluation.jpg")
    about: dict[str, Any] = {
        **{k: v for k, v in asdict(settings).items() if k not in ("prior", "out", "work", "device")},
        "s_text": s_text,
        "prior": settings.prior if prior.builtin else prior.path.name,
        "weights": prior_fingerprint(prior.path)[:12],
        "command": "scripts/evaluate_t2i.py" + " --quick" * given.quick + " --search" * bool(search),
        "minutes": (time.monotonic() - began) / 60,
    }
    shares = {name: (int(a.sum()), len(a)) for name, a in answers.items()}
    write_json(out / "evaluation.json", jsonable({"about": about, "reader": shares, "search": search, "rows": rows}))
    write_text(out / "evaluation.md", to_markdown(rows, shares, search, about))
    for name, (right, asked) in shares.items():
        progress.say(f"reading {name}: {100 * right / asked:.1f} % of {asked} questions")
    return out


def main(settings: Settings) -> int:
    """Evaluate; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{evaluate(settings, progress)}/evaluation.md, .json, .jpg")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
