"""A working tree to bundle into, and a checkpoint to bundle."""

import dataclasses
from pathlib import Path

import pytest

from export.model_card import BEGIN, END
from tests.export.test_onnx_export import write_checkpoint
from training.checkpoint import load_checkpoint, save_checkpoint

OLD = """# A comment that stays.

[[detector]]
name = "finder"
file = "f.onnx"
sha256 = "0"

[[model]]
name = "other"
file = "other.onnx"
role = "fast"
default = true
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a card to fill and a manifest that already has a default."""
    for folder in ("training", "fer_app/weights", "docs/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fer_app/weights/manifest.toml").write_text(OLD, encoding="utf-8")
    (tmp_path / "fer_app/weights/mine.md").write_text(
        f"# mine\n\n{BEGIN}\nold figures\n{END}\n\nthe end\n", encoding="utf-8"
    )
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = write_checkpoint(tmp_path / "best.safetensors", [])
    weights, info = load_checkpoint(path)
    recipe = {"stages": ["finetune"], "seed": 3, "name": "debug"}
    recipe["finetune"] = {"split": "train-main", "votes": "majority", "epochs": 9}
    counters = {"epochs": 7, "steps": 70, "seconds": 3600}
    info = dataclasses.replace(info, recipe=recipe, counters=counters, metrics={"dev_accuracy": 0.5})
    save_checkpoint(path, weights, info)
    return path
