"""A prior whose weights are one safetensors file, as many are published, by diffusers' own conversions.

Configurations and tokenizers come from a directory in diffusers layout: one that is named, or that of the model which
diffusers recognises in the file, from the hub's cache. No network is asked. What the file lacks, such as the large text
encoders and the autoencoder beside a bare transformer, is read from the same directory where it is there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from csd3d.priors.families.table import FAMILIES, Kind
from csd3d.priors.store.files import check_whole, first_line, read_part, shapes_in
from csd3d.priors.store.index import PIPELINES, check_small_files, named_parts, pipeline_of, read_json

if TYPE_CHECKING:
    import torch

NETWORKS = ("unet", "transformer")
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_FIRST = "model.diffusion_model.input_blocks.0.0.weight"
_ASK = "give a directory with its small files (configurations, tokenizers) as --prior-config"


def config_for(file: Path, config: Path | None) -> tuple[Path, Kind]:
    """The directory with the small files of the model in `file`, and what that is.

    Raises:
        ValueError: The file is no whole safetensors file, nothing that diffusers recognises, or the directory is of no
            pipeline that is known, lacks a part, or has pickles.
        FileNotFoundError: No directory is given, and that of the recognised model is not in the hub's cache.
    """
    check_whole(file)
    path = config if config is not None else _recognised(file)
    index = read_json(path / "model_index.json", "not a diffusers directory: expected model_index.json in it")
    name = pipeline_of(path)
    if name not in PIPELINES and name not in FAMILIES:
        known = " or ".join(PIPELINES)
        raise ValueError(f"prior {file}: expected {known}, or a family in docs/families.md, got a {name}")
    for part, class_name in named_parts(index).items():
        if part not in ("safety_checker", "feature_extractor", "image_encoder"):
            if not (path / part).is_dir():
                raise ValueError(f"prior-config {path}: its folder {part}/ is missing")
            check_small_files(path, part, class_name)
        kinds = {p.suffix for p in (path / part).glob("*")} if (path / part).is_dir() else set[str]()
        if kinds & PICKLES and ".safetensors" not in kinds:
            raise ValueError(f"prior-config {path}: {part}/ has pickles, which can run any program when they are read")
    return path, PIPELINES[name] if name in PIPELINES else FAMILIES[name].kind


def _recognised(file: Path) -> Path:
    """The directory, in the hub's cache, of the model that diffusers takes a file for."""
    import torch
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    shapes = shapes_in(file)
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    try:
        kind = infer_diffusers_model_type(empty)
    except (UnboundLocalError, KeyError, IndexError):  # of a file like none that it knows
        kind = None
    sees_a_picture = len(shapes.get(_FIRST, ())) == 4 and shapes[_FIRST][1] == 8
    fallback = kind == "v1" and _FIRST not in shapes  # what it says of anything unknown
    repo = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(str(kind), {}).get("pretrained_model_name_or_path")
    if repo is None or fallback or (sees_a_picture and kind != "instruct-pix2pix"):
        raise ValueError(f"prior {file}: diffusers does not recognise it; {_ASK}")
    try:
        return Path(snapshot_download(str(repo), local_files_only=True))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"prior {file}: diffusers takes it for {repo}, which the hub's cache on this machine lacks; {_ASK}, "
            f'or fetch them: hf download {repo} --include "*.json" "*.txt" "*.model"'
        ) from None


def read_single(file: Path, path: Path, cls: Any, *, dtype: "torch.dtype") -> Any:
    """The pipeline of class `cls` with the weights of `file`, and what `file` lacks from the directory `path`.

    Raises:
        ValueError: Weights of a part are in neither, or do not fit its configuration.
    """
    import diffusers
    import transformers
    from diffusers.loaders.single_file_utils import (
        SingleFileComponentError,
        is_clip_model_in_single_file,
        is_t5_in_single_file,
    )
    from safetensors import safe_open

    where: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    index = read_json(path / "model_index.json", "not a prior")
    with safe_open(str(file), framework="pt") as tensors:
        keys = dict.fromkeys(tensors.keys())
    given: dict[str, Any] = {}
    for part, name in named_parts(index).items():
        model: Any = getattr(diffusers, name, None) or getattr(transformers, name, None)
        there = any((path / part).glob("*.safetensors"))
        try:
            if hasattr(model, "from_single_file"):
                given[part] = model.from_single_file(str(file), config=str(path), subfolder=part, **where)
                continue
        except SingleFileComponentError:
            if part in NETWORKS or not there:
                raise ValueError(f"expected weights of its {part} in it or in {path}") from None
        except (NotImplementedError, LookupError):  # of weights on no device, or that a conversion looks for in vain
            raise ValueError(f"it lacks weights of its {part}, or is of another model") from None
        has_text = is_clip_model_in_single_file(model, keys) or is_t5_in_single_file(keys)
        if there and model is not None and not has_text:
            given[part] = read_part(model, path / part, torch_dtype=dtype)
    try:
        if hasattr(cls, "from_single_file"):
            return cls.from_single_file(str(file), config=str(path), safety_checker=None, **given, **where)
        return cls.from_pretrained(str(path), use_safetensors=True, **given, **where)
    except SingleFileComponentError as error:
        raise ValueError(f"expected all its parts in it or in {path}: {first_line(error)}") from None
