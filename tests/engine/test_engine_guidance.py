"""Guidance: the published formulas over elements, their limits, their gradients, and what is not evaluated."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import latents
from torch import Tensor

from csd3d.engine import guided, instruct_coefficients, instruct_source_coefficients, text_coefficients
from csd3d.engine.guidance import B


def combined(coefficients: Mapping[B, float], **e: Tensor) -> Tensor:
    """The guided prediction of those of branches, by name (00 is written e_00 ...)."""
    return guided(coefficients, lambda names: [e[f"e_{name}"] for name in names])


def instruct(e_00: Tensor, e_I0: Tensor, e_IT: Tensor, s_text: float, s_image: float) -> Tensor:
    return combined(instruct_coefficients(s_text, s_image), e_00=e_00, e_I0=e_I0, e_IT=e_IT)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("w", [7.5, 1.0, 0.0])
def test_text_guidance_against_loops(n: int, w: float) -> None:
    e_null, e_text = latents(n, 1), latents(n, 2)
    got = combined(text_coefficients(w), e_null=e_null, e_text=e_text)
    for k in range(got.numel()):
        a, b = float(e_null.flatten()[k]), float(e_text.flatten()[k])
        assert float(got.flatten()[k]) == pytest.approx(a + w * (b - a), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(("s_text", "s_image"), [(7.5, 1.5), (1.5, 1.5), (2.0, 1.0), (1.0, 1.0), (0.0, 1.5)])
def test_instruct_guidance_against_loops(n: int, s_text: float, s_image: float) -> None:
    e = latents(n, 1), latents(n, 2), latents(n, 3)
    got = instruct(*e, s_text=s_text, s_image=s_image)
    for k in range(got.numel()):
        a, b, c = (float(x.flatten()[k]) for x in e)
        expected = a + s_image * (b - a) + s_text * (c - b)
        assert float(got.flatten()[k]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_scale_one_is_the_plain_prediction_to_the_bit() -> None:
    e_00, e_I0, e_IT = (latents(3, seed) for seed in (1, 2, 3))
    assert torch.equal(combined(text_coefficients(1.0), e_text=e_IT), e_IT)
    assert torch.equal(instruct(e_00, e_I0, e_IT, s_text=1.0, s_image=1.0), e_IT)


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        (text_coefficients(7.5), ["null", "text"]),
        (text_coefficients(1.0), ["text"]),
        (instruct_coefficients(7.5, 1.5), ["00", "I0", "IT"]),
        (instruct_coefficients(1.5, 1.5), ["00", "IT"]),
        (instruct_coefficients(7.5, 1.0), ["I0", "IT"]),
        (instruct_coefficients(1.0, 1.0), ["IT"]),
        (instruct_source_coefficients(1.5), ["00", "I0"]),
        (instruct_source_coefficients(1.0), ["I0"]),
    ],
)
def test_branches_that_count_for_nothing_are_not_asked_for(coefficients: Mapping[B, float], expected: list[B]) -> None:
    asked: list[B] = []

    def predict(names: Sequence[B]) -> list[Tensor]:
        asked.extend(names)
        return [latents(2, seed) for seed, _ in enumerate(names)]

    guided(coefficients, predict)
    assert asked == expected
    assert sum(coefficients.values()) == 1


def test_the_source_prediction_is_the_targets_without_a_text() -> None:
    e_00, e_I0 = latents(3, 1), latents(3, 2)
    source = combined(instruct_source_coefficients(1.5), e_00=e_00, e_I0=e_I0)
    for s_text in (0.0, 1.5, 15.0):
        torch.testing.assert_close(source, instruct(e_00, e_I0, e_I0, s_text=s_text, s_image=1.5), atol=1e-5, rtol=0)
    assert torch.equal(source, combined(text_coefficients(1.5), e_null=e_00, e_text=e_I0))


def test_gradients_are_the_coefficients() -> None:
    e = [latents(2, seed, torch.float64).requires_grad_() for seed in (1, 2, 3)]
    instruct(*e, s_text=7.5, s_image=1.5).sum().backward()
    for branch, coefficient in zip(e, (1 - 1.5, 1.5 - 7.5, 7.5), strict=True):
        torch.testing.assert_close(branch.grad, torch.full_like(branch, coefficient))


def test_order_of_particles_does_not_matter() -> None:
    order = torch.tensor([2, 0, 1])
    e = [latents(3, seed) for seed in (1, 2, 3)]
    moved = instruct(*(x[order] for x in e), s_text=7.5, s_image=1.5)
    assert torch.equal(moved, instruct(*e, s_text=7.5, s_image=1.5)[order])
