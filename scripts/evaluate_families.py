"""Evaluate an instruction editor on sentences with several right answers: is each one right, and do all of them come?

    python scripts/evaluate_families.py PRIOR [--out FOLDER] [--quick]

Held-out pictures of the world are edited by the stock diffusers pipeline, several times with different noise. An answer
is right if no other truth is nearer than that of some member of the family; the truths are those of everything that can
be seen in the picture, named or not, and the unedited picture. Writes families.md, families.json and families.png. The
default takes some ten minutes on one CPU core for the built-in prior.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import write_json, write_text
from csd3d.media.sheet import save_picture
from csd3d.metrics import (
    agreement,
    chance_agreement,
    is_any_nearest,
    jsonable,
    markdown_table,
    mean,
    nearest,
    psnr,
    variety,
    window_choices,
)
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import Edit
from csd3d.world.families import FEWEST, Family, all_families
from scripts.benchmarks.entry import run_script
from scripts.benchmarks.heldout import FIRST_SEED, Source, world_source
from scripts.benchmarks.sheet import Triple, triples_sheet
from scripts.benchmarks.stock import StockEditor

SOURCES_TRIED = 60
"""Held-out pictures among which each family finds those that leave it open."""
WINDOW_SHARE = 4
"""Windows within one picture are this part of its side, half of that apart."""


@dataclass(frozen=True)
class Settings:
    """Evaluate an instruction editor on families of edits."""

    prior: tyro.conf.Positional[str] = "builtin"
    """"builtin", a directory in diffusers layout, or a hub id."""
    out: Path | None = None
    """Folder for the results; by default the prior's own."""
    sources: int = 2
    """Pictures for every family."""
    seeds: int = 6
    """How often each is edited, each time with other noise and another wording, the held-out one among them."""
    s_text: float = 1.5
    """Text guidance."""
    s_image: float = 1.5
    """Image guidance."""
    steps: int = 20
    """Denoising steps."""
    size_px: int = 128
    """Side of the pictures."""
    batch: int = 12
    """Pictures in one call of the pipeline."""
    seed: int = 0
    device: str | None = None
    """None: CUDA when there is one."""
    quick: bool = False
    """One picture for every third family: for a look at a prior in training."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "sources", "seeds", "steps", "batch")
        require(self, "size_px", self.size_px % 8 == 0 and self.size_px >= 64, "a multiple of 8, 64 or more")


@dataclass(frozen=True)
class Case:
    """A family, a picture that leaves it open, and the members that can be seen there."""

    family: Family
    source: Source
    members: tuple[Edit, ...]

    @property
    def truths(self) -> Float[Tensor, "m 3 S S"]:
        """What the members give."""
        return torch.stack([self.source.truth(e) for e in self.members])


@dataclass(frozen=True)
class Answers:
    """What came of one case."""

    family: str
    kind: str
    source: str
    members: list[str]
    right: list[bool]
    """Of each answer: no truth is nearer than that of some member."""
    held_out: list[bool]
    """Of each answer: the wording was the one never trained on."""
    chosen: list[int]
    """Number of the nearest member."""
    windows: list[float]
    """Agreement of the windows within each answer, NaN where none can tell."""
    psnr: list[float]
    """Against the nearest member, dB."""


def cases(settings: Settings, progress: RunProgress) -> list[Case]:
    """`settings.sources` cases of every family (every third when quick), fewer where no more pictures leave it open."""
    families = all_families()[:: 3 if settings.quick else 1]
    wanted = {f.name: 1 if settings.quick else settings.sources for f in families}
    found: list[Case] = []
    first = FIRST_SEED + 700_000 + 1000 * settings.seed
    for seed in progress.track("rendering truths", range(first, first + SOURCES_TRIED), total=SOURCES_TRIED):
        if not any(wanted.values()):
            break
        source = world_source(seed, settings.size_px, variants=True)
        for family in families:
            members = tuple(e for e in source.edits if e in family.members)
            if wanted[family.name] and len(members) >= FEWEST:
                wanted[family.name] -= 1
                found.append(Case(family, source, members))
    return found


def sentence_of(family: Family, number: int) -> str:
    """The held-out wording first, then the trained ones in turn."""
    return family.wordings[(number - 1) % len(family.wordings)]


def answers_of(case: Case, outputs: Float[Tensor, "n 3 S S"]) -> Answers:
    """Judge the outputs of one case, one a seed."""
    source, members = case.source, case.truths
    everything = source.truths.float()[:, None].expand(-1, len(outputs), -1, -1, -1) / 255
    right = is_any_nearest(outputs, everything, [1 + source.edits.index(e) for e in case.members])
    chosen = nearest(outputs, members[:, None].expand(-1, len(outputs), -1, -1, -1))
    window = outputs.shape[-1] // WINDOW_SHARE
    within = [agreement(window_choices(o, members, size_px=window, stride_px=window // 2)) for o in outputs]
    return Answers(
        family=case.family.name,
        kind=case.family.kind,
        source=source.name,
        members=[e.name for e in case.members],
        right=right.tolist(),
        held_out=[sentence_of(case.family, i) == case.family.held_out for i in range(len(outputs))],
        chosen=chosen.tolist(),
        windows=within,
        psnr=psnr(outputs, members[chosen]).tolist(),
    )


def ask(editor: StockEditor, settings: Settings, case: Case, number: int) -> Float[Tensor, "n 3 S S"]:
    """The editor's answers to one case, with noise of its own for every seed."""
    base = settings.seed * 1_000_003 + number * settings.seeds
    made = []
    for start in range(0, settings.seeds, editor.batch):
        some = range(start, min(start + editor.batch, settings.seeds))
        made.append(
            editor.edit(
                case.source.picture.expand(len(some), -1, -1, -1),
                [sentence_of(case.family, i) for i in some],
                [base + i for i in some],
                s_text=settings.s_text,
                s_image=settings.s_image,
            )
        )
    return torch.cat(made)


def row_of(name: str, some: Sequence[Answers]) -> list[str]:
    """One line of the table."""
    right = [float(r) for a in some for r in a.right]
    held_out = [float(r) for a in some for r, h in zip(a.right, a.held_out, strict=True) if h]
    chosen = [torch.tensor(a.chosen) for a in some]
    return [
        name,
        str(len(right)),
        f"{100 * mean(right).value:.0f}",
        f"{100 * mean(held_out).value:.0f}",
        f"{mean(float(len(a.members)) for a in some).value:.1f}",
        f"{mean(variety(c) for c in chosen).value:.1f}",
        f"{mean(agreement(c) for c in chosen).value:.2f}",
        f"{mean(chance_agreement(len(a.chosen), len(a.members)) for a in some).value:.2f}",
        f"{mean(w for a in some for w in a.windows).value:.2f}",
        f"{mean(p for a in some for p in a.psnr).value:.1f}",
    ]


HEADS = ["family", "answers", "right, %", "right, %, held-out wording", "members", "variety", "agreement of seeds",
         "by chance", "agreement of windows", "PSNR, dB"]  # fmt: skip


def group_of(family: str) -> str:
    """The family's name without the thing: "any colour ball" -> "any colour"."""
    return " ".join(family.split()[:2])


def to_markdown(answers: Sequence[Answers], about: dict[str, object]) -> str:
    """The page."""
    groups = list(dict.fromkeys(group_of(a.family) for a in answers))
    rows = [row_of("all", answers), *(row_of(g, [a for a in answers if group_of(a.family) == g]) for g in groups)]
    return "\n".join(
        [
            "# Sentences with several right answers",
            "",
            f"Prior `{about['prior']}` (weights {about['weights']}), stock `StableDiffusionInstructPix2PixPipeline`, "
            f"{about['steps']} steps, s_text {about['s_text']}, s_image {about['s_image']}, {about['size_px']} px, "
            f"seed {about['seed']}; `{about['command']}`, {about['minutes']:.1f} minutes.",
            "",
            "Each picture is edited several times, with other noise and another wording. Right: no truth is nearer "
            "than that of some member. Variety: how many members the seeds share among them (`csd3d.metrics.variety`). "
            "Agreement: share of the seeds nearest to the member that most are nearest to; one decision for each seed "
            "by itself should come near to chance. Of windows: the same within one picture; there it should be 1.",
            "",
            markdown_table(HEADS, rows),
            "",
        ]
    )


def evaluate(settings: Settings, progress: RunProgress) -> Path:
    """Measure and write; returns the folder. Raises ValueError or FileNotFoundError for a prior that cannot be used."""
    began = time.monotonic()
    editor = StockEditor(settings.prior, device=settings.device, steps=settings.steps, batch=settings.batch)
    if settings.out is None and not editor.local:
        raise ValueError(f"out: expected a folder for the results of the hub's prior {settings.prior!r}, got none")
    out = settings.out or editor.path
    found = cases(settings, progress)
    answers, sheet = [], []
    for number, case in enumerate(progress.track("families", found, total=len(found))):
        outputs = ask(editor, settings, case, number)
        answers.append(answers_of(case, outputs))
        pictures = torch.stack([case.source.picture, *outputs[:2]])
        sheet.append(
            Triple(case.family.wordings[0], f"{sum(answers[-1].right)} right", all(answers[-1].right), pictures)
        )
    about: dict[str, object] = {
        **{k: v for k, v in asdict(replace(settings, out=None)).items() if k not in ("prior", "out", "device")},
        "prior": settings.prior if settings.prior.startswith("builtin") else Path(settings.prior).name,
        "weights": editor.fingerprint(),
        "command": "scripts/evaluate_families.py" + " --quick" * settings.quick,
        "minutes": (time.monotonic() - began) / 60,
    }
    write_json(out / "families.json", jsonable({"about": about, "answers": [asdict(a) for a in answers]}))
    write_text(out / "families.md", to_markdown(answers, about))
    save_picture(triples_sheet([sheet[i : i + 4] for i in range(0, len(sheet), 4)]), out / "families.png")
    progress.say(" | ".join(row_of("all", answers)))
    return out


def main(settings: Settings) -> int:
    """Evaluate; 2 and one line when the settings or the prior cannot be used."""
    return run_script(lambda progress: f"{evaluate(settings, progress)}/families.md, .json, .png")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
