"""Reading a JSON file of somebody else's: whatever is in it, it is read or refused in one line."""

import json
from pathlib import Path


def load_json(path: Path, what: str) -> object:
    """The value in a JSON file.

    Raises:
        ValueError: it is no JSON in UTF-8, or nested deeper than can be read; the text begins with `what` it is.
        OSError: it cannot be read.
    """
    return parse_json(path.read_bytes(), f"{what}: {path}")


def parse_json(text: str | bytes, where: str) -> object:
    """The value in a JSON text. Raises ValueError, beginning with `where`, as `load_json` does."""
    try:
        return json.loads(text)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{where} is not valid JSON ({error})") from error
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON (nested too deeply)") from None
