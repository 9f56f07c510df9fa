"""SimMIM as a way of pre-training hybrids: its encoder, what starts from it, resuming, its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from fer_app.errors import ConfigError
from fer_app.image_io import read_image
from models.simmim import SimMim
from models.vit import VisionTransformer
from tests.training.interrupted import Killed, KilledError, rows
from tests.training.masked_step import step_of
from tests.training.miniature import write_mini_photos
from training.checkpoint import load_checkpoint, read_info
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.loop import LoopSettings, fit
from training.probe_report import ProbeOptions, run_probe
from training.recipe import FinetuneTable
from training.recipe_files import load_recipe
from training.reconstruction import repaint
from training.report import Report
from training.run_folder import RunFolder
from training.simmim_pretraining import SimmimPretraining
from training.stages import run_recipe

HYBRID = ["model.patch_size=16", "model.stem=conv", "model.stem_channels=[4, 6, 8, 8, 12]", "model.depth=1"]
SIMMIM = ["pretrain.method=simmim", "pretrain.simmim_mask_px=8"]
STEMS = {"conv": [*HYBRID, *SIMMIM], "patch": SIMMIM}
FINETUNINGS = {
    "ce": ["finetune.loss=ce"],
    "scl": ["finetune.loss=scl", "finetune.mix_prob=0.0"],
    "mscl": ["finetune.loss=mscl"],
    "pll": ["finetune.loss=pll", "finetune.votes=shares", "finetune.views=1", "finetune.mix_prob=0.0"],
}
KERNEL = "patch_embed.stages.0.0.conv1.weight"
SETTINGS = LoopSettings(epochs=2, batch_size=16, lr=1e-3, precision="fp32", checkpoint_minutes=1e-9)


class Interruptible(Killed, SimmimPretraining):
    """Stops before its n-th pass, as a killed process would."""


def make(data: Path, *changes: str, kind: type[SimmimPretraining] = SimmimPretraining) -> SimmimPretraining:
    recipe = load_recipe("debug", ["pretrain.epochs=2", *HYBRID, *SIMMIM, *changes])
    assert recipe.pretrain is not None
    return kind(recipe, recipe.pretrain, load_ferplus(data, "train-main").images, None)


@pytest.fixture(scope="module")
def encoders(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What pre-training leaves of each stem."""
    root = tmp_path_factory.mktemp("encoders")
    recipes = {stem: load_recipe("debug", ['stages=["pretrain"]', *changes]) for stem, changes in STEMS.items()}
    data = locate([mini_ferplus])
    return {stem: run_recipe(recipe, data, root / stem, Report(None)) for stem, recipe in recipes.items()}


@pytest.mark.parametrize(
    ("stem", "some"), [("conv", {KERNEL, "patch_embed.bn.running_mean"}), ("patch", {"patch_embed.proj.weight"})]
)
def test_the_checkpoint_is_the_encoder_alone(encoders: dict[str, Path], stem: str, some: set[str]) -> None:
    weights, info = load_checkpoint(encoders[stem])
    assert info.kind == "encoder"
    assert info.recipe["pretrain"]["method"] == "simmim"
    assert some <= weights.keys()
    assert not [name for name in weights if name.startswith("head") or "mask" in name]


@pytest.mark.parametrize("loss", FINETUNINGS)
def test_any_finetuning_of_the_hybrid_starts_from_it(
    encoders: dict[str, Path], mini_ferplus: Path, tmp_path: Path, loss: str
) -> None:
    changes = ['stages=["finetune"]', "finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.base_lr=1e-9"]
    recipe = load_recipe("debug", [*HYBRID, *changes, f"init='{encoders['conv']}'", *FINETUNINGS[loss]])
    made = run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))
    assert read_info(made).kind == "classifier"
    torch.testing.assert_close(
        load_checkpoint(made)[0][f"encoder.{KERNEL}"], load_checkpoint(encoders["conv"])[0][KERNEL]
    )


def test_both_stages_in_one_run_learn_on(mini_ferplus: Path, tmp_path: Path) -> None:
    """As the recipe of a hybrid lists them."""
    recipe = load_recipe("debug", STEMS["conv"])
    made = run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))
    assert read_info(made).kind == "classifier"
    terms = [row["loss"] for row in rows(tmp_path / "run" / "pretrain") if "loss" in row]
    assert all(0 < term < 3 for term in terms)


def test_it_is_probed(encoders: dict[str, Path], mini_ferplus: Path) -> None:
    report = run_probe(ProbeOptions(checkpoint=encoders["conv"], data=mini_ferplus, k=7, device="cpu"))
    assert {(row.feature, row.probe) for row in report.rows} == {
        (feature, probe) for feature in ("token", "avg") for probe in ("knn", "linear")
    }


@pytest.mark.parametrize("passes", [2, 7])
def test_resumed_run_ends_bit_identical(mini_ferplus: Path, tmp_path: Path, passes: int) -> None:
    """With masks, augmentations, and the statistics of the stem's norms."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    whole, killed, resumed = (make(mini_ferplus, kind=Interruptible) for _ in range(3))
    fit(whole, SETTINGS, RunFolder(tmp_path / "whole"), fabric, Report(None))
    assert isinstance(killed, Interruptible)
    killed.passes_left = passes
    with pytest.raises(KilledError):
        fit(killed, SETTINGS, RunFolder(tmp_path / "killed"), fabric, Report(None))
    torch.rand(7)  # whatever state the global generator is in must not matter
    fit(resumed, SETTINGS, RunFolder(tmp_path / "killed"), fabric, Report(None), resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_the_loss_is_that_of_the_network_on_augmented_faces(mini_ferplus: Path) -> None:
    target = make(mini_ferplus)
    assert isinstance(target.model, SimMim)
    assert (target.model.mask_px, target.model.mask_ratio, target.draws_a_sample) == (8, 0.6, 36)
    loss, images, pred, mask = step_of(target)
    torch.testing.assert_close(loss, (pred - images).abs()[mask].mean())
    assert int(mask.sum()) == 8 * 22 * 64  # ceil(36 * 0.6) squares


def test_the_published_settings_are_the_defaults() -> None:
    """Squares of 32 px and a ratio of 0.6; other methods keep theirs, and what is given counts."""
    tables = [load_recipe("debug", changes).pretrain for changes in ([], ["pretrain.method=simmim"], SIMMIM)]
    assert [(table.mask_ratio, table.simmim_mask_px) for table in tables if table] == [(0.75, 32), (0.6, 32), (0.6, 8)]
    given = load_recipe("debug", [*SIMMIM, "pretrain.mask_ratio=0.4"]).pretrain
    assert given is not None
    assert given.mask_ratio == 0.4
    plain = load_recipe("debug").pretrain
    assert plain is not None
    assert "simmim_mask_px" not in plain.model_dump()  # so that the digests of older recipes hold


def test_a_mistyped_method_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("debug", ["pretrain.method=simmin"])
    assert "pretrain.method" in str(caught.value)
    assert "mask_ratio" not in str(caught.value)


def test_the_bundled_cells_differ_in_start_and_loss_alone() -> None:
    """The network that is pre-trained is the one that they train."""
    names = ("scratch_ce", "scratch_mscl", "simmim_ce", "simmim_mscl")
    cells = {name: load_recipe(f"ablations/hybrid_cpu/{name}") for name in names}
    pretrain = load_recipe("ablations/hybrid_cpu/pretrain")
    assert {cell.model for cell in cells.values()} == {pretrain.model}
    for name, cell in cells.items():
        start, loss = name.split("_")
        assert cell.init == ("recipe:pretrain" if start == "simmim" else "scratch")
        assert isinstance(cell.finetune, FinetuneTable)
        plain = cell.finetune.model_copy(update={"loss": "ce", "mix_prob": 0.0})
        assert (cell.finetune.loss, plain) == (loss, cells["scratch_ce"].finetune)
    assert pretrain.pretrain is not None
    model = SimMim(
        VisionTransformer(pretrain.model.vit_config()), pretrain.pretrain.simmim_mask_px, pretrain.pretrain.mask_ratio
    )
    assert int(model.mask(torch.rand(1, 16)).sum()) == 10 * 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([*STEMS["conv"], "pretrain.simmim_mask_px=32"], "32 px do not fill a picture of 48 px"),
        ([*STEMS["conv"], "pretrain.simmim_mask_px=12"], "12 px lie across patches of 16 px"),
        ([*STEMS["conv"], "pretrain.mask_ratio=0.99"], "masks 36 of 36 blocks"),
        (HYBRID, "'simmim'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    mini_ferplus: Path, tmp_path: Path, changes: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_recipe(load_recipe("debug", changes), locate([mini_ferplus]), tmp_path / "run", Report(None))
    assert not list((tmp_path / "run").glob("*/*.jsonl"))


def test_photos_are_taken_too(tmp_path: Path) -> None:
    photos, _ = write_mini_photos(tmp_path / "photos", 8)
    changes = ['stages=["pretrain"]', 'pretrain.images=["photos"]', "pretrain.batch_size=4"]
    made = run_recipe(
        load_recipe("debug", [*STEMS["conv"], *changes]), locate([photos]), tmp_path / "run", Report(None)
    )
    assert read_info(made).counters["steps"] == 2


# --- pictures -------------------------------------------------------------------------------------------------------


def test_seen_pixels_are_original_and_masked_ones_hidden_or_painted(mini_ferplus: Path) -> None:
    model = make(mini_ferplus).model
    assert isinstance(model, SimMim)
    images, noise = torch.randn(3, 1, 48, 48), torch.rand(3, 36)
    statistics = model.encoder.state_dict()["patch_embed.bn.running_mean"].clone()
    masked, painted, originals = repaint(model.train(), images, noise)
    assert model.training
    assert torch.equal(model.encoder.state_dict()["patch_embed.bn.running_mean"], statistics)
    assert originals is images
    _, pred, mask = model.eval()(images, noise)
    assert torch.equal(masked.isnan(), mask)
    assert torch.equal(painted[~mask], images[~mask])
    assert torch.equal(painted[mask], pred[mask])


def test_pictures_are_drawn_and_training_is_left_alone(mini_ferplus: Path, tmp_path: Path) -> None:
    weights = []
    for every in (0, 1):
        changes = ['stages=["pretrain"]', *STEMS["conv"], f"pretrain.reconstructions_every={every}"]
        made = run_recipe(load_recipe("debug", changes), locate([mini_ferplus]), tmp_path / str(every), Report(None))
        weights.append(load_checkpoint(made)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    drawn = read_image(tmp_path / "1" / "pretrain" / "reconstructions" / "epoch-0001.png")
    assert drawn.std() > 30
    assert not (tmp_path / "0" / "pretrain" / "reconstructions").exists()
