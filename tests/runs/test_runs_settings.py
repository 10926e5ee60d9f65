"""Overrides reach nested settings, keep kinds, and unknown names are refused."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest

from csd3d.engine.config import METHODS, method_changes
from csd3d.runs.settings import load_preset, override


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


def test_nested_names_and_kinds():
    got = override(
        Outer(),
        {"inner": {"lr": 2}, "maybe": {"steps": 7}, "rate": "30000/1001", "where": "b", "names": ["x", "y"]},
    )
    assert got == Outer(Inner(2.0, 3), Inner(0.5, 7), Fraction(30000, 1001), Path("b"), ("x", "y"))
    assert type(got.inner.lr) is float
    assert override(got, {"maybe": None}).maybe is None
    assert override(Outer(), {}) == Outer()


def test_unknown_names_are_refused_where_they_are():
    with pytest.raises(ValueError, match=r"preset: expected names among .*inner.*; got iner"):
        override(Outer(), {"iner": {}}, where="preset")
    with pytest.raises(ValueError, match=r"preset.inner: expected names among lr, steps; got rate"):
        override(Outer(), {"inner": {"rate": 1}}, where="preset")


def test_preset_files(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"a": 1}')
    assert load_preset(path) == {"a": 1}
    path.write_text('{"format": 1, "config": {"a": 2, "prompt": "make it red"}, "notes": []}')
    assert load_preset(path) == {"a": 2}, "the settings of a run"
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_preset(path)


def test_named_methods():
    for name, config in METHODS.items():
        wanted = {"residual": config.residual, "coupling": config.coupling, "regulariser": config.regulariser}
        assert method_changes(name) == wanted
    with pytest.raises(ValueError, match="expected one of"):
        method_changes("best")
