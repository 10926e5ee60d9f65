"""Loading a pipeline of a family: from a directory of safetensors, checked before it is used."""

import importlib.util
import inspect
import re
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from packaging.version import Version

from csd3d.priors.defaults import USUAL_PX
from csd3d.priors.families.check import check
from csd3d.priors.families.clip_editor import ClipEditor
from csd3d.priors.families.clips import ClipCodec
from csd3d.priors.families.codec import FamilyCodec, read_factor
from csd3d.priors.families.conditions import Conditions
from csd3d.priors.families.levels import read_levels
from csd3d.priors.families.pictures import Pictures
from csd3d.priors.families.prior import FamilyEditor, FamilyPrior, FamilyTextToImage
from csd3d.priors.families.record import lacks_ftfy, network_of
from csd3d.priors.families.table import Family
from csd3d.priors.guards import load_guard
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.networks.chunks import Chunks
from csd3d.priors.store.additions import add_to
from csd3d.priors.store.device import pick_device, pick_dtype
from csd3d.priors.store.files import check_whole, first_line, read_part, require_weights, shapes_in
from csd3d.priors.store.load import locate, readable, unread
from csd3d.priors.store.resolve import Resolved, named_parts, pipeline_of, read_json, resolve
from csd3d.priors.store.savings import quantised_parts, read_on, require_savings, save_memory
from csd3d.priors.store.silence import quiet, worth_a_bar
from csd3d.priors.store.single_file import NETWORKS, read_single
from csd3d.slow_imports import uncollected

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
    resolved = name if isinstance(name, Resolved) else resolve(name, how)
    chosen = pick_device(device)
    found = locate(resolved, offline=offline or how.offline, half=chosen.type == "cuda")
    assert found.path is not None
    family = found.family
    assert family is not None
    if how.device_map != "none" and not family.spreads:
        raise ValueError(f"device-map: expected none for {family.title}, whose layers must lie together, got balanced")
    if dtype is None and chosen.type == "cuda":
        dtype = torch.bfloat16 if family.half == "bfloat16" else torch.float16
    require_savings(how, chosen, whole=found.weights is None)
    precision = pick_dtype(dtype, chosen)
    pipe = read_pipeline(found.path, family, dtype=precision, weights=found.weights, how=how)
    merge = how.quantise in ("none", "fp8")
    said = [] if found.weights else left_out(network_of(pipe), found.path, family.title)
    said += add_to(pipe, how, title=family.title, merge=merge) if how.lora or how.embedding else []
    if lacks_ftfy(pipe, family):
        said.append(f"{family.title}: ftfy is not installed, sentences are read as they are written")
    pipe = pipe if how.offload else pipe.to(read_on(how, chosen))
    also = save_memory(network_of(pipe), pipe.components, how, chosen)
    prior = make_prior(pipe, family, found, device=chosen, also=also)
    guard = load_guard(how, network_of(pipe), prior.codec, title=family.title, device=chosen)
    return replace(prior, how=how, said=said, weights=found.weights, guard=guard)


def read_pipeline(
    path: Path, family: Family, *, dtype: torch.dtype, weights: Path | None = None, how: Loading = PLAIN
) -> Any:
    """The diffusers pipeline in `path`, or in the one file of `weights`, its weights frozen. Raises ValueError in one
    line for what cannot be read."""
    lacks = [package for package in family.needs if importlib.util.find_spec(package) is None]
    if lacks:
        raise ValueError(f'prior {path}: {family.title} needs {", ".join(lacks)}: pip install "csd3d[families]"')
    files = sorted(path.glob("*/*.safetensors"))
    for file in files:
        check_whole(file)
    with uncollected():
        cls = _class_of(pipeline_of(path), family)
    if cls is None:
        raise ValueError(
            f"prior {path}: expected a diffusers that has {pipeline_of(path)}, got {diffusers.__version__}; upgrade it"
        )
    with quiet(hide_bars=not worth_a_bar(files)):
        if weights is None:
            pipe = _read_directory(path, cls, dtype=dtype, how=how)
        else:
            with readable(weights):
                pipe = read_single(weights, path, cls, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            with readable(weights or path, name):
                require_weights(unread(part))
            part.requires_grad_(False).eval()
    if family.of_clips:
        with quiet():
            pipe.vae.to(torch.float32)  # in which it is handed clips
    if hasattr(pipe, "is_cosxl_edit"):  # which no file of a pipeline says: it scales its condition
        pipe.is_cosxl_edit = type(pipe.scheduler).__name__.startswith("EDM")
    return pipe


def _read_directory(path: Path, cls: Any, *, dtype: torch.dtype, how: Loading) -> Any:
    """The pipeline of class `cls` in `path`. Models of transformers are read one by one, since a pipeline that reads
    them does not say which of their weights lack. Raises ValueError for what cannot be read."""
    parts, variant = named_parts(read_json(path / "model_index.json", "not a prior")), _variant(path, dtype)
    wanted = {name for name, its in inspect.signature(cls.__init__).parameters.items() if its.default is its.empty}
    if lacks := sorted(wanted - {"self", *cls._optional_components, *parts}):
        raise ValueError(f"prior {path}: expected its model_index.json to name a {lacks[0]}, which {cls.__name__} has")
    quantised, given = quantised_parts(how, parts, dtype), dict[str, Any]()
    for part, name in parts.items():
        model = getattr(transformers, name, None)
        if isinstance(model, type) and issubclass(model, transformers.PreTrainedModel):
            own = variant if any(f".{variant}" in file.name for file in (path / part).glob("*.safetensors")) else None
            more = {"quantization_config": quantised.pop(part)} if part in quantised else {}
            with readable(path, part):
                given[part] = read_part(model, path / part, torch_dtype=dtype, variant=own, **more)
    more: dict[str, Any] = {}
    if quantised:
        from diffusers.quantizers import PipelineQuantizationConfig

        more["quantization_config"] = PipelineQuantizationConfig(quant_mapping=quantised)
    more |= {"variant": variant, "use_safetensors": True, "local_files_only": True, _DTYPE: dtype}
    with readable(path):
        return cls.from_pretrained(str(path), **given, **more)


def left_out(net: torch.nn.Module, path: Path, title: str) -> list[str]:
    """What the files of a network in a directory have that its class here has not, as of a newer diffusers: notes."""
    folder = next(path / name for name in NETWORKS if (path / name).is_dir())
    options = inspect.signature(type(net).__init__).parameters
    config = read_json(folder / "config.json", "not a usable part")
    places, ignored = net.state_dict().keys(), getattr(net, "_keys_to_ignore_on_load_unexpected", None) or ()
    names = {name for file in folder.glob("*.safetensors") for name in shapes_in(file)} - places
    found = {
        "settings": [name for name in config if not name.startswith("_") and name not in options],
        "weights": [name for name in names if not any(re.search(pattern, name) for pattern in ignored)],
    }
    return [
        f"{title}: diffusers {diffusers.__version__} leaves out {len(some)} {what} of its {folder.name}, "
        f"{min(some)!r} for one; is it of a newer one?"
        for what, some in found.items()
        if some
    ]


def _class_of(name: str, family: Family) -> Any:
    """The class of a pipeline; None where this diffusers has none of that name."""
    if family.ours:
        from csd3d.priors.families import sd3_instruct

        return getattr(sd3_instruct, name)
    return vars(diffusers).get(name) or getattr(diffusers, name, None)


def make_prior(
    pipe: Any, family: Family, found: Resolved, *, device: torch.device, also: tuple[torch.device, ...] = ()
) -> FamilyPrior:
    """A prior of a pipeline that is on its device, and `also` on others. Raises ValueError where the check fails."""
    assert found.path is not None
    net_chunks, codec_chunks = Chunks(device, also=also), Chunks(device)
    factor = read_factor(pipe)
    vae = pipe.vae
    if vae.config.get("force_upcast") and vae.dtype == torch.float16:  # it overflows; the pipeline upcasts its own
        vae = type(vae).from_config(vae.config)
        vae.load_state_dict(pipe.vae.state_dict())
        vae = vae.to(device, torch.float32).requires_grad_(False).eval()
    make = ClipCodec if family.of_clips else FamilyCodec
    multiple_px = lcm(factor * _patch(pipe, family), _resized_to(pipe))
    codec = make(vae, factor=factor, multiple_px=multiple_px, chunks=codec_chunks)
    try:
        with quiet():
            learnt = check(pipe, family, codec, device=device)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers and chat templates raise no narrower kind
        said, name = first_line(error), type(pipe).__name__
        said = said if said.startswith(name) else f"{name} cannot be recorded: {said}"
        raise ValueError(f"prior {found.path}: {said}") from error
    if learnt.looks:
        codec.pictures = Pictures()
    levels = read_levels(pipe.scheduler)
    return _prior_class(family)(
        name=found.name,
        path=found.path,
        builtin=False,
        device=device,
        codec=codec,
        schedule=levels.schedule,
        native_px=family.side_px or _native_px(pipe, factor),
        family=family,
        learnt=learnt,
        levels=levels,
        conditions=Conditions(
            pipe, family, codec, looks=learnt.looks, out_like=learnt.out_like, place=learnt.place, device=device
        ),
        pipe=pipe,
        chunks=(net_chunks, codec_chunks),
    )  # fmt: skip


def _prior_class(family: Family) -> type[FamilyPrior]:
    if family.kind == "text-to-image":
        return FamilyTextToImage
    return ClipEditor if family.of_clips else FamilyEditor


def _patch(pipe: Any, family: Family) -> int:
    """Latents along one side of what the network reads as one."""
    config = network_of(pipe).config
    patch = config.get("patch_size") or config.get("all_patch_size", (1,))
    patch = patch if isinstance(patch, int) else patch[-1]  # the last: of a clip, time, height and width
    return patch if family.layout in ("plain", "clip") else 2


def _resized_to(pipe: Any) -> int:
    """Multiples in px to which an editor's pipeline resizes its sources: that of DreamLite to those of two latents."""
    return int(pipe.image_processor.config.vae_scale_factor) if hasattr(pipe, "image_processor") else 1


def _native_px(pipe: Any, factor: int) -> int:
    """Side in px of the pictures that a pipeline makes where nothing is asked for."""
    side = pipe.default_sample_size if hasattr(pipe, "default_sample_size") else None
    side = side or network_of(pipe).config.get("sample_size")
    return side * factor if isinstance(side, int) and side > 0 else USUAL_PX


def _variant(path: Path, dtype: torch.dtype) -> str | None:
    """Which files to read: plain ones, or those in half precision where that is wanted or a part has no others."""
    names = {part: [file.name for file in part.glob("*.safetensors")] for part in path.iterdir()}
    there = [variant for variant in ("fp16", "bf16") if any(f".{variant}" in n for ns in names.values() for n in ns)]
    plain = all(any(not any(f".{v}" in name for v in there) for name in ns) for ns in names.values() if ns)
    return there[0] if there and (dtype != torch.float32 or not plain) else None
