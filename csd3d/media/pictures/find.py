"""Pictures that something is learnt from: the files of a folder, and what each of them shows."""

from collections.abc import Sequence
from pathlib import Path

from csd3d.media.json_file import load_json

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, in order. Raises FileNotFoundError or ValueError when there are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"pictures: expected a folder, got {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"pictures: expected files ending in {', '.join(sorted(SUFFIXES))} in {folder}, found none")
    return found


def read_captions(files: Sequence[Path], table: Path | None, same: str | None) -> list[str]:
    """The caption of each picture: from a JSON object of file names and captions, or the same for all.

    Raises:
        FileNotFoundError, ValueError: there is neither, or a picture is not in the table.
    """
    if table is None:
        if same is None or not same.strip():
            raise ValueError("source-prompt: expected what the pictures show, or --captions FILE.json, got neither")
        return [same] * len(files)
    if not table.is_file():
        raise FileNotFoundError(f"captions: expected a JSON file, got {table}, which does not exist")
    content = load_json(table, "captions")
    content = content if isinstance(content, dict) else {}
    missing = [f.name for f in files if not isinstance(content.get(f.name, same), str)]
    if missing:
        raise ValueError(f"captions: expected one for every picture in {table}, got none for {missing[0]}")
    return [content.get(f.name, same) for f in files]
