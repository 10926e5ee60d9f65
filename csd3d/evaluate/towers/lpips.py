"""The networks of LPIPS (Zhang et al. 2018): AlexNet (Krizhevsky 2014) and VGG16 (Simonyan and Zisserman 2015).

Their ImageNet weights are torchvision's files, alexnet-owt-7be5be79.pth and vgg16-397923af.pth; the weights of channels
(version 0.1) are a few kilobytes, which the package lpips ships, or lie beside them as alex.pth or vgg.pth.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from csd3d.evaluate.towers.weights import packaged, read_tensors
from csd3d.metrics.perceptual import lpips

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""(2 rgb - 1 - shift) / scale is what the networks see."""
Kind = Literal["alex", "vgg"]
_VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def alexnet() -> tuple[nn.Sequential, tuple[int, ...]]:
    """The convolutions, and after which modules features are taken."""
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    return layers, (1, 4, 7, 9, 11)


def vgg16() -> tuple[nn.Sequential, tuple[int, ...]]:
    """The convolutions, and after which modules features are taken: the last ReLU before each pooling."""
    layers, taken, inward = list[nn.Module](), list[int](), 3
    for widths in _VGG_WIDTHS:
        for width in widths:
            layers += [nn.Conv2d(inward, width, 3, padding=1), nn.ReLU()]
            inward = width
        taken.append(len(layers) - 1)
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers), tuple(taken)


class LpipsTower:
    """One of the networks, frozen, with the weights of its channels."""

    def __init__(
        self, layers: nn.Sequential, taken: tuple[int, ...], heads: list[Tensor], device: torch.device
    ) -> None:
        self._layers = layers.eval().requires_grad_(False).to(device)
        self._taken, self._heads, self._device = taken, [h.to(device) for h in heads], device

    @torch.no_grad()
    def distance(self, a: Float[Tensor, "n 3 H W"], b: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
        """LPIPS of each pair of pictures in [0, 1]."""
        return lpips(self._features(a), self._features(b), self._heads).cpu()

    def _features(self, rgb: Float[Tensor, "n 3 H W"]) -> list[Tensor]:
        shift, scale = (torch.tensor(v, device=self._device).view(3, 1, 1) for v in (SHIFT, SCALE))
        x, found = (2 * rgb.to(self._device) - 1 - shift) / scale, list[Tensor]()
        for k, layer in enumerate(self._layers):
            x = layer(x)
            if k in self._taken:
                found.append(x)
        return found


def load_lpips(path: Path, device: torch.device) -> LpipsTower:
    """The network whose torchvision weights are in a file.

    Raises:
        FileNotFoundError: there is no such file, or the weights of channels are nowhere.
        ValueError: it is of no network that LPIPS has.
    """
    backbone = {n: t for n, t in read_tensors(path, what="lpips").items() if n.startswith("features.")}
    kind = _kind(backbone, path)
    layers, taken = alexnet() if kind == "alex" else vgg16()
    own = {name.removeprefix("features."): tensor for name, tensor in backbone.items()}
    try:
        layers.load_state_dict({name: own[name] for name in layers.state_dict()})
    except (KeyError, RuntimeError):
        raise ValueError(f"lpips: expected torchvision's AlexNet or VGG16, got other weights in {path}") from None
    return LpipsTower(layers, taken, _heads(kind, path), device)


def _kind(backbone: Mapping[str, Tensor], path: Path) -> Kind:
    first = backbone.get("features.0.weight")
    sizes: dict[tuple[int, ...], Kind] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
    if first is None or tuple(first.shape) not in sizes:
        raise ValueError(f"lpips: expected torchvision's AlexNet or VGG16, got other weights in {path}")
    return sizes[tuple(first.shape)]


def _heads(kind: Kind, path: Path) -> list[Tensor]:
    beside = path.with_name(f"{kind}.pth")
    file = beside if beside.is_file() else packaged("lpips", f"weights/v0.1/{kind}.pth")
    if file is None:
        raise FileNotFoundError(
            f"lpips: expected the weights of channels, {beside.name} beside {path} or the package lpips, got neither"
        )
    found = read_tensors(file, what="lpips")
    return [found[f"lin{k}.model.1.weight"].flatten() for k in range(5)]
