"""What the viewer shows of an edit: its elements, and what a person did with them since the last step.

Callbacks come from threads of the viewer, in the middle of a step. So they only leave wishes, which the pipeline grants
when the next step begins; with several processes, all of them do.
"""

from collections import deque
from collections.abc import Callable, Mapping
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
        source_prompt: str | None,
        *,
        s_text: float,
        s_image: float | None,
        strength: float | None,
        needs_source: bool,
        check: Callable[[str, str | None], object],
        show_before: Callable[[bool], None],
    ) -> None:
        """`s_image` and `strength`: None where they mean nothing. `needs_source`: a caption of the scene is needed too.
        `check` raises `ValueError` for sentences that the prior cannot serve; `show_before` acts at once."""
        self._check = check
        self._wishes: deque[Wish] = deque()
        self.prompt = ViewerText("Prompt", prompt or "")  # without a hook, which would see every keystroke
        self.source = ViewerText("What the scene shows", source_prompt or "")
        self.start = ViewerButton("Edit as the prompt says", cb_hook=lambda _: self._ask())
        self.scales = {
            name: self._slider(label, name, value, most)
            for label, name, value, most in (
                ("Text guidance", "s_text", s_text, 15.0),
                ("Image guidance", "s_image", s_image, 5.0),
                ("Edit strength", "strength", strength, 1.0),
            )
            if value is not None
        }
        self.pause = ViewerCheckbox("Pause edits", False, cb_hook=lambda box: self._wish("pause", box.value))
        self.before = ViewerCheckbox("Show the scene before", False, cb_hook=lambda box: show_before(box.value))
        self.undo = ViewerButton("Undo the last prompt", cb_hook=lambda _: self._wish("undo"))
        self.reset = ViewerButton("Back to the photographs", cb_hook=lambda _: self._wish("reset"))
        self._texts = [self.prompt, self.source] if needs_source else [self.prompt]

    @property
    def elements(self) -> list[ViewerElement]:
        """In the order in which they are shown."""
        switches = [self.pause, self.before, self.undo, self.reset]
        return [*self._texts, self.start, *self.scales.values(), *switches]

    def show(self, prompt: str | None, source_prompt: str | None, scales: Mapping[str, float]) -> None:
        """Show other sentences, and other values of the scales that are named."""
        self.prompt.value, self.source.value = prompt or "", source_prompt or ""
        for name in self.scales.keys() & scales.keys():
            self.scales[name].value = scales[name]

    def wishes(self) -> list[Wish]:
        """What was wished for since the last call."""
        return [self._wishes.popleft() for _ in range(len(self._wishes))]

    def _wish(self, *wish: Any) -> None:
        self._wishes.append(wish)

    def _slider(self, label: str, name: str, value: float, most: float) -> ViewerSlider[float]:
        """From 1 to `most` (0 to 1 for a share), or to whatever was asked for beyond."""
        least, step = (0.0, 0.05) if most == 1 else (1.0, 0.1)
        return ViewerSlider(
            label, value, min(least, value), max(most, value), step,
            cb_hook=lambda slider: self._wish("adjust", name, slider.value),
        )  # fmt: skip

    def _ask(self) -> None:
        """Sentences that the prior cannot serve are said on the console and change nothing."""
        prompt, source_prompt = self.prompt.value.strip(), self.source.value.strip() or None
        if not prompt:
            return
        try:
            self._check(prompt, source_prompt)
        except (ValueError, FileNotFoundError) as error:
            CONSOLE.print(f"[bold yellow]{error}")
            return
        self._wish("change_prompt", prompt, source_prompt)
