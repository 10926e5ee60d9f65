"""Two GPUs that have tensors without memory, as far as laying weights on them goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

GPUS = (torch.device("cuda:0"), torch.device("cuda:1"))


@contextmanager
def memoryless() -> Iterator[None]:
    """Tensors are without memory, and accelerate lays weights of such a kind on GPUs."""
    with FakeTensorMode(allow_non_fake_inputs=True), patch("accelerate.hooks.set_module_tensor_to_device", _moved):
        yield


def _moved(module: nn.Module, path: str, device: str, **_: object) -> None:
    """Accelerate's own makes a weight anew by its class, which here is no parameter's."""
    owner, _dot, name = path.rpartition(".")
    module = module.get_submodule(owner)
    for held in (module._parameters, module._buffers):
        weight = held.get(name)
        if weight is not None:
            held[name] = weight.to(device)  # pyright: ignore[reportArgumentType]  # which torch takes as it is
