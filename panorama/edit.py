"""Editing a picture from one sentence: encode, move all windows together, decode."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import step_sizes
from csd3d.engine.loop import Objective, run
from csd3d.engine.reuse import reusing
from csd3d.engine.sampling import run_sampling
from csd3d.media.geometry import strip_note
from csd3d.media.masks import read_mask
from csd3d.media.pictures.levels import from_levels
from csd3d.media.pictures.read import Picture, open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.prior import Prior, Prompts
from csd3d.runs.estimate import Work
from csd3d.runs.found_masks import MaskSearch, mask_file, search_of
from csd3d.runs.history import earlier_runs
from csd3d.runs.job import Editor, Request, Result, make_request, run_job
from csd3d.runs.manifest import fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.reference import like_files, placed
from csd3d.runs.report import Report
from csd3d.runs.sampling import SampledEdit, score_of_edit
from csd3d.runs.session import Session
from panorama.config import PanoramaConfig
from panorama.found_mask import Place, find_mask, first_mask
from panorama.plane import make_plane
from panorama.regions import MaskFile, Plan, make_plan
from panorama.render import composite
from panorama.report import Facts, make_report, shrunk, write_media
from panorama.sampled import SampledWindows
from panorama.sphere import make_sphere
from panorama.surface import Surface, block_count
from panorama.viewer import make_panels
from panorama.windows import WindowParticles
from panorama.wrap import Wrap, recognise

WRITE_PER_ENCODE = 5.0
"""How many times as long as encoding a picture writing it takes: two are decoded, and brought to the picture's size."""
SHEET_PX = 1100
"""Longer side of the pictures of a contact sheet."""


def edit_panorama(
    picture: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: PanoramaConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Prior | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Edit a picture of any size as `prompt` says and write it to `output`.

    Args:
        picture: PNG, JPEG, TIFF or WebP. None only to resume.
        prompt: the sentence; None when every sentence has its region (`config.prompt_at`, `config.prompt_mask`).
        output: its name says the format; None puts it into the run's folder, in the format of the source.
        config: settings; None: the defaults, or the settings of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`. On the CPU the result is bit for bit that of a run never stopped.
        prior: a loaded prior, for callers that edit several pictures; None loads `config.prior`.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    request = make_request(PanoramaEditor, picture, prompt, output, config, run_dir=run_dir, resume=resume)
    return run_job(PanoramaEditor, request, prior=prior, progress=progress)


def edit_image(
    picture: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: PanoramaConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Prior | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Edit a single picture under one window, all of it. Arguments and errors are those of `edit_panorama`."""
    request = make_request(ImageEditor, picture, prompt, output, config, run_dir=run_dir, resume=resume)
    return run_job(ImageEditor, request, prior=prior, progress=progress)


class PanoramaEditor(Editor[PanoramaConfig]):
    """Overlapping windows of a picture as particles; an `Editor` (`csd3d.runs.job`)."""

    command: ClassVar[str] = "panorama"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("panorama", "image")
    role: ClassVar[str] = "picture"
    free_on_resume: ClassVar[tuple[str, ...]] = (
        "device", "offline", "checkpoint_every", "quality", "detail", "strength", "csd.steps", "csd.tolerance",
    )  # fmt: skip
    single: ClassVar[bool] = False
    """One window, all of the picture."""

    def __init__(self, picture: Picture, request: Request[PanoramaConfig]) -> None:
        self.picture, self.config, self._output = picture, request.config, request.output
        self._prompt = request.prompt if request.prompt and request.prompt.strip() else None
        self._recorded_prompt = request.prompt
        self._found: MaskFile | None = None
        self._recognised = recognise(picture, self.config.wrap, flat=self.single)
        self._plan = make_plan(
            self._prompt, self.config.prompt_at, self.config.prompt_mask, mask_file(self.config.mask),
            height_px=picture.height_px, width_px=picture.width_px, wraps=self.wrap != "none",
            feather_px=self.config.feather,
        )  # fmt: skip

    @classmethod
    def settings(cls) -> PanoramaConfig:
        """The defaults."""
        return PanoramaConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[PanoramaConfig]) -> Iterator["PanoramaEditor"]:
        """Read the picture and the masks."""
        if request.source is None:
            raise ValueError(f"{cls.command}: expected a picture, got none; only --resume can do without")
        if request.resumed is not None and request.resumed.command != cls.command:
            cls = ImageEditor if request.resumed.command == "image" else PanoramaEditor
        yield cls(open_picture(request.source), replace(request, config=placed(request.config)))

    @property
    def wrap(self) -> Wrap:
        """What the picture is taken for."""
        return self._recognised.wrap

    @property
    def name(self) -> tuple[str, str]:
        """The picture's name and the prompt."""
        return self.picture.path.stem, self._recorded_prompt or "regions"

    @property
    def sentences(self) -> Sequence[str]:
        """Those of all regions."""
        return [sentence.text for sentence in self._plan.sentences]

    @property
    def reads(self) -> Sequence[Path]:
        """The picture, all masks, and a picture to be like."""
        return [self.picture.path, *self._plan.files, *like_files(self.config)]

    def inputs(self) -> list[dict[str, Any]]:
        """The same."""
        return [fingerprint(path) for path in self.reads]

    def history(self, sha256: str) -> list[dict[str, Any]]:
        """By the picture's content."""
        return earlier_runs(self.picture.path, sha256)

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The prompt for everywhere."""
        return {"prompt": self._recorded_prompt}

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What the picture was taken for, and how many particles there are."""
        return {"wrap": self.wrap, "windows": len(self._windows)}

    def engine_for(self, prior: Prior) -> CsdConfig:
        """Those of `csd-edit`, or what comes nearest with a text-to-image model."""
        return prior.defaults(by=self.config.by)

    def prepare(self, prior: Prior, config: PanoramaConfig) -> None:
        """Lay out the windows; refuse what the prior cannot serve."""
        self.prior, self.config = prior, config
        self._surface = make_surface(self.picture, self.wrap, config, prior, single=self.single)
        self._lay_out(self._plan)
        self._search = search_of(config, config.mask, prior)
        if self._search is not None:
            self._search.under(self._prompts)  # refuses what it cannot find a mask for

    def _lay_out(self, plan: Plan) -> None:
        """Windows and score for a plan."""
        self._plan, self._windows = plan, self._surface.windows(plan)
        if not len(self._windows):
            raise ValueError("mask: expected something white, got a mask that leaves nothing to edit")
        if self.config.control_picture is not None and len(self._windows) > 1:
            raise ValueError(f"control-picture: expected none for {len(self._windows)} windows, got one")
        self.prior.assign_pictures(range(len(self._windows)))
        sizes = step_sizes(len(self._windows), self.config.windows_per_step)
        self.score, self._sampled = score_of_edit(self.prior, self._prompts, self.config, sizes=sizes)

    @property
    def _prompts(self) -> Prompts:
        config = self.config
        return Prompts(tuple(self.sentences), config.source_prompt, self._windows.prompt, config.negative_prompt)

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """A picture, in the format of the source if no name says otherwise."""
        picture = self.picture
        suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(picture.kind, f".{picture.kind.lower()}")
        target = self._output or run_dir / f"edited{suffix}"
        require_writable(target, picture.height_px, picture.width_px)
        return target, [target]

    def work(self) -> Work:
        """The windows."""
        size_lat = self._windows.rows.shape[1], self._windows.columns.shape[1]
        sampling = None if self._sampled is None else self._sampled.sampling
        return Work(
            self.score,
            self.config.engine,
            len(self._windows),
            size_lat,
            sampling,
            together=self.config.windows_per_step,
        )

    def encode(self, session: Session) -> None:
        """Latents of the canvas."""
        picture, size_px = self.picture, self.config.size or self.prior.native_px
        strip = strip_note(picture.height_px, picture.width_px, size_px, windows=not self.single)
        said = self._recognised.reason, *picture.notes, strip, *self._windows.unheld(self.sentences)
        session.note(*filter(None, said))

        def encode() -> Float[Tensor, "k c h w"]:
            canvas = None
            parts = self._surface.encode(self.picture, self.prior.encode)
            for done, part in session.progress.track("encode", parts, total=self._surface.parts, then="the edit"):
                canvas = part
                session.stop_if_asked(f"encoded {done} of {self._surface.parts} parts, which the next start does again")
            assert canvas is not None
            return canvas

        self._s = session.sources(encode, again=self.prior.looks_at_pictures)
        # the edit is within the mask that is found, if it is not of the whole picture
        if self._search is not None and (path := find_mask(session, self._place(self._search, self._s))) is not None:
            self._edit_within(path, read_mask(path))

    def _place(self, search: MaskSearch, s: Float[Tensor, "k c h w"]) -> Place:
        """Where a mask is sought."""
        config, seeker = self.config, search.under(self._prompts)
        return Place(
            self.prior, seeker, self.sentences, self.picture, s, self._surface, self._windows, config.seed,
            config.windows_per_step,
        )  # fmt: skip

    def _edit_within(self, path: Path, levels: Float[Tensor, "_h _w"]) -> None:
        """Lay out the windows anew for a mask that was found."""
        size, wraps = (self.picture.height_px, self.picture.width_px), self.wrap != "none"
        self._found = MaskFile.of(path, levels, *size, feather_px=self.config.feather, wraps=wraps)
        self._lay_out(replace(self._plan, mask=self._found))

    def move(self, session: Session) -> None:
        """The optimisation, from the last saved state to the end."""
        config, count = self.config, len(self._windows)
        if self._sampled is not None:
            self._particles = self._sampled_from(self._s, self._sampled)
            edit = self._sampled.sampling
            self._log = session.sample(self._particles, edit, config, count=count, writes=WRITE_PER_ENCODE)
            return
        self._particles = particles = self._particles_from(self._s)
        self._log = session.move(particles, self.score, config, count=count, writes=WRITE_PER_ENCODE, look=self._look)

    def write(self, session: Session) -> Report:
        """The picture, what the report shows, and the contact sheet."""
        picture = self.picture
        with session.manifest.timed("write"):
            pixels = self._pixels(
                self._particles,
                session.progress,
                lambda: session.stop_if_asked("all steps are done, the picture is not written yet"),
            )
            tags, quality = self._recognised.tags_of(picture), self.config.quality
            lost = write_picture(session.results[0], pixels, alpha=picture.alpha, tags=tags, quality=quality)
        session.note(*lost, *self.prior.notes)
        session.note_growth(self._particles.z, self._particles.s)
        shown = write_media(session.folder.media, picture.pixels, pixels)
        session.note_change(self.prior, self.sentences, shown[0][None], shown[1][None], self._shown(shown[0]))
        rows = {"source": shown[0][None], " · ".join(self.sentences): shown[1][None]}
        if self._found is not None:
            rows["mask"] = self._found.levels.expand(-1, 3, -1, -1)
        save_picture(contact_sheet(rows, cell_px=SHEET_PX), session.folder.sheet)
        facts = Facts(picture, self._plan, self.wrap, len(self._windows), make_panels(*shown, wrap=self.wrap))
        page = make_report(facts, session.manifest)
        return session.with_gradient(page, self._log, self._show, self.prior.decode)

    def preview(self, progress: RunProgress) -> Mapping[str, Float[Tensor, "1 3 h w"]]:
        """The rows of a contact sheet, of a picture that has been prepared: source and edit, in memory."""
        canvas = None
        parts = self._surface.encode(self.picture, self.prior.encode)
        for _, part in progress.track("encode", parts, total=self._surface.parts):
            canvas = part
        assert canvas is not None
        if self._search is not None:
            levels = first_mask(self._place(self._search, canvas))
            if levels is not None:
                self._edit_within(self.picture.path, levels)
        engine = self.config.engine
        if self._sampled is not None:
            particles, sampling = self._sampled_from(canvas, self._sampled), self._sampled.sampling
            steps = len(sampling.transitions) * particles.steps_per_epoch
            moves = run_sampling(particles, sampling)
        else:
            particles = self._particles_from(canvas)
            steps = engine.steps * particles.steps_per_epoch
            rng = torch.Generator().manual_seed(self.config.seed)
            moves = run(particles, Objective(reusing(self.score, engine), replace(engine, steps=steps)), rng=rng)
        for _ in progress.track("preview", moves, total=steps):
            pass
        pixels = self._pixels(particles, progress)
        shown = (shrunk(levels) for levels in (self.picture.pixels, pixels))
        labels = ("source", " · ".join(self.sentences))
        return {label: from_levels(levels)[None] for label, levels in zip(labels, shown, strict=True)}

    def _particles_from(self, s: Float[Tensor, "k c h w"]) -> WindowParticles:
        """The windows of a canvas, at its sources."""
        config = self.config
        return WindowParticles(
            s, self._windows, config.engine, budget=config.windows_per_step, draw=config.draw,
            device=self.prior.device, mask=self._surface.mask(self._plan),
            settle=self._settle if self.wrap == "sphere" else None, settle_every=config.settle_every,
        )  # fmt: skip

    def _sampled_from(self, s: Float[Tensor, "k c h w"], edit: SampledEdit) -> SampledWindows:
        """The same, to be sampled."""
        config = self.config
        return SampledWindows(
            s, self._windows, edit, budget=config.windows_per_step, seed=config.seed,
            device=self.prior.device, mask=self._surface.mask(self._plan),
            settle=self._settle if self.wrap == "sphere" else None, settle_every=config.settle_every,
        )  # fmt: skip

    def _settle(self, z: Float[Tensor, "k c h w"]) -> Float[Tensor, "k c h w"]:
        """Views of a sphere, brought to agree in pixels."""
        return self._surface.settle(z, self.prior.encode, self.prior.decode)

    def _pixels(
        self,
        particles: WindowParticles | SampledWindows,
        progress: RunProgress,
        between: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """The result [H W 3] in the picture's own levels."""
        picture, config, z = self.picture, self.config, particles.z
        if config.strength < 1:
            z = torch.lerp(particles.s, z, config.strength)
        blocks = self._surface.blocks(
            picture, z, particles.s, self.prior.decode, detail=config.detail, strength=config.strength
        )
        track = partial(progress.track, "write", total=block_count(picture.height_px, picture.width_px))
        return composite(picture, self._plan, blocks, track, between)

    def _look(self) -> Mapping[str, Tensor]:
        """The middle window, as it was and as it is."""
        window = self._windows.select(torch.tensor([len(self._windows) // 2]))
        rows = {"source": self._particles.s, " · ".join(self.sentences): self._particles.z}
        return {label: self.prior.decode(window.gather(canvas)) for label, canvas in rows.items()}

    def _shown(self, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 1 h w"]:
        """How much of the edit is shown at each place of a picture of any size."""
        y, x = torch.meshgrid(*((torch.arange(side) + 0.5) / side for side in picture.shape[1:]), indexing="ij")
        return self._plan.strength(x, y)[None, None].float()

    def _show(self, window: int) -> tuple[str, Tensor]:
        return f"window {window}", self._windows.select(torch.tensor([window])).gather(self._s)


class ImageEditor(PanoramaEditor):
    """A single picture: one window, all of it."""

    command: ClassVar[str] = "image"
    single: ClassVar[bool] = True


def make_surface(
    picture: Picture, wrap: Wrap, config: PanoramaConfig, prior: Prior, *, single: bool = False
) -> Surface:
    """What the picture is drawn on, with the windows that `config` asks for, or a `single` one.

    Raises:
        ValueError: a size or wrap that the picture cannot have.
    """
    factor = prior.codec.factor
    unit_lat = prior.multiple_px // factor
    window_lat = config.window or max(1, prior.native_px // prior.multiple_px) * unit_lat
    if window_lat % unit_lat:
        raise ValueError(f"window: expected a multiple of {unit_lat} latents for {prior.name}, got {window_lat}")
    if wrap == "sphere":
        size_px = config.size or 2 * window_lat * factor
        return make_sphere(
            picture.height_px, picture.width_px, size_px=size_px, factor=factor, window_px=window_lat * factor
        )
    return make_plane(
        picture.height_px, picture.width_px,
        size_px=config.size or window_lat * factor, factor=factor, unit_lat=unit_lat,
        window_lat=window_lat, stride_lat=config.stride or max(1, window_lat // 2),
        wraps=wrap == "cylinder", smooth=config.smooth, single=single,
    )  # fmt: skip
