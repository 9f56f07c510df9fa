"""The recipes of MoCo v3 and MimCo that come with the program: published settings, and that each trains."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from models.vit import VisionTransformer
from tests.training.miniature import write_mini_shards
from training.checkpoint import read_info
from training.data.locate import locate
from training.recipe import Recipe
from training.recipe_files import load_recipe
from training.report import Report
from training.stages import run_recipe


@pytest.mark.parametrize(
    ("name", "batch", "shape"),
    [("moco_v3/vit_s16", 1024, (384, 12, 12)), ("moco_v3/vit_b16", 4096, (768, 12, 12))],
)
def test_moco_v3s_published_settings(name: str, batch: int, shape: tuple[int, int, int]) -> None:
    """facebookresearch/moco-v3 at c349e6e, CONFIG.md's commands for vision transformers."""
    recipe = load_recipe(name)
    table = recipe.pretrain
    assert table is not None
    assert table.lr == pytest.approx(1.5e-4 * batch / 256)
    assert (table.batch_size, table.epochs, table.warmup_epochs) == (batch, 300, 40)
    assert (table.optimizer, table.weight_decay, table.betas, table.min_lr) == ("adamw", 0.1, (0.9, 0.999), 0.0)
    moco_v3 = table.moco
    assert (moco_v3.mlp_dim, moco_v3.out_dim, moco_v3.temperature, moco_v3.momentum) == (4096, 256, 0.2, 0.99)
    assert (moco_v3.momentum_schedule, moco_v3.freeze_patch_embed, moco_v3.solarize_p) == ("cosine", True, 0.2)
    second = moco_v3.second_augment
    assert second is not None
    for spec, blur in ((table.augment, 1.0), (second, 0.1)):
        assert (spec.crop_scale, spec.hflip, spec.gray_p, spec.jitter_p) == ((0.08, 1.0), 0.5, 0.2, 0.8)
        assert (spec.brightness, spec.contrast, spec.saturation, spec.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (spec.blur_p, spec.blur_sigma_px) == (blur, (0.1, 2.0))
    config = recipe.model.vit_config()
    assert (config.embed_dim, config.depth, config.num_heads) == shape
    assert "never run" in recipe.hardware


def test_tables_of_other_methods_leave_older_digests_as_they_are() -> None:
    text = load_recipe("mimic_tiny_ferplus").to_json()
    assert "moco" not in text
    assert "mimco" not in text
    recipe = load_recipe("debug", ['stages=["pretrain"]', "pretrain.method=moco_v3", "pretrain.moco.mlp_dim=32"])
    assert Recipe.model_validate_json(recipe.to_json()) == recipe
    assert '"mlp_dim": 32' in recipe.to_json()


SHRUNK = [f"model.{key}" for key in ("img_size=32", "embed_dim=16", "depth=1", "num_heads=2")]


@pytest.mark.parametrize("name", ["moco_v3/vit_s16", "moco_v3/tiny_cpu", "mimco/vit_s16", "mimco/tiny_cpu"])
def test_a_recipe_trains_when_it_is_shrunk(name: str, mini_ferplus: Path, tmp_path: Path) -> None:
    short = ["pretrain.epochs=1", "pretrain.warmup_epochs=0", "pretrain.batch_size=8", "pretrain.limit=8"]
    changes = [*SHRUNK, *short, "precision=fp32"]
    data = mini_ferplus
    if name.endswith("vit_s16"):
        write_mini_shards(tmp_path / "photos", [8], side_px=40)
        data = tmp_path / "photos"
    if name.startswith("mimco"):
        recipe = load_recipe(name, changes)
        save_file(VisionTransformer(recipe.model.vit_config()).state_dict(), tmp_path / "teacher.safetensors")
        block = recipe.model.patch_size
        changes += [f"pretrain.mimco.teacher={tmp_path / 'teacher.safetensors'}"]
        changes += [f"pretrain.mimco.mask_block_px={block}"]
    made = run_recipe(load_recipe(name, changes), locate([data]), tmp_path / "run", Report(None))
    assert read_info(made).counters["steps"] == 1


def test_the_small_comparison_differs_by_its_methods_alone() -> None:
    recipes = {name: load_recipe(f"pretraining_cpu/{name}") for name in ("moco_v3", "mimco", "mae")}
    assert len({recipe.model.vit_config() for recipe in recipes.values()}) == 1
    assert {recipe.pretrain.images for recipe in recipes.values() if recipe.pretrain} == {("faces",)}
    assert recipes["mimco"].starts_from == "moco_v3"
