"""Keeping padding from soaking up attention.

Pipelines pad every sentence to one length and hand a UNet no mask, so the padding's keys compete with the words'. Left
alone, a small model gives them half of its cross-attention: they are the same in every sentence, a place to look at
when nothing is to be said. Here they are made unattractive in training instead: the share of attention that they get
is a term of the loss. What results is an ordinary model, which needs no mask.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from jaxtyping import Bool, Float, Int
from torch import Tensor


def is_padding(ids: Int[Tensor, "n l"], eos: int) -> Bool[Tensor, "n l"]:
    """Where a sentence is over: everything behind its first end token."""
    return ((ids == eos).cumsum(dim=1) - (ids == eos).int()) > 0


class Watched:
    """Plain attention (as `AttnProcessor`) that keeps what padding gets in each cross-attention of one forward pass."""

    def __init__(self) -> None:
        self.padding: Bool[Tensor, "n l"] | None = None
        """Which tokens of the next pass are padding; None: nothing is kept."""
        self._shares: list[Tensor] = []
        self._unwatched = AttnProcessor()  # on a CPU a fifth faster, in bfloat16, than the fused one

    def share(self) -> Float[Tensor, ""]:
        """Mean share of cross-attention that padding got since the last call, in [0, 1]; differentiable.

        Raises:
            ValueError: No cross-attention was watched.
        """
        if not self._shares:
            raise ValueError("padding: expected a forward pass with `padding` set, there was none")
        share, self._shares = torch.stack(self._shares).mean(), []
        return share

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "n q c"],
        encoder_hidden_states: Float[Tensor, "n l d"] | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Float[Tensor, "n q c"]:
        """What leaves the attention; self-attention where there are no `encoder_hidden_states`."""
        if encoder_hidden_states is None:
            return self._unwatched(attn, hidden_states)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        assert attn.to_k is not None and attn.to_v is not None and attn.to_out is not None  # noqa: PT018
        key, value = (
            attn.head_to_batch_dim(attn.to_k(encoder_hidden_states)),
            attn.head_to_batch_dim(attn.to_v(encoder_hidden_states)),
        )
        weights = attn.get_attention_scores(query, key)
        if self.padding is not None:
            per_token = weights.unflatten(0, (len(hidden_states), attn.heads)).mean(dim=(1, 2))
            self._shares.append((per_token.float() * self.padding).sum(dim=1).mean())
        out = attn.batch_to_head_dim(torch.bmm(weights, value))
        project, drop = attn.to_out
        return drop(project(out))
