"""A score over another: it changes what a step predicts, and leaves the rest as the prior has it."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor

from csd3d.engine.regularisers import FeatureLoss, Features, FeatureSite
from csd3d.engine.residuals import Score
from csd3d.engine.schedule import Schedule
from csd3d.engine.stein import Perceptual
from csd3d.engine.types import Latents, Noised

S = TypeVar("S", bound=Score)


class OverScore(ABC, Generic[S]):
    """Satisfies `StepScore`, and `Features` and `Perceptual` where `score` does."""

    score: S

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.score.schedule

    @abstractmethod
    def for_step(self, x: Noised) -> Score:
        """The score of one step, of particles that are all of `x` or some of them."""

    def target(self, x: Noised) -> Latents:
        """Of a step that is `x`."""
        return self.for_step(x).target(x)

    def source(self, x: Noised) -> Latents:
        """Of a step that is `x`."""
        return self.for_step(x).source(x)

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """That of the prior as it is."""
        assert isinstance(self.score, Features)  # as the scores of all our priors are
        return self.score.feature_gradient(x, site, loss)

    def perceptual_features(self, z: Latents) -> Float[Tensor, "n d"]:
        """Those of the prior."""
        assert isinstance(self.score, Perceptual)  # as the scores of all our priors are
        return self.score.perceptual_features(z)
