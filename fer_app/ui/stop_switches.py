"""What ends videos before their time: one by its visitor, all of them when the program ends."""

from __future__ import annotations

import threading
import weakref


class StopSwitch:
    """Ends a video before its time; may be asked and pressed from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def press(self) -> None:
        """Stop after the frames that are being worked on."""
        self._event.set()

    def pressed(self) -> bool:
        """Tell whether to stop."""
        return self._event.is_set()


class StopSwitches:
    """The switches of all videos; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, StopSwitch] = {}
        self._all: weakref.WeakSet[StopSwitch] = weakref.WeakSet()
        self._ended = False

    def new(self, visitor: str | None = None) -> StopSwitch:
        """Give a switch.

        Args:
            visitor: whose video it is, which is then one at a time: what it did before stops. None is nobody's.
        """
        switch = StopSwitch()
        if visitor is not None:
            self.press(visitor)
        with self._lock:
            self._all.add(switch)
            if visitor is not None:
                self._of[visitor] = switch
            if self._ended:
                switch.press()
        return switch

    def press(self, visitor: str) -> None:
        """Stop what a visitor is doing, if anything."""
        with self._lock:
            switch = self._of.pop(visitor, None)
        if switch is not None:
            switch.press()

    def press_all(self) -> None:
        """Stop everything, and what begins later too."""
        with self._lock:
            self._ended = True
            switches = list(self._all)
        for switch in switches:
            switch.press()
