"""PatchNCE, the term of CDS (Nam et al. 2024) that keeps structure: every place still looks like itself.

    L_i = sum over maps, patch sizes of  mean_k  -log softmax_l( <q_k, p_l> / tau )[k]

q_k   unit features of the noisy particle z_t,i at place k       k, l  places drawn at random, the same for all
p_l   unit features of its noisy source s_t,i at place l               particles, at most `nce_patches` in a map
tau   temperature

Features come out of the prior's own UNet, pooled over patches of the given sizes; the gradient goes back through the
UNet to the latents. The published objective is 2000 / (h w) <r, z> + 3 L on h x w latents. Divided by what stands
before the residual, its gradient is

    g = r + nce_weight (h w / 2000) grad_z L

with nce_weight = 3 and a learning rate of 2000 / (h w) times the published one.

A place of the particle is the anchor, told from places of the source, as in the paper and in CUT (Park et al. 2020). In
the published code it is the other way round; `scripts/benchmark_objectives.py --of contrast` measures both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised

FeatureSite = Literal["self-attention", "cross-attention", "score"]
"""Where features are taken: outputs of the self- or the cross-attention of the decoder blocks, or the prediction."""
FeatureLoss = Callable[
    [Sequence[Float[Tensor, "n _d _a _b"]], Sequence[Float[Tensor, "n _d _a _b"]]], Float[Tensor, ""]
]
"""From the feature maps of particles and of their sources, to a sum over particles."""

RESIDUAL_SCALE = 2000.0
"""What stands before <r, z> / (h w) in the published objectives of DDS and CDS."""


@runtime_checkable
class Regulariser(Protocol):
    """A term with a gradient of its own, such as a contrastive loss between features of particle and source."""

    def __call__(self, x: Noised) -> Latents:
        """The gradient by `x.z`, which is added to g as it is: neither weighted by w(t) nor coupled.

        Called without gradients being recorded: a term that needs them enters `torch.enable_grad()`.
        """
        ...


@runtime_checkable
class Regularised(Protocol):
    """A Score that brings a term of its own, such as an energy of what its network looks at."""

    @property
    def has_term(self) -> bool:
        """Whether it brings one."""
        ...

    def own_gradient(self, x: Noised) -> Latents:
        """The gradient of that term by `x.z`, which is added to g as it is.

        `x` are particles of the step for which the score was prepared, all of them or some; what comes out for one
        depends on that one and on what was prepared.
        """
        ...


@runtime_checkable
class Features(Protocol):
    """A Score that also gives features of its inner layers, and differentiates through them."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule the model was trained with."""
        ...

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        """Gradient by z_t of `loss(features of z_t under the target condition, of s_t under that of the source)`.

        The loss is a sum over particles of terms of their own, so an implementation may split the batch.
        """
        ...


@dataclass(frozen=True)
class PatchNce:
    """The regulariser at the top of this module, a `Regulariser` of the step."""

    features: Features
    weight: float = 3.0
    site: FeatureSite = "self-attention"
    patches: int = 256
    patch_sizes: tuple[int, ...] = (1, 2)
    temperature: float = 0.07

    def __call__(self, x: Noised) -> Latents:
        """nce_weight (h w / 2000) grad_z L. The places that are compared are drawn from the seed `seed_of(e)`."""
        loss = PatchLoss(seed_of(x.e), self.patches, self.patch_sizes, self.temperature)
        gradient = self.features.feature_gradient(x, self.site, loss)
        height, width = x.z.shape[-2:]
        return self.weight * height * width / RESIDUAL_SCALE * self.features.schedule.alpha_bar(x.t) ** 0.5 * gradient


@dataclass(frozen=True)
class PatchLoss:
    """L of the feature maps of particles and their sources: a `FeatureLoss` that can be sent to another process."""

    seed: int
    patches: int
    patch_sizes: tuple[int, ...]
    temperature: float

    def __call__(self, target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
        """Sum over maps, patch sizes and particles."""
        rng = torch.Generator().manual_seed(self.seed)  # the same places for whatever piece of the batch this is
        terms = [self._loss(q, p, rng) for q, p in zip(target, source, strict=True)]
        return torch.stack(terms).sum()

    def _loss(
        self, target: Float[Tensor, "n d a b"], source: Float[Tensor, "n d a b"], rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """Sum over patch sizes and particles; a size that is larger than the map is left out."""
        terms = [target.new_zeros(())]
        for size in self.patch_sizes:
            if size <= min(target.shape[-2:]):
                q, p = (functional.avg_pool2d(x, size) for x in (target, source))
                places = torch.randperm(q[0, 0].numel(), generator=rng)[: self.patches]
                terms.append(
                    patch_nce(q, p, places.to(q.device, non_blocking=True), temperature=self.temperature).sum()
                )
        return torch.stack(terms).sum()


def patch_nce(
    target: Float[Tensor, "n d a b"],
    source: Float[Tensor, "n d a b"],
    places: Int64[Tensor, " k"],
    *,
    temperature: float,
) -> Float[Tensor, " n"]:
    """mean_k -log softmax_l(<q_k, p_l> / tau)[k] of every particle; `places` number the a x b pixels row by row.

    No gradient goes to `source`. 0 for a single place, at most log k where all features are equal.
    """
    q, p = (functional.normalize(x.flatten(2)[:, :, places], dim=1) for x in (target, source.detach()))
    logits = torch.einsum("ndk,ndl->nkl", q, p) / temperature
    return -logits.log_softmax(2).diagonal(dim1=1, dim2=2).mean(1)


def seed_of(e: Latents) -> int:
    """A seed computed from the bits of the noise `e`, the same in whatever order the particles are.

    A term that needs random numbers of its own thus stays a function of the step's arguments.
    """
    first = e.detach()[:, 0, 0, 0].to("cpu", torch.float32).contiguous()
    return int(first.view(torch.int32).long().sum()) & 0x7FFFFFFF
