"""How every benchmark and evaluation ends: with a line about what was written or wrong; and where it is quiet."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from csd3d.runs.progress import RunProgress


def run_script(work: Callable[[RunProgress], str]) -> int:
    """Run `work` under a progress display and print "wrote " and what it returns; returns the exit code.

    2, and one line on stderr, when settings or files cannot be used (ValueError, FileNotFoundError).
    """
    try:
        with RunProgress() as progress:
            progress.say(f"wrote {work(progress)}")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What nerfstudio prints goes to a file, and the warnings it provokes nowhere."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
