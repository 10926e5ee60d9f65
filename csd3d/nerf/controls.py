"""What the viewer shows of an edit: its elements, and what a person did with them since the last step.

Callbacks come from threads of the viewer, in the middle of a step. So they only leave wishes, which the pipeline grants
when the next step begins; with several processes, all of them do.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerElement, ViewerSlider, ViewerText

Wish = tuple[Any, ...]
"""Name of a method of the pipeline, and what to call it with."""


class Controls:
    """Prompt, guidance, strength, pause, undo, reset, and a look at the scene before the edit."""

    def __init__(
        self,
        prompt: str | None,
        *,
        s_text: float,
        s_image: float,
        strength: float,
        check: Callable[[str], object],
        show_before: Callable[[bool], None],
    ) -> None:
        """`check` raises `ValueError` for a sentence that the prior does not know; `show_before` acts at once."""
        self._check = check
        self._wishes: deque[Wish] = deque()
        self.prompt = ViewerText("Prompt", prompt or "")  # without a hook, which would see every keystroke
        self.start = ViewerButton("Edit as the prompt says", cb_hook=lambda _: self._ask_for(self.prompt.value))
        self.text = ViewerSlider("Text guidance", s_text, 1.0, 15.0, 0.1, cb_hook=self._setter("s_text"))
        self.image = ViewerSlider("Image guidance", s_image, 1.0, 5.0, 0.1, cb_hook=self._setter("s_image"))
        self.strength = ViewerSlider("Edit strength", strength, 0.0, 1.0, 0.05, cb_hook=self._setter("strength"))
        self.pause = ViewerCheckbox("Pause edits", False, cb_hook=lambda box: self._wish("pause", box.value))
        self.before = ViewerCheckbox("Show the scene before", False, cb_hook=lambda box: show_before(box.value))
        self.undo = ViewerButton("Undo the last prompt", cb_hook=lambda _: self._wish("undo"))
        self.reset = ViewerButton("Back to the photographs", cb_hook=lambda _: self._wish("reset"))

    @property
    def elements(self) -> list[ViewerElement]:
        """In the order in which they are shown."""
        scales = [self.text, self.image, self.strength]
        return [self.prompt, self.start, *scales, self.pause, self.before, self.undo, self.reset]

    def wishes(self) -> list[Wish]:
        """What was wished for since the last call."""
        return [self._wishes.popleft() for _ in range(len(self._wishes))]

    def _wish(self, *wish: Any) -> None:
        self._wishes.append(wish)

    def _setter(self, name: str) -> Callable[[Any], None]:
        return lambda control: self._wish("adjust", name, control.value)

    def _ask_for(self, prompt: str) -> None:
        """A sentence that the prior does not know is said on the console and changes nothing."""
        prompt = prompt.strip()
        if not prompt:
            return
        try:
            self._check(prompt)
        except ValueError as error:
            CONSOLE.print(f"[bold yellow]{error}")
            return
        self._wish("change_prompt", prompt)
