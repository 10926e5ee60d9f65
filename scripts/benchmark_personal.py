"""Learn a look from pictures of one subject and see whether a prior gives it to the subject and to other things.

    python scripts/benchmark_personal.py --work WORK [--out FOLDER] [--looks golden] [--rows embedding] [--quick]

The subject is a ball of one look, drawn by the prior itself; its captions have `{}` in the place of the look. What was
learnt is asked for in other captions, of the ball and of other things, and a small network reads whether they have the
look (as in benchmark_composition.py; it is trained on the pictures in WORK/shards and kept in WORK/reader.safetensors).
Writes personal.md, personal.json and personal.jpg, and goes on where it was stopped.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import tyro
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.engine.validate import require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.pictures.levels import to_levels
from csd3d.media.pictures.write import write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics import jsonable
from csd3d.personal.config import TOKEN, PersonalConfig
from csd3d.personal.job import personal_prior, personalise
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.world.scene import SIMPLE_SHAPES, Ground
from scripts.benchmarks.composition import LOOKS, SHAPES, Reader
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.kept import Kept, selected
from scripts.benchmarks.personal_tables import Asked, to_markdown
from scripts.evaluate_t2i import measured_reader

READ_AS: Mapping[str, str] = {
    "golden": "gold", "wooden": "wood", "metallic": "chrome", "blue": "blue", "red": "red", "striped green": "striped",
}  # fmt: skip
"""Looks that can be learnt, and what the reading network calls them (of stripes, not their colour)."""
SUBJECT = "ball"
NAMED, NONE = "the words themselves", "no word"
WAYS: Mapping[str, PersonalConfig | None] = {
    NAMED: None,
    NONE: None,
    "embedding": PersonalConfig(),
    "xti": PersonalConfig(method="xti"),
    "lora": PersonalConfig(method="lora", token="empty", lr=3e-4),
    "lora, class preserved": PersonalConfig(method="lora", token="empty", lr=3e-4, class_prompt=f"a {SUBJECT}"),
}
"""A LoRA is bound to a word that captions of things never have, and changes captions without it too."""


@dataclass(frozen=True)
class Settings:
    """Learn looks, and see whether they are there."""

    prior: str = "builtin:t2i"
    """"builtin:t2i", or a directory in diffusers layout that knows the words of the world."""
    work: Path = Path("work")
    """Folder of `train_builtin.py`: its pictures train the network that reads pictures."""
    out: Path = Path("outputs/benchmark_personal")
    """Folder for the results."""
    looks: tuple[str, ...] = ("golden", "striped green")
    """What is learnt, each for itself."""
    rows: tuple[str, ...] = ()
    """Ways of learning; none: all."""
    pictures: int = 12
    """Of the subject."""
    learning: int = 300
    """Training steps."""
    steps: int = 25
    """Denoising steps."""
    s_text: float = 6.0
    """Text guidance."""
    reader_steps: int = 8000
    """How long the reading network is trained."""
    real: int = 400
    """Real pictures on which it is measured."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One look, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "pictures", "learning", "steps", "reader_steps", "real")
        if unknown := set(self.looks) - set(READ_AS):
            raise ValueError(f"looks: expected some of {', '.join(READ_AS)}, got {', '.join(sorted(unknown))}")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        return replace(self, looks=self.looks[:1], pictures=2, learning=2, steps=2, real=4) if self.quick else self


def questions_of(*, said: bool = True) -> list[Asked]:
    """What is asked for: the subject, and every other thing that has a look, on each ground; or, not `said`, the other
    things without a word for the look."""
    grounds = [("a " if ground == "checkerboard" else "") + ground for ground in get_args(Ground)]
    others = [shape for shape in SIMPLE_SHAPES if shape != SUBJECT]
    word = f"{TOKEN} " if said else ""
    shapes = [SUBJECT, *others] if said else others
    return [Asked(shape, f"a {word}{shape} on {ground}", said) for shape in shapes for ground in grounds]


def drawn(prior: TextToImagePrior, captions: Sequence[str], settings: Settings, seed: int) -> Float[Tensor, "n 3 S S"]:
    """A picture of each caption; the same noise for the same place and seed."""
    side = prior.native_px // prior.codec.factor
    noise = [torch.Generator().manual_seed(1_000_003 * seed + k) for k in range(len(captions))]
    return prior.sample(
        Prompts([" ".join(caption.split()) for caption in captions]),
        Guidance(settings.s_text),
        len(captions),
        size_lat=(side, side),
        rng=torch.Generator(),
        steps=settings.steps,
        noise=torch.cat([torch.randn(1, prior.codec.channels, side, side, generator=rng) for rng in noise]),
        sampler="ddim",
    ).cpu()


def write_subject(prior: TextToImagePrior, look: str, settings: Settings, folder: Path) -> None:
    """Pictures of the subject on all grounds, and their captions, unless they are there."""
    if (folder / "captions.json").is_file():
        return
    grounds = [asked.caption for asked in questions_of() if asked.shape == SUBJECT]
    captions = (grounds * -(-settings.pictures // len(grounds)))[: settings.pictures]
    folder.mkdir(parents=True, exist_ok=True)
    rgb = drawn(prior, [caption.replace(TOKEN, look) for caption in captions], settings, settings.seed + 100)
    names = [f"{k:02d}.png" for k in range(len(captions))]
    for name, pixels in zip(names, to_levels(rgb), strict=True):
        write_picture(folder / name, pixels)
    write_json(folder / "captions.json", dict(zip(names, captions, strict=True)))


def learnt(
    prior: TextToImagePrior, look: str, way: PersonalConfig, settings: Settings, folder: Path
) -> tuple[TextToImagePrior, str]:
    """The prior after learning a look in one way, and the word for it."""
    subject, run = folder / f"{look}-pictures", folder / "runs" / f"{look}-{_name(way)}"
    write_subject(prior, look, settings, subject)
    config = replace(way, prior=settings.prior, steps=settings.learning, seed=settings.seed, device=settings.device)
    config = replace(config, captions=str(subject / "captions.json"))
    resume = (run / "manifest.json").is_file()
    result = personalise(
        None if resume else subject, None if resume else config, run_dir=run, resume=resume, prior=prior,
        progress=RunProgress(quiet=True),
    )  # fmt: skip
    return personal_prior(prior, result.path, config), config.word


def asked_of(name: str) -> list[Asked]:
    """What is asked for after one way of learning."""
    way = WAYS[name]
    return [*questions_of(), *(questions_of(said=False) if way is not None and way.method == "lora" else [])]


def pictures_of(
    prior: TextToImagePrior, look: str, name: str, settings: Settings, folder: Path
) -> Float[Tensor, "n 3 S S"]:
    """Pictures of all that is asked for, from disk or made now."""
    path, way = folder / f"{look}-{name}.safetensors".replace(" ", "-"), WAYS[name]
    if not path.is_file():
        made, word = prior, look if name == NAMED else ""
        if way is not None:
            made, word = learnt(prior, look, way, settings, folder)
        rgb = drawn(made, [asked.caption.replace(TOKEN, word) for asked in asked_of(name)], settings, settings.seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"rgb": (rgb * 255).round().byte().contiguous()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return load_file(path)["rgb"].float() / 255


def answers(reader: Reader, rgb: Float[Tensor, "n 3 S S"], look: str, name: str) -> list[dict[str, Any]]:
    """Whether each thing that was asked for is there, and has the look."""
    seen, rows = reader.read(rgb), []
    for k, asked in enumerate(asked_of(name)):
        shape = SHAPES.index(asked.shape)
        there = bool(seen.present[k, shape])
        right = there and int(seen.look[k, shape]) == LOOKS.index(READ_AS[look])
        of = "without" if not asked.said else "subject" if asked.shape == SUBJECT else "other"
        rows.append({"look": look, "of": of, "there": there, "right": right})
    return rows


def benchmark(given: Settings, progress: RunProgress) -> Path:
    """Learn and measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for a prior that cannot be used, or if there are no pictures to learn from.
    """
    settings = given.effective()
    ways = selected(WAYS, settings.rows)
    prior = TextToImagePrior.load(settings.prior, device=settings.device)
    what = {k: v for k, v in asdict(settings).items() if k not in ("out", "work", "rows", "looks", "device", "quick")}
    decide = ("pictures", "learning", "steps", "s_text", "seed")
    folder = Kept(settings.out / "kept", {k: what[k] for k in decide}, settings.prior).folder
    pairs = [(look, name) for look in settings.looks for name in ways]
    pictures = {
        (look, name): pictures_of(prior, look, name, settings, folder)
        for look, name in progress.track("looks and ways", pairs, total=len(pairs))
    }
    progress.say("training the network that reads pictures, unless it is there")
    reader, right = measured_reader(
        settings.work, steps=settings.reader_steps, seed=settings.seed, count=settings.real, size_px=prior.native_px
    )
    found = {
        name: [row for look in settings.looks for row in answers(reader, pictures[look, name], look, name)]
        for name in ways
    }
    about = {**what, "prior": settings.prior if prior.builtin else prior.path.name, "looks": list(settings.looks)}
    write_json(settings.out / "personal.json", jsonable({"about": about, "reader": right, "rows": found}))
    write_text(settings.out / "personal.md", to_markdown(found, right, about))
    look = settings.looks[-1]
    grounds = len(get_args(Ground))
    shown = {name: pictures[look, name][: len(questions_of()) : grounds] for name in ways}
    save_picture(contact_sheet(shown, cell_px=128), settings.out / "personal.jpg")
    return settings.out


def _name(way: PersonalConfig) -> str:
    """Of a run."""
    known = {json.dumps(asdict(w), default=str): name for name, w in WAYS.items() if w is not None}
    return known[json.dumps(asdict(way), default=str)].replace(" ", "-").replace(",", "")


def main(settings: Settings) -> int:
    """Learn and measure; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/personal.md, .json, .jpg")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
