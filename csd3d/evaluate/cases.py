"""What is compared with what: one source, the results that methods made of it, and the sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from csd3d.media.clip.probe import is_there
from csd3d.media.place import at_home, require_utf8
from csd3d.runs.folder import RunFolder
from csd3d.runs.found_masks import mask_file
from csd3d.runs.manifest import Manifest


@dataclass(frozen=True)
class Case:
    """One edit of one source."""

    name: str
    source: Path
    """A clip, picture, or folder of frames, renders or pictures."""
    results: Mapping[str, Path] = field(default_factory=dict)
    """What each method made of it."""
    prompt: str | None = None
    """What the results should show."""
    source_prompt: str | None = None
    """What the source shows."""
    mask: Path | None = None
    """Where the edit may change pixels, as the editors' `--mask`."""
    stream: int | None = None
    """Which of several video streams of the source; None: the one with the most pixels."""


def case_of_paths(paths: Sequence[Path], *, prompt: str | None, source_prompt: str | None, mask: Path | None) -> Case:
    """A source and results of it; given as NAME=PATH they are called so, else by the names of their files.

    Raises:
        ValueError: there is no result, or two have the same name.
    """
    if len(paths) < 2:
        raise ValueError(f"evaluate: expected a source and results of it, or folders of runs, got {len(paths)} path")
    for path in paths:
        require_utf8(path.absolute(), "evaluate")
    source, *others = paths
    results: dict[str, Path] = {}
    for given in others:
        name, sign, path = str(given).partition("=")
        named = bool(sign) and not given.exists()
        method, file = (name, at_home(Path(path))) if named else (given.stem, given)
        if method in results:
            raise ValueError(f"evaluate: expected a name for each result, as in mine={file}; got {method!r} twice")
        results[method] = file
    return Case(source.stem, source, results, prompt, source_prompt, mask)


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run."""
    return (path / "manifest.json").is_file()


def cases_of_runs(folders: Sequence[Path], *, prompt: str | None, source_prompt: str | None) -> list[Case]:
    """The cases of runs; those of one source and prompt are methods of one case, called by their folders.

    Raises:
        FileNotFoundError, ValueError: as `case_of_run`.
    """
    cases: dict[tuple[Path, str | None, Path | None, int | None], Case] = {}
    for folder in folders:
        one = case_of_run(folder, prompt=prompt, source_prompt=source_prompt)
        key = (one.source.resolve(), one.prompt, one.mask, one.stream)
        before = cases.get(key)
        if before is not None and (twice := set(before.results) & set(one.results)):
            raise ValueError(f"evaluate: expected runs in folders of different names, got {twice.pop()!r} twice")
        cases[key] = one if before is None else replace(before, results={**before.results, **one.results})
    return list(cases.values())


def case_of_run(folder: Path, *, prompt: str | None = None, source_prompt: str | None = None) -> Case:
    """The source, result, prompts and mask of a run; sentences that are given take the place of its own.

    Raises:
        FileNotFoundError: there is no run in `folder`, or its files are gone.
        ValueError: it has edited nothing, or is not finished.
    """
    manifest = Manifest.read(folder / "manifest.json")
    results = [Path(manifest.outputs[role]) for role in ("clip", "picture") if role in manifest.outputs]
    if not manifest.inputs or not results:
        raise ValueError(f"evaluate: expected a run that edits something, got one of {manifest.command} in {folder}")
    if manifest.status != "finished":
        raise ValueError(f"evaluate: expected a finished run, got {folder}, which is {manifest.status}")
    source = Path(manifest.inputs[0]["path"])
    for path in (source, results[0]):
        if not is_there(path):
            raise FileNotFoundError(f"evaluate: the run in {folder} names {path}, which is no longer there")
    config, found = manifest.config, RunFolder(folder)
    mask = mask_file(config.get("mask"))
    if mask is None:  # or one that was found
        mask = next((path for path in (found.masks, found.mask) if path.exists()), None)
    return Case(
        f"{source.stem} {config.get('prompt') or ''}".strip(),
        source,
        {folder.resolve().name: results[0]},
        prompt or config.get("prompt"),
        source_prompt or config.get("source_prompt"),
        mask,
        config.get("stream"),
    )
