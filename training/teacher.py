"""The frozen network whose codes masked pre-training finds: a checkpoint of ours, or published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fer_app.errors import CheckpointError, ConfigError
from models.vit import VisionTransformer, VitConfig
from training.checkpoint import CheckpointInfo, is_checkpoint, load_encoder
from training.contrastive_tables import MimcoTable
from training.frozen_features import load_encoder_checkpoint
from training.model_table import ModelTable
from training.public_weights import read_public_weights
from training.recipe import Recipe
from training.report import Report

_PIXELS: Final = ("color_mode", "mean", "std")


def read_teacher(recipe: Recipe, report: Report, encoder: Path | None) -> VisionTransformer:
    """Return the teacher that `pretrain.mimco.teacher` names, and say what it is.

    A checkpoint of ours tells its own shape. Published weights are of `[model]`'s shape, but for `teacher_size` and
    `teacher_num_heads`.

    Args:
        recipe: names it.
        report: gets a line.
        encoder: the checkpoint that `recipe:NAME` stands for, which `training.sweep` knows.

    Raises:
        ConfigError: no teacher is named, or `recipe:NAME` outside a sweep.
        CheckpointError: it cannot be read, or its weights do not fit.
    """
    assert recipe.pretrain is not None
    mimco = recipe.pretrain.mimco
    if not mimco.teacher:
        raise ConfigError(
            "method = 'mimco' needs a teacher: --set pretrain.mimco.teacher=PATH, the encoder that a recipe of "
            "moco_v3/ makes; or timm:NAME"
        )
    path = Path(mimco.teacher)
    if mimco.teacher.startswith("recipe:"):
        if encoder is None:
            raise ConfigError(
                f"pretrain.mimco.teacher = {mimco.teacher!r} is what a recipe beside this one makes: run their folder "
                "with `fer sweep`, or pass --set pretrain.mimco.teacher=PATH"
            )
        path = encoder
    if is_checkpoint(path):
        teacher, info = load_encoder_checkpoint(path)
        method = (info.recipe.get("pretrain") or {}).get("method", "unknown")
        report.line(f"teacher: {path}: {_words(teacher.config)}, pre-trained by {method}{_other_pixels(info, recipe)}")
        return teacher
    model = _shape_of_published(recipe.model, mimco)
    weights, line = read_public_weights(mimco.teacher, model)
    teacher = VisionTransformer(model.vit_config())
    try:
        load_encoder(teacher, weights, may_lack_norm=False)
    except CheckpointError as error:
        raise CheckpointError(f"the teacher {mimco.teacher}: {error}") from error
    report.line(f"teacher: {line.removeprefix('init: ')}; {_words(teacher.config)}")
    return teacher


def _shape_of_published(student: ModelTable, mimco: MimcoTable) -> ModelTable:
    """Return the student's shape with what the teacher's is said to have otherwise."""
    changed: dict[str, Any] = {}
    if mimco.teacher_size is not None:
        changed = {"size": mimco.teacher_size, "embed_dim": None, "depth": None, "num_heads": None}
    if mimco.teacher_num_heads is not None:
        changed["num_heads"] = mimco.teacher_num_heads
    return student.model_copy(update=changed)


def _other_pixels(info: CheckpointInfo, recipe: Recipe) -> str:
    """Say where a teacher of ours learnt on pixels that came in otherwise; nothing where they did not."""
    theirs, ours = info.recipe.get("model") or {}, recipe.model.model_dump(mode="json")
    other = [f"{key} = {theirs[key]}" for key in _PIXELS if theirs.get(key, ours[key]) != ours[key]]
    return f"; on pixels with {', '.join(other)}, which the recipe's are not" if other else ""


def _words(config: VitConfig) -> str:
    return f"width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads"
