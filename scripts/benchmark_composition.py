"""Compare ways of sampling by whether pictures show what their captions name: CONFORM, Attend-and-Excite and others.

    python scripts/benchmark_composition.py --work WORK [--out FOLDER] [--rows plain conform] [--quick]

Captions of two and of three things of held-out scenes; every way begins with the same noise. A small network reads what
is in a picture; it is trained on the pictures in WORK/shards (those of `train_builtin.py WORK`) and kept in
WORK/reader.safetensors. Writes composition.md, composition.json and composition.jpg, and goes on where it was stopped.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.attention.presets import Attention
from csd3d.attention.steer import Pick, Steering
from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics import jsonable
from csd3d.priors.composed import Composed
from csd3d.priors.networks.sampler import timesteps_of
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import describe
from csd3d.world.scene import Scene
from scripts.benchmarks.composition import content_of, judge
from scripts.benchmarks.composition_tables import Row, rows_of
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept, selected
from scripts.benchmarks.steering_tables import PLAIN, Sampled, to_markdown
from scripts.evaluate_t2i import held_out, measured_reader

CANDIDATES = 8
SHOWN = 6


@dataclass(frozen=True)
class Way:
    """One way of sampling."""

    composed: Composed = field(default_factory=Composed)
    attention: Attention = field(default_factory=Attention)
    steps: float = 1.0
    """Times the usual number."""
    main: bool = False
    """Of all captions; else of the first."""


def steered(text: str, *, main: bool = False, steps: float = 1.0) -> Way:
    """As the flag `--steer` says it."""
    return Way(Composed(Steering.of(text)), steps=steps, main=main)


WAYS: Mapping[str, Way] = {
    PLAIN: Way(main=True),
    "excite": steered("excite", main=True),
    "conform": steered("conform", main=True),
    "structure": Way(attention=Attention.of("none", ("structure",)), main=True),
    f"pick {CANDIDATES}": Way(Composed(pick=Pick(CANDIDATES)), main=True),
    f"pick {CANDIDATES} after 3": Way(Composed(pick=Pick(CANDIDATES, 3)), main=True),
    "without t + 1": steered("conform:previous=no"),
    "without negatives": steered("conform:negatives=no"),
    "without refinement": steered("conform:rounds=0"),
    "half the step": steered("conform:rms=0.015"),
    "twice the step": steered("conform:rms=0.06"),
    "maps of 4 x 4": steered("conform:level=2,sites=mid_block"),
    "as published": steered("conform:step=20,columns=all,sites=up_blocks"),
    "plain, twice the steps": Way(steps=2.0),
    "conform, twice the steps": steered("conform", steps=2.0),
}


@dataclass(frozen=True)
class Settings:
    """Compare ways of sampling by what their pictures show."""

    prior: str = "builtin:t2i"
    """"builtin:t2i", or a directory in diffusers layout that knows the words of the world."""
    work: Path = Path("work")
    """Folder of `train_builtin.py`: its pictures train the network that reads pictures."""
    out: Path = Path("outputs/benchmark_composition")
    """Folder for the results."""
    rows: tuple[str, ...] = ()
    """Ways of sampling; none: all."""
    captions: int = 300
    """Half of two things, half of three."""
    ablation: int = 100
    """Captions, of the same, for the parts of CONFORM."""
    steps: int = 25
    """Denoising steps."""
    s_text: float = 6.0
    """Text guidance."""
    size_px: int = 128
    """Side of the pictures."""
    batch: int = 12
    """Pictures that are sampled together; changes no picture."""
    reader_steps: int = 8000
    """How long the reading network is trained."""
    real: int = 400
    """Real pictures on which it is measured."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """Few captions."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "captions", "ablation", "steps", "batch", "reader_steps", "real")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        return replace(self, captions=min(self.captions, 4), ablation=2, real=4, steps=5) if self.quick else self


def chosen(captions: int, seed: int) -> list[Scene]:
    """Held-out scenes of two and of three things in turn, so that the first ones are of both too."""
    found: dict[int, list[Scene]] = {2: [], 3: []}
    number = 1000 * seed
    while min(map(len, found.values())) < -(-captions // 2):
        (scene,) = held_out(number, 1)
        found.get(len(scene.things), []).append(scene)
        number += 1
    return [scene for pair in zip(found[2], found[3], strict=False) for scene in pair][:captions]


def first_noise(shape: tuple[int, int, int], captions: range, seed: int, *, among: int) -> Float[Tensor, "m c h w"]:
    """The first candidates of each caption, one caption after another: noise k of caption i is the same everywhere."""
    rngs = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in captions]
    return torch.cat([torch.randn(CANDIDATES, *shape, generator=rng)[:among] for rng in rngs])


def sample(prior: TextToImagePrior, way: Way, scenes: Sequence[Scene], settings: Settings) -> Float[Tensor, "n 3 S S"]:
    """A picture for each scene's caption."""
    side, out = settings.size_px // prior.codec.factor, []
    for start in range(0, len(scenes), settings.batch):
        some = scenes[start : start + settings.batch]
        shape, numbers = (prior.codec.channels, side, side), range(start, start + len(some))
        made = prior.sample(
            Prompts([describe(scene) for scene in some]),
            Guidance(settings.s_text),
            len(some),
            size_lat=(side, side),
            rng=torch.Generator(),
            steps=round(way.steps * settings.steps),
            noise=first_noise(shape, numbers, settings.seed, among=way.composed.pick.among),
            sampler="ddim",
            composed=way.composed,
            attention=way.attention,
        )
        out.append(made.cpu())
    return torch.cat(out)


def pictures_of(
    prior: TextToImagePrior, name: str, scenes: Sequence[Scene], settings: Settings, kept: Kept
) -> tuple[Float[Tensor, "n 3 S S"], float]:
    """Pictures of one way and seconds for each, from disk or made now."""
    path = kept.folder / f"{name.replace(' ', '-')}.safetensors"
    if not path.is_file():
        began = time.monotonic()
        rgb = sample(prior, WAYS[name], scenes, settings)
        kept.folder.mkdir(parents=True, exist_ok=True)
        seconds = torch.tensor((time.monotonic() - began) / len(rgb))
        partial = path.with_suffix(".part")
        save_file({"rgb": (rgb * 255).round().byte().contiguous(), "seconds": seconds}, partial)
        partial.replace(path)
    stored = load_file(path)
    return stored["rgb"].float() / 255, float(stored["seconds"])


def predicts(
    prior: TextToImagePrior, scenes: Sequence[Scene], rows: Sequence[Row], settings: Settings, after: int
) -> tuple[float, int, int]:
    """AUC of the worth of the plain noises after some steps for "all things are there"; how many are, how many not."""
    side = settings.size_px // prior.codec.factor
    captions, every = [describe(scene) for scene in scenes], torch.arange(len(scenes))
    score = prior.score(Prompts(captions), Guidance(settings.s_text))
    steer = Composed(pick=Pick(2, after)).steer(score, settings.steps, builtin=prior.builtin, controls=[])
    assert steer is not None
    noise = first_noise((prior.codec.channels, side, side), range(len(scenes)), settings.seed, among=1)
    z = prior.denoise(
        lambda z, t: score.predict(score.prompt, z, t, every),
        noise.shape,
        noise,
        torch.Generator(),
        steps=settings.steps,
        sampler="ddim",
        part=slice(0, after),
    )
    worth = steer.worth(z, timesteps_of(prior.scheduler, "ddim", settings.steps)[after], every).cpu()
    there = torch.tensor([all(thing["found"] for thing in row["things"]) for row in rows])
    ranks = worth.argsort().argsort().float() + 1
    yes, no = int(there.sum()), int((~there).sum())
    auc = (ranks[there].sum() - yes * (yes + 1) / 2) / (yes * no) if yes and no else torch.tensor(float("nan"))
    return float(auc), yes, no


def benchmark(given: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used, or if there are no pictures to learn from.
    """
    settings = given.effective()
    ways = selected(WAYS, settings.rows)
    prior = TextToImagePrior.load(settings.prior, device=settings.device)
    scenes = chosen(settings.captions, settings.seed)
    what = {k: v for k, v in asdict(settings).items() if k not in ("out", "work", "rows", "batch", "device", "quick")}
    decide = ("captions", "ablation", "steps", "s_text", "size_px", "seed")
    kept = Kept(settings.out / "kept", {k: what[k] for k in decide}, settings.prior)
    names = [PLAIN, *(name for name in ways if name != PLAIN)]
    pictures: dict[str, tuple[Tensor, float]] = {}
    for name in progress.track("ways of sampling", names, total=len(names)):
        some = scenes if WAYS[name].main else scenes[: settings.ablation]
        pictures[name] = pictures_of(prior, name, some, settings, kept)

    progress.say("training the network that reads pictures, unless it is there")
    reader, right = measured_reader(
        settings.work, steps=settings.reader_steps, seed=settings.seed, count=settings.real, size_px=settings.size_px
    )

    def read(name: str) -> Sampled:
        rgb, seconds = pictures[name]
        return Sampled(rows_of(scenes[: len(rgb)], judge(reader.read(rgb), content_of(scenes[: len(rgb)]))), seconds)

    found = {name: read(name) for name in names}
    main = {name: sampled for name, sampled in found.items() if WAYS[name].main}
    signal = {
        when: predicts(prior, scenes, found[PLAIN].rows, settings, after)
        for when, after in (("at once", 0), ("after 3 steps", min(3, settings.steps - 1)))
    }
    about: dict[str, Any] = {**what, "prior": settings.prior if prior.builtin else prior.path.name}
    ablations = {name: sampled for name, sampled in found.items() if not WAYS[name].main}
    records = {"about": about, "reader": right, "signal": signal, "rows": {k: asdict(v) for k, v in found.items()}}
    write_json(settings.out / "composition.json", jsonable(records))
    write_text(settings.out / "composition.md", to_markdown(main, ablations, signal, right, about))
    shown = {name: rgb[:SHOWN] for name, (rgb, _) in pictures.items() if WAYS[name].main}
    save_picture(contact_sheet(shown), settings.out / "composition.jpg")
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/composition.md, .json, .jpg")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
