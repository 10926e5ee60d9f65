"""Edits: what one sentence changes. The only place where a sentence becomes an edit.

An edit changes the scene (the picture is rendered again) or the pixels (a filter). Its wordings are templates; the last
one is held out: no prior is ever trained on it, so it measures understanding rather than recall. All of its words occur
in trained wordings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from csd3d.world.filters import FILTERS
from csd3d.world.scene import COLOURS, SIMPLE_SHAPES, Scene, Shape
from csd3d.world.wordings import KINDS as KINDS
from csd3d.world.wordings import Kind as Kind
from csd3d.world.wordings import Worded
from csd3d.world.wordings import normalise as normalise


@dataclass(frozen=True)
class Edit(Worded):
    """One edit, its words and its exact effect."""

    on_scene: Callable[[Scene], Scene] | None = None
    on_pixels: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 H W"]] | None = None
    same_geometry: bool = True
    """The edited scene has the same surfaces, so one cast serves before and after."""

    def scene(self, before: Scene) -> Scene:
        """The scene after the edit; pixel edits leave it as it is."""
        return before if self.on_scene is None else self.on_scene(before)

    def applies(self, scene: Scene) -> bool:
        """Whether it would change anything there."""
        return self.on_pixels is not None or self.scene(scene) != scene

    def captions(self, scene: Scene) -> tuple[str, str]:
        """What the picture shows before and after, for text-to-image priors."""
        after = describe(self.scene(scene))
        return describe(scene), f"{after}, {_STYLE_CAPTION[self.name]}" if self.on_pixels is not None else after


def on_thing(which: str, /, **change: object) -> Callable[[Scene], Scene]:
    """The effect that gives the thing of a shape other values; a scene without it stays as it is."""

    def effect(scene: Scene) -> Scene:
        i = scene.find(which)
        if i is None:
            return scene
        things = list(scene.things)
        # the fields to change are named at run time
        things[i] = replace(things[i], **change)  # pyright: ignore[reportArgumentType]
        return replace(scene, things=tuple(things))

    return effect


def _reshape(shape: Shape, target: Shape) -> Callable[[Scene], Scene]:
    change = on_thing(shape, shape=target)
    return lambda scene: scene if scene.find(target) is not None else change(scene)


def _remove(shape: str) -> Callable[[Scene], Scene]:
    def effect(scene: Scene) -> Scene:
        return replace(scene, things=tuple(t for t in scene.things if t.shape != shape))

    return effect


def on_scene(**change: object) -> Callable[[Scene], Scene]:
    """The effect that gives the place other values."""
    # the fields to change are named at run time
    return lambda scene: replace(scene, **change)  # pyright: ignore[reportArgumentType]


def _colour_edits() -> list[Edit]:
    templates = (
        "make the {s} {c}",
        "turn the {s} {c}",
        "paint the {s} {c}",
        "color the {s} {c}",
        "change the {s} to {c}",
        "give the {s} a {c} color",
        "the {s} should be {c}",
        "change the color of the {s} to {c}",
    )
    return [
        Edit(
            f"colour {s} {c}",
            "colour",
            tuple(w.format(s=s, c=c) for w in templates),
            on_thing(s, colour=c, material="matte"),
        )
        for s in SIMPLE_SHAPES
        for c in COLOURS
    ]


def _material_edits() -> list[Edit]:
    nouns = {"gold": ("golden", "gold"), "chrome": ("metallic", "metal"), "wood": ("wooden", "wood")}
    words = {
        m: (
            f"make the {{s}} {adjective}",
            f"turn the {{s}} into {noun}",
            f"make the {{s}} out of {noun}",
            f"a {adjective} {{s}}",
            f"change the {{s}} to {noun}",
            f"the {{s}} should be {adjective}",
            f"change the {{s}} into {noun}",
        )
        for m, (adjective, noun) in nouns.items()
    }
    words["striped"] = (
        "make the {s} striped",
        "give the {s} stripes",
        "paint stripes on the {s}",
        "a striped {s}",
        "add stripes to the {s}",
        "the {s} should be striped",
        "put stripes on the {s}",
    )
    return [
        Edit(f"material {s} {m}", "material", tuple(t.format(s=s) for t in templates), on_thing(s, material=m))
        for s in SIMPLE_SHAPES
        for m, templates in words.items()
    ]


def _shape_edits() -> list[Edit]:
    templates = (
        "turn the {s} into a {t}",
        "replace the {s} with a {t}",
        "make the {s} a {t}",
        "change the {s} into a {t}",
        "swap the {s} for a {t}",
        "the {s} should be a {t}",
        "change the {s} to a {t}",
    )
    return [
        Edit(
            f"shape {s} {t}",
            "shape",
            tuple(w.format(s=s, t=t) for w in templates),
            _reshape(s, t),
            same_geometry=False,
        )
        for s in SIMPLE_SHAPES
        for t in SIMPLE_SHAPES
        if s != t
    ]


def _presence_edits() -> list[Edit]:
    hats = [
        Edit(
            f"hat {s}",
            "add",
            (
                f"put a hat on the {s}",
                f"add a hat to the {s}",
                f"give the {s} a hat",
                f"the {s} wears a hat",
                f"place a hat on the {s}",
                f"add a hat on top of the {s}",
                f"put a hat on top of the {s}",
            ),
            on_thing(s, hat=True),
            same_geometry=False,
        )
        for s in (*SIMPLE_SHAPES, "snowman")
    ]
    removals = [
        Edit(
            f"remove {s}",
            "remove",
            (
                f"remove the {s}",
                f"take away the {s}",
                f"delete the {s}",
                f"get rid of the {s}",
                f"erase the {s}",
                f"make the {s} go away",
                f"take the {s} away",
            ),
            _remove(s),
            same_geometry=False,
        )
        for s in get_args(Shape)
    ]
    return hats + removals


# Name, kind, the change of the scene, wordings.
_PLACE: tuple[tuple[str, Kind, dict[str, str], tuple[str, ...]], ...] = (
    (
        "day", "time", {"time": "day"},
        ("make it day", "make it daytime", "turn it into day", "let it be day", "change it to day", "at daytime",
         "let it be daytime"),
    ),
    (
        "sunset", "time", {"time": "sunset"},
        ("make it sunset", "at sunset", "turn it into a sunset", "make it evening", "let it be sunset",
         "change it to sunset", "let it be evening"),
    ),
    (
        "night", "time", {"time": "night"},
        ("make it night", "at night", "make it nighttime", "turn it into night", "let it be night",
         "change it to night", "let it be nighttime"),
    ),
    (
        "clear", "weather", {"weather": "clear"},
        ("make it sunny", "clear the weather", "make the weather sunny", "let the sun shine", "make the weather clear",
         "turn it sunny", "let it be sunny"),
    ),
    (
        "snow", "weather", {"weather": "snow"},
        ("make it snowy", "make it snow", "cover it in snow", "make it winter", "turn it into winter", "add snow",
         "let it snow", "let it be winter"),
    ),
    (
        "fog", "weather", {"weather": "fog"},
        ("make it foggy", "add fog", "add some mist", "cover it in fog", "make it misty", "let it be foggy",
         "cover it in mist"),
    ),
    (
        "rain", "weather", {"weather": "rain"},
        ("make it rainy", "make it rain", "add rain", "turn it into rain", "let it rain", "make the weather rainy",
         "let it be rainy"),
    ),
    (
        "clouds", "weather", {"weather": "cloudy"},
        ("make it cloudy", "add clouds", "cover the sky with clouds", "make the sky cloudy", "make the weather cloudy",
         "let it be cloudy", "add some clouds"),
    ),
    (
        "autumn", "weather", {"season": "autumn"},
        ("make it autumn", "make it fall", "turn it into autumn", "let it be autumn", "change it to autumn",
         "turn it into fall", "let it be fall"),
    ),
    (
        "summer", "weather", {"season": "summer"},
        ("make it summer", "turn it into summer", "in summer", "let it be summer", "make it summertime",
         "turn it into summertime", "change it to summer"),
    ),
)  # fmt: skip
_GROUNDS = ("grass", "sand", "stone", "lava", "ice")
"""A checkerboard is a ground but no edit: nothing in a picture tells where its tiles would lie, so it has no truth."""
_GROUND_WORDS = (
    "make the ground {}",
    "turn the ground into {}",
    "change the ground to {}",
    "the ground is {}",
    "replace the ground with {}",
    "cover the ground with {}",
    "change the ground into {}",
)
_SKIES = {"pink": "pink", "green": "green", "natural": "blue"}
_SKY_WORDS = (
    "make the sky {}",
    "turn the sky {}",
    "paint the sky {}",
    "a {} sky",
    "color the sky {}",
    "the sky should be {}",
    "change the sky to {}",
)


def _place_edits() -> list[Edit]:
    return [
        *(Edit(name, kind, wordings, on_scene(**change)) for name, kind, change, wordings in _PLACE),
        *(
            Edit(f"ground {g}", "ground", tuple(w.format(g) for w in _GROUND_WORDS), on_scene(ground=g))
            for g in _GROUNDS
        ),
        *(
            Edit(f"sky {s}", "sky", tuple(w.format(words) for w in _SKY_WORDS), on_scene(sky=s))
            for s, words in _SKIES.items()
        ),
    ]


_STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "black and white": (
        "make it black and white", "turn it black and white", "remove the color", "a black and white photo",
        "make it a black and white photo", "take away the color", "turn it into a black and white photo",
    ),
    "sepia": (
        "make it sepia", "turn it sepia", "add a sepia tone", "a sepia photo", "give it a sepia tone",
        "make it a sepia photo", "turn it into a sepia photo",
    ),
    "negative": (
        "make it a negative", "invert the colors", "turn it into a negative", "a photo negative",
        "make it a photo negative", "change it to a negative", "turn it into a photo negative",
    ),
    "pencil sketch": (
        "make it a pencil sketch", "turn it into a pencil sketch", "draw it with a pencil", "a pencil drawing",
        "make it a pencil drawing", "a pencil sketch", "turn it into a pencil drawing",
    ),
    "watercolour": (
        "make it a watercolor", "turn it into a watercolor", "paint it in watercolor", "a watercolor painting",
        "make it a watercolor painting", "paint it as a watercolor", "turn it into a watercolor painting",
    ),
    "pixel art": (
        "make it pixel art", "turn it into pixel art", "make it pixelated", "a pixel art picture",
        "make it a pixel art picture", "draw it as pixel art", "turn it into a pixel art picture",
    ),
    "posterise": (
        "make it a poster", "turn it into a poster", "posterize it", "a poster with few colors",
        "paint it as a poster", "make it a poster with few colors", "turn it into a poster with few colors",
    ),
    "vintage": (
        "make it vintage", "make it an old photo", "give it a vintage look", "a vintage photo",
        "turn it into an old photo", "make it a vintage photo", "turn it into a vintage photo",
    ),
    "blueprint": (
        "make it a blueprint", "turn it into a blueprint", "draw it as a blueprint", "a blueprint drawing",
        "make it a blueprint drawing", "change it to a blueprint", "turn it into a blueprint drawing",
    ),
    "thermal": (
        "make it a thermal image", "show it in thermal colors", "turn it into a thermal image", "a thermal photo",
        "make it a thermal photo", "a thermal image", "turn it into a thermal photo",
    ),
}  # fmt: skip
_STYLE_CAPTION = {
    "black and white": "black and white photo",
    "sepia": "sepia photo",
    "negative": "photo negative",
    "pencil sketch": "pencil sketch",
    "watercolour": "watercolor painting",
    "pixel art": "pixel art",
    "posterise": "poster",
    "vintage": "vintage photo",
    "blueprint": "blueprint",
    "thermal": "thermal image",
}


@cache
def all_edits() -> tuple[Edit, ...]:
    """Every edit there is, in a fixed order."""
    styles = [Edit(name, "style", _STYLE_WORDS[name], on_pixels=f) for name, f in FILTERS.items()]
    return tuple(_colour_edits() + _material_edits() + _shape_edits() + _presence_edits() + _place_edits() + styles)


@lru_cache(maxsize=1)
def _by_wording() -> dict[str, Edit]:
    return {w: e for e in all_edits() for w in e.wordings}


def find_edit(sentence: str) -> Edit:
    """The edit a sentence means.

    Raises ValueError, with the nearest known sentences, if it means none.
    """
    known = _by_wording()
    words = normalise(sentence).replace("colour", "color")
    if words in known:
        return known[words]
    near = get_close_matches(words, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(w) for w in near)}?" if near else ""
    raise ValueError(f"edit: expected a sentence the world knows, got {sentence!r}{hint}")


def applicable(scene: Scene) -> list[Edit]:
    """The edits that would change that scene."""
    return [e for e in all_edits() if e.applies(scene)]


_OF_A_THING = ("colour", "material", "shape", "remove")
"""Kinds of edits whose name has the thing as its second word."""


def about_absent(scene: Scene) -> list[Edit]:
    """The edits of a thing that the scene has not, which leave it as it is."""
    return [e for e in all_edits() if e.kind in _OF_A_THING and scene.find(e.name.split()[1]) is None]


def vocabulary() -> dict[str, dict[str, object]]:
    """Name to kind and wordings of every edit: what a prior trained on this world knows."""
    return {e.name: {"kind": e.kind, "wordings": list(e.wordings)} for e in all_edits()}


def describe(scene: Scene) -> str:
    """A caption: the things with colour or material, the ground, then time and weather."""
    names = []
    for thing in scene.things:
        words = {"gold": "golden", "chrome": "metallic", "wood": "wooden", "matte": thing.colour}
        adjective = (
            words.get(thing.material, f"{thing.material} {thing.colour}") if thing.shape in SIMPLE_SHAPES else ""
        )
        hat = "hat" if thing.hat_colour == "orange" else f"{thing.hat_colour} hat"
        names.append(" ".join(w for w in ("a", adjective, thing.shape, f"with a {hat}" if thing.hat else "") if w))
    what = " and ".join(names) if names else "an empty place"
    ground = {"checkerboard": "a checkerboard"}.get(scene.ground, scene.ground)
    place = [f"{what} on {ground}"]
    if scene.time != "day":
        place.append(f"at {scene.time}")
    if scene.weather != "clear":
        place.append({"snow": "in snow", "fog": "in fog", "rain": "in rain", "cloudy": "under clouds"}[scene.weather])
    if scene.season != "summer":
        place.append(f"in {scene.season}")
    if scene.sky != "natural":
        place.append(f"under a {scene.sky} sky")
    return ", ".join(place)
