"""The bundled presets against the published tables, written out here a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fer_app.errors import DatasetError
from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from tests.training.miniature import write_mini_photos
from training.checkpoint import read_info
from training.data.locate import locate
from training.evaluation import load_classifier
from training.layer_decay import param_groups
from training.recipe import FinetuneTable, Recipe
from training.recipe_files import bundled_recipes, load_recipe
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
    "views": 2,
    "min_lr": 5e-7,
    "betas": (0.9, 0.999),
    "clip_grad": None,
    "ema_decay": None,
    "global_pool": "avg",
    "projection": "mlp",
    "contrastive_weight": 0.1,
    "contrastive_temperature": 0.07,
    "contrastive_threshold": 0.5,
    "contrastive_anchor": "dominant",
    "mix_prob": 1.0,
    "class_weights": "none",
    "train_share": 1.0,
}
# What a data set changes, and what the paper and the code set otherwise on it.
SETS: dict[str, dict[str, Any]] = {
    "ferplus": {"split": "train+valid", "contempt": "keep", "balanced": False, "projection_dim": 512},
    "raf_db": {"split": "train", "contempt": "keep", "balanced": False, "projection_dim": 128},
    "affectnet7": {"split": "train", "contempt": "drop", "balanced": True, "projection_dim": 512},
    "affectnet8": {"split": "train", "contempt": "keep", "balanced": True, "projection_dim": 512},
}
STEPS = {"batch_size": 64, "warmup_epochs": 5, "lr": pytest.approx(1e-4)}
ON_AFFECTNET: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 10, "warmup_epochs": 0},
    "official_code": {"epochs": 3, "batch_size": 128, "warmup_epochs": 0, "lr": pytest.approx(2.5e-5)},
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
# Table I of the paper, in per cent; it has no AffectNet of eight classes.
TABLE_I = {
    ("b16", "ferplus"): 89.74,
    ("b16", "raf_db"): 89.02,
    ("b16", "affectnet7"): 65.35,
    ("l16", "ferplus"): 91.14,
    ("l16", "raf_db"): 91.26,
    ("l16", "affectnet7"): 65.62,
}
SCORED = {"ferplus": ("FERPlus", "test"), "raf_db": ("RAF-DB", "test"), "affectnet7": ("AffectNet-7", "valid")}
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


def figure_of(recipe: Recipe, data_set: str) -> float | None:
    """The expected accuracy, of the right part of the right set."""
    if recipe.expected is None:
        return None
    assert (recipe.expected.data_set, recipe.expected.split) == SCORED[data_set]
    return recipe.expected.accuracy


@pytest.mark.parametrize("size", ["b16", "l16"])
@pytest.mark.parametrize("data_set", SETS)
@pytest.mark.parametrize(("preset", "table"), [("paper", PAPER), ("official_code", OFFICIAL_CODE)])
def test_mimics_presets_are_the_published_tables(size: str, data_set: str, preset: str, table: dict[str, Any]) -> None:
    recipe = load_recipe(f"mimic/vit_{size}_{data_set}_{preset}")
    stage = finetune(recipe)
    assert recipe.stages == ("finetune",)
    published = {**table, **BOTH, **STEPS, **SETS[data_set]}
    if data_set.startswith("affectnet"):
        published |= ON_AFFECTNET[preset]
    if preset == "official_code":
        published["projection_dim"] = 512  # fixed in the code
    assert picked(stage, published) == published
    assert picked(stage.augment, AUGMENT) == AUGMENT
    changed = stage.augment.model_dump().items() - type(stage.augment)().model_dump().items()
    assert {name for name, _ in changed} == AUGMENT.keys()  # and nothing else moves
    assert shape(recipe) == SHAPES[size]
    assert recipe.model.color_mode == ("gray" if data_set == "ferplus" else "rgb")
    assert recipe.model.drop_path_rate == 0.1
    assert (recipe.model.mean, recipe.model.std) == (((0.5,) * 3,) * 2 if preset == "official_code" else IMAGENET)
    assert recipe.seed == (42 if preset == "official_code" else 0)
    assert recipe.init == INIT[size]
    assert "CC-BY-NC" in recipe.weights_license
    assert {"raf_db": "RAF-DB", "ferplus": "FERPlus"}.get(data_set, "AffectNet") in recipe.weights_license
    assert figure_of(recipe, data_set) == TABLE_I.get((size, data_set))
    assert recipe.expected is None or "Table I" in recipe.expected.source
    assert "never run" in recipe.hardware


def test_there_are_no_other_presets_of_mimic() -> None:
    names = {f"mimic/vit_{size}_{s}_{preset}" for size in SHAPES for s in SETS for preset in ("paper", "official_code")}
    assert {name for name in bundled_recipes() if name.startswith("mimic/")} == names


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


def flat(recipe: Recipe) -> dict[str, Any]:
    """A recipe's values by dotted name."""

    def rows(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= rows(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    return rows(recipe.model_dump())


def changes(name: str, base: str) -> dict[str, Any]:
    """What a row sets otherwise than its preset, by dotted name; words for people aside."""
    below, row = flat(load_recipe(base)), flat(load_recipe(f"ablations/{name}"))
    assert below.keys() <= row.keys()
    return {key: value for key, value in row.items() if value != below.get(key) and key not in ("name", "summary")}


OWN = {
    "ferplus": "research data: FER2013 pictures, FERPlus votes (MIT)",
    "raf_db": "research data: RAF-DB pictures",
    "affectnet7": "research data: AffectNet pictures",
}
DEIT = "timm:deit_base_patch16_224.fb_in1k"
CE = {"finetune.loss": "ce", "finetune.mix_prob": 0.0}
SCL = {"finetune.loss": "scl", "finetune.mix_prob": 0.0}
LOSSES = {"ce": CE, "scl": SCL, "mscl": {}}
# Tables II to V of the paper: RAF-DB, FERPlus, AffectNet.
TABLES: dict[str, tuple[float, float, float] | None] = {
    "table2/scratch_ce": None,
    "table2/scratch_scl": None,
    "table2/scratch_mscl": None,
    "table2/supervised_ce": (87.33, 87.91, 60.05),
    "table2/supervised_scl": (87.52, 88.06, 63.10),
    "table2/supervised_mscl": (87.60, 88.21, 63.62),
    "table2/mim_ce": (88.14, 88.42, 65.05),
    "table2/mim_scl": (88.87, 89.43, 65.26),
    "table2/mim_mscl": (89.02, 89.74, 65.35),
    "table3/none": (87.68, 88.65, 65.14),
    "table3/linear": (87.18, 88.43, 64.62),
    "table3/dense": (89.02, 89.74, 65.35),
    "table4/class_token": (86.38, 88.08, 63.67),
    "table4/average": (89.02, 89.74, 65.35),
    "table5/faces_mscl": (86.18, 87.35, 61.62),
    "table5/general_mscl": (89.02, 89.74, 65.35),
    "table5/both_mscl": None,
}
PRETRAINED = {"general": ("general",), "faces": ("faces",), "both": ("general", "faces")}


def row_of(cell: str, data_set: str) -> dict[str, Any]:
    """What a cell of Tables II to V changes."""
    table, _, name = cell.partition("/")
    if table == "table3":
        return {"dense": {}}.get(name, {"finetune.projection": name})
    if table == "table4":
        return {"class_token": {"finetune.global_pool": "token"}, "average": {}}[name]
    start, _, loss = name.partition("_")
    if table == "table5":
        return {"init": f"recipe:{start}", "weights_license": f"that of the photos; {OWN[data_set]}"}
    starts = {
        "scratch": {"init": "scratch", "weights_license": OWN[data_set]},
        "supervised": {
            "init": DEIT,
            "weights_license": f"{OWN[data_set]}; starts from DeiT's weights (Apache-2.0)",
        },
        "mim": {},
    }
    return {**starts[start], **LOSSES[loss]}


def folder_of(cell: str, data_set: str) -> str:
    table, _, name = cell.partition("/")
    return f"{table}/{name}" if data_set == "ferplus" else f"{table}_{data_set}/{name}"


ROWS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    folder_of(cell, data_set): (data_set, row_of(cell, data_set), figures[column] if figures else None)
    for cell, figures in TABLES.items()
    for column, data_set in enumerate(("raf_db", "ferplus", "affectnet7"))
}
FIG_6: dict[str, tuple[str, dict[str, Any], float | None]] = {
    **{f"fig6_projection_dim/{d}": ("ferplus", {"finetune.projection_dim": d}, None) for d in (64, 128, 256, 1024)},
    "fig6_projection_dim/512": ("ferplus", {}, None),
    **{
        f"fig6_projection_dim_raf_db/{d}": ("raf_db", {"finetune.projection_dim": d}, None)
        for d in (64, 256, 512, 1024)
    },
    "fig6_projection_dim_raf_db/128": ("raf_db", {}, None),
    **{
        f"fig6_batch_size/{b}": ("ferplus", {"finetune.batch_size": b, "finetune.base_lr": 1e-4 * 256 / b}, None)
        for b in (16, 32, 128)
    },
    "fig6_batch_size/64": ("ferplus", {}, None),
    **{
        f"fig6_contrastive_weight/{w}": ("ferplus", {"finetune.contrastive_weight": w}, None)
        for w in (0.01, 0.05, 0.5, 1.0)
    },
    "fig6_contrastive_weight/0.1": ("ferplus", {}, None),
    **{
        f"fig6_temperature/{t}": ("ferplus", {"finetune.contrastive_temperature": t}, None)
        for t in (0.03, 0.1, 0.3, 0.5)
    },
    "fig6_temperature/0.07": ("ferplus", {}, None),
}
ROWS |= FIG_6


def test_the_table_of_ablations_is_whole() -> None:
    bundled = {name.removeprefix("ablations/") for name in bundled_recipes() if name.startswith("ablations/")}
    encoders = {folder_of(f"table5/{kind}", data_set) for kind in PRETRAINED for data_set in OWN}
    small = ("table2_cpu/", "hybrid_cpu/")
    assert {name for name in bundled if not name.startswith(small)} == ROWS.keys() | encoders


@pytest.mark.parametrize("name", ROWS)
def test_an_ablation_changes_its_row_and_nothing_else(name: str) -> None:
    data_set, changed, figure = ROWS[name]
    found = changes(name, f"mimic/vit_b16_{data_set}_paper")
    assert found == pytest.approx(changed) if "batch" in name else found == changed
    recipe = load_recipe(f"ablations/{name}")
    assert figure_of(recipe, data_set) == figure
    if recipe.expected is not None:
        roman = {"2": "II", "3": "III", "4": "IV", "5": "V"}[name[len("table")]]
        assert recipe.expected.source == f"MIMIC Table {roman}"
    assert finetune(recipe).lr == pytest.approx(1e-4)
    assert recipe.hardware


@pytest.mark.parametrize("data_set", OWN)
@pytest.mark.parametrize("kind", PRETRAINED)
def test_the_encoders_of_table_v_differ_by_their_photos_alone(kind: str, data_set: str) -> None:
    name = folder_of(f"table5/{kind}", data_set)
    assert changes(name, "mae/vit_b16") == {"pretrain.photos_from": PRETRAINED[kind]}
    cell = load_recipe(f"ablations/{name}_mscl")
    assert cell.model.vit_config() == load_recipe(f"ablations/{name}").model.vit_config()


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
        "mimic/vit_b16_affectnet7_paper",
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
    assert (info.contract.color_mode, info.contract.in_chans) == (recipe.model.color_mode, 3)
    assert info.contract.recipe_sha256 == recipe.sha256
    assert "expected" not in info.recipe


def test_maes_preset_trains_when_it_is_shrunk(tmp_path: Path) -> None:
    photos, _ = write_mini_photos(tmp_path / "photos", 8)
    short = [f"pretrain.{key}" for key in ("epochs=1", "warmup_epochs=0", "batch_size=8", "decoder_depth=1")]
    recipe = load_recipe("mae/vit_b16", [*SHRUNK, *short])
    run_recipe(recipe, locate([photos]), tmp_path / "run", Report(None))
    assert (tmp_path / "run" / "pretrain" / "last.safetensors").is_file()


def test_table_vs_encoders_take_the_photos_of_their_folder(tmp_path: Path) -> None:
    for kind, n in (("general", 8), ("faces", 12)):
        write_mini_photos(tmp_path / kind, n)[1].unlink()
    short = [*SHRUNK, "pretrain.epochs=1", "pretrain.warmup_epochs=0", "pretrain.batch_size=4"]
    short += ["pretrain.decoder_depth=1", "pretrain.decoder_embed_dim=16", "pretrain.decoder_num_heads=2"]
    data = locate([tmp_path / "general", tmp_path / "faces"])
    for kind, n in (("general", 8), ("faces", 12), ("both", 20)):
        run_recipe(load_recipe(f"ablations/table5/{kind}", short), data, tmp_path / "runs" / kind, Report(None))
        info = read_info(tmp_path / "runs" / kind / "pretrain" / "last.safetensors")
        assert info.counters["steps"] == n // 4
    with pytest.raises(DatasetError, match="no photos in a folder named faces"):
        run_recipe(load_recipe("ablations/table5/both", short), locate([tmp_path / "general"]), tmp_path, Report(None))
