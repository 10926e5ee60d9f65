"""Recording: a pipeline makes its conditions and calls its network, and is stopped where it hands a prediction to its
scheduler. What is kept: the arguments of the network, row by row, and where in them the noisy latents lie.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from csd3d.priors.families.calls import Arguments, as_others, said, unsaid
from csd3d.priors.families.table import Branch, Family

RECORDED_AT = 500.0
"""Timestep at which conditions are recorded; when they are replayed, times are scaled from it."""


@dataclass(frozen=True)
class Place:
    """Where noisy latents lie in the input of a network."""

    argument: str
    axis: int
    """Along which they were joined with a condition."""
    offset: int
    """Where they begin."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """One step of a pipeline up to its scheduler."""

    rows: Mapping[Branch, Arguments]
    """Arguments of the network for each branch, one row each."""
    place: Place
    """Of the latents in every row."""
    prediction: Tensor
    """What the scheduler was handed; not to be used where the network was stood in for."""
    outputs: tuple[Tensor, ...]
    """What the network said, call by call."""


class _FoundError(Exception):
    """Carries the prediction that a pipeline handed to its scheduler, and its latents, out of the pipeline."""

    def __init__(self, prediction: Tensor, latents: Tensor) -> None:
        super().__init__()
        self.prediction, self.latents = prediction, latents


class _AskedError(Exception):
    """Carries what a pipeline asked its scheduler for out of the pipeline."""

    def __init__(self, asked: Mapping[str, object]) -> None:
        super().__init__()
        self.asked = asked


class Probe:
    """In the place of a pipeline's scheduler: one step, at a timestep of our choosing, and then out; without one
    (`t` None) out where timesteps are asked for."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, scheduler: Any, t: float | None) -> None:  # diffusers types no config
        self.config, self._t = scheduler.config, t
        self.sigmas = torch.tensor([1.0, 0.0])
        self.timesteps = torch.tensor([t or 0.0])

    def set_timesteps(
        self, num_inference_steps: object = None, device: Any = None, sigmas: object = None, mu: object = None,
        timesteps: object = None,
    ) -> None:  # fmt: skip
        """One, whatever is asked for."""
        if self._t is None:
            asked = {"num_inference_steps": num_inference_steps, "sigmas": sigmas, "mu": mu, "timesteps": timesteps}
            raise _AskedError({name: value for name, value in asked.items() if value is not None})
        self.timesteps = torch.tensor([self._t], device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing begins."""

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """As it is: the latents that are given are those that the network reads."""
        return sample

    def step(self, model_output: Tensor, timestep: object, sample: Tensor, **_: object) -> None:
        """Ends the recording."""
        raise _FoundError(model_output, sample)


def network_of(pipe: Any) -> Any:
    """The denoising network of a pipeline: a module with a config."""
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


@torch.no_grad()
def record(
    pipe: Any,
    family: Family,
    call: Mapping[str, object],
    latents: Tensor,
    *,
    size_px: tuple[int, int],
    t: float = RECORDED_AT,
    stand_in: Callable[[Arguments], Tensor] | None = None,
) -> Recorded:
    """One step of `pipe` on `latents`.

    Args:
        pipe: A pipeline, left as it was.
        family: Its row.
        call: Arguments of its call, all but latents and size.
        latents: In the pipeline's own layout, as its network reads them at `t`.
        size_px: Height and width.
        t: What the pipeline's loop calls t.
        stand_in: Makes an output of the network of its arguments, in its place, where only conditions are wanted.

    Raises:
        ValueError: The pipeline refuses the call, or what it does cannot be recorded.
    """
    net = network_of(pipe)
    bind, forward = inspect.signature(net.forward).bind, net.forward
    calls: list[Arguments] = []
    outputs: list[Tensor] = []

    def heard(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(bind(*args, **kwargs).arguments)
        arguments |= arguments.pop("kwargs", {})
        arguments = as_others(net, arguments)
        calls.append(arguments)
        out = forward(*args, **kwargs) if stand_in is None else (unsaid(net, stand_in(arguments)),)
        outputs.append(said(net, out[0]))
        return out

    with _put(net, "forward", heard):
        try:
            _run(pipe, family, call, latents, size_px=size_px, t=t)
        except _FoundError as found:
            prediction, reached = found.prediction, found.latents
    places = [find(arguments, reached) for arguments in calls]
    if not places or any(place != places[0] for place in places):
        raise ValueError(f"{type(pipe).__name__}: the latents lie at different places in different calls")
    return Recorded(_rows(calls, places[0], family), places[0], prediction, tuple(outputs))


@torch.no_grad()
def stepper_of(pipe: Any, family: Family, latents: Tensor, *, size_px: tuple[int, int], steps: int) -> Any:
    """A scheduler like that of `pipe`, its timesteps set as the pipeline sets them for `latents` of a size in so many
    steps. Raises ValueError where it asks for none."""
    try:
        _run(pipe, family, {"prompt": ""}, latents, size_px=size_px, t=None, steps=steps)
    except _AskedError as found:
        stepper = type(pipe.scheduler).from_config(pipe.scheduler.config)
        stepper.set_timesteps(**found.asked, device=latents.device)
        return stepper


def _run(
    pipe: Any, family: Family, call: Mapping[str, object], latents: Tensor, *, size_px: tuple[int, int],
    t: float | None, steps: int = 1,
) -> NoReturn:  # fmt: skip
    """Call a pipeline, left as it was, up to where the `Probe` that stands in for its scheduler raises."""
    height, width = size_px
    sizes = {"height": height, "width": width} if family.sized else {}
    sizes |= {"max_area": height * width} if family.max_area else {}
    takes_latents = "latents" in inspect.signature(type(pipe).__call__).parameters
    given = {"latents": latents.clone()} if takes_latents else {}
    with ExitStack() as undo:
        undo.enter_context(_our_size(pipe, family, size_px))
        undo.enter_context(_as_written(pipe, family))
        if not takes_latents:
            undo.enter_context(_put(pipe, "prepare_latents", lambda *a, **k: latents.clone()))
        scheduler, pipe.scheduler = pipe.scheduler, Probe(pipe.scheduler, t)
        undo.callback(setattr, pipe, "scheduler", scheduler)
        pipe(**family.call, **call, **sizes, **given, num_inference_steps=steps, output_type="latent")
    raise ValueError(f"{type(pipe).__name__} made no step that could be recorded")


def find(arguments: Arguments, latents: Tensor) -> Place:
    """Which argument holds the latents, along which axis they were joined with a condition, and where they begin.

    Found by comparing: they are at the head or the tail of one axis. Raises ValueError if they are nowhere.
    """
    for name, x in arguments.items():
        if not isinstance(x, Tensor) or x.ndim != latents.ndim:
            continue
        for axis in range(1, x.ndim):
            length, total = latents.shape[axis], x.shape[axis]
            others = [d for d in range(1, x.ndim) if d != axis]
            if length > total or any(x.shape[d] != latents.shape[d] for d in others):
                continue
            for offset in dict.fromkeys((0, total - length)):
                if torch.equal(x[:1].narrow(axis, offset, length), latents[:1].to(x.dtype)):
                    return Place(name, axis, offset)
    raise ValueError("the noisy latents are nowhere in the network's input")


def _rows(calls: list[Arguments], place: Place, family: Family) -> dict[Branch, Arguments]:
    """The rows of all calls, under the names of their branches."""
    found: list[Arguments] = []
    for arguments in calls:
        count = len(arguments[place.argument])
        found += [_pick(arguments, count, i) for i in range(count)]
    if len(found) not in (1, len(family.branches)):
        raise ValueError(f"{family.title}: expected {len(family.branches)} rows a step or one, got {len(found)}")
    return dict(zip(family.branches, found, strict=False))


def _pick(value: Any, rows: int, i: int) -> Any:
    """Row `i` of everything in `value` that has `rows` of them, as one row, on the CPU."""
    if isinstance(value, dict):
        return {k: _pick(v, rows, i) for k, v in value.items()}
    if isinstance(value, Tensor):
        return (value[i : i + 1] if value.ndim and len(value) == rows else value).detach().cpu().clone()
    if isinstance(value, list) and len(value) == rows:
        return [x.detach().cpu().clone() if isinstance(x, Tensor) else x for x in value[i : i + 1]]
    return value


@contextmanager
def _our_size(pipe: Any, family: Family, size_px: tuple[int, int]) -> Iterator[None]:
    """Within: where the pipeline would choose a size of a megapixel or more for the source, it is `size_px`."""
    if family.sized_by is None:
        yield
        return
    module = sys.modules[type(pipe).__module__]
    theirs = vars(module)[family.sized_by]

    def ours(target_area: int, ratio: float) -> Any:
        chosen = theirs(target_area, ratio)
        return (size_px[1], size_px[0], *chosen[2:]) if target_area >= 1024 * 1024 else chosen

    with _put(module, family.sized_by, ours):
        yield


def lacks_ftfy(pipe: Any, family: Family) -> bool:
    """Whether a pipeline would mend sentences by `ftfy`, which is not installed."""
    return family.mends and not hasattr(sys.modules[type(pipe).__module__], "ftfy")


@contextmanager
def _as_written(pipe: Any, family: Family) -> Iterator[None]:
    """Within: a pipeline that cannot mend sentences takes them as they are written."""
    if not lacks_ftfy(pipe, family):
        yield
        return
    with _put(sys.modules[type(pipe).__module__], "ftfy", SimpleNamespace(fix_text=str)):
        yield


@contextmanager
def _put(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within: an attribute of `owner` is another; afterwards as before."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
