"""The training pictures: groups of one source and its edited versions, rendered into shards that can be resumed.

A shard is one safetensors file: `images` uint8 [g, 1 + e, 3, S, S] (source first) and `edits` int64 [g, e], an index
into `csd3d.world.families.every_edit()`, or -1 where the slot is empty or the edit can hardly be seen.
"""

import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from csd3d.media.pictures.levels import from_levels
from csd3d.world.camera import Camera, camera_path, look_at
from csd3d.world.edits import KINDS, Edit, all_edits, find_edit
from csd3d.world.families import every_edit, families_in
from csd3d.world.filters import moonlight
from csd3d.world.leaves import dead_leaves
from csd3d.world.render import render, render_looks
from csd3d.world.sample import LEAST_SHARE, changed_share
from csd3d.world.scene import Scene, SceneSampler

SIZE_PX = 128
EDITS_PER_GROUP = 9
GROUPS_PER_SHARD = 64
KIND_WEIGHT = {
    "colour": 1.8, "material": 5.0, "shape": 3.0, "add": 1.6, "remove": 5.5,
    "time": 1.0, "weather": 3.2, "ground": 2.4, "sky": 0.8, "style": 3.4,
}  # fmt: skip
"""How often a kind is drawn: more where a thing has to be found, or much of the picture to be made anew."""

FAMILY_WEIGHT = {
    "colour": 0.5, "material": 2.0, "shape": 0.7, "add": 6.0, "remove": 1.0,
    "time": 0.3, "weather": 1.0, "ground": 0.4, "sky": 0.8, "style": 2.0,
}  # fmt: skip
"""How often a group begins with a family of a kind: most of all where its members would seldom meet by chance."""
FAMILIES_PER_GROUP, MEMBERS_PER_GROUP = 2, 3
"""Families that a group begins with, and how many members of each, drawn evenly from those that apply."""

TRAIN_PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "clock_motion.png", "coffee.png", "coins.png", "color.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
)  # fmt: skip
HELD_OUT_PHOTOS = ("chelsea.png", "rocket.jpg")
"""Never trained on; together with any photograph of your own they measure the codec."""


@dataclass(frozen=True)
class Group:
    """A source picture, its edits and what they give."""

    images: UInt8[Tensor, "k 3 S S"]
    edits: Int[Tensor, " e"]


def training_camera(seed: int, size_px: int = SIZE_PX) -> Camera:
    """A random view of the middle of the world."""
    rng = random.Random(f"camera-{seed}")
    return camera_path(
        "orbit",
        1,
        height_px=size_px,
        width_px=size_px,
        target=(rng.uniform(-0.7, 0.7), 0.0, rng.uniform(0.7, 1.05)),
        azimuth=-90 + rng.uniform(-40, 40),
        elevation=rng.uniform(3, 16),
        distance=rng.uniform(3.9, 5.3),
        fov=rng.uniform(46, 54),
    )[0]


VIEW_SHARE = {"sky": 0.05, "ground": 0.04, "surface": 0.07}
"""Share of the groups seen by special cameras: what a window of a panorama or a patch of a photograph may show."""
VIEW_KINDS: dict[str, tuple[str, ...]] = {
    "sky": ("time", "weather", "sky", "style"),
    "ground": ("time", "weather", "ground", "style"),
    "surface": ("colour", "material", "time", "weather", "style"),
    "middle": KINDS,
}
"""What may be edited in each view."""


def view_of(seed: int) -> str:
    """How group `seed` is seen: one of `VIEW_KINDS`."""
    u = random.Random(f"view-{seed}").random()
    for name, share in VIEW_SHARE.items():
        if u < share:
            return name
        u -= share
    return "middle"


def group_camera(seed: int, scene: Scene, size_px: int = SIZE_PX) -> Camera:
    """The camera of group `seed`: mostly `training_camera`; else into the sky, down on the ground, or at a surface."""
    view, rng = view_of(seed), random.Random(f"group-camera-{seed}")
    if view == "middle":
        return training_camera(seed, size_px)
    fov = rng.uniform(40, 54)
    angle = math.radians(rng.uniform(0, 360))
    x, y = math.cos(angle), math.sin(angle)
    if view == "surface":
        thing = rng.choice(scene.things)
        angle = math.radians(-90 + rng.uniform(-50, 50))
        away = thing.size * rng.uniform(1.7, 2.4)
        middle = (*thing.position, thing.size * rng.uniform(0.7, 1.2))
        eye = (middle[0] + away * math.cos(angle), middle[1] + away * math.sin(angle), middle[2] + rng.uniform(0, 0.5))
        return Camera(look_at(eye, middle), size_px, size_px, fov)
    eye = (rng.uniform(-1, 1), rng.uniform(-5, -3), rng.uniform(1.2, 2.2))
    slope = math.tan(math.radians(rng.uniform(28, 75) if view == "sky" else -rng.uniform(35, 75)))
    if view == "ground":
        y = -abs(y)  # away from the things
    return Camera(look_at(eye, (eye[0] + x, eye[1] + y, eye[2] + slope)), size_px, size_px, fov)


def visible(source: Float[Tensor, "3 S S"], edited: Float[Tensor, "3 S S"]) -> bool:
    """Whether an edit shows in a square picture."""
    return bool(changed_share(source[None], edited[None]) > LEAST_SHARE)


def _members(scene: Scene, edits: list[Edit], rng: random.Random) -> list[Edit]:
    """Some members of some families that leave something open in the scene, of those `edits` that may be chosen."""
    names, chosen = {e.name for e in edits}, []
    families = [f for f in families_in(scene) if all(e.name in names for e in f.open_in(scene))]
    for _ in range(FAMILIES_PER_GROUP):
        kinds = sorted({f.kind for f in families})
        kind = rng.choices(kinds, [FAMILY_WEIGHT[k] for k in kinds])[0]
        family = rng.choice([f for f in families if f.kind == kind])
        members = family.open_in(scene)
        chosen += rng.sample(members, min(MEMBERS_PER_GROUP, len(members)))
    return list({e.name: e for e in chosen}.values())


def _choose(edits: list[Edit], count: int, rng: random.Random, chosen: list[Edit]) -> list[Edit]:
    """`count` different edits, those already `chosen` among them.

    The others have sentences of their own: first a kind is drawn by its weight, then one of that kind.
    """
    left, chosen = [e for e in edits if e.wordings and e not in chosen], list(chosen)
    while left and len(chosen) < count:
        kinds = sorted({e.kind for e in left})
        kind = rng.choices(kinds, [KIND_WEIGHT[k] for k in kinds])[0]
        edit = rng.choice([e for e in left if e.kind == kind])
        left.remove(edit)
        chosen.append(edit)
    return chosen


def edited_pictures(scene: Scene, camera: Camera, edits: list[Edit]) -> Float[Tensor, "k 3 S S"]:
    """The source and its edits, casting each geometry once."""
    looks = [scene, *(e.scene(scene) for e in edits if e.on_scene and e.same_geometry)]
    pictures = iter(render_looks([looks], [camera]))
    source = next(pictures)
    out = [source]
    for edit in edits:
        if edit.on_pixels:
            out.append(edit.on_pixels(source))
        elif edit.same_geometry:
            out.append(next(pictures))
        else:
            out.append(render([edit.scene(scene)], [camera]))
    return torch.cat(out)


def _group(pictures: Float[Tensor, "k 3 S S"], edits: list[Edit]) -> Group:
    order = {e.name: i for i, e in enumerate(every_edit())}
    index = [order[e.name] if visible(pictures[0], p) else -1 for e, p in zip(edits, pictures[1:], strict=True)]
    missing = EDITS_PER_GROUP - len(edits)
    images = (pictures * 255).round().to(torch.uint8)
    images = torch.cat([images, images[:1].expand(missing, -1, -1, -1)])
    return Group(images, torch.tensor(index + [-1] * missing))


def world_group(seed: int) -> Group:
    """Group number `seed` of the world."""
    rng = random.Random(f"group-{seed}")
    scene = SceneSampler().sample(seed)
    kinds = VIEW_KINDS[view_of(seed)]
    possible = [e for e in every_edit() if e.kind in kinds and e.applies(scene)]
    edits = _choose(possible, EDITS_PER_GROUP, rng, _members(scene, possible, rng))
    return _group(edited_pictures(scene, group_camera(seed, scene), edits), edits)


def load_photos(names: tuple[str, ...]) -> list[Image.Image]:
    """Photographs bundled with scikit-image."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / n).convert("RGB") for n in names]


def random_crop(photo: Image.Image, rng: random.Random, size_px: int = SIZE_PX) -> Float[Tensor, "3 S S"]:
    """A square crop at a random scale, sometimes mirrored."""
    side = min(photo.size)
    crop = int(min(side, max(size_px, rng.uniform(0.25, 1.0) * side)))
    x, y = rng.randint(0, photo.width - crop), rng.randint(0, photo.height - crop)
    piece = photo.crop((x, y, x + crop, y + crop)).resize((size_px, size_px), Image.Resampling.LANCZOS)
    rgb = from_levels(np.array(piece))
    return rgb.flip(-1) if rng.random() < 0.5 else rgb


TEXTURE_SHARE = 0.4
"""Share of the photographs' groups that are dead leaves."""


def photo_group(seed: int, photos: list[Image.Image]) -> Group:
    """A crop of a photograph, or dead leaves, under moonlight and all styles but one: what has a truth there."""
    rng = random.Random(f"photo-{seed}")
    if rng.random() < TEXTURE_SHARE:
        source = dead_leaves(1, SIZE_PX, seed=seed)
    else:
        source = random_crop(rng.choice(photos), rng)[None]
        gain, tint = rng.uniform(0.7, 1.25), torch.tensor([rng.uniform(0.85, 1.15) for _ in range(3)])
        source = (source * gain * tint[:, None, None]).clamp(0, 1)
    styles = rng.sample([e for e in all_edits() if e.kind == "style"], EDITS_PER_GROUP - 1)
    pictures = torch.cat([source, moonlight(source), *(e.on_pixels(source) for e in styles if e.on_pixels)])
    return _group(pictures, [find_edit("make it night"), *styles])


def is_texture(seed: int) -> bool:
    """Whether group `seed` of the photographs shows dead leaves."""
    return random.Random(f"photo-{seed}").random() < TEXTURE_SHARE


PHOTO_SHARE = 8
"""Every eighth shard holds photographs and dead leaves."""


def holds_photos(shard: int) -> bool:
    """Whether shard number `shard` holds photographs rather than the world."""
    return shard % PHOTO_SHARE == PHOTO_SHARE - 1


def write_shard(folder: Path, index: int) -> Path:
    """Render shard `index` unless it is there; it appears complete or not at all."""
    path = folder / f"shard-{index:05d}.safetensors"
    if path.exists():
        return path
    seeds = range(index * GROUPS_PER_SHARD, (index + 1) * GROUPS_PER_SHARD)
    with torch.inference_mode():
        if holds_photos(index):
            photos = load_photos(TRAIN_PHOTOS)
            groups = [photo_group(s, photos) for s in seeds]
        else:
            groups = [world_group(s) for s in seeds]
    tensors = {"images": torch.stack([g.images for g in groups]), "edits": torch.stack([g.edits for g in groups])}
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, partial, metadata={"edits": json.dumps([e.name for e in every_edit()])})
    os.replace(partial, path)
    return path


def shards(folder: Path) -> list[Path]:
    """The finished shards, in order."""
    return sorted(folder.glob("shard-*.safetensors"))


def number_of(shard: Path) -> int:
    """The number in a shard's name."""
    return int(shard.stem.split("-")[1])


def read_shard(path: Path) -> tuple[UInt8[Tensor, "g k 3 S S"], Int[Tensor, "g e"]]:
    """Images and edit numbers. Refuses a shard that was rendered with another list of edits."""
    with safe_open(path, "pt") as f:
        names = json.loads(f.metadata()["edits"])
        if names != [e.name for e in every_edit()]:
            raise ValueError(f"{path}: rendered with another list of edits; delete the folder and render again")
        return f.get_tensor("images"), f.get_tensor("edits")


def render_shards(folder: Path, numbers: range, *, worker: int = 0, workers: int = 1) -> Iterator[int]:
    """Write those of the numbered shards that fall to this worker; yields each number when it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in numbers[worker::workers]:
        write_shard(folder, index)
        yield index
