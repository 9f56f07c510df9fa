"""Which objective a recipe's pre-training method is."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from training.data.photo_stream import PhotoStream
from training.hog_pretraining import HogPretraining
from training.mae_pretraining import MaePretraining
from training.mimco_pretraining import MimcoPretraining
from training.moco_pretraining import MocoPretraining
from training.objective import Objective
from training.recipe import PretrainTable, Recipe
from training.report import Report
from training.simmim_pretraining import SimmimPretraining
from training.teacher import read_teacher


def pretraining(
    recipe: Recipe,
    table: PretrainTable,
    images: Tensor | PhotoStream,
    start: dict[str, Tensor] | None,
    report: Report,
    encoder: Path | None,
) -> Objective:
    """Build what `pretrain.method` trains.

    Args:
        recipe: supplies the encoder and the seed.
        table: the stage's settings.
        images: uint8, (N, C, H, W), or a stream of such.
        start: an encoder's weights to go on from, or None for random ones.
        report: is told of the teacher, where there is one.
        encoder: the checkpoint that a teacher `recipe:NAME` stands for.

    Raises:
        CheckpointError: weights cannot be read or do not fit.
        ConfigError: settings do not fit together.
    """
    if table.method == "moco_v3":
        return MocoPretraining(recipe, table, images, start)
    if table.method == "mimco":
        return MimcoPretraining(recipe, table, images, start, read_teacher(recipe, report, encoder))
    masked = {"mae": MaePretraining, "hog": HogPretraining, "simmim": SimmimPretraining}[table.method]
    return masked(recipe, table, images, start)
