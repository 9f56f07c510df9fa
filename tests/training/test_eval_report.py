"""`fer eval`'s options: flip, groups, pictures and the report's folder, on a network that was never trained."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner, Result

from fer_app.errors import DatasetError, InputError
from fer_app.preprocess import softmax
from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from tests.training.miniature import write_mini_folders
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.cli import evaluate
from training.data.ferplus import load_ferplus
from training.evaluation import FeaturesSource, crops_of, open_classifier, predict
from training.recipe_files import load_recipe

FILES = {"confusion.png", "mistakes.png", "predictions.csv", "reliability.png", "report.json", "tsne.png"}

runner = CliRunner()
app = Typer()
app.command("eval")(evaluate)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with large random weights in its head, so that faces differ."""
    recipe = load_recipe("debug")
    torch.manual_seed(0)
    network = MimicClassifier(VisionTransformer(recipe.model.vit_config()), 8, projection_dim=32)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    architecture = {"encoder": network.encoder.config.to_dict(), "num_classes": 8, "projection_dim": 32}
    info = CheckpointInfo(
        kind="classifier", architecture=architecture, counters={}, recipe={}, metrics={}, contract=recipe.contract()
    )
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    save_checkpoint(path, network.state_dict(), info)
    return path


@pytest.fixture(scope="module")
def labelled_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of forty drawn faces, all of them valid, with a column `camera`."""
    root = tmp_path_factory.mktemp("csv")
    classes = ("neutral", "happiness", "surprise", "fear")
    write_mini_folders(root, {name: name for name in classes}, per_class=10)
    rows = [(f"{name}/{i}.png", name, "valid", "old" if i < 3 else "new") for name in classes for i in range(10)]
    table = root / "faces.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "camera"), *rows])
    return table


def run(*arguments: object) -> Result:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_a_report_has_everything(model: Path, mini_ferplus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    told = json.loads(run(model, "--data", mini_ferplus, "--report", folder, "--tsne-limit", 20, "--json").stdout)
    assert {path.name for path in folder.iterdir()} == FILES
    report = json.loads((folder / "report.json").read_text())
    assert {name: report[name] for name in told} == told
    assert report.keys() - told.keys() == {"options", "skipped"}
    assert report["skipped"] == {}
    assert report["options"]["tsne_limit"] == 20
    assert report["options"]["data"] == str(mini_ferplus)
    assert told["test_time_flip"] is False
    low, high = told["accuracy_ci95"]
    assert low < told["accuracy"] < high
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    faces = load_ferplus(mini_ferplus, "valid")
    assert tuple(row["name"] for row in rows) == faces.names
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right == round(told["accuracy"] * told["n"])
    assert all(
        max(row, key=lambda k: float(row[k]) if k.startswith("prob_") else -1)[5:] == row["predicted"] for row in rows
    )


def test_flip_is_the_mean_of_both_and_is_named(model: Path, mini_ferplus: Path, tmp_path: Path) -> None:
    faces, classifier = load_ferplus(mini_ferplus, "valid"), open_classifier(model)
    both = [
        softmax(classifier.logits(crops))
        for crops in (crops_of(faces), np.stack([np.fliplr(c) for c in crops_of(faces)]))
    ]
    assert not np.allclose(both[0], both[1], atol=1e-3)
    assert np.allclose(predict(classifier, faces, flip=True).probs, (both[0] + both[1]) / 2, atol=1e-6)
    assert np.allclose(predict(classifier, faces).probs, both[0], atol=1e-6)
    assert "test-time flip" not in run(model, "--data", mini_ferplus).stdout
    lines = run(model, "--data", mini_ferplus, "--flip").stdout.splitlines()
    assert lines[0].startswith("accuracy ")
    assert "test-time flip: on" in lines
    assert json.loads(run(model, "--data", mini_ferplus, "--flip", "--json").stdout)["test_time_flip"] is True


@pytest.mark.parametrize("picture", ["confusion", "reliability", "tsne", "mistakes"])
def test_one_picture(model: Path, mini_ferplus: Path, tmp_path: Path, picture: str) -> None:
    path = tmp_path / "picture.png"
    run(model, "--data", mini_ferplus, f"--{picture}", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_features_are_what_the_head_sees(model: Path, mini_ferplus: Path) -> None:
    crops, classifier = crops_of(load_ferplus(mini_ferplus, "valid")), open_classifier(model, device="cpu")
    assert isinstance(classifier, FeaturesSource)
    features = torch.from_numpy(classifier.features(crops))
    assert features.shape == (len(crops), 64)
    head = classifier.model.head  # type: ignore[attr-defined]
    assert np.allclose(head(features).detach().numpy(), classifier.logits(crops), atol=1e-5)


def test_an_onnx_file_without_features(tiny_model: Path, mini_ferplus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.onnx has no features for t-SNE: export it again, or give the \.safe"):
        run(tiny_model, "--data", mini_ferplus, "--tsne", tmp_path / "tsne.png")
    (tmp_path / "tsne.png").write_bytes(b"of an earlier report")
    result = run(tiny_model, "--data", mini_ferplus, "--report", tmp_path)
    assert "tsne.png left out: " in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"tsne.png"}
    assert list(json.loads((tmp_path / "report.json").read_text())["skipped"]) == ["tsne.png"]


def test_groups_of_the_labelled_table(model: Path, labelled_csv: Path) -> None:
    arguments = (model, "--data", labelled_csv, "--group-by", "camera")
    told = json.loads(run(*arguments, "--json").stdout)
    assert told["group_by"] == "camera"
    assert {name: group["n"] for name, group in told["groups"].items()} == {"new": 28, "old": 12}
    figures = {"n", "accuracy", "accuracy_ci95", "mean_class_accuracy", "macro_f1", "ece"}
    assert all(group.keys() == figures for group in told["groups"].values())
    right = sum(round(group["accuracy"] * group["n"]) for group in told["groups"].values())
    assert right == round(told["accuracy"] * told["n"])
    table = run(*arguments).stdout.splitlines()
    assert [line.split()[:2] for line in table if line.startswith(("camera", "new", "old"))] == [
        ["camera", "n"],
        ["new", "28"],
        ["old", "12"],
    ]


def test_groups_by_a_table_of_names(model: Path, mini_ferplus: Path, tmp_path: Path) -> None:
    names = load_ferplus(mini_ferplus, "valid").names
    table = tmp_path / "ages.csv"
    table.write_text(
        "name,age\n" + "".join(f"{name},{'child' if i < 5 else 'adult'}\n" for i, name in enumerate(names[:-3]))
    )
    told = json.loads(run(model, "--data", mini_ferplus, "--groups", table, "--group-by", "age", "--json").stdout)
    counts = {name: group["n"] for name, group in told["groups"].items()}
    assert counts == {"adult": len(names) - 8, "child": 5, "(none)": 3}


def test_groups_that_are_not_there(model: Path, mini_ferplus: Path, labelled_csv: Path) -> None:
    with pytest.raises(DatasetError, match="no column camara; it has path, label, split, camera"):
        run(model, "--data", labelled_csv, "--group-by", "camara")
    with pytest.raises(
        InputError, match=r"FERPlus has no columns; give a table with the columns name .or path. and age by --groups"
    ):
        run(model, "--data", mini_ferplus, "--group-by", "age")
    assert runner.invoke(app, [str(model), "--data", str(mini_ferplus), "--groups", "ages.csv"]).exit_code == 2


@pytest.mark.parametrize("option", ["--report", "--mistakes"])
def test_where_nothing_can_be_written(model: Path, mini_ferplus: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError):
        run(model, "--data", mini_ferplus, option, tmp_path / "file" / "x.png")
