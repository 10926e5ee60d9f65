"""A training run on disk: pictures in, a network out, and a report; it goes on where it was stopped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from csd3d.media.geometry import middle_square
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.priors.editor import native_px
from csd3d.priors.store.fingerprint import prior_entry
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.checkpoint import load_checkpoint, save_checkpoint
from csd3d.runs.curves import Curve
from csd3d.runs.folder import RunFolder, load_sources, save_sources
from csd3d.runs.manifest import Manifest, fingerprint, to_plain
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report
from csd3d.runs.session import Start, started
from csd3d.translate.apply import Trained, save_trained
from csd3d.translate.config import TranslateConfig
from csd3d.translate.network import make_translator
from csd3d.translate.train import Trainer

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
CURVES = ("gradient_rms", "change_rms", "s_text", "identity")
SHOWN = 6
FREE = ("device", "checkpoint_every")
"""Settings that may change when a run is resumed."""


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, in order. Raises FileNotFoundError or ValueError when there are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"pictures: expected a folder, got {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"pictures: expected files ending in {', '.join(sorted(SUFFIXES))} in {folder}, found none")
    return found


def read_captions(files: Sequence[Path], table: Path | None, same: str | None) -> list[str]:
    """The caption of each picture: from a JSON object of file names and captions, or the same for all.

    Raises:
        FileNotFoundError, ValueError: there is neither, or a picture is not in the table.
    """
    if table is None:
        if same is None or not same.strip():
            raise ValueError("source-prompt: expected what the pictures show, or --captions FILE.json, got neither")
        return [same] * len(files)
    if not table.is_file():
        raise FileNotFoundError(f"captions: expected a JSON file, got {table}, which does not exist")
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"captions: {table} is not valid JSON ({error})") from None
    content = content if isinstance(content, dict) else {}
    missing = [f.name for f in files if not isinstance(content.get(f.name, same), str)]
    if missing:
        raise ValueError(f"captions: expected one for every picture in {table}, got none for {missing[0]}")
    return [content.get(f.name, same) for f in files]


def read_square(path: Path, size_px: int) -> Float[Tensor, "3 S S"]:
    """`middle_square` of a picture, upright. Raises ValueError when it cannot be read."""
    try:
        with Image.open(path) as picture:
            return middle_square(ImageOps.exif_transpose(picture).convert("RGB"), size_px)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"pictures: {path} cannot be read ({error})") from None


def train_network(
    files: Sequence[Path],
    captions: Sequence[str],
    config: TranslateConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    prior: TextToImagePrior | None = None,
    progress: RunProgress | None = None,
) -> Path:
    """Train a network and write it to `run_dir`/network.safetensors, with a report; returns its path.

    Raises:
        ValueError, TypeError, FileNotFoundError: something asked for is wrong; nothing was written.
        FloatingPointError: the run diverged; the last saved state is still there.
        RunInterrupted: SIGINT or SIGTERM arrived and the state is saved.
    """
    if not config.tasks:
        raise ValueError('tasks: expected at least one, NAME="CAPTION", got none')
    progress = progress or RunProgress()
    prior = prior or TextToImagePrior.load(config.prior, device=config.device)
    size = config.size or native_px(prior)
    if size % prior.codec.factor:
        raise ValueError(f"size: expected a multiple of {prior.codec.factor} px, got {size}")
    for own in dict.fromkeys(captions):
        prior.embed([own, *(config.caption(task, own) for task in config.tasks)])  # unknown words are refused here
    network = make_translator(prior, list(config.tasks.values()))
    path = run_dir / "network.safetensors"
    manifest = Manifest(
        "translate", to_plain(config) | {"captions": list(captions)}, config.seed,
        inputs=[fingerprint(f) for f in files], prior=prior_entry(prior), outputs={"network": str(path.resolve())},
    )  # fmt: skip
    with started(run_dir, manifest, [path], progress, resume=resume, free=FREE) as start:
        start.note_prior(prior, config.device)
        s = load_sources(start.folder)
        if s is None:
            with start.manifest.timed("encode"):
                s = _encode(prior, files, size, progress)
                save_sources(start.folder, s)
        trainer = Trainer(prior, network, config, s, captions)
        with start.manifest.timed("train"):
            curves = _train(trainer, config, start)
        with start.manifest.timed("write"):
            trained = Trained(prior, trainer.network.eval(), tuple(config.tasks), size)
            save_trained(path, trained, list(config.tasks.values()))
            page = _report(trained, files, curves, start)
        start.close(page)
    return path


def with_residual(config: TranslateConfig, method: str) -> TranslateConfig:
    """Trained by `dds`, or by `sds`, the paper's ablation."""
    return replace(config, csd=replace(config.csd, residual="noise" if method == "sds" else "source"))


def _encode(prior: TextToImagePrior, files: Sequence[Path], size: int, progress: RunProgress) -> Tensor:
    parts = []
    for path in progress.track("encode", files, total=len(files)):
        parts.append(prior.codec.encode(read_square(path, size)[None].to(prior.device)).cpu())
    return torch.cat(parts)


def _train(trainer: Trainer, config: TranslateConfig, start: Start) -> list[list[float]]:
    """From the last saved state to the last step; the `CURVES` of every step."""
    done, curves = _load(start.folder, trainer)
    for step in start.progress.track("train", range(done, config.steps), total=config.steps, start=done):
        info = trainer.step(step)
        curves.append([float(getattr(info, name)) for name in CURVES])
        done = step + 1
        if start.stop or done % config.checkpoint_every == 0 or done == config.steps:
            tensors = trainer.state_dict() | {"curves": torch.tensor(curves, dtype=torch.float64)}
            save_checkpoint(start.folder.state, tensors, {"step": done})
            start.manifest.steps_done = done
        start.stop_if_asked(f"{done} of {config.steps} steps are done", alone=False)
    return curves


def _load(folder: RunFolder, trainer: Trainer) -> tuple[int, list[list[float]]]:
    if not folder.state.exists():
        return 0, []
    saved = load_checkpoint(folder.state)
    curves = saved.tensors.pop("curves").tolist()
    trainer.load_state_dict(saved.tensors)
    return int(saved.record["step"]), curves


def _report(trained: Trained, files: Sequence[Path], curves: Sequence[Sequence[float]], start: Start) -> Report:
    """The contact sheet, and the page around it."""
    shown = torch.stack([read_square(f, trained.size_px) for f in files[:SHOWN]])
    rows = {"source": shown} | {task: trained(shown, task) for task in trained.tasks}
    save_picture(contact_sheet(rows, cell_px=trained.size_px), start.folder.sheet)
    gradient, change, s_text, identity = zip(*curves, strict=True)  # as in CURVES
    charts = (
        Curve("Gradient", gradient, log=True, hint="root mean square of the direction in latents"),
        Curve("Change", change, hint="how far results are from their sources"),
        Curve("Guidance", s_text, hint="rises during the warm-up"),
        Curve("Identity", identity, hint="weight of staying with the source"),
    )
    facts = (f"{len(files)} pictures", f"{len(trained.tasks)} tasks", f"prior {trained.prior.name}")
    return Report("Translation network", "", facts, curves=charts)
