"""MoCo v3 and MimCo as stages: steps, resuming, teachers, and what starts from their encoders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import CheckpointError, ConfigError
from models.vit import VisionTransformer, vit_config
from tests.training.interrupted import Killed, KilledError, rows
from tests.training.miniature import write_mini_shards
from training.checkpoint import load_checkpoint
from training.cli import train
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.data.photo_stream import PhotoStream
from training.data.shard_list import count_archives, list_shards
from training.fsdp import need_plain_run
from training.loop import LoopSettings, fit
from training.mimco_pretraining import MimcoPretraining
from training.moco_pretraining import MocoPretraining
from training.objective import Objective
from training.recipe import PretrainTable, Recipe
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.sampling import Share
from training.schedule import momentum_cosine
from training.speed_probe import measure_speed

SHORT = ['stages=["pretrain"]', "pretrain.batch_size=16", "pretrain.augment.crop_scale=[0.5, 1.0]"]
MOCO = [*SHORT, "pretrain.method=moco_v3", "pretrain.moco.mlp_dim=32", "pretrain.moco.out_dim=16"]
MIMCO = [*SHORT, "pretrain.method=mimco", "pretrain.mimco.mask_block_px=16", "pretrain.mask_ratio=0.6"]
SETTINGS = LoopSettings(epochs=2, batch_size=16, lr=1e-3, precision="fp32", checkpoint_minutes=1e-9)

app = Typer()
app.command()(train)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


@pytest.fixture(scope="module")
def faces(mini_ferplus: Path) -> Tensor:
    return load_ferplus(mini_ferplus, "train-main").images


def of(changes: list[str]) -> tuple[Recipe, PretrainTable]:
    recipe = load_recipe("debug", ["pretrain.epochs=2", *changes])
    assert recipe.pretrain is not None
    return recipe, recipe.pretrain


def moco(images: Tensor | PhotoStream, *changes: str, kind: type[MocoPretraining] = MocoPretraining) -> Any:
    recipe, table = of([*MOCO, *changes])
    return kind(recipe, table, images, None)


def mimco(images: Tensor | PhotoStream, *changes: str, kind: type[MimcoPretraining] = MimcoPretraining) -> Any:
    recipe, table = of([*MIMCO, *changes])
    torch.manual_seed(5)
    teacher = VisionTransformer(
        vit_config("tiny", img_size=48, patch_size=8, in_chans=1, embed_dim=32, depth=1, num_heads=2)
    )
    return kind(recipe, table, images, None, teacher)


def run(target: Objective, folder: Path, fabric: Fabric, *, resume: bool = False, **changes: Any) -> None:
    settings = LoopSettings(**{**vars(SETTINGS), **changes})
    fit(target, settings, RunFolder(folder), fabric, Report(None), resume=resume)


class InterruptibleMoco(Killed, MocoPretraining):
    """Stops before its n-th pass, as a killed process would."""


class InterruptibleMimco(Killed, MimcoPretraining):
    """The same."""


@pytest.mark.parametrize("passes", [2, 7])
@pytest.mark.parametrize("method", ["moco_v3", "mimco"])
def test_resumed_run_ends_bit_identical(
    faces: Tensor, tmp_path: Path, fabric: Fabric, method: str, passes: int
) -> None:
    """With the momentum encoder, the batch norms' statistics, masks and augmentations."""

    def make() -> Any:
        if method == "moco_v3":
            return moco(faces, kind=InterruptibleMoco)
        return mimco(faces, "pretrain.mimco.head=mlp", "pretrain.mimco.mlp_dim=16", kind=InterruptibleMimco)

    whole, killed, resumed = make(), make(), make()
    run(whole, tmp_path / "whole", fabric)
    killed.passes_left = passes
    with pytest.raises(KilledError):
        run(killed, tmp_path / "killed", fabric)
    torch.rand(7)  # whatever state the global generator is in must not matter
    run(resumed, tmp_path / "killed", fabric, resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    (a, _), (b, _) = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_the_speed_probe_changes_nothing(faces: Tensor, tmp_path: Path, fabric: Fabric) -> None:
    """It takes steps of a copy, which tell the objective where they stand too."""
    probed, plain = moco(faces), moco(faces)
    measure_speed(probed, SETTINGS, fabric)
    for target, name in ((probed, "probed"), (plain, "plain")):
        run(target, tmp_path / name, fabric, epochs=1)
    ours, theirs = probed.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_momentum_rises_from_its_start_to_one() -> None:
    """moco-v3's `adjust_moco_momentum`."""
    for progress in (0.0, 0.5, 37.25, 299.9):
        expected = 1.0 - 0.5 * (1.0 + math.cos(math.pi * progress / 300)) * (1.0 - 0.99)
        assert momentum_cosine(progress, epochs=300, start=0.99) == pytest.approx(expected, abs=1e-15)
    assert momentum_cosine(0, epochs=10, start=0.9) == pytest.approx(0.9)
    assert momentum_cosine(10, epochs=10, start=0.9) == 1.0


@pytest.mark.parametrize(("accumulate", "schedule"), [(1, "cosine"), (2, "cosine"), (1, "constant")])
def test_one_momentum_update_a_step(
    faces: Tensor, tmp_path: Path, fabric: Fabric, accumulate: int, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = moco(faces, f"pretrain.moco.momentum_schedule={schedule}")
    used: list[float] = []
    update = target.model.update_momentum
    monkeypatch.setattr(target.model, "update_momentum", lambda m: (used.append(m), update(m)))
    run(target, tmp_path, fabric, accumulate=accumulate)
    steps = len(faces) // (16 * accumulate)
    assert steps > 1
    progress = [epoch + step / steps for epoch in range(2) for step in range(steps)]
    expected = [momentum_cosine(p, epochs=2, start=0.99) if schedule == "cosine" else 0.99 for p in progress]
    assert used == pytest.approx(expected)


def test_everything_that_learns_decays(faces: Tensor) -> None:
    target = moco(faces)
    (group,) = target.param_groups()
    learnt = [p for name, p in target.model.named_parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == [id(p) for p in learnt]
    assert any(p.ndim == 1 for p in learnt)
    assert group["weight_decay"] == 0.05
    names = {name for name, p in target.model.named_parameters() if not p.requires_grad}
    assert {name.partition(".")[0] for name in names} == {"encoder", "momentum_encoder", "momentum_projector"}


def test_moco_v3_tells_pictures_apart(tmp_path: Path, fabric: Fabric) -> None:
    images = torch.randint(0, 256, (32, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    mild = ("pretrain.augment.crop_scale=[0.8, 1.0]", "pretrain.augment.hflip=0.0", "pretrain.moco.solarize_p=0.0")
    target = moco(images, *mild, "pretrain.moco.momentum=0.9", "pretrain.epochs=30")
    run(target, tmp_path, fabric, epochs=30, warmup_epochs=2, lr=1e-2)
    matches = [row["match"] for row in rows(tmp_path) if "match" in row]
    assert matches[0] < 0.3  # chance is 1/16
    assert matches[-1] > 0.8


def test_mimco_finds_its_teachers_codes(faces: Tensor, tmp_path: Path, fabric: Fabric) -> None:
    target = mimco(faces)
    run(target, tmp_path, fabric, epochs=20, lr=3e-3)
    first, last = (row for row in (rows(tmp_path)[0], rows(tmp_path)[-2]))
    assert {"loss", "patch", "patch_match", "image", "image_match"} <= first.keys()
    assert last["patch"] < first["patch"] - 0.2
    assert last["patch_match"] > 2 * first["patch_match"]


@pytest.mark.parametrize(("off", "left"), [("patch", "image"), ("image", "patch")])
def test_a_loss_of_mimco_is_turned_off(faces: Tensor, off: str, left: str) -> None:
    target = mimco(faces, f"pretrain.mimco.{off}_weight=0.0", f"pretrain.mimco.{left}_weight=2.0")
    samples = next(target.start_epoch(0, 16, Share()).starting_at(0))
    terms = target.losses(target.model, samples, np.random.default_rng(0))
    assert off not in terms
    assert terms["loss"] == 2 * terms[left]
    assert not any(name.startswith(f"{off}_head") for name, _ in target.model.named_parameters())


def test_both_losses_of_mimco_are_weighed(faces: Tensor) -> None:
    target = mimco(faces, "pretrain.mimco.patch_weight=0.5", "pretrain.mimco.image_weight=3.0")
    samples = next(target.start_epoch(0, 16, Share()).starting_at(0))
    terms = target.losses(target.model, samples, np.random.default_rng(0))
    torch.testing.assert_close(terms["loss"], 0.5 * terms["patch"] + 3.0 * terms["image"])


@pytest.mark.parametrize("make", [moco, mimco])
def test_a_stream_gives_the_views_of_pictures_in_memory(make: Any, tmp_path: Path) -> None:
    archives = write_mini_shards(tmp_path / "shards", [9, 12], side_px=48)
    shards = list_shards(archives, count_archives(archives, {}), None)
    stream = PhotoStream(shards, 48, "gray", shuffle_buffer=4)
    streamed, memory = make(stream), make(stream.first(21))
    assert streamed.num_samples == 21
    assert streamed.fingerprint() == stream.fingerprint()
    batch = next(streamed.start_epoch(1, 8, Share()).starting_at(0))
    memory.start_epoch(1, 8, Share())
    device = torch.device("cpu")
    for ours, theirs in zip(
        streamed._pictures.read(batch, device), memory._pictures.read(batch.ids, device), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("changes", [["pretrain.batch_size=1"], ["pretrain.batch_size=79", "pretrain.accumulate=2"]])
def test_a_picture_alone_in_its_pass_is_refused(faces: Tensor, changes: list[str]) -> None:
    assert len(faces) == 80
    for target in (moco(faces, *changes), mimco(faces, *changes)):
        table = target._table
        with pytest.raises(ConfigError, match="one would be alone"):
            target.start_epoch(0, table.batch_size * table.accumulate, Share())
    mimco(faces, *changes, "pretrain.mimco.image_weight=0.0").start_epoch(0, 1, Share())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["pretrain.moco.mlp_dim=8"], "moco is of method = 'moco_v3', and method is 'mae'"),
        (["pretrain.mimco.head=mlp"], "mimco is of method = 'mimco', and method is 'mae'"),
        (
            ["pretrain.method=mimco", "pretrain.mimco.patch_weight=0.0", "pretrain.mimco.image_weight=0.0"],
            "nothing is left to learn from",
        ),
        (["pretrain.method=moco_v3", "pretrain.moco.momentums=1.0"], "did you mean momentum"),
        (["pretrain.method=mimco", "pretrain.mimco.teachr=x"], "did you mean teacher?"),
        (["pretrain.method=moco_v3", "pretrain.moco.momentum=1.5"], "pretrain.moco.momentum"),
        (
            ["init=recipe:a", "pretrain.method=mimco", "pretrain.mimco.teacher=recipe:b"],
            "cannot both be another recipe's",
        ),
    ],
)
def test_what_does_not_fit_in_a_recipe_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        load_recipe("debug", changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["pretrain.mimco.mask_block_px=12"], "no multiple of model.patch_size = 8"),
        (["pretrain.mimco.mask_block_px=32"], "do not fill a grid of 6 x 6"),
        (["pretrain.mask_ratio=0.95"], "masks 9 of 9 blocks"),
    ],
)
def test_masks_that_do_not_fit_are_told_before_a_step(faces: Tensor, changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mimco(faces, *changes)


def test_pieces_over_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not go with a momentum encoder or a teacher"):
        need_plain_run(ema=False, compiles=False, checkpoints_activations=False, frozen_networks=True)


# --- whole runs ----------------------------------------------------------------------------------------------------


def cli(data: Path, folder: Path, *changes: str) -> str:
    arguments = ["debug", "--data", str(data), "--run-dir", str(folder)]
    for value in (*changes, "pretrain.epochs=1"):
        arguments += ["--set", value]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def contrastive(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder that MoCo v3 has made."""
    folder = tmp_path_factory.mktemp("moco")
    told = cli(mini_ferplus, folder, *MOCO)
    assert "80 images, 1 epochs x 5 steps x 16 images of 2 views" in told
    return folder / "pretrain" / "last.safetensors"


def test_the_checkpoint_is_the_encoder_that_learnt(contrastive: Path) -> None:
    weights, info = load_checkpoint(contrastive)
    assert info.kind == "encoder"
    assert info.recipe["pretrain"]["method"] == "moco_v3"
    recipe, table = of(MOCO)
    assert weights.keys() == VisionTransformer(recipe.model.vit_config()).state_dict().keys()
    start = MocoPretraining(recipe, table, torch.zeros(2, 1, 48, 48, dtype=torch.uint8), None).model.state_dict()
    assert torch.equal(weights["patch_embed.proj.weight"], start["encoder.patch_embed.proj.weight"])
    moved = (weights["blocks.0.mlp.fc1.weight"] - start["encoder.blocks.0.mlp.fc1.weight"]).norm()
    assert moved > 0.03, "and not the slow copy, which moves by a hundredth of that"


def test_the_teacher_is_a_checkpoint_of_ours(contrastive: Path, mini_ferplus: Path, tmp_path: Path) -> None:
    """Its shape is its own, and it is no part of what is written."""
    told = cli(mini_ferplus, tmp_path, *MIMCO, f"pretrain.mimco.teacher={contrastive}", "model.embed_dim=32")
    assert f"teacher: {contrastive}: width 64, 2 blocks, 2 heads, pre-trained by moco_v3\n" in told
    weights, info = load_checkpoint(tmp_path / "pretrain" / "last.safetensors")
    assert info.architecture["encoder"]["embed_dim"] == 32
    recipe, _ = of([*MIMCO, "model.embed_dim=32"])
    assert weights.keys() == VisionTransformer(recipe.model.vit_config()).state_dict().keys()


def test_a_teacher_that_learnt_on_other_pixels_is_pointed_out(
    contrastive: Path, mini_ferplus: Path, tmp_path: Path
) -> None:
    changes = (f"pretrain.mimco.teacher={contrastive}", "model.mean=[0.4]")
    assert "moco_v3; on pixels with mean = [0.5], which the recipe's are not" in cli(
        mini_ferplus, tmp_path, *MIMCO, *changes
    )


@pytest.mark.parametrize("method", ["moco_v3", "mimco"])
@pytest.mark.parametrize("loss", ["ce", "mscl", "pll"])
def test_finetuning_starts_from_either_encoder(
    contrastive: Path, mini_ferplus: Path, tmp_path: Path, method: str, loss: str
) -> None:
    start = contrastive
    if method == "mimco":
        cli(mini_ferplus, tmp_path / "mimco", *MIMCO, f"pretrain.mimco.teacher={contrastive}")
        start = tmp_path / "mimco" / "pretrain" / "last.safetensors"
    short = ["finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.base_lr=1e-12"]
    short += ["finetune.views=1", "finetune.mix_prob=0.0", "finetune.votes=shares"] if loss == "pll" else []
    told = cli(
        mini_ferplus, tmp_path / "run", 'stages=["finetune"]', f"init='{start}'", f"finetune.loss={loss}", *short
    )
    assert "of the encoder of a checkpoint" in told
    ours, _ = load_checkpoint(tmp_path / "run" / "finetune" / "last.safetensors")
    theirs, _ = load_checkpoint(start)
    name = "blocks.1.mlp.fc2.weight"
    assert np.allclose(ours[f"encoder.{name}"], theirs[name], atol=1e-6)


def test_the_teacher_is_a_file_of_published_weights(mini_ferplus: Path, tmp_path: Path) -> None:
    """RGB, of another grid and another size than the student's."""
    theirs = VisionTransformer(vit_config("tiny", img_size=64, patch_size=8))
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    given = [*MIMCO, f"pretrain.mimco.teacher={tmp_path / 'vit.safetensors'}", "pretrain.mimco.teacher_size=tiny"]
    told = cli(mini_ferplus, tmp_path / "run", *given)
    assert "teacher: " in told
    assert "patch embedding summed over RGB; positions resized from 8 x 8 to 6 x 6" in told
    assert "width 192, 12 blocks, 3 heads" in told
    with pytest.raises(CheckpointError, match=r"published with 3 heads, model\.num_heads is 6"):
        cli(mini_ferplus, tmp_path / "wrong", *given, "pretrain.mimco.teacher_num_heads=6")


@pytest.mark.parametrize(
    ("teacher", "error", "said"),
    [
        ("''", ConfigError, "needs a teacher"),
        ("recipe:moco", ConfigError, "run their folder with `fer sweep`"),
        ("nowhere.pth", CheckpointError, "no checkpoint at nowhere.pth"),
        ("timm:vit_tiny_patch16_223", CheckpointError, "timm has no weights on the hub"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_told(
    mini_ferplus: Path, tmp_path: Path, teacher: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        cli(mini_ferplus, tmp_path, *MIMCO, f"pretrain.mimco.teacher={teacher}")
    assert not (tmp_path / "recipe.json").exists()


def test_a_sweep_makes_the_teacher_first(mini_ferplus: Path, tmp_path: Path) -> None:
    from training.sweep import Sweep
    from training.sweep_cells import plan

    folder = tmp_path / "recipes"
    folder.mkdir()
    plain = 'base = "debug"\nstages = ["pretrain"]\n[pretrain]\nbatch_size = 16\n'
    (folder / "b_moco.toml").write_text(f'{plain}method = "moco_v3"\n[pretrain.moco]\nmlp_dim = 16\nout_dim = 8\n')
    (folder / "a_mimco.toml").write_text(
        f'{plain}method = "mimco"\nmask_ratio = 0.6\n[pretrain.mimco]\nteacher = "recipe:b_moco"\nmask_block_px = 16\n'
    )
    cells = plan(str(folder), tmp_path / "runs", 2)
    assert [cell.name for cell in cells] == ["b_moco", "a_mimco"]
    sweep = Sweep(cells, locate([mini_ferplus]), Report(None), lambda _: None)
    sweep.run()
    assert [outcome.status for outcome in sweep.outcomes] == ["done", "done"], sweep.outcomes
    assert json.loads((cells[1].run_dir / "init.json").read_text())["init"] == "recipe:b_moco"
    (folder / "b_moco.toml").unlink()
    with pytest.raises(ConfigError, match=r"pretrain\.mimco\.teacher = 'recipe:b_moco': no recipe b_moco"):
        plan(str(folder), tmp_path / "runs", 1)
