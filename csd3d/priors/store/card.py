"""What the folder of a prior says of itself: its licence, and what its weights take."""

import re
from pathlib import Path

from csd3d.priors.store.resolve import part_folder, parts_of


def licence_of(path: Path) -> str | None:
    """What the head of the model card in `path` calls its licence, None where it says nothing."""
    card = path / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    named = dict(re.findall(r"^(license(?:_name)?):[ \t]*(\S.*)$", head[1], re.MULTILINE) if head else [])
    return named.get("license_name") or named.get("license")


def weights_of(path: Path) -> dict[str, int]:
    """Bytes of the safetensors of every part in `path`; where a part has several variants, of the smallest."""
    sizes = {part: bytes_of(part_folder(path, part)) for part in parts_of(path)}
    return {part: size for part, size in sizes.items() if size}


def bytes_of(part: Path) -> int:
    """Of the safetensors of one part; where it has several variants, of the smallest; 0: there are none."""
    sizes: dict[str | None, int] = {}
    for file in part.glob("*.safetensors"):
        variant = next((v for v in ("fp16", "bf16") if f".{v}" in file.name), None)
        sizes[variant] = sizes.get(variant, 0) + file.stat().st_size
    return min(sizes.values(), default=0)
