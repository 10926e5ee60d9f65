"""The table of families: rows a particle, error against the stock pipeline, seconds, memory and size.

    python scripts/benchmark_families.py [--only klein sd3] [--page docs/families.md]

prints the table, of the tests' tiny random pipelines, each in a process of its own; with `--page` it takes the place
of the one there. A tiny pipeline shows that a family is driven rightly, not what it edits, nor what a big one costs.
"""

import ctypes
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from csd3d.cli.cost import rows_of
from csd3d.engine.types import Batch
from csd3d.media.atomic import write_text
from csd3d.priors.prior import Guidance, Prompts

SIDE_PX, FRAMES = 64, 9
"""Of pictures, and of clips."""
MOVES = 4
"""That are timed; the shortest counts."""
BEGIN, END = "<!-- families: written by scripts/benchmark_families.py -->", "<!-- families: end -->"
HEAD = """\
| family | class in model_index.json | rows a particle | error | load | a move | memory | size | unseen without a GPU |
|---|---|---|---|---|---|---|---|---|"""
EMBEDDED = "the scale that the network reads (its pipeline's default) beside guidance by branches"
LOOKS = "what its vision-language model makes of real pictures and sizes"
NOT_SEEN = {
    "StableDiffusionXL": "float16 with the autoencoder in float32",
    "StableDiffusion3": "three text encoders in memory",
    "DreamLite": LOOKS,
    "Flux2": "sources as references at large sizes; no cache of keys and values is used",
    "Flux": EMBEDDED,
    "QwenImageEdit": LOOKS,
    "QwenImage": "cutting of the real template",
    "LongCat": LOOKS,
    "Lucy": "clips of 81 frames, and windows that begin inside one",
    "ZImage": "Z-Image-Turbo, which is distilled and wants guidance 1",
    "PixArt": "sizes beside those that it was trained at",
    "Sana": "sizes beside those that it was trained at; its autoencoder of factor 32",
}
"""Of classes that begin so, beside what no family's big model was seen to do here; the longest beginning counts."""


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
    """Of the processor, as are those of a move: others compute on the machine too. The check included."""
    move_s: float
    """A target and a source prediction of one particle of 64 x 64 px, or 9 frames, conditions recorded before."""
    memory_mb: float
    """What loading and moving add to a process at its peak."""
    size_mb: float
    """Of the weights."""

    def line(self) -> str:
        """Of the table."""
        error = f"{self.error:.0e}" if self.error else "0"
        tiny = f"{self.load_s:.1f} s | {1000 * self.move_s:.0f} ms | {self.memory_mb:.0f} MB | {self.size_mb:.1f} MB"
        unseen = max((name for name in NOT_SEEN if self.pipeline.startswith(name)), key=len)
        return f"| {self.title} | `{self.pipeline}` | {self.rows} | {error} | {tiny} | {NOT_SEEN[unseen]} |"


def look(path: Path) -> Row:
    """Load a pipeline and ask it for a move, in this process."""
    from csd3d.priors.families.clips import ClipCodec, fold
    from csd3d.priors.families.load import load_family

    ctypes.CDLL(None).malloc_trim(0)  # what is free already would be taken first
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is a new one
    before_kb = _status_kb("VmRSS")
    since = time.process_time()
    prior = load_family(path, device="cpu")
    load_s = time.process_time() - since
    rgb = torch.rand(FRAMES, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    codec = prior.codec
    s = fold(codec.encode_clip(rgb))[None] if isinstance(codec, ClipCodec) else prior.encode(rgb[:1])
    x = prior.schedule.noised(Batch(s, s, torch.zeros(1, dtype=torch.long)), 300, s.flip(-1))
    source = None if prior.kind == "instruct" else "a photo"
    score = prior.score(Prompts("make it snowy", source), Guidance.of(prior.defaults()))
    move_s = float("inf")
    for _ in range(MOVES):
        since = time.process_time()
        score.target(x)
        score.source(x)
        move_s = min(move_s, time.process_time() - since)
    memory_kb = _status_kb("VmHWM") - before_kb
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    title = prior.family.title + (" distilled" if prior.is_distilled and "[" in prior.family.title else "")
    title = "CosXL-Edit" if prior.levels.noising == "edm" else title
    rows = rows_of(prior.defaults(), prior.kind == "instruct", prior.family)
    return Row(
        title, type(prior.pipe).__name__, rows, prior.learnt.error, load_s, move_s, memory_kb / 1e3, size / 1e6
    )  # fmt: skip


def _status_kb(key: str) -> int:
    """A number of kB that Linux knows of this process."""
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def measure(name: str, folder: str) -> Row:
    """Write a tiny pipeline and look at it."""
    from tests.priors.families.tiny import write_family

    torch.set_num_threads(1)
    return look(write_family(name, Path(folder) / name))  # which imports what it consists of, no cost of the family


def with_table(page: str, table: str) -> str:
    """A page with the table in the place of its own. Raises ValueError where it has none."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"page: expected the lines {BEGIN} and {END}, got none")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(only: Sequence[str] = (), page: Path | None = None) -> None:
    """Print the table, and put it into `page`. `only`: some of the tiny pipelines, by the names in
    tests/priors/families/tiny.py."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # before what else is called `tests` here
    from tests.priors.families.tiny import CLIPS, FAMILIES

    lines = [HEAD]
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name in only or (*FAMILIES, *CLIPS):
            # a process of its own for each, or the peak of memory would be that of all before
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                lines.append(pool.apply(measure, (name, f"{folder}/{name}")).line())
            print(lines[-1], flush=True)
    if page is not None:
        write_text(page, with_table(page.read_text(encoding="utf-8"), "\n".join(lines)))


if __name__ == "__main__":
    tyro.cli(main)
