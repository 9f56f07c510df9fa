import dataclasses
import shutil
import tomllib
from pathlib import Path

import pytest

from export.bundle import BEGIN, END, bundle
from export.onnx_export import export_onnx
from fer_app.errors import ExportError
from tests.export.test_onnx_export import write_checkpoint
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.ferplus import load_ferplus
from training.evaluation import evaluate, file_sha256, fitting_threshold, open_classifier

OLD = """# A comment that stays.

[[detector]]
name = "finder"
file = "f.onnx"
sha256 = "0"

[[model]]
name = "other"
file = "other.onnx"
default = true
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a card to fill and a manifest that already has a default."""
    for folder in ("training", "fer_app/weights", "docs/models", "docs/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fer_app/weights/manifest.toml").write_text(OLD, encoding="utf-8")
    (tmp_path / "docs/models/mine.md").write_text(
        f"# mine\n\n{BEGIN}\nold figures\n{END}\n\nthe end\n", encoding="utf-8"
    )
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = write_checkpoint(tmp_path / "best.safetensors", [])
    weights, info = load_checkpoint(path)
    recipe = {"stages": ["finetune"], "seed": 3, "finetune": {"split": "train-main", "votes": "majority", "epochs": 9}}
    counters = {"epochs": 7, "steps": 70, "seconds": 3600}
    info = dataclasses.replace(info, recipe=recipe, counters=counters, metrics={"dev_accuracy": 0.5})
    save_checkpoint(path, weights, info)
    return path


def test_everything_says_the_same(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, int8=False)
    onnx_file = tree / "fer_app/weights/mine.onnx"
    weights = tree / "training/weights/mine.safetensors"
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    entry = next(model for model in manifest["model"] if model["name"] == "mine")
    served = open_classifier(onnx_file)
    report = evaluate(served, load_ferplus(mini_ferplus, "valid"))

    assert entry["sha256"] == file_sha256(onnx_file)
    assert "variant" not in entry
    assert entry["contract_sha256"] == served.contract.digest
    assert entry["metrics"]["ferplus_valid_accuracy"] == pytest.approx(report.accuracy, abs=1e-5)
    assert served.contract.metrics == entry["metrics"]
    assert open_classifier(weights).contract == served.contract
    threshold = fitting_threshold(open_classifier(weights), load_ferplus(mini_ferplus, "dev"))
    assert served.contract.uncertain_below == threshold > 0
    assert weights.stat().st_size < 0.6 * checkpoint.stat().st_size  # 16 bits
    card = (tree / "docs/models/mine.md").read_text(encoding="utf-8")
    assert f"**{100 * report.accuracy:.2f} %**" in card
    assert file_sha256(onnx_file) in card
    assert "old figures" not in card
    assert f"uncertain below {threshold:g}: {100 * report.asserted.share:.2f} % of faces asserted" in card
    assert card.startswith("# mine\n")
    assert card.endswith("the end\n")
    assert (tree / "docs/images/mine-confusion.png").is_file()

    export_onnx(weights, tree / "again.onnx")  # the repository holds what the served file is made from
    assert file_sha256(tree / "again.onnx") == entry["sha256"]


def test_no_threshold_is_chosen_on_faces_that_were_trained_on(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    recipe = info.recipe | {"finetune": info.recipe["finetune"] | {"split": "train"}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, int8=False)
    contract = open_classifier(tree / "fer_app/weights/mine.onnx").contract
    assert contract.uncertain_below == 0.0
    assert "ferplus_valid_asserted_share" not in contract.metrics
    assert "uncertain: nothing" in (tree / "docs/models/mine.md").read_text(encoding="utf-8")


def test_manifest_keeps_the_rest_and_has_one_default(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    manifest_file = tree / "fer_app/weights/manifest.toml"
    for int8 in (True, False):  # bundling again replaces
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, int8=int8)
        assert ("[[model.variant]]" in manifest_file.read_text(encoding="utf-8")) == int8
    text = manifest_file.read_text(encoding="utf-8")
    manifest = tomllib.loads(text)
    assert text.startswith("# A comment that stays.")
    assert [model["name"] for model in manifest["model"]] == ["mine", "other"]
    assert [model.get("default", False) for model in manifest["model"]] == [True, False]
    assert [detector["name"] for detector in manifest["detector"]] == ["finder"]


def test_eight_bits_are_made_of_the_same_checkpoint(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, most_lost=1.0)  # weights at random
    eight = open_classifier(tree / "fer_app/weights/mine.int8.onnx")
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    (variant,) = manifest["model"][0]["variant"]
    assert variant["precision"] == eight.contract.precision == "int8"
    assert variant["sha256"] == file_sha256(tree / "fer_app/weights/mine.int8.onnx")
    assert variant["contract_sha256"] == eight.contract.digest
    assert variant["metrics"] == eight.contract.metrics
    card = (tree / "docs/models/mine.md").read_text(encoding="utf-8")
    assert variant["sha256"] in card


def test_a_card_without_marks_is_refused_before_anything_is_written(
    tree: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    (tree / "docs/models/mine.md").write_text("no marks", encoding="utf-8")
    with pytest.raises(ExportError, match="must exist and hold"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)
    assert not (tree / "training/weights").exists()
    shutil.rmtree(tree / "docs")
    with pytest.raises(ExportError, match="must exist"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)
