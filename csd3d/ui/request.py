"""What a person has filled in, as the words of the command line that does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csd3d.media.clip.formats import CLIPS
from csd3d.media.pictures.levels import read_header

Editor = Literal["video", "panorama", "image"]
EDITORS: tuple[Editor, ...] = ("video", "panorama", "image")
WIDE = 1.9
"""Pictures wider than so many times their height are panoramas."""
AT_ONCE = "--tolerance=1"
"""Ends a run that is resumed as soon as it may end: the result is written as things stand."""


@dataclass(frozen=True)
class Asked:
    """The fields of the page; None where a field was left alone, which then has the command's own default."""

    source: Path
    prompt: str
    editor: Editor | None = None
    """None: by what the source is."""
    prior: str | None = None
    effort: str | None = None
    strength: float | None = None
    steps: int | None = None
    seed: int | None = None
    mask: str | None = None
    """A picture file, or what else the command's `--mask` takes."""
    mask_words: str | None = None
    """The thing that alone is edited."""
    source_prompt: str | None = None
    """What the source shows, for priors that edit by captions."""


def editor_for(source: Path) -> Editor:
    """What edits a file: clips by their name, pictures by their shape.

    Raises:
        ValueError: it is no clip by its name, and no picture that can be read.
    """
    if source.suffix.lower() in CLIPS:
        return "video"
    try:
        header = read_header(source)
    except OSError as error:
        raise ValueError(f"source: expected a clip or a picture, got {source.name} ({error})") from error
    return "panorama" if header.width_px > WIDE * header.height_px else "image"


def words_of(asked: Asked) -> list[str]:
    """The words after `csd3d`. Values are joined to their flags, so that none can pass for a flag.

    Raises:
        ValueError: there is no sentence, or a picture cannot be read.
    """
    if not asked.prompt.strip():
        raise ValueError("prompt: expected a sentence that says what to change, got none")
    flags = {
        "prompt": asked.prompt.strip(),
        "prior": asked.prior,
        "effort": asked.effort,
        "strength": asked.strength,
        "steps": asked.steps,
        "seed": asked.seed,
        "mask": asked.mask,
        "mask-words": asked.mask_words,
        "source-prompt": asked.source_prompt,
    }
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return [asked.editor or editor_for(asked.source), str(asked.source), *given]


def first_look_in(picture: Path) -> list[str]:
    """More words, with which a command only writes what a few frames, or a part, would become."""
    return ["--preview", f"--output={picture}"]
