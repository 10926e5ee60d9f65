"""Guidance: the formulas over elements, their limits, their gradients."""

import pytest
import torch
from engine_toys import latents

from csd3d.engine import instruct_guidance, text_guidance


@pytest.mark.parametrize("n", [1, 2, 5])
def test_text_guidance_against_loops(n: int) -> None:
    e_null, e_text = latents(n, 1), latents(n, 2)
    got = text_guidance(e_null, e_text, 7.5)
    for k in range(got.numel()):
        a, b = float(e_null.flatten()[k]), float(e_text.flatten()[k])
        assert float(got.flatten()[k]) == pytest.approx(a + 7.5 * (b - a), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_instruct_guidance_against_loops(n: int) -> None:
    e_00, e_I0, e_IT = latents(n, 1), latents(n, 2), latents(n, 3)
    got = instruct_guidance(e_00, e_I0, e_IT, s_text=7.5, s_image=1.5)
    for k in range(got.numel()):
        a, b, c = (float(e.flatten()[k]) for e in (e_00, e_I0, e_IT))
        assert float(got.flatten()[k]) == pytest.approx(a + 1.5 * (b - a) + 7.5 * (c - b), rel=1e-5, abs=1e-5)


def test_scale_one_is_the_plain_prediction() -> None:
    e_00, e_I0, e_IT = (latents(3, seed, torch.float64) for seed in (1, 2, 3))
    torch.testing.assert_close(text_guidance(e_00, e_IT, 1.0), e_IT)
    torch.testing.assert_close(instruct_guidance(e_00, e_I0, e_IT, s_text=1.0, s_image=1.0), e_IT)


def test_source_branch_does_not_know_the_text_scale() -> None:
    e_00, e_I0 = latents(3, 1), latents(3, 2)
    weak, strong = (instruct_guidance(e_00, e_I0, e_I0, s_text=s, s_image=1.5) for s in (0.0, 15.0))
    assert torch.equal(weak, strong)
    torch.testing.assert_close(weak, text_guidance(e_00, e_I0, 1.5))


def test_gradients_are_the_coefficients() -> None:
    e = [latents(2, seed, torch.float64).requires_grad_() for seed in (1, 2, 3)]
    instruct_guidance(*e, s_text=7.5, s_image=1.5).sum().backward()
    for branch, coefficient in zip(e, (1 - 1.5, 1.5 - 7.5, 7.5), strict=True):
        torch.testing.assert_close(branch.grad, torch.full_like(branch, coefficient))


def test_order_of_particles_does_not_matter() -> None:
    order = torch.tensor([2, 0, 1])
    e = [latents(3, seed) for seed in (1, 2, 3)]
    moved = instruct_guidance(*(x[order] for x in e), s_text=7.5, s_image=1.5)
    assert torch.equal(moved, instruct_guidance(*e, s_text=7.5, s_image=1.5)[order])
