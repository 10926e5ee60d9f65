"""How much memory a part of a benchmark takes at most."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

CPU = torch.device("cpu")


def peak_memory(device: torch.device = CPU) -> Callable[[], float]:
    """Start the peak anew; the function tells it in MB, NaN where the system does not.

    Of memory allocated on a CUDA device; otherwise of the process's resident memory, which Linux tells.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return lambda: float("nan")
    return _resident_peak


def _resident_peak() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * float(line.split()[1]) / 1e6
    return float("nan")
