"""Whether a run's files fit on the disk, asked before the first step and not after hours."""

from __future__ import annotations

import shutil

from torch import nn

from fer_app.errors import CheckpointError
from training.run_folder import RunFolder

_SMALL_FILES = 16 << 20  # headers, metrics, the lock


def state_bytes(model: nn.Module, *, ema: bool) -> int:
    """Return the size of the saved state: weights, Adam's two moments of each, the moving average."""
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return _weight_bytes(model) * (2 if ema else 1) + moments


def need_disk_space(folder: RunFolder, model: nn.Module, *, ema: bool) -> int:
    """Return how many bytes a stage's files may take beside those that are there.

    Every file is written whole before it replaces the one before: the state, and the last and the best checkpoint.

    Raises:
        CheckpointError: the disk has less.
    """
    whole = 2 * state_bytes(model, ema=ema) + 3 * _weight_bytes(model) + _SMALL_FILES
    there = sum(path.stat().st_size for path in (folder.state, folder.last, folder.best) if path.is_file())
    needed, free = max(whole - there, 0), shutil.disk_usage(folder.path).free
    if needed > free:
        raise CheckpointError(
            f"{folder.path}: the run needs {needed / 1e9:.2f} GB for its state and checkpoints, "
            f"and {free / 1e9:.2f} GB are free: make room, or pass a --run-dir on another disk"
        )
    return needed


def _weight_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())
