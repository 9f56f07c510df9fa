"""Masked pre-training that predicts HOG, as an objective for the loop (PLL-FER, arXiv:2209.15402, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from models.hog import HogAutoencoder
from models.vit import VisionTransformer
from training.hog_pictures import HogPictures
from training.mae_pretraining import MaePretraining
from training.recipe import PretrainTable, Recipe


class HogPretraining(MaePretraining):
    """Predicts the gradients in the masked patches of unlabelled pictures; its checkpoint is the encoder alone."""

    def _build(self, encoder: VisionTransformer, table: PretrainTable) -> HogAutoencoder:
        return HogAutoencoder(
            encoder,
            decoder_embed_dim=table.decoder_embed_dim,
            decoder_depth=table.decoder_depth,
            decoder_num_heads=table.decoder_num_heads,
            mask_ratio=table.mask_ratio,
            cell_px=table.hog_cell_px,
            gaussian_window=table.hog_gaussian_window,
        )

    def _pictures_of(self, recipe: Recipe, table: PretrainTable, shown: Tensor) -> HogPictures:
        return HogPictures(recipe, table, shown)
