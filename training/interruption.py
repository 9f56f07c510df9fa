"""The end of a run that a signal stopped: its state is saved, instead of minutes of work being lost."""

from __future__ import annotations

import signal
from typing import Any

from fer_app.errors import StoppedError


class RunInterruptedError(StoppedError):
    """A signal ended the run, after its state was saved.

    Attributes:
        epoch: the one that the run stopped in, counted from 0 as in all files.
        step: steps of it that are done.
    """

    def __init__(self, signal_number: int, epoch: int, step: int) -> None:
        where = f" at epoch {epoch + 1}, step {step}"  # people count epochs from 1
        super().__init__(signal_number, f"{where}; the state is saved: pass --resume to go on")
        self.epoch, self.step = epoch, step

    def marker(self) -> dict[str, Any]:
        """Return what `unfinished.json` holds, its epoch counted from 0."""
        return {"signal": signal.Signals(self.signal_number).name, "epoch": self.epoch, "step": self.step}
