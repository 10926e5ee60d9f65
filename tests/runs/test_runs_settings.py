"""Overrides reach nested settings, keep kinds, and unknown names are refused."""

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest

from csd3d.engine.config import METHODS, method_changes
from csd3d.runs.settings import BEFORE, load_preset, override, read_fraction, to_plain, with_absent


@dataclass(frozen=True)
class Inner:
    lr: float = 0.5
    steps: int = 3


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    rate: Fraction | None = None
    where: Path = Path("a")
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    a: int = 0


@dataclass(frozen=True)
class Later(Outer):
    """Settings that `Outer` did not have."""

    inner: "LaterInner" = field(default_factory=lambda: LaterInner())
    maybe: "LaterInner | None" = None
    plain: Fraction = Fraction(1, 2)
    acting: int = field(default=2, metadata={BEFORE: 0})


@dataclass(frozen=True)
class LaterInner(Inner):
    bands: tuple[int, ...] = field(default=(3, 2), metadata={BEFORE: ()})
    margin: float = 0.25


def test_nested_names_and_kinds():
    got = override(
        Outer(),
        {"inner": {"lr": 2}, "maybe": {"steps": 7}, "rate": "30000/1001", "where": "b", "names": ["x", "y"]},
    )
    assert got == Outer(Inner(2.0, 3), Inner(0.5, 7), Fraction(30000, 1001), Path("b"), ("x", "y"))
    assert type(got.inner.lr) is float
    assert override(got, {"maybe": None}).maybe is None
    assert override(Outer(), {}) == Outer()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inner": {"steps": "many"}}, "expected steps to be a whole number, got 'many'"),
        ({"inner": {"steps": True}}, "expected steps to be a whole number, got True"),
        ({"inner": {"steps": 1.5}}, "expected steps to be a whole number, got 1.5"),
        ({"inner": {"lr": None}}, "expected lr to be a number, got None"),
        ({"inner": 3}, "expected inner to be"),
        ({"where": ["a"]}, "expected where to be"),
        ({"names": "x"}, "expected names to be"),
        ({"names": [1]}, "expected names to be"),
    ],
)
def test_values_of_another_kind_are_refused(changes, match):
    with pytest.raises(TypeError, match=match):
        override(Outer(), changes)


@pytest.mark.parametrize("text", ["1e9999999", "1/0", "", "x", "nan", "inf", "1" * 30, "1/" + "1" * 30, "1__0"])
def test_what_is_no_fraction_is_refused_at_once(text):
    with pytest.raises(ValueError, match="fps: expected a number or a fraction"):
        read_fraction(text, "fps")


def test_fractions_are_exact():
    texts = {
        "30000/1001": Fraction(30000, 1001),
        "29.97": Fraction(2997, 100),
        " 1e3 ": Fraction(1000),
        ".5": Fraction(1, 2),
    }
    assert {text: read_fraction(text, "fps") for text in texts} == texts


def test_unknown_names_are_refused_where_they_are():
    with pytest.raises(ValueError, match=r"preset: expected names among .*inner.*; got iner"):
        override(Outer(), {"iner": {}}, where="preset")
    with pytest.raises(ValueError, match=r"preset.inner: expected names among lr, steps; got rate"):
        override(Outer(), {"inner": {"rate": 1}}, where="preset")


def test_preset_files(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"a": 1}')
    assert load_preset(path, Preset) == {"a": 1}
    path.write_text('{"format": 1, "config": {"a": 2, "prompt": "make it red"}, "notes": []}')
    assert load_preset(path, Preset) == {"a": 2}, "the settings of a run"
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_preset(path, Preset)


def test_settings_that_came_later_count_as_what_a_run_had_without_them(tmp_path):
    recorded = to_plain(Outer(maybe=Inner(lr=2.0))) | {"prompt": "make it red"}
    complete = with_absent(recorded, Later)
    inner = {"lr": 0.5, "steps": 3, "bands": [], "margin": 0.25}
    assert complete == recorded | {"inner": inner, "maybe": inner | {"lr": 2.0}, "plain": "1/2", "acting": 0}
    assert with_absent(complete, Later) == complete
    assert with_absent(to_plain(Later()), Later) == to_plain(Later()), "what is recorded stays"
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 2, "config": recorded}))
    assert load_preset(path, Later)["acting"] == 0, "the settings of a run are those that it had"
    path.write_text("{}")
    assert load_preset(path, Later) == {}, "overrides are no more than they say"


def test_named_methods():
    for name, config in METHODS.items():
        wanted = {"residual": config.residual, "coupling": config.coupling, "regulariser": config.regulariser}
        assert method_changes(name) == wanted
    with pytest.raises(ValueError, match="expected one of"):
        method_changes("best")
