"""TensorBoard logs beside `metrics.jsonl`, for who has tensorboard installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_app.errors import MissingExtraError


def need_tensorboard() -> Any:
    """Return torch's writer class.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("--tensorboard needs a package of its own: pip install tensorboard") from error
    return SummaryWriter


class Board:
    """Writes the rows of a log as curves.

    Args:
        folder: where TensorBoard's files go.
        step: the step that the run stands at; curves of a run that went further are cut off after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = need_tensorboard()(str(folder), purge_step=step + 1 if step else None)

    def add(self, row: dict[str, Any]) -> None:
        """Add every number of a row at its `step`."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
