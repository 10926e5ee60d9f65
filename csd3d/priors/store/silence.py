"""Keeping the model libraries from talking over us, for the length of a call."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONG_BYTES = 10**9
"""Weights of this size may take over ten seconds to read."""


def worth_a_bar(files: Iterable[Path]) -> bool:
    """Whether reading weights takes so long that somebody at a terminal should see how far it is."""
    return sys.stderr.isatty() and sum(file.stat().st_size for file in files) >= LONG_BYTES


@contextmanager
def quiet(*, hide_bars: bool = True, errors: bool = True) -> Iterator[None]:
    """Within: nothing below an error from diffusers and transformers, and no progress bars unless `hide_bars` is False.
    Without `errors` nothing at all, for calls whose errors are raised and told by us.

    Afterwards all is as before.
    """
    import diffusers.utils.logging as diffusers_logging  # here: they take seconds, and help needs neither
    import transformers.utils.logging as transformers_logging

    before = []
    for log in (diffusers_logging, transformers_logging):
        before.append((log, log.get_verbosity(), log.is_progress_bar_enabled()))
        log.set_verbosity(logging.ERROR if errors else logging.CRITICAL)
        if hide_bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, had_bars in before:
            log.set_verbosity(verbosity)
            if had_bars:
                log.enable_progress_bar()
