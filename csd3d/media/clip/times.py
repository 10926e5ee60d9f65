"""When frames are shown: timestamps mended where a few are wrong, their rate, and a clock to write them with."""

import itertools
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

FOLDER_FPS = Fraction(25)
"""Default frame rate of a folder of frames."""
TIMES = "timestamps.txt"
"""In a folder of frames: milliseconds at which they are shown, one a line, as mkvmerge reads them."""
MICROSECOND = Fraction(1, 1_000_000)
LONGEST_MS = 10**12
"""Times beyond this, some 30 years, are taken for a mistake."""
LONGEST_TICKS = 2**31 - 1
"""For which one frame can be shown, in ticks of a container's clock."""
_MOST_PARTS = 65_535
"""Of a second, into which the frame rate of a written clip divides it."""
_CLOCKS = (90_000, 10_000, 1_000, 100, 10, 1)
_FINER = 1_000


@dataclass(frozen=True)
class Timing:
    """Presentation times of frames."""

    pts: tuple[int, ...]
    """Strictly rising, in `base`."""
    base: Fraction
    """Seconds a tick."""
    fps: Fraction
    """Exact frame rate; the mean rate where it varies."""
    constant: bool
    """Whether `pts` follow `fps` to within a tick."""


def sayable(rate: Fraction) -> Fraction:
    """The nearest frame rate that containers and encoders can say: both of its parts have 31 bits."""
    if rate < 1:
        return 1 / sayable(1 / rate)
    return rate.limit_denominator(max(min(_MOST_PARTS, LONGEST_TICKS // ceil(rate)), 1))


def at_rate(count: int, fps: Fraction) -> Timing:
    """`count` frames at a constant rate."""
    return Timing(tuple(range(count)), 1 / fps, fps, True)


def timing_of(
    raw: Sequence[int | None],
    base: Fraction | None,
    rates: Sequence[Fraction],
    start: Fraction,
    notes: list[str],
    *,
    last: int | None = None,
    uneven_end: bool = False,
) -> Timing:
    """Times from what a decoder gave, in presentation order.

    Args:
        raw: timestamps in `base`; None where a frame has none.
        base: seconds a tick; None where the file does not say.
        rates: frame rates that the file names, the most trusted first; empty where it names none.
        start: seconds that are taken off all times.
        notes: receives a line for what was assumed or mended.
        last: for how many ticks the last frame is shown, of which the mean rate of varying times follows.
        uneven_end: the last frame may stay longer than even ones before it, as in an animation.
    """
    if not rates:
        notes.append(f"the file names no frame rate; {FOLDER_FPS} is assumed")
        rates = [FOLDER_FPS]
    right = rising(raw)
    if base is None or 2 * len(right) < len(raw) or len(right) < min(2, len(raw)):
        notes.append("timestamps are missing or out of order; frames are spaced by the frame rate")
        return at_rate(len(raw), rates[0])
    if len(right) < len(raw):
        wrong = len(raw) - len(right)
        notes.append(f"{wrong} of {len(raw)} timestamps are missing or out of order; these frames are put in between")
    pts, finer = mended(raw, right, 1 / (rates[0] * base))
    base /= finer
    offset = int(start / base)
    pts = tuple(t - offset for t in pts)
    rate = next((rate for rate in rates if is_even(pts, 1 / (rate * base))), None)
    if last and rate and uneven_end and not is_even((0, last * finer), 1 / (rate * base)):
        rate = None
    mean = sayable(len(pts) / ((pts[-1] - pts[0] + last * finer) * base)) if last else rates[0]
    return Timing(pts, base, rate or mean, rate is not None)


def rising(raw: Sequence[int | None]) -> list[int]:
    """Places of a longest strictly rising run of timestamps, the first of equal ones."""
    tails: list[int] = []  # the least last value of a run of each length, and where it is
    at: list[int] = []
    before: dict[int, int | None] = {}
    for i, t in enumerate(raw):
        if t is None:
            continue
        k = bisect_left(tails, t)
        if k < len(tails) and tails[k] == t:
            continue
        tails[k : k + 1], at[k : k + 1] = [t], [i]
        before[i] = at[k - 1] if k else None
    found: list[int] = []
    place = at[-1] if at else None
    while place is not None:
        found.append(place)
        place = before[place]
    return found[::-1]


def mended(raw: Sequence[int | None], right: Sequence[int], tick: Fraction) -> tuple[tuple[int, ...], int]:
    """All timestamps strictly rising: those at the places `right` as they are, the others moved between them.

    Args:
        raw: timestamps, None where there is none.
        right: places in order, at least one.
        tick: between frames at the nominal rate.

    Returns the timestamps and how many times finer their clock had to become.
    """
    gaps = list(_gaps(raw, right, tick))
    finer = _FINER if any(high - low <= len(places) for places, low, high in gaps) else 1
    pts = [0 if t is None else t * finer for t in raw]
    for places, low, high in gaps:
        for k, place in enumerate(places, start=1):
            even = low * finer + (high - low) * finer * k // (len(places) + 1)
            wanted = even if raw[place] is None else pts[place]
            before = pts[place - 1] if k > 1 else low * finer
            pts[place] = min(max(wanted, before + 1), high * finer - (len(places) + 1 - k))
    return tuple(pts), finer


def _gaps(raw: Sequence[int | None], right: Sequence[int], tick: Fraction) -> Iterator[tuple[range, int, int]]:
    """Stretches of places between those that are right, and the timestamps that they lie between."""
    for first, last in itertools.pairwise((-1, *right, len(raw))):
        places = range(first + 1, last)
        if not places:
            continue
        length = ceil((len(places) + 1) * tick)
        low, high = (None if k in (-1, len(raw)) else raw[k] for k in (first, last))
        if low is None:
            assert high is not None
            low = high - length
        yield places, low, low + length if high is None else high


def is_even(pts: Sequence[int], tick: Fraction) -> bool:
    """Whether timestamps are `tick` apart, up to one unit of their clock."""
    return all(abs(t - pts[0] - i * tick) <= min(1, tick / 4) for i, t in enumerate(pts))


def read_times(path: Path, count: int) -> Timing:
    """Times of `count` frames from milliseconds, one a line.

    Raises:
        ValueError: the file holds something else, times that do not rise, or too few.
    """
    try:
        lines = [
            line.strip()
            for line in path.read_text("utf-8-sig").splitlines()
            if line.strip() and not line.startswith("#")
        ]
        pts = tuple(round(_milliseconds(line) / 1000 / MICROSECOND) for line in lines[:count])
    except ValueError as error:
        raise ValueError(f"clip: expected milliseconds, one a line, in {path} ({error})") from None
    if pts and pts[0] < 0:  # of which a container would show nothing
        pts = tuple(t - pts[0] for t in pts)
    if len(pts) < count or any(b <= a for a, b in itertools.pairwise(pts)):
        raise ValueError(f"clip: expected {count} rising times in {path}, as there are frames; remove it or mend it")
    if count == 1:
        return Timing(pts, MICROSECOND, FOLDER_FPS, True)
    mean = (count - 1) / ((pts[-1] - pts[0]) * MICROSECOND)
    usual = (Fraction(round(mean)), Fraction(1000 * round(mean * 1001 / 1000), 1001))  # 30, and 29.97 of NTSC
    near = mean.limit_denominator(1001) if mean >= 1 else 1 / (1 / mean).limit_denominator(1001)  # a frame an hour
    rates = [rate for rate in (*usual, near) if rate > 0]
    even = next((rate for rate in rates if is_even(pts, 1 / (rate * MICROSECOND))), None)
    return Timing(pts, MICROSECOND, even or near, even is not None)


def _milliseconds(text: str) -> Fraction:
    if not abs(float(text)) <= LONGEST_MS:  # before a Fraction is made, which takes for ever for 1e9999999
        raise ValueError(f"expected at most {LONGEST_MS}, got {text[:40]}")
    return Fraction(text)


def exact_times(timing: Timing) -> tuple[tuple[int, ...], Fraction]:
    """Timestamps and their clock for writing the same times again.

    Constant rates get their exact times, which a container with a coarse clock (WebM: 1 ms) could only round. Where a
    frame is shown for long, or where ticks are shorter than they can say, the clock is as coarse as containers need it.
    """
    pts, base = timing.pts, timing.base
    if timing.constant:
        start = pts[0] * base
        base = Fraction(1, timing.fps.numerator)
        if start % base:
            base /= 1000
        tick = 1 / (timing.fps * base)
        pts = tuple(round(start / base + i * tick) for i in range(len(pts)))
    longest = max((b - a for a, b in itertools.pairwise(pts)), default=0)
    if max(longest, base.denominator) <= LONGEST_TICKS:
        return pts, base
    clock = next((c for c in _CLOCKS if longest * base * c <= LONGEST_TICKS), _CLOCKS[-1])
    coarse = [round(t * base * clock) for t in pts]
    return tuple(itertools.accumulate(coarse, lambda a, b: max(a + 1, b))), Fraction(1, clock)


def durations(pts: Sequence[int], base: Fraction, fps: Fraction) -> list[int]:
    """Ticks for which each frame stays; the last so long that the whole has the mean rate, or as long as most."""
    shown = [b - a for a, b in itertools.pairwise(pts)]
    last = round(len(pts) / (fps * base)) - sum(shown)
    usual = statistics.median_low(shown) if shown else round(1 / (fps * base))
    return [*shown, last if last > 0 else usual]
