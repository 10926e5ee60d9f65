"""What the viewer shows of a scene that is made from a sentence, beside nerfstudio's own controls, pause among them."""

from collections import deque
from collections.abc import Callable
from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerElement, ViewerText

from csd3d.nerf.viewer import Button, ChangePrompt, SetScale, Slider, Status, warning_of

MOST_GUIDANCE = 100.0


class PromptControls:
    """Sentence and guidance. Callbacks come from threads of the viewer: they queue commands for the next step."""

    def __init__(self, prompt: str, guidance: float, *, refusal_of: Callable[[str], str]) -> None:
        """`refusal_of` a sentence: why the prior cannot serve it, or nothing."""
        self._refusal_of = refusal_of
        self._commands: deque[ChangePrompt | SetScale] = deque()
        self.status, self.refusal = Status("Status"), Status("Refusal")
        self.prompt = ViewerText("Prompt", prompt)  # without a hook, which would see every keystroke
        self.start = Button("Go on with this prompt", cb_hook=lambda _: self._ask())
        self.guidance = Slider(
            "Text guidance",
            guidance,
            min(1.0, guidance),
            max(MOST_GUIDANCE, guidance),
            0.5,
            cb_hook=lambda slider: self._commands.append(SetScale("s_text", slider.value)),
        )

    @property
    def elements(self) -> list[ViewerElement[Any]]:
        """In the order in which they are shown."""
        return [self.status, self.refusal, self.prompt, self.start, self.guidance]

    def show(self, prompt: str, guidance: float) -> None:
        """Show other values."""
        self.prompt.value, self.guidance.value = prompt, guidance

    def refuse(self, reason: str) -> None:
        """Show why the latest sentence is not taken; an empty reason: it is."""
        self.refusal.show(warning_of(reason))

    def end(self, text: str) -> None:
        """Show that training has ended, after which nothing can be changed."""
        self.status.show(text)
        self.refuse("")
        for element in (self.prompt, self.start, self.guidance):
            element.disabled = True
            if element.gui_handle is not None:
                element.set_disabled(True)

    def take(self) -> list[ChangePrompt | SetScale]:
        """The commands since the last call, in order."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def _ask(self) -> None:
        """Queue the command, and say at once what is wrong with it."""
        prompt = self.prompt.value.strip()
        self._commands.append(ChangePrompt(prompt))
        self.refuse(self._refusal_of(prompt))
