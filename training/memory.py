"""How much memory a stretch of work took at most, and how much is free."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from fer_app.errors import MemoryShortError


@contextmanager
def need_memory(stage: str) -> Iterator[None]:
    """Tell of memory that does not suffice in one line.

    Raises:
        MemoryShortError: the block ran out of memory, of the device or of the machine.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU torch has no kind of its own for it.
        told = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
        if not told:
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise MemoryShortError(
            f"{stage}: out of memory{f' ({reason})' if reason else ''}: lower {stage}.batch_size and raise "
            f"{stage}.accumulate by as much, or set checkpoint_activations = true"
        ) from error


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
    if sys.platform == "linux":  # not getrusage's: that is the parent's where it was larger, and cannot be reset
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_bytes() -> int | None:
    """Return the main memory that can still be taken, without swapping and within the container; None if not known."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        free = 1024 * next(int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used + int(stat["file"]))  # the files' cache is given up when memory is short
