"""How a network is called: by tensors, or, as that of Z-Image, by lists of them, in another time and another sign.

Z-Image        x: list of [c 1 h w]     t = 1 - sigma          says minus the velocity, a list
as others      hidden_states [n c h w]  timestep = 1000 sigma  says the velocity
"""

from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
"""Arguments of a network by name: tensors, lists and dicts of them, numbers, None."""
LISTS = ("ZImageTransformer2DModel",)
"""Classes of networks that read and say lists."""


def reads_lists(net: object) -> bool:
    """Whether it is one of `LISTS`."""
    return type(net).__name__ in LISTS


def as_others(net: object, arguments: Arguments) -> Arguments:
    """Arguments by which a pipeline calls its network, as most networks take them."""
    if not reads_lists(net):
        return arguments
    rest = {name: value for name, value in arguments.items() if name not in ("x", "t")}
    return {"hidden_states": torch.stack(arguments["x"]).squeeze(2), "timestep": 1000 * (1 - arguments["t"]), **rest}


def call(net: Any, arguments: Arguments) -> Tensor:
    """What a network says, by arguments of `as_others`."""
    if not reads_lists(net):
        return net(**arguments)[0]
    rest = {name: value for name, value in arguments.items() if name not in ("hidden_states", "timestep")}
    x = list(arguments["hidden_states"].unsqueeze(2).unbind(0))
    return said(net, net(x=x, t=1 - arguments["timestep"] / 1000, **rest)[0])


def said(net: object, out: Any) -> Tensor:
    """A network's own output as those of others."""
    return -torch.stack(out).squeeze(2) if reads_lists(net) else out


def unsaid(net: object, out: Tensor) -> Any:
    """The reverse of `said`."""
    return list((-out).unsqueeze(2).unbind(0)) if reads_lists(net) else out
