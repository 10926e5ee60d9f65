"""DINO (Caron et al. 2021), a vision transformer: keys of its last layer, by which Splice tells structure."""

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ViTModel

from csd3d.evaluate.towers.quiet import readable
from csd3d.evaluate.towers.scaling import IMAGENET_MEAN, IMAGENET_STD, Scaling, squares
from csd3d.evaluate.towers.weights import model_folder
from csd3d.priors.store.files import read_part

SIDE_PX = 224
KEYS = ("k_proj", "attention.key")
"""How the linear map to keys is called by transformers, in version 5 and before."""


class DinoTower:
    """One ViTModel in transformers' layout, frozen. Pictures are seen whole, their shorter side at 224 px."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load it. Raises ValueError where the folder holds no vision transformer that can be read."""
        with readable("dino", folder):
            model = read_part(ViTModel, folder, use_safetensors=None, add_pooling_layer=False)
        self._model = cast(ViTModel, model.eval().requires_grad_(False).to(device))
        self._device = device
        patch = int(self._model.config.to_dict()["patch_size"])
        self._scaling = Scaling(SIDE_PX, IMAGENET_MEAN, IMAGENET_STD, crop=False, multiple_px=patch)
        self._last: nn.Module = [m for name, m in self._model.named_modules() if name.endswith(KEYS)][-1]

    @torch.no_grad()
    def keys(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n k d"]:
        """Of the class token and of all patches, heads side by side; of a panorama those of all its squares."""
        parts = squares(rgb)
        found: list[Tensor] = []

        def keep(module: nn.Module, given: tuple[Any, ...], keys: Tensor) -> None:
            found.append(keys)

        hook = self._last.register_forward_hook(keep)
        try:
            levels = self._scaling((rgb if parts is None else parts).to(self._device))
            self._model(pixel_values=levels, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return found[0].float().cpu().reshape(len(rgb), -1, found[0].shape[-1])


def load_dino(name: str, device: torch.device, *, fetch: bool) -> DinoTower:
    """The model of a folder or id. Raises as `model_folder` and `DinoTower` do."""
    return DinoTower(model_folder(name, what="dino", fetch=fetch), device)
