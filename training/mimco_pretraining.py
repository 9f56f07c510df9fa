"""Masked pre-training against a contrastive teacher as an objective for the loop, after MimCo (arXiv:2209.03063).

Certain is what the authors' summary tells: a frozen contrastive teacher, a student that learns by masked modelling with
a loss on patches and one on pictures, both contrastive, simple random masking, and that teachers can be exchanged.

Differs: the paper's text and code were not at hand. Masked patches stay in the grid as a learnt token, in blocks and at
the ratio of SimMIM (arXiv:2111.09886). Student and teacher see the same crop. The patch loss is ConMIM's
(arXiv:2205.09616) against the teacher's final tokens, the picture loss InfoNCE at MoCo v3's temperature on class
tokens, and both count alike. What is measured with it is not the paper's method for certain.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.mimco import MimCo, MimCoCodes
from models.simmim import random_block_mask
from models.vit import VisionTransformer
from training.checkpoint import load_encoder
from training.data.photo_stream import PhotoStream, StreamBatch
from training.distributed import gather_rows, synchronised
from training.losses.info_nce_loss import PatchNceLoss, info_nce
from training.recipe import PretrainTable, Recipe
from training.sampling import Epoch, Share
from training.unlabelled import UnlabelledPretraining, need_company


class MimcoPretraining(UnlabelledPretraining):
    """Finds the teacher's codes of masked patches and of masked pictures; its checkpoint is the student alone."""

    views = 1

    def __init__(
        self,
        recipe: Recipe,
        table: PretrainTable,
        images: Tensor | PhotoStream,
        encoder_weights: dict[str, Tensor] | None,
        teacher: VisionTransformer,
    ) -> None:
        """Build the network.

        Args:
            recipe: supplies the student and the seed.
            table: the stage's settings.
            images: uint8, (N, C, H, W), or a stream of such.
            encoder_weights: the student's to go on from, or None for random ones.
            teacher: as `training.teacher.read_teacher` returns it.

        Raises:
            CheckpointError: the student's weights do not fit.
            ConfigError: teacher, student, losses or masks do not fit together.
        """
        torch.manual_seed(recipe.seed)
        student, mimco = VisionTransformer(recipe.model.vit_config()), table.mimco
        if encoder_weights is not None:
            load_encoder(student, encoder_weights, may_lack_norm=True)
        network = MimCo(
            student,
            teacher,
            patch_head=mimco.patch_weight > 0,
            image_head=mimco.image_weight > 0,
            head=mimco.head,
            mlp_dim=mimco.mlp_dim,
            image_pool=mimco.image_pool,
        )
        self.model = synchronised(network)
        self._grid = student.config.grid_size
        self._augment = recipe.model.augmentation(table.augment)
        super().__init__(recipe, table, images, self._augment.n_draws)
        if mimco.mask_block_px % recipe.model.patch_size:
            raise ConfigError(
                f"pretrain.mimco.mask_block_px = {mimco.mask_block_px} is no multiple of model.patch_size = "
                f"{recipe.model.patch_size}"
            )
        self._block = mimco.mask_block_px // recipe.model.patch_size
        self._mask(torch.zeros(1, self.draws_a_sample))  # so that one that does not fit is told now
        self._patch_loss = PatchNceLoss(mimco.patch_temperature, mimco.patch_negatives)

    @property
    def draws_a_sample(self) -> int:
        """One number a block."""
        return (self._grid[0] // self._block) * (self._grid[1] // self._block)

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations.

        Raises:
            ConfigError: a pass has a single picture, and pictures are to be told apart.
        """
        steps = super().start_epoch(epoch, batch_size, share)
        if self._table.mimco.image_weight > 0:
            need_company(steps, self._table.batch_size, self._table.method)
        return steps

    def losses(self, model: nn.Module, samples: Tensor | StreamBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return `loss`, and of each loss that is on its value and how often the own code is the nearest."""
        device = next(model.parameters()).device
        images = self._augment(*self._pictures.read(samples, device))
        noise = torch.from_numpy(rng.random((len(samples), self.draws_a_sample), dtype=np.float32)).to(device)
        mask = self._mask(noise)
        return self._terms(model(images, mask), mask)

    def _mask(self, noise: Tensor) -> Tensor:
        return random_block_mask(noise, self._table.mask_ratio, self._grid, self._block)

    def _terms(self, codes: MimCoCodes, mask: Tensor) -> dict[str, Tensor]:
        mimco, terms = self._table.mimco, {}
        total = torch.zeros((), device=mask.device)
        if codes.patches is not None and codes.patch_targets is not None:
            terms["patch"], terms["patch_match"] = self._patch_loss(codes.patches, codes.patch_targets, mask)
            total = total + mimco.patch_weight * terms["patch"]
        if codes.pictures is not None and codes.picture_targets is not None:
            targets, row = gather_rows(codes.picture_targets)
            own = row + torch.arange(len(mask), device=mask.device)
            terms["image"], terms["image_match"] = info_nce(codes.pictures, targets, own, mimco.image_temperature)
            total = total + mimco.image_weight * terms["image"]
        return {"loss": total, **terms}
