"""What the viewer shows of an edit: its elements, and commands for what a person did with them since the last step.

Callbacks come from threads of the viewer, in the middle of a step. So they only queue commands, which the pipeline
carries out when the next step begins; commands are plain data, broadcast to all processes. nerfstudio's own elements
wait for the end of a step before they call back, each in a thread of a small pool: during an edit, which takes minutes,
the order of clicks is lost, and a few more of them stop the page. Ours call back at once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerElement, ViewerSlider, ViewerText
from viser import GuiMarkdownHandle, ViserServer

Scale = Literal["s_text", "s_image", "strength"]
"""Settings that the viewer can change: both guidance scales, and the strength of an edit."""


@dataclass(frozen=True)
class ChangePrompt:
    """From now on edit as the sentences say, starting from what training sees; an edit is due at once."""

    prompt: str
    source_prompt: str | None = None


@dataclass(frozen=True)
class SetScale:
    """From now on edit with another value of a scale."""

    name: Scale
    value: float


@dataclass(frozen=True)
class Pause:
    """Edit no more, or again. Training goes on meanwhile."""

    paused: bool


@dataclass(frozen=True)
class Undo:
    """Take the latest prompt's edits back; training goes on towards what was there before."""


@dataclass(frozen=True)
class Reset:
    """Back to the photographs."""


ViewerCommand = ChangePrompt | SetScale | Pause | Undo | Reset


class _AtOnce:
    """An element that calls back at once: the viewer's attempt to put another hook in the place of its own, which waits
    for the end of the step, is passed over."""

    _hook: Callable[[Any], object] | None = None

    @property
    def cb_hook(self) -> Callable[[Any], object]:
        """What is called with the element when a person has used it."""
        assert self._hook is not None
        return self._hook

    @cb_hook.setter
    def cb_hook(self, hook: Callable[[Any], object]) -> None:
        if self._hook is None:
            self._hook = hook


# viewer elements type their callbacks each in their own way
class Button(_AtOnce, ViewerButton):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    """A button that calls back at once."""


# viewer elements type their callbacks each in their own way
class Checkbox(_AtOnce, ViewerCheckbox):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    """A checkbox that calls back at once."""


# viewer elements type their callbacks each in their own way
class Slider(_AtOnce, ViewerSlider[float]):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    """A slider that calls back at once."""


class Status(ViewerElement[str]):
    """A line of text that only the program changes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.text = ""
        self.markdown: GuiMarkdownHandle | None = None

    def install(self, viser_server: ViserServer) -> None:
        """Show it."""
        self._create_gui_handle(viser_server)

    def show(self, text: str) -> None:
        """Show another text, in Markdown."""
        if text != self.text:
            self.text = text
            if self.markdown is not None:
                self.markdown.content = text

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.markdown = viser_server.gui.add_markdown(self.text)


def warning_of(reason: str) -> str:
    """The first line of a refusal as it is shown; nothing for none."""
    return f"⚠ {reason.splitlines()[0]}" if reason else ""


class Controls:
    """Prompt, guidance, strength, pause, undo, reset, a look at the scene before the edit, and what is going on."""

    def __init__(
        self,
        prompt: str | None,
        source_prompt: str | None,
        *,
        scales: Mapping[Scale, float],
        needs_source: bool,
        refusal_of: Callable[[str, str | None], str],
        show_before: Callable[[bool], None],
    ) -> None:
        """`scales`: those that have a meaning, and their values. `needs_source`: a caption of the scene is needed too.
        `refusal_of` sentences: why the prior cannot serve them, or nothing; `show_before` acts at once."""
        self._refusal_of = refusal_of
        self._commands: deque[ViewerCommand] = deque()
        self.status, self.refusal = Status("Status"), Status("Refusal")
        self.prompt = ViewerText("Prompt", prompt or "")  # without a hook, which would see every keystroke
        self.source = ViewerText("What the scene shows", source_prompt or "")
        self.start = Button("Edit as the prompt says", cb_hook=lambda _: self._ask())
        ranges: tuple[tuple[str, Scale, float], ...] = (
            ("Text guidance", "s_text", 15.0),
            ("Image guidance", "s_image", 5.0),
            ("Edit strength", "strength", 1.0),
        )
        self.scales: dict[Scale, Slider] = {
            name: self._slider(label, name, scales[name], most) for label, name, most in ranges if name in scales
        }
        self.pause = Checkbox("Pause edits", False, cb_hook=lambda box: self._commands.append(Pause(box.value)))
        self.before = ViewerCheckbox("Show the scene before", False, cb_hook=lambda box: show_before(box.value))
        self.undo = Button("Undo the last prompt", cb_hook=lambda _: self._commands.append(Undo()))
        self.reset = Button("Back to the photographs", cb_hook=lambda _: self._commands.append(Reset()))
        self._texts = [self.prompt, self.source] if needs_source else [self.prompt]

    @property
    def elements(self) -> list[ViewerElement[Any]]:
        """In the order in which they are shown."""
        switches = [self.pause, self.before, self.undo, self.reset]
        return [self.status, self.refusal, *self._texts, self.start, *self.scales.values(), *switches]

    def show(self, prompt: str | None, source_prompt: str | None, scales: Mapping[Scale, float]) -> None:
        """Show other sentences, and other values of the scales that are named."""
        self.prompt.value, self.source.value = prompt or "", source_prompt or ""
        for name, slider in self.scales.items():
            if name in scales:
                slider.value = scales[name]

    def enable(self, *, edits: bool, undo: bool, before: bool) -> None:
        """Only what does something can be clicked: what asks for `edits`, what takes them back, and the comparison with
        the scene `before`."""
        for elements, able in (
            ([self.start, self.pause, *self._texts, *self.scales.values()], edits),
            ([self.undo, self.reset], undo),
            ([self.before], before),
        ):
            for element in elements:
                if element.disabled == able:
                    element.disabled = not able  # which the element has when it is installed
                    if element.gui_handle is not None:
                        element.set_disabled(not able)

    def refuse(self, reason: str) -> None:
        """Show why the latest command was not carried out; an empty reason: it was."""
        self.refusal.show(warning_of(reason))

    def take(self) -> list[ViewerCommand]:
        """The commands since the last call, in order."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def _slider(self, label: str, name: Scale, value: float, most: float) -> Slider:
        """From 1 to `most` (0 to 1 for a share), or to a given value outside of that."""
        least, step = (0.0, 0.05) if most == 1 else (1.0, 0.1)
        return Slider(
            label,
            value,
            min(least, value),
            max(most, value),
            step,
            cb_hook=lambda slider: self._commands.append(SetScale(name, slider.value)),
        )

    def _ask(self) -> None:
        """Queue the command first, as a check takes a moment and others may follow; what is wrong is shown at once."""
        prompt, source_prompt = self.prompt.value.strip(), self.source.value.strip() or None
        self.refusal.show(f"Next, after what goes on: {prompt}")
        self._commands.append(ChangePrompt(prompt, source_prompt))
        if reason := self._refusal_of(prompt, source_prompt):
            self.refuse(reason)
