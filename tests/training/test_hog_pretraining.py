"""Masked HOG as a way of pre-training beside MAE: its encoder, its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fer_app.errors import ConfigError
from fer_app.image_io import read_image
from models.hog import HogAutoencoder, hog_targets
from models.vit import VisionTransformer
from tests.training.masked_step import step_of
from tests.training.miniature import write_mini_photos
from training.checkpoint import load_checkpoint, read_info
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.hog_pictures import glyphs
from training.hog_pretraining import HogPretraining
from training.recipe_files import load_recipe
from training.report import Report
from training.stages import run_recipe

HOG = ["pretrain.method=hog", "pretrain.hog_cell_px=4", "pretrain.mask_ratio=0.4"]
ALL_LOSSES = {
    "ce": ["finetune.loss=ce"],
    "scl": ["finetune.loss=scl", "finetune.mix_prob=0.0"],
    "mscl": ["finetune.loss=mscl"],
    "pll": ["finetune.loss=pll", "finetune.votes=shares", "finetune.views=1", "finetune.mix_prob=0.0"],
}


@pytest.fixture(scope="module")
def encoders(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each method's pre-training leaves."""
    root = tmp_path_factory.mktemp("encoders")
    found = {}
    for method, changes in (("mae", []), ("hog", HOG)):
        recipe = load_recipe("debug", ['stages=["pretrain"]', *changes])
        found[method] = run_recipe(recipe, locate([mini_ferplus]), root / method, Report(None))
    return found


def test_encoders_differ_by_their_values_alone(encoders: dict[str, Path]) -> None:
    (mae, mae_info), (hog, hog_info) = (load_checkpoint(encoders[method]) for method in ("mae", "hog"))
    assert {name: t.shape for name, t in hog.items()} == {name: t.shape for name, t in mae.items()}
    assert hog_info.kind == mae_info.kind == "encoder"
    assert hog_info.architecture == mae_info.architecture
    assert hog_info.recipe["pretrain"]["method"] == "hog"
    assert "hog_cell_px" not in mae_info.recipe["pretrain"]  # so that the digests of older recipes hold
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(hog[name], mae[name])


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("method", ["mae", "hog"])
def test_any_finetuning_starts_from_any_pretraining(
    encoders: dict[str, Path], mini_ferplus: Path, tmp_path: Path, method: str, loss: str
) -> None:
    changes = ['stages=["finetune"]', "finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.base_lr=1e-9"]
    recipe = load_recipe("debug", [*changes, f"init='{encoders[method]}'", *ALL_LOSSES[loss]])
    made = run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))
    name = "blocks.0.attn.qkv.weight"
    assert read_info(made).kind == "classifier"
    torch.testing.assert_close(load_checkpoint(made)[0][f"encoder.{name}"], load_checkpoint(encoders[method])[0][name])


def test_the_loss_is_that_of_the_network_on_augmented_faces(mini_ferplus: Path) -> None:
    recipe = load_recipe("debug", HOG)
    assert recipe.pretrain is not None
    target = HogPretraining(recipe, recipe.pretrain, load_ferplus(mini_ferplus, "train-main").images, None)
    assert isinstance(target.model, HogAutoencoder)
    assert (target.model.cell_px, target.model.mask_ratio, target.draws_a_sample) == (4, 0.4, 36)
    loss, images, pred, mask = step_of(target)
    errors = (pred - hog_targets(images, 8, 4)).square().mean(dim=2)
    torch.testing.assert_close(loss, errors[mask.bool()].mean())
    assert int(mask.sum()) == 8 * (36 - 21)


def test_photos_are_taken_too(tmp_path: Path) -> None:
    photos, _ = write_mini_photos(tmp_path / "photos", 8)
    changes = ['stages=["pretrain"]', 'pretrain.images=["photos"]', "pretrain.batch_size=4"]
    made = run_recipe(load_recipe("debug", [*HOG, *changes]), locate([photos]), tmp_path / "run", Report(None))
    assert read_info(made).counters["steps"] == 2


def test_cells_that_do_not_fit_are_told(mini_ferplus: Path, tmp_path: Path) -> None:
    recipe = load_recipe("debug", [*HOG, "pretrain.hog_cell_px=5"])
    with pytest.raises(ConfigError, match="HOG cells of 5 px"):
        run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))


# --- pictures -------------------------------------------------------------------------------------------------------


def network() -> HogAutoencoder:
    return HogAutoencoder(VisionTransformer(load_recipe("debug").model.vit_config()), 32, 1, 2, cell_px=4)


@pytest.mark.parametrize("upright", [True, False])
def test_a_cell_shows_its_edge(upright: bool) -> None:
    """A line along it: upright for an upright edge, level for a level one."""
    images = torch.zeros(1, 1, 48, 48)
    images[..., 25:] = 1.0
    if not upright:
        images = images.transpose(2, 3)
    model = network()
    drawn = glyphs(model.target(images), model)
    assert drawn.shape == (1, 144, 144, 1)
    picture = drawn[0, :, :, 0] if upright else drawn[0, :, :, 0].T
    edge = picture[:, 72:84].astype(float)  # the cells from 24 px on
    assert picture[:, :72].max() == picture[:, 84:].max() == 0
    across, along = edge.sum(axis=0), edge.reshape(12, 12, 12).sum(axis=(0, 2))
    assert across.max() > 3 * along.max() / 2
    assert across.argmax() in (5, 6)
    assert along.min() > 0


def test_pictures_are_drawn_and_training_is_left_alone(mini_ferplus: Path, tmp_path: Path) -> None:
    weights = []
    for every in (0, 1):
        recipe = load_recipe("debug", ['stages=["pretrain"]', *HOG, f"pretrain.reconstructions_every={every}"])
        made = run_recipe(recipe, locate([mini_ferplus]), tmp_path / str(every), Report(None))
        weights.append(load_checkpoint(made)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    drawn = read_image(tmp_path / "1" / "pretrain" / "reconstructions" / "epoch-0001.png")
    assert drawn.std() > 30
    assert not (tmp_path / "0" / "pretrain" / "reconstructions").exists()
