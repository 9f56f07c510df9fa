"""Which samples each step of an epoch sees, as a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The part of every step that a process takes: `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1


class Samples(Protocol):
    """Samples of one step: int64 indices (n,), or what a stream has read. Slices are of the same kind."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


class Epoch(Protocol):
    """What one process sees in one epoch."""

    def __len__(self) -> int:
        """Return the number of steps."""

    def starting_at(self, step: int) -> Iterator[Samples]:
        """Yield each step's samples, from `step` on."""


class IndexedEpoch:
    """An epoch over samples that can be taken in any order."""

    def __init__(self, order: Tensor, share: Share | None = None) -> None:
        """Take a process's part.

        Args:
            order: int64, (steps, batch), indices of all processes' samples.
            share: which of the world_size equal, neighbouring parts of each row it is; what cannot be shared equally
                is left out. None for the whole.
        """
        share = share or Share()
        part = order.shape[1] // share.world_size
        self._order = order[:, share.rank * part : (share.rank + 1) * part]

    def __len__(self) -> int:
        return len(self._order)

    def starting_at(self, step: int) -> Iterator[Tensor]:
        """Yield each step's indices, int64 (batch of the process,), from `step` on."""
        yield from self._order[step:]


def epoch_order(seed: int, epoch: int, num_samples: int, batch_size: int) -> Tensor:
    """Return what each step of the epoch sees: int64, (steps, batch), a permutation of seed and epoch alone."""
    batch = min(batch_size, num_samples)
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num_samples))
    steps = num_samples // batch
    return order[: steps * batch].reshape(steps, batch)
