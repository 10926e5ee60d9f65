"""Pictures from a caption alone: several at once, which agree with each other, or one wider than the prior's own.

    csd    every picture, or window of a wide one, is a particle of collaborative score distillation
    sds    the same without collaboration
    ddim   the ordinary sampler; windows of a wide picture share each step (MultiDiffusion, Bar-Tal et al. 2023)

A picture is a layer of one canvas, under one window or under several that overlap.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import AttendedScore
from csd3d.attention.score import Steerable
from csd3d.attention.steer import Steer
from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import require_timesteps
from csd3d.media.masks import read_mask
from csd3d.media.pictures.levels import to_levels
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.composed import Stage, sample_composed
from csd3d.priors.families.table import Kind
from csd3d.priors.prior import Guidance, Prior, Prompts, TextToImage
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.estimate import Work
from csd3d.runs.job import Editor, Request, Result, make_request, run_job
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.reference import attending_of, like_files, placed
from csd3d.runs.report import Report
from csd3d.runs.session import Session
from panorama.generate_config import GenerateConfig
from panorama.phrases import region_files, regions_of
from panorama.plane import OVERLAP_LAT, TILE_LAT
from panorama.predict import predict, predict_guided
from panorama.report import said_windows
from panorama.spans import Spans, cover
from panorama.surface import Decode
from panorama.windows import WindowParticles, Windows, make_windows

SPREAD = "mean distance of two pictures (rms)"
"""Name of `spread` among the numbers of a run."""


def generate(
    prompt: str | None,
    output: str | Path | None = None,
    config: GenerateConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: TextToImage | None = None,
    progress: RunProgress | None = None,
) -> Result:
    """Make pictures that show `prompt`.

    Args:
        prompt: the caption; None only to resume.
        output: file; of several pictures each gets a number, NAME-1.png and so on. None: in the run's folder.
        config: settings; None: the defaults, or those of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`, on the CPU bit for bit.
        prior: a loaded prior; None loads `config.prior`.
        progress: shows how far things are; None: on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    request = make_request(GenerateEditor, None, prompt, output, config, run_dir=run_dir, resume=resume)
    return run_job(GenerateEditor, request, prior=prior, progress=progress)


class GenerateEditor(Editor[GenerateConfig]):
    """Pictures, or windows of a wide one, as particles that begin as noise; an `Editor` (`csd3d.runs.job`)."""

    command: ClassVar[str] = "generate"
    resumes_runs_of: ClassVar[tuple[str, ...]] = ("generate",)
    prior_kind: ClassVar[Kind | None] = "text-to-image"
    role: ClassVar[str] = "pictures"
    free_on_resume: ClassVar[tuple[str, ...]] = ("device", "offline", "checkpoint_every", "csd.steps", "csd.tolerance")

    def __init__(self, prompt: str, request: Request[GenerateConfig]) -> None:
        self.prompt, self.config, self._output = prompt, request.config, request.output
        self._log = StepLog(0)

    @classmethod
    def settings(cls) -> GenerateConfig:
        """The defaults."""
        return GenerateConfig()

    @classmethod
    @contextmanager
    def open(cls, request: Request[GenerateConfig]) -> Iterator["GenerateEditor"]:
        """Pictures to be like, and masks, are looked at."""
        request = replace(request, config=placed(request.config))
        for path in region_files(request.config.region):
            read_mask(path)
        if request.prompt is None or not request.prompt.strip():
            raise ValueError('expected a caption, --prompt "...", got none')
        yield cls(request.prompt, request)

    @property
    def name(self) -> tuple[str, str]:
        """The caption."""
        return "generate", self.prompt

    @property
    def sentences(self) -> Sequence[str]:
        """The caption."""
        return [self.prompt]

    @property
    def reads(self) -> Sequence[Path]:
        """A picture to be like, and masks of regions."""
        return (*like_files(self.config), *region_files(self.config.region))

    def inputs(self) -> list[dict[str, Any]]:
        """The same."""
        return [fingerprint(path) | {"beside": True} for path in self.reads]

    def history(self, sha256: str) -> list[dict[str, Any]]:
        """None: what is made here does not come from one source."""
        return []

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The caption."""
        return {"prompt": self.prompt}

    @property
    def facts(self) -> Mapping[str, str | int]:
        """How many particles there are."""
        return {"windows": len(self._windows)}

    def engine_for(self, prior: Prior) -> CsdConfig:
        """Those of the method."""
        return _require_maker(prior).generation(self.config.method)

    def prepare(self, prior: Prior, config: GenerateConfig) -> None:
        """Lay out the windows; refuse what the prior cannot serve."""
        prior = _require_maker(prior)
        self.prior, self.config = prior, config
        self._size_lat = _size_lat(config, prior)
        _require_memory(config.n * config.pick * prior.codec.channels * math.prod(self._size_lat))
        self._windows = self._windows_of(config.n)
        if config.control is not None:
            self._require_one_window("control")
        prior.assign_pictures(range(config.n * config.pick))
        prompts = Prompts((self.prompt,), negative=config.negative_prompt)
        prior.require(config.engine, prompts)
        if config.method != "ddim":
            require_timesteps(prior.schedule, config.engine)
        self.score = prior.score(prompts, Guidance.of(config.engine))
        regions = regions_of(config.region, self._windows_of(config.n * config.pick), self._size_lat)
        self._attending = replace(attending_of(config, prior), regions=regions)
        self._controls = self._attending.alone(self.score, self._size_lat)
        self._attended = prior.attended(self.score, self._attending)
        self._steer()  # refuses what cannot be steered

    def place(self, run_dir: Path) -> tuple[Path, Sequence[Path]]:
        """A picture, or several with numbers."""
        target, n = self._output or run_dir / "picture.png", self.config.n
        results = [target] if n == 1 else [target.with_name(f"{target.stem}-{k + 1}{target.suffix}") for k in range(n)]
        height, width = (self.prior.codec.factor * side for side in self._size_lat)
        for path in results:
            require_writable(path, height, width)
        return target, results

    def work(self) -> Work | None:
        """The windows, and what steers the sampler."""
        size_lat, csd = (self._windows.rows.shape[1], self._windows.columns.shape[1]), self.config.engine
        composed = self.config.composed
        if self.config.method == "ddim":
            csd = replace(csd, residual="noise", steps=composed.moves(csd.steps))
        score = self._attended if self._attending.guides else self.score
        work = Work(score, csd, len(self._windows), size_lat, together=self.config.windows_per_step)
        steer = self._steer() if self.config.method == "ddim" and composed.steering is not None else None
        if steer is None:
            return work
        t = (csd.t_min + csd.t_max) // 2
        return replace(work, also=lambda z: steer.read(z, t, torch.arange(len(z)), {}), also_each=steer.reads_a_step)

    def encode(self, session: Session) -> None:
        """Noise in the place of sources."""
        self._rng = torch.Generator().manual_seed(self.config.seed)
        self._z = torch.randn(
            self.config.n * self.config.pick, self.prior.codec.channels, *self._size_lat, generator=self._rng
        )

    def move(self, session: Session) -> None:
        """CSD or SDS from the last saved state to the end, or the sampler."""
        config = self.config
        if config.method == "ddim":
            with session.manifest.timed("sample"):
                self._z = self._sample(session)
            return
        particles = WindowParticles(
            self._z, self._windows, config.engine, budget=config.windows_per_step, device=self.prior.device
        )
        count = len(self._windows)
        self._log = session.move(particles, self._attended, config, count=count, rng=self._rng, phase="generate")
        self._z = particles.z

    @torch.no_grad()
    def _sample(self, session: Session) -> Float[Tensor, "k c H W"]:
        """DDIM; at every step a place is predicted by all windows that see it."""
        config, steps = self.config, self.config.engine.steps
        total = steps + (config.pick_after if config.pick > 1 else 0)
        bar, step = iter(session.progress.track("sample", range(total), total=total)), 0

        def stage(among: int) -> Stage:
            windows = self._windows if among == 1 else self._windows_of(config.n * among)

            def predict(z: Tensor, t: Tensor) -> Tensor:
                nonlocal step
                step = next(bar, step)
                session.stop_if_asked("sampling starts again next time")
                predicted = self._predict(windows, z, t)
                if bad := (~predicted.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
                    raise FloatingPointError(
                        f"prediction is not finite at step {step}, timestep {int(t)}, for particles {bad}"
                    )
                out = torch.zeros(z.shape)
                windows.scatter_add(out, predicted)
                return out.to(z)

            return Stage(predict, self._steer())

        if config.composed.reads_maps:
            assert isinstance(self.prior, TextToImagePrior)
            z = sample_composed(self.prior, config.composed, stage, self._z, rng=self._rng, steps=steps)
        else:
            z = self.prior.denoise(stage(1).predict, self._z.shape, self._z, self._rng, steps=steps)
        next(bar, None)
        return z.cpu()

    def _predict(self, windows: Windows, z: Tensor, t: Tensor) -> Float[Tensor, "m c h w"]:
        """Of all windows, a few at a time."""
        at_once = self.config.windows_per_step
        if self._attending.guides:
            assert isinstance(self._attended, AttendedScore)
            return predict_guided(self._attended, windows, z, int(t), at_once=at_once)
        return predict(self.score, self._controls, windows, z, t, at_once=at_once)

    def _windows_of(self, count: int) -> Windows:
        window_lat = self.prior.native_px // self.prior.codec.factor
        return make_windows(count, self._size_lat, window_lat, wrap=self.config.wrap)

    def _require_one_window(self, name: str) -> None:
        count, own = len(self._windows) // self.config.n, "pictures as large as the prior's own, each under one window"
        if count > 1:
            raise ValueError(f"{name}: expected {own}, got {count} windows")

    def _steer(self) -> Steer | None:
        """Raises ValueError for canvases of several windows, for priors whose attention cannot be read, and as
        `Composed.steer` does."""
        config = self.config
        name = "box" if config.box else "steer" if config.steer else "pick"
        if not (config.steering or config.pick > 1):
            return None
        if not isinstance(self.score, Steerable):
            raise ValueError(f"{name}: expected a prior of Stable Diffusion's kind, whose attention can be read")
        self._require_one_window(name)
        steps = config.engine.steps
        return config.composed.steer(self.score, steps, builtin=self.prior.builtin, controls=self._controls)

    def write(self, session: Session) -> Report:
        """The pictures and the contact sheet."""
        with session.manifest.timed("write"):
            rgb = decode_canvas(self._z, self.prior.decode, self.prior.codec.factor, wrap=self.config.wrap)
            levels = to_levels(rgb)
            for path, pixels in zip(session.results, levels, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, pixels)
        save_picture(contact_sheet({self.prompt: rgb[:8]}), session.folder.sheet)
        if len(rgb) > 1:
            session.manifest.numbers[SPREAD] = round(spread(rgb), 4)
        session.note(*self.prior.notes)
        session.note_growth(self._z)
        size = f"{rgb.shape[-1]} × {rgb.shape[-2]} px"
        facts = (size, said_windows(len(self._windows)), self.config.method, f"prior {self.prior.name}")
        page = Report(title=self.prompt, subtitle="generated", facts=facts)
        return session.with_gradient(page, self._log, self._show, self.prior.decode)

    def _show(self, window: int) -> tuple[str, Tensor]:
        return f"window {window}", self._windows.select(torch.tensor([window])).gather(self._z)


def _require_maker(prior: Prior) -> TextToImage:
    """Raises ValueError for an instruction editor."""
    if not isinstance(prior, TextToImage):
        raise ValueError(f"prior {prior.name!r}: expected a text-to-image model, got an instruction editor")
    return prior


def _require_memory(numbers: int) -> None:
    """Raise ValueError where latents of so many numbers, their gradients and moments are more than the machine has."""
    needed, there = 4 * 4 * numbers, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"n, width, height: expected latents that fit into memory ({there / 1e9:.0f} GB), got {needed / 1e9:.0f} GB"
        )


def decode_canvas(z: Float[Tensor, "k c h w"], decode: Decode, factor: int, *, wrap: bool) -> Float[Tensor, "k 3 H W"]:
    """Pictures of layers, tile by tile, tiles fading into each other: over the seam of closed ones as anywhere else."""
    tiles = [
        cover(z.shape[2], TILE_LAT, TILE_LAT - OVERLAP_LAT),
        cover(z.shape[3], TILE_LAT, TILE_LAT - OVERLAP_LAT, wraps=wrap),
    ]
    fine = [Spans(tuple(factor * a for a in t.starts), factor * t.size, factor * t.length, t.wraps) for t in tiles]
    fade = [s.shares(torch.arange(s.length) + 0.5, ramp=float(factor * OVERLAP_LAT)).float() for s in fine]
    rgb = torch.zeros(len(z), 3, fine[0].length, fine[1].length)
    for k, i, j in product(range(len(z)), range(len(tiles[0].starts)), range(len(tiles[1].starts))):
        ys, xs = tiles[0].cells()[i], tiles[1].cells()[j]
        at = fine[0].cells()[i][:, None], fine[1].cells()[j][None]
        share = fade[0][i, at[0]] * fade[1][j, at[1]]
        rgb[k, :, at[0], at[1]] += share * decode(z[k : k + 1, :, ys[:, None], xs[None]])[0]
    return rgb


def spread(rgb: Float[Tensor, "n 3 H W"]) -> float:
    """Mean over all pairs of pictures of the root mean square difference of the two; 0 = all are the same."""
    pairs = [(rgb[i] - rgb[j]).square().mean().sqrt() for i, j in combinations(range(len(rgb)), 2)]
    return float(torch.stack(pairs).mean())


def _size_lat(config: GenerateConfig, prior: Prior) -> tuple[int, int]:
    factor, native, multiple = prior.codec.factor, prior.native_px, prior.multiple_px
    sides = {"height": config.height or native, "width": config.width or native}
    for name, side in sides.items():
        if side % multiple:
            raise ValueError(f"{name}: expected a multiple of {multiple} px, got {side}")
    return sides["height"] // factor, sides["width"] // factor
