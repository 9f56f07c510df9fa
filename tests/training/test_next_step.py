"""What is scored unless it is said, and the last line of a run."""

from pathlib import Path

import pytest

from tests.training.miniature import write_mini_raf_db
from training.data.locate import locate
from training.data.splits import SPLITS, share_faces
from training.next_step import next_step, scored_split
from training.recipe import Recipe

STAGE = {"epochs": 1, "batch_size": 8, "base_lr": 1e-3}


def recipe(split: str, expected: str | None = None, **table: object) -> Recipe:
    values: dict[str, object] = {"name": "a", "stages": ["finetune"], "finetune": {**STAGE, "split": split, **table}}
    if expected:
        values["expected"] = {"data_set": "x", "split": expected, "accuracy": 50.0, "source": "y"}
    return Recipe.model_validate(values)


def test_splits_that_share_faces() -> None:
    apart = {(a, b) for a in SPLITS for b in SPLITS if not share_faces(a, b)}
    once = {("train-main", "dev"), ("train", "valid"), ("train-main", "valid"), ("dev", "valid")}
    once |= {("test", other) for other in SPLITS if other != "test"}
    assert apart == once | {(b, a) for a, b in once}


@pytest.mark.parametrize(
    ("split", "expected", "there", "scored"),
    [
        ("train-main", None, ("train", "valid", "test"), "valid"),
        ("train-main", "test", ("train", "valid", "test"), "test"),
        ("train-main", "test", ("train", "valid"), "valid"),
        ("train", None, ("train", "test"), "test"),
        ("train+valid", None, ("train", "valid", "test"), "test"),
        ("train+valid", "valid", ("train", "valid"), None),
        ("train-main", None, ("train",), "dev"),
        ("train", None, ("train",), None),
    ],
)
def test_what_is_scored_was_not_trained_on(
    split: str, expected: str | None, there: tuple[str, ...], scored: str | None
) -> None:
    assert scored_split(recipe(split, expected), there) == scored  # type: ignore[arg-type]


def test_the_next_command_is_one_that_works(tmp_path: Path) -> None:
    """RAF-DB has no valid."""
    data = locate([write_mini_raf_db(tmp_path / "raf db")])
    told = next_step(recipe("train", contempt="drop"), Path("best.safetensors"), data)
    assert told.startswith("next: fer eval best.safetensors --data '")
    assert told.endswith("' --split test --drop-contempt, then fer export best.safetensors -o model.onnx")


def test_an_encoder_is_to_be_fine_tuned() -> None:
    encoder = Recipe.model_validate({"name": "a", "stages": ["pretrain"], "pretrain": STAGE})
    told = next_step(encoder, Path("last.safetensors"), locate([]))
    assert told.startswith("next: fer train RECIPE --set init=last.safetensors --data DIR")
    assert "or fer probe last.safetensors --data DIR" in told
