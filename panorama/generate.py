"""Pictures from a caption alone: several at once, which agree with each other, or one wider than the prior's own.

    csd    every picture, or window of a wide one, is a particle of collaborative score distillation
    sds    the same without collaboration
    ddim   the ordinary sampler; windows of a wide picture share each step (MultiDiffusion, Bar-Tal et al. 2023)

A picture is a layer of one canvas, under one window or under several that overlap.
"""

from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.epochs import steps_in_round
from csd3d.media.pictures.write import require_writable, write_picture
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.editor import generation, native_px
from csd3d.priors.store.fingerprint import prior_entry
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.folder import free_name, recorded
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import Manifest, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report
from csd3d.runs.session import Start, started
from panorama.plane import OVERLAP_LAT, TILE_LAT
from panorama.spans import Spans, cover
from panorama.surface import Decode
from panorama.windows import WindowParticles, Windows

Method = Literal["csd", "sds", "ddim"]
FREE = ("device", "checkpoint_every", "csd.steps")
"""Settings that may change when a run is resumed."""
SPREAD = "mean distance of two pictures (rms)"
"""Name of `spread` among the numbers of a run."""


@dataclass(frozen=True)
class GenerateConfig:
    """How pictures are made. Immutable; the manifest holds it in full."""

    method: Method = "csd"
    """`csd`: pictures or windows made together; `sds`: each for itself; `ddim`: the ordinary sampler."""
    csd: CsdConfig | None = None
    """Engine settings of `csd` and `sds`; none = those that suit the prior. `s_text` is the sampler's guidance too."""
    prior: str = "builtin:t2i"
    """`builtin:t2i`, a folder in diffusers layout, or a hub id."""
    count: int = 4
    """Pictures."""
    width: int | None = None
    """Width in px; none = what the prior was trained at. Wider pictures are made of overlapping windows."""
    height: int | None = None
    """Height in px; none = what the prior was trained at."""
    wrap: bool = False
    """The left border goes on at the right."""
    windows_per_step: int = 8
    """Most windows in a step: bounds memory."""
    sampling_steps: int = 50
    """Steps of `ddim`."""
    seed: int = 0
    """Seed of all randomness."""
    device: str | None = None
    """`cpu`, `cuda`, ...; none = CUDA where there is one."""
    checkpoint_every: int = 10
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method: expected {', '.join(get_args(Method))}, got {self.method!r}")
        least = {"count": 1, "width": 8, "height": 8, "windows_per_step": 1, "sampling_steps": 1, "seed": 0}
        for name, low in {**least, "checkpoint_every": 1}.items():
            value = getattr(self, name)
            if value is None and name in ("width", "height"):
                continue
            if type(value) is not int:
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < low:
                raise ValueError(f"{name}: expected {low} or more, got {value}")


@dataclass(frozen=True)
class GenerateResult:
    """Where things are."""

    paths: tuple[Path, ...]
    """The pictures."""
    run_dir: Path
    """Manifest, state, report."""
    notes: tuple[str, ...]
    """Fallbacks and warnings."""

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.run_dir / "report.html"


def generate(
    prompt: str | None,
    output: str | Path | None = None,
    config: GenerateConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    prior: TextToImagePrior | None = None,
    progress: RunProgress | None = None,
) -> GenerateResult:
    """Make pictures that show `prompt`.

    Args:
        prompt: the caption; None only to resume.
        output: file; of several pictures each gets a number, NAME-1.png and so on. None: in the run's folder.
        config: settings; None = the defaults, or those of the run that is resumed.
        run_dir: folder of the run; None makes a new one in `runs/`.
        resume: go on with the run in `run_dir`, on the CPU bit for bit.
        prior: a loaded prior; None loads `config.prior`.
        progress: shows how far things are; None = on stderr.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    if resume:
        old, settings = recorded(run_dir, GenerateConfig(), "generate")
        prompt, output = prompt or old.config["prompt"], output or old.outputs.get("pictures")
        config = config or settings
    if prompt is None or not prompt.strip():
        raise ValueError('expected a caption, --prompt "...", got none')
    config, progress = config or GenerateConfig(), progress or RunProgress()
    path = Path(run_dir) if run_dir is not None else free_name("generate", prompt)
    prior = prior or TextToImagePrior.load(config.prior, device=config.device)
    csd = config.csd or generation(prior.builtin, "sds" if config.method == "sds" else "csd")
    if csd.residual != "noise":
        raise ValueError("residual: expected noise, as there is no source to compare with, got source")
    config = replace(config, csd=csd)
    size_lat = _size_lat(config, prior)
    target = Path(output) if output is not None else path / "picture.png"
    results = _names(target, config.count)
    for name in results:
        require_writable(name, size_lat[0] * prior.codec.factor, size_lat[1] * prior.codec.factor)
    prior.score(prompt, s_text=1.0)  # an unknown word is refused before anything is written
    settings = to_plain(config) | {"prompt": prompt}
    outputs = {"pictures": str(target.resolve())}
    manifest = Manifest("generate", settings, config.seed, prior=prior_entry(prior), outputs=outputs)
    windows = make_windows(config.count, size_lat, native_px(prior) // prior.codec.factor, wrap=config.wrap)
    with started(path, manifest, results, progress, resume=resume, free=FREE) as start:
        return _Job(prompt, config, csd, prior, windows, size_lat, start).go()


def make_windows(count: int, size_lat: tuple[int, int], window_lat: int, *, wrap: bool) -> Windows:
    """Windows that cover `count` layers of a canvas, half a window apart where one is not enough.

    Args:
        size_lat: height and width of a layer.
        window_lat: longest side of a window.
        wrap: layers are closed from right to left.
    """
    stride = max(1, window_lat // 2)
    rows = cover(size_lat[0], window_lat, stride)
    columns = cover(size_lat[1], window_lat, stride, wraps=wrap)
    fade = [spans.shares(torch.arange(spans.length) + 0.5, ramp=spans.size / 2).float() for spans in (rows, columns)]
    order = [(k, i, j) for k in range(count) for i in range(len(rows.starts)) for j in range(len(columns.starts))]
    k, i, j = torch.tensor(order).T
    ys, xs = rows.cells()[i], columns.cells()[j]
    share = fade[0][i[:, None], ys][:, :, None] * fade[1][j[:, None], xs][:, None, :]
    return Windows(k, ys, xs, share, torch.zeros_like(k))


@dataclass
class _Job:
    """One start of a run."""

    prompt: str
    config: GenerateConfig
    csd: CsdConfig
    prior: TextToImagePrior
    windows: Windows
    size_lat: tuple[int, int]
    start: Start

    def go(self) -> GenerateResult:
        """Make, write, report."""
        start, config = self.start, self.config
        start.note_prior(self.prior, config.device)
        rng = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(config.count, self.prior.codec.channels, *self.size_lat, generator=rng)
        if config.method == "ddim":
            with start.manifest.timed("sample"):
                z, log = self._sample(noise, rng), StepLog(0)
        else:
            z, log = self._distil(noise, rng)
        self._write(z, log)
        return GenerateResult(tuple(start.results), start.folder.path, tuple(start.manifest.notes))

    @torch.no_grad()
    def _sample(self, noise: Tensor, rng: torch.Generator) -> Float[Tensor, "k c H W"]:
        """DDIM; at every step a place is predicted by all windows that see it."""
        score = self.prior.score(self.prompt, s_text=self.csd.s_text)
        step = 0
        bar = iter(
            self.start.progress.track("sample", range(self.config.sampling_steps), total=self.config.sampling_steps)
        )

        def predict(z: Tensor, t: Tensor) -> Tensor:
            nonlocal step
            step = next(bar, step)
            self.start.stop_if_asked("sampling starts again next time")
            seen, out = self.windows.look(z.cpu()), torch.zeros(z.shape)
            parts = []
            for index in torch.arange(len(self.windows)).split(self.config.windows_per_step):
                parts.append(score.predict(score.prompt, seen[index].to(z), t, index).cpu())
            predicted = torch.cat(parts)
            if bad := (~predicted.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
                raise FloatingPointError(
                    f"prediction is not finite at step {step}, timestep {int(t)}, for particles {bad}"
                )
            self.windows.add(out, predicted)
            return out.to(z)

        steps = self.config.sampling_steps
        z = self.prior.denoise(predict, noise.shape, noise, rng, steps=steps, sampler="ddim").cpu()
        next(bar, None)
        return z

    def _distil(self, noise: Tensor, rng: torch.Generator) -> tuple[Float[Tensor, "k c H W"], StepLog]:
        """CSD or SDS from noise, from the last saved state to the end."""
        config, count = self.config, len(self.windows)
        particles = WindowParticles(
            noise, self.windows, self.csd, budget=config.windows_per_step, device=self.prior.device
        )
        log = self.start.move(
            particles, self.prior.score(self.prompt, s_text=self.csd.s_text), self.csd, rng, count=count,
            turns=steps_in_round(count, config.windows_per_step), save_every=config.checkpoint_every, phase="generate",
        )  # fmt: skip
        return particles.z, log

    def _write(self, z: Tensor, log: StepLog) -> None:
        start = self.start
        with start.manifest.timed("write"):
            rgb = decode_canvas(z, self._decode, self.prior.codec.factor, wrap=self.config.wrap)
            levels = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for path, pixels in zip(start.results, levels, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, pixels)
        save_picture(contact_sheet({self.prompt: rgb[:8]}), start.folder.sheet)
        if len(rgb) > 1:
            start.manifest.numbers[SPREAD] = round(spread(rgb), 4)
        start.note(*self.prior.notes)
        page = Report(
            title=self.prompt, subtitle="generated",
            facts=(
                f"{rgb.shape[-1]} × {rgb.shape[-2]} px", f"{len(self.windows)} windows", self.config.method,
                f"prior {self.prior.name}",
            ),
        )  # fmt: skip
        start.finish(page, log, lambda i: (f"window {i}", self.windows.some(torch.tensor([i])).look(z)), self._decode)

    def _decode(self, z: Tensor) -> Tensor:
        return self.prior.codec.decode(z.to(self.prior.device)).cpu()


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


def _size_lat(config: GenerateConfig, prior: TextToImagePrior) -> tuple[int, int]:
    factor, native = prior.codec.factor, native_px(prior)
    sides = {"height": config.height or native, "width": config.width or native}
    for name, side in sides.items():
        if side % factor:
            raise ValueError(f"{name}: expected a multiple of {factor} px, got {side}")
    return sides["height"] // factor, sides["width"] // factor


def _names(target: Path, count: int) -> list[Path]:
    """The target itself, or NAME-1, NAME-2, ..."""
    if count == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{k}{target.suffix}") for k in range(1, count + 1)]
