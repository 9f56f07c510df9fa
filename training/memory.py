"""How much memory a stretch of work took at most."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Begin a stretch whose peak `peak_bytes` tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # a container may forbid it; the peak is then that of the whole process until now
            return


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak: of torch's tensors on a GPU, of the whole process on a CPU; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
