"""Reading ahead and writing behind: order, bounds, errors."""

from collections.abc import Callable, Iterator
from functools import partial
from threading import Event

import pytest

from csd3d.media.clip.source import open_clip
from csd3d.media.overlap import ahead, behind

WAIT_S = 20
"""Longer than anything takes here that ever comes."""


def test_the_next_item_is_made_while_one_is_used_and_no_other() -> None:
    made = [Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    following = ahead(items())
    assert next(following) == 0
    assert made[1].wait(WAIT_S)
    assert not made[2].is_set()
    assert list(following) == [1, 2, 3]


def test_what_goes_wrong_ahead_is_raised_where_it_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("frame 1")

    following = ahead(items())
    assert next(following) == 0
    with pytest.raises(ValueError, match="frame 1"):
        next(following)


def test_closing_waits_for_the_one_that_is_made() -> None:
    began, may_end, ended = Event(), Event(), Event()

    def items() -> Iterator[int]:
        yield 0
        began.set()
        assert may_end.wait(WAIT_S)
        ended.set()
        yield 1

    following = ahead(items())
    next(following)
    assert began.wait(WAIT_S)
    may_end.set()
    following.close()
    assert ended.is_set()


def test_calls_are_made_in_order_beside_the_block_and_one_waits_for_another() -> None:
    done: list[int] = []
    may_end = Event()

    def write(i: int) -> None:
        assert may_end.wait(WAIT_S)
        done.append(i)

    with behind() as written:
        written(partial(write, 0))
        assert done == [], "the block goes on"
        may_end.set()
        written(partial(write, 1))
        assert done[:1] == [0]
        written(partial(write, 2))
    assert done == [0, 1, 2]


def _full() -> None:
    raise OSError("disk full")


def _never() -> None:
    pytest.fail("made after one that failed")


def _write(*calls: Callable[[], None], fails: Exception | None = None) -> None:
    with behind() as written:
        for call in calls:
            written(call)
        if fails:
            raise fails


def test_what_goes_wrong_behind_is_raised_at_the_next_call_or_at_the_end() -> None:
    with pytest.raises(OSError, match="disk full"):
        _write(_full, _never)
    with pytest.raises(OSError, match="disk full"):
        _write(_full)
    with pytest.raises(ValueError, match="of the block"):
        _write(_full, fails=ValueError("of the block"))


def test_a_clip_is_closed_after_what_is_read_ahead(make_clip, monkeypatch) -> None:
    path, _ = make_clip(frames=4)
    began, done = Event(), []
    with open_clip(path) as clip:
        read, close = clip._reader.read, clip._reader.close

        def slowly(start: int, stop: int):
            if start:
                began.set()
                began.wait(0.05)
            pixels = read(start, stop)
            done.append(start)
            return pixels

        monkeypatch.setattr(clip._reader, "read", slowly)
        monkeypatch.setattr(clip._reader, "close", lambda: (done.append("closed"), close()))
        chunks = clip.chunks(2)
        next(chunks)
        assert began.wait(WAIT_S)
    assert done == [0, 2, "closed"]
