"""Learning a translation network from unpaired pictures and their captions, by DDS.

    L = mean <g, z> + lambda(step) mean |z - s|^2        z = network(s | task)

g is the descent direction of the engine for the caption of the task against the picture's own, at a guidance scale
that rises from 1. A step is a function of the seed, the step's number and the weights, so a run that was stopped goes
on as if it had not been, on the CPU bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.engine.loop import draw_noise, draw_timestep
from csd3d.engine.step import csd_step, measured, require_finite, surrogate_loss
from csd3d.engine.types import Batch
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.training import moments_of, put_moments
from csd3d.translate.config import TranslateConfig
from csd3d.translate.network import Translator


@dataclass(frozen=True)
class TrainInfo:
    """What happened in one step."""

    step: int
    gradient_rms: float
    """Root mean square of g."""
    change_rms: float
    """Root mean square of z - s."""
    s_text: float
    identity: float


class Trainer:
    """A network, its optimiser, and what it learns from."""

    def __init__(
        self,
        prior: TextToImagePrior,
        network: Translator,
        config: TranslateConfig,
        sources: Float[Tensor, "p c h w"],
        captions: Sequence[str],
    ) -> None:
        """Latents of the pictures, and the caption of each."""
        if len(sources) != len(captions):
            raise ValueError(f"captions: expected one a picture ({len(sources)}), got {len(captions)}")
        self.network = network.to(prior.device)
        self._prior, self._config = prior, config
        self._sources, self._captions = sources, list(captions)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=0.0)

    def step(self, number: int) -> TrainInfo:
        """One update. Raises FloatingPointError, before anything is changed, if the gradient is not finite."""
        config, device = self._config, self._prior.device
        rng = torch.Generator().manual_seed((config.seed * 1_000_003 + number) % 2**63)
        rows = torch.randint(len(self._sources), (config.batch,), generator=rng)
        task = torch.randint(len(config.tasks), (config.batch,), generator=rng)
        names = list(config.tasks)
        own: list[str] = [self._captions[int(i)] for i in rows]
        wanted = [config.caption(names[k], caption) for k, caption in zip(task.tolist(), own, strict=True)]
        s = self._sources[rows].to(device)
        t = self._prior.schedule.shifted(draw_timestep(rng, config.engine), config.engine.shift)
        e = draw_noise(s, rng, config.engine)
        s_text = config.guidance_at(number)
        score = self._prior.score(Prompts(wanted, own), replace(Guidance.of(config.engine), text=s_text))

        z = self.network(s, task.to(device))
        x = score.schedule.noised(Batch(z.detach(), s, torch.arange(len(s), device=device)), t, e)
        result = csd_step(score, x, config.engine)
        require_finite(measured(result), x, step=number)
        weight = config.identity_at(number)
        loss = surrogate_loss(z, result.g) / z.numel() + weight * (z - s).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        change = (z - s).detach().square().mean().sqrt()
        return TrainInfo(number, float(result.g.square().mean().sqrt()), float(change), s_text, weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and moments, as tensors by name."""
        return {f"network.{k}": v for k, v in self.network.state_dict().items()} | moments_of(self._optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state of `state_dict`."""
        self.network.load_state_dict(
            {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
        )
        put_moments(self._optimizer, state)
