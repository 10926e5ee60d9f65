"""Settings dataclasses from plain JSON values, for presets (overrides only) and for resuming a run; their help."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from csd3d.media.json_file import load_json

C = TypeVar("C")
BEFORE = "before"
"""In the metadata of a setting's field: what runs have that began before there was the setting, where that is not its
default: `field(default=2, metadata={BEFORE: 0})`. To be given where the default changes what a run computes."""


_FRACTION = re.compile(r"[+-]?(\d{1,20}/\d{1,20}|(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,2})?)", re.IGNORECASE)


def override(config: C, changes: Mapping[str, Any], *, where: str = "settings") -> C:
    """A copy of the dataclass `config` with `changes` put in; nested mappings change nested dataclasses.

    Raises:
        ValueError: a name that `config` does not have, or a value it refuses.
        TypeError: a value of another kind than the field's.
    """
    # any dataclass, which has no type of its own
    known = {f.name for f in dataclasses.fields(config)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"{where}: expected names among {', '.join(sorted(known))}; got {', '.join(unknown)}")
    hints = get_type_hints(type(config))
    values: dict[str, Any] = {}
    for name, value in changes.items():
        old = getattr(config, name)
        nested = _nested(hints[name])
        if isinstance(value, Mapping) and nested is not None:
            old = nested() if old is None else old
            values[name] = override(old, value, where=f"{where}.{name}")
        else:
            values[name] = _typed(value, hints[name], f"{where}.{name}")
            if not fits(values[name], hints[name]):
                raise TypeError(f"{where}: expected {name} to be {_words(hints[name])}, got {value!r:.60}")
    # the names are those of its fields
    return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType, reportReturnType]


def load_preset(path: Path, kind: type) -> dict[str, Any]:
    """Overrides of the dataclass `kind` from a JSON file, or all settings of a run from its manifest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"preset: expected a JSON file of settings, got {path}, which does not exist")
    value = load_json(path, "preset")
    if not isinstance(value, dict):
        raise ValueError(f"preset: expected a JSON object of settings in {path}, got {type(value).__name__}")
    if not {"format", "config"} <= set(value):
        return value
    if not isinstance(value["config"], dict):
        raise ValueError(f"preset: expected a manifest with settings in {path}, got {value['config']!r}")
    return without_prompt(with_absent(value["config"], kind))


def without_prompt(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among what a manifest records of a run: its sentence is none."""
    return {name: value for name, value in recorded.items() if name != "prompt"}


def to_plain(value: Any) -> Any:
    """Turn settings into what JSON can hold: dataclasses and mappings to dicts, paths and fractions to text.

    Raises:
        TypeError: a value of a kind that settings do not have.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, (Path, Fraction)):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"settings: expected a plain value, got {type(value).__name__}")


def with_absent(recorded: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Recorded settings, and in the place of those that did not exist when they were recorded what a run then had.

    That is what the field of the dataclass `kind` says of it (`BEFORE`), else its default. So a new setting neither
    changes what earlier runs compute nor keeps them from being resumed.
    """
    hints, complete = get_type_hints(kind), dict(recorded)
    for f in dataclasses.fields(kind):
        nested = _nested(hints[f.name])
        if f.name not in recorded:
            complete[f.name] = to_plain(f.metadata[BEFORE] if BEFORE in f.metadata else _default(f))
        elif nested is not None and isinstance(recorded[f.name], Mapping):
            complete[f.name] = with_absent(recorded[f.name], nested)
    return complete


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _nested(hint: Any) -> type | None:
    """The dataclass among the types a field allows."""
    return next((o for o in _options(hint) if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """JSON has no paths, fractions or tuples, and does not tell 1 from 1.0: give the field its own kind of value."""
    options = _options(hint)
    if value is None:
        return None
    if isinstance(value, str) and Fraction in options:
        return read_fraction(value, where)
    if isinstance(value, str) and Path in options and str not in options:
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    if type(value) is int and float in options and int not in options:
        return float(value)
    return value


def fits(value: object, hint: Any) -> bool:
    """Whether a value is what the annotation of a field says: plain types, paths, fractions, dataclasses, and tuples,
    lists, mappings, `Literal` and unions of these. A whole number is a number, True is neither."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in args)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in args)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(fits(item, args[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return value is None if hint is None else isinstance(value, hint)


def read_fraction(text: str, name: str) -> Fraction:
    """A number or a fraction such as 30000/1001, exactly.

    Raises ValueError for anything else, and for numbers such as 1e9999999, with which `Fraction` is never done.
    """
    try:
        if _FRACTION.fullmatch(text.strip()):
            return Fraction(text)
    except ZeroDivisionError:
        pass
    raise ValueError(f"{name}: expected a number or a fraction such as 30000/1001, got {text!r:.60}")


def _words(hint: Any) -> str:
    """An annotation for people."""
    named = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return " or ".join(
        f"one of {', '.join(map(str, get_args(o)))}" if get_origin(o) is Literal else named.get(o, str(o))
        for o in _options(hint)
    )


@cache
def field_help(kind: type) -> Mapping[str, str]:
    """The docstring under each field of a dataclass and of those it inherits from, on one line each."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if cls is object or cls is Generic:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and (words := _docstring(text)):
                found[ast.unparse(line.target)] = words
    return found


def _docstring(node: ast.stmt) -> str:
    """The words of a string that stands alone; none for anything else."""
    value = node.value if isinstance(node, ast.Expr) else None
    return " ".join(value.value.split()) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
