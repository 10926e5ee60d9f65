"""What a prior's model_index.json says: the diffusers class of the whole, and its parts. Light: it reads JSON only."""

from collections.abc import Mapping
from pathlib import Path

from csd3d.media.json_file import load_json
from csd3d.priors.families.table import Kind

PIPELINES: dict[str, Kind] = {
    "StableDiffusionInstructPix2PixPipeline": "instruct",
    "StableDiffusionPipeline": "text-to-image",
}
"""Pipelines that are loaded part by part. Those of the families are in `FAMILIES`."""


_TOKENIZERS = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",), ("vocab.txt",)
)  # fmt: skip
_SMALL = {
    "Tokenizer": _TOKENIZERS,
    "TokenizerFast": _TOKENIZERS,
    "Scheduler": (("scheduler_config.json",),),
    "Processor": (("preprocessor_config.json",), ("processor_config.json",)),
    "FeatureExtractor": (("preprocessor_config.json",),),
}
"""Small files of a part by the end of its class's name; any one of these sets will do."""


def pipeline_of(path: Path) -> str:
    """Name of the diffusers class that the prior in `path` belongs to. Raises ValueError where there is none."""
    return str(read_json(path / "model_index.json", "not a prior").get("_class_name"))


def named_parts(index: Mapping[str, object]) -> dict[str, str]:
    """Folders that a model_index.json names, each with the class of what is in it."""
    pairs = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and not k.startswith("_")}
    return {k: v[1] for k, v in pairs.items() if isinstance(v[1], str)}


def read_json(path: Path, missing: str) -> dict[str, object]:
    """A file's JSON object. Raises ValueError, "DIRECTORY is `missing`" if there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is {missing}")
    content = load_json(path, "prior")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def is_weightless(class_name: str) -> bool:
    """Whether a part of this class has no weights."""
    return class_name.endswith(tuple(_SMALL))


def check_small_files(path: Path, part: str, class_name: str) -> None:
    """Raise ValueError where the settings or the vocabulary of a part of the prior in `path` are not there: libraries
    would fill in some of their own."""
    sets = next((sets for end, sets in _SMALL.items() if class_name.endswith(end)), (("config.json",),))
    if not any(all((path / part / name).is_file() for name in names) for names in sets):
        raise ValueError(f"prior {path}: expected {part}/ to hold {' or '.join(map(' and '.join, sets))}, found none")
