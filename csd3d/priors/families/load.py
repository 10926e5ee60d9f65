"""Loading a pipeline of a family: from a directory of safetensors, checked before it is used."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from packaging.version import Version

from csd3d.priors.defaults import USUAL_PX
from csd3d.priors.families.check import check
from csd3d.priors.families.codec import FamilyCodec, read_factor
from csd3d.priors.families.conditions import Conditions
from csd3d.priors.families.levels import read_levels
from csd3d.priors.families.pictures import Pictures
from csd3d.priors.families.prior import FamilyEditor, FamilyPrior, FamilyTextToImage
from csd3d.priors.families.record import network_of
from csd3d.priors.families.table import FAMILIES, Family
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.store.additions import add_to
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.load import check_whole, first_line, locate
from csd3d.priors.store.resolve import Resolved, pipeline_of, resolve
from csd3d.priors.store.silence import quiet

_DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
"""What diffusers calls the precision of a pipeline."""


def load_family(
    name: str | Path | Resolved,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offline: bool = False,
    how: Loading = PLAIN,
) -> FamilyPrior:
    """Load a prior of a family.

    Args:
        name: A directory in diffusers layout, a hub id, or what one of these was resolved to.
        device: None takes CUDA when there is one.
        dtype: Of the networks; None takes the family's own half precision on CUDA, float32 elsewhere.
        offline: Ask the hub's cache only.
        how: What is put into it.

    Raises:
        FileNotFoundError: There is no such directory, or the hub id cannot be had.
        ValueError: What is there cannot be read, lacks a package, or fails the check (`families.check`).
    """
    resolved = name if isinstance(name, Resolved) else resolve(name)
    chosen = pick_device(device)
    found = locate(resolved, offline=offline, half=chosen.type == "cuda")
    assert found.path is not None
    family = FAMILIES[pipeline_of(found.path)]
    if dtype is None and chosen.type == "cuda":
        dtype = torch.bfloat16 if family.half == "bfloat16" else torch.float16
    pipe = read_pipeline(found.path, family, device=chosen, dtype=pick_dtype(dtype, chosen))
    said = add_to(pipe, how, title=family.title) if how.lora or how.embedding else []
    return replace(make_prior(pipe, family, found, device=chosen), how=how, said=said)


def read_pipeline(path: Path, family: Family, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The diffusers pipeline in `path`, its weights frozen. Raises ValueError in one line for what cannot be read."""
    lacks = [package for package in family.needs if importlib.util.find_spec(package) is None]
    if lacks:
        raise ValueError(f'prior {path}: {family.title} needs {", ".join(lacks)}: pip install "csd3d[families]"')
    for file in sorted(path.glob("*/*.safetensors")):
        check_whole(file)
    cls = vars(diffusers).get(pipeline_of(path)) or getattr(diffusers, pipeline_of(path), None)
    if cls is None:
        raise ValueError(
            f"prior {path}: expected a diffusers that has {pipeline_of(path)}, got {diffusers.__version__}; upgrade it"
        )
    with quiet():
        try:
            pipe = cls.from_pretrained(
                str(path), variant=_variant(path, dtype), use_safetensors=True, local_files_only=True, **{_DTYPE: dtype}
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ValueError(f"prior {path}: cannot be read: {first_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "is_cosxl_edit"):  # which no file of a pipeline says: it scales its condition
        pipe.is_cosxl_edit = type(pipe.scheduler).__name__.startswith("EDM")
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return pipe.to(device)


def make_prior(pipe: Any, family: Family, found: Resolved, *, device: torch.device) -> FamilyPrior:
    """A prior of a pipeline that is on its device. Raises ValueError where the check fails."""
    assert found.path is not None
    net_chunks, codec_chunks = Chunks(device), Chunks(device)
    factor = read_factor(pipe)
    vae = pipe.vae
    if vae.config.get("force_upcast") and vae.dtype == torch.float16:  # it overflows; the pipeline upcasts its own
        vae = type(vae).from_config(vae.config)
        vae.load_state_dict(pipe.vae.state_dict())
        vae = vae.to(device, torch.float32).requires_grad_(False).eval()
    codec = FamilyCodec(vae, factor=factor, multiple_px=factor * _patch(pipe, family), chunks=codec_chunks)
    try:
        with quiet():
            learnt = check(pipe, family, codec)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"prior {found.path}: {first_line(error)}") from error
    if learnt.looks:
        codec.pictures = Pictures()
    levels = read_levels(pipe.scheduler)
    cls = FamilyEditor if family.kind == "instruct" else FamilyTextToImage
    return cls(
        name=found.name,
        path=found.path,
        builtin=False,
        device=device,
        codec=codec,
        schedule=levels.schedule,
        native_px=_native_px(pipe, factor),
        family=family,
        learnt=learnt,
        levels=levels,
        conditions=Conditions(
            pipe, family, codec, looks=learnt.looks, out_like=learnt.out_like, place=learnt.place
        ),
        pipe=pipe,
        chunks=(net_chunks, codec_chunks),
    )  # fmt: skip


def _patch(pipe: Any, family: Family) -> int:
    """Latents along one side of what the network reads as one."""
    patch = network_of(pipe).config.get("patch_size", 1)
    return 2 if family.layout != "plain" else patch if isinstance(patch, int) else 1


def _native_px(pipe: Any, factor: int) -> int:
    """Side in px of the pictures that a pipeline makes where nothing is asked for."""
    side = pipe.default_sample_size if hasattr(pipe, "default_sample_size") else None
    side = side or network_of(pipe).config.get("sample_size")
    return side * factor if isinstance(side, int) and side > 0 else USUAL_PX


def _variant(path: Path, dtype: torch.dtype) -> str | None:
    """Which files to read: plain ones, or those in half precision where that is wanted or there are no others."""
    names = [file.name for file in path.glob("*/*.safetensors")]
    halves = [variant for variant in ("fp16", "bf16") if any(f".{variant}" in name for name in names)]
    plain = any(not any(f".{variant}" in name for variant in halves) for name in names)
    return halves[0] if halves and (dtype != torch.float32 or not plain) else None
