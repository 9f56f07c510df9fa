"""The bundled presets against the published tables, written out here a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from tests.training.miniature import write_mini_photos
from training.data.ferplus import SPLITS
from training.data.locate import locate
from training.evaluation import load_classifier
from training.layer_decay import param_groups
from training.recipe import FinetuneTable, Recipe, bundled_recipes, load_recipe
from training.report import Report
from training.stages import run_recipe

# MIMIC (arXiv:2401.07245), section IV, and zfkarl/MIMIC at a3566b1: what differs between the two.
PAPER = {
    "epochs": 50,
    "optimizer": "adam",
    "weight_decay": 5e-4,
    "layer_decay": 0.65,
    "mixup_alpha": 2.0,
    "cutmix_alpha": 2.0,
    "label_smoothing": 0.0,
}
OFFICIAL_CODE = {
    "epochs": 100,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "layer_decay": 0.75,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "label_smoothing": 0.1,
}
BOTH = {
    "loss": "mscl",
    "votes": "majority",
    "split": "train+valid",
    "views": 2,
    "batch_size": 64,
    "warmup_epochs": 5,
    "min_lr": 5e-7,
    "betas": (0.9, 0.999),
    "clip_grad": None,
    "ema_decay": None,
    "global_pool": "avg",
    "projection": "mlp",
    "projection_dim": 512,
    "contrastive_weight": 0.1,
    "contrastive_temperature": 0.07,
    "contrastive_threshold": 0.5,
    "contrastive_anchor": "dominant",
    "mix_prob": 1.0,
}
AUGMENT = {
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (0.75, pytest.approx(4 / 3)),
    "hflip": 0.5,
    "jitter_p": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray_p": 0.2,
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHAPES = {"b16": (768, 12, 12), "l16": (1024, 24, 16)}
TABLE_I = {"b16": 89.74, "l16": 91.14}
INIT = {"b16": "timm:vit_base_patch16_224.mae", "l16": "timm:vit_large_patch16_224.mae"}


def picked(table: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(table, name) for name in names}


def finetune(recipe: Recipe) -> FinetuneTable:
    assert recipe.finetune is not None
    return recipe.finetune


def shape(recipe: Recipe) -> tuple[int, int, int]:
    config = recipe.model.vit_config()
    assert (config.img_size, config.patch_size, config.in_chans) == (224, 16, 3)
    return config.embed_dim, config.depth, config.num_heads


@pytest.mark.parametrize("size", ["b16", "l16"])
@pytest.mark.parametrize(("preset", "table"), [("paper", PAPER), ("official_code", OFFICIAL_CODE)])
def test_mimics_presets_are_the_published_tables(size: str, preset: str, table: dict[str, Any]) -> None:
    recipe = load_recipe(f"mimic/vit_{size}_ferplus_{preset}")
    stage = finetune(recipe)
    assert recipe.stages == ("finetune",)
    assert picked(stage, table) == table
    assert picked(stage, BOTH) == BOTH
    assert picked(stage.augment, AUGMENT) == AUGMENT
    changed = stage.augment.model_dump().items() - type(stage.augment)().model_dump().items()
    assert {name for name, _ in changed} == AUGMENT.keys()  # and nothing else moves
    assert stage.lr == pytest.approx(1e-4)
    assert shape(recipe) == SHAPES[size]
    assert recipe.model.drop_path_rate == 0.1
    assert (recipe.model.mean, recipe.model.std) == (((0.5,) * 3,) * 2 if preset == "official_code" else IMAGENET)
    assert recipe.seed == (42 if preset == "official_code" else 0)
    assert recipe.init == INIT[size]
    assert "CC-BY-NC" in recipe.weights_license
    assert recipe.expected is not None
    assert recipe.expected.ferplus_test_accuracy == TABLE_I[size]
    assert "Table I" in recipe.expected.source
    assert recipe.hardware
    assert stage.split in SPLITS


def test_layer_decay_of_the_paper_on_the_whole_model() -> None:
    """0.65^13 for the stem, 0.65^12 for block 0, ..., 0.65 for block 11, 1 for norm, head and projection."""
    recipe = load_recipe("mimic/vit_b16_ferplus_paper")
    stage = finetune(recipe)
    with torch.device("meta"):
        model = MimicClassifier(VisionTransformer(recipe.model.vit_config()), 8, projection_dim=stage.projection_dim)
    groups = param_groups(model, lr=stage.lr, weight_decay=stage.weight_decay, layer_decay=stage.layer_decay)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    rate_of = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert rate_of["encoder.pos_embed"] == pytest.approx(1e-4 * 0.65**13)
    assert rate_of["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(1e-4 * 0.65**12)
    assert rate_of["encoder.blocks.11.mlp.fc2.weight"] == pytest.approx(1e-4 * 0.65)
    assert rate_of["fc_norm.weight"] == rate_of["head.weight"] == rate_of["projection.net.0.weight"] == 1e-4


@pytest.mark.parametrize("size", ["b16", "l16"])
def test_maes_preset_is_the_published_recipe(size: str) -> None:
    recipe = load_recipe(f"mae/vit_{size}")
    stage = recipe.pretrain
    assert stage is not None
    assert recipe.stages == ("pretrain",)
    published = {
        "mask_ratio": 0.75,
        "norm_pix_loss": True,
        "epochs": 800,
        "warmup_epochs": 40,
        "batch_size": 4096,
        "base_lr": 1.5e-4,
        "min_lr": 0.0,
        "optimizer": "adamw",
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "clip_grad": None,
        "ema_decay": None,
        "decoder_embed_dim": 512,
        "decoder_depth": 8,
        "decoder_num_heads": 16,
    }
    assert picked(stage, published) == published
    assert stage.lr == pytest.approx(2.4e-3)
    moved = type(stage.augment)(crop_scale=(0.2, 1.0), crop_ratio=stage.augment.crop_ratio, hflip=0.5)
    assert stage.augment == moved
    assert stage.augment.crop_ratio == AUGMENT["crop_ratio"]
    assert shape(recipe) == SHAPES[size]
    assert (recipe.model.mean, recipe.model.std) == IMAGENET
    assert (recipe.model.interpolation, recipe.model.color_mode) == ("bicubic", "rgb")
    assert (recipe.model.drop_path_rate, recipe.init, recipe.expected) == (0.0, "scratch", None)


def changes(name: str) -> dict[str, Any]:
    """What a row sets otherwise than the paper's preset, by dotted name; words for people aside."""

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for key, value in values.items():
            rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return rows

    base = flat(load_recipe("mimic/vit_b16_ferplus_paper").model_dump())
    row = flat(load_recipe(f"ablations/{name}").model_dump())
    assert row.keys() == base.keys()
    return {key: value for key, value in row.items() if value != base[key] and key not in ("name", "summary")}


DEIT = "timm:deit_base_patch16_224.fb_in1k"
OWN = "research data: FER2013 pictures, FERPlus votes (MIT)"
FROM_DEIT = f"{OWN}; starts from DeiT's weights (Apache-2.0)"
SCRATCH = {"init": "scratch", "weights_license": OWN}
SUPERVISED = {"init": DEIT, "weights_license": FROM_DEIT}
CE = {"finetune.loss": "ce", "finetune.mix_prob": 0.0}
SCL = {"finetune.loss": "scl", "finetune.mix_prob": 0.0}
ROWS: dict[str, tuple[dict[str, Any], float | None]] = {
    "table2/scratch_ce": ({**SCRATCH, **CE}, None),
    "table2/scratch_scl": ({**SCRATCH, **SCL}, None),
    "table2/scratch_mscl": (SCRATCH, None),
    "table2/supervised_ce": ({**SUPERVISED, **CE}, 87.91),
    "table2/supervised_scl": ({**SUPERVISED, **SCL}, 88.06),
    "table2/supervised_mscl": (SUPERVISED, 88.21),
    "table2/mim_ce": (CE, 88.42),
    "table2/mim_scl": (SCL, 89.43),
    "table2/mim_mscl": ({}, 89.74),
    "table3/none": ({"finetune.projection": "none"}, 88.65),
    "table3/linear": ({"finetune.projection": "linear"}, 88.43),
    "table3/dense": ({}, 89.74),
    "table4/class_token": ({"finetune.global_pool": "token"}, 88.08),
    "table4/average": ({}, 89.74),
    **{f"fig6_projection_dim/{d}": ({"finetune.projection_dim": d}, None) for d in (64, 128, 256, 1024)},
    "fig6_projection_dim/512": ({}, None),
    **{
        f"fig6_batch_size/{b}": ({"finetune.batch_size": b, "finetune.base_lr": 1e-4 * 256 / b}, None)
        for b in (16, 32, 128)
    },
    "fig6_batch_size/64": ({}, None),
    **{f"fig6_contrastive_weight/{w}": ({"finetune.contrastive_weight": w}, None) for w in (0.01, 0.05, 0.5, 1.0)},
    "fig6_contrastive_weight/0.1": ({}, None),
    **{f"fig6_temperature/{t}": ({"finetune.contrastive_temperature": t}, None) for t in (0.03, 0.1, 0.3, 0.5)},
    "fig6_temperature/0.07": ({}, None),
}


def test_the_table_of_ablations_is_whole() -> None:
    bundled = {name.removeprefix("ablations/") for name in bundled_recipes() if name.startswith("ablations/")}
    assert {name for name in bundled if not name.startswith("table2_cpu/")} == ROWS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_an_ablation_changes_its_row_and_nothing_else(name: str) -> None:
    changed, figure = ROWS[name]
    assert changes(name) == pytest.approx(changed) if "batch" in name else changes(name) == changed
    recipe = load_recipe(f"ablations/{name}")
    assert (recipe.expected.ferplus_test_accuracy if recipe.expected else None) == figure
    assert finetune(recipe).lr == pytest.approx(1e-4)
    assert recipe.hardware


SHRUNK = ("model.img_size=32", "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "precision=fp32")


@pytest.mark.parametrize(
    "name",
    [
        "mimic/vit_b16_ferplus_paper",
        "mimic/vit_l16_ferplus_official_code",
        "ablations/table2/scratch_ce",
        "ablations/table2/mim_scl",
        "ablations/table3/none",
        "ablations/table4/class_token",
    ],
)
def test_a_preset_trains_when_it_is_shrunk(name: str, mini_ferplus: Path, tmp_path: Path) -> None:
    short = ("finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.batch_size=16", "finetune.limit=16")
    recipe = load_recipe(name, [*SHRUNK, *short])
    if recipe.init != "scratch":
        torch.save({"model": VisionTransformer(recipe.model.vit_config()).state_dict()}, tmp_path / "encoder.pth")
        recipe = load_recipe(name, [*SHRUNK, *short, f"init='{tmp_path / 'encoder.pth'}'"])
    run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))
    _, info = load_classifier(tmp_path / "run" / "finetune" / "last.safetensors")
    assert info.contract is not None
    assert (info.contract.color_mode, info.contract.in_chans) == ("gray", 3)
    assert info.contract.recipe_sha256 == recipe.sha256
    assert "expected" not in info.recipe


def test_maes_preset_trains_when_it_is_shrunk(tmp_path: Path) -> None:
    photos, _ = write_mini_photos(tmp_path / "photos", 8)
    short = [f"pretrain.{key}" for key in ("epochs=1", "warmup_epochs=0", "batch_size=8", "decoder_depth=1")]
    recipe = load_recipe("mae/vit_b16", [*SHRUNK, *short])
    run_recipe(recipe, locate([photos]), tmp_path / "run", Report(None))
    assert (tmp_path / "run" / "pretrain" / "last.safetensors").is_file()
