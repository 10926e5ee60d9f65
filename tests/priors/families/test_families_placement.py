"""Networks of all families over two GPUs, tensors without memory: no layer meets a tensor of another GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.priors.families.load import load_family
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.families.record import network_of
from csd3d.priors.families.replay import replay, tokens
from csd3d.priors.loading import Loading
from csd3d.priors.store.placement import size_bytes, spread
from tests.priors.families.tiny import FAMILIES
from tests.priors.no_memory import GPUS, memoryless

ALIKE = {
    "klein-distilled",
    "dreamlite-mobile",
    "sdxl",
    "sdxl-ip2p",
    "flux",
    "qwen-plus",
    "qwen-image",
    "sd3-ip2p",
    "pixart",
}
"""Families whose network is that of another, and is called alike."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - ALIKE - {"z-image"}))
def test_a_network_over_two_gpus_mixes_no_devices(name: str, family: Callable[[str], FamilyPrior]) -> None:
    prior = family(name)
    net, side = network_of(prior.pipe), 64 // prior.codec.factor
    s = torch.randn(1, prior.codec.channels, side, side, generator=torch.Generator().manual_seed(0))
    row = prior.conditions.row(prior.learnt.branches[-1], "make it snowy", "", s[0])
    z = tokens(s, prior.family.layout, channels=prior.codec.channels)
    with memoryless():
        alike: Any = type(net).from_config(net.config)
        spread({"net": alike}, [], main=GPUS[0], free=dict.fromkeys(range(2), 2 * size_bytes(alike)))
        assert {p.device for p in alike.parameters()} == set(GPUS)
        said = replay(alike, [row], prior.learnt.place, z.to(GPUS[0]), time=300.0, device=GPUS[0])
        assert (said.device, said.shape) == (GPUS[0], z.shape)


def test_a_family_whose_layers_must_lie_together_is_refused(family_path: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="device-map: expected none for Z-Image, whose layers must lie together"):
        load_family(family_path("z-image"), device="cpu", how=Loading(device_map="balanced"))
