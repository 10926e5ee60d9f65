"""Benchmarks as their folders are: a table of clips and sentences, and a folder of results for each method.

clips.csv, clips.yaml       clip, prompt, and source_prompt, mask, output where there are any: the file of
                            `csd3d video batch`, whose --out is a folder of results
TGVE (LOVEU 2023)           LOVEU-TGVE_2023_data.xlsx, or its rows as CSV, beside DAVIS_480p/480p_frames/NAME;
                            results in DAVIS_480p/NAME/style, object, background, multiple
OpenVE-Bench                benchmark_videos.csv with edited_type, prompt, original_video, beside videos/;
                            results NAME.mp4, NAME_edited.mp4 or gen_NAME.mp4, in folders of their types or not
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from csd3d.evaluate.cases import Case
from csd3d.evaluate.frames import pictures_of
from csd3d.evaluate.spreadsheet import read_spreadsheet
from csd3d.media.clip.formats import CLIPS
from csd3d.media.clip.probe import PICTURES, is_there
from csd3d.media.place import at_home, require_utf8
from csd3d.media.table_file import load_table
from csd3d.runs.found_masks import mask_file
from video.batch import clips_of, default_name

Row = Mapping[str, str]
TGVE_KINDS = ("style", "object", "background", "multiple")
_SUFFIXES = (*CLIPS, *PICTURES)


@dataclass(frozen=True)
class Entry:
    """A case without results, and where in a method's folder its result may be, without suffix."""

    case: Case
    places: tuple[str, ...]


def read_layout(path: Path) -> list[Entry]:
    """The cases of a benchmark: its table, or the folder that holds it.

    Raises:
        FileNotFoundError: there is no table, or a clip that it names.
        ValueError: the table is of no kind that is read.
    """
    table = table_of(path)
    rows = _rows(table)
    columns = {column.strip().lower() for row in rows for column in row}
    found: list[Entry] = []
    for row in ({k.strip().lower(): v.strip() for k, v in row.items()} for row in rows):
        if {"original_video", "prompt", "edited_type"} <= columns:
            found += _openve(row, table.parent)
        elif "video name" in columns:
            found += _tgve(row, table.parent)
        elif {"clip", "prompt"} <= columns:
            found += _own(row, table.parent)
        else:
            raise ValueError(f"evaluate: expected columns clip, prompt, or those of TGVE or OpenVE-Bench, in {table}")
    if not found:
        raise ValueError(f"evaluate: expected clips with sentences, got none in {table}")
    names = [entry.case.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"evaluate: expected each clip and sentence once, got {twice!r} twice in {table}")
    return found


def cases_of_layout(entries: Sequence[Entry], methods: Sequence[Path]) -> tuple[list[Case], list[str]]:
    """The cases that all methods have results of, so that their means are of the same; a note says what is left out.

    A method is called by its folder's name, or NAME where it is given as NAME=FOLDER.

    Raises:
        FileNotFoundError: a method's folder does not exist.
        ValueError: two methods have the same name, or there is no case of which all have results.
    """
    folders: dict[str, Path] = {}
    for given in methods:
        require_utf8(given.absolute(), "evaluate")
        name, sign, path = str(given).partition("=")
        method, folder = (name, at_home(Path(path))) if sign and not given.exists() else (given.resolve().name, given)
        if not folder.is_dir():
            raise FileNotFoundError(f"evaluate: expected a folder of results, got {folder}, which does not exist")
        if method in folders:
            raise ValueError(f"evaluate: expected methods of different names, got {method!r} twice")
        folders[method] = folder
    cases, missing = list[Case](), dict.fromkeys(folders, 0)
    for entry in entries:
        results = {method: _find(folder, entry.places) for method, folder in folders.items()}
        for method in (m for m, found in results.items() if found is None):
            missing[method] += 1
        there = {method: found for method, found in results.items() if found is not None}
        if len(there) == len(folders):
            cases.append(replace(entry.case, results=there))
    lacking = ", ".join(f"{method} lacks {n}" for method, n in missing.items() if n)
    if not cases:
        raise ValueError(
            f"evaluate: expected results of every method for some case, got none ({lacking or 'no method'})"
        )
    notes = (
        [f"{len(cases)} of {len(entries)} cases are measured, those that all methods have: {lacking}"]
        if lacking
        else []
    )
    return cases, notes


def table_of(path: Path) -> Path:
    """The table of a benchmark, given as that file or as its folder. Raises FileNotFoundError where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"evaluate: expected a table of clips or a folder with one, got no {path}")
    tables = sorted(p for kind in ("csv", "xlsx", "yaml", "yml") for p in path.glob(f"*.{kind}"))
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise FileNotFoundError(f"evaluate: expected one table (.csv, .xlsx, .yaml) in {path}, got {found}")
    return tables[0]


def _rows(table: Path) -> Sequence[Row]:
    if table.suffix.lower() == ".xlsx":
        return read_spreadsheet(table)
    read = load_table(table, "evaluate")
    if any(isinstance(value, list | dict) for row in read for value in row.values()):  # of YAML, or a gigabyte of text
        raise ValueError(f"evaluate: expected one value in each cell, got several in {table}")
    return [{str(k): "" if v is None else str(v) for k, v in row.items()} for row in read]


def _own(row: Row, folder: Path) -> Iterator[Entry]:
    if not row.get("clip") or not row.get("prompt"):
        raise ValueError(f"evaluate: expected a clip and a prompt in every row, got {dict(row)}")
    prompt, said = row["prompt"], mask_file(row.get("mask") or None)
    mask = None if said is None else folder / at_home(said)
    for clip in clips_of(folder / at_home(Path(row["clip"]))):
        name = Path(row.get("output") or default_name(clip, prompt))
        if not name.name:
            raise ValueError(f"evaluate: expected the name of a result, got {row['output']!r} in {dict(row)}")
        case = Case(f"{clip.stem} {prompt}", _existing(clip), {}, prompt, row.get("source_prompt") or None, mask)
        yield Entry(case, (str(name), str(name.with_suffix(""))))


def _openve(row: Row, folder: Path) -> Iterator[Entry]:
    given = Path(row.get("original_video") or "")
    stem, kind, prompt = given.stem, row.get("edited_type", ""), row.get("prompt", "")
    if not stem or not prompt:
        raise ValueError(f"evaluate: expected an original_video and a prompt in every row, got {dict(row)}")
    source = next(
        (p for p in (folder / given, folder.parent / given, folder / "videos" / given.name) if p.is_file()), None
    )
    names = (stem, f"{stem}_edited", f"gen_{stem}")
    places = [f"{before}{name}" for before in ("", f"{kind}/", f"{kind}/{stem}/", f"{stem}/") for name in names]
    yield Entry(Case(stem, source or _existing(folder / "videos" / given.name), {}, prompt), tuple(places))


def _tgve(row: Row, folder: Path) -> Iterator[Entry]:
    name = row.get("video name", "")
    captions = {column.split()[0]: text for column, text in row.items() if column.endswith(" caption") and text}
    prompts = {kind: captions[kind] for kind in TGVE_KINDS if kind in captions}
    if not name or not prompts:  # the sheet has rows that only name what follows
        return
    pattern = {f"*/480p_frames/{name}", f"*/480p_videos/{name}.mp4"}
    sources = sorted(p for one in pattern for p in folder.glob(one))
    if not sources:
        raise FileNotFoundError(
            f"evaluate: expected the clip {name!r} in {folder}, as in DAVIS_480p/480p_frames/{name}"
        )
    part = sources[0].parent.parent.name
    for kind, prompt in prompts.items():
        case = Case(f"{name} {kind}", sources[0], {}, prompt, row.get("our gt caption") or None)
        yield Entry(case, (f"{part}/{name}/{kind}", f"{name}/{kind}"))


def _existing(path: Path) -> Path:
    if not is_there(path):
        raise FileNotFoundError(f"evaluate: expected the clip {path}, which does not exist")
    return path


def _find(folder: Path, places: Sequence[str]) -> Path | None:
    """The first of the places at which there is a file of a kind that is read, or a folder of pictures."""
    for place in places:
        path = folder / place
        if path.is_file() or pictures_of(path):
            return path
        for suffix in _SUFFIXES:
            if (file := path.with_name(path.name + suffix)).is_file():
                return file
    return None
