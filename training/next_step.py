"""What to score a recipe's model on, and what to do after a run."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from training.data.datasets import at
from training.data.locate import DataSources
from training.data.splits import PARTS, Part, Split, share_faces
from training.recipe import Recipe


def scored_split(recipe: Recipe, there: Collection[Part] = PARTS) -> Split | None:
    """Return the split that a recipe's model is scored on unless another one is named.

    It is that of the published figure, else valid, else test; `dev`, which a run may have chosen its epoch by, is the
    last resort. What was trained on is never taken.

    Args:
        recipe: one that fine-tunes.
        there: the parts that the set has.

    Returns:
        None where all that is there was trained on.
    """
    assert recipe.finetune is not None
    wanted: list[Split] = [recipe.expected.split] if recipe.expected is not None else []
    for split in (*wanted, "valid", "test"):
        if split in there and not share_faces(split, recipe.finetune.split):
            return split
    return "dev" if "train" in there and not share_faces("dev", recipe.finetune.split) else None


def next_step(recipe: Recipe, checkpoint: Path, data: DataSources) -> str:
    """Return a line that says what to do with what a run has made."""
    model = shlex.quote(str(checkpoint))
    if recipe.stages[-1] == "pretrain":
        return (
            f"next: fer train RECIPE --set init={model} --data DIR, with a recipe that fine-tunes this [model], "
            f"or fer probe {model} --data DIR; "
            "--set 'stages=[\"finetune\"]' leaves out the pre-training of one that has both"
        )
    faces = data.need_faces()
    reader, base = at(faces)
    split, export = scored_split(recipe, reader.parts(base)), f"fer export {model} -o model.onnx"
    if split is None:
        return f"next: {export}; to score it, other faces are needed: it was trained on all of these"
    assert recipe.finetune is not None
    drop = " --drop-contempt" if recipe.finetune.contempt == "drop" else ""
    return f"next: fer eval {model} --data {shlex.quote(str(faces))} --split {split}{drop}, then {export}"
