"""Loading models by transformers, quietly, with mistakes in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging


@contextmanager
def readable(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever transformers raises over a damaged model, or one of another kind, into one line."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what}: expected a model that can be read, got {folder} ({reason})") from None
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
