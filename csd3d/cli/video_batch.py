"""`csd3d video batch`: one line of a CSV or YAML file is one edit.

    clip,prompt,output,steps                         - clip: holiday/*.mp4
    beach.mp4,make it snowy,,                          prompt: make it snowy
    street.mp4,make it night,night.mp4,60              strength: 0.8

`clip` and `prompt` are needed; a pattern of video files stands for one edit each, but for those that are results of
this file. Every other column is a flag of `csd3d video`, with - or _, and may be empty. Semicolons and tabs separate
cells as commas do. Paths are taken from the file's folder, results go to --out.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tyro

from csd3d.cli.editors import flags_for, request_of
from csd3d.cli.parse import Flag, read_dataclass
from csd3d.cli.video_form import FORM
from csd3d.media.place import at_home
from csd3d.media.table_file import load_table
from csd3d.runs.found_masks import AUTO, mask_file
from csd3d.runs.history import runs_in
from csd3d.runs.job import Request
from csd3d.runs.manifest import fingerprint
from csd3d.runs.reference import like_files
from video.batch import Spread, clips_of, default_name, edit_all
from video.config import VideoConfig
from video.pool import LocalWorkers, spread

PATHS = ("clip", "mask", "like", "preset", "output", "lora", "embedding", "prior_config", "control_picture")
"""Columns that are paths, taken from the file's folder; an output, from --out."""
MODELS = ("prior", "control", "control_depth")
"""Columns that name a model: a path from the file's folder, where there is such a folder; of several words the last."""
WORDS = (("preset", "paper"), ("mask", AUTO))
"""What is none, in the columns of paths."""
OURS = ("run_dir", "resume", "preview")
"""Flags that a batch sets itself."""


@dataclass(frozen=True)
class Batch:
    """Edit many clips, one for each line of a CSV or YAML file. A failed line is reported and the others go on.

    Finished lines are not repeated, stopped ones are resumed, and those whose settings changed since are done anew."""

    jobs: tyro.conf.Positional[Path]
    """The file, .csv, .yaml or .yml: `clip`, `prompt`, and any flag of `csd3d video` as a column."""
    out: Path = Path("edited")
    """Folder for the results; the runs are in its `runs/`: NAME, and NAME-2 and so on for what was done anew."""
    prior: str | None = None
    """Prior of the jobs that name none. None: that which the method is for."""
    workers: int | None = None
    """So many clips at a time, each by a process of its own, on a GPU of its own where there are several. What fails
    for no fault of its line is tried once more by another. None: one; with --ray, one for each GPU of the cluster."""
    ray: bool = False
    """Workers on a Ray cluster, the one that RAY_ADDRESS names or one of this machine (the `ray` extra). All machines
    have csd3d and see these files under the same paths."""


def main(argv: Sequence[str]) -> int:
    """All edits; returns the exit code: 1 if one failed.

    Raises:
        ValueError, FileNotFoundError: the file makes no sense; nothing was done.
    """
    batch = read_dataclass(Batch, argv, prog="csd3d video batch")
    if batch.workers is not None and batch.workers < 1:
        raise ValueError(f"workers: expected 1 or more, got {batch.workers}")
    return edit_all(requests(read_jobs(batch.jobs), batch), spread_of(batch))


def spread_of(batch: Batch) -> Spread | None:
    """Who does the edits; None: this process."""
    workers = batch.workers
    if batch.ray:
        from video.pool_ray import RayWorkers

        return spread(lambda: RayWorkers(workers))
    return None if workers in (None, 1) else spread(lambda: LocalWorkers(workers))


def read_jobs(path: Path) -> list[dict[Any, Any]]:
    """The lines of a job file as they are.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not CSV with a header or a YAML list, or empty.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise FileNotFoundError(f"jobs: expected a CSV or YAML file, got {path}, {what}")
    return load_table(path, "jobs")


def requests(rows: Sequence[Mapping[str, Any]], batch: Batch) -> list[Request[VideoConfig]]:
    """The edits of a job file, patterns spread out.

    Raises:
        ValueError: a column that is no flag, a value of another kind, a missing one, two edits of one output, or an
            output that is there already and is read by another edit.
    """
    found: list[tuple[Request[VideoConfig], bool]] = []
    for number, row in enumerate(rows, start=1):
        try:
            found += _requests(row, batch)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"jobs: edit {number}: {error}") from error
    results = {_place_of(request.output) for request, _ in found}
    made = [request for request, by_pattern in found if not (by_pattern and _place_of(request.source) in results)]
    outputs: dict[Path, int] = {}
    for number, request in enumerate(made, start=1):
        if (first := outputs.setdefault(_place_of(request.output), number)) != number:
            raise ValueError(f"jobs: expected an output for each edit, got {request.output} for {first} and {number}")
    _require_inputs_kept(made, batch)
    return made


def _place_of(path: Path | None) -> Path:
    assert path is not None  # of every request of a batch
    return path.resolve()


def _require_inputs_kept(made: Sequence[Request[VideoConfig]], batch: Batch) -> None:
    """Raises ValueError for an output in whose place is what some edit reads, unless an edit of before put it there."""
    read: set[Path] = set()
    for request in made:
        config = request.config
        read |= {file.resolve() for file in (request.source, mask_file(config.mask), *like_files(config)) if file}
    for path in sorted({_place_of(request.output) for request in made} & read):
        wrote = (manifest.written.get(str(path)) for _, manifest in runs_in(batch.out / "runs"))
        if path.is_file() and fingerprint(path)["sha256"] not in wrote:
            raise ValueError(f"jobs: expected another output than what an edit reads, got {path}")


def _requests(row: Mapping[str, Any], batch: Batch) -> Iterator[tuple[Request[VideoConfig], bool]]:
    """The edits of a row, and whether a pattern has found their clips."""
    flags = {name: flag for name, flag in flags_for(FORM).items() if name not in OURS}
    values: dict[str, Any] = {} if batch.prior is None else {"prior": batch.prior}
    seen = set[str]()
    for column, value in row.items():
        name = str(column).strip().replace("-", "_")
        turns_off = name.startswith("no_") and name[3:] in flags and flags[name[3:]].hint is bool
        name = name[3:] if turns_off else name
        if name not in flags:
            near = ", ".join(get_close_matches(name, flags, n=3)) or "clip, prompt, output, steps"
            raise ValueError(f"expected columns that are flags of csd3d video, such as {near}; got {str(column)!r:.60}")
        if isinstance(value, (list, dict)):  # of YAML, whose aliases make a few lines a gigabyte of text
            raise ValueError(f"{column}: expected one value, got several")
        if value is not None and str(value).strip():
            if name in seen:
                raise ValueError(f"{name}: expected one column for it, got several spellings")
            seen.add(name)
            read = convert(flags[name], str(value).strip())
            values[name] = not read if turns_off else read
    if missing := [name for name in ("clip", "prompt") if name not in values]:
        raise ValueError(f"expected a {missing[0]}, got none")
    folder = batch.jobs.parent
    for name in seen.intersection(PATHS) - {"output"}:
        if (name, values[name]) not in WORDS:
            values[name] = _beside(folder, values[name])
    for name in seen.intersection(MODELS):
        *first, model = values[name] if isinstance(values[name], tuple) else (values[name],)
        model = str(beside) if (beside := folder / model).is_dir() else model
        values[name] = (*first, model) if first else model
    pattern = values.pop("clip")
    clips = clips_of(pattern)
    if "output" in values and len(clips) > 1:
        raise ValueError(f"output: expected none for {len(clips)} clips, got {values['output']}")
    if "output" in values and (values["output"].is_absolute() or ".." in values["output"].parts):
        raise ValueError(f"output: expected a name below --out ({batch.out}), got {values['output']}")
    request = request_of(FORM, values)
    for clip in clips:
        name = values.get("output") or Path(default_name(clip, values["prompt"]))
        made = replace(request, source=clip, output=batch.out / name, run_dir=batch.out / "runs" / _run_name(name))
        yield made, clip != pattern


def _run_name(output: Path) -> str:
    """Of the folder of an edit's run, another one for each output: `a/b.mp4` and `a-b.mp4` may be at work at once."""
    joined, unique = "-".join(output.parts), hashlib.sha256(output.as_posix().encode()).hexdigest()[:8]
    return joined if len(output.parts) == 1 else f"{joined}-{unique}"


def _beside(folder: Path, value: str | Path | tuple[str, ...]) -> str | Path | tuple[str, ...]:
    """A path, or several, taken from a folder."""
    if isinstance(value, tuple):
        return tuple(str(folder / at_home(Path(part))) for part in value)
    return type(value)(folder / at_home(Path(value)))


def convert(flag: Flag, text: str) -> Any:
    """A value of a column as its flag wants it.

    Raises:
        ValueError: it is of another kind.
    """
    name, hint = flag.name, flag.hint
    kinds = get_args(hint) or (hint,)
    if get_origin(hint) is Literal or any(get_origin(kind) is Literal for kind in kinds):
        words = [w for kind in (hint, *kinds) if get_origin(kind) is Literal for w in get_args(kind)]
        for word in words:
            if str(word) == text:
                return word
        raise ValueError(f"{name}: expected one of {', '.join(map(str, words))}, got {text!r}")
    if (several := next((get_args(kind) for kind in (hint, *kinds) if get_origin(kind) is tuple), None)) is not None:
        count = 1 if several[-1] is Ellipsis else len(several)
        words = tuple(text.split(maxsplit=count - 1)) if count > 1 else (text,)
        if len(words) < count:
            raise ValueError(f"{name}: expected {count} words, got {text!r}")
        return words
    for kind, what in ((bool, "true or false"), (int, "a whole number"), (float, "a number")):
        if kind in kinds:
            try:
                return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
            except (KeyError, ValueError):
                raise ValueError(f"{name}: expected {what}, got {text!r}") from None
    return Path(text) if Path in kinds else flag.read(text)
