"""The network: the UNet of a text-to-image prior that sees a picture's latents where it saw noise.

    g(s | k) = s + out(s, time_k, text_k)

s       latents of the source
text_k  learnt embedding of task k in place of a caption's, beginning as that of the task's caption
time_k  learnt vector in place of the embedding of a timestep, beginning as that of the middle one
out     the UNet; its last layer begins at zero, so that an untrained network changes nothing
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.translate.config import OWN


class Translator(nn.Module):
    """One network for several tasks."""

    def __init__(self, unet: nn.Module, text: Float[Tensor, "m l d"], middle: float) -> None:
        """`unet` is ours from here on; `middle` is the timestep whose embedding every task begins with."""
        super().__init__()
        # nn.Module does not type its submodules
        known = unet.time_proj(torch.tensor([middle], device=text.device))  # pyright: ignore[reportCallIssue]
        unet.time_proj = nn.Embedding(len(text), known.shape[1], device=text.device)
        with torch.no_grad():
            unet.time_proj.weight.copy_(known.expand(len(text), -1))
            # nn.Module does not type its submodules
            for parameter in unet.conv_out.parameters():  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
                parameter.zero_()
        self.unet = unet
        self.text = nn.Parameter(text.clone())

    def forward(self, s: Float[Tensor, "n c h w"], task: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Latents of the results."""
        return s + self.unet(s, task, encoder_hidden_states=self.text[task], return_dict=False)[0]


def make_translator(prior: TextToImagePrior, captions: Sequence[str]) -> Translator:
    """An untrained network for tasks whose results have these captions.

    Raises:
        UnknownPrompt: A caption that the prior was never taught.
    """
    texts = [" ".join(caption.replace(OWN, " ").split()).strip(" ,") for caption in captions]
    return Translator(prior.copy_unet(), prior.embed(texts), prior.schedule.num_timesteps / 2)
