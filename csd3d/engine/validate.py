"""How settings are refused: one line with the name of the setting, what was expected, and what it is.

A dataclass calls these in its `__post_init__`, with itself as `config` and its own fields as names:

    require_int(self, 8, None, "size", "window")             # size: expected 8 or more, got 4
    require_number(self, 0, 1, "strength")                   # strength: expected 0 to 1, got 1.5
    require_choice(self, "draw")                             # draw: expected one of stratified, window, got 'all'
    require(self, "lr", self.lr > 0, "a number above 0")     # lr: expected a number above 0, got 0

None passes where the annotation of the field allows it, and is refused elsewhere.
"""

from functools import cache
from math import inf
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

LARGEST = 2**31 - 1
"""Of whole numbers that have no bound of their own: larger ones overflow in torch."""
LARGEST_SIDE_PX = 2**15
"""A side of a picture beyond which it is taken for a mistake."""


def require(
    config: object, name: str, good: bool, expected: str, error: type[ValueError | TypeError] = ValueError
) -> None:
    """Raises `error` with the line "name: expected ..., got ..." unless `good`."""
    if not good:
        value: object = getattr(config, name)
        raise error(f"{name}: expected {expected}, got {repr(value) if isinstance(value, str) else value}")


def require_int(config: object, low: int | None, high: int | None, *names: str) -> None:
    """Raises `TypeError` for what is no whole number, `ValueError` for one below `low` or above `high`; None: no
    bound on that side, but that more than `LARGEST` is taken for a mistake."""
    for name, value in _given(config, names):
        whole = isinstance(value, int) and not isinstance(value, bool)
        require(config, name, whole, "a whole number", TypeError)
        require(config, name, _within(value, low, high), _limits(low, high))
        require(config, name, high is not None or _within(value, None, LARGEST), f"at most {LARGEST}")


def require_side(config: object, low: int, name: str) -> None:
    """Raises as `require_int` for what is no side of a picture in px, of at least `low`."""
    require_int(config, low, None, name)
    for _, value in _given(config, (name,)):
        require(config, name, _within(value, None, LARGEST_SIDE_PX), f"at most {LARGEST_SIDE_PX}")


def require_seed(config: object) -> None:
    """Raises as `require_int` for a `seed` that torch's generators do not take."""
    require_int(config, 0, 2**63 - 1, "seed")


def require_number(config: object, low: int | float | None, high: int | float | None, *names: str) -> None:
    """Raises `TypeError` for what is no number, `ValueError` for one that is not finite, below `low` or above `high`;
    None: no bound on that side."""
    for name, value in _given(config, names):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(config, name, number, "a number", TypeError)
        require(config, name, _within(value, low, high), _limits(low, high))


def require_choice(config: object, *names: str) -> None:
    """Raises `ValueError` for what is none of the words that the field's annotation, a `Literal`, lists."""
    for name, value in _given(config, names):
        choices = _choices(_annotations(type(config))[name])
        require(config, name, value in choices, "one of " + ", ".join(map(str, choices)))


def _given(config: object, names: tuple[str, ...]) -> list[tuple[str, object]]:
    """Names and values, without those that are None where the annotation allows it."""
    values: list[tuple[str, object]] = [(name, getattr(config, name)) for name in names]
    optional = {name for name in names if NoneType in get_args(_annotations(type(config))[name])}
    return [(name, value) for name, value in values if value is not None or name not in optional]


@cache
def _annotations(kind: type) -> dict[str, object]:
    return get_type_hints(kind)


def _choices(annotation: object) -> tuple[object, ...]:
    """The members of a `Literal`, or of all those in a union."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for member in get_args(annotation) for choice in _choices(member))


def _within(value: object, low: int | float | None, high: int | float | None) -> bool:
    """Whether a number is finite and in [low, high]."""
    if not isinstance(value, int | float) or not -inf < value < inf:
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def _limits(low: int | float | None, high: int | float | None) -> str:
    if low is None and high is None:
        return "a finite number"
    if high is None:
        return f"{low} or more"
    return f"at most {high}" if low is None else f"{low} to {high}"
