import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fer_app.errors import CheckpointError
from training.checkpoint import CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from training.evaluation import build_classifier
from training.recipe_files import load_recipe

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3).t(), "steps": torch.tensor(7)}


def info() -> CheckpointInfo:
    recipe = load_recipe("debug")
    return CheckpointInfo(
        kind="classifier",
        architecture={"encoder": recipe.model.vit_config().to_dict(), "num_classes": 8},
        counters={"epochs": 3},
        recipe=recipe.model_dump(mode="json"),
        metrics={"dev_accuracy": 0.5},
        contract=recipe.contract(),
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, WEIGHTS, info())
    weights, read = load_checkpoint(path)
    assert read == info() == read_info(path)
    assert set(weights) == set(WEIGHTS)
    assert torch.equal(weights["w"], WEIGHTS["w"])
    assert weights["steps"].dtype == torch.int64
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"w": torch.tensor([1 / 3]), "n": torch.tensor(70000)}, info(), dtype=torch.float16)
    weights, _ = load_checkpoint(path)
    assert weights["w"].dtype == torch.float32
    assert weights["w"].item() == pytest.approx(1 / 3, rel=1e-3)
    assert weights["n"].item() == 70000  # counters are no weights


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_checkpoint(whole, WEIGHTS, info())
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_checkpoint(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{", "not ours"),
        ("[]", "not ours: no JSON object"),
        ('{"format": 7}', "format 7"),
        ('{"format": 1, "kind": "encoder"}', "not ours"),
        ('{"format": 1, "kind": "encoder", "architecture": {}, "more": 1}', "not ours"),
    ],
)
def test_headers_that_are_not_ours(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"fer.checkpoint": header})
    with pytest.raises(CheckpointError, match=said):
        read_info(path)


@pytest.mark.parametrize(
    "architecture", [{}, {"encoder": "tiny"}, {"encoder": {}, "heads": 1}, {"encoder": {"depth": "x"}}]
)
def test_architectures_that_cannot_be_built(architecture: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="cannot be built"):
        build_classifier(dataclasses.replace(info(), architecture=architecture))


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(tmp_path / "missing" / "a.safetensors", WEIGHTS, info())


def test_contract_and_kind_go_together() -> None:
    with pytest.raises(CheckpointError, match="contract exactly if"):
        dataclasses.replace(info(), kind="encoder")
    with pytest.raises(CheckpointError, match="contract exactly if"):
        dataclasses.replace(info(), contract=None)
