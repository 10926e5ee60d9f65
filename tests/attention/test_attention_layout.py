"""Things where boxes say: the energy by loops and by differences, boxes as a person writes them, and steering."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from csd3d.attention.groups import groups_of
from csd3d.attention.layout import Box, Layout, boxed_things
from csd3d.attention.steer import Steering
from csd3d.attention.words import Tokens, Word
from panorama.generate_config import GenerateConfig

SENTENCE = ("a", "red", "ball", "and", "a", "blue", "cube")
TOKENS = Tokens(tuple(Word(text, (i + 1,)) for i, text in enumerate(SENTENCE)), length=12)
GROUPS = groups_of(TOKENS, "red ball | blue cube")
BOXES = (Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.25, 1.0, 1.0))


def test_the_energy_is_the_papers() -> None:
    maps = torch.rand(12, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for box, group in zip(BOXES, GROUPS, strict=True):
        for v in group.tokens:
            values: dict[bool, list[float]] = {True: [], False: []}
            for r in range(8):
                for c in range(6):
                    within = box.left < (c + 0.5) / 6 < box.right and box.top < (r + 0.5) / 8 < box.bottom
                    values[within].append(float(maps[v, r, c]))
            for within, sign in ((True, -1.0), (False, 0.7)):
                largest = sorted(values[within], reverse=True)[: round(0.2 * len(values[within]))]
                expected += sign * sum(largest) / len(largest)
    energy = Layout(outside=0.7, boxes=BOXES)
    assert float(energy(maps, None, GROUPS)) == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda m: energy(m, None, GROUPS), maps.requires_grad_())


def test_boxes_that_hold_no_place_or_all_of_them() -> None:
    assert Box(0.4, 0.4, 0.45, 0.45).inside((2, 2)).tolist() == [[True, False], [False, False]]
    maps = torch.rand(12, 4, 4)
    everywhere = Layout(boxes=(Box(0.0, 0.0, 1.0, 1.0), Box(0.0, 0.0, 1.0, 1.0)))
    top = sum(maps[t].flatten().topk(3).values.mean() for group in GROUPS for t in group.tokens)
    torch.testing.assert_close(everywhere(maps, None, GROUPS), -torch.as_tensor(top))


def test_boxes_as_a_person_writes_them() -> None:
    assert boxed_things(("the red ball=0,0,0.5,1", "blue cube = 0.5,0.25,1,1")) == ("red ball | blue cube", BOXES)
    assert boxed_things(()) == ("", ())
    steering = GenerateConfig(box=("the ball=0,0,0.5,1",), method="ddim").steering
    assert steering is not None
    assert steering.energy == Layout(boxes=BOXES[:1])
    assert Steering.of("layout:outside=2,rms=0.1", BOXES).energy == Layout(outside=2.0, boxes=BOXES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": ("the ball",)}, "box: expected \"the ball=x0,y0,x1,y1\", got 'the ball'"),
        ({"box": ("ball=0,0,2,1",)}, "box: expected left,top,right,bottom from 0 to 1"),
        ({"box": ("ball=0.5,0,0.5,1",)}, "box: expected left,top,right,bottom"),
        ({"box": ("ball=0,0,1,1",), "method": "csd"}, "box: expected --method ddim beside it"),
        ({"box": ("ball=0,0,1,1",), "group": "ball"}, "group: expected none beside --box"),
        ({"box": ("ball=0,0,1,1",), "steer": "excite"}, "expected layout beside --box"),
        ({"steer": "layout"}, "expected layout beside --box"),
        ({"steer": "layout:boxes=1", "box": ("ball=0,0,1,1",)}, "steer: expected layout with outside=..., share=..."),
    ],
)
def test_what_makes_no_sense_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(GenerateConfig(method="ddim"), **changes)
    assert "\n" not in str(error.value)
