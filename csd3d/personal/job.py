"""Learning a subject: pictures in, a file for `--embedding` or `--lora` and a report out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import require_timesteps
from csd3d.media.pictures.find import read_captions
from csd3d.media.place import at_home
from csd3d.media.sheet import contact_sheet, evenly, save_picture
from csd3d.personal.adapters import make_adapter
from csd3d.personal.config import TOKEN, PersonalConfig
from csd3d.personal.subject import Subject, find_subject
from csd3d.personal.train import Lesson, Step, Trainer
from csd3d.priors.families.table import Kind
from csd3d.priors.loading import SAFE
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.store.fingerprint import fingerprint_of
from csd3d.priors.text_to_image import TextToImagePrior, require_stable
from csd3d.runs.checkpoint import save_checkpoint
from csd3d.runs.curves import Curve
from csd3d.runs.estimate import LEAST, Estimate, measure_frames
from csd3d.runs.job import Editor, Request, Result, make_request, run_job
from csd3d.runs.manifest import fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report
from csd3d.runs.session import Session
from csd3d.runs.training import train

CAPTION = f"a photo of a {TOKEN}"
SHOWN = 6
SAMPLER_STEPS = 30
"""Of the pictures in the report, and of those of the class."""


def personalise(
    pictures: str | Path | None,
    config: PersonalConfig | None = None,
    output: str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Prior | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Learn a subject and write what was learnt, with a report.

    Args:
        pictures: of the subject: a folder, a scene, a clip or one picture; the middle square of each is used. None only
            to resume.
        config: settings; None: those of the run that is resumed.
        output: a `.safetensors` file. None: in the run's folder.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`, on the CPU bit for bit.
        prior: a loaded text-to-image prior; None loads `config.prior`.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    request = make_request(PersonalEditor, pictures, None, output, config, run_dir=run_dir, resume=resume)
    return run_job(PersonalEditor, request, prior=prior, progress=progress)


class PersonalEditor(Editor[PersonalConfig]):
    """Trains an adapter from pictures of a subject; an `Editor` (`csd3d.runs.job`)."""

    command: ClassVar[str] = "personalise"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("personalise",)
    prior_kind: ClassVar[Kind | None] = "text-to-image"
    role: ClassVar[str] = "personal"
    free_on_resume: ClassVar[tuple[str, ...]] = ("device", "offline", "checkpoint_every")

    def __init__(self, subject: Subject, captions: Sequence[str], config: PersonalConfig, output: Path | None) -> None:
        self.config, self._subject, self._captions, self._output = config, subject, captions, output

    @classmethod
    def settings(cls) -> PersonalConfig:
        """The defaults."""
        return PersonalConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[PersonalConfig]) -> Iterator["PersonalEditor"]:
        """Find the pictures and their captions."""
        config = request.config
        if request.source is None:
            raise ValueError("pictures: expected a folder, a scene, a clip or a picture, got none")
        if request.output is not None and request.output.suffix != SAFE:
            raise ValueError(f"output: expected a {SAFE} file, got {request.output}")
        table, mask = (None if p is None else at_home(Path(p)).resolve() for p in (config.captions, config.mask))
        subject = find_subject(request.source, config.pictures)
        same = config.source_prompt or CAPTION
        captions = read_captions(subject.files, table, same) if subject.files else [same] * len(subject)
        if lacking := [caption for caption in captions if TOKEN not in caption]:
            raise ValueError(f"captions: expected {TOKEN} for the subject in each, got {lacking[0]!r}")
        places = {"captions": table and str(table), "mask": mask and str(mask)}
        yield cls(subject, captions, replace(config, **places), request.output)

    @property
    def name(self) -> tuple[str, str]:
        """The subject and the way."""
        return self._subject.path.stem, self.config.method

    @property
    def sentences(self) -> Sequence[str]:
        """All but the new word, and what such things are."""
        config = self.config
        word = config.word if config.method == "lora" else ""
        said = [caption.replace(TOKEN, word) for caption in dict.fromkeys(self._captions)]
        return [*said, *filter(None, [config.class_prompt, config.init])]

    @property
    def reads(self) -> Sequence[Path]:
        """The pictures, their captions and masks."""
        places = (self.config.captions, self.config.mask)
        return [*self._subject.reads, *(Path(place) for place in places if place is not None)]

    def inputs(self) -> list[dict[str, Any]]:
        """The pictures together, then captions and masks."""
        own = fingerprint(self._subject.path, self._subject.files)
        return [own, *(fingerprint(path) for path in self.reads[len(self._subject.reads) :])]

    @property
    def facts(self) -> Mapping[str, str | int]:
        """How many pictures there are."""
        return {"pictures": len(self._subject)}

    def engine_for(self, prior: Prior) -> CsdConfig:
        """All timesteps, and the guidance of sampling."""
        return replace(require_stable(prior).generation("ddim"), t_min=0, t_max=prior.schedule.num_timesteps)

    def prepare(self, prior: Prior, config: PersonalConfig) -> None:
        """Make the untrained adapter; refuse what the prior cannot serve."""
        prior = require_stable(prior)
        require_timesteps(prior.schedule, config.engine)
        self.prior, self.config = prior, config
        self._size = config.size or prior.native_px
        if self._size % prior.codec.factor:
            raise ValueError(f"size: expected a multiple of {prior.codec.factor} px, got {self._size}")
        prior.embed(self.sentences)  # unknown words are refused here
        self._adapter = make_adapter(prior, config)
        self._adapter.require(list(dict.fromkeys(self._captions)))
        self._where = None
        if config.mask is not None:
            where = self._subject.masks(Path(config.mask), self._size)
            if float(where.amax((1, 2, 3)).min()) == 0:
                raise ValueError(f"mask: expected the subject in every picture, got a black one of {config.mask}")
            self._where = adaptive_avg_pool2d(where, self._size // prior.codec.factor)

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """What was learnt, in the run's folder unless another place was asked for."""
        name = "lora" if self.config.method == "lora" else "embedding"
        path = self._output or run_dir / f"{name}{SAFE}"
        return path, [path]

    def estimate(self, prior: Prior) -> Estimate | None:
        """The steps, and the pictures of the class and of the report; measured on one step and one prediction."""
        config, side = self.config, self._size // prior.codec.factor
        if config.steps * config.batch < LEAST:
            return None
        z = torch.zeros(1, prior.codec.channels, side, side)
        captions = [self._captions[0], *filter(None, [config.class_prompt])]
        trainer = Trainer(self.prior, self._adapter, config, [Lesson(z, [caption]) for caption in captions])
        training = measure_frames(config.steps, lambda: trainer.gradient(0), unit="steps")
        drawn = 2 * SHOWN + (config.class_pictures if config.class_prompt else 0)
        drawing = measure_frames(
            drawn * SAMPLER_STEPS, lambda: _drawn(self.prior, captions[-1:], config, self._size, 1)
        )
        return replace(training, codec_s=drawing.total_s, pictures=1)

    def encode(self, session: Session) -> None:
        """Latents of the pictures, then of those of the class."""

        def encode() -> Float[Tensor, "n c h w"]:
            own = self.prior.encode(self._subject.squares(self._size))
            return own if self.config.class_prompt is None else torch.cat([own, self._class_pictures()])

        self._s = session.sources(encode)

    def _class_pictures(self) -> Float[Tensor, "n c h w"]:
        made = _drawn(
            self.prior, [self.config.class_prompt or ""] * self.config.class_pictures, self.config, self._size
        )
        return self.prior.encode(made)

    def move(self, session: Session) -> None:
        """Training, from the last saved state to the last step."""
        config, n = self.config, len(self._subject)
        lessons = [Lesson(self._s[:n], self._captions, self._where)]
        if config.class_prompt is not None:
            others = self._s[n:]
            lessons.append(Lesson(others, [config.class_prompt] * len(others), weight=config.preservation))
        trainer = Trainer(self.prior, self._adapter, config, lessons)

        def values(step: Step) -> list[float]:
            return [step.loss, step.size]

        self._curves = train(session, trainer, values, steps=config.steps, every=config.checkpoint_every)

    def write(self, session: Session) -> Report:
        """What was learnt, and what the prior draws without and with it."""
        config, path = self.config, session.results[0]
        with session.manifest.timed("write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"kind": config.method, "word": config.word, "prior": self.prior.name}
            save_checkpoint(path, self._adapter.tensors(), record | {"fingerprint": fingerprint_of(self.prior)})
            save_picture(contact_sheet(self._compared(path), cell_px=min(self._size, 224)), session.folder.sheet)
        loss, size = zip(*self._curves, strict=True)
        lora = config.method == "lora"
        charts = (
            Curve("Loss", loss, hint="of single steps, each at other noise levels"),
            Curve("B" if lora else "Vectors", size, hint="root mean square" if lora else "mean length"),
        )
        flag = f"--{'lora' if lora else 'embedding'} {path}"
        session.note(f"use it with --prior {self.prior.name} {flag}, and {config.word} in sentences")
        facts = (f"{len(self._subject)} pictures", config.method, f"prior {self.prior.name}")
        return Report(f"{config.word}, learnt from {self._subject.path.name}", "", facts, curves=charts)

    def _compared(self, path: Path) -> Mapping[str, Float[Tensor, "n 3 S S"]]:
        """Rows of a sheet: the subject, and what the prior draws of its captions without and with what was learnt."""
        config, own = self.config, self._subject.squares(self._size)
        chosen = evenly(len(own), SHOWN)
        captions = [self._captions[k] for k in chosen] * (SHOWN if len(chosen) == 1 else 1)
        plain = config.word if config.method == "lora" else (config.init or "")
        rows = {"subject": own[chosen]}
        for when, prior, word in (
            ("before", self.prior, plain),
            ("after", personal_prior(self.prior, path, config), config.word),
        ):
            said = [" ".join(caption.replace(TOKEN, word).split()) for caption in captions]
            rows[f"{when}: {said[0]}"] = _drawn(prior, said, config, self._size)
        return rows


def personal_prior(prior: TextToImagePrior, path: Path, config: PersonalConfig) -> TextToImagePrior:
    """The prior, read again with what a run has written."""
    how = prior.how
    name = "lora" if config.method == "lora" else "embedding"
    how = replace(how, **{name: (*getattr(how, name), str(path))})
    source = prior.name if prior.builtin else prior.weights or prior.path
    return TextToImagePrior.load(source, device=prior.device, dtype=prior.dtype, how=how)


def _drawn(
    prior: TextToImagePrior, captions: Sequence[str], config: PersonalConfig, size_px: int, steps: int | None = None
) -> Float[Tensor, "n 3 S S"]:
    """A picture of each caption, always from the same noises; `steps`: other than `SAMPLER_STEPS`."""
    side = size_px // prior.codec.factor
    return prior.sample(
        Prompts(captions, negative=config.negative_prompt),
        Guidance(config.engine.s_text),
        len(captions),
        size_lat=(side, side),
        rng=torch.Generator().manual_seed(config.seed),
        steps=SAMPLER_STEPS if steps is None else steps,
        sampler="ddim",
    ).cpu()
