"""MoCo v3 pre-training as an objective for the loop (Chen, Xie, He 2021, arXiv:2104.02057)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.moco_v3 import MocoV3, init_moco_v3_weights
from models.vit import VisionTransformer
from training.checkpoint import load_encoder
from training.data.photo_stream import PhotoStream, StreamBatch
from training.distributed import gather_rows, synchronised
from training.losses.info_nce_loss import MocoV3Loss
from training.recipe import PretrainTable, Recipe
from training.sampling import Epoch, Share
from training.schedule import momentum_cosine
from training.two_views import TwoViews
from training.unlabelled import CountedEpoch, UnlabelledPretraining, need_company


class MocoPretraining(UnlabelledPretraining):
    """Tells the two views of a picture from those of the others; its checkpoint is the encoder alone.

    As published: one momentum update a step, after the queries and before the keys; keys of all processes; weight
    decay for every parameter; batch norms that see the pictures of all processes (on GPUs).

    Differs: with `accumulate`, the pictures of one pass are contrasted, not those of the whole step.
    """

    views = 2
    draws_a_sample = 0

    def __init__(
        self,
        recipe: Recipe,
        table: PretrainTable,
        images: Tensor | PhotoStream,
        encoder_weights: dict[str, Tensor] | None,
    ) -> None:
        """Build the network.

        Args:
            recipe: supplies the encoder and the seed.
            table: the stage's settings.
            images: uint8, (N, C, H, W), or a stream of such.
            encoder_weights: an encoder's to go on from, or None for random ones.

        Raises:
            CheckpointError: the encoder's weights do not fit.
        """
        torch.manual_seed(recipe.seed)
        encoder, moco = VisionTransformer(recipe.model.vit_config()), table.moco
        if encoder_weights is not None:
            load_encoder(encoder, encoder_weights, may_lack_norm=True)
        else:
            init_moco_v3_weights(encoder)
        network = MocoV3(encoder, moco.mlp_dim, moco.out_dim, freeze_patch_embed=moco.freeze_patch_embed)
        self.model = synchronised(network)
        second = table.augment if moco.second_augment is None else moco.second_augment
        model = recipe.model
        self._views = TwoViews(model.augmentation(table.augment), model.augmentation(second), moco.solarize_p)
        super().__init__(recipe, table, images, self._views.n_draws)
        self._loss = MocoV3Loss(moco.temperature)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return one group: everything that learns decays, biases and norms too, as in the published code."""
        table = self._table
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [
            {"params": learnt, "weight_decay": table.weight_decay, "lr": table.lr, "lr_scale": 1.0, "name": "decay"}
        ]

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations.

        Raises:
            ConfigError: a pass has a single picture.
        """
        steps = super().start_epoch(epoch, batch_size, share)
        need_company(steps, self._table.batch_size, self._table.method)

        def tell(step: int) -> None:
            self._momentum: float | None = self._momentum_at(epoch + step / len(steps))

        return CountedEpoch(steps, tell)

    def _momentum_at(self, progress: float) -> float:
        moco = self._table.moco
        if moco.momentum_schedule == "constant":
            return moco.momentum
        return momentum_cosine(progress, epochs=self._table.epochs, start=moco.momentum)

    def losses(self, model: nn.Module, samples: Tensor | StreamBatch, rng: np.random.Generator) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's signature
        """Return `loss`, and `match`: how often a picture's other view is its nearest."""
        device = next(model.parameters()).device
        first, second = self._views(*self._pictures.read(samples, device))
        queries, keys = model(first, second, self._momentum)
        self._momentum = None  # the next pass of this step leaves the slow copy alone
        (first_keys, row), (second_keys, _) = gather_rows(keys[0]), gather_rows(keys[1])
        loss, match = self._loss(queries, (first_keys, second_keys), row)
        return {"loss": loss, "match": match}
