"""The order in which a shuffle buffer gives what comes in, told without what comes in."""

from __future__ import annotations

import numpy as np

_DRAWS_AT_ONCE = 4096


class ShuffleBuffer:
    """Gives the numbers 0, 1, ..., each once: every draw takes one of the buffer at random and puts in the next.

    The order is a function of count, size and the generator's seed alone, so that a reader can be set down anywhere in
    it: `held` tells which of what it has passed is still to come.

    Attributes:
        held: the numbers in the buffer.
        arrived: how many have come in; the next one has this number.
    """

    def __init__(self, count: int, size: int, rng: np.random.Generator) -> None:
        """Fill the buffer.

        Args:
            count: how many numbers there are.
            size: of the buffer; 1 leaves the order as it is.
            rng: is used up in blocks.
        """
        self._count, self._rng = count, rng
        self._draws: list[float] = []
        self.arrived = min(size, count)
        self.held = list(range(self.arrived))

    def draw(self) -> int:
        """Return the next number.

        Raises:
            IndexError: all have been given.
        """
        if not self._draws:
            self._draws = self._rng.random(_DRAWS_AT_ONCE).tolist()
        slot = int(self._draws.pop() * len(self.held))
        number = self.held[slot]
        if self.arrived < self._count:
            self.held[slot] = self.arrived
            self.arrived += 1
        else:
            self.held[slot] = self.held[-1]
            self.held.pop()
        return number
