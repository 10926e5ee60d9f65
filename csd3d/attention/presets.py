"""Attention as settings say it: `NAME` or `NAME:key=value,key=value`, and whether particles share it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from csd3d.attention.attended import AttendedScore
from csd3d.attention.bank import Bank
from csd3d.attention.compositions import Composition, KvFusion, MasaCtrl, PlugAndPlay, PromptToPrompt, Reweight
from csd3d.attention.control import Control
from csd3d.attention.dense import Dense, Regions
from csd3d.attention.eye import EyeForEye
from csd3d.attention.like import CrossImage, Reference
from csd3d.attention.pull import Pull
from csd3d.attention.sag import SelfAttentionGuidance
from csd3d.attention.score import Controllable, Steerable
from csd3d.attention.steer import Steer, Steering
from csd3d.attention.structure import StructureDiffusion
from csd3d.attention.tail import read_tail
from csd3d.engine.residuals import Score
from csd3d.engine.transport import Correspondences

Sharing = Literal["none", "anchors"]
PRESETS: dict[str, type[Composition]] = {
    "reweight": Reweight,
    "p2p": PromptToPrompt,
    "pnp": PlugAndPlay,
    "masactrl": MasaCtrl,
    "kv-fusion": KvFusion,
    "structure": StructureDiffusion,
    "sag": SelfAttentionGuidance,
    "like": CrossImage,
    "dense": Dense,
    "eye": EyeForEye,
}
"""The methods by name; their fields are the keys, but for `regions` and `correspondences`."""


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
    reference: Float[Tensor, "1 c h w"] | None = field(default=None, compare=False)
    """Latents of the picture that all are to be like, where there is a `CrossImage`."""
    regions: Regions | None = field(default=None, compare=False)
    """Where phrases hold, where there is a `Dense`."""
    correspondences: Correspondences | None = field(default=None, compare=False)
    """Where points of particles are in each other, where there is an `EyeForEye`."""

    @classmethod
    def of(
        cls,
        share: Sharing,
        texts: tuple[str, ...],
        steer: str | None = None,
        group: str = "",
        *,
        likes: bool = False,
        divides: bool = False,
    ) -> "Attention":
        """As settings say it; `likes`: there is a picture that all are to be like; `divides`: phrases have regions.

        Raises ValueError as `parse` and `Steering.of` do, for rounds, which only samplers make, and for `like` without
        a picture and `dense` without regions.
        """
        steering = None if steer is None else Steering.of(steer)
        if steering is not None and steering.rounds is not None:
            raise ValueError(f"steer: expected no rounds where particles are moved, got {steering.rounds}")
        said = tuple(parse(text) for text in texts)
        for kind, there, beside in (
            (CrossImage, likes, "like beside a picture, --like photo.jpg"),
            (Dense, divides, 'dense beside regions of generate, --region mask.png="a red ball"'),
        ):
            if any(isinstance(c, kind) for c in said):
                if not there:
                    raise ValueError(f"attention: expected {beside}, got it alone")
            elif there:
                said = (*said, kind())
        if group:
            said = tuple(replace(c, groups=c.groups or group) if isinstance(c, StructureDiffusion) else c for c in said)
        return cls(share, said, steering, group)

    @property
    def asks(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.compositions or self.steering or self.share != "none")

    @property
    def sees_sources(self) -> bool:
        """Whether targets look at their noisy sources."""
        return any(composition.sees_sources for composition in self.compositions)

    @property
    def goes_by_anchors(self) -> bool:
        """Whether particles depend on the anchors of a step: on their keys, their colours or their hidden states."""
        coloured = any(isinstance(c, CrossImage) and c.colours > 0 for c in self.compositions)
        return self.share == "anchors" or self.follows or coloured

    def over(self, score: Score) -> Score:
        """`score` under control, or `score` itself if nothing is asked for.

        Raises:
            ValueError: the prior cannot be controlled, or cannot serve a composition.
        """
        if not self.asks:
            return score
        if not isinstance(score, Controllable):
            raise ValueError(f"attention: expected a prior of Stable Diffusion's kind, got {type(score).__name__}")
        sites = [site for site in score.sites if site.heads]
        with score.controlled([Control(sites, qkv=lambda site, rows, q, k, v: (q, k, v))]):
            pass  # what cannot be controlled is refused before anything is computed
        reference = None if self.reference is None else Reference(self.reference)
        shares = self.share == "anchors"
        return AttendedScore(score, tuple(map(self._given, self.compositions)), shares, self._pull(score), reference)

    def _given(self, composition: Composition) -> Composition:
        """One of the compositions with what it acts by."""
        if isinstance(composition, Dense):
            return replace(composition, regions=self.regions)
        if isinstance(composition, EyeForEye):
            return replace(composition, correspondences=self.correspondences)
        return composition

    def _pull(self, score: Controllable) -> Pull | None:
        if self.steering is None:
            return None
        if not isinstance(score, Steerable):
            raise ValueError(f"steer: expected a prior of Stable Diffusion's kind, got {type(score).__name__}")
        return Pull(Steer.over(score, self.steering, steps=1, group=self.group))

    @property
    def follows(self) -> bool:
        """Whether it wants to know where points are."""
        return any(isinstance(composition, EyeForEye) for composition in self.compositions)

    @property
    def guides(self) -> bool:
        """Whether something is predicted more than once, so that controls alone are not all of it."""
        return any(isinstance(composition, SelfAttentionGuidance | CrossImage) for composition in self.compositions)

    def alone(self, score: Score, size_lat: tuple[int, int]) -> list[Control]:
        """The controls of compositions by themselves, for pictures that come from no source.

        Raises:
            ValueError: as `over`, and where particles would share or look at a source.
        """
        if not isinstance(over := replace(self, steering=None).over(score), AttendedScore):
            return []
        if self.share != "none" or self.sees_sources:
            given = ", ".join(name for name, kind in PRESETS.items() if not kind.sees_sources)
            raise ValueError(f"attention: expected one of {given} where there is no source to look at, got more")
        bank = Bank()
        return [control for c in over.compositions for control in c.take(over.score, bank, size_lat)]


def parse(text: str) -> Composition:
    """The composition that `NAME:key=value,...` says.

    Raises:
        ValueError: an unknown name or key, a key that is missing, or a value that makes no sense.
    """
    name, (values,) = read_tail(
        text, {name: (kind,) for name, kind in PRESETS.items()}, what="attention", hide=("regions", "correspondences")
    )
    made: Callable[..., Composition] = PRESETS[name]
    return made(**values)
