"""What is refused in settings, and in which words."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from csd3d.engine.validate import (
    LARGEST,
    LARGEST_SIDE_PX,
    require,
    require_choice,
    require_int,
    require_number,
    require_side,
)

Draw = Literal["stratified", "window"]


@dataclass(frozen=True)
class Settings:
    size: Any = 8
    crf: "int | None" = None
    quality: Annotated[int | None, "a mark"] = None
    strength: Any = 1.0
    fade: float | None = None
    draw: Draw = "window"
    depth: Literal[8, 10] | None = None


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (7, ValueError, "size: expected 8 or more, got 7"),
        (8.0, TypeError, "size: expected a whole number, got 8.0"),
        (True, TypeError, "size: expected a whole number, got True"),
        ("8", TypeError, "size: expected a whole number, got '8'"),
        (None, TypeError, "size: expected a whole number, got None"),
    ],
)
def test_whole_numbers(value: object, error: type[Exception], message: str) -> None:
    require_int(Settings(size=8), 8, None, "size")
    with pytest.raises(error, match=rf"^{message}$"):
        require_int(Settings(size=value), 8, None, "size")


def test_numbers_that_torch_cannot_count_to_are_mistakes() -> None:
    require_int(Settings(size=LARGEST), 8, None, "size")
    require_int(Settings(size=2**62), 8, 2**63, "size")
    with pytest.raises(ValueError, match=rf"^size: expected at most {LARGEST}, got {LARGEST + 1}$"):
        require_int(Settings(size=LARGEST + 1), 8, None, "size")


def test_sides_of_pictures() -> None:
    for good in (16, LARGEST_SIDE_PX):
        require_side(Settings(size=good), 16, "size")
    require_side(Settings(crf=None), 8, "crf")
    with pytest.raises(ValueError, match=r"^size: expected 16 or more, got 8$"):
        require_side(Settings(size=8), 16, "size")
    with pytest.raises(ValueError, match=rf"^size: expected at most {LARGEST_SIDE_PX}, got 99999$"):
        require_side(Settings(size=99999), 16, "size")


@pytest.mark.parametrize(
    ("low", "high", "limits"), [(0, 51, "0 to 51"), (0, None, "0 or more"), (None, 51, "at most 51")]
)
def test_limits_are_inclusive_and_named(low: int | None, high: int | None, limits: str) -> None:
    for good in (0, 51):
        require_int(Settings(size=good), low, high, "size")
        require_number(Settings(strength=good), low, high, "strength")
    bad = -1 if low == 0 else 52
    with pytest.raises(ValueError, match=rf"^size: expected {limits}, got {bad}$"):
        require_int(Settings(size=bad), low, high, "size")
    with pytest.raises(ValueError, match=rf"^strength: expected {limits}, got {bad}.5$"):
        require_number(Settings(strength=bad + (0.5 if bad > 0 else -0.5)), low, high, "strength")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, ValueError, "strength: expected 0 to 1, got 1.5"),
        (float("nan"), ValueError, "strength: expected 0 to 1, got nan"),
        (False, TypeError, "strength: expected a number, got False"),
        (None, TypeError, "strength: expected a number, got None"),
        ("much", TypeError, "strength: expected a number, got 'much'"),
    ],
)
def test_numbers(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^{message}$"):
        require_number(Settings(strength=value), 0, 1, "strength")


def test_numbers_without_limits_are_finite() -> None:
    require_number(Settings(strength=-1e9), None, None, "strength")
    with pytest.raises(ValueError, match=r"^strength: expected a finite number, got inf$"):
        require_number(Settings(strength=float("inf")), None, None, "strength")


def test_none_passes_where_the_annotation_allows_it() -> None:
    require_int(Settings(), 0, 51, "crf", "quality")
    require_number(Settings(), 0, None, "fade")
    require_choice(Settings(), "draw", "depth")
    with pytest.raises(ValueError, match=r"^quality: expected 0 to 51, got 60$"):
        require_int(Settings(quality=60), 0, 51, "crf", "quality")


def test_choices_are_those_of_the_annotation() -> None:
    for name, value, choices in (("draw", "all", "stratified, window"), ("depth", 12, "8, 10")):
        settings = Settings()
        object.__setattr__(settings, name, value)  # run-time type checks of the tests refuse it in `__init__`
        with pytest.raises(ValueError, match=rf"^{name}: expected one of {choices}, got {value!r}$"):
            require_choice(settings, name)


def test_what_only_one_class_asks_of_a_setting() -> None:
    require(Settings(size=4), "size", True, "a multiple of 8")
    with pytest.raises(ValueError, match=r"^size: expected a multiple of 8, got 4$"):
        require(Settings(size=4), "size", False, "a multiple of 8")
    with pytest.raises(TypeError, match=r"^draw: expected a path, got 'window'$"):
        require(Settings(), "draw", False, "a path", TypeError)
