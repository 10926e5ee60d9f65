"""Attention as settings say it: `NAME` or `NAME:key=value,key=value`, and whether particles share it."""

from dataclasses import MISSING, dataclass, fields
from typing import Literal

from csd3d.attention.attended import AttendedScore
from csd3d.attention.compositions import Composition, KvFusion, MasaCtrl, PlugAndPlay, PromptToPrompt, Reweight
from csd3d.attention.control import Control
from csd3d.attention.score import Controllable
from csd3d.engine.residuals import Score

Sharing = Literal["none", "anchors"]
PRESETS: dict[str, type[Composition]] = {
    "reweight": Reweight,
    "p2p": PromptToPrompt,
    "pnp": PlugAndPlay,
    "masactrl": MasaCtrl,
    "kv-fusion": KvFusion,
}
"""The methods by name; their fields are the keys."""


@dataclass(frozen=True)
class Attention:
    """What is asked for."""

    share: Sharing = "none"
    """`anchors`: in every self-attention all particles of a step look at the same few too."""
    compositions: tuple[Composition, ...] = ()

    @classmethod
    def of(cls, share: Sharing, texts: tuple[str, ...]) -> "Attention":
        """As settings say it. Raises ValueError as `parse` does."""
        return cls(share, tuple(parse(text) for text in texts))

    def over(self, score: Score) -> Score:
        """`score` under control, or `score` itself if nothing is asked for.

        Raises:
            ValueError: the prior cannot be controlled, or cannot serve a composition.
        """
        if self == Attention():
            return score
        if not isinstance(score, Controllable):
            raise ValueError(f"attention: expected a prior of Stable Diffusion's kind, got {type(score).__name__}")
        sites = [site for site in score.sites if site.heads]
        with score.controlled([Control(sites, qkv=lambda site, rows, q, k, v: (q, k, v))]):
            pass  # what cannot be controlled is refused before anything is computed
        return AttendedScore(score, self.compositions, shares=self.share == "anchors")


def parse(text: str) -> Composition:
    """The composition that `NAME:key=value,...` says.

    Raises:
        ValueError: an unknown name or key, a key that is missing, or a value that makes no sense.
    """
    name, _, rest = text.partition(":")
    if name not in PRESETS:
        raise ValueError(f"attention: expected {', '.join(PRESETS)}, got {name!r}")
    keys = {f.name.replace("_", "-"): f for f in fields(PRESETS[name])}  # pyright: ignore[reportArgumentType] - dataclasses
    given: dict[str, str | float] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in keys or not value:
            takes = ", ".join(f"{key}=..." for key in keys) or "no keys"
            raise ValueError(f"attention: expected {name} with {takes}, got {part!r}")
        given[keys[key].name] = value if keys[key].type in ("str", str) else _number(f"{name} {key}", value)
    missing = [key for key, f in keys.items() if f.default is MISSING and f.name not in given]
    if missing:
        raise ValueError(f"attention: expected {name} with {', '.join(keys)}, got none of {', '.join(missing)}")
    return PRESETS[name](**given)


def _number(what: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"attention: expected a number for {what}, got {value!r}") from None
