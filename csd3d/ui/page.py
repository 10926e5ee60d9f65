"""The page: a form that makes a command line, the run that it starts, and the list of runs."""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import numpy as np
from PIL import Image

from csd3d.media.clip.source import open_clip
from csd3d.media.pictures.levels import to_8_bits, to_levels
from csd3d.media.pictures.read import open_picture
from csd3d.media.sheet import save_picture
from csd3d.runs.history import repeat_command, undo
from csd3d.runs.manifest import Manifest
from csd3d.ui.files import RunsFolder
from csd3d.ui.jobs import Jobs, run_to_end, status_of
from csd3d.ui.request import EDITORS, Asked, editor_for, words_of
from csd3d.user_errors import explain

EVERY_S = 2
"""Seconds between two looks at the run that is shown."""
PAINTED_PX = 640
"""Longest side of the picture that a mask is painted on."""
BY_ITSELF = "by what the file is"
EFFORTS = ("quick", "normal", "careful")
EVERYWHERE, FOUND, NAMED, PAINTED = "everywhere", "where it belongs", "on the thing I name", "where I paint"
STANDING = ("interrupted", "failed", "undone")
"""How a run stands that can be gone on with."""


def build(folder: RunsFolder, jobs: Jobs, *, priors: Sequence[str], sentences: Sequence[str]) -> gr.Blocks:
    """The page.

    Args:
        folder: the runs that it shows.
        jobs: those that it starts.
        priors: names among which a person chooses, the first unless told otherwise.
        sentences: offered as completions; any other can be typed.
    """
    doing = _Doing(folder, jobs)
    with gr.Blocks(title="csd3d", fill_width=True) as page:
        gr.Markdown("# csd3d\nEdit a clip, a panorama or a photo from one sentence, consistently.")
        remembered, listed = gr.BrowserState(""), gr.State("")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                source = gr.File(label="Clip, panorama or photo", file_count="single", elem_id="source")
                prompt = gr.Dropdown(
                    list(sentences), value=None, allow_custom_value=True, label="What should change?",
                    info="One sentence. A built-in prior knows those in the list.", elem_id="prompt",
                )  # fmt: skip
                where = gr.Radio([EVERYWHERE, FOUND, NAMED, PAINTED], value=EVERYWHERE, label="Where?", elem_id="where")
                named = gr.Textbox(
                    label="Which thing?", placeholder="the ball", visible=False, elem_id="named", max_length=500
                )
                mask = gr.ImageEditor(
                    label="Paint over what may change", type="numpy", visible=False, sources=(), transforms=(),
                    layers=False, elem_id="mask",
                    brush=gr.Brush(default_size=24, colors=["#ff3355"], color_mode="fixed"),
                )  # fmt: skip
                effort = gr.Radio(EFFORTS, value="normal", label="Effort", elem_id="effort")
                editor, prior, strength, steps, seed = _settings(priors)
                with gr.Row():
                    look = gr.Button("First look", elem_id="look", min_width=90)
                    begin = gr.Button("Edit", variant="primary", elem_id="begin", min_width=90)
                glimpse = gr.Image(label="First look", interactive=False, visible=False, elem_id="glimpse")
            with gr.Column(scale=3, min_width=320):
                chosen = gr.Dropdown([], label="Run", elem_id="run")
                status = gr.Markdown("Nothing runs yet.", elem_id="status")
                with gr.Row():
                    stop = gr.Button("Pause", interactive=False, elem_id="stop", min_width=90)
                    resume = gr.Button("Go on", interactive=False, elem_id="resume", min_width=90)
                    chain = gr.Button("Edit the result", interactive=False, elem_id="chain", min_width=90)
                    take_back = gr.Button("Undo", interactive=False, elem_id="undo", min_width=90)
                shown = gr.HTML("", elem_id="report")
                with gr.Row():
                    result = gr.File(label="Result", interactive=False, visible=False, elem_id="result")
                    command = gr.Code(label="The same from a terminal", language="shell", visible=False)
        gallery = gr.Gallery(
            label="Runs", columns=6, rows=1, height=200, object_fit="contain", allow_preview=False, elem_id="runs"
        )

        view = [status, shown, stop, resume, chain, take_back, result, command]
        fields = [source, prompt, where, named, mask, effort, editor, prior, strength, steps, seed]
        look.click(doing.look, fields, glimpse, concurrency_limit=1)
        begin.click(doing.begin, fields, [chosen, remembered]).then(doing.view, chosen, view)
        source.change(doing.paint_on, [source, where], mask)
        where.change(doing.paint_on, [source, where], mask)
        where.change(lambda chosen: gr.Textbox(visible=chosen == NAMED), where, named)
        chosen.input(lambda name: name, chosen, remembered).then(doing.view, chosen, view)
        stop.click(doing.stop, chosen).then(doing.view, chosen, view)
        resume.click(doing.resume, chosen).then(doing.view, chosen, view)
        chain.click(doing.chain, chosen, source)
        take_back.click(doing.undo, chosen).then(doing.view, chosen, view)
        gallery.select(doing.picked, None, [chosen, remembered]).then(doing.view, chosen, view)
        page.load(doing.arrive, remembered, [chosen, gallery]).then(doing.view, chosen, view)
        timer = gr.Timer(EVERY_S)
        timer.tick(doing.tick, [chosen, status], view, show_progress="hidden")
        timer.tick(doing.runs_if_changed, listed, [gallery, listed], show_progress="hidden")
    return page


def _settings(priors: Sequence[str]) -> tuple[gr.Dropdown, gr.Dropdown, gr.Slider, gr.Number, gr.Number]:
    """The settings that few need: editor, prior, strength, steps, seed."""
    with gr.Accordion("Settings", open=False):
        editor = gr.Dropdown([BY_ITSELF, *EDITORS], value=BY_ITSELF, label="Editor")
        prior = gr.Dropdown(list(priors), value=priors[0], label="Prior")
        strength = gr.Slider(0, 1, value=1, step=0.05, label="Strength", elem_id="strength")
        steps = gr.Number(None, label="Steps", info="Empty: by the effort.", precision=0, minimum=1)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    return editor, prior, strength, steps, seed


class _Doing:
    """What the page's buttons do."""

    def __init__(self, folder: RunsFolder, jobs: Jobs) -> None:
        self._folder, self._jobs = folder, jobs

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
            picture = self._folder.uploads / f"look-{uuid4().hex[:8]}.png"
            lines = run_to_end([*words, f"--preview={picture}"])
            if not picture.is_file():
                raise ValueError(lines[-1] if lines else "preview: nothing came of it")
        return gr.Image(value=str(picture), visible=True)

    def _asked(
        self, source: str | None, prompt: str | None, where: str, named: str | None, mask: dict[str, Any] | None,
        effort: str, editor: str, prior: str, strength: float, steps: float | None, seed: float | None,
    ) -> Asked:  # fmt: skip
        """What the fields say, the source where it stays."""
        if source is None:
            raise ValueError("expected a clip, a panorama or a photo, got none")
        chosen = EDITORS[EDITORS.index(editor)] if editor in EDITORS else editor_for(Path(source))
        return Asked(
            self._folder.take(Path(source)), prompt or "", chosen, prior, effort, None if strength == 1 else strength,
            None if steps is None else int(steps), None if not seed else int(seed), self._mask(where, mask),
            _thing(named) if where == NAMED else None,
        )  # fmt: skip

    def _mask(self, where: str, painted: dict[str, Any] | None) -> str | None:
        """What `--mask` is given; of a painted mask its file."""
        if where != PAINTED:
            return "auto" if where == FOUND else None
        strokes = [] if painted is None else [layer[..., 3] > 0 for layer in painted["layers"]]
        if not strokes or not np.any(strokes):
            raise ValueError("mask: expected something painted over what may change, got nothing")
        inside = Image.fromarray(np.any(strokes, axis=0).astype(np.uint8) * 255)
        path = self._folder.uploads / "painted.png"
        save_picture(inside, path)
        return str(self._folder.take(path))

    def paint_on(self, source: str | None, where: str) -> Any:
        """What a mask is painted on: the picture, or the first frame."""
        if where != PAINTED or source is None:
            return gr.ImageEditor(visible=False)
        with _in_one_line():
            picture = Image.fromarray(first_picture(Path(source)))
        picture.thumbnail((PAINTED_PX, PAINTED_PX))
        pixels = np.asarray(picture)
        size = (pixels.shape[1], pixels.shape[0])
        value = {"background": pixels, "layers": [], "composite": pixels}
        return gr.ImageEditor(value=value, visible=True, canvas_size=size)

    def stop(self, name: str | None) -> None:
        """Save the state of a run and end it, or take it out of the queue."""
        with _in_one_line():
            self._jobs.stop(self._folder.place(name or ""))

    def resume(self, name: str | None) -> None:
        """Go on with a run."""
        with _in_one_line():
            command, run_dir = self._folder.manifest(name or "").command, self._folder.place(name or "")
            self._jobs.start(run_dir, [command, "--resume", f"--run-dir={run_dir}"])

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

    def runs_if_changed(self, listed: str) -> tuple[Any, str]:
        """`runs`, if anything has changed since the folder had the stamp `listed`; and its stamp now."""
        stamp = self._folder.stamp()
        return gr.skip() if stamp == listed else self.runs(), stamp

    def tick(self, name: str | None, before: str) -> Sequence[Any]:
        """`view`, if anything has changed."""
        seen = self.view(name)
        return [gr.skip()] * len(seen) if seen[0] == before else seen

    def view(self, name: str | None) -> Sequence[Any]:
        """How a run stands: text, report, which buttons do something, result, command."""
        buttons = [gr.Button(interactive=False)] * 4
        if not name:
            return ["Nothing runs yet.", "", *buttons, gr.File(visible=False), gr.Code(visible=False)]
        try:
            run_dir = self._folder.place(name)
        except ValueError as error:
            return [str(error), "", *buttons, gr.File(visible=False), gr.Code(visible=False)]
        job = self._jobs.find(run_dir)
        stands = job.status if job is not None else status_of(run_dir) or "refused"
        works, last = stands in ("waiting", "running"), "" if job is None else _said(list(job.lines), stands)
        text = f"**{stands}**" + (f", {self._jobs.ahead_of(job)} before it" if job and stands == "waiting" else "")
        if last and stands in ("running", "refused", "failed"):
            text += f": `{last.replace('`', ' ')}`"
        can = (works, stands in STANDING, stands == "finished", stands == "finished")
        buttons = [gr.Button(interactive=each) for each in can]
        report = ""
        if (run_dir / "report.html").is_file():
            address = f"./runs/{escape(name)}/report.html?{stands}"
            report = f'<iframe src="{address}" title="Report of {escape(name)}"></iframe>'
        found = self._folder.result(name) if stands == "finished" else None
        line = repeat_command(run_dir, Manifest.read(run_dir / "manifest.json")) if report else ""
        return [
            text, report, *buttons, gr.File(value=str(found) if found else None, visible=found is not None),
            gr.Code(value=line, visible=bool(line)),
        ]  # fmt: skip

    def _names(self, *more: str) -> list[str]:
        return list(dict.fromkeys([*filter(None, more), *(run.name for run in self._folder.listed())]))


def _said(lines: Sequence[str], stands: str) -> str:
    """What a job has said last; of one that ended by itself, the line in which its command says why."""
    why = [line for line in lines if line.startswith("csd3d ")] if stands in ("refused", "failed") else []
    return [*why, *lines[-1:], ""][0]


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
