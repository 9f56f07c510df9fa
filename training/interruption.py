"""The end of a run that a signal stopped: its state is saved, instead of minutes of work being lost."""

from __future__ import annotations

import signal
from typing import Any

from fer_app.errors import FerError


class RunInterruptedError(FerError):
    """A signal ended the run, after its state was saved; `signal_number` is the signal."""

    def __init__(self, signal_number: int, epoch: int, step: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} at epoch {epoch}, step {step}; the state is saved: pass --resume to go on")
        self.signal_number, self.epoch, self.step = signal_number, epoch, step

    @property
    def exit_status(self) -> int:
        """What shells report of a process that the signal ended: 143 or 130."""
        return 128 + self.signal_number

    def marker(self) -> dict[str, Any]:
        """Return what `unfinished.json` holds."""
        return {"signal": signal.Signals(self.signal_number).name, "epoch": self.epoch, "step": self.step}
