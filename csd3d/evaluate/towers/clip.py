"""CLIP (Radford et al. 2021): embeddings of pictures and sentences in one space, through transformers.

Any CLIPModel in transformers' layout: OpenAI's ViT-B/32 and ViT-L/14, OpenCLIP's ViT-H/14 and ViT-bigG/14 as LAION
publishes them. Pictures are scaled and cropped to the square in the middle as its preprocessor_config.json says.
"""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from csd3d.evaluate.towers.quiet import readable
from csd3d.evaluate.towers.scaling import CLIP_MEAN, CLIP_STD, read_scaling, squares
from csd3d.evaluate.towers.weights import model_folder
from csd3d.priors.store.files import read_part


class ClipTower:
    """One CLIP model, frozen."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load it. Raises ValueError where the folder holds no CLIP model that can be read."""
        with readable("clip", folder):
            model = read_part(CLIPModel, folder, use_safetensors=None)
            self._tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model = cast(CLIPModel, model.eval().requires_grad_(False).to(device))
        self._device = device
        config = self._model.config.to_dict()
        self._longest = int(config["text_config"]["max_position_embeddings"])
        side = int(config["vision_config"]["image_size"])
        self._scaling = read_scaling(folder, side_px=side, mean=CLIP_MEAN, std=CLIP_STD)
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def embed(self, rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """Of pictures in [0, 1], before they are scaled to length 1; of a panorama, the mean over its squares."""
        parts = squares(rgb)
        levels = self._scaling((rgb if parts is None else parts).to(self._device))
        found = self._model.visual_projection(self._model.vision_model(pixel_values=levels).pooler_output).cpu()
        return found if parts is None else found.unflatten(0, (len(rgb), -1)).mean(1)

    @torch.no_grad()
    def text(self, sentence: str) -> Float[Tensor, " d"]:
        """Of a sentence, cut to the tokens that the model takes."""
        if sentence not in self._known:
            words = self._tokenizer(sentence, truncation=True, max_length=self._longest, return_tensors="pt").to(
                self._device
            )
            hidden = self._model.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
            self._known[sentence] = self._model.text_projection(hidden.pooler_output)[0].cpu()
        return self._known[sentence]


def load_clip(name: str, device: torch.device, *, fetch: bool) -> ClipTower:
    """The model of a folder or id. Raises as `model_folder` and `ClipTower` do."""
    return ClipTower(model_folder(name, what="clip", fetch=fetch), device)
