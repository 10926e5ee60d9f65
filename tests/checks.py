"""Run-time checks of types at a third of the cost: jaxtyping's where shapes are, beartype's own elsewhere.

pytest's option `--jaxtyping-packages` puts `jaxtyping.jaxtyped` on every function. That binds arguments, keeps a memo
of axes and checks twice, 20 us a call, although three functions in four name no array; and a function within a function
is prepared anew, 1 ms, each time the outer one runs. Such functions go to beartype directly, which refuses the same.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

_with_shapes: Any = jaxtyping.jaxtyped
_plainly: Any = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def jaxtyped(fn: Any = None, **how: Any) -> Any:
    """As `jaxtyping.jaxtyped`, of which only what names arrays is made."""
    if fn is None:
        return lambda fn: jaxtyped(fn, **how)
    if jaxtyping.config.jaxtyping_disable:  # a function within one that runs unchecked, maybe thousands of times
        return fn
    made = vars(fn).get("__init__") if dataclasses.is_dataclass(fn) else fn
    if not inspect.isfunction(made) or not all(map(is_plain, made.__annotations__.values())):
        return _with_shapes(fn, **how)
    if made is fn:
        return _plainly(fn)
    fn.__init__ = _plainly(made)
    return fn


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
