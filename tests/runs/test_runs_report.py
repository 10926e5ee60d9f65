"""The page is well formed, loads nothing from outside, and escapes what it is given."""

import math
import re
from html.parser import HTMLParser

import pytest
import torch

from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.runs.curves import Curve, curve_svg
from csd3d.runs.report import Clip, Report, render, write_report

_VOID = {"meta", "img", "input", "br", "line", "circle", "polyline"}


class _Checker(HTMLParser):
    """Collects addresses and fails on tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _check(page):
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


FULL = Report(
    title='make it <snowy> & "cold"',
    subtitle="clip.mp4",
    facts=("640 x 360", "75 frames"),
    clips=(Clip("Source", "media/source.mp4"), Clip("Edited", "media/edited 1.mp4")),
    fps=29.97,
    sheet="sheet.png",
    curves=(Curve("Gradient", [3.0, 2.0, math.nan, 1.0]),),
    numbers={"PSNR": 28.123456789},
    settings={"steps": 100, "engine": {"lr": 0.5, "names": ["a", "b"], "none": None, "flag": True}},
    notes=("decord could not open <it>",),
    environment={"versions": {"torch": "2.12"}},
    command="csd3d video clip.mp4 --prompt 'make it <snowy>'",
)


def test_full_page(tmp_path):
    write_report(tmp_path / "report.html", FULL)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    checker = _check(page)
    assert checker.tags.count("video") == 2
    assert "svg" in checker.tags
    assert set(checker.addresses) == {"media/source.mp4", "media/edited%201.mp4", "sheet.png"}
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<snowy>" not in page
    assert "<it>" not in page
    for shown in ("28.1235", "29.97", "2.12", "yes", "a, b", "Settings", "Wipe"):
        assert shown in page


def test_empty_parts_are_left_out():
    page = render(Report(title="t"))
    checker = _check(page)
    assert "section" not in checker.tags
    assert "requestAnimationFrame" not in page


def test_one_player_has_no_overlay_modes():
    assert "Wipe" not in render(Report(title="t", clips=(Clip("Edited", "a.mp4"),)))


def test_curve_maps_extremes_to_the_frame_and_breaks_at_gaps():
    svg = curve_svg(Curve("c", [0.0, 10.0, math.inf, 5.0]))
    lines = re.findall(r'class="line" points="([^"]+)"', svg)
    assert len(lines) == 1
    (x0, y0), (_, y1) = [tuple(map(float, p.split(","))) for p in lines[0].split()]
    assert y0 > y1  # larger values are higher on the page
    dot = re.search(r'class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert dot is not None
    assert float(dot[1]) > x0
    assert float(dot[2]) == pytest.approx((y0 + y1) / 2, abs=0.11)


def test_curve_edge_cases():
    assert "nothing was measured" in curve_svg(Curve("c", []))
    assert "nothing was measured" in curve_svg(Curve("c", [math.nan]))
    assert "nothing was measured" in curve_svg(Curve("c", [0.0, -1.0], log=True))
    assert "nan" not in curve_svg(Curve("c", [2.0]))
    assert "nan" not in curve_svg(Curve("c", [2.0, 2.0, 2.0]))
    ticks = re.findall(r'text-anchor="end">([^<]+)<', curve_svg(Curve("c", [0.001, 1.0], log=True)))
    assert ticks[0] == "1.0e-3"
    assert ticks[-1] == "1"


def test_sheet_shows_every_row(tmp_path):
    red = torch.zeros(3, 3, 20, 40)
    red[:, 0] = 1
    blue = torch.zeros(2, 3, 40, 40)
    blue[:, 2] = 1
    sheet = contact_sheet({"source": red, "edited": blue}, columns=("0 s", "1 s", "2 s"), cell_px=40)
    colours = {c: n for n, c in sheet.getcolors(1 << 20) or []}
    assert colours[(255, 0, 0)] == 3 * 20 * 40
    assert colours[(0, 0, 255)] == 2 * 40 * 40
    save_picture(sheet, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 100


def test_a_label_of_several_lines_is_one():
    pictures = torch.ones(2, 3, 8, 16)
    assert contact_sheet({"a\n  b": pictures}).tobytes() == contact_sheet({"a b": pictures}).tobytes()


def test_a_sheet_enlarges_four_times_at_most():
    small = contact_sheet({"a": torch.ones(2, 3, 8, 16)}, cell_px=1100)
    assert small.size == contact_sheet({"a": torch.ones(2, 3, 8, 16)}, cell_px=64).size
    assert small.width < 200


@pytest.mark.parametrize("rows", [{}, {"a": torch.zeros(0, 3, 4, 4)}])
def test_sheet_without_pictures_is_refused(rows):
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet(rows)


@pytest.mark.parametrize(
    ("count", "wanted", "expected"), [(3, 6, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (9, 1, [4]), (1, 1, [0])]
)
def test_evenly(count, wanted, expected):
    assert evenly(count, wanted) == expected
