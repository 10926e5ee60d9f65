"""What is checked at run time is checked whichever way it goes, and shapes go jaxtyping's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from tests.checks import CALLS, begin, is_plain, jaxtyped

checked = jaxtyped(typechecker=beartype)


@pytest.mark.parametrize(
    "hint",
    [int, None, str | None, list[Tensor], dict[str, tuple[int, ...]], Literal["n c"], Annotated[int, "n c"], Any],
)
def test_annotations_without_an_array_are_plain(hint: object) -> None:
    assert is_plain(hint)


@pytest.mark.parametrize(
    "hint",
    [
        Float[Tensor, "n"],
        tuple[Float[Tensor, "n"], ...],
        dict[str, list[Float[Tensor, "n"]]],
        Annotated[Float[Tensor, "n"], 1],
        "Float[Tensor, 'n']",
    ],
)
def test_an_array_is_found_wherever_it_is_and_text_may_be_one(hint: object) -> None:
    assert not is_plain(hint)


def test_wrong_values_are_refused_both_ways() -> None:
    @checked
    def plain(count: int, name: str = "") -> str:
        return name * count if name else count  # pyright: ignore[reportReturnType] - the mistake that is to be found

    @checked
    def shaped(x: Float[Tensor, "n c"], y: Float[Tensor, "n"]) -> Float[Tensor, "c"]:
        return y @ x

    assert plain(2, "a") == "aa"
    assert shaped(torch.ones(2, 3), torch.ones(2)).shape == (3,)
    wrong: list[Callable[[], Any]] = [
        lambda: plain("a"),  # pyright: ignore[reportArgumentType] - likewise
        lambda: plain(2),
        lambda: shaped(torch.ones(2, 3), torch.ones(3)),
    ]
    for call in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_fields_of_a_dataclass_are_checked_both_ways() -> None:
    @checked
    @dataclass(frozen=True)
    class Plain:
        count: int

    @checked
    @dataclass(frozen=True)
    class Shaped:
        x: Float[Tensor, "n c"]

    assert (Plain(1).count, Shaped(torch.ones(1, 2)).x.shape) == (1, (1, 2))
    with pytest.raises(jaxtyping.TypeCheckError):
        Plain("1")  # pyright: ignore[reportArgumentType] - the mistake that is to be found
    with pytest.raises(jaxtyping.TypeCheckError):
        Shaped(torch.ones(2))


def test_the_first_calls_of_a_test_are_checked_and_those_of_functions_within() -> None:
    def outer() -> Callable[[Any], None]:
        @checked
        def inner(x: Float[Tensor, "n"]) -> None: ...

        return inner

    @checked
    @dataclass(frozen=True)
    class Shaped:
        x: Float[Tensor, "n c"]

    for make in (lambda x: outer()(x), Shaped):
        begin()
        for _ in range(CALLS):
            with pytest.raises(jaxtyping.TypeCheckError):
                make("no tensor")
        make("no tensor")
        begin()
        with pytest.raises(jaxtyping.TypeCheckError):
            make("no tensor")


def test_everything_that_is_imported_here_is_checked_so() -> None:
    from csd3d.media.sheet import evenly

    assert jaxtyping.jaxtyped is jaxtyped
    with pytest.raises(jaxtyping.TypeCheckError):
        evenly("5", 2)  # pyright: ignore[reportArgumentType] - likewise
