"""Means of the loss terms between two rows of the log, and the first step whose loss was not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Sums on the device, so that no step waits for it; only `peek`, `take`, `bad_step` and `state` do.

    Attributes:
        last: the newest row that `take` gave.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._since = self._now = 0.0
        self._newest: dict[str, Tensor] = {}
        self._finite: Tensor | None = None  # whether all losses since the last row, or since resuming, are
        self._good: Tensor | int = 0  # how many of them came before the first that is not
        self._watched = 0  # how many there are
        self.last: dict[str, float] = {}

    def add(self, losses: dict[str, Tensor], samples: int, seconds: float) -> None:
        """Take in a step's terms; `seconds` is the run's clock after it."""
        for name, term in losses.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._steps, self._samples, self._now = self._steps + 1, self._samples + samples, seconds
        finite = torch.isfinite(losses["loss"])
        self._finite = finite if self._finite is None else self._finite & finite
        self._good, self._watched, self._newest = self._good + self._finite, self._watched + 1, losses

    def bad_step(self, step: int) -> int | None:
        """Return the first step whose loss was not finite, where `step` is the newest; None if all were."""
        if self._finite is None or bool(self._finite):
            return None
        return step - self._watched + int(self._good) + 1

    def newest(self) -> dict[str, float]:
        """Return the terms of the newest step."""
        return {name: float(term) for name, term in self._newest.items()}

    def peek(self) -> dict[str, float]:
        """Return the means since the last row, with `images_per_s`; that row itself where no step came after it."""
        if not self._steps:
            return self.last
        row = {name: float(total) / self._steps for name, total in self._sums.items()}
        row["images_per_s"] = round(self._samples / max(self._now - self._since, 1e-9), 1)
        return row

    def take(self) -> dict[str, float]:
        """Return what `peek` does, and start anew."""
        row = self.peek()
        self._sums, self._steps, self._samples, self._since, self.last = {}, 0, 0, self._now, row
        self._finite, self._good, self._watched = None, 0, 0
        return row

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"sums": self._sums, "steps": self._steps, "samples": self._samples, "since": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, whose losses were finite."""
        self._sums, self._steps = dict(state["sums"]), state["steps"]
        self._samples, self._since = state["samples"], state["since"]
