"""Going on from a finished prior whose network had other blocks, without losing what it does."""

from collections.abc import Mapping

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn


def begin_with(model: nn.Module, known: Mapping[str, Tensor]) -> None:
    """Give a model the weights of an earlier one. What only the earlier one has is left out.

    An attention block that only the new one has begins silent, its last projection being zero: it adds nothing to what
    passes it, so a model that only gained such blocks computes what the earlier one did, and learns on from there.

    Raises:
        ValueError: A weight that both have differs in shape, or a new one belongs to no attention block.
    """
    state = model.state_dict()
    blocks = [name for name, m in model.named_modules() if isinstance(m, Transformer2DModel)]
    new = {b for b in blocks if not any(k.startswith(f"{b}.") for k in known)}
    for name, fresh in state.items():
        if name in known:
            if known[name].shape != fresh.shape:
                raise ValueError(f"{name}: expected {tuple(fresh.shape)}, got {tuple(known[name].shape)}")
            state[name] = known[name].to(fresh)
        elif not any(name.startswith(f"{b}.") for b in new):
            raise ValueError(
                f"{name}: expected the weights to start from to hold it, or to lack its whole attention block"
            )
        elif ".proj_out." in name:
            state[name] = torch.zeros_like(fresh)
    model.load_state_dict(state)
