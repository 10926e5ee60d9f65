"""A prior without networks: small, deterministic, and quick enough for many runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from csd3d.engine.config import CsdConfig
from csd3d.engine.schedule import Schedule
from csd3d.engine.types import Latents, Noised
from csd3d.priors.prior import Guidance, Prior, Prompts, require_no_source
from csd3d.priors.store.resolve import Resolved

Goal = Callable[[Tensor], Tensor]
"""From latents of sources to those of what a sentence makes of them."""
Watch = Callable[[Tensor], object]
"""Called with the numbers of the particles of every step."""

GOALS: dict[str, Goal] = {
    "make it red": lambda s: torch.tensor([1.0, -1, -1, -1 / 3]).reshape(1, 4, 1, 1).expand_as(s),
    "make it dark": lambda s: 0.5 * s - 0.5,
    "make the dark red": lambda s: torch.where(s[:, 3:] < 0, GOALS["make it red"](s), s),
    "make it stay": lambda s: s,
}


def resolve_toy(name: str | Path, how: object = None) -> Resolved:
    """Stands for `resolve`, in tests in which every name is that of the toy."""
    return Resolved(str(name), Path("/nonexistent/toy"), "instruct", builtin=False)


class ToyCodec:
    """Means of 8 x 8 blocks as latents (three colours and their mean)."""

    factor = 8
    channels = 4

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        """Shapes of all pictures so far."""

    def encode(self, rgb: Tensor) -> Tensor:
        self.sizes.append(tuple(rgb.shape))
        small = 2 * avg_pool2d(rgb, self.factor) - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(self, z: Tensor) -> Tensor:
        self.sizes.append((len(z), 3, *(self.factor * side for side in z.shape[-2:])))
        return interpolate((z[:, :3] + 1) / 2, scale_factor=self.factor, mode="bilinear").clamp(0, 1)


class ToyScore:
    """Predicts the noise that leads from z_t to the goal of each particle's sentence; the source's leads to itself."""

    def __init__(
        self, goals: Sequence[Goal], schedule: Schedule, *, assign: Tensor | None = None, watch: Watch | None = None
    ) -> None:
        self.schedule, self._goals, self._assign, self._watch = schedule, goals, assign, watch

    def target(self, x: Noised) -> Latents:
        if self._watch:
            self._watch(x.index)
        which = torch.zeros_like(x.index) if self._assign is None else self._assign[x.index]
        goals = [self._goals[k](x.s[i : i + 1]) for i, k in enumerate(which.tolist())]
        return self._noise(x.z_t, x.t, torch.cat(goals))

    def source(self, x: Noised) -> Latents:
        return self._noise(x.s_t, x.t, x.s)

    def _noise(self, z_t: Tensor, t: int, clean: Tensor) -> Tensor:
        ab = self.schedule.alphas_cumprod[t]
        return (z_t - ab.sqrt() * clean) / (1 - ab).sqrt()


class ToyPrior(Prior):
    """Knows the sentences of `GOALS`; its windows are 4 latents."""

    kind = "instruct"
    codec: ToyCodec

    def __init__(self, watch: Watch | None = None, *, name: str = "toy") -> None:
        super().__init__(
            name=name,
            path=Path("/nonexistent/toy"),
            builtin=False,
            device=torch.device("cpu"),
            codec=ToyCodec(),
            schedule=Schedule(torch.linspace(0.999, 0.01, 1000)),
            native_px=32,
        )
        self.watch = watch

    def score(self, prompts: Prompts, guidance: Guidance) -> ToyScore:
        sentences = [prompts.target] if isinstance(prompts.target, str) else list(prompts.target)
        if unknown := [sentence for sentence in sentences if sentence not in GOALS]:
            raise ValueError(f"this prior does not know {unknown[0]!r}. It knows: {', '.join(GOALS)}")
        return ToyScore([GOALS[p] for p in sentences], self.schedule, assign=prompts.assign, watch=self.watch)

    def require(self, csd: CsdConfig, prompts: Prompts) -> None:
        require_no_source(prompts)
