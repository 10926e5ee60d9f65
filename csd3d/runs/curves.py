"""Line charts as inline SVG: no script, no network, readable in light and dark because colours come from the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_W, _H = 460, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 24


@dataclass(frozen=True)
class Curve:
    """One chart: `values[i]` was measured at step `start + i`. Values that are not finite leave a gap."""

    title: str
    values: Sequence[float]
    start: int = 0
    log: bool = False
    """Draw the logarithm; values that are not positive then leave a gap as well."""
    hint: str = ""
    """One sentence that says what the curve means."""


def curve_svg(curve: Curve) -> str:
    """The chart as an `<svg>` element (width follows the page)."""
    shown = [_usable(v, curve.log) for v in curve.values]
    known = [v for v in shown if v is not None]
    if not known:
        return '<p class="faint">nothing was measured</p>'
    low, high = min(known), max(known)
    if high - low < 1e-12 * max(abs(high), 1.0):
        room = 0.5 if curve.log or not high else abs(high) / 2
        low, high = low - room, high + room
    last = max(len(shown) - 1, 1)

    def x(i: int) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * i / last

    def y(v: float) -> float:
        return _H - _BOTTOM - (_H - _TOP - _BOTTOM) * (v - low) / (high - low)

    grid = []
    for k in range(4):
        level = low + (high - low) * k / 3
        text = _number(10**level if curve.log else level)
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        grid.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{text}</text>')
    marks = sorted({0, len(shown) // 2, len(shown) - 1})
    ends = [
        f'<text class="tick" x="{x(i):.1f}" y="{_H - 6}" text-anchor="middle">{curve.start + i}</text>' for i in marks
    ]
    body = "".join(_strokes(shown, x, y))
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(curve.title, quote=True)}">'
        f"{''.join(grid)}{''.join(ends)}{body}</svg>"
    )


def _strokes(shown: Sequence[float | None], x: Callable[[int], float], y: Callable[[float], float]) -> list[str]:
    """One polyline a stretch without gaps; a lone value becomes a dot."""
    strokes: list[str] = []
    stretch: list[str] = []
    for i, v in enumerate([*shown, None]):
        if v is not None:
            stretch.append(f"{x(i):.1f},{y(v):.1f}")
            continue
        if len(stretch) == 1:
            cx, cy = stretch[0].split(",")
            strokes.append(f'<circle class="dot" cx="{cx}" cy="{cy}" r="2"/>')
        elif stretch:
            strokes.append(f'<polyline class="line" points="{" ".join(stretch)}"/>')
        stretch = []
    return strokes


def _usable(value: float, log: bool) -> float | None:
    if not math.isfinite(value) or (log and value <= 0):
        return None
    return math.log10(value) if log else value


def _number(value: float) -> str:
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
