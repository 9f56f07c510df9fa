"""The bundled recipes of few labels against the published table, written out here a second time; and their commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from models.vit import VisionTransformer
from models.wide_resnet import WideResNet
from training.checkpoint import CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from training.cli import evaluate, train
from training.data.ferplus import load_ferplus
from training.evaluation import load_classifier
from training.margin_mix_table import MarginMixTable
from training.recipe import Recipe
from training.recipe_files import bundled_recipes, load_recipe

runner = CliRunner()
app = Typer()
app.command("train")(train)
app.command("eval")(evaluate)

# Accuracies in per cent: MixMatch, Margin-Mix.
PUBLISHED = {
    "ferplus": ("FERPlus", {320: (45.6, 50.7), 2000: (58.3, 60.8), 4000: (70.9, 75.2), 10000: (71.2, 81.2)}),
    "raf_db": ("RAF-DB", {320: (35.6, 40.6), 400: (42.3, 45.7), 1000: (60.4, 66.5), 4000: (65.2, 70.7)}),
}
ROWS = [
    (f"margin_mix/{data_set}_{labels}_{method}", title, labels, method, figure)
    for data_set, (title, rows) in PUBLISHED.items()
    for labels, (mixmatch, margin_mix) in rows.items()
    for method, figure in (("supervised", None), ("mixmatch", mixmatch), ("margin_mix", margin_mix))
]
# MixMatch-pytorch's settings.
MIXMATCH = {
    "split": "train",
    "epochs": 1024,
    "epoch_steps": 1024,
    "batch_size": 64,
    "lr": pytest.approx(0.002),
    "min_lr": 0.002,  # so it is constant
    "warmup_epochs": 0,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "ema_decay": 0.999,
    "views": 2,
    "sharpen_temperature": 0.5,
    "mix_alpha": 0.75,
    "guess_loss": "mse",
    "guess_weight": 75.0,
    "ramp": 1.0,
    "labels_seed": 0,
    "votes": "majority",
    "contempt": "keep",
}
OURS = {
    "fuzzifier": 2.0,
    "cluster_sizes": "labelled",
    "unlabelled_share": 0.5,
    "margin": 0.5,
    "margin_weight": 1.0,
    "cluster_faces": None,
}


def table_of(recipe: Recipe) -> MarginMixTable:
    assert isinstance(recipe.finetune, MarginMixTable)
    return recipe.finetune


@pytest.mark.parametrize(("name", "title", "labels", "method", "figure"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_the_published_one(name: str, title: str, labels: int, method: str, figure: float | None) -> None:
    recipe = load_recipe(name)
    table = table_of(recipe)
    settings = {**MIXMATCH, **OURS, "labels": labels, "method": method}
    assert {key: getattr(table, key) for key in settings} == settings
    assert (table.augment.hflip, table.augment.padding) == (0.5, "reflection")
    assert table.augment.translate * 48 == pytest.approx(4, abs=0.01)
    with torch.device("meta"):
        model = WideResNet(10, **{**recipe.model.wide_resnet_shape(), "in_chans": 3})
    assert sum(p.numel() for p in model.parameters()) == 1_467_610
    assert (recipe.model.backbone, recipe.model.img_size, recipe.model.wrn_bn_momentum) == ("wide_resnet", 48, 0.001)
    assert recipe.model.in_chans == (1 if title == "FERPlus" else 3)
    assert ("RAF-DB" in recipe.weights_license) == (title == "RAF-DB")
    if figure is None:
        assert recipe.expected is None
    else:
        assert recipe.expected is not None
        assert (recipe.expected.data_set, recipe.expected.split, recipe.expected.accuracy) == (title, "test", figure)
    assert "never run" in recipe.hardware


def test_there_are_no_other_rows() -> None:
    bundled = {name for name in bundled_recipes() if name.startswith("margin_mix/")}
    small = {f"margin_mix/cpu/{method}" for method in ("supervised", "mixmatch", "margin_mix")}
    assert bundled == {row[0] for row in ROWS} | small | {"margin_mix/debug"}


def test_the_three_small_ones_differ_by_their_method_alone() -> None:
    dumps = []
    for method in ("supervised", "mixmatch", "margin_mix"):
        recipe = load_recipe(f"margin_mix/cpu/{method}")
        assert table_of(recipe).method == method
        dump = recipe.model_dump()
        dumps.append({**dump, "name": "", "summary": "", "finetune": {**dump["finetune"], "method": ""}})
    assert dumps[0] == dumps[1] == dumps[2]


def test_the_digest_names_the_method_and_reads_back() -> None:
    recipe = load_recipe("margin_mix/debug")
    assert '"backbone": "wide_resnet"' in recipe.to_json()
    assert '"method": "margin_mix"' in recipe.to_json()
    assert Recipe.model_validate_json(recipe.to_json()) == recipe
    plain = load_recipe("debug")
    assert not any(word in plain.to_json() for word in ("backbone", "wrn_", '"mimic"'))
    assert Recipe.model_validate_json(plain.to_json()) == plain


def command(*arguments: str) -> Any:
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def training(data: Path, run: Path, *changes: str) -> list[str]:
    arguments = ["train", "margin_mix/debug", "--data", str(data), "--run-dir", str(run)]
    for change in ("finetune.labels=40", "finetune.batch_size=8", *changes):
        arguments += ["--set", change]
    return arguments


def test_commands_train_resume_and_score(mini_ferplus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = command(*training(mini_ferplus, run))
    assert told.stdout.strip() == str(run / "finetune" / "best.safetensors")
    assert "80 images, 2 epochs x 8 steps x 8 images of 3 views" in told.stderr
    names = (run / "finetune" / "labelled.txt").read_text().splitlines()
    assert len(names) == 40
    assert set(names) < set(load_ferplus(mini_ferplus, "train-main").names)
    assert "already done" in command(*training(mini_ferplus, run), "--resume").stderr

    png = tmp_path / "tsne.png"
    best = str(run / "finetune" / "best.safetensors")
    figures = json.loads(command("eval", best, "--data", str(mini_ferplus), "--tsne", str(png), "--json").stdout)
    assert figures["n"] == len(load_ferplus(mini_ferplus, "valid"))
    assert png.is_file()  # of the embeddings, which the head sees
    assert "was trained on train-main" in command("eval", best, "--data", str(mini_ferplus), "--split", "train").stderr


def test_it_learns_from_few_labels(mini_ferplus: Path, tmp_path: Path) -> None:
    changes = ("finetune.epochs=12", "finetune.split=train", "finetune.guess_weight=10.0", "finetune.batch_size=16")
    checkpoint = command(*training(mini_ferplus, tmp_path / "run", *changes)).stdout.strip()
    assert Path(checkpoint).name == "last.safetensors"  # nothing selects
    figures = json.loads(command("eval", checkpoint, "--data", str(mini_ferplus), "--split", "train", "--json").stdout)
    assert figures["accuracy"] > 0.4  # chance is 0.125


def test_a_transformer_starts_from_a_pretrained_encoder(mini_ferplus: Path, tmp_path: Path) -> None:
    """Any encoder of ours will do: here one of random weights, barely moved."""
    model = load_recipe("debug").model
    encoder = VisionTransformer(model.vit_config())
    start = tmp_path / "encoder.safetensors"
    save_checkpoint(
        start, encoder.state_dict(), CheckpointInfo(kind="encoder", architecture={"encoder": encoder.config.to_dict()})
    )
    vit = [
        f"model.{key}={getattr(model, key)}" for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    ]
    still = ("finetune.base_lr=1e-12", "finetune.min_lr=0.0", "finetune.layer_decay=0.75", "finetune.epochs=1")
    changes = (*vit, *still, "model.backbone=vit", f"init='{start}'")
    checkpoint = command(*training(mini_ferplus, tmp_path / "run", *changes)).stdout.strip()
    ours, _ = load_checkpoint(Path(checkpoint))
    name = "blocks.1.mlp.fc1.weight"
    torch.testing.assert_close(ours[f"encoder.{name}"], encoder.state_dict()[name], atol=1e-6, rtol=0)
    load_classifier(Path(checkpoint))
    assert read_info(Path(checkpoint)).architecture["projection"] == "none"
