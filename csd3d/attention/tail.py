"""Settings of a named method in one word: `NAME` or `NAME:key=value,key=value`, keys are fields of dataclasses."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Value = Any
"""str, float, int or bool, as the field that it is for wants it; which one no type can say."""


def read_tail(
    text: str, tables: Mapping[str, Sequence[type]], *, what: str, hide: Collection[str] = ()
) -> tuple[str, list[dict[str, Value]]]:
    """The name, and the values that are given for the fields of each of its dataclasses.

    Args:
        text: `NAME` or `NAME:key=value,...`; a dash in a key is an underscore in the field.
        tables: dataclasses by name.
        what: the setting, for messages.
        hide: fields that are no keys.

    Raises:
        ValueError: an unknown name or key, a key that is missing, or a value of another kind than the field's.
    """
    name, _, rest = text.partition(":")
    if name not in tables:
        raise ValueError(f"{what}: expected {', '.join(tables)}, got {name!r}")
    keys: dict[str, tuple[int, Field[Any], Any]] = {}
    for number, table in enumerate(tables[name]):
        hints = get_type_hints(table)
        for f in fields(table):
            if f.name not in hide:
                keys[f.name.replace("_", "-")] = (number, f, hints[f.name])
    given: list[dict[str, Value]] = [{} for _ in tables[name]]
    for part in rest.split(",") if rest else ():
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in keys or not value:
            takes = ", ".join(f"{key}=..." for key in keys) or "no keys"
            raise ValueError(f"{what}: expected {name} with {takes}, got {part!r}")
        number, f, hint = keys[key]
        given[number][f.name] = _value(f"{what}: expected {{}} for {name} {key}, got {value!r}", value, hint)
    needed = {key: f.name in given[n] for key, (n, f, _) in keys.items() if _is_needed(f)}
    if missing := [key for key, there in needed.items() if not there]:
        raise ValueError(f"{what}: expected {name} with {', '.join(keys)}, got none of {', '.join(missing)}")
    return name, given


def _is_needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _value(refusal: str, value: str, hint: object) -> Value:
    """`value` as the annotation of its field wants it."""
    kinds = {kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType}
    if choices := [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]:
        if value not in choices:
            raise ValueError(refusal.format(f"one of {', '.join(choices)}"))
        return value
    if bool in kinds:
        if value not in ("yes", "no"):
            raise ValueError(refusal.format("yes or no"))
        return value == "yes"
    for kind, expected in ((int, "a whole number"), (float, "a number")):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                raise ValueError(refusal.format(expected)) from None
    return value
