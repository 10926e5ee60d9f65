"""Estimates come from measured steps only."""

import io

import pytest
from rich.console import Console

from csd3d.runs.progress import Eta, RunProgress, words


def test_no_estimate_before_steps_were_timed_and_the_first_does_not_count():
    eta = Eta(10)
    eta.add(5.0)
    assert eta.remaining() is None
    eta.add(2.0)
    assert eta.remaining() is None
    eta.add(2.0)
    assert eta.remaining() == pytest.approx(7 * 2.0)


def test_a_step_that_a_person_would_wait_for_is_an_estimate_at_once():
    eta = Eta(10)
    eta.add(100.0)
    assert eta.remaining() == pytest.approx(900.0)
    eta.add(80.0)
    assert eta.remaining() == pytest.approx(8 * 80.0)


def test_one_stall_does_not_move_it_and_a_lasting_change_does():
    eta = Eta(100, window=5)
    for _ in range(10):
        eta.add(1.0)
    eta.add(60.0)
    assert eta.remaining() == pytest.approx(89.0)
    for _ in range(5):
        eta.add(3.0)
    assert eta.remaining() == pytest.approx(84 * 3.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "measuring"),
        (0.2, "about 1 s left"),
        (89.0, "about 89 s left"),
        (600.0, "about 10 min left"),
        (7200.0, "about 2.0 h left"),
    ],
)
def test_words(seconds, text):
    assert words(seconds) == text


def _run(total, start=0, unit=1, second=1, **options):
    ticks = iter(range(0, 1000 * second, second))
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    with RunProgress(console, clock=lambda: float(next(ticks))) as progress:
        items = list(
            progress.track("edit", range((total - start) // unit), total=total, start=start, unit=unit, **options)
        )
    return items, out.getvalue().splitlines()


def test_plain_output_is_a_line_every_tenth():
    items, lines = _run(40)
    assert items == list(range(40))
    assert len(lines) == 10
    assert lines[0] == "edit: 4/40, about 36 s left"
    assert lines[-1] == "edit: 40/40, done"


def test_a_long_run_says_so_as_soon_as_it_is_known():
    _, lines = _run(40, second=5)
    assert lines[:2] == ["edit: 3/40, about 3 min left", "edit: 4/40, about 3 min left"]
    _, lines = _run(40, second=60)
    assert lines[0] == "edit: 1/40, about 39 min left"
    assert len(lines) == 11


def test_what_comes_after_is_part_of_what_is_left():
    _, lines = _run(40, after_s=600.0)
    assert lines[:2] == ["edit: 3/40, about 11 min left", "edit: 4/40, about 11 min left"]
    assert lines[-1] == "edit: 40/40, done"
    _, lines = _run(40, then="the edit")
    assert lines[0] == "edit: 4/40, about 36 s left, then the edit"


def test_resumed_run_counts_only_what_is_left():
    _, lines = _run(40, start=30)
    assert lines[0] == "edit: 32/40, measuring"
    assert lines[-1] == "edit: 40/40, done"


def test_chunks_count_their_items():
    _, lines = _run(40, unit=10)
    assert lines[-2] == "edit: 30/40, about 1 s left"


def test_terminal_and_quiet():
    out = io.StringIO()
    with RunProgress(Console(file=out, force_terminal=True, width=120)) as progress:
        progress.say("note")
        assert list(progress.track("edit", "ab", total=2)) == ["a", "b"]
    assert "2/2" in out.getvalue()
    assert "note" in out.getvalue()
    silent = io.StringIO()
    with RunProgress(Console(file=silent, force_terminal=True), quiet=True) as progress:
        progress.say("note")
        assert list(progress.track("edit", "ab", total=2)) == ["a", "b"]
    assert silent.getvalue() == ""
