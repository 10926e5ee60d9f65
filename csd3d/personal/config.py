"""The settings of `csd3d personalise`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from csd3d.engine.validate import require, require_choice, require_int, require_number, require_side
from csd3d.runs.config import RunConfig

TOKEN = "{}"
"""In a caption: where the word of the subject stands."""
Way = Literal["embedding", "xti", "lora"]
LEARNING_RATES: Mapping[Way, float] = {"embedding": 5e-3, "xti": 5e-3, "lora": 1e-4}
"""As they are usual; the small built-in prior takes more for a LoRA."""


@dataclass(frozen=True)
class PersonalConfig(RunConfig):
    """How a prior learns a subject. Of the engine's settings it takes the timesteps, and the guidance for the pictures
    of the report."""

    prior: str = "builtin:t2i"
    """`builtin:t2i`, a folder in diffusers layout, or a hub id of a Stable Diffusion 1.x or 2.x."""
    method: Way = "embedding"
    """What learns. `embedding`: the vectors of a new word (Textual Inversion). `xti`: of a new word too, others for
    each layer that reads the text (P+). `lora`: a low-rank change of the network's attentions, bound to a word that the
    prior has (DreamBooth)."""
    token: str | None = None
    """The word of the subject. None: <own>, or sks with --method lora."""
    source_prompt: str | None = None
    """Caption of all pictures, with {} for the subject: "a {} on grass". None: a photo of a {}."""
    captions: str | None = None
    """JSON file with the caption of each picture: {"FILE.png": "a {} on grass", ...}. None: --source-prompt for all."""
    mask: str | None = None
    """Where the subject is, white: a picture for all, a folder or clip with one for each. Elsewhere nothing is learnt.
    None: everywhere."""
    pictures: int = 32
    """Most frames of a clip, or views of a scene, that are learnt from, spread evenly."""
    vectors: int = 1
    """Vectors of the new word."""
    init: str | None = None
    """Word with which the new one begins, a coarse one for the subject: `dog`. None: a random vector like those of
    words."""
    rank: int = 4
    """Of the low-rank change."""
    class_prompt: str | None = None
    """With --method lora, what such subjects are, "a dog": pictures of it that the prior makes are learnt beside those
    of the subject, so that it keeps what it knows. None: without."""
    class_pictures: int = 24
    """How many of these there are."""
    preservation: float = 1.0
    """Weight of the loss on these."""
    steps: int = 500
    """Training steps."""
    batch: int = 4
    """Pictures in a step: bounds memory."""
    lr: float | None = None
    """Learning rate of AdamW. None: 0.005, or 0.0001 with --method lora."""
    size: int | None = None
    """Side in px of the squares that pictures are cut to. None: what the prior was trained at."""
    checkpoint_every: int = 100
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "method")
        require(self, "control", self.control is None, "none, a subject is learnt without a guard")
        require_int(self, 1, None, "pictures", "rank", "class_pictures", "steps", "batch")
        require_int(self, 1, 64, "vectors")
        require_side(self, 8, "size")
        require_number(self, 0, None, "preservation")
        require(self, "lr", self.lr is None or 0 < self.lr < math.inf, "a number above 0")
        caption, token = self.source_prompt, self.token
        require(self, "source_prompt", caption is None or TOKEN in caption, f"a caption with {TOKEN} for the subject")
        require(self, "token", token is None or len(token.split()) == 1, "one word")
        require(self, "quantise", self.quantise == "none", "none where a prior learns")
        require(self, "offload", not self.offload, "none where a prior learns")
        require(self, "device_map", self.device_map == "none", "none where a prior learns")
        lora = self.method == "lora"
        require(self, "class_prompt", lora or self.class_prompt is None, "none but with --method lora")
        require(self, "vectors", not lora or self.vectors == 1, "none with --method lora")
        require(self, "init", not lora or self.init is None, "none with --method lora")

    @property
    def word(self) -> str:
        """The word of the subject."""
        return self.token or ("sks" if self.method == "lora" else "<own>")

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.lr or LEARNING_RATES[self.method]
