"""Timing in turns, so that whatever else the machine does meets all that is compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A turn lasts about so long, or one run: short ones would measure the clock, long ones a moment of the machine.
_TURN_S = 0.05


@dataclass
class Case:
    """Something to time.

    Attributes:
        run: does it once.
        turns: seconds of each run, a list a turn.
    """

    run: Callable[[], object]
    turns: list[list[float]] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """How often it was timed."""
        return sum(map(len, self.turns))

    def quantile_s(self, share: float) -> float:
        """Return the time that this share of the runs stayed within; with few runs that of the slowest."""
        times = sorted(seconds for turn in self.turns for seconds in turn)
        return times[max(0, math.ceil(share * len(times)) - 1)]

    def times_as_fast(self, other: Case) -> float:
        """Return the other one's time over this one's: the median of the turns that both had."""
        pairs = zip(self.turns, other.turns, strict=False)
        return statistics.median(statistics.median(theirs) / statistics.median(own) for own, theirs in pairs)


def take_turns(cases: Sequence[Case], seconds: float, on_turn: Callable[[float], object] = lambda _: None) -> None:
    """Run every case once unmeasured, then all of them in turns until the time is over; each has a turn at least.

    Args:
        cases: what to time; their `turns` are filled.
        seconds: for all of it.
        on_turn: called before each turn with the seconds that have gone.
    """
    begun = time.perf_counter()
    for case in cases:
        on_turn(time.perf_counter() - begun)
        case.run()
    while True:
        for case in cases:
            gone = time.perf_counter() - begun
            if case.turns and gone >= seconds:
                return
            on_turn(gone)
            case.turns.append(_turn(case.run))


def _turn(run: Callable[[], object]) -> list[float]:
    times: list[float] = []
    while not times or sum(times) + times[-1] <= _TURN_S:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
