"""One step of learning a subject.

    L = mean |eps(z_t | y) - e|^2  +  lambda mean |eps(x_t | y_class) - e'|^2

z        latents of a picture of the subject under its caption y; only where its mask is, if there is one
x        of a picture of its class that the prior made, under the class's caption (DreamBooth, Ruiz et al. 2022)
t, e     another timestep and noise for each; a v-model is asked for its v

A step is a function of the seed, the step's number and what was learnt before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.personal.adapters import Adapter
from csd3d.personal.config import PersonalConfig
from csd3d.priors.networks.denoiser import target_of
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.training import moments_of, put_moments


@dataclass(frozen=True, eq=False)
class Lesson:
    """Pictures with captions."""

    z: Float[Tensor, "n c h w"]
    captions: Sequence[str]
    """One for each, with `{}` for the subject."""
    where: Float[Tensor, "n 1 h w"] | None = None
    """Where the subject is. None: everywhere."""
    weight: float = 1.0
    """Of its loss."""


@dataclass(frozen=True)
class Step:
    """What happened in one step."""

    number: int
    loss: float
    """Of all lessons, weighted."""
    size: float
    """See `Adapter.size`."""


class Trainer:
    """An adapter, its optimiser, and what it learns from."""

    def __init__(
        self, prior: TextToImagePrior, adapter: Adapter, config: PersonalConfig, lessons: Sequence[Lesson]
    ) -> None:
        self.adapter = adapter
        self._prior, self._config, self._lessons = prior, config, lessons
        self._optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=config.rate, weight_decay=0.0)

    def step(self, number: int) -> Step:
        """One update. Raises FloatingPointError, before anything is changed, if the loss is not finite."""
        loss = self.gradient(number)
        self._optimizer.step()
        return Step(number, float(loss.detach()), self.adapter.size)

    def gradient(self, number: int) -> Float[Tensor, ""]:
        """The loss of a step, and its gradient in the parameters of the adapter; raises as `step` does."""
        rng = torch.Generator().manual_seed((self._config.seed * 1_000_003 + number) % 2**63)
        with torch.enable_grad():
            loss = torch.stack([lesson.weight * self._loss(lesson, rng) for lesson in self._lessons]).sum()
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is not finite at step {number}: a lower --lr may help")
            self._optimizer.zero_grad()
            loss.backward()
        return loss

    def _loss(self, lesson: Lesson, rng: torch.Generator) -> Float[Tensor, ""]:
        schedule, prediction, device = self._prior.schedule, self._prior.prediction, self._prior.device
        csd = self._config.engine
        rows = torch.randint(len(lesson.z), (self._config.batch,), generator=rng)
        t = torch.randint(csd.t_min, csd.t_max, (len(rows),), generator=rng)
        z = lesson.z[rows]
        e = torch.randn(z.shape, generator=rng)
        each = list(zip(z.split(1), e.split(1), t.tolist(), strict=True))
        z_t = torch.cat([schedule.add_noise(*row) for row in each]).to(device)
        wanted = torch.cat([target_of(*row, schedule=schedule, prediction=prediction) for row in each]).to(device)
        text = self.adapter.text([lesson.captions[int(k)] for k in rows])
        said = self.adapter.unet(z_t, t.to(device), encoder_hidden_states=text, return_dict=False)[0]
        error = (said - wanted).square()
        if lesson.where is None:
            return error.mean()
        where = lesson.where[rows].to(error)
        return (where * error).sum() / (where.sum() * error.shape[1]).clamp(min=1e-8)

    def state_dict(self) -> dict[str, Tensor]:
        """What learns and its moments, as tensors by name."""
        own = {f"own.{name}": value.detach() for name, value in self.adapter.parameters.items()}
        return own | moments_of(self._optimizer)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state of `state_dict`."""
        for name, parameter in self.adapter.parameters.items():
            parameter.copy_(state[f"own.{name}"])
        put_moments(self._optimizer, state)
