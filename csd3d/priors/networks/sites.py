"""Controls put into a UNet of diffusers, the one file that knows its `Attention`. Instances are changed, no class is.

A controlled attention computes what the stock processor computes, with the parts of controls in between:

    x -> enter        y -> text        q = W_q x, k = W_k y_k, v = W_v y_v -> qkv
    softmax(q k^T / sqrt(d) + bias) -> weigh -> times v -> W_o -> leave

y is x in self-attention, the text in cross-attention. Where no control has a part before `leave` in a call, the stock
processor itself computes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from csd3d.attention.control import Control
from csd3d.attention.rows import Rows
from csd3d.attention.sites import Kind, Place, Site

MOST_WEIGHTS = 1024 * 1024
"""Probabilities of one head that may appear in memory: those of 32 x 32 places. 4 MB a head and row."""
_KINDS: dict[str, Kind] = {"attn1": "self", "attn2": "cross"}
_STOCK = (AttnProcessor, AttnProcessor2_0)
Hook = Callable[[nn.Module, object, Tensor], Tensor | None]
"""Called with a module, its arguments and what leaves it; what it returns, if anything, leaves instead."""


@dataclass
class Running:
    """Which rows are being computed; to be set before each call of the UNet."""

    rows: Rows | None = None


def sites_of(unet: nn.Module) -> tuple[Site, ...]:
    """The sites of a UNet in the order in which it computes them. Raises ValueError for another kind of network."""
    if not isinstance(unet, UNet2DConditionModel):
        raise ValueError(f"attention: expected a UNet of Stable Diffusion's kind, got {type(unet).__name__}")
    return tuple(site for site, _ in _found(unet))


def readers_of(unet: nn.Module) -> tuple[nn.Module, ...]:
    """Whatever in a UNet reads the text: its cross-attentions in order, and last what embeds the text beside the
    timestep, where it has that. Raises ValueError as `sites_of` does."""
    crosses = {site.name for site in sites_of(unet) if site.kind == "cross"}
    assert isinstance(unet, UNet2DConditionModel)
    beside = [unet.add_embedding] if unet.config["addition_embed_type"] == "text" else []
    return (*(module for site, module in _found(unet) if site.name in crosses), *beside)


@contextmanager
def controlled(unet: UNet2DConditionModel, controls: Sequence[Control]) -> Iterator[Running]:
    """Within the context calls of `unet` are controlled; the rows of each are to be set first.

    Afterwards, whatever happened, processors are the objects that they were. Sites at which no control may act are not
    touched, so that no controls cost nothing. To be left only after gradients are taken: with checkpointing they call
    attentions once more.

    Raises:
        ValueError: attentions of another kind than Stable Diffusion's, or controlled ones.
    """
    running, wanted = Running(), [control for control in controls if not control.is_empty]
    by_site: dict[str, list[Control]] = {}
    for control in wanted:
        for site in control.sites:
            by_site.setdefault(site.name, []).append(control)
    places = [(site, module, by_site[site.name]) for site, module in _found(unet) if site.name in by_site]
    if unknown := sorted(set(by_site) - {site.name for site, _, _ in places}):
        raise ValueError(f"attention: expected sites of this prior's UNet, got {', '.join(unknown)}")
    for site, module, _ in places:
        if isinstance(module, Attention):
            _require_plain(site, module)
    with ExitStack() as stack:
        for site, module, acting in places:
            if isinstance(module, Attention) and not all(_only_leaves(control) for control in acting):
                stock = module.processor
                assert isinstance(stock, _STOCK)
                stack.callback(module.set_processor, stock)
                # diffusers types processors as a union of its own classes
                module.set_processor(_Controlled(site, stock, acting, running))  # pyright: ignore[reportArgumentType]
            if any(control.leave is not None for control in acting):
                stack.callback(module.register_forward_hook(_leaving(site, acting, running)).remove)
        yield running


@contextmanager
def leaving(unet: UNet2DConditionModel, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Within the context every call of `unet` puts what leaves `sites` under their names."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        return lambda module, arguments, output: outputs.update({name: output})

    names = {site.name for site in sites}
    hooks = [module.register_forward_hook(keep(site.name)) for site, module in _found(unet) if site.name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class _Controlled:
    """The processor of one attention, while it is controlled."""

    def __init__(
        self, site: Site, stock: AttnProcessor | AttnProcessor2_0, controls: Sequence[Control], running: Running
    ) -> None:
        self._site, self._stock, self._controls, self._running = site, stock, controls, running

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        rows = _rows_of(self._running, len(hidden_states))
        acting = [control for control in self._controls if control.when(rows)]
        if all(_only_leaves(control) for control in acting):
            return self._stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        assert attention_mask is None  # no prior of ours hides text
        return self._attend(attn, rows, acting, hidden_states, encoder_hidden_states)

    def _attend(
        self, attn: Attention, rows: Rows, acting: Sequence[Control], x: Tensor, text: Tensor | None
    ) -> Float[Tensor, "b n c"]:
        assert attn.to_k is not None
        assert attn.to_v is not None
        assert attn.to_out is not None
        site = self._site
        for control in acting:
            if control.enter is not None:
                x = control.enter(site, rows, x)
        y_k = y_v = x if text is None else text
        if text is not None:
            for control in acting:
                if control.text is not None:
                    y_k, y_v = control.text(site, rows, y_k, y_v)
        q, k, v = (_split(part, attn.heads) for part in (attn.to_q(x), attn.to_k(y_k), attn.to_v(y_v)))
        for control in acting:
            if control.qkv is not None:
                q, k, v = control.qkv(site, rows, q, k, v)
        biases = [b for c in acting if c.bias is not None and (b := c.bias(site, rows, q, k)) is not None]
        bias = sum(biases[1:], biases[0]).to(q) if biases else None
        weighing = [control for control in acting if control.weigh is not None]
        if not weighing:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            by_query = all(control.by_query for control in weighing)
            at_once = max(MOST_WEIGHTS // k.shape[2], 1) if by_query else q.shape[2]
            parts: list[Tensor] = []
            for first in range(0, q.shape[2], at_once):
                some = slice(first, first + at_once)
                A = _probabilities(site, q[:, :, some], k, bias if bias is None else bias[:, :, some])
                for control in weighing:
                    assert control.weigh is not None
                    A = control.weigh(site, rows, A)
                parts.append(A.to(v.dtype) @ v)
            out = torch.cat(parts, 2)
        out = out.transpose(1, 2).flatten(2).to(q.dtype)
        for part in attn.to_out:  # a projection and dropout
            out = part(out)
        return out


def _probabilities(
    site: Site, q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], bias: Tensor | None
) -> Float[Tensor, "b heads n m"]:
    """A in float32 at least. Raises ValueError for more than fit into memory."""
    n, m, d = q.shape[2], k.shape[2], q.shape[3]
    if n * m > MOST_WEIGHTS:
        raise ValueError(
            f"attention: expected maps of at most 32x32 places where probabilities are changed or read, got {n} x {m} "
            f"at {site.name}; choose sites of a deeper level"
        )
    precision = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(precision) @ k.to(precision).transpose(2, 3)) * d**-0.5
    return (logits if bias is None else logits + bias.to(precision)).softmax(-1)


def _split(x: Float[Tensor, "b n c"], heads: int) -> Float[Tensor, "b heads n _d"]:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _rows_of(running: Running, count: int) -> Rows:
    """The rows of the call. Never guessed: whoever controls a UNet says what it computes."""
    if running.rows is None or len(running.rows) != count:
        got = "none" if running.rows is None else str(len(running.rows))
        raise ValueError(f"rows: expected the names of the {count} rows that a controlled UNet computes, got {got}")
    return running.rows


def _only_leaves(control: Control) -> bool:
    return control.enter is control.text is control.qkv is control.bias is control.weigh is None


def _leaving(site: Site, controls: Sequence[Control], running: Running) -> Hook:
    """A hook that changes what leaves a module."""

    def hook(module: nn.Module, arguments: object, x: Tensor) -> Tensor:
        rows = _rows_of(running, len(x))
        for control in controls:
            if control.leave is not None and control.when(rows):
                x = control.leave(site, rows, x)
        return x

    return hook


def _require_plain(site: Site, attention: Attention) -> None:
    """Raises ValueError for an attention that computes anything else than the one in Stable Diffusion."""
    a, processor = attention, attention.processor
    if type(processor) not in _STOCK:
        raise ValueError(f"attention: expected a stock processor at {site.name}, got {type(processor).__name__}")
    norms = (a.spatial_norm, a.group_norm, a.norm_q, a.norm_k, a.norm_cross or None, a.added_kv_proj_dim)
    if any(part is not None for part in norms) or a.residual_connection or a.rescale_output_factor != 1:
        raise ValueError(
            f"attention: expected an attention as in Stable Diffusion 1.x or 2.x, got another: {site.name}"
        )


def _found(unet: UNet2DConditionModel) -> Iterator[tuple[Site, nn.Module]]:
    """Sites and their modules, in order."""
    counts: dict[Kind, int] = {"self": 0, "cross": 0, "resnet": 0, "output": 0}
    for path, place, level, block in _blocks(unet):
        for inner, module in block.named_modules():
            kind, heads, name = None, 0, f"{path}.{inner}"
            if isinstance(module, Attention):
                kind, heads = _KINDS.get(inner.rsplit(".", 1)[-1]), module.heads
            elif isinstance(module, ResnetBlock2D):
                kind, module = "resnet", module.conv2
            if kind is not None:
                yield Site(name, kind, place, counts[kind], level, heads), module
                counts[kind] += 1
    yield Site("conv_out", "output", "up", 0, 0), unet.conv_out


def _blocks(unet: UNet2DConditionModel) -> Iterator[tuple[str, Place, int, nn.Module]]:
    """Path, place and level of the blocks in the order of computation; all but the last of a side change the level."""
    deepest = len(unet.down_blocks) - 1
    for k, block in enumerate(unet.down_blocks):
        yield f"down_blocks.{k}", "down", k, block
    if unet.mid_block is not None:
        yield "mid_block", "mid", deepest, unet.mid_block
    for k, block in enumerate(unet.up_blocks):
        yield f"up_blocks.{k}", "up", deepest - k, block
