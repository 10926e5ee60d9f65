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
