"""What the buttons of the page do, and what it shows of a run."""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import to_8_bits, to_levels
from csd3d.media.pictures.read import open_picture
from csd3d.media.sheet import save_picture
from csd3d.runs.history import repeat_command, undo, was_ended
from csd3d.runs.manifest import Manifest
from csd3d.ui.files import RunsFolder
from csd3d.ui.jobs import Job, Jobs, Status, run_to_end, status_of
from csd3d.ui.known import Known
from csd3d.ui.request import AT_ONCE, EDITORS, Asked, editor_for, first_look_in, words_of
from csd3d.user_errors import explain

PAINTED_PX = 640
"""Longest side of the picture that a mask is painted on."""
EVERYWHERE, FOUND, NAMED, PAINTED = "everywhere", "where it belongs", "on the thing I name", "where I paint"
STANDING = ("interrupted", "failed", "undone")
"""How a run stands that can be gone on with."""
ANYTHING = "It takes any text."
SAME, WHOLE = "The same from a terminal", "All of it from a terminal (this one was stopped on the way)"


class Doing:
    """What the page's buttons do, for what it holds and shows."""

    def __init__(self, folder: RunsFolder, jobs: Jobs, known: Mapping[str, Known]) -> None:
        """`known`: of each prior."""
        self._folder, self._jobs, self._known = folder, jobs, known

    def begin(self, *fields: Any) -> tuple[Any, str]:
        """Start a run; the list of runs with it chosen, and its name."""
        with _in_one_line():
            asked = self._asked(*fields)
            words = words_of(asked)
            run_dir = self._folder.claim(asked.source, asked.prompt)
            self._jobs.start(run_dir, [*words, f"--run-dir={run_dir}"])
        return gr.Dropdown(self._names(run_dir.name), value=run_dir.name), run_dir.name

    def look(self, *fields: Any) -> Any:
        """A first look at what would become of a few frames, in seconds; for the fields of `begin`."""
        with _in_one_line():
            words = words_of(self._asked(*fields))
            with TemporaryDirectory() as scratch:
                picture = Path(scratch) / "look.png"
                lines = run_to_end([*words, *first_look_in(picture)])
                if not picture.is_file():
                    raise ValueError(_said(lines, "refused") or "preview: nothing came of it")
                pixels = np.asarray(Image.open(picture).convert("RGB"))
        return gr.Image(value=pixels, visible=True)

    def choose_prior(self, prior: str) -> tuple[Any, Any]:
        """What is offered for a prior: completions, and the list of what it knows."""
        known = self._known[prior]
        return gr.Dropdown(choices=list(known.sentences)), known.text or ANYTHING

    def _asked(
        self, source: str | None, prompt: str | None, where: str, named: str | None, mask: dict[str, Any] | None,
        prior: str, effort: str, editor: str, caption: str | None, strength: float, steps: int | None,
        seed: int | None,
    ) -> Asked:  # fmt: skip
        """What the fields say, the source where it stays."""
        if source is None:
            raise ValueError("expected a clip, a panorama or a photo, got none")
        chosen = EDITORS[EDITORS.index(editor)] if editor in EDITORS else editor_for(Path(source))
        return Asked(
            self._folder.take(Path(source)), prompt or "", chosen, prior, effort, None if strength == 1 else strength,
            steps or None, seed or None, self._mask(where, mask),
            _thing(named) if where == NAMED else None, (caption or "").strip() or None,
        )  # fmt: skip

    def _mask(self, where: str, painted: dict[str, Any] | None) -> str | None:
        """What `--mask` is given; of a painted mask its file."""
        if where != PAINTED:
            return "auto" if where == FOUND else None
        strokes = [] if painted is None else [layer[..., 3] > 0 for layer in painted["layers"]]
        if not strokes or not np.any(strokes):
            raise ValueError("mask: expected something painted over what may change, got nothing")
        inside = Image.fromarray(np.any(strokes, axis=0).astype(np.uint8) * 255)
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "painted.png"
            save_picture(inside, path)
            return str(self._folder.take(path))

    def choose_where(self, source: str | None, where: str) -> tuple[Any, Any, Any]:
        """The picture or the first frame, to be looked at or to be painted on; and whether a thing is named."""
        named = gr.Textbox(visible=where == NAMED)
        if source is None:
            return gr.Image(visible=False), gr.ImageEditor(visible=False), named
        with _in_one_line():
            picture = Image.fromarray(first_picture(Path(source)))
        pixels = np.asarray(ImageOps.contain(picture, (PAINTED_PX, PAINTED_PX)))
        if where != PAINTED:
            return gr.Image(value=pixels, visible=True), gr.ImageEditor(visible=False), named
        value = {"background": pixels, "layers": [], "composite": pixels}
        editor = gr.ImageEditor(value=value, visible=True, canvas_size=(pixels.shape[1], pixels.shape[0]))
        return gr.Image(visible=False), editor, named

    def pause(self, name: str | None) -> None:
        """Save the state of a run and end it, or take it out of the queue."""
        with _in_one_line():
            self._jobs.stop(self._folder.place(name or ""))

    def stop(self, name: str | None) -> None:
        """End a run where it is, and have the result of that; or take it out of the queue."""
        with _in_one_line():
            run_dir = self._folder.place(name or "")
            job = self._jobs.find(run_dir)
            if job is None or job.status not in ("waiting", "running"):
                self._jobs.start(run_dir, [*self._resuming(run_dir.name), AT_ONCE])
            elif status_of(run_dir) is None:  # there is no state yet, of which a result could be made
                self._jobs.stop(run_dir)
            else:
                self._jobs.stop(run_dir, then=[*self._resuming(run_dir.name), AT_ONCE])

    def resume(self, name: str | None) -> None:
        """Go on with a run."""
        with _in_one_line():
            self._jobs.start(self._folder.place(name or ""), self._resuming(name or ""))

    def _resuming(self, name: str) -> list[str]:
        return [self._folder.manifest(name).command, "--resume", f"--run-dir={self._folder.place(name)}"]

    def chain(self, name: str | None) -> str | None:
        """The result of a run, to be edited."""
        with _in_one_line():
            found = self._folder.result(name or "")
        return None if found is None else str(found)

    def undo(self, name: str | None) -> None:
        """Delete the result of a run."""
        with _in_one_line():
            self._folder.manifest(name or "")
            undo(self._folder.place(name or ""))

    def picked(self, event: gr.SelectData) -> tuple[Any, str]:
        """The run whose picture was clicked."""
        name = event.value["caption"].split("  ")[0]
        return gr.Dropdown(self._names(name), value=name), name

    def arrive(self, remembered: str) -> tuple[Any, Any]:
        """The runs, and the one that this browser looked at."""
        names = self._names(remembered)
        return gr.Dropdown(names, value=remembered if remembered in names else None), self.runs()

    def runs(self) -> list[tuple[str, str]]:
        """Pictures of the runs with what they are."""
        listed = [run for run in self._folder.listed() if run.picture is not None]
        return [(str(run.picture), f"{run.name}  ({run.status})") for run in listed]

    def runs_if_changed(self, listed: str, name: str | None) -> tuple[Any, Any, str]:
        """`runs` and their names, if anything has changed since the folder's stamp was `listed`; and its stamp. The run
        that is chosen is left alone: another one may have been chosen, or begun, since `name` was sent."""
        stamp = self._folder.stamp()
        if stamp == listed:
            return gr.skip(), gr.skip(), stamp
        return self.runs(), gr.Dropdown(self._names(name or "")), stamp

    def tick(self, name: str | None, *before: str) -> Sequence[Any]:
        """`view`, if its text, its bar or its report has changed."""
        seen = self.view(name)
        return [gr.skip()] * len(seen) if tuple(seen[:3]) == before else seen

    def view(self, name: str | None) -> Sequence[Any]:
        """How a run stands: text, bar, report, which buttons do something, result, command."""
        if not name:
            return _nothing("Nothing runs yet.")
        try:
            run_dir = self._folder.place(name)
        except ValueError as error:
            return _nothing(str(error))
        job = self._jobs.find(run_dir)
        stands = status_of(run_dir) if job is None else job.status
        if stands is None:
            return _nothing("There is no such run.")
        text = f"**{stands}**"
        if job is not None and (said := self._said_of(job, stands)):
            text += f": {said}"
        elif stands == "finished" and (done := _done_of(run_dir)):
            text += f": {done}"
        works, begun = stands in ("waiting", "running"), status_of(run_dir) is not None
        can = (works, works or (stands == "interrupted" and begun), stands in STANDING, *[stands == "finished"] * 2)
        buttons = [gr.Button(interactive=each) for each in can]
        report = ""
        if (run_dir / "report.html").is_file():
            address = f"./runs/{quote(name)}/report.html?{stands}"
            report = f'<iframe src="{address}" title="Report of {escape(name)}"></iframe>'
        found = self._folder.result(name) if stands == "finished" else None
        line, label = self._repeated(run_dir) if report else ("", SAME)
        return [
            text, _bar(job) if stands == "running" else "", report, *buttons,
            gr.File(value=str(found) if found else None, visible=found is not None),
            gr.Textbox(value=line, label=label, visible=bool(line)),
        ]  # fmt: skip

    def _said_of(self, job: Job, stands: Status) -> str:
        """What is to be said of a job, in Markdown: its place in the queue, how far it is, why it was refused."""
        if stands == "waiting":
            return f"{self._jobs.ahead_of(job)} before it"
        if stands == "stopped":
            return "before there was anything to save"
        if stands == "running" and job.stopping:
            return "saves its state"
        if stands == "running" and (at := job.how_far) is not None:
            return f"{at.phase}, {at.done} of {at.total}, {at.left}"
        last = _said(list(job.lines), stands).replace("`", " ")
        return f"`{last}`" if last and stands in ("running", "refused", "failed") else ""

    def _repeated(self, run_dir: Path) -> tuple[str, str]:
        """The command line that does what a run did, or, of one that was stopped on its way, all of it; what it is."""
        manifest = Manifest.read(run_dir / "manifest.json")
        return repeat_command(run_dir, manifest), WHOLE if was_ended(manifest) else SAME

    def _names(self, *more: str) -> list[str]:
        return list(dict.fromkeys([*filter(None, more), *(run.name for run in self._folder.listed())]))


def _done_of(run_dir: Path) -> str:
    """How many of its steps a finished run did, if it was stopped on its way."""
    manifest = Manifest.read(run_dir / "manifest.json")
    return manifest.said_steps if was_ended(manifest) else ""


def _nothing(why: str) -> Sequence[Any]:
    """`view` where there is no run."""
    buttons = [gr.Button(interactive=False)] * 5
    return [why, "", "", *buttons, gr.File(visible=False), gr.Textbox(visible=False)]


def _bar(job: Job | None) -> str:
    """How far a job is, as a bar; one that moves without end while that is not known."""
    at = None if job is None or job.stopping else job.how_far
    value = "" if at is None else f' value="{at.done}" max="{at.total}"'
    return f'<progress aria-label="How far it is"{value}></progress>'


def _said(lines: Sequence[str], stands: str) -> str:
    """What a job has said last; of one that ended by itself, the line in which its command says why."""
    why = [line for line in lines if line.startswith("csd3d ")] if stands in ("refused", "failed") else []
    why = [re.sub(r"; `csd3d priors show [^`]*`.*$", "", line) for line in why]  # what it lists is on the page
    told = [text for line in lines if (text := line.strip("\u2502\u256d\u256e\u2570\u256f\u2500 "))]  # without a box
    return [*why, *told[-1:], ""][0]


def _thing(named: str | None) -> str:
    """What was named. Raises ValueError where nothing was."""
    if not (named or "").strip():
        raise ValueError('mask: expected the name of a thing, such as "the ball", got none')
    return str(named).strip()


def first_picture(source: Path) -> np.ndarray:
    """[H W 3] uint8: a picture, or the first frame of a clip.

    Raises:
        ValueError, FileNotFoundError: it cannot be read.
    """
    if editor_for(source) == "video":
        with open_clip(source) as clip:
            return to_levels(clip.read(0, 1))[0]
    return to_8_bits(open_picture(source).pixels)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Within the block a person's mistake becomes one line on the page."""
    try:
        yield
    except Exception as error:
        if (found := explain(error)) is None:
            raise
        raise gr.Error(found[0], print_exception=False) from error
