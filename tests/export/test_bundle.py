import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from export import bundle as bundle_module
from export.bundle import bundle, make_scratch
from export.half_storage import keep_in_16_bits
from export.model_card import PICTURES, table
from export.onnx_export import export_onnx
from fer_app.errors import ExportError
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.ferplus import load_ferplus
from training.evaluation import evaluate, file_sha256, fitting_threshold, open_classifier


def test_everything_says_the_same(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    onnx_file = tree / "fer_app/weights/mine.onnx"
    weights = tree / "training/weights/mine.safetensors"
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    entry, other = manifest["model"]  # the default one first
    assert (entry["name"], other["name"]) == ("mine", "other")
    served = open_classifier(onnx_file)
    report = evaluate(served, load_ferplus(mini_ferplus, "valid"))

    assert entry["sha256"] == file_sha256(onnx_file)
    assert "variant" not in entry
    assert entry["contract_sha256"] == served.contract.digest
    assert entry["metrics"]["ferplus_valid_accuracy"] == pytest.approx(report.accuracy, abs=1e-6)
    assert served.contract.metrics == entry["metrics"]
    assert open_classifier(weights).contract == served.contract
    threshold = fitting_threshold(open_classifier(weights), load_ferplus(mini_ferplus, "dev"))
    assert served.contract.uncertain_below == threshold > 0
    assert weights.stat().st_size < 0.6 * checkpoint.stat().st_size  # 16 bits
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert entry["card"] == "mine.md"
    assert f"**{100 * report.accuracy:.2f} %**" in card
    assert file_sha256(onnx_file) in card
    assert "- Chosen by: accuracy on `dev`, a tenth of Train (50.00 %), after every epoch." in card
    assert "old figures" not in card
    assert (
        f"below {100 * threshold:.0f} % is marked uncertain; {100 * report.asserted.share:.2f} % have no mark" in card
    )
    assert card.startswith("# mine\n")
    assert card.endswith("the end\n")
    for picture in PICTURES:
        assert (tree / f"docs/images/mine-{picture}").is_file()
        assert f"](../../docs/images/mine-{picture})" in card
    for expected in ("| turned by 20 degrees ", "| 200 px ", "| 32 at once |", "| as it is ", "fer train debug --data"):
        assert expected in card
    assert "not recorded" in card  # the checkpoint lies in no run's folder

    export_onnx(weights, tree / "again.onnx")  # the repository holds what the served file is made from
    keep_in_16_bits(tree / "again.onnx", load_checkpoint(weights)[0])
    assert file_sha256(tree / "again.onnx") == entry["sha256"]
    assert f"{onnx_file.stat().st_size / 1e6:.1f} |" in card
    assert onnx_file.stat().st_size < 0.75 * checkpoint.stat().st_size


def test_no_threshold_is_chosen_on_faces_that_were_trained_on(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    recipe = info.recipe | {"finetune": info.recipe["finetune"] | {"split": "train"}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=False, role="accurate", also=(), bench_s=0)
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    assert [(model["name"], model["role"]) for model in manifest["model"]] == [("other", "fast"), ("mine", "accurate")]
    contract = open_classifier(tree / "fer_app/weights/mine.onnx").contract
    assert contract.uncertain_below == 0.0
    assert "ferplus_valid_asserted_share" not in contract.metrics
    assert "is marked uncertain" not in (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")


def test_manifest_keeps_the_rest_and_has_one_default(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    manifest_file = tree / "fer_app/weights/manifest.toml"
    for int8 in (True, False):  # bundling again replaces
        also = ("int8",) if int8 else ()
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="fast", also=also, most_lost=1.0, bench_s=0)
        assert ("[[model.variant]]" in manifest_file.read_text(encoding="utf-8")) == int8
    text = manifest_file.read_text(encoding="utf-8")
    manifest = tomllib.loads(text)
    assert text.startswith("# A comment that stays.")
    assert [model["name"] for model in manifest["model"]] == ["mine", "other"]
    assert [model.get("default", False) for model in manifest["model"]] == [True, False]
    assert [model.get("role") for model in manifest["model"]] == ["fast", None]
    assert [detector["name"] for detector in manifest["detector"]] == ["finder"]


def test_eight_bits_are_made_of_the_same_checkpoint(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    recipe = info.recipe | {"finetune": info.recipe["finetune"] | {"selected_epoch": "last"}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, most_lost=1.0, bench_s=0)  # weights at random
    eight = open_classifier(tree / "fer_app/weights/mine.int8.onnx")
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    (variant,) = manifest["model"][0]["variant"]
    assert variant["precision"] == eight.contract.precision == "int8"
    assert variant["sha256"] == file_sha256(tree / "fer_app/weights/mine.int8.onnx")
    assert variant["contract_sha256"] == eight.contract.digest
    assert variant["metrics"] == eight.contract.metrics
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert "int8: right %" in card
    assert "- Epoch: the last, as the recipe says. `dev`, a tenth of Train, set the temperature" in card
    assert "\n  uncertain; 50.00 % of it are right.\n" in card
    assert variant["sha256"] in card


def test_a_card_without_marks_is_refused_before_anything_is_written(
    tree: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    (tree / "fer_app/weights/mine.md").write_text("no marks", encoding="utf-8")
    with pytest.raises(ExportError, match="must exist and hold"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)
    assert not (tree / "training/weights").exists()
    (tree / "fer_app/weights/mine.md").unlink()
    with pytest.raises(ExportError, match="must exist"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)


def files_below(tree: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("limit", "said"), [("LARGEST_FILE", "any bundled file"), ("LARGEST_FAST", "role fast")])
def test_what_is_too_large_leaves_the_tree_alone(
    tree: Path, checkpoint: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    before = files_below(tree)
    monkeypatch.setattr(bundle_module, limit, 100)
    with pytest.raises(ExportError, match=f"mine.onnx has .* MB, more than the 0 MB of .*{said}"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="fast", also=(), bench_s=0)
    assert files_below(tree) == before
    with pytest.raises(ExportError, match="a role is one of fast, accurate"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="best")
    with pytest.raises(ExportError, match="and no name is"):
        bundle(checkpoint, "fast", mini_ferplus, tree, default=True)


@pytest.mark.parametrize(
    "origin",
    [
        {"members": ["recipe:debug", "bundled:mine"]},
        {"init": "bundled:mine"},
        {"init": "bundled"},  # which will be this one
        {"init": "bundled:default"},
        {"init": "bundled:fast"},
        {"finetune": {"distill": {"teachers": ["bundled:mine"]}}},
    ],
)
def test_what_comes_from_the_model_that_it_replaces_is_refused(
    tree: Path, checkpoint: Path, mini_ferplus: Path, origin: dict[str, Any]
) -> None:
    weights, info = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=info.recipe | origin))
    before = files_below(tree)
    with pytest.raises(ExportError, match="comes from a bundled model that it would replace"):
        bundle(checkpoint, "mine", mini_ferplus, tree, role="fast", default=True, also=(), bench_s=0)
    assert files_below(tree) == before


def test_what_was_taught_by_the_model_that_it_replaces_is_refused(
    tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    weights, info = load_checkpoint(checkpoint)
    both = tmp_path / "both.safetensors"
    recipe = {"name": "ensemble", "members": ["bundled:mine", "recipe:debug"]}
    save_checkpoint(both, weights, dataclasses.replace(info, recipe=recipe))
    taught = info.recipe | {"finetune": info.recipe["finetune"] | {"distill": {"teachers": [str(both)]}}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=taught))
    with pytest.raises(ExportError, match="comes from a bundled model that it would replace"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=False, also=(), bench_s=0)


def test_another_folder_is_made_like_the_tree(tree: Path, tmp_path: Path) -> None:
    make_scratch(tmp_path / "scratch", tree, "mine")
    copied = {path.relative_to(tmp_path / "scratch").as_posix() for path in files_below(tmp_path / "scratch")}
    assert copied == {"fer_app/weights/manifest.toml", "fer_app/weights/mine.md"}
    with pytest.raises(ExportError, match="cannot make"):
        make_scratch(tmp_path / "scratch", tree, "other")
    manifest = tmp_path / "scratch/fer_app/weights/manifest.toml"
    manifest.write_text("of another model that was bundled there", encoding="utf-8")
    make_scratch(tmp_path / "scratch", tree, "mine")
    assert manifest.read_text(encoding="utf-8") == "of another model that was bundled there"


def test_tables_line_up() -> None:
    assert table(("a", "bb"), [("long", "1")]) == ["| a    | bb |", "|------|---:|", "| long |  1 |"]
