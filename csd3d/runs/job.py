"""One job, the same for every editor: a request becomes a complete config, gets a prior, and leaves a run on disk.

    request -> config -> editor opens its sources -> prior -> editor prepares -> session: encode, move, write -> report

Everything that can be refused is refused before the session begins, and leaves nothing behind: first what the editor
can refuse without a prior, then sentences that the prior's vocabulary lacks, and, once its weights are loaded, what the
prior cannot serve. An editor says what is its own (`Editor`); to add one, see docs/add-an-editor.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from csd3d.engine.config import CsdConfig
from csd3d.media.place import at_home, require_place
from csd3d.priors.defaults import Particle
from csd3d.priors.families.table import Kind
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Prior
from csd3d.priors.prompts.words import require_known
from csd3d.priors.store.device import IN_BFLOAT16, has_bfloat16, pick_device
from csd3d.priors.store.fingerprint import files_beside, models_beside, prior_entry
from csd3d.priors.store.resolve import Resolved, require_kind, resolve
from csd3d.runs.config import RunConfig
from csd3d.runs.crew import load_shared
from csd3d.runs.estimate import Estimate, Work, measure
from csd3d.runs.folder import RunFolder, claim_name, free_name
from csd3d.runs.history import find_run
from csd3d.runs.manifest import Manifest, read_settings
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report
from csd3d.runs.session import Session, open_session
from csd3d.runs.settings import to_plain, with_absent

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class Request(Generic[C]):
    """What a person asks for. Settings are complete but for `csd`, which a run fills in where it is None."""

    source: Path | None
    """What is edited; None where an editor starts from nothing."""
    prompt: str | None
    """The sentence, or None where the settings have sentences of their own."""
    output: Path | None
    """Where the result goes; None: into the run's folder."""
    config: C
    run_dir: Path | None = None
    """Folder of the run; None: a new one in `runs/`."""
    resumed: Manifest | None = None
    """Of the run to go on with."""
    found: Resolved | None = None
    """The prior that `config` names, if it has been resolved already."""
    offline: bool = False
    """That prior is named by a file alone, such as a manifest: it may be anybody's, so nothing is fetched for it."""


@dataclass(frozen=True)
class Result:
    """Where things are, and what happened."""

    outputs: tuple[Path, ...]
    """What was written for the person."""
    run_dir: Path
    """Manifest, state, report."""
    steps: int
    """Steps of the loop over all sessions of the run; a move of all particles takes several when they are many."""
    notes: tuple[str, ...]
    """Fallbacks and warnings."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """What an editor says of its source, such as the number of its frames."""

    @property
    def path(self) -> Path:
        """The result, or the first of several."""
        return self.outputs[0]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.run_dir / "report.html"


class Editor(ABC, Generic[C]):
    """What differs between editors, and nothing else. One object serves one job."""

    command: ClassVar[str]
    """The manifest's word for it, and the command that goes on with a run."""
    resumes_runs_of: ClassVar[tuple[str, ...]]
    """Commands whose runs it can go on with."""
    free_on_resume: ClassVar[tuple[str, ...]]
    """Dotted names of settings that may change when a run is resumed: they do not touch the steps already done."""
    prior_kind: ClassVar[Kind | None] = None
    """The kind of prior that it takes; None: either."""
    particles: ClassVar[Particle] = "windows"
    """What it moves, on which the length of a step depends."""
    role: ClassVar[str]
    """What its output is called in the manifest."""

    config: C
    """The settings of the request, places made absolute."""

    @classmethod
    @abstractmethod
    def settings(cls) -> C:
        """Its settings where nothing is asked for."""

    @classmethod
    @abstractmethod
    def open(cls, request: Request[C]) -> AbstractContextManager["Editor[C]"]:
        """Open what is edited, for as long as the context lasts. Raises ValueError, TypeError or FileNotFoundError for
        whatever can be refused without the prior."""

    @property
    @abstractmethod
    def name(self) -> tuple[str, str]:
        """What is edited and how, for the folder of a new run."""

    @property
    @abstractmethod
    def sentences(self) -> Sequence[str]:
        """All that the prior has to understand."""

    @property
    @abstractmethod
    def reads(self) -> Sequence[Path]:
        """All files that are read, but for those of the prior."""

    @property
    def kept(self) -> Sequence[Path]:
        """What nothing may be written over: `reads`, and what is read beside the prior's own files. Raises as
        `files_beside` does."""
        return [*self.reads, *files_beside(Loading.of(self.config))]

    @abstractmethod
    def inputs(self) -> list[dict[str, Any]]:
        """`fingerprint` of each file that is read, the source first."""

    def history(self, sha256: str) -> list[dict[str, Any]]:
        """Earlier runs that led to the source, oldest first, by the hash of its content
        (`csd3d.runs.history.earlier_runs`). None, where what is made does not come from one source."""
        return []

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What the manifest keeps beside the settings: the prompt, where there is one."""
        return {}

    @abstractmethod
    def engine_for(self, prior: Prior) -> CsdConfig:
        """Settings of the engine that suit the prior, for a request without."""

    @abstractmethod
    def prepare(self, prior: Prior, config: C) -> None:
        """Take the prior and the settings with the engine's, and refuse with ValueError what the prior cannot serve."""

    @abstractmethod
    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """Where the output goes and the files that are written there. Raises ValueError where nothing can be."""

    def work(self) -> Work | None:
        """What is about to be done, from which its time is estimated; None: that is not known beforehand."""
        return None

    def estimate(self, prior: Prior) -> Estimate | None:
        """How long what is about to be done will take, measured on a part of it; None: too short to measure."""
        return None if (work := self.work()) is None else measure(prior, work)

    @abstractmethod
    def encode(self, session: Session) -> None:
        """Make the latents of the sources, if an earlier session of the run did not."""

    @abstractmethod
    def move(self, session: Session) -> None:
        """The optimisation, from the last saved state to the end."""

    @abstractmethod
    def write(self, session: Session) -> Report:
        """Write the outputs and what the report shows."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, str | int]:
        """For `Result.facts`."""


def run_job(
    editor: type[Editor[C]], request: Request[C], *, prior: Prior | None = None, progress: RunProgress | None = None
) -> Result:
    """Do what is asked for.

    Args:
        editor: whose job it is.
        request: what is asked for.
        prior: a loaded prior, for callers that have several jobs; None loads the one that the settings name.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    progress = progress or RunProgress()
    with editor.open(request) as job:
        if request.output is not None:  # which may be wrong, and is not worth loading a prior for
            own = () if request.run_dir is None else RunFolder(request.run_dir).own_files
            models = models_beside(Loading.of(job.config))
            require_place(request.output, inputs=job.kept, reserved=own, models=models)
        prior = prior or load_for(request, job.sentences, kind=job.prior_kind)
        config = replace(job.config, csd=job.config.csd or job.engine_for(prior))
        job.prepare(prior, config)
        run_dir = request.run_dir or free_name(*job.name)
        output, results = _require_places(job, run_dir)
        manifest = _manifest(job, config, prior)
        if request.run_dir is None:
            run_dir = claim_name(*job.name)
            output, results = job.place(run_dir)
        manifest.outputs[job.role] = str(output.resolve())
        with open_session(
            run_dir, manifest, results, progress, resumed=request.resumed, free_on_resume=free_names(job, config)
        ) as session:
            session.rows_of = lambda: prior.rows_done
            session.note_prior(prior, job.sentences, config.device)
            if request.resumed is None:
                session.announce_time(job.estimate(prior))
            job.encode(session)
            job.move(session)
            session.close(job.write(session))
    now = session.manifest
    return Result(tuple(results), run_dir, now.steps_done, tuple(now.notes), job.facts)


def free_names(editor: Editor[C] | type[Editor[C]], config: C) -> tuple[str, ...]:
    """Dotted names of settings that may change when a run of these settings is resumed."""
    return tuple(name for name in editor.free_on_resume if name not in config.kept_on_resume)


def make_request(
    editor: type[Editor[C]],
    source: str | Path | None,
    prompt: str | None,
    output: str | Path | None,
    config: C | None,
    *,
    run_dir: str | Path | None,
    resume: bool,
) -> Request[C]:
    """What is asked for, on top of the run in `run_dir` where one is to be resumed. Raises as `resume_request` does."""
    base = resume_request(editor, run_dir) if resume else Request(None, None, None, editor.settings())
    return replace(
        base,
        source=base.source if source is None else at_home(Path(source)),
        prompt=prompt or base.prompt,
        output=base.output if output is None else at_home(Path(output)),
        config=config or base.config,
        run_dir=base.run_dir if resume or run_dir is None else at_home(Path(run_dir)),
        offline=resume and config is None,
    )


def resume_request(editor: type[Editor[C]], run_dir: str | Path | None) -> Request[C]:
    """The request of an earlier run, to go on with.

    Raises:
        ValueError: no folder is given, or its run is of another editor.
        FileNotFoundError: it holds no run.
    """
    if run_dir is None:
        raise ValueError("resume: expected --run-dir, the folder of the run to go on with, got none")
    run_dir = find_run(run_dir)
    manifest = Manifest.read(run_dir / "manifest.json")
    if manifest.command not in editor.resumes_runs_of:
        expected = " or ".join(editor.resumes_runs_of)
        raise ValueError(f"resume: expected a run of {expected}, got one of {manifest.command} in {run_dir}")
    recorded = read_settings(editor.settings(), manifest)
    config = recorded.placed()
    # runs of before have places as they were given
    places = {
        f.name: to_plain(here) for f in fields(config) if (here := getattr(config, f.name)) != getattr(recorded, f.name)
    }
    manifest = replace(manifest, config=with_absent(manifest.config, type(config)) | places)
    prompt = manifest.config.get("prompt")
    if not isinstance(prompt, str | None):
        raise ValueError(f"resume: expected a sentence in the manifest of {run_dir}, got {prompt!r:.60}")
    output = manifest.outputs.get(editor.role)
    return Request(
        source=None if manifest.source is None else Path(manifest.source),
        prompt=prompt,
        output=None if output is None else Path(output),
        config=config,
        run_dir=run_dir,
        resumed=manifest,
    )


def require_served(request: Request[Any], sentences: Sequence[str] = (), *, kind: Kind | None = None) -> Resolved:
    """The prior that the settings name, once it is known to be of the kind and to understand the sentences; it is not
    loaded. Raises as `run_job` does."""
    config, found = request.config, request.found
    config.check()
    if found is None or found.name != config.prior:
        found = resolve(config.prior, Loading.of(config))
    if kind is not None:
        require_kind(found, kind)
    require_known(found, [*sentences, config.negative_prompt], Loading.of(config))
    return found


def load_for(request: Request[Any], sentences: Sequence[str] = (), *, kind: Kind | None = None) -> Prior:
    """Load the prior that the settings name, once it is known to serve (`require_served`).

    Raises as `run_job` does.
    """
    found = require_served(request, sentences, kind=kind)
    config, device = request.config, request.config.device
    if request.offline and found.path is None:
        from csd3d.priors.auto import find_prior  # slow to import: mistakes are reported before

        found = find_prior(found, device=device, offline=True)
    faster = found.builtin and found.kind == "instruct" and has_bfloat16(pick_device(device))
    precision = "bfloat16" if faster and config.precision == "auto" else config.precision
    prior = load_shared(found, device=device, precision=precision, how=Loading.of(config))
    if precision != config.precision:
        prior.said.append(IN_BFLOAT16)
    return prior


def _require_places(job: Editor[Any], run_dir: Path) -> tuple[Path, Sequence[Path]]:
    """`job.place`; raises ValueError unless all that is written there can be written without harm."""
    output, results = job.place(run_dir)
    kept, own = job.kept, RunFolder(run_dir).own_files
    for path in (output, *results):
        require_place(path, inputs=kept, reserved=own, models=models_beside(Loading.of(job.config)))
    return output, results


def _manifest(job: Editor[Any], config: RunConfig, prior: Prior) -> Manifest:
    settings = to_plain(config) | dict(job.recorded) | {"prior": prior.name}
    inputs = job.inputs()
    history = job.history(inputs[0]["sha256"]) if inputs else []
    return Manifest(job.command, settings, config.seed, inputs=inputs, prior=prior_entry(prior), history=history)
