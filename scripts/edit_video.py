"""Edit many clips: one line of a CSV or YAML file is one edit.

    python scripts/edit_video.py JOBS.csv [--out edited] [--prior builtin]

    clip,prompt,output,steps                         - clip: holiday/*.mp4
    beach.mp4,make it snowy,,                          prompt: make it snowy
    street.mp4,make it night,night.mp4,60              strength: 0.8

`clip` and `prompt` are needed; a pattern of video files stands for one edit each. Every other column is a flag of
`csd3d video`, with - or _, and may be empty. Paths are taken from the file's folder, results go to --out. What fails is
said and the rest goes on; what is done already is not done again, what was stopped is resumed, what has other settings
by now, or another clip or mask, is done anew. At the end there is a table; the exit code is 1 if anything failed, 2 if
the file makes no sense.
"""

import csv
import hashlib
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml
from rich.console import Console
from rich.table import Table

from csd3d.cli.video import Command, build_config
from csd3d.media.clip.formats import CONTAINERS
from csd3d.media.clip.probe import probe
from csd3d.priors.editor import Loaded
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.manifest import Manifest, differences, fingerprint, to_plain
from csd3d.user_errors import explain
from video import edit
from video.config import VideoConfig

PATHS = ("clip", "mask", "preset")
"""Columns that are paths, taken from the file's folder."""
OURS = ("run_dir", "resume", "preview")
"""Flags that this script sets itself."""


@dataclass(frozen=True)
class Batch:
    """Edit many clips, one for each line of a CSV or YAML file."""

    jobs: tyro.conf.Positional[Path]
    """The file, .csv, .yaml or .yml: `clip`, `prompt`, and any flag of `csd3d video` as a column."""
    out: Path = Path("edited")
    """Folder for the results; the runs are in its `runs/`: NAME, and NAME-2 and so on for what was done anew."""
    prior: str | None = None
    """Prior of the jobs that name none."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    status: Literal["edited", "done before", "failed"]
    seconds: float
    told: str
    """Where the result is, or what went wrong."""


def read_jobs(path: Path) -> list[dict[str, Any]]:
    """The lines of a job file as they are.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not CSV with a header or a YAML list, or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"jobs: expected a CSV or YAML file, got {path}, which does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows: Any = list(csv.DictReader(text.splitlines(), strict=True))
        elif path.suffix.lower() in (".yaml", ".yml"):
            rows = yaml.safe_load(text)
        else:
            raise ValueError(f"jobs: expected a .csv, .yaml or .yml file, got {path}")
    except (UnicodeDecodeError, csv.Error, yaml.YAMLError) as error:
        raise ValueError(f"jobs: {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"jobs: expected at least one edit, each with its settings, in {path}")
    return rows


def commands(rows: Sequence[Mapping[str, Any]], batch: Batch) -> list[Command]:
    """The edits of a job file, patterns spread out.

    Raises:
        ValueError: a column that is no flag, a value of another kind, a missing one, or two edits of one output.
    """
    made: list[Command] = []
    for number, row in enumerate(rows, start=1):
        try:
            made += _commands(row, batch)
        except ValueError as error:
            raise ValueError(f"jobs: edit {number}: {error}") from error
    outputs: dict[Path, int] = {}
    for number, command in enumerate(made, start=1):
        assert command.output is not None
        if (first := outputs.setdefault(command.output.resolve(), number)) != number:
            raise ValueError(f"jobs: expected an output for each edit, got {command.output} for {first} and {number}")
    return made


def _commands(row: Mapping[str, Any], batch: Batch) -> Iterator[Command]:
    hints = {k: v for k, v in get_type_hints(Command).items() if k not in OURS}
    values: dict[str, Any] = {"prior": batch.prior}
    for column, value in row.items():
        name = str(column).strip().replace("-", "_")
        if name not in hints:
            raise ValueError(f"expected columns among {', '.join(sorted(hints))}; got {column}")
        if value is not None and str(value).strip():
            values[name] = convert(name, str(value).strip(), hints[name])
    if missing := [name for name in ("clip", "prompt") if name not in values]:
        raise ValueError(f"expected a {missing[0]}, got none")
    for name in PATHS:
        if name in values and values[name] != "paper":
            values[name] = type(values[name])(batch.jobs.parent / values[name])
    if row.get("prior") and (beside := batch.jobs.parent / values["prior"]).is_dir():
        values["prior"] = str(beside)
    clips = _clips(values.pop("clip"))
    if "output" in values and len(clips) > 1:
        raise ValueError(f"output: expected none for {len(clips)} clips, got {values['output']}")
    for clip in clips:
        name = values.get("output") or Path(default_name(clip, values["prompt"]))
        run = "-".join(part for part in name.parts if part not in (name.anchor, ".."))
        yield Command(**(values | {"clip": clip, "output": batch.out / name, "run_dir": batch.out / "runs" / run}))


def _clips(pattern: Path) -> list[Path]:
    """One clip, or all video files that fit a pattern; patterns of pictures are one clip."""
    if not any(sign in pattern.name for sign in "*?[") or pattern.exists():
        return [pattern]
    found = sorted(p for p in pattern.parent.glob(pattern.name) if p.suffix.lower() in (*CONTAINERS, ".avi", ".gif"))
    return found or [pattern]


def default_name(clip: Path, prompt: str) -> str:
    """A file name for an edit."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{clip.stem.strip('*?') or 'clip'}-{slug}{clip.suffix if clip.suffix.lower() in CONTAINERS else '.mp4'}"


def convert(name: str, text: str, hint: Any) -> Any:
    """A value of a column as its flag wants it.

    Raises:
        ValueError: it is of another kind.
    """
    kinds = get_args(hint) or (hint,)
    if get_origin(hint) is Literal or any(get_origin(kind) is Literal for kind in kinds):
        words = [w for kind in (hint, *kinds) if get_origin(kind) is Literal for w in get_args(kind)]
        for word in words:
            if str(word) == text:
                return word
        raise ValueError(f"{name}: expected one of {', '.join(map(str, words))}, got {text!r}")
    for kind, what in ((bool, "true or false"), (int, "a whole number"), (float, "a number")):
        if kind in kinds:
            try:
                return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
            except (KeyError, ValueError):
                raise ValueError(f"{name}: expected {what}, got {text!r}") from None
    return Path(text) if Path in kinds else text


class Priors:
    """Priors, each loaded when it is first asked for; only the last one is held."""

    def __init__(self) -> None:
        self._name: tuple[str, str | None] | None = None
        self._prior: Loaded | None = None

    def get(self, config: Any) -> Loaded:
        """The prior of some settings."""
        if self._prior is None or self._name != (config.prior, config.device):
            self._prior = None
            self._prior, self._name = edit.load_prior(config), (config.prior, config.device)
        return self._prior


def do(command: Command, priors: Priors) -> Outcome:
    """One edit; mistakes and failures are an outcome, a request to stop is not.

    Raises:
        RunInterrupted: SIGINT or SIGTERM; the state of the edit is saved.
    """
    assert command.run_dir is not None
    since = time.monotonic()
    try:
        config = build_config(command)
        run_dir, old = find_run(command, config)
        if old is not None and _is_done(command, config, old):
            return Outcome("done before", 0.0, str(command.output))
        result = edit.edit_video(
            command.clip, command.prompt, command.output, config,
            run_dir=run_dir, resume=old is not None, prior=priors.get(config),
        )  # fmt: skip
        return Outcome("edited", time.monotonic() - since, str(result.path))
    except Exception as error:
        explained = explain(error)
        if explained is None:  # a fault of ours: its traceback is worth more than its text
            traceback.print_exc()
        told = explained[0] if explained else f"{type(error).__name__}: {error}"
        return Outcome("failed", time.monotonic() - since, told.splitlines()[0])


def find_run(command: Command, config: VideoConfig) -> tuple[Path, Manifest | None]:
    """The run of this very edit, of this very clip and mask, and its manifest; a free folder and None if there is none.

    Raises:
        ValueError: a manifest cannot be read.
    """
    assert command.run_dir is not None
    assert command.clip is not None
    wanted, inputs = _settings(command, config), list[str]()
    for k in count(1):
        run_dir = command.run_dir if k == 1 else command.run_dir.with_name(f"{command.run_dir.name}-{k}")
        if not (run_dir / "manifest.json").exists():
            return run_dir, None
        old = Manifest.read(run_dir / "manifest.json")
        if not inputs:
            inputs = [_sha256(command.clip, config.max_frames), *([_sha256(command.mask)] if command.mask else [])]
        same = not differences(old.config, wanted, ignore=edit.FREE) and [i["sha256"] for i in old.inputs] == inputs
        if same and wanted["csd"]["steps"] >= old.config["csd"]["steps"]:
            return run_dir, old
    raise AssertionError


def _is_done(command: Command, config: VideoConfig, old: Manifest) -> bool:
    """Whether the run of this edit is finished, with these very settings, and the output is what it wrote."""
    assert command.output is not None
    if old.status != "finished" or not command.output.exists():
        return False
    if differences(old.config, _settings(command, config), ignore=("mask",)):  # which may have moved: see `find_run`
        return False
    now = fingerprint(command.output)
    return old.written.get(now["path"]) == now["sha256"]


def _settings(command: Command, config: VideoConfig) -> dict[str, Any]:
    """As the manifest has them."""
    return to_plain(config) | {"prompt": command.prompt}


def _sha256(path: Path, max_frames: int | None = None) -> str:
    """Of a clip or mask, as the manifest has it: of a folder or pattern those files that are its frames. Empty for what
    cannot be read, which the editor refuses in its own words."""
    try:
        return fingerprint(path, () if path.is_file() else probe(path, max_frames=max_frames).content)["sha256"]
    except (ValueError, OSError):
        return ""


def main(batch: Batch) -> int:
    """All edits; returns the exit code."""
    try:
        todo = commands(read_jobs(batch.jobs), batch)
    except (ValueError, OSError) as error:
        print(f"edit_video: {error}", file=sys.stderr)
        return 2
    console, priors, outcomes = Console(stderr=True), Priors(), list[tuple[Command, Outcome]]()
    code = 0
    try:
        for number, command in enumerate(todo, start=1):
            console.print(f"{number}/{len(todo)}  {command.clip}: {command.prompt}", highlight=False, markup=False)
            outcomes.append((command, do(command, priors)))
            if outcomes[-1][1].status == "failed":
                console.print(f"failed: {outcomes[-1][1].told}", highlight=False, markup=False)
    except (RunInterrupted, KeyboardInterrupt) as stop:
        print("stopped; the same command goes on", file=sys.stderr)
        code = getattr(stop, "exit_code", 130)
    _print_table(outcomes)
    failed = sum(outcome.status == "failed" for _, outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(todo)} edits are there, {failed} failed")
    return code or int(failed > 0)


def _print_table(outcomes: Sequence[tuple[Command, Outcome]]) -> None:
    table = Table("clip", "prompt", "", "seconds", "result", box=None)
    for command, outcome in outcomes:
        cells = (command.clip, command.prompt, outcome.status, f"{outcome.seconds:.1f}", outcome.told)
        table.add_row(*(str(cell).replace("[", r"\[") for cell in cells))
    Console(width=max(200, Console().width) if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Batch)))
