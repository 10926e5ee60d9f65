"""The report: one page that shows a run to a person and works without a network.

The page holds its style, script, curves and tables; pictures and clips lie beside it under relative names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from csd3d.media.atomic import write_text
from csd3d.runs.curves import Curve, curve_svg
from csd3d.runs.log import CAPTION


@dataclass(frozen=True)
class Clip:
    """A player: `file` is relative to the report, playable by browsers (H.264, 4:2:0)."""

    label: str
    file: str


@dataclass(frozen=True)
class Panel:
    """A part of the page that an editor brings itself. Trusted: nothing in it is escaped."""

    html: str
    style: str = ""
    script: str = ""


@dataclass(frozen=True)
class Report:
    """What the page shows; empty parts are left out."""

    title: str
    subtitle: str = ""
    facts: Sequence[str] = ()
    """Short phrases under the title: size, length, method."""
    clips: Sequence[Clip] = ()
    """Players in sync; the first two (source, edited) can also be laid over each other."""
    fps: float = 25.0
    """Frames a second of the players, for stepping."""
    panels: Sequence[Panel] = ()
    """Parts of the page made elsewhere, after the players."""
    sheet: str = ""
    """Contact sheet, a picture file relative to the report."""
    gradient: str = ""
    """Picture of the gradient, likewise."""
    curves: Sequence[Curve] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Measured results."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Full settings; nested mappings become groups."""
    notes: Sequence[str] = ()
    """Fallbacks and warnings."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions, machine, timing, memory."""
    command: str = ""
    """A command line that repeats the run."""
    refresh_s: int = 0
    """Seconds after which a browser loads the page again; 0: never."""


def write_report(path: Path, report: Report) -> None:
    """Write `report` to `path` atomically."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page as HTML text. All text is escaped; nothing is loaded from outside the folder."""
    style = files("csd3d.runs").joinpath("report.css").read_text(encoding="utf-8")
    script = files("csd3d.runs").joinpath("report.js").read_text(encoding="utf-8") if report.clips else ""
    style += "".join(panel.style for panel in report.panels)
    script += "".join(panel.script for panel in report.panels)
    parts = [
        _header(report),
        _players(report),
        *(panel.html for panel in report.panels),
        _picture("Contact sheet", report.sheet),
        _notes(report.notes),
        _section("Measured", _table(report.numbers)),
        _curves(report.curves),
        _picture("Gradient", report.gradient, CAPTION),
        _section("Settings", _table(report.settings)),
        _section("Run", _table(report.environment)),
        _section("Repeat", f"<pre>{escape(report.command)}</pre>" if report.command else ""),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        + (f'<meta http-equiv="refresh" content="{report.refresh_s}">' if report.refresh_s else "")
        + f"<title>{escape(report.title)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(parts)}</main><script>{script}</script></body></html>\n"
    )


def _header(report: Report) -> str:
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in report.facts)
    subtitle = f'<p class="sub">{escape(report.subtitle)}</p>' if report.subtitle else ""
    return f'<header><h1>{escape(report.title)}</h1>{subtitle}<ul class="facts">{facts}</ul></header>'


def _players(report: Report) -> str:
    if not report.clips:
        return ""
    players = "".join(
        f'<figure><video src="{quote(clip.file)}" muted playsinline loop preload="auto"></video>'
        f"<figcaption>{escape(clip.label)}</figcaption></figure>"
        for clip in report.clips
    )
    modes = ""
    if len(report.clips) >= 2:
        modes = (
            '<span class="modes" role="group" aria-label="View">'
            '<button data-mode="side" class="on">Side by side</button><button data-mode="wipe">Wipe</button>'
            '<button data-mode="difference">Difference</button></span>'
        )
    return (
        f'<section class="card players" data-fps="{report.fps:.6g}" data-view="side"><div class="stage">{players}'
        '<div class="handle" aria-hidden="true"></div></div>'
        '<div class="bar"><button class="play" aria-label="Play or pause">&#9654;</button>'
        '<button class="back" aria-label="One frame back">&#8249;</button>'
        '<button class="next" aria-label="One frame on">&#8250;</button>'
        '<input class="seek" type="range" min="0" max="1000" value="0" step="1" aria-label="Time">'
        '<output class="clock">0.00 s</output>'
        '<select class="speed" aria-label="Speed"><option value="0.25">&frac14;&times;</option>'
        '<option value="0.5">&frac12;&times;</option><option value="1" selected>1&times;</option></select>'
        f"{modes}</div></section>"
    )


def _picture(title: str, file: str, caption: str = "") -> str:
    if not file:
        return ""
    name, below = quote(file), f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    shown = f'<a href="{name}"><img class="sheet" src="{name}" alt="{escape(title)}"></a>'
    return _section(title, f"<figure>{shown}{below}</figure>")


def _notes(notes: Sequence[str]) -> str:
    return _section("Notes", "<ul>" + "".join(f"<li>{escape(n)}</li>" for n in notes) + "</ul>" if notes else "")


def _curves(curves: Sequence[Curve]) -> str:
    charts = "".join(
        f"<figure><figcaption>{escape(c.title)}<small>{escape(c.hint)}</small></figcaption>{curve_svg(c)}</figure>"
        for c in curves
    )
    return _section("Curves over steps", f'<div class="curves">{charts}</div>' if charts else "")


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    groups = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(_text(v))}</td></tr>" for k, v in plain.items())
    table = f"<table>{rows}</table>" if rows else ""
    return table + "".join(f"<h3>{escape(str(k))}</h3>{_table(v)}" for k, v in groups.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value) or "–"
    return str(value)


def _section(title: str, body: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>' if body else ""
