"""The recipes of PLL-FER against its published tables, written out here a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.vit import VisionTransformer
from tests.training.miniature import write_mini_raf_db
from training.checkpoint import load_checkpoint
from training.data.locate import locate
from training.evaluation import load_classifier
from training.recipe import FinetuneTable, PretrainTable, Recipe
from training.recipe_files import bundled_recipes, load_recipe
from training.report import Report
from training.stages import run_recipe
from training.sweep_cells import plan

# Tables 3 and 4: RAF-DB, AffectNet-7.
TABLES = {
    "table3_baseline": (88.36, 64.61),
    "table3_pixel": (89.64, 65.25),
    "table3_hog": (89.85, 65.31),
    "table3_pixel_pll": (90.09, 65.97),
    "table3_hog_pll": (90.35, 66.12),
    "table4_decoder": (91.29, 66.67),
    "table4_uniform": (91.64, 66.90),
    "table4_revision": (91.89, 66.93),
    "table4_both": (92.05, 67.11),
}
TABLE_1 = {
    "raf_db": ("RAF-DB", "test", 92.05),
    "ferplus": ("FERPlus", "test", 91.11),
    "affectnet7": ("AffectNet-7", "valid", 67.11),
    "affectnet8": ("AffectNet-8", "valid", 64.12),
}
FOLDERS = {"tables_raf_db": "raf_db", "tables_affectnet7": "affectnet7", "tables_cpu": None}
PRETRAINING: dict[str, Any] = {
    "method": "hog",
    "images": ("faces",),
    "split": "train",
    "mask_ratio": 0.4,
    "hog_cell_px": 8,
    "hog_gaussian_window": 0,
    "epochs": 600,
    "warmup_epochs": 30,
    "batch_size": 192,
    "lr": pytest.approx(2e-4),
    "weight_decay": 0.05,
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    "clip_grad": 0.02,
    "decoder_embed_dim": 512,
    "decoder_depth": 8,
    "decoder_num_heads": 16,
}
FINETUNING: dict[str, Any] = {
    "batch_size": 320,
    "lr": pytest.approx(1e-4),
    "weight_decay": 0.05,
    "optimizer": "adamw",
    "split": "train",
    "views": 1,
    "mix_prob": 0.0,
    "layer_decay": 0.65,
}


def picked(table: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(table, name) for name in names}


def pretraining(recipe: Recipe) -> PretrainTable:
    assert recipe.pretrain is not None
    return recipe.pretrain


def finetuning(recipe: Recipe) -> FinetuneTable:
    assert recipe.finetune is not None
    return recipe.finetune


def test_the_recipes_are_whole() -> None:
    found = {name.removeprefix("pll/") for name in bundled_recipes() if name.startswith("pll/")}
    cells = {f"{folder}/{cell}" for folder in FOLDERS for cell in (*TABLES, "mim_hog", "mim_pixel")}
    assert found == cells | {f"vit_b16_{name}" for name in TABLE_1} | {"tiny_ferplus"}


@pytest.mark.parametrize("name", TABLE_1)
def test_the_presets_are_the_published_settings(name: str) -> None:
    recipe = load_recipe(f"pll/vit_b16_{name}")
    data_set, split, accuracy = TABLE_1[name]
    assert recipe.expected is not None
    assert (recipe.expected.data_set, recipe.expected.split, recipe.expected.accuracy) == (data_set, split, accuracy)
    assert "Table 1" in recipe.expected.source
    assert "never run" in recipe.hardware
    assert (recipe.stages, recipe.init) == (("pretrain", "finetune"), "scratch")
    config = recipe.model.vit_config()
    assert (config.img_size, config.patch_size, config.in_chans) == (224, 16, 3)
    assert (config.embed_dim, config.depth, config.num_heads) == (768, 12, 12)
    assert recipe.model.color_mode == ("gray" if name == "ferplus" else "rgb")
    assert picked(pretraining(recipe), PRETRAINING) == PRETRAINING
    stage = finetuning(recipe)
    assert picked(stage, FINETUNING) == FINETUNING
    assert stage.loss == "pll"
    labels = stage.partial_labels
    assert (stage.votes, labels.flip_probability) == (("shares", 0.0) if name == "ferplus" else ("majority", 0.1))
    assert (labels.revision, labels.threshold) == ("one_hot", 0.2)
    decoder = stage.label_decoder
    assert decoder is not None
    assert (decoder.depth, decoder.num_heads, decoder.ffn_dim, decoder.dropout) == (2, 8, 2048, 0.1)
    assert (decoder.uniform_weight, decoder.uniform_temperature) == (0.1, 0.1)
    assert stage.contempt == ("drop" if name == "affectnet7" else "keep")
    assert stage.balanced == name.startswith("affectnet")
    assert {"raf_db": "RAF-DB", "ferplus": "FERPlus"}.get(name, "AffectNet") in recipe.weights_license


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_cell_is_its_row_and_nothing_else(folder: str) -> None:
    recipes = {cell: load_recipe(f"pll/{folder}/{cell}") for cell in TABLES}
    for cell, recipe in recipes.items():
        stage, data_set = finetuning(recipe), FOLDERS[folder]
        if data_set is None:
            assert recipe.expected is None
        else:
            assert recipe.expected is not None
            assert recipe.expected.accuracy == TABLES[cell][data_set != "raf_db"]
            assert (recipe.expected.data_set, recipe.expected.split) == TABLE_1[data_set][:2]
            assert recipe.expected.source == f"PLL-FER Table {cell[5]}"
        row = cell.partition("_")[2]
        init = {"baseline": None, "pixel": "recipe:mim_pixel", "pixel_pll": "recipe:mim_pixel"}
        assert init.get(row, "recipe:mim_hog") in (None, recipe.init)
        assert stage.loss == ("ce" if row in ("baseline", "pixel", "hog") else "pll")
        assert (
            stage.partial_labels.revision == ("one_hot" if row in ("revision", "both") else "none") or stage.pll is None
        )
        assert (stage.label_decoder is not None) == cell.startswith("table4")
        if stage.label_decoder is not None:
            assert stage.label_decoder.uniform_weight == (0.1 if row in ("uniform", "both") else 0.0)
        same = {"epochs", "batch_size", "base_lr", "weight_decay", "augment", "train_share", "views", "balanced"}
        plain = finetuning(recipes["table3_baseline"])
        assert picked(stage, dict.fromkeys(same)) == picked(plain, dict.fromkeys(same))
        assert recipe.model == recipes["table3_baseline"].model
    assert recipes["table3_baseline"].init == (
        "scratch" if folder == "tables_cpu" else "timm:deit_base_patch16_224.fb_in1k"
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_encoders_differ_by_what_they_predict(folder: str) -> None:
    hog, pixel = (pretraining(load_recipe(f"pll/{folder}/mim_{kind}")) for kind in ("hog", "pixel"))
    assert (hog.method, pixel.method) == ("hog", "mae")
    assert hog == pixel.model_copy(update={"method": "hog"})
    if folder != "tables_cpu":
        assert picked(hog, PRETRAINING) == PRETRAINING
    assert len(plan(f"pll/{folder}", Path("out"), 1)) == 11


def test_the_small_recipe_is_the_small_tables() -> None:
    recipe, cell = load_recipe("pll/tiny_ferplus"), load_recipe("pll/tables_cpu/table4_both")
    assert recipe.pretrain == load_recipe("pll/tables_cpu/mim_hog").pretrain
    assert finetuning(recipe) == finetuning(cell).model_copy(update={"train_share": 1.0})
    assert recipe.model == cell.model


SHRUNK = ("model.img_size=32", "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "precision=fp32")
SHORT = ("finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.batch_size=7", "pretrain.epochs=1")
SHORT_DECODER = ("finetune.label_decoder.ffn_dim=16",)


@pytest.mark.parametrize("name", ["vit_b16_raf_db", "tables_raf_db/table3_hog_pll", "tables_raf_db/table4_uniform"])
def test_a_preset_trains_when_it_is_shrunk(name: str, tmp_path: Path) -> None:
    data = locate([write_mini_raf_db(tmp_path / "data", per_class=3)])
    short = [*SHRUNK, *SHORT, "pretrain.warmup_epochs=0", "pretrain.batch_size=7", "pretrain.decoder_depth=1"]
    if not name.startswith("vit"):
        short = [value for value in short if not value.startswith("pretrain")]
        encoder = VisionTransformer(load_recipe(f"pll/{name}", short).model.vit_config())
        torch.save({"model": encoder.state_dict()}, tmp_path / "encoder.pth")
        short.append(f"init='{tmp_path / 'encoder.pth'}'")
    if "table3" not in name:
        short += SHORT_DECODER
    recipe = load_recipe(f"pll/{name}", short)
    made = run_recipe(recipe, data, tmp_path / "run", Report(None))
    model, info = load_classifier(made)
    assert info.contract is not None
    assert len(info.contract.labels) == 7
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert ("decoder.queries" in load_checkpoint(made)[0]) == ("table3" not in name)
