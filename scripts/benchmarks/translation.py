"""Translation networks (Hertz et al. 2023, section 4) that learn two edits from unpaired pictures of the world."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.progress import RunProgress
from csd3d.translate.apply import Trained
from csd3d.translate.config import OWN, TranslateConfig
from csd3d.translate.job import with_residual
from csd3d.translate.network import make_translator
from csd3d.translate.train import Trainer
from csd3d.world.edits import Edit, describe
from csd3d.world.render import render
from csd3d.world.scene import SceneSampler
from scripts.benchmarks.heldout import Source, Task
from scripts.benchmarks.objectives import Job, captions_of, make_job, measure
from scripts.training.pictures import training_camera

TASKS = {"night": f"{OWN}, at night", "snow": f"{OWN}, in snow"}
"""Names of edits of the world, and what the caption of a plain picture becomes."""
SAVE_EVERY = 100
"""Steps between two saved states of a network."""


@torch.inference_mode()
def pupils(first: int, count: int, size_px: int) -> tuple[Float[Tensor, "n 3 S S"], list[str]]:
    """Pictures to learn from and their captions: the clear summer days among `count` scenes from number `first` on."""
    scenes = {seed: SceneSampler().sample(seed) for seed in range(first, first + count)}
    plain = {seed: scene for seed, scene in scenes.items() if "," not in describe(scene)}
    pictures = [render([scene], [training_camera(seed, size_px)]) for seed, scene in plain.items()]
    return torch.cat(pictures), [describe(scene) for scene in plain.values()]


def examination(sources: Sequence[Source]) -> Job:
    """Every task on the sources whose captions it makes true."""

    def fits(source: Source, edit: Edit) -> bool:
        before, after = captions_of(source, edit)
        return after == TASKS[edit.name].replace(OWN, before)

    pairs = [(source, edit) for name in TASKS for source in sources for edit in source.edits if edit.name == name]
    return make_job([Task(source, edit) for source, edit in pairs if fits(source, edit)])


def ablations(config: TranslateConfig) -> Mapping[str, TranslateConfig]:
    """The network, and the paper's two ablations of it."""
    return {
        "network": config,
        "network, no warm-up": replace(config, warmup=0.0),
        "network, SDS": with_residual(config, "sds"),
    }


@torch.no_grad()
def _latents(prior: TextToImagePrior, pictures: Float[Tensor, "n 3 S S"]) -> Float[Tensor, "n c h w"]:
    return torch.cat([prior.codec.encode(rgb.to(prior.device)).cpu() for rgb in pictures.split(16)])


class Pupil:
    """A network that learns from `pictures`, and goes on from what is saved in the file `saved`."""

    def __init__(
        self,
        prior: TextToImagePrior,
        config: TranslateConfig,
        pictures: Float[Tensor, "n 3 S S"],
        captions: Sequence[str],
        saved: Path,
    ) -> None:
        torch.manual_seed(config.seed)
        network = make_translator(prior, list(config.tasks.values()))
        self._prior, self._config, self._saved, self._side = prior, config, saved, pictures.shape[-1]
        self._trainer = Trainer(prior, network, config, _latents(prior, pictures), captions)
        self._done = 0
        if saved.is_file():
            state = load_file(saved)
            self._done = int(state.pop("done"))
            self._trainer.load_state_dict(state)

    def after(self, steps: int, progress: RunProgress) -> Trained:
        """The network after `steps` of its steps. Raises ValueError if it has done more."""
        if self._done > steps:
            raise ValueError(f"steps: expected {self._done} or more, which are done, got {steps}")
        for step in progress.track("network", range(self._done, steps), total=steps - self._done):
            self._trainer.step(step)
            self._done = step + 1
            if self._done % SAVE_EVERY == 0 or self._done == steps:
                self._save()
        return Trained(self._prior, self._trainer.network.eval(), tuple(self._config.tasks), self._side)

    def _save(self) -> None:
        self._saved.parent.mkdir(parents=True, exist_ok=True)
        partial = self._saved.with_suffix(".part")
        state = {name: x.contiguous() for name, x in self._trainer.state_dict().items()}
        save_file(state | {"done": torch.tensor(self._done)}, partial)
        partial.replace(self._saved)


@dataclass(frozen=True)
class Answers:
    """What was made of every picture of an examination."""

    rgb: Float[Tensor, "n 3 S S"]
    seconds: float
    """Of one picture, codec and all."""


def answer(trained: Trained, job: Job) -> Answers:
    """One pass a picture."""
    began = time.perf_counter()
    made = [trained(rgb[None], task.edit.name) for rgb, task in zip(job.pictures, job.tasks, strict=True)]
    return Answers(torch.cat(made).cpu(), (time.perf_counter() - began) / len(made))


def variety(job: Job, rgb: Float[Tensor, "n 3 S S"]) -> float:
    """How far the results of a task are from each other, divided by how far the truths are: 0 = all the same."""

    def spread(x: Tensor) -> Tensor:
        per_task = []
        for name in TASKS:
            some = x[[t.edit.name == name for t in job.tasks]].flatten(1)
            per_task.append(torch.pdist(some).mean())
        return torch.stack(per_task).mean()

    return float(spread(rgb) / spread(job.truths))


def records_of(name: str, job: Job, answers: Answers) -> list[dict[str, Any]]:
    """One record a picture; the variety of all is in each."""
    shared = {"row": name, "variety": variety(job, answers.rgb), "seconds": answers.seconds}
    return [shared | record for record in measure(job, answers.rgb)]
