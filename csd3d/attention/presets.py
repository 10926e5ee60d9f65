"""Attention as settings say it: `NAME` or `NAME:key=value,key=value`, and whether particles share it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from csd3d.attention.attended import AttendedScore
from csd3d.attention.bank import Bank
from csd3d.attention.compositions import Composition, KvFusion, MasaCtrl, PlugAndPlay, PromptToPrompt, Reweight
from csd3d.attention.control import Control
from csd3d.attention.pull import Pull
from csd3d.attention.sag import SelfAttentionGuidance
from csd3d.attention.score import Controllable, Steerable
from csd3d.attention.steer import Steer, Steering
from csd3d.attention.structure import StructureDiffusion
from csd3d.attention.tail import read_tail
from csd3d.engine.residuals import Score

Sharing = Literal["none", "anchors"]
PRESETS: dict[str, type[Composition]] = {
    "reweight": Reweight,
    "p2p": PromptToPrompt,
    "pnp": PlugAndPlay,
    "masactrl": MasaCtrl,
    "kv-fusion": KvFusion,
    "structure": StructureDiffusion,
    "sag": SelfAttentionGuidance,
}
"""The methods by name; their fields are the keys."""


@dataclass(frozen=True)
class Attention:
    """What is asked for."""

    share: Sharing = "none"
    """`anchors`: in every self-attention all particles of a step look at the same few too."""
    compositions: tuple[Composition, ...] = ()
    steering: Steering | None = None
    """A term of distillation; complete for the prior once `over` is asked for."""
    group: str = ""
    """The things of the sentence, see `csd3d.attention.groups.groups_of`; empty: as they are found."""

    @classmethod
    def of(cls, share: Sharing, texts: tuple[str, ...], steer: str | None = None, group: str = "") -> "Attention":
        """As settings say it. Raises ValueError as `parse` and `Steering.of` do, and for rounds, which only samplers
        make."""
        steering = None if steer is None else Steering.of(steer)
        if steering is not None and steering.rounds is not None:
            raise ValueError(f"steer: expected no rounds where particles are moved, got {steering.rounds}")
        said = tuple(parse(text) for text in texts)
        if group:
            said = tuple(replace(c, groups=c.groups or group) if isinstance(c, StructureDiffusion) else c for c in said)
        return cls(share, said, steering, group)

    @property
    def sees_sources(self) -> bool:
        """Whether targets look at their noisy sources."""
        return any(composition.sees_sources for composition in self.compositions)

    def over(self, score: Score) -> Score:
        """`score` under control, or `score` itself if nothing is asked for.

        Raises:
            ValueError: the prior cannot be controlled, or cannot serve a composition.
        """
        if not (self.compositions or self.steering or self.share != "none"):
            return score
        if not isinstance(score, Controllable):
            raise ValueError(f"attention: expected a prior of Stable Diffusion's kind, got {type(score).__name__}")
        sites = [site for site in score.sites if site.heads]
        with score.controlled([Control(sites, qkv=lambda site, rows, q, k, v: (q, k, v))]):
            pass  # what cannot be controlled is refused before anything is computed
        return AttendedScore(score, self.compositions, shares=self.share == "anchors", pull=self._pull(score))

    def _pull(self, score: Controllable) -> Pull | None:
        if self.steering is None:
            return None
        if not isinstance(score, Steerable):
            raise ValueError(f"steer: expected a prior of Stable Diffusion's kind, got {type(score).__name__}")
        return Pull(Steer.over(score, self.steering, steps=1, group=self.group))

    def alone(self, score: Score, size_lat: tuple[int, int]) -> list[Control]:
        """The controls of compositions by themselves, for pictures that come from no source.

        Raises:
            ValueError: as `over`, and where particles would share or look at a source.
        """
        if not isinstance(over := replace(self, steering=None).over(score), AttendedScore):
            return []
        bank, guides = Bank(), any(isinstance(c, SelfAttentionGuidance) for c in self.compositions)
        if self.share != "none" or self.sees_sources or guides:
            raise ValueError("attention: expected reweight or structure where there is no source to look at, got more")
        return [control for c in self.compositions for control in c.take(over.score, bank, size_lat)]


def parse(text: str) -> Composition:
    """The composition that `NAME:key=value,...` says.

    Raises:
        ValueError: an unknown name or key, a key that is missing, or a value that makes no sense.
    """
    name, (values,) = read_tail(text, {name: (kind,) for name, kind in PRESETS.items()}, what="attention")
    made: Callable[..., Composition] = PRESETS[name]
    return made(**values)
