"""Run-time checks of types at a fifth of the cost: jaxtyping's where shapes are, beartype's own elsewhere.

pytest's option `--jaxtyping-packages` puts `jaxtyping.jaxtyped` on every function. That binds arguments, keeps a memo
of axes and checks twice, 20 us a call, although three functions in four name no array; and a function within a function
is prepared anew, 1 ms, each time the outer one runs. Such functions go to beartype directly, which refuses the same.
Of those that do name arrays the first `CALLS` calls in a test are checked: its later ones are the same steps again.
"""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

_with_shapes: Any = jaxtyping.jaxtyped
_plainly: Any = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))

CALLS = 5
_calls: Counter[Any] = Counter()
"""Of each function that names arrays, by its code, in the present test."""


def begin() -> None:
    """A test begins: calls count anew."""
    _calls.clear()


def jaxtyped(fn: Any = None, **how: Any) -> Any:
    """As `jaxtyping.jaxtyped`, of which only what names arrays is made."""
    if fn is None:
        return lambda fn: jaxtyped(fn, **how)
    made = vars(fn).get("__init__") if dataclasses.is_dataclass(fn) else fn
    if not inspect.isfunction(made):
        return _with_shapes(fn, **how)
    plain = all(map(is_plain, made.__annotations__.values()))
    checked = _plainly(made) if plain else _at_first(made, how)
    if made is fn:
        return checked
    fn.__init__ = checked
    return fn


def _at_first(fn: Any, how: dict[str, Any]) -> Any:
    """The function, checked as long as it has not been called often."""
    code = fn.__code__
    if _calls[code] >= CALLS:  # a function within one that was called often
        return fn
    checked = _with_shapes(fn, **how)

    @wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if _calls[code] >= CALLS:
            return fn(*args, **kwargs)
        _calls[code] += 1
        return checked(*args, **kwargs)

    return call


def is_plain(hint: Any) -> bool:
    """Whether an annotation holds no array for sure; text may stand for one."""
    if isinstance(hint, (str, ForwardRef, TypeVar)):
        return False
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return False
    if get_origin(hint) in (Literal, Callable):  # beartype does not look at what a function takes
        return True
    parts = get_args(hint)
    return all(map(is_plain, parts[:1] if get_origin(hint) is Annotated else parts))


jaxtyping.jaxtyped = jaxtyped  # before anything is imported that is checked
