"""What the training loop asks of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from training.run_folder import RunFolder
from training.sampling import Epoch, Share


class Objective(Protocol):
    """What a stage trains: a model, its samples, and the loss of a batch of them.

    Attributes:
        model: is trained in place.
        num_samples: how many samples there are.
        views: pictures a sample.
        forward_methods: the model's methods beside `forward` that `losses` calls.
        draws_a_sample: float32 numbers that `losses` takes from its generator for each sample, one sample after the
            other; 0 where its draws are for the whole pass.
    """

    model: nn.Module
    num_samples: int
    forward_methods: tuple[str, ...]

    @property
    def draws_a_sample(self) -> int: ...  # noqa: D102 - described above

    @property
    def views(self) -> int: ...  # noqa: D102 - described above

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells its samples from others, see `training.fingerprint`."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Return optimiser groups, each with `lr_scale`."""

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw what is drawn once an epoch, and return its steps.

        Args:
            epoch: counted from 0.
            batch_size: samples of one process's step; a set that is smaller than one step makes one of all it has.
            share: the process's part.
        """

    def losses(self, model: nn.Module, samples: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return scalar terms of (a slice of) a step's samples; `loss` is the one that is minimised."""

    def state(self) -> dict[str, Tensor]:
        """Return what `losses` changes beside the model, in main memory; nothing for most."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned.

        Raises:
            KeyError: it is something else's.
            ValueError: it does not fit.
        """

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return figures on the selection split, or nothing."""

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the stage's checkpoint(s)."""

    def write(self, path: Path, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write one checkpoint of the stage's kind."""


class Stateless:
    """An objective whose losses change nothing beside the model."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up nothing."""
