"""Learning in a session: steps with a bar, a saved state now and then, and curves; goes on where it was stopped.

A step is a function of the seed, its number and what was learnt before, so that a run that was stopped goes on as if it
had not been, on the CPU bit for bit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from csd3d.runs.checkpoint import as_saved, load_checkpoint, save_checkpoint
from csd3d.runs.session import Session

I_co = TypeVar("I_co", covariant=True)
Values = list[list[float]]
"""What is drawn of each step."""


@runtime_checkable
class Learner(Protocol[I_co]):
    """What learns."""

    def step(self, number: int) -> I_co:
        """One update. Raises FloatingPointError, before anything is changed, if a gradient is not finite."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """All that a step depends on, as tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state of `state_dict`."""
        ...


def train(
    session: Session,
    learner: Learner[I_co],
    values: Callable[[I_co], list[float]],
    *,
    steps: int,
    every: int,
) -> Values:
    """Train from the last saved state to the last step.

    Args:
        session: where the state is kept.
        learner: as it begins; a saved state is put back into it.
        values: what is drawn of a step.
        steps: of the whole run.
        every: steps between two saved states.

    Raises:
        ValueError: the saved state is of something else.
        FloatingPointError: a gradient is not finite; the last saved state is still there.
        RunInterrupted: the run was asked to stop and its state is saved.
    """
    state = session.folder.state
    with session.manifest.timed("train"):
        done, curves = _load(state, learner)
        session.manifest.steps_done = done
        for step in session.progress.track("train", range(done, steps), total=steps, start=done):
            curves.append(values(learner.step(step)))
            done = step + 1
            if session.stop or done % every == 0 or done == steps:
                drawn = torch.tensor(curves, dtype=torch.float64)
                save_checkpoint(state, dict(learner.state_dict()) | {"curves": drawn}, {"step": done})
                session.manifest.steps_done = done
            session.stop_if_asked(f"{done} of {steps} steps are done")
    return curves


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors by name."""
    states = optimizer.state_dict()["state"].items()
    return {f"adam.{i}.{name}": value for i, moments in states for name, value in moments.items()}


def put_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Return to `moments_of`, among other tensors."""
    moments: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        if name.startswith("adam."):
            _, i, key = name.split(".", 2)
            moments.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _load(state: Path, learner: Learner[Any]) -> tuple[int, Values]:
    if not state.exists():
        return 0, []
    saved = load_checkpoint(state)
    with as_saved(state):
        curves, done = saved.tensors.pop("curves"), int(saved.record["step"])
        if curves.ndim != 2 or len(curves) != done:
            raise ValueError(f"curves {tuple(curves.shape)} of {done} steps")
        learner.load_state_dict(saved.tensors)
        return done, curves.tolist()
