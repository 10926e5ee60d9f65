"""Sample data: clips, posed scenes, panoramas and photos of the world, with the exact truth of every edit.

    clip = sample_clip(3, frames=24, path="orbit", moving=True)
    for edit in clip.choose(6):
        source, truth = clip.source(), clip.truth(edit)

Pictures are rendered when they are asked for; the same seed gives the same pictures whatever range is asked for.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.world.camera import Camera, PathName, camera_path, look_at, sphere_camera, strip_camera
from csd3d.world.edits import KINDS, Edit, Kind, applicable, describe, find_edit
from csd3d.world.families import find_family
from csd3d.world.flow import Flow, flow
from csd3d.world.render import Truth, render, render_bounded, render_looks
from csd3d.world.render import truth as surfaces
from csd3d.world.scene import SIMPLE_SHAPES, Scene, SceneSampler, Thing

FIRST_SEED = 20_000_000
"""Sample s shows scene FIRST_SEED + s: never one on which a built-in prior was trained (those are below a million)."""
THUMB_PX = 64
"""Short side of the pictures that decide whether an edit shows."""
LEAST_SHARE = 0.015
"""Share of a square picture that an edit must change to be seen; the training data are chosen by it."""
PanoramaKind = Literal["sphere", "strip"]


@dataclass(frozen=True)
class Views:
    """One place through several cameras, each at its time: a clip, posed photographs, or a single picture."""

    scene: Scene
    """What is there at 0 seconds."""
    cameras: tuple[Camera, ...]
    """All of one size."""
    seconds: tuple[float, ...]
    """When each picture is taken."""

    def __post_init__(self) -> None:
        if not self.cameras or len(self.cameras) != len(self.seconds):
            raise ValueError(f"views: expected a time for each camera, got {len(self.cameras)}, {len(self.seconds)}")

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def height_px(self) -> int:
        """Height of every picture."""
        return self.cameras[0].height_px

    @property
    def width_px(self) -> int:
        """Width of every picture."""
        return self.cameras[0].width_px

    def source(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "n 3 H W"]:
        """Pictures start to stop - 1 (default: all), in [0, 1]."""
        return self._pictures(self.scene, start, stop)

    def truth(self, edit: Edit | str, start: int = 0, stop: int | None = None) -> Float[Tensor, "n 3 H W"]:
        """The same pictures, exactly edited. A sentence is looked up with `edit`."""
        edit = self.edit(edit) if isinstance(edit, str) else edit
        pictures = self._pictures(edit.scene(self.scene), start, stop)
        if edit.on_pixels is not None:
            for k in range(len(pictures)):
                pictures[k : k + 1] = _filtered(edit, pictures[k : k + 1], self.cameras[0])
        return pictures

    def batches(self, edit: Edit | None = None, *, count: int = 8) -> Iterator[Float[Tensor, "n 3 H W"]]:
        """All pictures, edited if an edit is given, `count` at a time."""
        for start in range(0, len(self), count):
            yield self.source(start, start + count) if edit is None else self.truth(edit, start, start + count)

    def surfaces(self, start: int = 0, stop: int | None = None) -> Truth:
        """Depth and object ids behind every pixel centre of the unedited pictures."""
        some = range(len(self))[start:stop]
        return surfaces([self.scene.at(self.seconds[i]) for i in some], [self.cameras[i] for i in some])

    def flow(self, i: int, j: int) -> Flow:
        """Exact flow from picture i to picture j. Every edit that keeps the geometry has the same one."""
        times = {"time_a": self.seconds[i], "time_b": self.seconds[j]}
        return flow(self.scene, self.cameras[i], self.cameras[j], **times)

    def edit(self, sentence: str) -> Edit:
        """The edit a sentence means.

        Raises ValueError if it means none, or one that would change nothing here, and then names some that would; or if
        it means several.
        """
        family = find_family(sentence)
        if family is not None:
            one = ", ".join(repr(e.wordings[0]) for e in family.open_in(self.scene) if e.wordings)
            raise ValueError(f"edit: {sentence!r} has several right answers; what has one is, for example, {one}")
        edit = find_edit(sentence)
        if edit.applies(self.scene):
            return edit
        some = ", ".join(repr(e.wordings[0]) for e in spread(applicable(self.scene), 6, seed=0))
        raise ValueError(
            f"edit: {sentence!r} changes nothing in this scene ({describe(self.scene)}); what applies is, for example, "
            f"{some}"
        )

    def edits(self, *, kinds: tuple[Kind, ...] = KINDS) -> list[Edit]:
        """The edits that show in the first, the middle and the last picture, in the order of `all_edits`."""
        where = sorted({0, len(self) // 2, len(self) - 1})
        scenes, cameras = [self.scene.at(self.seconds[i]) for i in where], [_thumb(self.cameras[i]) for i in where]
        candidates = [e for e in applicable(self.scene) if e.kind in kinds]
        cheap = [e for e in candidates if e.on_pixels is None and e.same_geometry]
        before, *looks = render_looks([[s, *(e.scene(s) for e in cheap)] for s in scenes], cameras, samples=1)
        after = {e.name: pictures for e, pictures in zip(cheap, looks, strict=True)}
        for e in candidates:
            if e.on_pixels is not None:
                after[e.name] = e.on_pixels(before)
            elif e.name not in after:
                after[e.name] = render([e.scene(s) for s in scenes], cameras, samples=1)
        least = least_share(self.cameras[0])
        return [e for e in candidates if bool((changed_share(before, after[e.name]) > least).all())]

    def choose(self, count: int, *, seed: int = 0, kinds: tuple[Kind, ...] = KINDS) -> list[Edit]:
        """`count` of `edits()` (fewer if there are no more), of as many kinds as possible, drawn from `seed`."""
        return spread(self.edits(kinds=kinds), count, seed=seed)

    def _pictures(self, scene: Scene, start: int, stop: int | None) -> Float[Tensor, "n 3 H W"]:
        some = range(len(self))[start:stop]
        if not some:
            raise ValueError(f"pictures: expected a range within 0 to {len(self)}, got {start} to {stop}")
        with torch.no_grad():
            return render_bounded([scene.at(self.seconds[i]) for i in some], [self.cameras[i] for i in some])


@dataclass(frozen=True)
class Clip(Views):
    """Pictures that follow each other at a fixed rate. In the middle of the clip it is 0 seconds."""

    fps: float = 12.0
    """Pictures a second."""


@dataclass(frozen=True)
class PosedScene:
    """A place photographed from many known positions, some of them held out."""

    train: Views
    test: Views

    @property
    def scene(self) -> Scene:
        """What is there."""
        return self.train.scene


def sample_clip(
    seed: int,
    *,
    frames: int = 24,
    height_px: int = 256,
    width_px: int = 256,
    path: PathName = "orbit",
    moving: bool = False,
    fps: float = 12.0,
    sweep: float = 1.0,
    sampler: SceneSampler | None = None,
) -> Clip:
    """Clip number `seed`: a camera on a path (see `camera_path`), things that stand still or drift slowly.

    `sweep` scales the camera's motion, which has the same extent whatever the number of frames. Views stay within
    what the built-in priors were trained on.
    """
    _expect_at_least(1, frames=frames)
    if not 0 < fps <= 240:
        raise ValueError(f"fps: expected more than 0 and at most 240, got {fps}")
    rng = random.Random(f"clip-{seed}")
    scene = (sampler or SceneSampler()).sample(FIRST_SEED + seed)
    if moving:
        scene = _drifting(scene, frames / fps, rng)
    cameras = camera_path(
        path,
        frames,
        height_px=height_px,
        width_px=width_px,
        target=(rng.uniform(-0.3, 0.3), 0.0, rng.uniform(0.75, 1.0)),
        distance=rng.uniform(4.2, 5.0),
        azimuth=-90 + rng.uniform(-22, 22),
        elevation=rng.uniform(5, 13),
        fov=rng.uniform(47, 53),
        sweep=sweep,
        seed=seed,
    )
    return Clip(scene, tuple(cameras), tuple((i - (frames - 1) / 2) / fps for i in range(frames)), fps)


def sample_scene(
    seed: int,
    *,
    train_views: int = 24,
    test_views: int = 6,
    height_px: int = 128,
    width_px: int = 128,
    arc: float = 120.0,
    sampler: SceneSampler | None = None,
) -> PosedScene:
    """Posed scene number `seed`: views from an arc (degrees, 360 goes all around) at several heights.

    Training views cover the arc evenly; test views lie between them, within the inner nine tenths of the arc.
    """
    _expect_at_least(1, train_views=train_views, test_views=test_views)
    if not 0 < arc <= 360:
        raise ValueError(f"arc: expected degrees in (0, 360], got {arc}")
    rng = random.Random(f"posed-{seed}")
    scene = (sampler or SceneSampler()).sample(FIRST_SEED + seed)
    fov, distance, phase = rng.uniform(48, 52), rng.uniform(4.3, 4.7), rng.random()

    def views(count: int, arc: float, first: float) -> Views:
        cameras = []
        for i in range(count):
            azimuth = math.radians(-90 + arc * ((i + 0.5) / count - 0.5))
            elevation = math.radians(4 + 13 * ((first + 0.618034 * i) % 1))
            eye = (
                distance * math.cos(elevation) * math.cos(azimuth),
                distance * math.cos(elevation) * math.sin(azimuth),
                0.85 + distance * math.sin(elevation),
            )
            cameras.append(Camera(look_at(eye, (0.0, 0.0, 0.85)), height_px, width_px, fov))
        return Views(scene, tuple(cameras), (0.0,) * count)

    return PosedScene(views(train_views, arc, phase), views(test_views, 0.9 * arc, phase + 0.5))


def sample_panorama(
    seed: int,
    *,
    kind: PanoramaKind = "sphere",
    height_px: int = 256,
    turn: float = 180.0,
    sampler: SceneSampler | None = None,
) -> Views:
    """Panorama number `seed`, one picture: things stand all around the camera, no two of one shape.

    `sphere` is the full equirectangular view, twice as wide as high; `strip` a cylindrical one of `turn` degrees (360
    wraps) and 50 degrees height.
    """
    camera = sphere_camera(height_px) if kind == "sphere" else strip_camera(height_px, turn=turn)
    scene = _surround((sampler or SceneSampler()), seed, camera, 360.0 if kind == "sphere" else turn)
    return Views(scene, (camera,), (0.0,))


def sample_photo(seed: int, *, height_px: int = 256, width_px: int = 256, sampler: SceneSampler | None = None) -> Views:
    """Photo number `seed`: one picture of the middle of the world."""
    clip = sample_clip(seed, frames=1, height_px=height_px, width_px=width_px, sampler=sampler)
    return Views(clip.scene, clip.cameras, (0.0,))


def changed_share(before: Float[Tensor, "n 3 H W"], after: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Share of the pixels that change by more than 0.06 in some channel, for each picture."""
    return ((after - before).abs().amax(1) > 0.06).float().mean((1, 2))


def least_share(camera: Camera) -> float:
    """The `changed_share` above which an edit shows: what covers `LEAST_SHARE` of a square view of 50 degrees."""
    if camera.projection == "equirectangular":
        return LEAST_SHARE * (50 / 180) * (50 / 360)
    return LEAST_SHARE * min(1.0, camera.height_px / camera.width_px)


def spread(edits: list[Edit], count: int, *, seed: int) -> list[Edit]:
    """`count` different ones of `edits`, going round their kinds, drawn from `seed`."""
    rng = random.Random(f"spread-{seed}")
    by_kind: dict[str, list[Edit]] = {}
    for edit in edits:
        by_kind.setdefault(edit.kind, []).append(edit)
    piles = [rng.sample(pile, len(pile)) for pile in by_kind.values()]
    rng.shuffle(piles)
    rounds = (pile[k] for k in range(max(map(len, piles), default=0)) for pile in piles if k < len(pile))
    return [edit for _, edit in zip(range(count), rounds, strict=False)]


def _filtered(edit: Edit, rgb: Float[Tensor, "1 3 H W"], camera: Camera) -> Float[Tensor, "1 3 H W"]:
    """A filter on one picture; where the picture wraps, it sees the other border beyond each border."""
    assert edit.on_pixels is not None
    if not camera.wraps:
        return edit.on_pixels(rgb)
    block = max(1, round(camera.height_px / 16))
    margin = min(4 * block, camera.width_px // 2)
    wide = torch.cat([rgb[..., -margin:], rgb, rgb[..., :margin]], dim=-1)
    return edit.on_pixels(wide)[..., margin:-margin]


def _thumb(camera: Camera) -> Camera:
    scale = THUMB_PX / min(camera.height_px, camera.width_px)
    height, width = round(camera.height_px * scale), round(camera.width_px * scale)
    return replace(camera, height_px=height, width_px=width)


def _drifting(scene: Scene, duration_s: float, rng: random.Random) -> Scene:
    """Let every thing drift less than a metre in all, clear of the others; 0 s is the middle of the time."""
    for _ in range(50):
        moved = replace(scene, things=tuple(replace(t, velocity=_velocity(rng, duration_s)) for t in scene.things))
        if _clear(moved, duration_s):
            return moved
    together = _velocity(rng, duration_s)
    return replace(scene, things=tuple(replace(t, velocity=together) for t in scene.things))


def _velocity(rng: random.Random, duration_s: float) -> tuple[float, float]:
    angle, speed = rng.uniform(0, 2 * math.pi), min(rng.uniform(0.15, 0.4), 0.9 / duration_s)
    return (speed * math.cos(angle), speed * math.sin(angle))


def _clear(scene: Scene, duration_s: float) -> bool:
    """Whether no two things get closer than touching (or than they are at 0 s, if that is closer)."""

    def gap(a: Thing, b: Thing, s: float) -> float:
        return math.hypot(*(p + s * v - q - s * w for p, v, q, w in zip(*pairs(a), *pairs(b), strict=True)))

    def pairs(t: Thing) -> tuple[tuple[float, float], tuple[float, float]]:
        return t.position, t.velocity

    times = [duration_s * (k / 8 - 0.5) for k in range(9)]
    return all(
        gap(a, b, s) >= min(gap(a, b, 0.0), 1.1 * (a.size + b.size)) - 1e-9
        for i, a in enumerate(scene.things)
        for b in scene.things[:i]
        for s in times
    )


def _surround(sampler: SceneSampler, seed: int, camera: Camera, turn: float) -> Scene:
    """Scene `seed` with things set around the camera, one about every 45 degrees of the turn, of different shapes.

    One simple shape is left out, so that another thing can turn into it.
    """
    rng = random.Random(f"around-{seed}")
    scene = sampler.sample(FIRST_SEED + seed)
    absent = rng.choice(SIMPLE_SHAPES)
    count = min(7, max(1, round(turn / 45)))
    found: dict[str, Thing] = {}
    for k in range(200):
        if len(found) >= count:
            break
        for thing in sampler.sample(FIRST_SEED + 1_000_000 * k + seed).things:
            if thing.shape != absent:
                found.setdefault(thing.shape, thing)
    eye = camera.c2w[:3, 3].tolist()
    things = []
    for k, thing in enumerate(list(found.values())[:count]):
        angle = math.radians(90 + turn * ((k + 0.5 + rng.uniform(-0.15, 0.15)) / count - 0.5))
        distance, size = rng.uniform(3.8, 4.7), rng.uniform(0.72, 0.88)
        position = (eye[0] + distance * math.cos(angle), eye[1] + distance * math.sin(angle))
        things.append(replace(thing, position=position, size=size, yaw=rng.uniform(-180, 180)))
    return replace(scene, things=tuple(things))


def _expect_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name}: expected {least} or more, got {number}")
