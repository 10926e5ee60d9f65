"""`csd3d evaluate`: measure results against their source, without the truth; `csd3d evaluate batch`: a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from csd3d.cli.parse import read_dataclass
from csd3d.evaluate.cases import Case, case_of_paths, cases_of_runs, is_run
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.job import evaluate
from csd3d.evaluate.layouts import cases_of_layout, read_layout, table_of
from csd3d.evaluate.table import FILES
from csd3d.media.place import require_place


@dataclass(frozen=True)
class Command:
    """Measure clips, panoramas, pictures or folders of renders against their source, several results in one table.

    `csd3d evaluate SOURCE RESULT [RESULT ...]`, or `csd3d evaluate RUN [RUN ...]` with folders of runs, each of which
    knows its source, result, prompt and mask."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """The source and results of it, a name before each where that is wanted (mine=a.mp4); or folders of runs."""
    prompt: str | None = None
    """What the results should show, in the words of a caption: for the metrics of CLIP. None: that of the run."""
    source_prompt: str | None = None
    """What the source shows: for directional similarity and Frame-Acc. None: that of the run."""
    mask: Path | None = None
    """Where the edit may change pixels, as for the editors. None: that of the run."""
    out: Path | None = None
    """Folder for table.md, table.csv and table.json, with all numbers and the definitions. None: only shown."""
    options: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    """What is measured, and by which networks."""


@dataclass(frozen=True)
class Batch:
    """Measure the results of several methods on a benchmark: a table of clips and sentences, a folder a method.

    Read are the file of `csd3d video batch` (clip, prompt, and source_prompt, mask, output where there are any), TGVE
    (LOVEU 2023) and OpenVE-Bench, each as it is published. Measured is what all methods have results of."""

    data: tyro.conf.Positional[Path]
    """The table (.csv, .yaml, .xlsx), or the folder that holds it and the clips."""
    methods: tyro.conf.Positional[tuple[Path, ...]]
    """A folder of results for each method, a name before it where that is wanted (mine=results)."""
    out: Path = Path("evaluation")
    """Folder for table.md, table.csv and table.json."""
    options: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)
    """What is measured, and by which networks."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    if argv[:1] == ["batch"]:
        return run_batch(read_dataclass(Batch, argv[1:], prog="csd3d evaluate batch"))
    return run(read_dataclass(Command, argv, prog="csd3d evaluate"))


def run(command: Command) -> int:
    """Measure and print the table; returns the exit code. Mistakes raise, see `csd3d.evaluate.job.evaluate`."""
    if all(is_run(path) for path in command.paths):
        if command.mask is not None:
            raise ValueError(f"mask: expected none with runs, which know their own, got {command.mask}")
        cases = cases_of_runs(command.paths, prompt=command.prompt, source_prompt=command.source_prompt)
    else:
        one = case_of_paths(
            command.paths, prompt=command.prompt, source_prompt=command.source_prompt, mask=command.mask
        )
        cases = [one]
    return _measure(cases, command.options, command.out)


def run_batch(batch: Batch) -> int:
    """Measure all methods and print the table; returns the exit code. Mistakes raise, as of `layouts` and `job`."""
    table = table_of(batch.data)
    cases, notes = cases_of_layout(read_layout(table), batch.methods)
    return _measure(cases, batch.options, batch.out, notes, reads=[table])


def _measure(
    cases: Sequence[Case],
    options: EvaluateConfig,
    out: Path | None,
    notes: Sequence[str] = (),
    *,
    reads: Sequence[Path] = (),
) -> int:
    """`reads`: files that are read, besides those of the cases."""
    files = [] if out is None else [out / name for name in FILES]
    of_cases = [path for case in cases for path in (case.source, case.mask, *case.results.values())]
    for file in files:
        require_place(file, inputs=[*reads, *filter(None, of_cases)])
    table = evaluate(cases, options, notes=notes)
    print(table.markdown(definitions=out is None), end="")
    if out is not None:
        table.write(out)
        print(f"\nwritten   {out}/{', '.join(FILES)}")
    return 0
