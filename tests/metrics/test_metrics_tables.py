"""Means that skip what could not be measured, and the tables made of them."""

import json
import math

import pytest

from csd3d.metrics import Mean, aggregate, jsonable, markdown_table, mean, ratio, wilson_interval

NAN = math.nan


def test_mean_counts_what_is_a_number() -> None:
    assert mean([1.0, NAN, 3.0, math.inf]) == Mean(2.0, 2)
    nothing = mean([NAN])
    assert nothing.n == 0
    assert math.isnan(nothing.value)


@pytest.mark.parametrize(
    ("part", "whole", "expected"), [(1.0, 2.0, 0.5), (1.0, 0.0, NAN), (NAN, 1.0, NAN), (1.0, NAN, NAN)]
)
def test_ratio(part: float, whole: float, expected: float) -> None:
    assert ratio(part, whole) == pytest.approx(expected, nan_ok=True)


def test_aggregate_groups_in_order_of_appearance() -> None:
    records = [
        {"kind": "weather", "right": True, "psnr": 20.0},
        {"kind": "colour", "right": False, "psnr": 10.0},
        {"kind": "weather", "right": False, "psnr": NAN},
        {"kind": "weather", "right": False, "psnr": None},
        {"kind": "colour", "right": False},
    ]
    table = aggregate(records, "kind", ["right", "psnr"])
    assert list(table) == ["weather", "colour"]
    assert table["weather"] == {"right": Mean(1 / 3, 3), "psnr": Mean(20.0, 1)}
    assert table["colour"] == {"right": Mean(0.0, 2), "psnr": Mean(10.0, 1)}
    assert aggregate([], "kind", ["right"]) == {}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(27, 30, 0.7438, 0.9654), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_refuses_more_right_than_there_were() -> None:
    with pytest.raises(ValueError, match="right: expected 0 to 3, got 4"):
        wilson_interval(4, 3)


def test_markdown() -> None:
    table = markdown_table(
        ["method", "dB", "n"], [["a | b", 1.234, 3], ["c", NAN, 0], ["d", Mean(2.5, 7), None]], digits=1
    )
    assert (
        table == "| method | dB | n |\n| --- | ---: | ---: |\n| a \\| b | 1.2 | 3 |\n| c | – | 0 |\n| d | 2.5 | – |\n"
    )


def test_markdown_refuses_a_row_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        markdown_table(["a", "b"], [["only"]])


def test_jsonable_is_strict_json() -> None:
    value = {"a": [NAN, 1.5, (math.inf,)], 2: Mean(NAN, 0), "ok": True, "name": "x"}
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == {
        "a": [None, 1.5, [None]],
        "2": {"mean": None, "n": 0},
        "ok": True,
        "name": "x",
    }
