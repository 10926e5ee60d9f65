"""Reading and writing beside the work in between, each in one thread of its own: decoders and encoders need one core,
and a prior on a GPU none, so what takes longest is all that is waited for. Order and results are those of one thread.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items in order, each made while the one before it is used; so two are held at a time.

    What making one raises is raised where it would have come. Closing waits for the one that is being made.
    """
    nothing = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming: Future[object] = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # pyright: ignore[reportReturnType]  # `object` only for the mark of the end


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Yields what takes a call and returns at once: calls are made in order while the block goes on, one at a time.

    A second call waits for the first, so what calls hold is bounded; leaving the block waits for the last. What a call
    raises is raised there, the next time, unless the block itself ends in an error.
    """
    with ThreadPoolExecutor(1, "behind") as thread:
        last: Future[object] | None = None

        def call(do: Callable[[], object]) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(do)

        yield call
        if last is not None:
            last.result()
