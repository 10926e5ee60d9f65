"""What is in the world: things, the place they stand in, light and weather. Plain values, no tensors.

A `Scene` is immutable; an edit of the world is a new scene made with `dataclasses.replace`.
"""

import math
import random
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Shape = Literal["ball", "cube", "cylinder", "cone", "ring", "tree", "snowman", "mushroom"]
Primitive = Literal["sphere", "box", "cylinder", "cone", "torus"]
Material = Literal["matte", "chrome", "gold", "wood", "striped", "checked", "spotted"]
Time = Literal["day", "sunset", "night"]
Weather = Literal["clear", "cloudy", "snow", "fog", "rain"]
Season = Literal["summer", "autumn", "spring"]
Ground = Literal["grass", "sand", "stone", "checkerboard", "lava", "ice"]
Sky = Literal["natural", "pink", "green", "orange", "purple"]

SIMPLE_SHAPES: tuple[Shape, ...] = ("ball", "cube", "cylinder", "cone", "ring")
"""Things made of one primitive: these can change their colour, material and shape."""

SAMPLED_MATERIALS: tuple[Material, ...] = ("matte", "chrome", "gold", "wood", "striped")
"""Materials of sampled scenes, all of which have a name in captions; the others are given by edits only."""

Rgb = tuple[float, float, float]

COLOURS: dict[str, Rgb] = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.12, 0.62, 0.16),
    "blue": (0.12, 0.24, 0.88),
    "yellow": (0.95, 0.84, 0.12),
    "purple": (0.58, 0.16, 0.72),
    "white": (0.93, 0.93, 0.93),
}
HAT_COLOURS: dict[str, Rgb] = {"orange": (0.98, 0.45, 0.05)} | {
    c: COLOURS[c] for c in ("red", "green", "blue", "purple")
}
"""An orange hat is the plain one, "a hat"; the other colours are given by edits only."""


@dataclass(frozen=True)
class Part:
    """One primitive of a thing, in the thing's own frame (unit size, standing on z = 0)."""

    primitive: Primitive
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    """Half extents along x, y, z."""
    colour: Rgb | None = None
    """None: the thing's colour."""
    foliage: bool = False
    """Turns with the seasons."""


@dataclass(frozen=True)
class Thing:
    """An object on the ground."""

    shape: Shape
    position: tuple[float, float]
    """Metres on the ground (x, y)."""
    size: float = 0.65
    """Half its width, metres."""
    yaw: float = 0.0
    """Degrees about the vertical."""
    colour: str = "red"
    material: Material = "matte"
    hat: bool = False
    hat_colour: str = "orange"
    """One of `HAT_COLOURS`."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Metres a second on the ground."""

    def parts(self) -> list[Part]:
        """The primitives it is made of, its hat last."""
        parts = list(_PARTS[self.shape])
        if self.hat:
            top = max(p.centre[2] + p.half[2] for p in parts)
            parts.append(Part("cone", (0.0, 0.0, top + 0.38), (0.42, 0.42, 0.46), colour=HAT_COLOURS[self.hat_colour]))
        return parts


_BROWN, _LEAF, _SNOW = (0.42, 0.26, 0.14), (0.10, 0.42, 0.14), (0.94, 0.95, 0.97)
_PARTS: dict[str, tuple[Part, ...]] = {
    "ball": (Part("sphere", (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)),),
    "cube": (Part("box", (0.0, 0.0, 0.85), (0.85, 0.85, 0.85)),),
    "cylinder": (Part("cylinder", (0.0, 0.0, 1.1), (0.75, 0.75, 1.1)),),
    "cone": (Part("cone", (0.0, 0.0, 1.1), (1.0, 1.0, 1.1)),),
    "ring": (Part("torus", (0.0, 0.0, 1.05), (1.05, 1.05, 1.05)),),
    "tree": (
        Part("cylinder", (0.0, 0.0, 0.5), (0.2, 0.2, 0.5), _BROWN),
        Part("cone", (0.0, 0.0, 1.5), (0.95, 0.95, 0.75), _LEAF, foliage=True),
        Part("cone", (0.0, 0.0, 2.3), (0.7, 0.7, 0.7), _LEAF, foliage=True),
    ),
    "snowman": (
        Part("sphere", (0.0, 0.0, 0.7), (0.75, 0.75, 0.75), _SNOW),
        Part("sphere", (0.0, 0.0, 1.75), (0.52, 0.52, 0.52), _SNOW),
        Part("sphere", (0.0, -0.52, 1.78), (0.12, 0.26, 0.12), (0.95, 0.5, 0.1)),
    ),
    "mushroom": (
        Part("cylinder", (0.0, 0.0, 0.6), (0.32, 0.32, 0.6), (0.9, 0.86, 0.76)),
        Part("sphere", (0.0, 0.0, 1.3), (1.0, 1.0, 0.55), (0.8, 0.12, 0.12)),
    ),
}


@dataclass(frozen=True)
class Scene:
    """Everything there is."""

    things: tuple[Thing, ...]
    time: Time = "day"
    weather: Weather = "clear"
    season: Season = "summer"
    ground: Ground = "grass"
    sky: Sky = "natural"
    sun_azimuth: float = 220.0
    """Degrees, where the light comes from."""
    sun_elevation: float = 45.0
    hills: float = 0.12
    """Height of the hills on the horizon, as the tangent of their elevation."""
    seed: int = 0
    """Phase of textures, clouds and hills."""

    def at(self, seconds: float) -> "Scene":
        """The scene with every thing moved on by its velocity."""
        moved = tuple(
            replace(t, position=(t.position[0] + seconds * t.velocity[0], t.position[1] + seconds * t.velocity[1]))
            for t in self.things
        )
        return replace(self, things=moved)

    def find(self, shape: str) -> int | None:
        """Index of the thing of that shape, or None."""
        return next((i for i, t in enumerate(self.things) if t.shape == shape), None)


@dataclass(frozen=True)
class SceneSampler:
    """The distribution of scenes; `sample(seed)` is deterministic."""

    things: tuple[int, int] = (1, 3)
    """Least and most things in a scene; they all differ in shape."""
    plain: float = 0.7
    """Share of scenes on a clear summer day; the others vary in time, weather, season or sky."""
    moving: bool = False
    """Things drift slowly over the ground."""
    shapes: tuple[Shape, ...] = field(default=get_args(Shape))

    def sample(self, seed: int) -> Scene:
        """Scene number `seed`."""
        rng = random.Random(f"scene-{seed}")
        count = rng.randint(*self.things)
        simple = rng.sample(SIMPLE_SHAPES, min(count, len(SIMPLE_SHAPES)))
        shapes: list[Shape] = list(simple)
        composite: list[Shape] = [s for s in self.shapes if s not in SIMPLE_SHAPES]
        if composite and rng.random() < 0.35:
            shapes[-1] = rng.choice(composite)
        rng.shuffle(shapes)
        things = tuple(self._thing(rng, shape, i, count) for i, shape in enumerate(shapes))
        scene = Scene(
            things=things,
            ground=rng.choices(("grass", "sand", "stone", "checkerboard"), (5, 3, 3, 1))[0],
            sun_azimuth=rng.uniform(190, 350),
            sun_elevation=rng.uniform(35, 60),
            hills=rng.choice((0.0, rng.uniform(0.06, 0.22))),
            seed=rng.randrange(1 << 16),
        )
        if rng.random() < self.plain:
            return scene
        change = rng.choice(
            (
                {"time": "sunset"},
                {"time": "night"},
                {"weather": rng.choice(("cloudy", "snow", "fog", "rain"))},
                {"season": "autumn"},
                {"sky": rng.choice(("pink", "green"))},
            )
        )
        return replace(scene, **change)

    def _thing(self, rng: random.Random, shape: Shape, index: int, count: int) -> Thing:
        low, high, spacing = ((0.78, 0.95, 0.0), (0.62, 0.74, 1.75), (0.50, 0.58, 1.36))[min(count, 3) - 1]
        size = rng.uniform(low, high) * (0.85 if shape in ("tree", "snowman") else 1.0)
        x = (index - (count - 1) / 2) * spacing + rng.uniform(-0.08, 0.08)
        y = rng.uniform(-0.35, 0.35)
        velocity = (0.0, 0.0)
        if self.moving:
            angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.35)
            velocity = (speed * math.cos(angle), speed * math.sin(angle))
        return Thing(
            shape=shape,
            position=(x, y),
            size=size,
            yaw=rng.uniform(-40, 40),
            colour=rng.choice(tuple(COLOURS)),
            material=rng.choices(SAMPLED_MATERIALS, (8, 0.7, 0.7, 0.8, 0.8))[0] if shape in SIMPLE_SHAPES else "matte",
            velocity=velocity,
        )
