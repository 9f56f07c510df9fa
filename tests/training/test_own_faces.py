"""The way of docs/own_faces.md in miniature: your own pictures and labels, fine-tuned, scored, exported, used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from export.cli import export
from fer_app.cli.predict import predict
from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.miniature import write_face, write_mini_folders
from training.checkpoint import bundled_checkpoint, load_checkpoint, read_info
from training.cli import evaluate, train
from training.evaluation import load_classifier
from training.recipe_files import load_recipe

RUNNER = CliRunner()
app = Typer()
for name, command in (("train", train), ("eval", evaluate), ("export", export), ("predict", predict)):
    app.command(name)(command)

MOODS = {"bored": "neutral", "delighted": "happiness", "startled": "surprise"}
COUNTS = {"bored": 20, "delighted": 10, "startled": 3}


def run(*arguments: object) -> tuple[str, str]:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def finetune(data: Path, folder: Path, *changes: str) -> tuple[Path, str]:
    settings = ("finetune.epochs=1", "finetune.warmup_epochs=0", *changes)
    overrides = [part for value in settings for part in ("--set", value)]
    stdout, stderr = run("train", "finetune", "--data", data, "--run-dir", folder, *overrides)
    return Path(stdout.strip()), stderr


def write_own(root: Path, counts: dict[str, int]) -> Path:
    """Write a folder a mood with so many pictures, in colour."""
    rng = np.random.default_rng(0)
    for mood, count in counts.items():
        for i in range(count):
            write_face(root / mood / f"{i}.jpg", MOODS[mood], rng, 90)
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Unequal classes of own names, the model of them, and what training told."""
    root = tmp_path_factory.mktemp("own")
    data = write_own(root / "moods", COUNTS)
    return data, *finetune(data, root / "run", "finetune.epochs=8", "finetune.batch_size=8", "init=bundled")


def test_the_recipe_is_of_the_bundled_models_network() -> None:
    recipe = load_recipe("finetune")
    assert recipe.model == load_recipe("mimic_hybrid_ferplus").model
    assert recipe.model.vit_config().to_dict() == read_info(bundled_checkpoint()).architecture["encoder"]
    assert recipe.init == "bundled"
    assert recipe.finetune is not None
    assert recipe.finetune.balanced


def test_own_labels_from_folders_to_predictions(own: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, model, told = own
    assert "head: new, as mimic_hybrid_ferplus.safetensors does not know bored, delighted, startled" in told
    info = read_info(model)
    assert info.contract is not None
    assert info.contract.labels == tuple(MOODS)
    figures = json.loads(run("eval", model, "--data", data, "--json")[0])
    assert {mood: row["n"] for mood, row in figures["per_class"].items()} == {"bored": 4, "delighted": 2, "startled": 1}
    assert figures["accuracy"] > 0.5  # of pictures it has not seen; chance is 0.33

    onnx = tmp_path / "mine.onnx"
    run("export", model, "-o", onnx)
    stdout, _ = run("predict", data / "delighted", "--model", onnx, "--no-detect", "--format", "jsonl")
    records = [json.loads(line) for line in stdout.splitlines()]
    assert len(records) == COUNTS["delighted"]
    assert [record["label"] for record in records].count("delighted") > 5
    assert list(records[0]["probs"]) == list(MOODS)


def test_a_table_does_as_well(own: tuple[Path, Path, str], tmp_path: Path) -> None:
    data = own[0]
    rows = [f"{path},{path.parent.name}" for path in sorted(data.rglob("*.jpg"))]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    info = read_info(finetune(table, tmp_path / "run")[0])
    assert info.contract is not None
    assert info.contract.labels == tuple(MOODS)


def test_known_labels_keep_the_head(tmp_path: Path) -> None:
    """With next to no learning rate the model is the bundled one, answering three of its eight classes."""
    names = {"surprised": "surprise", "happy": "happiness", "neutral": "neutral"}
    data = write_mini_folders(tmp_path / "data", names, 8)
    model, told = finetune(data, tmp_path / "run", "finetune.base_lr=1e-12", "finetune.min_lr=0", "precision=fp32")
    assert "head: that of mimic_hybrid_ferplus.safetensors, which knows all classes" in told
    info = read_info(model)
    assert info.contract is not None
    labels = info.contract.labels
    assert labels == ("neutral", "happiness", "surprise")
    ours, theirs = load_checkpoint(model)[0], load_checkpoint(bundled_checkpoint())[0]
    rows = [LABELS.index(label) for label in labels]
    assert torch.allclose(ours["head.weight"], theirs["head.weight"][rows], atol=1e-6)
    assert torch.allclose(ours["head.bias"], theirs["head.bias"][rows], atol=1e-6)
    assert torch.allclose(ours["fc_norm.weight"], theirs["fc_norm.weight"], atol=1e-6)
    again, _ = finetune(data, tmp_path / "again", f"init={model}", "finetune.base_lr=1e-12", "precision=fp32")
    projected = "projection.net.0.weight"  # which the bundled model need not have
    assert torch.allclose(load_checkpoint(again)[0][projected], ours[projected], atol=1e-6)
    fresh, told = finetune(data, tmp_path / "fresh", "finetune.keep_head=false", "finetune.base_lr=1e-12")
    assert "head:" not in told
    assert load_classifier(fresh)[0].head.weight.abs().max() < 1e-3


def test_a_head_from_elsewhere_needs_one_there(tmp_path: Path) -> None:
    data = write_mini_folders(tmp_path / "data", {"happy": "happiness", "neutral": "neutral"}, 6)
    told = finetune(data, tmp_path / "run", "init=scratch")[1]
    assert "head: new, as the weights come without one" in told
    # Another projection than the checkpoint's is no fault: only training uses it.
    told = finetune(data, tmp_path / "other", "finetune.projection_dim=16")[1]
    assert "head: that of" in told


def test_few_pictures_of_a_class_are_trained_on_first(tmp_path: Path) -> None:
    """Of one picture nothing is held out, of two one is valid, of three one is dev where there is one."""
    data = write_own(tmp_path / "few", {"bored": 12, "delighted": 2, "startled": 1})
    model = finetune(data, tmp_path / "run")[0]
    figures = json.loads(run("eval", model, "--data", data, "--split", "valid", "--json")[0])
    assert [row["n"] for row in figures["per_class"].values()] == [2, 1, 0]
    figures = json.loads(run("eval", model, "--data", data, "--split", "train", "--json")[0])
    assert [row["n"] for row in figures["per_class"].values()] == [10, 1, 1]


def test_one_picture_a_class_is_trained_on_and_cannot_be_scored(tmp_path: Path) -> None:
    data = write_own(tmp_path / "one", {"bored": 1, "delighted": 1})
    model = finetune(data, tmp_path / "run")[0]
    with pytest.raises(DatasetError, match="no face belongs to valid: a class needs two pictures"):
        run("eval", model, "--data", data)
    with pytest.raises(DatasetError, match=r"belongs to dev.*--set finetune\.split=train"):
        finetune(data, tmp_path / "other", "finetune.split=train-main")
    assert not (tmp_path / "other" / "recipe.json").exists()


def test_a_dev_part_may_choose(tmp_path: Path) -> None:
    data = write_own(tmp_path / "few", {"bored": 12, "delighted": 3, "startled": 2})
    model = finetune(data, tmp_path / "run", "finetune.split=train-main")[0]
    assert model.name == "best.safetensors"
    figures = json.loads(run("eval", model, "--data", data, "--split", "dev", "--json")[0])
    assert [row["n"] for row in figures["per_class"].values()] == [1, 1, 0]
