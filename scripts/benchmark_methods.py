"""Edit clips by several methods and measure them: clips x sentences x methods, in one table.

    python scripts/benchmark_methods.py DATA --methods moved= "sampled=--by sampling" "still=--no-steady" [--out FOLDER]
    python scripts/benchmark_methods.py CLIPS --prompts "make it snowy" "make it night" --methods ...

DATA is what `csd3d evaluate batch` reads, as it is published: a table of clips and sentences (that of `csd3d video
batch`), TGVE or OpenVE-Bench; CLIPS a folder of clips, each of which is edited by every one of the prompts. A method
is a name and flags of `csd3d video`. Written are FOLDER/NAME with the results of each, FOLDER/runs, and table.md, .csv
and .json with bootstrap intervals. What is finished is not done again: the same command goes on.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from csd3d.cli.editors import read_request
from csd3d.cli.video_form import FORM
from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.job import evaluate
from csd3d.evaluate.layouts import Entry, cases_of_layout, read_layout
from csd3d.media.clip.formats import CLIPS, CONTAINERS
from csd3d.runs.job import Request
from csd3d.runs.progress import RunProgress
from scripts.benchmarks.entry import run_script
from video.batch import default_name, edit_all
from video.config import VideoConfig

RESERVED = ("runs",)
"""Names of folders that no method may have."""


@dataclass(frozen=True)
class Settings:
    """Edit clips by several methods, and measure all results against their sources."""

    data: tyro.conf.Positional[Path]
    """A table of clips and sentences, a benchmark's folder, or, with `prompts`, a folder of clips."""
    methods: tuple[str, ...]
    """NAME=FLAGS each, the flags being those of `csd3d video`; none after the sign: its defaults."""
    prompts: tuple[str, ...] = ()
    """Sentences by which every clip of a folder is edited."""
    out: Path = Path("outputs/benchmark_methods")
    """Folder for results, runs and table."""
    options: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    """What is measured, and by which networks."""


def entries_of_folder(folder: Path, prompts: Sequence[str]) -> list[Entry]:
    """Every clip of a folder with every sentence.

    Raises:
        FileNotFoundError: there is no such folder, or no clip in it.
    """
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in CLIPS)
    if not clips:
        raise FileNotFoundError(f"data: expected a folder of clips, got {folder}, which has none")
    return [
        Entry(Case(f"{clip.stem} {prompt}", clip, {}, prompt), (default_name(clip, prompt),))
        for clip in clips
        for prompt in prompts
    ]


def read_methods(given: Sequence[str]) -> dict[str, list[str]]:
    """Name to flags.

    Raises:
        ValueError: there is none, or a name that is no folder's, or twice.
    """
    methods: dict[str, list[str]] = {}
    for text in given:
        name, sign, flags = text.partition("=")
        if not sign or Path(name).name != name or name in (*RESERVED, *methods):
            raise ValueError(f"methods: expected different names, each with flags, as in NAME=FLAGS, got {text!r}")
        methods[name] = shlex.split(flags)
    if not methods:
        raise ValueError("methods: expected one or more, as in NAME=FLAGS, got none")
    return methods


def request_for(entry: Entry, method: str, flags: Sequence[str], out: Path) -> Request[VideoConfig]:
    """The edit of a case by a method. Ends the program for flags that `csd3d video` does not know."""
    case = entry.case
    given = {"prompt": case.prompt, "source-prompt": case.source_prompt, "mask": case.mask}
    words = [str(case.source), *(f"--{name}={value}" for name, value in given.items() if value is not None)]
    request, _ = read_request(FORM, [*words, *flags], prog=f"methods: {method}")
    place = Path(entry.places[0])
    output = out / method / (place if place.suffix.lower() in CONTAINERS else place.with_name(place.name + ".mp4"))
    return replace(request, source=case.source, output=output, run_dir=out / "runs" / method / "-".join(place.parts))


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Edit what is not edited yet, measure, and write; returns the folder.

    Raises:
        ValueError, FileNotFoundError: the data or the methods make no sense, or no clip was edited by all methods.
        KeyboardInterrupt: it was asked to stop; the same goes on.
    """
    methods = read_methods(settings.methods)
    read = entries_of_folder(settings.data, settings.prompts) if settings.prompts else read_layout(settings.data)
    code = edit_all([request_for(e, name, flags, settings.out) for name, flags in methods.items() for e in read])
    if code > 1:
        raise KeyboardInterrupt
    cases, notes = cases_of_layout(read, [settings.out / name for name in methods])
    notes += [f"{name}: csd3d video {shlex.join(flags)}".strip() for name, flags in methods.items()]
    table = evaluate(cases, settings.options, notes=notes, progress=progress)
    table.write(settings.out)
    print(table.markdown(definitions=False), end="")
    return settings.out


def main(settings: Settings) -> int:
    """Compare; 2 and one line when the data or the methods cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/table.md, table.csv, table.json")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
