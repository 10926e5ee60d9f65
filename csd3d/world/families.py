"""Families: sentences with several right answers.

"make it snowy" has one exact truth; "give the ball another color" has five. A family is one set of wordings and the
exact edits that satisfy it, none of which any of its wordings names. An editor that decides for every picture by itself
may give each frame another member: `csd3d.metrics.agreement` measures whether a whole clip, scene or panorama got one.

Most members are edits that have sentences of their own. The others (`variants`) have none: they are what a family can
mean and nobody can ask for by name, such as the color of a hat.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import cos, hypot, radians, sin
from typing import get_args

from csd3d.world.edits import Edit, all_edits, on_scene, on_thing
from csd3d.world.scene import HAT_COLOURS, SIMPLE_SHAPES, Scene, Shape, Thing
from csd3d.world.wordings import Kind, Worded, normalise

FEWEST = 2
"""Members that must apply to a scene for a sentence to leave something open there."""


@dataclass(frozen=True)
class Family(Worded):
    """One set of wordings and the edits each of which is right. Its kind is that of its members, or of most of them."""

    members: tuple[Edit, ...]
    """Three to eight exact edits."""

    def open_in(self, scene: Scene) -> tuple[Edit, ...]:
        """The members that would change that scene, in order: the right answers there."""
        return tuple(e for e in self.members if e.applies(scene))

    def applies(self, scene: Scene) -> bool:
        """Whether the sentence leaves something open there: `FEWEST` members or more apply."""
        return len(self.open_in(scene)) >= FEWEST


def _hat(shape: Shape, colour: str) -> Callable[[Scene], Scene]:
    """The effect that puts a hat of that colour on the thing, unless it wears one."""
    change = on_thing(shape, hat=True, hat_colour=colour)
    return lambda scene: scene if any(t.hat for t in scene.things if t.shape == shape) else change(scene)


TOYS: dict[Shape, str] = {"ball": "red", "cube": "blue", "cone": "yellow"}
"""Shapes and colours of the toys that can be put beside a thing."""
_TOY_SIZE, _TOY_GAP, _TOY_ANGLES = 0.45, 0.12, (-25, -155, -60, -120)
"""Half width of a toy in that of the thing, metres between the two, degrees from the thing to where it may stand."""


def _toy(beside: Shape, shape: Shape) -> Callable[[Scene], Scene]:
    """The effect that stands a small thing of that shape beside or before the thing, clear of the others.

    Among the clear places it takes the one nearest to the middle of the world, at which cameras look.
    """

    def effect(scene: Scene) -> Scene:
        i = scene.find(beside)
        if i is None or any(_is_toy(t) for t in scene.things):
            return scene
        thing = scene.things[i]
        size = _TOY_SIZE * thing.size
        away = thing.size + size + _TOY_GAP
        (x, y), angles = thing.position, (radians(a) for a in _TOY_ANGLES)
        spots = [(x + away * cos(a), y + away * sin(a)) for a in angles]
        others = [t for k, t in enumerate(scene.things) if k != i]
        spot = min(spots, key=lambda p: (_crowd(p, size, others), hypot(*p)))
        toy = Thing(shape, spot, size=size, yaw=thing.yaw, colour=TOYS[shape], velocity=thing.velocity)
        return replace(scene, things=(*scene.things, toy))

    return effect


def _crowd(spot: tuple[float, float], size: float, others: list[Thing]) -> float:
    """Metres by which a thing of that size would come too close to another there; 0 where it is clear of all."""
    gaps = (hypot(spot[0] - t.position[0], spot[1] - t.position[1]) - size - t.size for t in others)
    return max(0.0, -min(gaps, default=0.0))


def _is_toy(thing: Thing) -> bool:
    return thing.size < 0.45 and TOYS.get(thing.shape) == thing.colour


@cache
def variants() -> tuple[Edit, ...]:
    """Exact edits without a sentence of their own, in a fixed order."""
    hats = [
        Edit(f"hat {s} {c}", "add", (), _hat(s, c), same_geometry=False)
        for s in SIMPLE_SHAPES
        for c in HAT_COLOURS
        if c != "orange"
    ]
    toys = [Edit(f"toy {s} {t}", "add", (), _toy(s, t), same_geometry=False) for s in SIMPLE_SHAPES for t in TOYS]
    patterns = [
        Edit(f"material {s} {m}", "material", (), on_thing(s, material=m))
        for s in SIMPLE_SHAPES
        for m in ("checked", "spotted")
    ]
    skies = [Edit(f"sky {s}", "sky", (), on_scene(sky=s)) for s in ("orange", "purple")]
    return (*hats, *toys, *patterns, *skies, Edit("spring", "weather", (), on_scene(season="spring")))


@cache
def every_edit() -> tuple[Edit, ...]:
    """`all_edits()`, then `variants()`: everything that has an exact truth."""
    return (*all_edits(), *variants())


_OF_A_THING: tuple[tuple[str, Kind, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "any colour", "colour", ("colour {s} red", "colour {s} green", "colour {s} blue", "colour {s} yellow",
                                 "colour {s} purple", "colour {s} white"),
        ("give the {s} another color", "paint the {s} some other color", "make the {s} another color",
         "paint the {s} in another color", "the {s} should have another color", "color the {s} in some other color",
         "change the color of the {s}"),
    ),
    (
        "any material", "material", ("material {s} gold", "material {s} chrome", "material {s} wood"),
        ("make the {s} out of another material", "change the material of the {s}", "give the {s} another material",
         "the {s} should be of another material", "make the {s} of some other material",
         "turn the {s} into another material", "change the {s} into another material"),
    ),
    (
        "any pattern", "material", ("material {s} striped", "material {s} checked", "material {s} spotted"),
        ("put a pattern on the {s}", "paint a pattern on the {s}", "give the {s} a pattern", "add a pattern to the {s}",
         "a {s} with a pattern", "the {s} should have a pattern", "make the {s} have a pattern"),
    ),
    (
        "any shape", "shape", (),
        ("turn the {s} into something else", "replace the {s} with something else", "change the shape of the {s}",
         "make the {s} something else", "give the {s} another shape", "swap the {s} for something else",
         "change the {s} into something else"),
    ),
    (
        "any hat", "add", ("hat {s}", "hat {s} red", "hat {s} green", "hat {s} blue", "hat {s} purple"),
        ("put a hat of any color on the {s}", "give the {s} a hat of some color", "add a hat of any color to the {s}",
         "the {s} wears a hat of some color", "give the {s} a colorful hat", "put a colorful hat on the {s}",
         "add a colorful hat to the {s}"),
    ),
    (
        "any toy", "add", ("toy {s} ball", "toy {s} cube", "toy {s} cone"),
        ("put a toy next to the {s}", "add a toy beside the {s}", "place a toy next to the {s}",
         "give the {s} a toy", "add a toy next to the {s}", "put something small beside the {s}",
         "put a toy beside the {s}"),
    ),
)  # fmt: skip
"""Name, kind, members and wordings, {s} being a simple shape. The members of "any shape" are the other shapes.

"change the color of the ball" is held out, as "change the color of the ball to red" is: an editor trained on the first
and on no longer sentence that begins so would take the second for it.
"""
_OF_A_PLACE: tuple[tuple[str, Kind, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "any removal", "remove", tuple(f"remove {s}" for s in get_args(Shape)),
        ("remove one thing", "take one thing away", "get rid of one thing", "delete one of the things",
         "erase one thing", "remove one of the things", "take away one thing"),
    ),
    (
        "any time", "time", ("day", "sunset", "night"),
        ("change the time of day", "make it another time of day", "turn it into another time of day",
         "let it be another time of day", "show it at another time", "at another time of day",
         "change it to another time of day"),
    ),
    (
        "any weather", "weather", ("clear", "snow", "fog", "rain", "clouds"),
        ("change the weather", "make the weather different", "give it another weather", "let the weather change",
         "turn it into another weather", "show it in another weather", "change it to another weather"),
    ),
    (
        "any season", "weather", ("snow", "autumn", "summer", "spring"),
        ("change the season", "make it another season", "turn it into another season", "let it be another season",
         "show it in another season", "in another season", "change it to another season"),
    ),
    (
        "any ground", "ground", ("ground grass", "ground sand", "ground stone", "ground lava", "ground ice"),
        ("change the ground", "replace the ground", "turn the ground into something else", "make the ground different",
         "give it another ground", "put another ground under it", "change the ground into something else"),
    ),
    (
        "any sky", "sky", ("sky pink", "sky green", "sky natural", "sky orange", "sky purple"),
        ("make the sky another color", "change the color of the sky", "give the sky another color",
         "paint the sky in another color", "the sky should have another color", "turn the sky another color",
         "color the sky in some other color"),
    ),
    (
        "any drawing", "style", ("pencil sketch", "watercolour", "blueprint", "posterise"),
        ("turn it into a drawing", "make it a drawing", "draw it", "make it look like a drawing",
         "show it as a drawing", "change it to a drawing", "let it be a drawing"),
    ),
    (
        "any aging", "style", ("black and white", "sepia", "vintage"),
        ("make it look old", "let it look old", "make it look aged", "age the picture", "give it an old look",
         "turn it into an old picture", "make the picture look aged"),
    ),
    (
        "any false colours", "style", ("negative", "thermal", "blueprint", "posterise"),
        ("make the colors strange", "give it strange colors", "show it in strange colors", "turn it strange",
         "make it look strange", "change the colors", "let the colors be strange"),
    ),
)  # fmt: skip


@cache
def all_families() -> tuple[Family, ...]:
    """Every family there is, in a fixed order: those of a thing, shape by shape, then those of the place."""
    edits = {e.name: e for e in every_edit()}
    found = []
    for name, kind, members, wordings in _OF_A_THING:
        for s in SIMPLE_SHAPES:
            names = [m.format(s=s) for m in members] or [f"shape {s} {t}" for t in SIMPLE_SHAPES if t != s]
            said = tuple(w.format(s=s) for w in wordings)
            found.append(Family(f"{name} {s}", kind, said, tuple(edits[n] for n in names)))
    for name, kind, members, wordings in _OF_A_PLACE:
        found.append(Family(name, kind, wordings, tuple(edits[n] for n in members)))
    return tuple(found)


@lru_cache(maxsize=1)
def _by_wording() -> dict[str, Family]:
    return {w: f for f in all_families() for w in f.wordings}


def find_family(sentence: str) -> Family | None:
    """The family a sentence asks for one member of; None if it is no such sentence (it may be one of an edit)."""
    return _by_wording().get(normalise(sentence).replace("colour", "color"))


def families_in(scene: Scene) -> list[Family]:
    """The families that leave something open in that scene."""
    return [f for f in all_families() if f.applies(scene)]


def family_vocabulary() -> dict[str, dict[str, object]]:
    """Name to kind and wordings of every family, in the form of `edits.vocabulary`."""
    return {f.name: {"kind": f.kind, "wordings": list(f.wordings)} for f in all_families()}
