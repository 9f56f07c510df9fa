"""Masked-image pre-training as an objective for the loop (He et al. 2022, arXiv:2111.06377)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.mae import MaskedAutoencoder
from models.vit import VisionTransformer
from training.checkpoint import load_encoder
from training.data.photo_stream import PhotoStream, StreamBatch
from training.recipe import PretrainTable, Recipe
from training.reconstruction import PICTURES, MaskedNetwork, Reconstructions
from training.run_folder import RunFolder
from training.unlabelled import UnlabelledPretraining


class MaePretraining(UnlabelledPretraining):
    """Reconstructs the masked patches of unlabelled pictures; its checkpoint is the encoder alone."""

    views = 1

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
        encoder = VisionTransformer(recipe.model.vit_config())
        if encoder_weights is not None:
            load_encoder(encoder, encoder_weights, may_lack_norm=True)
        self.model = self._build(encoder, table)
        self._augment = recipe.model.augmentation(table.augment)
        super().__init__(recipe, table, images, self._augment.n_draws)
        shown = images.first(PICTURES) if isinstance(images, PhotoStream) else images
        self._reconstructions = self._pictures_of(recipe, table, shown)

    def _build(self, encoder: VisionTransformer, table: PretrainTable) -> MaskedNetwork:
        """Return the network that pre-trains the encoder."""
        return MaskedAutoencoder(
            encoder,
            decoder_embed_dim=table.decoder_embed_dim,
            decoder_depth=table.decoder_depth,
            decoder_num_heads=table.decoder_num_heads,
            mask_ratio=table.mask_ratio,
            norm_pix_loss=table.norm_pix_loss,
        )

    def _pictures_of(self, recipe: Recipe, table: PretrainTable, shown: Tensor) -> Reconstructions:
        """Return what draws the network's predictions for pictures, uint8 (N, C, H, W)."""
        return Reconstructions(recipe, table, shown)

    def losses(self, model: nn.Module, samples: Tensor | StreamBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return `loss`: the network's error over what is masked."""
        device = next(model.parameters()).device
        images = self._augment(*self._pictures.read(samples, device))
        noise = torch.from_numpy(rng.random((len(samples), self.draws_a_sample), dtype=np.float32)).to(device)
        loss, _, _ = model(images, noise)
        return {"loss": loss.float()}

    @property
    def draws_a_sample(self) -> int:
        """One number a patch."""
        return (self._recipe.model.img_size // self._recipe.model.patch_size) ** 2

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the encoder and, every few epochs, pictures of what the network paints."""
        self.write(folder.last, model, counters, figures)
        assert isinstance(model, MaskedNetwork)
        self._reconstructions.draw(folder.path, model, counters["epochs"])
