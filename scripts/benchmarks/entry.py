"""How every benchmark and evaluation ends: with a line about what was written, or about what was wrong."""

import sys
from collections.abc import Callable

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
