"""Captions for text-to-image priors: what a picture shows, in as many ways as people say it.

`describe` of the edits says it in one way ("a red ball and a blue cube on grass, at night"); this module says the same
in others, or leaves some of it out, and lists the words.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import get_args

from csd3d.world.edits import Edit, all_edits, describe
from csd3d.world.scene import (
    COLOURS,
    SAMPLED_MATERIALS,
    SIMPLE_SHAPES,
    Ground,
    Scene,
    Season,
    Shape,
    Sky,
    Thing,
    Time,
    Weather,
)

PHOTO, TEXTURE = "a photo", "a texture"
"""Captions of what the world did not make: photographs, and pictures without meaning."""
_SKIES: tuple[Sky, ...] = ("natural", "pink", "green")
_SEASONS: tuple[Season, ...] = ("summer", "autumn")
"""Those that a caption has a word for; the others are members of families of edits only."""
_LEFT_OUT = 0.12
"""Share of things that lose their adjectives, and of captions that lose their ground."""


def vary(caption: str, rng: random.Random) -> str:
    """The caption of a scene in other words: other order, commas and articles; now and then without some detail.

    Takes what `describe`, `Edit.captions` and `styled` give, and `PHOTO` and `TEXTURE`. The same `rng` gives the same
    caption.
    """
    head, *clauses = caption.split(", ")
    things, *ground = head.rsplit(" on ", 1)
    names = [_without_adjectives(n) if rng.random() < _LEFT_OUT else n for n in things.split(" and ")]
    rng.shuffle(names)
    joint = ", " if rng.random() < 0.5 else " and "
    said = " and ".join([joint.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    if ground and rng.random() >= _LEFT_OUT:
        said += f" on {ground[0]}"
    styles = [c for c in clauses if c in _styles()]
    clauses = [_with_article(c, rng) for c in clauses if c not in _styles()]
    rng.shuffle(clauses)
    separator = ", " if rng.random() < 0.75 else " "
    if not styles:
        return separator.join([said, *clauses])
    if rng.random() < 0.5:
        return separator.join([said, *clauses, styles[0]])
    return f"a {styles[0]}" if said == PHOTO else f"a {styles[0]} of " + separator.join([said, *clauses])


def without_looks(caption: str) -> str:
    """The caption of a scene without what says how its things look: left open, as `vary` leaves it now and then.

    "a striped red ball on grass, at night" -> "a ball on grass, at night".
    """
    head, *clauses = caption.split(", ")
    things, *ground = head.rsplit(" on ", 1)
    names = " and ".join(_without_adjectives(name) for name in things.split(" and "))
    return ", ".join([" on ".join([names, *ground]), *clauses])


def styled(caption: str, edit: Edit) -> str:
    """The caption of a picture after a style edit."""
    return f"{caption}, {_style_of(edit)}"


@cache
def words() -> dict[str, tuple[str, ...]]:
    """Every word that a caption may hold, by group; commas are no words."""
    groups: dict[str, tuple[str, ...]] = {
        "things": get_args(Shape),
        "colours": tuple(COLOURS),
        "materials": ("golden", "metallic", "wooden", "striped"),
        "grounds": tuple(get_args(Ground)),
    }
    style_words = dict.fromkeys(w for style in _styles() for w in style.split() if w != "and" and w not in COLOURS)
    groups["styles"] = tuple(style_words)
    known = {w for group in groups.values() for w in group}
    said = (w for caption in _every_phrase() for w in caption.replace(",", " ").split())
    return groups | {"place and joints": tuple(w for w in dict.fromkeys(said) if w not in known)}


def sentences() -> list[str]:
    """Captions that hold every word in every position that matters to a tokenizer, the longest among them."""
    return [*dict.fromkeys(_every_phrase()), " ".join(w for group in words().values() for w in group[:3])]


def _every_phrase() -> Iterator[str]:
    """Captions of scenes that differ from the plain one in one thing, in every way of saying them."""
    plain = Scene(())
    things = [Thing(shape, (0.0, 0.0), hat=True, colour=c) for shape in get_args(Shape) for c in COLOURS]
    things += [Thing(SIMPLE_SHAPES[0], (0.0, 0.0), material=m) for m in SAMPLED_MATERIALS]
    scenes = [plain, *(replace(plain, things=(t,)) for t in things)]
    scenes += [replace(plain, ground=g) for g in get_args(Ground)] + [replace(plain, sky=s) for s in _SKIES]
    scenes += [replace(plain, time=t) for t in get_args(Time)] + [replace(plain, weather=w) for w in get_args(Weather)]
    scenes += [replace(plain, season=s) for s in _SEASONS]
    three = tuple(Thing(s, (0.0, 0.0), colour="purple", material="striped", hat=True) for s in SIMPLE_SHAPES[:3])
    longest = Scene(three, time="sunset", weather="cloudy", season="autumn", ground="checkerboard", sky="pink")
    captions = [PHOTO, TEXTURE, *map(describe, [*scenes, longest])]
    captions += [f"{c}, {style}" for c in (PHOTO, describe(longest)) for style in _styles()]
    for k, caption in enumerate(captions):
        yield caption
        yield from (vary(caption, random.Random(f"{k}-{i}")) for i in range(6))


def _without_adjectives(name: str) -> str:
    """ "a striped red ball with a hat" -> "a ball with a hat"."""
    what, *hat = name.split(" with ")
    article, *_, noun = what.split()
    return " with ".join([f"{article} {noun}", *hat]) if article == "a" else name


def _with_article(clause: str, rng: random.Random) -> str:
    """ "in snow" -> "in the snow", now and then."""
    return clause.replace("in ", "in the ", 1) if clause in _WEATHERS and rng.random() < 0.3 else clause


_WEATHERS = ("in snow", "in fog", "in rain")


def _style_of(edit: Edit) -> str:
    """What captions call a style."""
    return edit.captions(Scene(()))[1].split(", ")[-1]


@cache
def _styles() -> tuple[str, ...]:
    return tuple(_style_of(e) for e in all_edits() if e.kind == "style")
