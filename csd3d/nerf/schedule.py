"""When the next batch of views is edited, and which views it has. Knows no scene.

A prompt first edits every view once, batch after batch without training steps between them; later batches come every
`edit_every` training steps.
"""

import torch

from csd3d.nerf.cover import Cover


class EditSchedule:
    """Due dates of edits, in training steps."""

    def __init__(self, cover: Cover, *, first_edit: int, edit_every: int) -> None:
        """`first_edit`: the step of the first edit; `edit_every`: steps from one batch to the next."""
        self.cover = cover
        self.next_edit = first_edit
        self.paused = False
        self._every = edit_every

    def is_due(self, step: int, *, views_left: bool) -> bool:
        """Whether an edit comes before training step `step`; at once where views are left that the prompt has not
        edited yet (`views_left`)."""
        return not self.paused and (step >= self.next_edit or views_left)

    def next_views(self, count: int, rng: torch.Generator) -> list[int]:
        """The views of the next batch, `count` of them."""
        return self.cover.next(count, rng)

    def advance(self, step: int) -> None:
        """A batch was edited before step `step`: every batch adds its training steps."""
        self.next_edit = max(step, self.next_edit) + self._every

    def batches_left(self, step: int, end: int, *, at_once: int) -> int:
        """Batches between step `step` and the end, of which `at_once` are due now, since views are left."""
        return 0 if self.paused else max(at_once, -(-(end - max(step, self.next_edit)) // self._every), 0)

    def request_edit(self, step: int = 0) -> None:
        """The next edit comes at `step`, or at once if that has passed."""
        self.next_edit = step
