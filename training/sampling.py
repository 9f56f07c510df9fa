"""Which samples each step of an epoch sees, as a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fer_app.errors import ConfigError


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

    @property
    def batch(self) -> int:
        """Samples of a step, of this process: fewer than asked for, where the set has fewer."""

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

        Raises:
            ConfigError: the steps have fewer samples than there are processes.
        """
        share = share or Share()
        part = order.shape[1] // share.world_size
        if not part:
            raise ConfigError(
                f"an epoch of {order.shape[1]} samples is too short for {share.world_size} processes: start fewer, or "
                "raise finetune.epoch_samples where that ends it"
            )
        self._order = order[:, share.rank * part : (share.rank + 1) * part]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def batch(self) -> int:
        """Samples of a step, of this process."""
        return self._order.shape[1]

    def starting_at(self, step: int) -> Iterator[Tensor]:
        """Yield each step's indices, int64 (batch of the process,), from `step` on."""
        yield from self._order[step:]


def epoch_order(seed: int, epoch: int, num_samples: int, batch_size: int) -> Tensor:
    """Return what each step of the epoch sees: int64, (steps, batch), a permutation of seed and epoch alone."""
    batch = min(batch_size, num_samples)
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num_samples))
    steps = num_samples // batch
    return order[: steps * batch].reshape(steps, batch)


def balanced_order(seed: int, epoch: int, classes: Tensor, batch_size: int, epoch_samples: int | None = None) -> Tensor:
    """Return an epoch in which every class is seen equally often, a function of seed and epoch alone.

    Samples go round the classes, in a new order each time around, and those of a class come in one random order after
    another: none is seen again before all of its class were. The epoch ends when the largest class was seen once.
    Differs from the sampler of MIMIC's code (zfkarl/MIMIC at a3566b1): that one repeats samples picked at random, and
    goes round in a fixed order, which mirrored mixing would turn into fixed pairs of classes.

    Args:
        seed: the run's.
        epoch: counted from 0.
        classes: int64, (N,), each sample's; classes without samples are left out.
        batch_size: samples a step.
        epoch_samples: ends the epoch earlier; None for number of classes x largest class.

    Returns:
        int64, (steps, batch), indices of samples.
    """
    rng = np.random.default_rng([seed, epoch])
    members = [np.flatnonzero(classes.numpy() == k) for k in np.unique(classes.numpy())]
    rounds = max(map(len, members))
    if epoch_samples is not None:
        rounds = min(rounds, -(-epoch_samples // len(members)))
    repeated = [
        np.concatenate([rng.permutation(own) for _ in range(-(-rounds // len(own)))])[:rounds] for own in members
    ]
    order = torch.from_numpy(rng.permuted(np.stack(repeated, axis=1), axis=1).reshape(-1))[:epoch_samples]
    batch = min(batch_size, len(order))
    steps = len(order) // batch
    return order[: steps * batch].reshape(steps, batch)
