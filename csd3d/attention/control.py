"""What may be changed at a site, for the rows of a call.

    x -> enter, of places        y -> text, in cross-attention        q = W_q x, k = W_k y_k, v = W_v y_v
    q, k, v -> qkv        A = softmax(q k^T / sqrt(d) + bias)        A -> weigh        x = A v, projected -> leave

Every part of a control is a function of the site, the rows and tensors with one entry a row, and may act on some rows
only; what it does to a row depends on that row and on what the control has been given before, never on other rows of
the call. Reading is a part that returns what it was given. Controls act one after another, in order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from csd3d.attention.rows import Rows
from csd3d.attention.sites import Site

Enter = Callable[[Site, Rows, Tensor], Tensor]
"""From and to what enters an attention, [b n c], of which in self-attention keys and values are made too."""
Text = Callable[[Site, Rows, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From and to what keys and what values are made of, both [b l d]; without a control they are the same."""
Heads = Float[Tensor, "b heads n d"]
"""Queries, keys or values of n places. Keys and values of a control may be of more places than they were."""
Qkv = Callable[[Site, Rows, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From and to `Heads`."""
Bias = Callable[[Site, Rows, Tensor, Tensor], Tensor | None]
"""From q and k, two `Heads`, to [b #heads n m], added to the scaled logits; None adds nothing."""
Weigh = Callable[[Site, Rows, Tensor], Tensor]
"""From and to probabilities [b heads n m], float32. The result need not sum to 1."""
Leave = Callable[[Site, Rows, Tensor], Tensor]
"""From and to what leaves the site: [b n c] of an attention, [b c h w] elsewhere."""


def always(rows: Rows) -> bool:
    """For every call."""
    return True


@dataclass(frozen=True, eq=False)
class Control:
    """A change, or a reading, at `sites` in the calls for which `when` says so. A part that is None changes nothing.

    `weigh` makes the probabilities appear in memory, at most 1024 x 1024 for each head; without it the attention stays
    fused. One that treats each query for itself may say so: larger maps then come some queries at a time.
    """

    sites: Sequence[Site]
    when: Callable[[Rows], bool] = always
    enter: Enter | None = None
    text: Text | None = None
    qkv: Qkv | None = None
    bias: Bias | None = None
    weigh: Weigh | None = None
    leave: Leave | None = None
    by_query: bool = False
    """Whether what `weigh` does to a row of probabilities depends on that row alone."""

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing anywhere."""
        return not self.sites or (self.enter is self.text is self.qkv is self.bias is self.weigh is self.leave is None)
