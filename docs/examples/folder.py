"""An editor in one file: the pictures of a folder, edited together so that they agree."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from csd3d.engine import Batch, CsdConfig, Index, Latents, Moments, descend, first_moments
from csd3d.engine.validate import require_int
from csd3d.media.geometry import read_square
from csd3d.media.pictures.levels import to_levels
from csd3d.media.pictures.write import SUFFIXES, write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.config import RunConfig
from csd3d.runs.job import Editor, Request, Result, run_job
from csd3d.runs.manifest import fingerprint
from csd3d.runs.report import Report
from csd3d.runs.session import Session


@dataclass(frozen=True)
class FolderConfig(RunConfig):
    """How the pictures of a folder are edited."""

    size: int | None = None
    """Side in px of the squares that pictures are cut to. None: what the prior was trained at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int(self, 8, None, "size")


class PictureParticles:
    """One latent a picture, all moved in every step; `Particles` and `Stateful` of the engine."""

    steps_per_epoch = 1

    def __init__(self, s: Latents, config: CsdConfig, device: torch.device) -> None:
        self.s, self.z, self._device = s, s.clone(), device
        self._moments = first_moments(s, config.optimizer)

    def draw(self, rng: torch.Generator) -> Batch:
        z, s, index = (x.to(self._device) for x in (self.z, self.s, torch.arange(len(self.z))))
        return Batch(z, s, index)

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        self.z, self._moments = descend(self.z, g.cpu(), self._moments, lr=lr)

    def state_dict(self) -> dict[str, Any]:
        return {"z": self.z, **({} if self._moments is None else vars(self._moments))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.z = state["z"]
        if self._moments is not None:
            self._moments = Moments(state["mean"], state["square"], state["steps"])


class FolderEditor(Editor[FolderConfig]):
    """The pictures of a folder as particles."""

    command: ClassVar[str] = "folder"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("folder",)
    free_on_resume: ClassVar[tuple[str, ...]] = ("device", "checkpoint_every", "csd.steps")
    role: ClassVar[str] = "folder"

    def __init__(self, folder: Path, prompt: str, request: Request[FolderConfig]) -> None:
        self.folder, self.prompt, self.config, self._output = folder, prompt, request.config, request.output
        self.files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not self.files or len({path.stem for path in self.files}) < len(self.files):
            raise ValueError(f"folder: expected pictures with a name each, got {len(self.files)} in {folder}")

    @classmethod
    def settings(cls) -> FolderConfig:
        return FolderConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[FolderConfig]) -> Iterator["FolderEditor"]:
        if request.source is None or not request.source.is_dir():
            raise ValueError(f"folder: expected a folder, got {request.source}")
        if not request.prompt:
            raise ValueError("prompt: expected a sentence, got none")
        yield cls(request.source, request.prompt, request)

    @property
    def name(self) -> tuple[str, str]:
        return self.folder.name, self.prompt

    @property
    def sentences(self) -> Sequence[str]:
        return [self.prompt]

    @property
    def reads(self) -> Sequence[Path]:
        return [self.folder, *self.files]

    def inputs(self) -> list[dict[str, Any]]:
        return [fingerprint(self.folder, self.files)]

    @property
    def recorded(self) -> Mapping[str, Any]:
        return {"prompt": self.prompt}

    @property
    def facts(self) -> Mapping[str, str | int]:
        return {"pictures": len(self.files)}

    def engine_for(self, prior: Prior) -> CsdConfig:
        return prior.defaults()

    def prepare(self, prior: Prior, config: FolderConfig) -> None:
        self.prior, self.config, self._size = prior, config, config.size or prior.native_px
        prompts = Prompts(self.prompt, config.source_prompt, negative=config.negative_prompt)
        self.score = prior.score_under(config.engine, prompts)

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        target = self._output or run_dir / "edited"
        return target, [target / f"{path.stem}.png" for path in self.files]

    def encode(self, session: Session) -> None:
        self._rgb = torch.stack([read_square(path, self._size) for path in self.files])
        self._s = session.sources(lambda: self.prior.encode(self._rgb))

    def move(self, session: Session) -> None:
        self._particles = PictureParticles(self._s, self.config.engine, self.prior.device)
        self._log = session.move(self._particles, self.score, self.config, count=len(self.files))

    def write(self, session: Session) -> Report:
        rgb = self.prior.decode(self._particles.z)
        session.results[0].parent.mkdir(parents=True, exist_ok=True)
        for path, pixels in zip(session.results, to_levels(rgb), strict=True):
            write_picture(path, pixels)
        session.note_change(self.prior, self.sentences, self._rgb, rgb)
        save_picture(contact_sheet({"source": self._rgb, self.prompt: rgb}), session.folder.sheet)
        page = Report(self.prompt, self.folder.name)
        return session.with_gradient(page, self._log, self._show, self.prior.decode)

    def _show(self, particle: int) -> tuple[str, Latents]:
        return self.files[particle].name, self._s[particle : particle + 1]


def edit_folder(folder: Path, prompt: str, output: Path | None = None, *, prior: Prior | None = None) -> Result:
    """Edit the pictures of a folder as `prompt` says; errors as of `run_job`."""
    return run_job(FolderEditor, Request(folder, prompt, output, FolderConfig()), prior=prior)
