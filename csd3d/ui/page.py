"""The page: a form that makes a command line, the run that it starts, and the list of runs."""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from csd3d.ui.doing import ANYTHING, EVERYWHERE, FOUND, NAMED, PAINTED, SAME, Doing
from csd3d.ui.files import RunsFolder
from csd3d.ui.jobs import Jobs
from csd3d.ui.known import Known
from csd3d.ui.request import EDITORS

EVERY_S = 2
"""Seconds between two looks at the run that is shown."""
KEPT_S = (3600, 86_400)
"""How often copies that Gradio made of what it showed are looked through, and after what time they are deleted."""
BY_ITSELF = "by what the file is"
EFFORTS = ("quick", "normal", "careful")


@dataclass(frozen=True)
class _Form:
    """What a person fills in, and the buttons below it."""

    source: gr.File
    seen: gr.Image
    """The picture, or the first frame."""
    prompt: gr.Dropdown
    knows: gr.Markdown
    where: gr.Radio
    named: gr.Textbox
    mask: gr.ImageEditor
    prior: gr.Dropdown
    others: Sequence[gr.components.Component]
    """Effort, editor, caption of the source, strength, steps, seed."""
    look: gr.Button
    begin: gr.Button
    glimpse: gr.Image

    @property
    def fields(self) -> list[gr.components.Component]:
        """What `Doing.begin` takes."""
        return [self.source, self.prompt, self.where, self.named, self.mask, self.prior, *self.others]


@dataclass(frozen=True)
class _Shown:
    """The run that is looked at, and what can be done with it."""

    chosen: gr.Dropdown
    pause: gr.Button
    stop: gr.Button
    resume: gr.Button
    chain: gr.Button
    undo: gr.Button
    status: gr.Markdown
    bar: gr.HTML
    report: gr.HTML
    result: gr.File
    command: gr.Textbox

    @property
    def view(self) -> list[gr.components.Component]:
        """What `Doing.view` gives."""
        buttons = [self.pause, self.stop, self.resume, self.chain, self.undo]
        return [self.status, self.bar, self.report, *buttons, self.result, self.command]


def build(folder: RunsFolder, jobs: Jobs, known: Mapping[str, Known]) -> gr.Blocks:
    """The page.

    Args:
        folder: the runs that it shows.
        jobs: those that it starts.
        known: the priors among which a person chooses, the first unless told otherwise, and what each one knows; other
            sentences can be typed, too.
    """
    doing = Doing(folder, jobs, known)
    with gr.Blocks(title="csd3d", fill_width=True, analytics_enabled=False, delete_cache=KEPT_S) as page:
        gr.Markdown("# csd3d\nEdit a clip, a panorama or a photo from one sentence, consistently.")
        remembered, listed = gr.BrowserState(""), gr.State("")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                form = _form(known)
            with gr.Column(scale=3, min_width=320):
                shown = _shown()
        gallery = gr.Gallery(
            label="Runs", height="auto", object_fit="contain", allow_preview=False, elem_id="runs", buttons=[]
        )

        form.look.click(doing.look, form.fields, form.glimpse, concurrency_limit=1)
        for changed in (form.source, form.where):
            changed.change(doing.choose_where, [form.source, form.where], [form.seen, form.mask, form.named])
        form.prior.change(doing.choose_prior, form.prior, [form.prompt, form.knows])
        shown.chain.click(doing.chain, shown.chosen, form.source)
        chosen, view = shown.chosen, shown.view
        for done in (
            form.begin.click(doing.begin, form.fields, [chosen, remembered]),
            chosen.input(lambda name: name, chosen, remembered),
            gallery.select(doing.picked, None, [chosen, remembered]),
            page.load(doing.arrive, remembered, [chosen, gallery]),
            shown.pause.click(doing.pause, chosen),
            shown.stop.click(doing.stop, chosen),
            shown.resume.click(doing.resume, chosen),
            shown.undo.click(doing.undo, chosen),
        ):
            done.then(doing.view, chosen, view, show_progress="hidden")
        timer = gr.Timer(EVERY_S)
        timer.tick(doing.tick, [chosen, *view[:3]], view, show_progress="hidden")
        timer.tick(doing.runs_if_changed, [listed, chosen], [gallery, chosen, listed], show_progress="hidden")
    return page


def _form(known: Mapping[str, Known]) -> _Form:
    first = next(iter(known))
    source = gr.File(label="Clip, panorama or photo", file_count="single", elem_id="source")
    seen = gr.Image(label="Source", interactive=False, visible=False, height=200, elem_id="seen", buttons=[])
    prompt = gr.Dropdown(
        list(known[first].sentences), value=None, allow_custom_value=True, label="What should change?",
        info="One sentence. A built-in prior knows those in the list.", elem_id="prompt",
    )  # fmt: skip
    with gr.Accordion("All that the prior knows", open=False, elem_id="known"):
        knows = gr.Markdown(known[first].text or ANYTHING)
    where = gr.Radio([EVERYWHERE, FOUND, NAMED, PAINTED], value=EVERYWHERE, label="Where?", elem_id="where")
    named = gr.Textbox(label="Which thing?", placeholder="the ball", visible=False, elem_id="named", max_length=500)
    mask = gr.ImageEditor(
        label="Paint over what may change", type="numpy", visible=False, sources=(), transforms=(),
        layers=False, elem_id="mask", brush=gr.Brush(default_size=24, colors=["#ff3355"], color_mode="fixed"),
    )  # fmt: skip
    effort = gr.Radio(EFFORTS, value="normal", label="Effort", elem_id="effort")
    with gr.Accordion("Settings", open=False):
        editor = gr.Dropdown([BY_ITSELF, *EDITORS], value=BY_ITSELF, label="Editor")
        prior = gr.Dropdown(list(known), value=first, label="Prior", elem_id="prior")
        caption = gr.Textbox(
            label="What the source shows", placeholder="a red ball on grass", max_length=500, elem_id="caption",
            info="For priors that edit by captions; the sentence above is then a caption, too.",
        )  # fmt: skip
        strength = gr.Slider(0, 1, value=1, step=0.05, label="Strength", elem_id="strength")
        steps = gr.Number(0, label="Steps", info="0: by the effort.", precision=0, minimum=0)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    with gr.Row():
        look = gr.Button("First look", elem_id="look", min_width=90)
        begin = gr.Button("Edit", variant="primary", elem_id="begin", min_width=90)
    glimpse = gr.Image(label="First look", interactive=False, visible=False, elem_id="glimpse", buttons=[])
    others = (effort, editor, caption, strength, steps, seed)
    return _Form(source, seen, prompt, knows, where, named, mask, prior, others, look, begin, glimpse)


def _shown() -> _Shown:
    # a run that was begun just now may be missing from a list that was read before
    chosen = gr.Dropdown([], allow_custom_value=True, label="Run", elem_id="run")
    status = gr.Markdown("Nothing runs yet.", elem_id="status")
    bar = gr.HTML("", elem_id="bar")
    with gr.Row():
        pause, stop, resume, chain, undo = (
            gr.Button(label, interactive=False, elem_id=label_id, min_width=110, size="sm")
            for label, label_id in (
                ("Pause", "pause"), ("Stop here", "stop"), ("Go on", "resume"), ("Edit the result", "chain"),
                ("Undo", "undo"),
            )
        )  # fmt: skip
    report = gr.HTML("", elem_id="report")
    result = gr.File(label="Result", interactive=False, visible=False, elem_id="result")
    command = gr.Textbox(label=SAME, visible=False, interactive=False, max_lines=6, buttons=["copy"], elem_id="command")
    return _Shown(chosen, pause, stop, resume, chain, undo, status, bar, report, result, command)
