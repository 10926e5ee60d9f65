"""The commands that edit: words to a `Request`, in one way for all editors, and the run itself.

A `Form` says what a command has of its own: its editor, its source, which settings stand first in `--help`. Where a
setting is not given it has the value of the run that is resumed, else of the preset, else what suits prior and method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

from csd3d.cli.parse import HELP, Flag, Group, flags_of, put, read_flags, read_some, settings_flags
from csd3d.engine.config import METHODS, PAPER, Effort, Method, method_changes
from csd3d.media.clip.probe import PICTURES
from csd3d.media.place import require_place
from csd3d.priors.defaults import default_config, for_timesteps
from csd3d.priors.loading import Loading
from csd3d.priors.lookup import resolve_for
from csd3d.priors.prior import Prior
from csd3d.priors.store.fingerprint import models_beside
from csd3d.priors.store.resolve import Resolved, resolve
from csd3d.runs.config import RunConfig
from csd3d.runs.job import Editor, Request, load_for, resume_request, run_job
from csd3d.runs.settings import load_preset, override

C = TypeVar("C", bound=RunConfig)
DECIDING = (
    "prompt", "preset", "run_dir", "resume", "prior", "prior_config", "offline", "device", "method", "effort", "steer",
    "pick", "box", "by",
)  # fmt: skip
"""Flags on which depends what the others begin with."""
LOADING = tuple(field.name for field in fields(Loading))
"""Flags that say how a prior is read."""


@dataclass(frozen=True)
class RunFlags:
    """What every editing command takes beside its settings."""

    prompt: str | None = None
    """The sentence that says what to change, for instance "make it snowy"."""
    output: Path | None = None
    """File to write. None: in the run's folder."""
    preset: str | None = None
    """Settings to start from: `paper` (as published), a JSON file of overrides, or a run's manifest.json. Flags given
    beside it win."""
    run_dir: Path | None = None
    """Folder of the run: manifest, state, report. None: a new one in `runs/`."""
    resume: bool = False
    """Go on with the run in --run-dir, a folder or a name in `runs/`. Whatever else is given must agree with it."""


@dataclass(frozen=True)
class MethodFlag:
    """How an editor of sources lets one choose a method, and what it may cost."""

    method: Method | None = None
    """How particles are moved: `csd-edit` for instruction editors, the others for text-to-image priors, which take
    captions: of the result, and in --source-prompt of the source (not needed by sds and csd). None: csd-edit."""
    effort: Effort | None = None
    """How many steps an edit may take, and of what length: `quick`, `normal` or `careful`, where the last cost half and
    twice as much as `normal` with the built-in editor. Flags given beside it win. None: normal."""


@dataclass(frozen=True)
class Form(Generic[C]):
    """A command that edits."""

    editor: type[Editor[C]]
    about: str
    """The first line of its help."""
    source: Flag | None
    """Its positional words."""
    first: tuple[str, ...]
    """Settings that everybody needs, which stand first in the help."""
    base: Callable[["Form[C]", Mapping[str, Any], bool], tuple[C, Resolved]]
    """The settings to start from, given the values of the flags that decide, and whether only help is wanted."""
    paper: Callable[[Method | None, Resolved], Mapping[str, Any]] = lambda method, found: {}
    """What `--preset paper` changes."""
    extra: tuple[Flag, ...] = ()
    """Flags that are no settings."""
    without: tuple[str, ...] = ()
    """Settings that are no flags, of the editor and of the engine; `prompt` where there is no sentence."""
    has_method: bool = True
    """Whether `--method` chooses among published methods."""

    @property
    def command(self) -> str:
        """Its name."""
        return self.editor.command


PREVIEW = Flag(
    "preview", bool, False,
    "Only a first look, in seconds: some of it and what it becomes, in a picture (--output or NAME-preview.png).",
)  # fmt: skip
"""For commands that have a preview."""


def preview_path(request: Request[Any]) -> Path:
    """Where a preview goes.

    Raises:
        ValueError: with --resume, or a name that is no picture's.
    """
    if request.resumed is not None or request.source is None:
        raise ValueError("preview: expected something to edit and a sentence, got --resume")
    output = request.output or Path(f"{request.source.stem.strip('*?') or 'edit'}-preview.png")
    if output.suffix.lower() not in PICTURES:
        raise ValueError(f"output: expected a picture for --preview, such as preview.png, got {output}")
    return output


def begin_preview(editor: type[Editor[C]], request: Request[C]) -> tuple[Path, Prior]:
    """Where a preview goes, and the prior, which is loaded once all that can be refused without it is.

    Raises as `preview_path` does, and as a run does before its prior is loaded.
    """
    picture = preview_path(request)
    with editor.open(request) as job:
        require_place(picture, inputs=job.kept, models=models_beside(Loading.of(job.config)))
        return picture, load_for(request, job.sentences, kind=job.prior_kind)


def read_request(form: Form[C], argv: Sequence[str], *, prog: str | None = None) -> tuple[Request[C], dict[str, Any]]:
    """What is asked for, and the values of the form's extra flags. Ends the program after --help.

    Raises:
        ValueError, TypeError, FileNotFoundError: words that make no sense, or a prior that cannot be found.
    """
    prog = prog or f"csd3d {form.command}"
    _require_flag_of_sentence(argv)
    known = flags_for(form)
    deciding = [known[k] for k in DECIDING if k in known]
    open_ended = ("prior", "method")  # which decide upon each other
    deciding = [replace(f, default=None, hint=f.hint | None) if f.name in open_ended else f for f in deciding]
    values = read_some(deciding, argv, prog=prog)
    request = _base(form, values, only_help=any(word in HELP for word in argv))
    run, method = flags_of(RunFlags()), flags_of(MethodFlag()) if form.has_method else {}
    own, engine = settings_flags(request.config)
    own, engine = ({k: f for k, f in flags.items() if k not in form.without} for flags in (own, engine))
    first = [own["prior"], *method.values(), run["preset"], *((own | engine)[k] for k in form.first)]
    source = () if form.source is None else (form.source,)
    sentence = () if "prompt" in form.without else (run["prompt"],)
    main = (*source, *sentence, run["output"], *first, run["run_dir"], run["resume"], *form.extra)
    more, further = (tuple(f for f in flags.values() if f not in first) for flags in (own, engine))
    read, more = (tuple(f for f in more if (f.name in LOADING) == wanted) for wanted in (True, False))
    groups = (
        Group("main", "", main),
        Group("reading", "How the prior is read.", read),
        Group(form.command, "Settings of this editor.", more),
        Group("engine", "Settings of the engine: how particles are moved.", further),
    )
    given = read_flags(groups, argv, prog=prog, about=form.about)
    return _put(form, request, given), {f.name: given[f.name] for f in (*source, *form.extra)}


def _require_flag_of_sentence(argv: Sequence[str]) -> None:
    """Raises ValueError for a sentence among the words that follows no flag and names no file."""
    for before, word in pairwise(["", *argv]):
        flagged = before.startswith("-") or word.startswith("-")
        if " " in word.strip() and not flagged and not Path(word).suffix and not Path(word).exists():
            raise ValueError(f'prompt: expected the sentence as --prompt "{word}", got it without the flag')


def request_of(form: Form[C], given: Mapping[str, Any]) -> Request[C]:
    """The same from the values of some flags by name, without the source and the form's extra flags."""
    values = {**dict.fromkeys(DECIDING), "resume": False, **given}
    return _put(form, _base(form, values, only_help=False), given)


def flags_for(form: Form[Any]) -> dict[str, Flag]:
    """Every flag of a command by name, with defaults that need no prior."""
    own, engine = settings_flags(replace(form.editor.settings(), csd=METHODS["sds"]))
    method = flags_of(MethodFlag()) if form.has_method else {}
    own, engine = ({k: f for k, f in flags.items() if k not in form.without} for flags in (own, engine))
    extra = {f.name: f for f in (*form.extra, *([] if form.source is None else [form.source]))}
    run = flags_of(RunFlags(), without=form.without)
    return {**engine, **own, **method, **run, **extra}


def _put(form: Form[C], request: Request[C], given: Mapping[str, Any]) -> Request[C]:
    """A request with what was given on top."""
    own, engine = settings_flags(request.config)
    output, run_dir = (given.get(name) for name in ("output", "run_dir"))
    return replace(
        request,
        prompt=given.get("prompt") or request.prompt,
        output=request.output if output is None else output,
        config=put(request.config, {k: v for k, v in given.items() if k in own or k in engine}),
        run_dir=run_dir if request.resumed is None and run_dir else request.run_dir,
    )


def _base(form: Form[C], values: Mapping[str, Any], *, only_help: bool) -> Request[C]:
    """The request before any setting is put on top."""
    if values["resume"] and not only_help:
        if values.get("effort") is not None:
            raise ValueError(f"effort: expected none with --resume, which goes on as it began, got {values['effort']}")
        request = resume_request(form.editor, values["run_dir"])
        config, method = request.config, values.get("method")
        if form.has_method and method is not None:
            config = replace(config, csd=replace(config.engine, **method_changes(method)))
    else:
        config, found = form.base(form, values, only_help)
        request = Request(None, None, None, config, found=found)
    if values["preset"] is not None:
        found = request.found or resolve(config.prior, Loading.of(config))
        changes = preset_changes(values["preset"], type(config), lambda: form.paper(values.get("method"), found))
        config = override(config, changes, where="preset")
    return replace(request, config=config, offline=values["prior"] is None)


def asked_loading(values: Mapping[str, Any]) -> Loading:
    """How a prior is found, of the flags that decide."""
    return Loading(prior_config=values["prior_config"], offline=bool(values["offline"]))


def edit_base(form: Form[C], values: Mapping[str, Any], only_help: bool) -> tuple[C, Resolved]:
    """What suits the prior and the method of an editor of sources."""
    method, name = values["method"], values["prior"]
    how = asked_loading(values)
    if only_help:
        found = resolve(name or "builtin", how)
    else:
        found = resolve_for(method, name, device=values["device"], how=how)
    by = values.get("by") or "moves"
    csd = default_config(
        method, builtin=found.builtin, kind=found.kind, effort=values["effort"], family=found.family, by=by,
        of=form.editor.particles,
    )  # fmt: skip
    csd = for_timesteps(csd, found.num_timesteps)
    sampled = {"by": by} if "by" in values else {}  # not every editor has two ways
    return replace(form.editor.settings(), prior=found.name, csd=csd, **sampled), found


def preset_changes(name: str, kind: type, paper: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What a `--preset` changes in the dataclass `kind`: `paper` the published settings, else what a JSON file says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no preset.
    """
    if name == "paper":
        return paper()
    if not name.endswith(".json"):
        raise ValueError(f"preset: expected `paper` or a .json file, got {name!r}")
    return load_preset(Path(name), kind)


def paper_engine(method: Method | None, otherwise: str) -> Mapping[str, Any]:
    """The engine's published settings of a method, or of `otherwise` where it has none of its own, as a preset."""
    return {"csd": dict(vars(PAPER.get(str(method), PAPER[otherwise])))}


def require_asked(request: Request[Any], source: str, *, needs_prompt: bool = True) -> None:
    """Raises ValueError unless there is a source and a sentence, or a run that knows them."""
    if request.resumed is not None:
        return
    for what, there in ((source, request.source is not None), ('a sentence, --prompt "..."', bool(request.prompt))):
        if not there and (needs_prompt or what == source):
            raise ValueError(f"expected {what}, got none (--help shows an overview)")


def run_and_say(form: Form[Any], request: Request[Any], label: str) -> int:
    """Run, and print where the results are; returns the exit code."""
    result = run_job(form.editor, request)
    width = max(len(label), len("report")) + 2
    for path in result.outputs:
        print(f"{label:<{width}}{path}")
    print(f"{'report':<{width}}{result.report}")
    return 0
