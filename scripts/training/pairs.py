"""Latents of all training pictures and the list of pairs an instruction joins.

Within a group every two pictures whose scenes are joined by some edit make a pair, not only source and edit: from "the
ball is red" to "the ball is blue", or from the night back to the day. Ten pictures teach some thirty edits. A
sentence about a thing that is not there joins a picture to itself, as windows of a panorama are often asked so.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.world.edits import KINDS, about_absent
from csd3d.world.families import FEWEST, all_families, every_edit
from csd3d.world.scene import Scene, SceneSampler
from scripts.training.pictures import GROUPS_PER_SHARD, holds_photos, number_of, read_shard, visible

ABSENT_PER_GROUP = 6
"""Edits of things that are not there, of each group."""


def _scene_pairs(seed: int, images: UInt8[Tensor, "k 3 S S"], edits: list[int]) -> list[tuple[int, int, int]]:
    """(from, to, edit) for a group of the world."""
    known = every_edit()
    scene = SceneSampler().sample(seed)
    scenes: dict[Scene, int] = {scene: 0}
    pairs = []
    for k, e in enumerate(edits):
        if e >= 0 and known[e].on_pixels is None:
            scenes.setdefault(known[e].scene(scene), k + 1)
        elif e >= 0:
            pairs.append((0, k + 1, e))
    small = images[..., ::2, ::2].float() / 255
    for before, i in scenes.items():
        for e, edit in enumerate(known):
            j = None if edit.on_pixels else scenes.get(edit.scene(before))
            if j is not None and j != i and visible(small[i], small[j]):
                pairs.append((i, j, e))
    absent = random.Random(f"absent-{seed}").sample(about_absent(scene), ABSENT_PER_GROUP)
    return pairs + [(0, 0, known.index(edit)) for edit in absent]


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
    """All latents and pairs in memory, drawn kind by kind or family by family."""

    z: Float[Tensor, "G k c h w"]
    by_kind: dict[str, Int[Tensor, "p 4"]]
    """Pairs whose edit has sentences of its own."""
    by_family: dict[str, Int[Tensor, "q 4"]]
    """Pairs whose edit is a member, where the source is joined to another member too: there the sentence is open."""
    absent: Int[Tensor, "r 4"]
    """Pairs of a picture and itself, whose edit is of a thing that is not there."""

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
        every, edits = torch.cat(pairs), every_edit()
        same = every[:, 1] == every[:, 2]
        absent, every = every[same], every[~same]
        kind = torch.tensor([KINDS.index(e.kind) if e.wordings else -1 for e in edits])[every[:, 3]]
        number = {e.name: i for i, e in enumerate(edits)}
        families = {f.name: open_pairs(every, [number[m.name] for m in f.members]) for f in all_families()}
        return PairStore(torch.cat(latents), {k: every[kind == i] for i, k in enumerate(KINDS)}, families, absent)


def open_pairs(pairs: Int[Tensor, "p 4"], members: list[int]) -> Int[Tensor, "q 4"]:
    """The pairs whose edit is one of `members`, of sources (group, picture) joined to two of them or more.

    Drawn evenly, they make the members of a source equally likely: a group holds as many of one as of another.
    """
    some = pairs[torch.isin(pairs[:, 3], torch.tensor(members))]
    _, row, count = some[:, :2].unique(dim=0, return_inverse=True, return_counts=True)
    return some[count[row] >= FEWEST]
