"""Where networks compute, and in which precision. Light: it imports no model library."""

import torch

HALF = (torch.float16, torch.bfloat16)
"""The half precisions."""
IN_BFLOAT16 = (
    "this processor has bfloat16, in which the built-in editor takes half as long (--precision float32: as on others)"
)
"""What a person is told of a run that computes so without having asked."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is a CPU that multiplies bfloat16 itself (AVX512-BF16, which those with AMX have too)."""
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None: CUDA when there is one, else the CPU. Raises ValueError when it cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {str(device)!r}") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} of them" if torch.cuda.is_available() else "none"
        raise ValueError(f"device {str(device)!r}: expected a CUDA device that is there, found {found}")
    try:
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # each kind of device has its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
        reason = f"{first}; 'cpu' always works"
        raise ValueError(f"device {str(device)!r}: expected one that this torch can compute on: {reason}") from None
    return chosen


def pick_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision asked for; None: float16 on CUDA, float32 elsewhere. Raises ValueError for one that will not do."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in (torch.float32, *HALF):
        raise ValueError(f"precision: expected float32, float16 or bfloat16, got {dtype}")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("precision: expected float32 or bfloat16 on a CPU, got float16")
    return dtype
