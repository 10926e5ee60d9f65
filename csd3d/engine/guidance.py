"""Classifier-free guidance (Ho and Salimans, 2022): one prediction out of several under different conditions, branches.

    e = sum_b c_b e_b        sum_b c_b = 1

    text guidance, scale w                   e_null + w (e_text - e_null)
        c_null = 1 - w       c_text = w
    InstructPix2Pix, eq. 3                   e_00 + s_image (e_I0 - e_00) + s_text (e_IT - e_I0)
        c_00 = 1 - s_image   c_I0 = s_image - s_text   c_IT = s_text
    its source prediction, without a text: the same with e_IT = e_I0, whatever s_text
        c_00 = 1 - s_image   c_I0 = s_image

e_null, e_00  prediction without any condition       e_I0  given the source image, no text
e_text        given the text                         e_IT  given the source image and the text

A branch whose coefficient is zero is not evaluated: of the five of a target and a source prediction of an instruction
editor four are left at s_text = s_image, and two where both are 1.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Literal, TypeVar

from csd3d.engine.types import Latents

TextBranch = Literal["null", "text"]
InstructBranch = Literal["00", "I0", "IT"]
B = TypeVar("B", bound=str)


def text_coefficients(w: float) -> dict[TextBranch, float]:
    """c_b of a text-to-image prior; `w` = 1 is the plain prediction, 7.5 is usual."""
    return {"null": 1 - w, "text": w}


def instruct_coefficients(s_text: float, s_image: float) -> dict[InstructBranch, float]:
    """c_b of the target prediction of an instruction editor."""
    return {"00": 1 - s_image, "I0": s_image - s_text, "IT": s_text}


def instruct_source_coefficients(s_image: float) -> dict[InstructBranch, float]:
    """c_b of its source prediction."""
    return {"00": 1 - s_image, "I0": s_image}


def evaluated(coefficients: Mapping[B, float]) -> dict[B, float]:
    """The branches with c_b != 0."""
    return {branch: c for branch, c in coefficients.items() if c != 0}


def split(coefficients: Mapping[B, float], null: B) -> tuple[float, float, dict[B, float]]:
    """c_0 of the branch `null`, what the other coefficients add up to, and these divided by it, so that they are a
    guided prediction themselves: sum_b c_b e_b = c_0 e_0 + (1 - c_0) sum_b (c_b / (1 - c_0)) e_b. Not for c_0 = 1."""
    c_0 = coefficients[null]
    return c_0, 1 - c_0, {branch: c / (1 - c_0) for branch, c in coefficients.items() if branch != null}


def guided(coefficients: Mapping[B, float], predict: Callable[[Sequence[B]], Sequence[Latents]]) -> Latents:
    """sum_b c_b e_b; `predict` gives the predictions of the branches it is asked for, those with c_b != 0, in order."""
    asked = evaluated(coefficients)
    predictions = predict(tuple(asked))
    return reduce(add, [c * e for c, e in zip(asked.values(), predictions, strict=True)])
