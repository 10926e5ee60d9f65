"""Learning a network: pictures in, a network and a report out; training goes on where it was stopped."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import require_timesteps
from csd3d.media.geometry import read_square
from csd3d.media.pictures.find import find_pictures, read_captions
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics.change import distance_note
from csd3d.priors.families.table import Kind
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.text_to_image import require_stable
from csd3d.runs.curves import Curve
from csd3d.runs.estimate import Work
from csd3d.runs.job import Editor, Request, Result, make_request, run_job
from csd3d.runs.manifest import fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report
from csd3d.runs.session import Session
from csd3d.runs.training import train
from csd3d.translate.apply import Trained, save_trained
from csd3d.translate.config import TranslateConfig
from csd3d.translate.network import make_translator
from csd3d.translate.train import Trainer, TrainInfo

CURVES = ("gradient_rms", "change_rms", "s_text", "identity")
SHOWN = 6


def train_network(
    pictures: str | Path | None,
    config: TranslateConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Prior | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Train a network and write it to network.safetensors in the run's folder, with a report.

    Args:
        pictures: folder of pictures; the middle square of each is used. None only to resume.
        config: settings; None: those of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`, on the CPU bit for bit.
        prior: a loaded text-to-image prior; None loads `config.prior`.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    request = make_request(TranslateEditor, pictures, None, None, config, run_dir=run_dir, resume=resume)
    return run_job(TranslateEditor, request, prior=prior, progress=progress)


def with_residual(config: TranslateConfig, method: str) -> TranslateConfig:
    """Trained by `dds`, or by `sds`, the paper's ablation."""
    return replace(config, csd=replace(config.engine, residual="noise" if method == "sds" else "source"))


class TranslateEditor(Editor[TranslateConfig]):
    """Trains a network from a folder of pictures; an `Editor` (`csd3d.runs.job`)."""

    command: ClassVar[str] = "translate train"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("translate train",)
    prior_kind: ClassVar[Kind | None] = "text-to-image"
    role: ClassVar[str] = "network"
    free_on_resume: ClassVar[tuple[str, ...]] = ("device", "offline", "checkpoint_every")

    def __init__(self, files: Sequence[Path], captions: Sequence[str], config: TranslateConfig) -> None:
        self.config = config
        self._files, self._captions = files, captions

    @classmethod
    def settings(cls) -> TranslateConfig:
        """The defaults."""
        return TranslateConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[TranslateConfig]) -> Iterator["TranslateEditor"]:
        """Find the pictures and their captions."""
        config = request.config
        if not config.tasks:
            raise ValueError('tasks: expected at least one, NAME="CAPTION", got none')
        if request.source is None:
            raise ValueError("pictures: expected a folder, got none; only --resume can do without")
        folder = request.source if request.resumed is None or request.source.is_dir() else request.source.parent
        files = find_pictures(folder)
        table = None if config.captions is None else Path(config.captions).resolve()
        config = replace(config, captions=None if table is None else str(table))
        yield cls(files, read_captions(files, table, config.source_prompt), config)

    @property
    def name(self) -> tuple[str, str]:
        """The names of the tasks."""
        return "translate", " ".join(self.config.tasks)

    @property
    def sentences(self) -> Sequence[str]:
        """Each caption, before and after each task."""
        config = self.config
        each = ([own, *(config.caption(task, own) for task in config.tasks)] for own in dict.fromkeys(self._captions))
        return [caption for captions in each for caption in captions]

    @property
    def reads(self) -> Sequence[Path]:
        """The pictures and the table of captions."""
        table = self.config.captions
        return [*self._files, *([] if table is None else [Path(table)])]

    def inputs(self) -> list[dict[str, Any]]:
        """The pictures and the table of captions."""
        return [fingerprint(path) for path in self.reads]

    @property
    def facts(self) -> Mapping[str, str | int]:
        """How many pictures there are."""
        return {"pictures": len(self._files)}

    def engine_for(self, prior: Prior) -> CsdConfig:
        """Those of DDS."""
        return prior.defaults("dds")

    def prepare(self, prior: Prior, config: TranslateConfig) -> None:
        """Make the untrained network; refuse what the prior cannot serve."""
        prior = require_stable(prior)
        require_timesteps(prior.schedule, config.engine)
        self.prior, self.config = prior, config
        self._size = config.size or prior.native_px
        if self._size % prior.codec.factor:
            raise ValueError(f"size: expected a multiple of {prior.codec.factor} px, got {self._size}")
        prior.embed(self.sentences)  # unknown words are refused here
        self._network = make_translator(prior, list(config.tasks.values()))

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """The network, in the run's folder."""
        path = run_dir / "network.safetensors"
        return path, [path]

    def work(self) -> Work:
        """The batches, for each of which the network learns too."""
        task, side = torch.zeros(1, dtype=torch.long, device=self.prior.device), self._size // self.prior.codec.factor

        def learn(s: Float[Tensor, "n c h w"]) -> None:
            with torch.enable_grad():
                self._network(s.to(task.device), task.expand(len(s))).square().mean().backward()
            self._network.zero_grad()

        prompts = Prompts((self.sentences[0],), self._captions[:1])
        score, size_lat = self.prior.score(prompts, Guidance.of(self.config.engine)), (side, side)
        csd = replace(self.config.engine, steps=self.config.steps)
        return Work(
            score, csd, self.config.batch, size_lat, pictures=len(self._files), also=learn, together=self.config.batch
        )

    def encode(self, session: Session) -> None:
        """Latents of the pictures."""

        def encode() -> Float[Tensor, "n c h w"]:
            files = session.progress.track("encode", self._files, total=len(self._files))
            return torch.cat([self.prior.encode(read_square(path, self._size)[None]) for path in files])

        self._s = session.sources(encode)

    def move(self, session: Session) -> None:
        """Training, from the last saved state to the last step."""
        config = self.config
        self._trainer = Trainer(self.prior, self._network, config, self._s, self._captions)

        def values(info: TrainInfo) -> list[float]:
            session.note(*filter(None, [distance_note(info.change_rms)]))
            return [float(getattr(info, name)) for name in CURVES]

        self._curves = train(session, self._trainer, values, steps=config.steps, every=config.checkpoint_every)

    def write(self, session: Session) -> Report:
        """The network and the contact sheet."""
        tasks = self.config.tasks
        with session.manifest.timed("write"):
            trained = Trained(self.prior, self._trainer.network.eval(), tuple(tasks), self._size)
            save_trained(session.results[0], trained, list(tasks.values()))
            shown = torch.stack([read_square(f, self._size) for f in self._files[:SHOWN]])
            rows = {"source": shown} | {task: trained(shown, task) for task in tasks}
            save_picture(contact_sheet(rows, cell_px=self._size), session.folder.sheet)
        gradient, change, s_text, identity = zip(*self._curves, strict=True)  # as in CURVES
        charts = (
            Curve("Gradient", gradient, log=True, hint="root mean square of the direction in latents"),
            Curve("Change", change, hint="how far results are from their sources"),
            Curve("Guidance", s_text, hint="rises during the warm-up"),
            Curve("Identity", identity, hint="weight of staying with the source"),
        )
        facts = (f"{len(self._files)} pictures", f"{len(tasks)} tasks", f"prior {self.prior.name}")
        return Report("Translation network", "", facts, curves=charts)
