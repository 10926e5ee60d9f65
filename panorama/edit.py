"""Editing a picture from one sentence: encode, move all windows together, decode, and leave a run to resume from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import StepInfo, run
from csd3d.engine.residuals import Score
from csd3d.priors.editor import Loaded, native_px, recommended, score_for
from csd3d.runs import folder as runs
from csd3d.runs.folder import RunFolder
from csd3d.runs.interrupt import RunInterrupted, StopRequest, stoppable
from csd3d.runs.manifest import Manifest, fingerprint, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import write_report
from csd3d.runs.settings import override
from csd3d.runs.sheet import contact_sheet, save_picture
from panorama.config import PanoramaConfig
from panorama.plane import make_plane
from panorama.regions import MaskFile, Plan, make_plan
from panorama.render import put_together
from panorama.report import Facts, make_report, write_media
from panorama.sink import require_writable, write_picture
from panorama.source import Picture, open_picture
from panorama.sphere import make_sphere
from panorama.surface import Surface, block_count
from panorama.viewer import make_panels
from panorama.windows import WindowParticles, Windows, rounds
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
        picture, prompt, output, config = _recall(picture, prompt, output, config, run_dir)
    if picture is None:
        raise ValueError("panorama: expected a picture, got none; only --resume can do without")
    config, progress = config or PanoramaConfig(), progress or RunProgress()
    source = open_picture(Path(picture))
    path = Path(run_dir) if run_dir is not None else runs.free_name(source.path.stem, prompt or "regions")
    target = _target(output, path, source)
    wrap = recognise(source, "none" if config.single and config.wrap == "auto" else config.wrap)
    plan = make_plan(
        prompt if prompt and prompt.strip() else None, config.prompt_at, config.prompt_mask,
        None if config.mask is None else Path(config.mask),
        height_px=source.height_px, width_px=source.width_px, wraps=wrap.wrap != "none",
    )  # fmt: skip
    prior = prior or load_prior(config)
    config = replace(config, csd=config.csd or recommended(prior.builtin))
    assert config.csd is not None
    surface = make_surface(source, wrap.wrap, config, prior)
    windows = surface.windows(plan)
    if not len(windows):
        raise ValueError("mask: expected something white, got a mask that leaves nothing to edit")
    sentences = [sentence.text for sentence in plan.sentences]
    score = score_for(prior, config.csd, sentences, source_prompt=config.source_prompt, assign=windows.prompt)
    manifest = _manifest(source, prompt, config, prior, plan)
    if resume:
        folder, manifest = runs.reopen_run(path, manifest, free=FREE)
    else:
        folder = runs.start_run(path, manifest)
    manifest.outputs["picture"] = str(target.resolve())
    job = _Job(
        source, plan, wrap.wrap, surface, windows, config, config.csd, prior, score, folder, manifest, target, progress
    )
    with progress, stoppable() as stop:
        return job.go(stop, [wrap.reason] if wrap.reason else [])


def load_prior(config: PanoramaConfig) -> Loaded:
    """Load the prior that `config` names.

    Raises:
        ValueError, FileNotFoundError: there is none of that name, or it is of no kind that can be used.
    """
    from csd3d.priors.either import load_either  # slow to import, and a caller may bring a prior of its own

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
    folder: RunFolder
    manifest: Manifest
    target: Path
    progress: RunProgress

    def go(self, stop: StopRequest, words: Sequence[str]) -> PanoramaResult:
        """All phases; whatever ends them, the manifest says how the run stands."""
        try:
            for note in (*words, *self.picture.notes, *self._circumstances()):
                self._note(note)
            s = runs.load_sources(self.folder)
            if s is None:
                s = self._encode(stop)
            particles, curves = self._move(s, stop)
            self._render(particles, curves, stop)
        except BaseException as error:
            self.manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.manifest.measure_memory()
            self.manifest.write(self.folder.manifest)
            raise
        return PanoramaResult(
            self.target, self.folder.path, self.wrap, len(self.windows), self.manifest.steps_done,
            tuple(self.manifest.notes),
        )  # fmt: skip

    def _encode(self, stop: StopRequest) -> Float[Tensor, "k c h w"]:
        canvas = None
        with self.manifest.timed("encode"):
            parts = self.surface.encode(self.picture, self._encoder)
            for done, part in self.progress.track("encode", parts, total=self.surface.parts):
                canvas = part
                self._stop_if(stop, f"encoded {done} of {self.surface.parts} parts, which the next start does again")
            assert canvas is not None
            runs.save_sources(self.folder, canvas)
        return canvas

    def _move(self, s: Float[Tensor, "k c h w"], stop: StopRequest) -> tuple[WindowParticles, list[StepInfo]]:
        """The optimisation, from the last saved state to the end."""
        csd, config = self.csd, self.config
        turns = rounds(len(self.windows), config.windows_per_step) if config.draw == "rounds" else 1
        csd = replace(csd, steps=csd.steps * turns, lr_decay_every=csd.lr_decay_every * turns)
        particles = WindowParticles(
            s, self.windows, csd, budget=config.windows_per_step, draw=config.draw, device=self.prior.device,
            mask=self.surface.mask(self.plan),
            settle=(lambda z: self.surface.settle(z, self._encoder, self._decoder)) if self.wrap == "sphere" else None,
            settle_every=config.settle_every,
        )  # fmt: skip
        rng = torch.Generator().manual_seed(config.seed)
        done, curves = runs.load_state(self.folder, particles, rng)
        if done > csd.steps:
            raise ValueError(f"steps: expected at least the {done} that this run has done, got {csd.steps}")

        def save() -> None:
            runs.save_state(self.folder, particles, rng, curves, done)
            self.manifest.steps_done = done

        with self.manifest.timed("edit"):
            steps = run(particles, self.score, csd, rng=rng, start=done)
            for info in self.progress.track("edit", steps, total=csd.steps, start=done):
                curves.append(info)
                done = info.step + 1
                if stop or done % config.checkpoint_every == 0 or done == csd.steps:
                    save()
                self._stop_if(stop, f"{done} of {csd.steps} steps are done")
            if not self.folder.state.exists():
                save()
        self.manifest.write(self.folder.manifest)
        return particles, curves

    def _render(self, particles: WindowParticles, curves: Sequence[StepInfo], stop: StopRequest) -> None:
        picture = self.picture
        with self.manifest.timed("write"):
            total = block_count(picture.height_px, picture.width_px)
            blocks = self.surface.blocks(picture, particles.z, particles.s, self._decoder, detail=self.config.detail)
            pixels = put_together(
                picture, self.plan, blocks,
                lambda items: self.progress.track("write", items, total=total),
                lambda: self._stop_if(stop, "all steps are done, the picture is not written yet"),
            )  # fmt: skip
            lost = write_picture(
                self.target, pixels, alpha=picture.alpha, tags=picture.tags, quality=self.config.quality
            )
        for note in (*lost, *getattr(self.prior, "notes", ())):
            self._note(note)
        shown = write_media(self.folder.media, picture.pixels, pixels)
        rows = {"source": shown[0][None], " · ".join(s.text for s in self.plan.sentences): shown[1][None]}
        save_picture(contact_sheet(rows, cell_px=1100), self.folder.sheet)
        self.manifest.status = "finished"
        self.manifest.measure_memory()
        self.manifest.outputs |= {
            "report": str(self.folder.report.resolve()),
            "sheet": str(self.folder.sheet.resolve()),
        }
        facts = Facts(picture, self.plan, self.wrap, len(self.windows), make_panels(*shown, wrap=self.wrap))
        write_report(self.folder.report, make_report(facts, self.manifest, curves))
        self.manifest.write(self.folder.manifest)

    def _encoder(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        return self.prior.codec.encode(rgb.to(self.prior.device))

    def _decoder(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self.prior.codec.decode(z.to(self.prior.device))

    def _circumstances(self) -> Iterator[str]:
        if self.prior.builtin:
            yield (
                "the built-in prior is small and knows a closed set of sentences; "
                "--prior timbrooks/instruct-pix2pix (or a folder) uses a big one"
            )
        if self.config.device is None and self.prior.device.type == "cpu":
            yield "no CUDA device is in use: running on the CPU"

    def _note(self, text: str) -> None:
        """Say it once and keep it in the manifest."""
        if self.manifest.note(text):
            self.progress.say(f"note: {text}")

    def _stop_if(self, stop: StopRequest, how_far: str) -> None:
        if stop.signum is not None:
            self.progress.say(f"stopped: {how_far}")
            raise RunInterrupted(self.folder.path, stop.signum)


def _manifest(picture: Picture, prompt: str | None, config: PanoramaConfig, prior: Loaded, plan: Plan) -> Manifest:
    known = {"name": prior.name, "path": str(prior.path), "builtin": prior.builtin}
    if Path(prior.path).is_dir():
        known["fingerprint"] = runs.prior_fingerprint(Path(prior.path))
    regions = [plan.mask, *(sentence.region for sentence in plan.sentences)]
    files = [picture.path, *(region.path for region in regions if isinstance(region, MaskFile))]
    settings = to_plain(config) | {"prompt": prompt, "prior": prior.name}
    command = "image" if config.single else "panorama"
    return Manifest(command, settings, config.seed, inputs=[fingerprint(f) for f in files], prior=known)


def _target(output: str | Path | None, run_dir: Path, picture: Picture) -> Path:
    """Where the edited picture goes, checked before anything is done."""
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(picture.kind, f".{picture.kind.lower()}")
    target = Path(output) if output is not None else run_dir / f"edited{suffix}"
    require_writable(target, picture.height_px, picture.width_px)
    if target.exists() and target.samefile(picture.path):
        raise ValueError(f"output: expected another file than the picture itself, got {target}")
    return target


def _recall(
    picture: str | Path | None,
    prompt: str | None,
    output: str | Path | None,
    config: PanoramaConfig | None,
    run_dir: str | Path | None,
) -> tuple[str | Path, str | None, str | Path, PanoramaConfig]:
    """What was left out of a resume, from the run's manifest."""
    if run_dir is None:
        raise ValueError("resume: expected --run-dir, the folder of the run to go on with, got none")
    old = Manifest.read(Path(run_dir) / "manifest.json")
    settings = {k: v for k, v in old.config.items() if k != "prompt"}
    return (
        picture if picture is not None else old.inputs[0]["path"],
        prompt if prompt is not None else old.config["prompt"],
        output if output is not None else old.outputs.get("picture", str(Path(run_dir) / "edited.png")),
        config if config is not None else override(PanoramaConfig(), settings, where="manifest"),
    )
