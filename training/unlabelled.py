"""Pictures without labels as pre-training takes them, and the encoder that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.vit import VisionTransformer
from training.augment import epoch_draws
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.data.photo_stream import PhotoStream, StreamBatch
from training.fingerprint import fingerprint
from training.layer_decay import param_groups
from training.objective import Stateless
from training.recipe import PretrainTable, Recipe
from training.run_folder import RunFolder
from training.sampling import Epoch, IndexedEpoch, Share, epoch_order


class UnlabelledPictures:
    """Pictures, in memory or streamed, with the random numbers that augment each.

    Args:
        images: uint8, (N, C, H, W), or a stream of such.
        n_draws: numbers that a picture's augmentation takes.
    """

    def __init__(self, images: Tensor | PhotoStream, n_draws: int) -> None:
        self._images, self._n_draws = images, n_draws

    def __len__(self) -> int:
        return len(self._images)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these pictures from others; those in memory have no names here."""
        images = self._images
        return images.fingerprint() if isinstance(images, PhotoStream) else fingerprint(images)

    def start_epoch(self, seed: int, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations; see `training.objective.Objective.start_epoch`."""
        if isinstance(self._images, PhotoStream):
            return self._images.start_epoch(seed, epoch, batch_size, share, self._n_draws)
        self._draws = epoch_draws(seed, epoch, len(self), 1, self._n_draws)
        return IndexedEpoch(epoch_order(seed, epoch, len(self), batch_size * share.world_size), share)

    def read(self, samples: Tensor | StreamBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a step's pictures, uint8 (B, C, H, W), and the numbers that augment them, float32 (B, n_draws)."""
        if isinstance(samples, StreamBatch):
            return samples.images.to(device), samples.draws.to(device)
        assert isinstance(self._images, Tensor)  # a stream's steps are no indices
        return self._images[samples].to(device), self._draws[samples, 0].to(device)


class UnlabelledPretraining(Stateless):
    """What pre-training methods have in common: their pictures, and a checkpoint that is the encoder alone.

    Attributes:
        model: the network; its `encoder` is what is kept.
        num_samples: how many pictures there are.
    """

    forward_methods: tuple[str, ...] = ()
    model: nn.Module
    num_samples: int

    def __init__(self, recipe: Recipe, table: PretrainTable, images: Tensor | PhotoStream, n_draws: int) -> None:
        """Take the pictures.

        Args:
            recipe: supplies the encoder and the seed.
            table: the stage's settings.
            images: uint8, (N, C, H, W), or a stream of such.
            n_draws: numbers that a picture's augmentation takes.
        """
        self._recipe, self._table = recipe, table
        self._pictures = UnlabelledPictures(images, n_draws)
        self.num_samples = len(images)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these pictures from others."""
        return self._pictures.fingerprint()

    def param_groups(self) -> list[dict[str, Any]]:
        """Return MAE's groups: no decay for one-dimensional parameters, one learning rate."""
        return param_groups(self.model, lr=self._table.lr, weight_decay=self._table.weight_decay, layer_decay=1.0)

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations."""
        return self._pictures.start_epoch(self._recipe.seed, epoch, batch_size, share)

    def evaluate(self, model: nn.Module) -> dict[str, float]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: pre-training selects nothing."""
        return {}

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the encoder."""
        self.write(folder.last, model, counters, figures)

    def write(self, path: Path, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the encoder to `path`; whatever else the network has stays behind.

        Raises:
            CheckpointError: it could not be written.
        """
        encoder = model.encoder
        assert isinstance(encoder, VisionTransformer)
        info = CheckpointInfo(
            kind="encoder",
            architecture={"encoder": encoder.config.to_dict()},
            counters=counters,
            recipe=self._recipe.model_dump(mode="json"),
            metrics=figures,
        )
        save_checkpoint(path, encoder.state_dict(), info)


class CountedEpoch:
    """An epoch that tells the number of each step before it is taken."""

    def __init__(self, epoch: Epoch, tell: Callable[[int], None]) -> None:
        """Wrap an epoch; `tell` is called with the step's number within the epoch."""
        self._epoch, self._tell = epoch, tell

    def __len__(self) -> int:
        return len(self._epoch)

    @property
    def batch(self) -> int:
        """Samples of a step, of this process."""
        return self._epoch.batch

    def starting_at(self, step: int) -> Iterator[Any]:
        """Yield each step's samples, from `step` on."""
        for number, samples in enumerate(self._epoch.starting_at(step), step):
            self._tell(number)
            yield samples


def need_company(epoch: Epoch, batch_size: int, method: str) -> None:
    """See that no picture is alone in its pass: it would have nothing to be told apart from.

    Args:
        epoch: its steps.
        batch_size: pictures of one pass.
        method: the recipe's.

    Raises:
        ConfigError: a pass has a single picture.
    """
    if (epoch.batch % batch_size or batch_size) < 2:
        raise ConfigError(
            f"method = {method!r} contrasts the pictures of a pass, and one would be alone: steps have {epoch.batch} "
            f"pictures in passes of batch_size = {batch_size}; change pretrain.batch_size"
        )
