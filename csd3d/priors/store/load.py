"""Reading the parts of a prior from a directory, or fetching it from the hub first. Safetensors only."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from csd3d.engine.schedule import Schedule
from csd3d.priors.families.table import Kind
from csd3d.priors.networks.denoiser import Prediction, layout
from csd3d.priors.store.files import check_whole, first_line, read_part, require_weights
from csd3d.priors.store.resolve import (
    PIPELINES,
    VAE_SHA256,
    Resolved,
    check_directory,
    part_folder,
    read_json,
    weights_variant,
)
from csd3d.priors.store.silence import quiet, worth_a_bar
from csd3d.priors.store.single_file import read_single
from csd3d.slow_imports import uncollected

if TYPE_CHECKING:  # diffusers takes seconds to import
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import CLIPTextModel, CLIPTokenizer

_VARIANTS = {
    torch.float32: (None, "fp16", "bf16"),
    torch.float16: ("fp16", None, "bf16"),
    torch.bfloat16: ("bf16", "fp16", None),
}
"""Files of a part's weights in order of preference, by the precision that is wanted."""
_SETTINGS = {
    "vae": "config.json",
    "unet": "config.json",
    "text_encoder": "config.json",
    "scheduler": "scheduler_config.json",
}
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
LEAST_ALPHA_BAR = 2.0**-24
"""Of a schedule that ends at noise alone (`rescale_betas_zero_snr`): where ab is 0, a prediction as noise says nothing
of the picture. So small it leaves three digits of it in single precision; diffusers' Euler takes the same."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a prior is made of, on its device, ready to use."""

    kind: Kind
    vae: "AutoencoderKL"
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    unet: "UNet2DConditionModel"
    scheduler: "SchedulerMixin"
    """As loaded; read, never stepped. Samplers make their own from its config."""

    def holder(self) -> Any:  # of a class that diffusers' loaders extend at will
        """A pipeline of the same parts, through which diffusers changes them; it is never called."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
            StableDiffusionInstructPix2PixPipeline,
        )

        holder: Any = StableDiffusionInstructPix2PixPipeline  # whose optional parts are not typed as such
        parts = self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler
        with quiet():
            return holder(*parts, None, None, requires_safety_checker=False)


def fetch(resolved: Resolved, *, revision: str | None, offline: bool, half: bool = False) -> Path:
    """The prior's directory; a hub id is downloaded to the hub's cache first, unless it is there.

    Args:
        offline: Ask the cache only, not the network.
        half: Prefer the files in half precision, where the repository has both.

    Raises:
        FileNotFoundError: The hub id is not in the cache (offline), does not exist, or cannot be reached.
        ValueError: A revision of a directory, which has none.
    """
    if resolved.path is not None:
        if revision is not None:
            raise ValueError(f"revision: only a hub id has revisions, prior {resolved.name!r} is a directory")
        return resolved.path
    with quiet():
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # slow to import, and only needed here

    problem: Exception | None = None
    for variant in ("fp16", None) if half else (None, "fp16"):
        try:
            with quiet(hide_bars=offline):
                folder = DiffusionPipeline.download(
                    resolved.name,
                    revision=revision,
                    local_files_only=offline,
                    use_safetensors=True,
                    variant=variant,
                    safety_checker=None,
                    feature_extractor=None,
                )
            return Path(folder)
        except (OSError, ValueError) as error:  # the hub's own errors are among these
            problem = problem or error
    if offline:
        raise FileNotFoundError(
            f"prior {resolved.name!r}: it is not in the hub's cache on this machine, and nothing is fetched under "
            f"--offline or for a name out of a file: --prior {resolved.name} without --offline does, if you trust it, "
            "or give a directory"
        )
    raise FileNotFoundError(
        f"prior {resolved.name!r}: cannot be had from the hub: {first_line(problem)}. Check the name and the network, "
        "or give a directory; the small prior that comes along is called 'builtin'"
    )


def locate(resolved: Resolved, *, revision: str | None = None, offline: bool = False, half: bool = False) -> Resolved:
    """The same with its directory and its kind: fetched and checked, unless that was done before.

    Raises what `fetch` and `check_directory` do.
    """
    path = fetch(resolved, revision=revision, offline=offline, half=half)
    return replace(resolved, path=path, kind=resolved.kind or check_directory(path))


def load_parts(
    path: Path, *, device: torch.device, dtype: torch.dtype, kind: Kind | None = None, weights: Path | None = None
) -> Parts:
    """Read a prior's directory onto `device` in `dtype`, weights frozen; or the one file `weights`, and from the
    directory what that lacks.

    Its `kind`, where it is given, is what `check_directory` found: it is not checked again.

    Raises:
        ValueError: A part is missing, damaged, pickled, of another class, or does not fit the others.
    """
    with uncollected():
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

    kind = kind or check_directory(path)
    _check_settings(path)
    if weights is not None:
        return _load_single(weights, path, kind, device=device, dtype=dtype)
    _check_shared_vae(path)
    models = {
        part_folder(path, "vae"): AutoencoderKL,
        path / "text_encoder": CLIPTextModel,
        path / "unet": UNet2DConditionModel,
    }
    shown = worth_a_bar(file for folder in models for file in folder.glob("*.safetensors"))
    with quiet():
        bar = track(models.items(), "loading the prior", console=Console(stderr=True), disable=not shown)
        vae, text_encoder, unet = (_load_model(cls, folder, device, dtype) for folder, cls in bar)
        vae, unet = vae.to(memory_format=torch.channels_last), unet.to(memory_format=layout(device))
        with readable(path, "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(str(path / "tokenizer"), local_files_only=True)
        scheduler = _load_scheduler(path)
    parts = Parts(kind, vae, text_encoder, tokenizer, unet, scheduler)
    _check_fit(parts, path)
    return parts


def _load_single(weights: Path, path: Path, kind: Kind, *, device: torch.device, dtype: torch.dtype) -> Parts:
    import diffusers

    cls = getattr(diffusers, next(name for name, its in PIPELINES.items() if its == kind))
    with quiet():
        with readable(weights):
            pipe = read_single(weights, path, cls, dtype=dtype)
        scheduler = _load_scheduler(path)
    models = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "unet")}
    for name, model in models.items():
        with readable(weights, name):
            require_weights(unread(model))
        model.requires_grad_(False).eval().to(device=device, dtype=dtype)
    vae, text_encoder, unet = models.values()
    vae = vae.to(memory_format=torch.channels_last)
    parts = Parts(kind, vae, text_encoder, pipe.tokenizer, unet.to(memory_format=layout(device)), scheduler)
    _check_fit(parts, path)
    return parts


def read_schedule(scheduler: "SchedulerMixin") -> tuple[Schedule, Prediction]:
    """The noise schedule that a prior was trained with, at least `LEAST_ALPHA_BAR`, and what its UNet predicts.

    Raises:
        ValueError: It has no cumulative alphas (a flow model), or predicts something other than epsilon or v.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    name = type(scheduler).__name__
    if not isinstance(alphas, torch.Tensor):
        raise ValueError(
            f"scheduler {name}: expected one with alphas_cumprod (a DDPM schedule), which it does not define"
        )
    # diffusers does not type configs
    prediction = scheduler.config.get("prediction_type", "epsilon")  # pyright: ignore[reportAttributeAccessIssue]
    if prediction != "epsilon" and prediction != "v_prediction":  # spelled out so that the type is narrowed
        raise ValueError(f"scheduler {name}: expected prediction_type epsilon or v_prediction, got {prediction!r}")
    return Schedule(alphas.detach().to("cpu", torch.float32).clamp(min=LEAST_ALPHA_BAR)), prediction


def _load_model(cls: type, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    variant = weights_variant(folder, _VARIANTS[dtype])
    for file in sorted(folder.glob("*.safetensors")):
        check_whole(file)
    with readable(folder.parent, folder.name):
        model = read_part(cls, folder, variant=variant)
    return cast(nn.Module, model).requires_grad_(False).eval().to(device=device, dtype=dtype)


def unread(model: nn.Module) -> list[str]:
    """Names of weights of a model that its file had not, as diffusers leaves them: without numbers."""
    return [key for key, value in model.state_dict().items() if value.is_meta]


def _load_scheduler(path: Path) -> "SchedulerMixin":
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    name = cast(list[str], read_json(path / "model_index.json", "not a prior")["scheduler"])[1]
    cls = getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, SchedulerMixin):
        raise ValueError(f"prior {path}: expected its scheduler to be one of diffusers', got {name!r}")
    with readable(path, "scheduler"):
        return cast(SchedulerMixin, cls.from_pretrained(str(path / "scheduler"), local_files_only=True))


def _check_settings(path: Path) -> None:
    """Raise ValueError when a part's small files are not there: the libraries would fill in defaults of their own."""
    for part, name in _SETTINGS.items():
        read_json(part_folder(path, part) / name, f"not a usable {part}: expected {name} in it")
    if not any(all((path / "tokenizer" / name).is_file() for name in names) for names in _TOKENIZERS):
        raise ValueError(f"prior {path}: expected tokenizer/ to hold {' or '.join(map(' and '.join, _TOKENIZERS))}")


def _check_shared_vae(path: Path) -> None:
    """Raise ValueError when a prior shares a vae that is another by now: it would read its latents wrongly."""
    folder = part_folder(path, "vae")
    if folder.parent == path:
        return
    expected = read_json(path / "model_index.json", "not a prior").get(VAE_SHA256)
    if vae_checksum(folder) != expected:
        raise ValueError(f"prior {path}: expected the vae that it was trained with, {folder} holds another")


def vae_checksum(folder: Path) -> str:
    """SHA-256 of a vae's weights in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _check_fit(parts: Parts, path: Path) -> None:
    latent, scaling = int(parts.vae.config["latent_channels"]), parts.vae.config["scaling_factor"]
    if not isinstance(scaling, int | float) or not 0 < scaling < math.inf:
        raise ValueError(f"prior {path}: expected its vae to have a scaling_factor above 0, got {scaling!r}")
    expected = {
        "in_channels": 2 * latent if parts.kind == "instruct" else latent,
        "out_channels": latent,
        "cross_attention_dim": int(parts.text_encoder.config.hidden_size),
    }
    for name, value in expected.items():
        got = parts.unet.config[name]
        if got != value:
            raise ValueError(
                f"prior {path}: expected its unet to have {name} {value}, as its other parts do, got {got}"
            )
    extra = parts.unet.config["addition_embed_type"]
    if extra not in (None, "text"):
        raise ValueError(f"prior {path}: expected a unet conditioned on one text, got addition_embed_type {extra!r}")
    if len(parts.tokenizer) > parts.text_encoder.config.vocab_size:
        raise ValueError(
            f"prior {path}: expected at most {parts.text_encoder.config.vocab_size} tokens, as its text encoder has, "
            f"got a tokenizer of {len(parts.tokenizer)}"
        )


@contextmanager
def readable(path: Path, part: str = "") -> Iterator[None]:
    """Turn whatever the libraries raise on a damaged part, or on the whole, into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raise no narrower kind, the others a dozen
        what = f"its {part}/ cannot be read" if part else "cannot be read"
        raise ValueError(f"prior {path}: {what}: {first_line(error)}") from error
