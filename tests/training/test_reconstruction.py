from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor

from fer_app.errors import CheckpointError
from fer_app.image_io import read_image
from models.mae import MaskedAutoencoder, patchify
from models.vit import VisionTransformer
from training.checkpoint import load_checkpoint
from training.loop import LoopSettings, fit
from training.mae_pretraining import MaePretraining
from training.recipe_files import load_recipe
from training.reconstruction import Reconstructions, reconstruct
from training.report import Report
from training.run_folder import RunFolder

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 1, 48, 48), dtype=np.uint8))


def autoencoder(norm_pix_loss: bool = True) -> MaskedAutoencoder:
    encoder = VisionTransformer(load_recipe("debug").model.vit_config())
    return MaskedAutoencoder(encoder, 32, 1, 2, norm_pix_loss=norm_pix_loss)


def reconstructions(*changes: str) -> Reconstructions:
    recipe = load_recipe("debug", list(changes))
    assert recipe.pretrain is not None
    return Reconstructions(recipe, recipe.pretrain, IMAGES)


def patch_views(images: Tensor) -> Tensor:
    """(B, 36, 8, 8) of (B, 1, 48, 48), cut by hand."""
    cut = [images[:, 0, y : y + 8, x : x + 8] for y in range(0, 48, 8) for x in range(0, 48, 8)]
    return torch.stack(cut, dim=1)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_perfect_predictions_give_the_originals_back(norm_pix_loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Un-normalised with each patch's own mean and deviation, when they were normalised with them."""
    model = autoencoder(norm_pix_loss)
    images = torch.randn(3, 1, 48, 48)
    target = patchify(images, 8)
    if norm_pix_loss:
        target = (target - target.mean(dim=-1, keepdim=True)) / target.std(dim=-1, keepdim=True)
    monkeypatch.setattr(model, "forward_decoder", lambda latent, ids_restore: target)
    _, painted, originals = reconstruct(model, images, torch.rand(3, 36))
    assert torch.allclose(painted, images, atol=1e-4)
    assert originals is images


def test_visible_patches_are_original_and_masked_ones_hidden_or_painted() -> None:
    model = autoencoder(norm_pix_loss=False).train()
    images, noise = torch.randn(3, 1, 48, 48), torch.rand(3, 36)
    masked, painted, _ = reconstruct(model, images, noise)
    kept = noise.argsort(dim=1)[:, :9]
    pred = model.eval()(images, noise)[1].detach()
    for i in range(3):
        for j in range(36):
            ours, was = patch_views(painted)[i, j], patch_views(images)[i, j]
            hidden = patch_views(masked)[i, j].isnan()
            if j in kept[i].tolist():
                assert torch.equal(ours, was)
                assert not hidden.any()
            else:
                assert torch.allclose(ours, pred[i, j].reshape(8, 8))
                assert hidden.all()


@pytest.mark.parametrize(("every", "due"), [(5, [5, 10, 12]), (1, list(range(1, 13))), (0, []), (100, [12])])
def test_when_they_are_drawn(every: int, due: list[int]) -> None:
    drawn = reconstructions("pretrain.epochs=12", f"pretrain.reconstructions_every={every}")
    assert [epoch for epoch in range(1, 13) if drawn.due(epoch)] == due


def test_the_same_pictures_under_the_same_masks(tmp_path: Path) -> None:
    model = autoencoder()
    for name, changes in (("a", ()), ("b", ()), ("c", ("seed=1",))):
        (tmp_path / name).mkdir()
        reconstructions(*changes).draw(tmp_path / name, model, 1)
    a, b, c = (read_image(tmp_path / name / "reconstructions" / "epoch-0001.png") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_training_is_left_alone(tmp_path: Path) -> None:
    """Modes, gradients and every random stream."""
    model, drawn = autoencoder().train(), reconstructions()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the stream that must not be touched
    drawn.draw(tmp_path, model, 1)
    ours = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert ours == (torch.rand(1), np.random.rand())  # noqa: NPY002
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_compiled_for_a_picture() -> None:
    model = autoencoder()

    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    model.encoder.blocks.compile(backend=refuse)
    reconstruct(model, torch.randn(2, 1, 48, 48), torch.rand(2, 36))


def test_weights_are_the_same_with_pictures_and_without(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    weights = []
    for every in (0, 1):
        recipe = load_recipe("debug", ["pretrain.epochs=2", f"pretrain.reconstructions_every={every}"])
        assert recipe.pretrain is not None
        folder = RunFolder(tmp_path / str(every))
        objective = MaePretraining(recipe, recipe.pretrain, IMAGES, None)
        fit(objective, LoopSettings(epochs=2, batch_size=8, lr=1e-3, precision="fp32"), folder, fabric, Report(None))
        weights.append(load_checkpoint(folder.last)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (tmp_path / "0" / "reconstructions").exists()
    written = sorted(path.name for path in (tmp_path / "1" / "reconstructions").iterdir())
    assert written == ["epoch-0001.png", "epoch-0002.png"]


def test_few_pictures_and_three_channels(tmp_path: Path) -> None:
    changes = ["model.color_mode=rgb", "model.in_chans=3", "model.mean=[0.5, 0.5, 0.5]", "model.std=[0.2, 0.2, 0.2]"]
    recipe = load_recipe("debug", changes)
    assert recipe.pretrain is not None
    red = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    red[:, 0] = 255
    model = MaskedAutoencoder(VisionTransformer(recipe.model.vit_config()), 32, 1, 2)
    Reconstructions(recipe, recipe.pretrain, red).draw(tmp_path, model, 1)
    picture = read_image(tmp_path / "reconstructions" / "epoch-0001.png")
    # Of two pictures in three rows the originals, a quarter of the masked ones, and all of the painted ones, as a
    # patch of one colour has no deviation to give the prediction.
    assert 0.3 < (picture == (255, 0, 0)).all(axis=2).mean() < 0.75


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "reconstructions").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        reconstructions().draw(tmp_path, autoencoder(), 1)
