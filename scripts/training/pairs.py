"""Latents of all training pictures and the list of pairs an instruction joins.

Within a group every two pictures whose scenes are joined by some edit make a pair, not only source and edit: from "the
ball is red" to "the ball is blue", or from the night back to the day. Ten pictures teach some thirty edits.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.world.edits import KINDS, all_edits, applicable
from csd3d.world.scene import Scene, SceneSampler
from scripts.training.pictures import GROUPS_PER_SHARD, holds_photos, number_of, read_shard, visible


def _scene_pairs(seed: int, images: UInt8[Tensor, "k 3 S S"], edits: list[int]) -> list[tuple[int, int, int]]:
    """(from, to, edit) for a group of the world."""
    known = all_edits()
    scene = SceneSampler().sample(seed)
    scenes: dict[Scene, int] = {scene: 0}
    pairs = []
    for k, e in enumerate(edits):
        if e >= 0 and known[e].on_pixels is None:
            scenes.setdefault(known[e].scene(scene), k + 1)
        elif e >= 0:
            pairs.append((0, k + 1, e))
    index = {e.name: i for i, e in enumerate(known)}
    small = images[..., ::2, ::2].float() / 255
    for before, i in scenes.items():
        for edit in applicable(before):
            j = None if edit.on_pixels else scenes.get(edit.scene(before))
            if j is not None and visible(small[i], small[j]):
                pairs.append((i, j, index[edit.name]))
    return pairs


def group_pairs(
    shard: int, group: int, images: UInt8[Tensor, "k 3 S S"], edits: list[int]
) -> list[tuple[int, int, int]]:
    """(from, to, edit) for any group."""
    if holds_photos(shard):
        return [(0, k + 1, e) for k, e in enumerate(edits) if e >= 0]
    return _scene_pairs(shard * GROUPS_PER_SHARD + group, images, edits)


@torch.inference_mode()
def encode_shard(vae: AutoencoderKL, path: Path, out: Path) -> None:
    """Write `z` (float16, unscaled posterior modes) [g k c h w] and `pairs` int64 [p 4] = (group, from, to, edit)."""
    target = out / path.name
    if target.exists():
        return
    images, edits = read_shard(path)
    shard = number_of(path)
    pairs = [
        (g, i, j, e) for g in range(len(images)) for i, j, e in group_pairs(shard, g, images[g], edits[g].tolist())
    ]
    parts = []
    for part in images.flatten(0, 1).split(64):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(part.float() / 127.5 - 1).latent_dist.mode())  # pyright: ignore[reportAttributeAccessIssue]
    z = torch.cat([p.half() for p in parts])
    partial = target.with_suffix(".part")
    save_file({"z": z.view(*images.shape[:2], *z.shape[1:]), "pairs": torch.tensor(pairs)}, partial)
    partial.rename(target)


@dataclass
class PairStore:
    """All latents and pairs in memory, drawn kind by kind."""

    z: Float[Tensor, "G k c h w"]
    by_kind: dict[str, Int[Tensor, "p 4"]]

    @staticmethod
    def load(folder: Path) -> "PairStore":
        """Read every encoded shard of a folder."""
        latents, pairs, offset = [], [], 0
        for path in sorted(folder.glob("shard-*.safetensors")):
            tensors = load_file(path)
            rows = tensors["pairs"].clone()
            rows[:, 0] += offset
            offset += len(tensors["z"])
            latents.append(tensors["z"])
            pairs.append(rows)
        every = torch.cat(pairs)
        kind = torch.tensor([KINDS.index(e.kind) for e in all_edits()])[every[:, 3]]
        return PairStore(torch.cat(latents), {k: every[kind == i] for i, k in enumerate(KINDS)})
