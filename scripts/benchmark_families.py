"""The table of families in docs/priors.md: rows a particle, error against the stock pipeline, seconds, size.

    python scripts/benchmark_families.py [--only klein sd3]     prints the table, of the tests' tiny random pipelines

A tiny pipeline shows that a family is driven rightly, not what it edits, nor what a big one costs.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from csd3d.engine.guidance import evaluated, instruct_coefficients, instruct_source_coefficients, text_coefficients
from csd3d.engine.types import Batch
from csd3d.priors.families.load import load_family
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.prior import Guidance, Prompts

SIDE_PX = 64


@dataclass(frozen=True)
class Row:
    """What was found out about a tiny pipeline."""

    title: str
    pipeline: str
    rows: int
    """Evaluations of the network for a target and a source prediction of one particle, at the default scales."""
    error: float
    """Of a replay against the pipeline, relative to the largest prediction."""
    load_s: float
    """The check included."""
    move_s: float
    """A target and a source prediction of one particle of 64 x 64 px, conditions recorded before."""
    size_mb: float

    def line(self) -> str:
        """Of the table."""
        error = f"{self.error:.0e}" if self.error else "0"
        tiny = f"{self.load_s:.1f} s, {self.size_mb:.1f} MB | {1000 * self.move_s:.0f} ms"
        return f"| {self.title} | `{self.pipeline}` | {self.rows} | {error} | {tiny} |"


def rows_of(prior: FamilyPrior) -> int:
    """Evaluations of the network for a particle at the scales that suit."""
    csd = prior.defaults()
    if prior.kind != "instruct":
        return 2 * len(evaluated(text_coefficients(csd.s_text)))
    if prior.is_distilled:
        return 2
    image = csd.s_image if prior.has_null else 1.0
    both = instruct_coefficients(csd.s_text, image), instruct_source_coefficients(image)
    return sum(len(evaluated(coefficients)) for coefficients in both)


def look(path: Path) -> Row:
    """Load a pipeline and ask it for a move."""
    since = time.perf_counter()
    prior = load_family(path, device="cpu")
    load_s = time.perf_counter() - since
    s = prior.encode(torch.rand(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0)))
    x = prior.schedule.noised(Batch(s, s, torch.zeros(1, dtype=torch.long)), 300, s.flip(-1))
    source = None if prior.kind == "instruct" else "a photo"
    score = prior.score(Prompts("make it snowy", source), Guidance.of(prior.defaults()))
    for _ in range(2):
        since = time.perf_counter()
        score.target(x)
        score.source(x)
    move_s = time.perf_counter() - since
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    title = prior.family.title + (" distilled" if prior.is_distilled and "[" in prior.family.title else "")
    return Row(title, type(prior.pipe).__name__, rows_of(prior), prior.learnt.error, load_s, move_s, size / 1e6)


def main(only: Sequence[str] = ()) -> None:
    """Print the table. `only`: some of the tiny pipelines, by the names in tests/priors/families/tiny.py."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # before what else is called `tests` here
    from tests.priors.families.tiny import FAMILIES, write_family

    print("| family | class in model_index.json | rows a particle | error | load and size of the tiny model | a move |")
    print("|---|---|---|---|---|---|")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in only or FAMILIES:
            print(look(write_family(name, Path(folder) / name)).line(), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
