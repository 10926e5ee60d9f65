"""When edits are due, without a scene."""

import torch

from csd3d.nerf.cover import Cover
from csd3d.nerf.schedule import EditSchedule


def schedule(views: int = 6, *, first_edit: int = 4, edit_every: int = 3) -> EditSchedule:
    """Of cameras at random places."""
    c2w = torch.randn(views, 3, 4, generator=torch.Generator().manual_seed(0))
    return EditSchedule(Cover(c2w), first_edit=first_edit, edit_every=edit_every)


def test_a_prompt_edits_every_view_at_once_and_then_one_batch_every_so_often() -> None:
    due, rng, edited, steps = schedule(), torch.Generator().manual_seed(0), set[int](), []
    for step in range(20):
        if due.is_due(step, views_left=0 < len(edited) < 6):
            edited |= set(due.next_views(4, rng))
            due.advance(step)
            steps.append(step)
    assert steps == [4, 5, 10, 13, 16, 19]  # two batches for 6 views, whose 6 training steps follow


def test_the_batches_that_are_left_are_counted() -> None:
    due, rng, edited, expected, steps = schedule(), torch.Generator().manual_seed(0), set[int](), [], []
    for step in range(20):
        expected.append(due.batches_left(step, 20, at_once=-(-(6 - len(edited)) // 4)))
        if due.is_due(step, views_left=0 < len(edited) < 6):
            edited |= set(due.next_views(4, rng))
            due.advance(step)
            steps.append(step)
    assert expected == [sum(later >= step for later in steps) for step in range(20)]
    due.paused = True
    assert due.batches_left(0, 20, at_once=2) == 0


def test_nothing_is_due_while_edits_are_paused() -> None:
    due = schedule()
    due.paused = True
    assert not due.is_due(9, views_left=True)
    due.paused = False
    assert due.is_due(9, views_left=False)


def test_an_edit_that_was_late_moves_those_that_follow() -> None:
    due = schedule()
    due.advance(100)
    assert due.next_edit == 103
    due.request_edit()
    assert due.is_due(0, views_left=False)
