"""Whether a file of weights is whole, and what a library says is wrong with one."""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

_ADVICE = re.compile(r"\s*(?:To enable repo look-ups[^)\n]*|Please check out the root cause[^.\n]*\.?)")


def check_whole(file: Path) -> None:
    """Raise ValueError when a safetensors file is cut short or is something else."""
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        start = file.read_bytes()[:40] if file.stat().st_size < 1024 else b""
        hint = " (it is a git-lfs pointer; git lfs pull fetches the real file)" if start.startswith(b"version") else ""
        raise ValueError(f"{file}: not a complete safetensors file{hint}: {first_line(error)}") from None


def first_line(error: Exception | None) -> str:
    """What a library says is wrong, without what it advises its programmers to do."""
    lines = _ADVICE.sub("", str(error).strip()).splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
