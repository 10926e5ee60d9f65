"""The table: means and intervals, for people and for programs."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from csd3d.evaluate.definitions import METRICS
from csd3d.evaluate.measure import Measured
from csd3d.evaluate.table import definition, tabulate
from csd3d.metrics import bootstrap_interval


def test_an_interval_holds_the_mean_and_is_the_same_each_time():
    values = [1.0, 2.0, 3.0, 4.0, math.nan]
    low, high = bootstrap_interval(values)
    assert 1 < low < 2.5 < high < 4
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0] * 5) == (2, 2)
    assert all(math.isnan(v) for v in bootstrap_interval([1.0]))


def test_an_interval_is_about_two_standard_errors_wide():
    values = [float(k % 2) for k in range(400)]
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def two_cases():
    return [
        Measured("a", "mine", 3, {"change": [0.1, 0.1, 0.4], "CLIP-T": [0.25, math.nan, 0.25]}),
        Measured("b", "mine", 1, {"change": [0.4]}),
        Measured("a", "other", 3, {"change": [0.0, 0.0, 0.0]}),
    ]


def test_one_case_is_averaged_over_frames_and_several_over_cases():
    one = tabulate(two_cases()[:1], {}, [])
    assert (one.over, one.rows["mine"]["change"].n) == ("frames", 3)
    assert one.rows["mine"]["change"].value == pytest.approx(0.2)
    two = tabulate(two_cases(), {"mine": {"FID": 12.0}}, [])
    assert (two.over, two.rows["mine"]["change"].n) == ("cases", 2)
    assert two.rows["mine"]["change"].value == pytest.approx(0.3)
    assert two.rows["mine"]["FID"].value == 12
    assert two.metrics == ["change", "CLIP-T", "FID"]
    assert two.cases == {"mine": ["a", "b"], "other": ["a"]}


def test_cases_of_one_name_are_several():
    """As `day/clip.mp4` and `night/clip.mp4` under one sentence."""
    named = [replace(m, case="clip make it snowy") for m in two_cases()]
    table = tabulate(named, {}, [])
    assert (table.over, table.rows["mine"]["change"].n) == ("cases", 2)


def test_the_three_files_say_the_same(tmp_path):
    table = tabulate(two_cases(), {}, ["a note"])
    markdown, lines, data = (path.read_text() for path in table.write(tmp_path / "out"))
    assert markdown.splitlines()[0] == "| method | change, % | CLIP-T ↑ |"
    assert "| mine | 30.00 [20.00, 40.00] | 0.250 |" in markdown
    assert "| other | 0.00 | – |" in markdown
    assert "Note: a note" in markdown
    assert f"- **CLIP-T**: {METRICS['CLIP-T'].text}" in markdown
    assert "**FID**" not in markdown  # only what is in the table is defined below it
    rows = list(csv.DictReader(io.StringIO(lines)))
    assert [(r["method"], r["metric"], r["n"]) for r in rows] == [
        ("mine", "change", "2"), ("mine", "CLIP-T", "1"), ("other", "change", "1"),
    ]  # fmt: skip
    found = json.loads(data)
    assert found["methods"]["mine"]["change"]["mean"] == pytest.approx(float(rows[0]["mean"]))
    assert found["cases"][0]["scores"]["CLIP-T"] == [0.25, None, 0.25]


def test_every_metric_is_defined_in_a_sentence():
    for metric in METRICS.values():
        assert metric.text.endswith("."), metric.name
        assert not metric.papers or metric.papers.endswith("."), metric.name


def test_the_page_defines_every_metric_as_tables_do():
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert "".join(map(definition, METRICS)) in page
