"""Which runs led to a file, and taking the last of them back.

A run's manifest holds the hash of what it wrote. A file with that hash is the run's result wherever it lies, and an
edit of it continues the run's history. Where the run is not found, the comment in the file still names the sentences.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from csd3d.media.clip.formats import CONTAINERS
from csd3d.media.clip.times import TIMES
from csd3d.media.pictures.write import SUFFIXES
from csd3d.runs.folder import exclusive
from csd3d.runs.manifest import Manifest, fingerprint

COMMENT = "csd3d: "
"""How the comment of an edited clip begins; its sentences follow, oldest first."""
_BETWEEN = " | "


def runs_in(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """The runs in a folder (and the folder itself, if it is one), oldest first; what cannot be read is left out."""
    found: list[tuple[str, Path, Manifest]] = []
    for path in (folder, *_entries(folder)):
        try:
            manifest = Manifest.read(path / "manifest.json")
        except (ValueError, OSError):  # no run, or one of somebody else's
            continue
        found.append((manifest.created, path, manifest))
    yield from ((path, manifest) for _, path, manifest in sorted(found, key=lambda item: item[:2]))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none, or none that may be looked into."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def find_run(name: str | Path, *, base: Path = Path("runs")) -> Path:
    """The folder of a run, by its path or by its name in `base`.

    Raises:
        FileNotFoundError: there is no such run; the text names those that there are.
    """
    for path in (Path(name), base / name):
        if (path / "manifest.json").is_file():
            return path
    known = [path.name for path, _ in runs_in(base)] if base.is_dir() else []
    near = get_close_matches(Path(name).name, known, n=3, cutoff=0.3) or known[-3:]
    there = f"; there are {', '.join(near)}" if near else f"; there are none in {base}"
    raise FileNotFoundError(f"run: expected the folder of a run or its name in {base}, got {name}{there}")


def earlier_runs(source: Path, sha256: str, comment: str | None = None) -> list[dict[str, Any]]:
    """The history of a file: one entry a run, oldest first; none for a file that no run has made.

    Looks beside the file and in `runs/`, there and here. `comment` is that of the file.
    """
    for folder in dict.fromkeys((source.parent, source.parent / "runs", Path("runs"))):
        for path, manifest in runs_in(folder):
            if sha256 in manifest.written.values():
                return [*manifest.history, entry(path, manifest)]
    if comment and comment.startswith(COMMENT):
        return [{"prompt": prompt} for prompt in comment.removeprefix(COMMENT).split(_BETWEEN)]
    return []


def entry(path: Path, manifest: Manifest) -> dict[str, Any]:
    """What a later run keeps of an earlier one."""
    known = {"command": manifest.command, "prompt": sentences(manifest), "run_dir": str(path.resolve())}
    return known | {"input": manifest.source, "created": manifest.created}


def sentences(manifest: Manifest) -> str:
    """What a run was asked for: its sentence, those of regions, and captions of tasks."""
    asked = (manifest.config.get(name) for name in ("prompt", "prompt_at", "prompt_mask", "tasks"))
    return " · ".join(text for value in asked for text in _texts(value))


def _texts(value: object) -> list[str]:
    """A sentence, several, or captions by task; nothing where it is something else."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, Mapping):
        return [f"{task}={caption}" for task, caption in value.items()]
    return [str(text) for text in value] if isinstance(value, Sequence) else []


def was_ended(manifest: Manifest) -> bool:
    """Whether a run was told to end as soon as it may (tolerance 1): its result is not that of all its steps."""
    csd = manifest.config.get("csd")
    return isinstance(csd, Mapping) and csd.get("tolerance") == 1


def repeat_command(run_dir: Path, manifest: Manifest) -> str:
    """The command line that does once more what a run did, or, where that `was_ended`, all of it; empty where that
    takes more than a source and a sentence."""
    if "prompt" not in manifest.config:
        return ""
    words = ["csd3d", manifest.command, *([manifest.source] if manifest.source else [])]
    words += ["--prompt", prompt] if (prompt := manifest.config["prompt"]) is not None else []
    words += ["--preset", str(run_dir / "manifest.json")]
    return shlex.join([*words, "--tolerance", "0"] if was_ended(manifest) else words)


def provenance(comment: str | None, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The tag that names the sentences of `history` in a result; none where a comment of someone else's is."""
    if comment and not comment.startswith(COMMENT):
        return {}
    return {"comment": COMMENT + _BETWEEN.join(str(run["prompt"]) for run in history)}


def undo(run_dir: Path, *, others: Path | None = None) -> tuple[list[Path], Manifest]:
    """Delete what a run wrote; its state stays, so that resuming it writes the very same again.

    Returns what was deleted and the manifest. `others` is the folder whose runs may build on this one (that of the
    run by default).

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it has written nothing, what it wrote was changed since, is no result of a run or was not put there
            by it, a later run builds on it, or another process is at work on it.
    """
    path = run_dir / "manifest.json"
    manifest = Manifest.read(path)
    if not manifest.written:
        raise ValueError(f"undo: expected a finished run, got {run_dir}, which has written nothing ({manifest.status})")
    for later, other in runs_in(others or run_dir.parent):
        builds = {run["sha256"] for run in other.inputs} & set(manifest.written.values())
        if builds and other.status != "undone" and later.resolve() != run_dir.resolve():
            raise ValueError(f"undo: expected the last edit, got {run_dir}, on which {later} builds; undo that first")
    files = [Path(name) for name in manifest.written if Path(name).exists()]
    for file in files:
        if not _is_result(file):
            raise ValueError(f"undo: expected pictures, clips or folders of frames, got {file}; it is left alone")
        if fingerprint(file)["sha256"] != manifest.written[str(file)]:
            raise ValueError(f"undo: {file} was changed after {run_dir} wrote it; it is left alone")
        if not _left_by(run_dir, manifest, file):
            raise ValueError(f"undo: {file} was put there after {run_dir}, or by another program; it is left alone")
    with exclusive(run_dir):
        manifest.status = "undone"
        manifest.write(path)  # first: should this be stopped, a second try deletes the rest
        for file in files:
            _delete(file)
    return files, manifest


def _is_result(path: Path) -> bool:
    """Whether a file or folder is of a kind that runs write: a manifest from elsewhere may name anything."""
    if path.is_dir():
        return all(p.is_file() and (p.suffix == ".png" or p.name == TIMES) for p in path.iterdir())
    return path.suffix.lower() in (*SUFFIXES, *CONTAINERS, ".gif", ".safetensors")


def _left_by(run_dir: Path, manifest: Manifest, file: Path) -> bool:
    """Whether it was this run, on this machine, that wrote what it names: in its folder, or known by the moment."""
    inside = file.resolve().is_relative_to(run_dir.resolve())
    return inside or manifest.modified_ns.get(str(file)) == file.stat().st_mtime_ns


def _delete(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
