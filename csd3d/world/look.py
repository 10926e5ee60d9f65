"""How light, weather, season and ground look: the numbers behind the words of a `Scene`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.world.cast import sun_direction
from csd3d.world.scene import COLOURS, Ground, Material, Rgb, Scene, Season, Sky

_GROUND: dict[Ground, tuple[Rgb, Rgb]] = {
    "grass": ((0.24, 0.44, 0.13), (0.36, 0.54, 0.20)),
    "sand": ((0.78, 0.66, 0.42), (0.86, 0.75, 0.53)),
    "stone": ((0.44, 0.43, 0.42), (0.56, 0.55, 0.53)),
    "checkerboard": ((0.22, 0.22, 0.24), (0.80, 0.80, 0.78)),
    "lava": ((0.20, 0.05, 0.03), (1.00, 0.36, 0.03)),
    "ice": ((0.60, 0.80, 0.90), (0.80, 0.92, 0.97)),
}
_AUTUMN_GRASS: tuple[Rgb, Rgb] = ((0.52, 0.34, 0.10), (0.70, 0.44, 0.12))
_SPRING_GRASS: tuple[Rgb, Rgb] = ((0.42, 0.66, 0.16), (0.62, 0.80, 0.30))
_LEAF: dict[Season, Rgb] = {"autumn": (0.85, 0.36, 0.05), "spring": (0.93, 0.60, 0.74)}
"""Leaves that are not those of summer: in spring the trees are in blossom."""
_SKY: dict[Sky, tuple[Rgb, Rgb]] = {
    "pink": ((0.88, 0.35, 0.65), (0.98, 0.72, 0.84)),
    "green": ((0.15, 0.62, 0.35), (0.72, 0.93, 0.74)),
    "orange": ((0.94, 0.46, 0.12), (0.99, 0.78, 0.48)),
    "purple": ((0.42, 0.20, 0.72), (0.78, 0.66, 0.92)),
}
"""Zenith and horizon by day, where they are not blue."""


@dataclass(frozen=True)
class Look:
    """One scene. Colours are rgb in [0, 1], amounts in [0, 1]."""

    sun: Float[Tensor, "3"]
    sun_colour: Float[Tensor, "3"]
    ambient: Float[Tensor, "3"]
    zenith: Float[Tensor, "3"]
    horizon: Float[Tensor, "3"]
    glow: Float[Tensor, "3"]
    """Colour of the disc around the sun or moon."""
    cloud: float
    cloud_colour: Float[Tensor, "3"]
    haze: float
    """Extinction per metre."""
    hill_colour: Float[Tensor, "3"]
    hill_height: float
    ground: Float[Tensor, "2 3"]
    ground_kind: Ground
    snow: float
    wet: float
    phase: float
    """In [0, 1): shifts textures, clouds and hills."""


def look_of(scene: Scene, *, device: torch.device | str = "cpu") -> Look:
    """The look of a scene."""
    v: dict[str, object] = {
        "sun_colour": (0.72, 0.68, 0.60),
        "ambient": (0.40, 0.43, 0.48),
        "zenith": (0.22, 0.45, 0.82),
        "horizon": (0.70, 0.82, 0.93),
        "glow": (0.35, 0.33, 0.25),
        "cloud": 0.35,
        "cloud_colour": (0.97, 0.97, 0.98),
        "haze": 0.012,
        "hill_colour": (0.30, 0.45, 0.30),
        "snow": 0.0,
        "wet": 0.0,
    }
    if scene.sky in _SKY:
        v["zenith"], v["horizon"] = _SKY[scene.sky]
    ground = _GROUND[scene.ground]
    if scene.season == "autumn":
        v |= {"hill_colour": (0.58, 0.36, 0.16), "sun_colour": (0.76, 0.66, 0.50)}
        ground = _AUTUMN_GRASS if scene.ground == "grass" else ground
    elif scene.season == "spring":
        v |= {"hill_colour": (0.50, 0.66, 0.34), "sun_colour": (0.76, 0.70, 0.62)}
        ground = _SPRING_GRASS if scene.ground == "grass" else ground
    if scene.time == "sunset":
        v |= {
            "sun_colour": (0.80, 0.40, 0.16),
            "ambient": (0.34, 0.25, 0.32),
            "zenith": (0.30, 0.20, 0.46),
            "horizon": (0.98, 0.52, 0.20),
            "glow": (0.60, 0.35, 0.10),
            "cloud_colour": (0.95, 0.50, 0.42),
            "hill_colour": (0.26, 0.16, 0.22),
            "cloud": 0.45,
        }
    elif scene.time == "night":
        v |= {
            "sun_colour": (0.20, 0.25, 0.38),
            "ambient": (0.13, 0.16, 0.27),
            "zenith": (0.02, 0.03, 0.11),
            "horizon": (0.10, 0.14, 0.29),
            "glow": (0.45, 0.45, 0.42),
            "cloud_colour": (0.16, 0.19, 0.31),
            "hill_colour": (0.04, 0.06, 0.11),
            "cloud": 0.25,
        }
    grey = (0.66, 0.69, 0.73)
    dim = {"day": 1.0, "sunset": 0.75, "night": 0.3}[scene.time]
    if scene.weather == "cloudy":
        v |= {"zenith": (0.52 * dim, 0.55 * dim, 0.60 * dim), "horizon": tuple(c * dim for c in grey), "cloud": 0.9}
        v |= {"sun_colour": (0.25 * dim, 0.25 * dim, 0.25 * dim), "ambient": (0.52 * dim, 0.53 * dim, 0.55 * dim)}
        v |= {"cloud_colour": (0.86 * dim, 0.87 * dim, 0.89 * dim), "glow": (0.0, 0.0, 0.0)}
    elif scene.weather == "snow":
        v |= {"zenith": (0.66 * dim, 0.71 * dim, 0.79 * dim), "horizon": (0.87 * dim, 0.90 * dim, 0.94 * dim)}
        v |= {"sun_colour": (0.42 * dim, 0.42 * dim, 0.42 * dim), "ambient": (0.54 * dim, 0.57 * dim, 0.62 * dim)}
        v |= {"snow": 1.0, "cloud": 0.15, "glow": (0.0, 0.0, 0.0), "haze": 0.02}
        v |= {"hill_colour": (0.84 * dim, 0.87 * dim, 0.92 * dim)}
    elif scene.weather == "fog":
        fog = (0.78 * dim, 0.80 * dim, 0.82 * dim)
        v |= {"zenith": fog, "horizon": fog, "hill_colour": fog, "cloud": 0.0, "haze": 0.16, "glow": (0.0, 0.0, 0.0)}
        v |= {"sun_colour": (0.22 * dim, 0.22 * dim, 0.22 * dim), "ambient": (0.58 * dim, 0.60 * dim, 0.61 * dim)}
    elif scene.weather == "rain":
        v |= {"zenith": (0.23 * dim, 0.26 * dim, 0.31 * dim), "horizon": (0.42 * dim, 0.46 * dim, 0.51 * dim)}
        v |= {"sun_colour": (0.10 * dim, 0.10 * dim, 0.10 * dim), "ambient": (0.40 * dim, 0.43 * dim, 0.47 * dim)}
        v |= {"wet": 1.0, "cloud": 0.8, "cloud_colour": (0.30 * dim, 0.33 * dim, 0.38 * dim), "haze": 0.035}
        v |= {"hill_colour": (0.20 * dim, 0.25 * dim, 0.26 * dim), "glow": (0.0, 0.0, 0.0)}
    v |= {"sun": sun_direction(scene), "ground": ground, "hill_height": scene.hills}
    v |= {"ground_kind": scene.ground, "phase": scene.seed / 65536.0}
    # every field is a tensor or a tuple of numbers
    return Look(**{k: torch.tensor(x, device=device) if isinstance(x, tuple) else x for k, x in v.items()})  # pyright: ignore[reportArgumentType]


def paint_of(scene: Scene) -> list[tuple[Rgb, Material]]:
    """Colour and material of every part, in the order of `cast.geometry_of`."""
    paint: list[tuple[Rgb, Material]] = []
    for thing in scene.things:
        for part in thing.parts():
            if part.colour is None:
                paint.append((COLOURS[thing.colour], thing.material))
            else:
                paint.append((_LEAF.get(scene.season, part.colour) if part.foliage else part.colour, "matte"))
    return paint
