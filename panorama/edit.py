"""Editing a picture from one sentence: encode, move all windows together, decode, and leave a run to resume from."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import steps_in_round
from csd3d.engine.residuals import Score
from csd3d.media.pictures.read import Picture, open_picture
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.editor import Loaded, native_px, score_for, suited
from csd3d.priors.store.fingerprint import prior_entry
from csd3d.runs.folder import free_name, load_sources, recorded, save_sources
from csd3d.runs.history import earlier_runs
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import Manifest, fingerprint, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.session import Start, started
from panorama.config import PanoramaConfig
from panorama.plane import make_plane
from panorama.regions import MaskFile, Plan, make_plan
from panorama.render import put_together
from panorama.report import Facts, make_report, write_media
from panorama.sphere import make_sphere
from panorama.surface import Surface, block_count
from panorama.viewer import make_panels
from panorama.windows import WindowParticles, Windows
from panorama.wrap import Wrap, recognise

FREE = ("device", "checkpoint_every", "quality", "detail", "csd.steps")
"""Settings that may change when a run is resumed: they do not touch the steps already done."""


@dataclass(frozen=True)
class PanoramaResult:
    """Where things are, and what happened."""

    path: Path
    """The edited picture."""
    run_dir: Path
    """Manifest, state, report."""
    wrap: Wrap
    """What the picture was taken for."""
    windows: int
    """Particles."""
    steps: int
    """Steps of the loop over all starts; a move of the picture takes several when it has many windows."""
    notes: tuple[str, ...]
    """Fallbacks and warnings."""

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.run_dir / "report.html"


def edit_panorama(
    picture: str | Path | None,
    prompt: str | None,
    output: str | Path | None = None,
    config: PanoramaConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: Loaded | None = None,
    progress: RunProgress | None = None,
) -> PanoramaResult:
    """Edit a picture as `prompt` says and write it to `output`.

    Args:
        picture: PNG, JPEG, TIFF or WebP. None only to resume.
        prompt: the sentence; None when every sentence has its region (`config.prompt_at`, `config.prompt_mask`).
        output: its name says the format; None puts it into the run's folder, in the format of the source.
        config: settings; None = the defaults, or the settings of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`. On the CPU the result is bit for bit that of a run never stopped.
        prior: a loaded prior, for callers that edit several pictures; None loads `config.prior`.
        progress: shows how far things are; None = on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    if resume:
        old, settings = recorded(run_dir, PanoramaConfig(), "panorama", "image")
        picture, prompt = picture or old.inputs[0]["path"], prompt or old.config["prompt"]
        output, config = output or old.outputs.get("picture"), config or settings
    if picture is None:
        raise ValueError("panorama: expected a picture, got none; only --resume can do without")
    config, progress = config or PanoramaConfig(), progress or RunProgress()
    source = open_picture(Path(picture))
    path = Path(run_dir) if run_dir is not None else free_name(source.path.stem, prompt or "regions")
    target = _target(output, path, source)
    wrap = recognise(source, "none" if config.single and config.wrap == "auto" else config.wrap)
    plan = make_plan(
        prompt if prompt and prompt.strip() else None, config.prompt_at, config.prompt_mask,
        None if config.mask is None else Path(config.mask),
        height_px=source.height_px, width_px=source.width_px, wraps=wrap.wrap != "none",
    )  # fmt: skip
    prior = prior or load_prior(config)
    config = replace(config, csd=config.csd or suited(prior))
    assert config.csd is not None
    surface = make_surface(source, wrap.wrap, config, prior)
    windows = surface.windows(plan)
    if not len(windows):
        raise ValueError("mask: expected something white, got a mask that leaves nothing to edit")
    sentences = [sentence.text for sentence in plan.sentences]
    score = score_for(prior, config.csd, sentences, source_prompt=config.source_prompt, assign=windows.prompt)
    manifest = _manifest(source, prompt, config, prior, plan, target)
    with started(path, manifest, [target], progress, resume=resume, free=FREE) as start:
        start.note(*([wrap.reason] if wrap.reason else []), *source.notes)
        return _Job(source, plan, wrap.wrap, surface, windows, config, config.csd, prior, score, start).go()


def load_prior(config: PanoramaConfig) -> Loaded:
    """Load the prior that `config` names.

    Raises:
        ValueError, FileNotFoundError: there is none of that name, or it is of no kind that can be used.
    """
    from csd3d.priors.auto import load_either  # slow to import, and a caller may bring a prior of its own

    return load_either(config.prior, device=config.device)


def make_surface(picture: Picture, wrap: Wrap, config: PanoramaConfig, prior: Loaded) -> Surface:
    """What the picture is drawn on, with the windows that `config` asks for.

    Raises:
        ValueError: a size or wrap that the picture cannot have.
    """
    factor, native = prior.codec.factor, native_px(prior)
    window_lat = config.window or max(1, native // factor)
    if wrap == "sphere":
        size_px = config.size or 2 * window_lat * factor
        return make_sphere(
            picture.height_px, picture.width_px, size_px=size_px, factor=factor, window_px=window_lat * factor
        )
    return make_plane(
        picture.height_px, picture.width_px,
        size_px=config.size or window_lat * factor, factor=factor,
        window_lat=window_lat, stride_lat=config.stride or max(1, window_lat // 2),
        wraps=wrap == "cylinder", smooth=config.smooth, single=config.single,
    )  # fmt: skip


@dataclass
class _Job:
    """One start of a run, phase by phase."""

    picture: Picture
    plan: Plan
    wrap: Wrap
    surface: Surface
    windows: Windows
    config: PanoramaConfig
    csd: CsdConfig
    prior: Loaded
    score: Score
    start: Start

    def go(self) -> PanoramaResult:
        """All phases."""
        start = self.start
        start.note_prior(self.prior, self.config.device)
        s = load_sources(start.folder)
        if s is None:
            s = self._encode()
        particles, log = self._move(s)
        self._render(particles, log)
        notes = tuple(start.manifest.notes)
        return PanoramaResult(
            start.results[0], start.folder.path, self.wrap, len(self.windows), start.manifest.steps_done, notes
        )

    def _encode(self) -> Float[Tensor, "k c h w"]:
        canvas = None
        with self.start.manifest.timed("encode"):
            parts = self.surface.encode(self.picture, self._encoder)
            for done, part in self.start.progress.track("encode", parts, total=self.surface.parts):
                canvas = part
                self.start.stop_if_asked(
                    f"encoded {done} of {self.surface.parts} parts, which the next start does again"
                )
            assert canvas is not None
            save_sources(self.start.folder, canvas)
        return canvas

    def _move(self, s: Float[Tensor, "k c h w"]) -> tuple[WindowParticles, StepLog]:
        """The optimisation, from the last saved state to the end."""
        config, count = self.config, len(self.windows)
        particles = WindowParticles(
            s, self.windows, self.csd, budget=config.windows_per_step, draw=config.draw, device=self.prior.device,
            mask=self.surface.mask(self.plan),
            settle=(lambda z: self.surface.settle(z, self._encoder, self._decoder)) if self.wrap == "sphere" else None,
            settle_every=config.settle_every,
        )  # fmt: skip
        log = self.start.move(
            particles, self.score, self.csd, torch.Generator().manual_seed(config.seed), count=count,
            turns=steps_in_round(count, config.windows_per_step) if config.draw == "rounds" else 1,
            save_every=config.checkpoint_every,
        )  # fmt: skip
        return particles, log

    def _render(self, particles: WindowParticles, log: StepLog) -> None:
        picture, start = self.picture, self.start
        with start.manifest.timed("write"):
            total = block_count(picture.height_px, picture.width_px)
            blocks = self.surface.blocks(picture, particles.z, particles.s, self._decoder, detail=self.config.detail)
            pixels = put_together(
                picture, self.plan, blocks,
                lambda items: start.progress.track("write", items, total=total),
                lambda: start.stop_if_asked("all steps are done, the picture is not written yet"),
            )  # fmt: skip
            lost = write_picture(
                start.results[0], pixels, alpha=picture.alpha, tags=picture.tags, quality=self.config.quality
            )
        start.note(*lost, *getattr(self.prior, "notes", ()))
        shown = write_media(start.folder.media, picture.pixels, pixels)
        rows = {"source": shown[0][None], " · ".join(s.text for s in self.plan.sentences): shown[1][None]}
        save_picture(contact_sheet(rows, cell_px=1100), start.folder.sheet)
        facts = Facts(picture, self.plan, self.wrap, len(self.windows), make_panels(*shown, wrap=self.wrap))
        start.finish(
            make_report(facts, start.manifest), log,
            lambda i: (f"window {i}", self.windows.some(torch.tensor([i])).look(particles.s)), self._decoder,
        )  # fmt: skip

    def _encoder(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        return self.prior.codec.encode(rgb.to(self.prior.device))

    def _decoder(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self.prior.codec.decode(z.to(self.prior.device))


def _manifest(
    picture: Picture, prompt: str | None, config: PanoramaConfig, prior: Loaded, plan: Plan, target: Path
) -> Manifest:
    regions = [plan.mask, *(sentence.region for sentence in plan.sentences)]
    masks = [region.path for region in regions if isinstance(region, MaskFile)]
    source = fingerprint(picture.path)
    return Manifest(
        "image" if config.single else "panorama", to_plain(config) | {"prompt": prompt, "prior": prior.name},
        config.seed, inputs=[source, *map(fingerprint, masks)], prior=prior_entry(prior),
        outputs={"picture": str(target.resolve())}, history=earlier_runs(picture.path, source["sha256"]),
    )  # fmt: skip


def _target(output: str | Path | None, run_dir: Path, picture: Picture) -> Path:
    """Where the edited picture goes, checked before anything is done."""
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(picture.kind, f".{picture.kind.lower()}")
    target = Path(output) if output is not None else run_dir / f"edited{suffix}"
    require_writable(target, picture.height_px, picture.width_px)
    if target.exists() and target.samefile(picture.path):
        raise ValueError(f"output: expected another file than the picture itself, got {target}")
    return target
