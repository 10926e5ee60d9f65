"""The Inception network of the FID (Heusel et al. 2017), as torch-fidelity has it, with its way of scaling pictures."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.evaluate.towers.weights import read_tensors

FEATURES = "2048"


class InceptionTower:
    """The network up to its last pooling."""

    def __init__(self, network: Any, device: torch.device) -> None:
        """`network` takes bytes n 3 H W and returns a tuple with their features, as torch-fidelity's does."""
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def embed(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """Features of pictures in [0, 1], rounded to 8 bits."""
        levels = (rgb * 255).round().to(torch.uint8)
        return self._network(levels.to(self._device))[0].float().cpu()


def load_inception(path: Path, device: torch.device) -> InceptionTower:
    """The network with the weights in a file, weights-inception-2015-12-05-6726825d.pth of torch-fidelity.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another network, or torch-fidelity is not installed.
    """
    read_tensors(
        path, what="fid"
    )  # torch-fidelity would run what is in a file: only one that holds nothing but tensors
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError("fid: expected the package torch-fidelity, which csd3d[metrics] brings, got none") from None
    try:
        network = FeatureExtractorInceptionV3("inception", [FEATURES], feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise ValueError(f"fid: expected Inception's weights, got {path} ({str(error).splitlines()[0]})") from None
    return InceptionTower(network, device)
