"""A step of masked pre-training, and what its network says of the same pictures and masks when it is asked alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.mae_pretraining import MaePretraining
from training.sampling import Share


def step_of(target: MaePretraining) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take eight pictures; returns the step's loss, the augmented pictures, the prediction and the mask."""
    target.start_epoch(0, 8, Share())
    samples = torch.arange(8)
    loss = target.losses(target.model, samples, np.random.default_rng(1))["loss"]
    images = target._augment(*target._pictures.read(samples, torch.device("cpu")))
    noise = torch.from_numpy(np.random.default_rng(1).random((8, target.draws_a_sample), dtype=np.float32))
    _, pred, mask = target.model(images, noise)
    return loss, images, pred, mask
