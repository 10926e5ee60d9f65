"""What a start that is refused prints and leaves behind."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from csd3d.user_errors import DEBUG_VARIABLE, explain


@contextmanager
def mistakes_in_one_line(program: str = "csd-edit") -> Iterator[None]:
    """What the `csd3d` command says in one line instead of a traceback, with its exit code; `program` begins it."""
    try:
        yield
    except Exception as error:
        explained = None if os.environ.get(DEBUG_VARIABLE) else explain(error)
        if explained is None:
            raise
        message, code = explained
        print(f"{program}: {message}", file=sys.stderr)
        sys.exit(code)


@contextmanager
def folder_unless_refused(folder: Path) -> Iterator[None]:
    """`folder` exists within the block; if that fails, what was made for it goes again, if nothing is in it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
