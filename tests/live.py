"""Counts the memory of tensors that have none: peak of what is alive during a call under `FakeTensorMode`."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages that operations made and that are still alive; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._bytes.pop(key)


class _Fused(torch.autograd.Function):
    """What a fused attention takes and keeps: queries, keys, values and its output, never the attention maps."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU computes it, whose kernels a machine without one does not offer."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            q, k, v = args[:3] if len(args) >= 3 else (kwargs[name] for name in ("query", "key", "value"))
            return _Fused.apply(q, k, v)
        return func(*args, **kwargs)


def bytes_of_a_row(call: Callable[[int], object]) -> float:
    """What one more row adds to the peak of `call(rows)`, in bytes."""

    def peak(rows: int) -> int:
        with LiveMemory() as live, FusedAttention():
            call(rows)
        return live.peak

    return (peak(3) - peak(1)) / 2
