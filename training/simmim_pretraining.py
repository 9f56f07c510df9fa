"""Masked pre-training of any stem as an objective for the loop (SimMIM, Xie et al. 2022, arXiv:2111.09886)."""

from __future__ import annotations

from torch import Tensor

from models.simmim import SimMim
from models.vit import VisionTransformer
from training.distributed import synchronised
from training.mae_pretraining import MaePretraining
from training.recipe import PretrainTable, Recipe
from training.reconstruction import Reconstructions


class SimmimPretraining(MaePretraining):
    """Predicts the pixels of masked squares of unlabelled pictures; its checkpoint is the encoder alone."""

    def _build(self, encoder: VisionTransformer, table: PretrainTable) -> SimMim:
        network = SimMim(encoder, mask_px=table.simmim_mask_px, mask_ratio=table.mask_ratio)
        synchronised(network)  # in place: the norms lie within
        return network

    def _pictures_of(self, recipe: Recipe, table: PretrainTable, shown: Tensor) -> Reconstructions:
        return Reconstructions(recipe, table, shown, n_noise=self.draws_a_sample)

    @property
    def draws_a_sample(self) -> int:
        """One number a square."""
        return (self._recipe.model.img_size // self._table.simmim_mask_px) ** 2
