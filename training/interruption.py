"""Signals that ask a run to stop: it saves its state at the next step, instead of losing minutes of work."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from fer_app.errors import FerError

_ASKING = (signal.SIGTERM, signal.SIGINT)


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


class StopSignals:
    """Notes SIGTERM and SIGINT inside a `with` block; a second one does what it did before the block.

    Outside the main thread, where Python sets no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # `nohup`, say, ignores SIGINT on purpose
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
