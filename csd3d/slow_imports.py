"""Importing what is large in less time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Within: the garbage collector rests. For imports of torch, diffusers and transformers, which make 800,000 objects
    that stay, and through which it would go again and again: a quarter of their time."""
    was_on, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # What somebody froze stays frozen; to count that takes 0.2 s of a million objects.
            if len(sys.modules) > modules and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # all that is there counts as old now: the next collections leave it out
            gc.enable()
