"""`csd3d runs`: which runs there are, what one did, and taking its result back."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from csd3d.cli.parse import read_dataclass, with_first
from csd3d.runs.history import find_run, runs_in, sentences, undo
from csd3d.runs.interrupt import resume_command
from csd3d.runs.manifest import Manifest


@dataclass(frozen=True)
class List:
    """List the runs in a folder, oldest first."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Where they are."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print their manifests as a JSON list, for scripts."""


@dataclass(frozen=True)
class Show:
    """Show one run: what was asked for, of what, with which history and result."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or its name in `runs/`."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print its manifest as JSON, for scripts."""


@dataclass(frozen=True)
class Undo:
    """Delete the result of a run, if it is as the run wrote it. The state stays: resuming writes the same again."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or its name in `runs/`."""


@dataclass(frozen=True)
class Command:
    """List and show runs, and take a result back."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Undo, tyro.conf.subcommand("undo")]
    ] = field(default_factory=List)
    """What to do."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    return run(read_dataclass(Command, with_first(argv, "list"), prog="csd3d runs"))


def run(command: Command) -> int:
    """Do it; returns the exit code.

    Raises:
        FileNotFoundError, ValueError: there is no such run, or its result must not be deleted.
    """
    action = command.action
    if isinstance(action, List):
        _list(action.folder, as_json=action.json)
    elif isinstance(action, Show):
        run_dir = find_run(action.run)
        if action.json:
            print(json.dumps(_facts(run_dir, Manifest.read(run_dir / "manifest.json")), indent=2))
        else:
            _show(run_dir)
    else:
        _undo(find_run(action.run))
    return 0


def _list(folder: Path, *, as_json: bool) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"runs: expected a folder of runs, got {folder}, which does not exist")
    runs = list(runs_in(folder))
    if as_json:
        print(json.dumps([_facts(path, manifest) for path, manifest in runs], indent=2))
        return
    rows = [
        (str(path), m.command, m.status, f"{m.steps} steps", m.created,
         " | ".join([*(str(e["prompt"]) for e in m.history), sentences(m)]))
        for path, m in runs
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not runs:
        print(f"no runs in {folder}")


def _facts(run_dir: Path, manifest: Manifest) -> dict[str, Any]:
    """A manifest as its file holds it, and where the run is."""
    return {"run_dir": str(run_dir), **asdict(manifest)}


def _show(run_dir: Path) -> None:
    m = Manifest.read(run_dir / "manifest.json")
    facts: list[tuple[str, Any]] = [
        ("run", run_dir), ("command", m.command), ("prompt", sentences(m)), ("status", m.status),
        ("started", m.created), ("steps", m.steps), ("seed", m.seed), ("prior", m.prior.get("name")),
    ]  # fmt: skip
    facts += [("input", entry["path"]) for entry in m.inputs]
    facts += [("before that", f"{e['prompt']!r}, {e.get('run_dir', 'run unknown')}") for e in reversed(m.history)]
    facts += list(m.outputs.items())
    facts += [(f"{name}, s", seconds) for name, seconds in m.timing_s.items()]
    facts += [("note", note) for note in m.notes]
    for name, value in facts:
        print(f"{name:<12} {value}")


def _undo(run_dir: Path) -> None:
    files, manifest = undo(run_dir)
    for file in files:
        print(f"deleted      {file}")
    if manifest.source is not None:
        gone = "" if Path(manifest.source).exists() else "  (which is no longer there)"
        print(f"as before    {manifest.source}{gone}")
    if not files:
        print("nothing was left to delete")
    print(f"to have it back: {resume_command(manifest.command, run_dir)}", file=sys.stderr)
