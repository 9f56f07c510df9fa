"""`fer train` and `fer eval` from the command line, on drawn faces."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import (
    CheckpointError,
    DatasetError,
    FerError,
    InputError,
    ModelNotFoundError,
    ProviderUnavailableError,
)
from models.mae import MaskedAutoencoder
from models.pos_embed import resize_pos_embed
from models.vit import VisionTransformer
from tests.training.miniature import write_mini_ferplus, write_mini_photos
from training.checkpoint import load_checkpoint
from training.cli import evaluate, train
from training.data.ferplus import load_ferplus
from training.evaluation import TorchClassifier, crops_of, file_sha256, load_classifier, open_classifier, predict
from training.evaluation import evaluate as score
from training.recipe_files import load_recipe
from training.run_lock import locked
from training.uncertainty import choose_threshold

runner = CliRunner()
app = Typer()
app.command("train")(train)
app.command("eval")(evaluate)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Run the debug recipe's two stages, long enough to learn; returns (data, run folder, stdout)."""
    root = tmp_path_factory.mktemp("trained")
    data = write_mini_ferplus(root / "data", per_class=24)
    arguments = ["train", "debug", "--data", str(data), "--run-dir", str(root / "run")]
    for value in ("finetune.epochs=30", "finetune.mix_prob=0.0", "finetune.ema_decay=0.8", "finetune.base_lr=0.06"):
        arguments += ["--set", value]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert (
        f"next: fer eval {root / 'run' / 'finetune' / 'best.safetensors'} --data {data} --split valid" in result.stderr
    )
    assert "images/s, about" in result.stderr  # the planned hours, before it starts
    assert "; peak memory " in result.stderr
    arithmetic = "batch_size 16 x accumulate 1 x processes 1 = 16 images a step; learning rate 0.00375 = base_lr 0.06 x"
    assert arithmetic in result.stderr
    return data, root / "run", result.stdout


def test_training_learns_and_names_its_checkpoint(trained: tuple[Path, Path, str]) -> None:
    data, run, stdout = trained
    assert stdout.strip() == str(run / "finetune" / "best.safetensors")
    report = score(open_classifier(run / "finetune" / "best.safetensors"), load_ferplus(data, "valid"))
    assert report.accuracy > 0.4  # chance is 0.125
    summary = json.loads((run / "finetune" / "done.json").read_text())
    assert (summary["epochs"], summary["processes"]) == (30, 1)
    assert not (run / "finetune" / "state.pt").exists()


def test_checkpoint_describes_itself(trained: tuple[Path, Path, str]) -> None:
    _, run, _ = trained
    _, info = load_classifier(run / "finetune" / "best.safetensors")
    assert info.contract is not None
    assert info.contract.img_size == 48
    assert info.contract.color_mode == "gray"
    assert info.recipe["name"] == "debug"
    assert info.counters["epochs"] <= 30
    assert 0 <= info.metrics["dev_accuracy"] <= 1


def test_checkpoint_says_what_it_asserts(trained: tuple[Path, Path, str]) -> None:
    data, run, _ = trained
    classifier = open_classifier(run / "finetune" / "best.safetensors")
    dev = predict(classifier, load_ferplus(data, "dev"))
    assert 0 < classifier.contract.uncertain_below == choose_threshold(dev.probs, dev.targets)
    _, info = load_classifier(run / "finetune" / "best.safetensors")
    assert info.metrics["dev_asserted_share"] == dev.report().asserted.share
    assert not {"temperature", "uncertain_below"} & info.metrics.keys()


def test_pretraining_leaves_an_encoder_that_is_no_classifier(trained: tuple[Path, Path, str]) -> None:
    _, run, _ = trained
    with pytest.raises(CheckpointError, match="fine-tune it first"):
        open_classifier(run / "pretrain" / "last.safetensors")


def test_finetuning_goes_on_from_a_classifier(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    """As `init = "bundled"` does: a classifier that pools by averaging has no final norm in its encoder."""
    data, run, _ = trained
    start = run / "finetune" / "best.safetensors"
    train_from(start, data, tmp_path / "run", "finetune")
    ours, _ = load_checkpoint(tmp_path / "run" / "finetune" / "last.safetensors")
    theirs, _ = load_checkpoint(start)
    name = "encoder.blocks.0.attn.qkv.weight"
    assert np.allclose(ours[name], theirs[name], atol=1e-6)


@pytest.mark.parametrize("start", ["pretrain/last.safetensors", "finetune/best.safetensors"])
def test_pretraining_goes_on_from_init(trained: tuple[Path, Path, str], tmp_path: Path, start: str) -> None:
    data, run, _ = trained
    train_from(run / start, data, tmp_path / "run", "pretrain")
    ours, _ = load_checkpoint(tmp_path / "run" / "pretrain" / "last.safetensors")
    theirs, _ = load_checkpoint(run / start)
    prefix = "encoder." if start.startswith("finetune") else ""
    name = "blocks.0.attn.qkv.weight"
    assert np.allclose(ours[name], theirs[prefix + name], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.embed_dim=128", "is not the recipe's [model]: its weights do not fit: 30 of another shape (blocks.0"),
        ("model.depth=1", "12 unknown (blocks.1.attn.proj.bias, blocks.1.attn.proj.weight, "),
        ("model.depth=3", "12 missing (blocks.2.attn.proj.bias, "),
    ],
)
def test_an_encoder_of_another_shape_is_told_in_one_line(
    trained: tuple[Path, Path, str], tmp_path: Path, change: str, said: str
) -> None:
    data, run, _ = trained
    with pytest.raises(CheckpointError) as caught:
        train_from(run / "pretrain" / "last.safetensors", data, tmp_path / "run", "finetune", change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["pretrain/last.safetensors", "finetune/best.safetensors"])
def test_an_encoder_of_another_picture_size_has_its_positions_resized(
    trained: tuple[Path, Path, str], tmp_path: Path, start: str
) -> None:
    data, run, _ = trained
    told = train_from(run / start, data, tmp_path / "run", "finetune", "model.img_size=64")
    assert "tensors of the encoder of a checkpoint; positions resized from 6 x 6 to 8 x 8" in told
    ours, _ = load_checkpoint(tmp_path / "run" / "finetune" / "last.safetensors")
    theirs, _ = load_checkpoint(run / start)
    positions = theirs["encoder.pos_embed" if start.startswith("finetune") else "pos_embed"]
    expected = resize_pos_embed(positions, (6, 6), (8, 8))
    assert np.allclose(ours["encoder.pos_embed"], expected, atol=1e-6)
    assert torch.equal(expected[:, :1], positions[:, :1])  # the class token's


def test_finetuning_starts_from_published_weights(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    """A masked autoencoder of RGB pictures and another grid, saved as MAE saves them."""
    data, _, _ = trained
    model = load_recipe("debug").model.model_copy(update={"img_size": 64, "in_chans": 3})
    state = MaskedAutoencoder(VisionTransformer(model.vit_config()), 32, 1, 2).state_dict()
    state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    torch.save({"model": state}, tmp_path / "mae_full.pth")
    words = ("hardware=any", "expected={ data_set = 'FERPlus', split = 'test', accuracy = 12.5, source = 'chance' }")
    stderr = train_from(tmp_path / "mae_full.pth", data, tmp_path / "run", "finetune", *words)
    assert "expected: 12.50 % on FERPlus Test (chance)\nhardware: any\ninit: " in stderr
    assert "dropped 20 of the decoder; patch embedding summed over RGB; positions resized from 8 x 8 to 6 x 6" in stderr
    ours, _ = load_checkpoint(tmp_path / "run" / "finetune" / "last.safetensors")
    assert np.allclose(ours["encoder.blocks.1.mlp.fc2.weight"], state["blocks.1.mlp.fc2.weight"], atol=1e-6)
    summed = state["patch_embed.proj.weight"].sum(1, keepdim=True)
    assert np.allclose(ours["encoder.patch_embed.proj.weight"], summed, atol=1e-6)


def train_from(start: Path, data: Path, run: Path, stage: str, *changes: str) -> str:
    """Run one stage of the debug recipe from a checkpoint, too slowly to move far from it; returns what it told."""
    arguments = ["train", "debug", "--data", str(data), "--run-dir", str(run)]
    values = (f'stages=["{stage}"]', f"init='{start}'", f"{stage}.epochs=1", f"{stage}.base_lr=1e-12")
    for value in (*values, "finetune.warmup_epochs=0", *changes):
        arguments += ["--set", value]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert f"init: {start}: " in result.stderr
    return result.stderr


@pytest.mark.parametrize(("selected", "epoch"), [("best", 1), ("last", 3)])
def test_the_last_epoch_counts_where_the_recipe_says_so(
    trained: tuple[Path, Path, str], tmp_path: Path, selected: str, epoch: int
) -> None:
    """Nothing is learnt here: of equal epochs the first is the best."""
    data, run, _ = trained
    changes = ("finetune.epochs=3", "finetune.keep_head=true", f"finetune.selected_epoch={selected}")
    train_from(run / "finetune" / "best.safetensors", data, tmp_path / "run", "finetune", *changes)
    _, info = load_checkpoint(tmp_path / "run" / "finetune" / "best.safetensors")
    assert info.counters["epochs"] == epoch
    assert info.contract is not None
    assert info.contract.temperature != 1.0  # dev still calibrates


def test_finetuning_starts_from_the_pretrained_encoder(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, run, _ = trained
    encoder = run / "pretrain" / "last.safetensors"
    train_from(encoder, data, tmp_path / "run", "finetune")
    ours, _ = load_checkpoint(tmp_path / "run" / "finetune" / "last.safetensors")
    theirs, _ = load_checkpoint(encoder)
    name = "blocks.0.attn.qkv.weight"
    assert np.allclose(ours[f"encoder.{name}"], theirs[name], atol=1e-6)


def test_eval_prints_the_public_line_and_json(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, run, _ = trained
    model = run / "finetune" / "best.safetensors"
    png = tmp_path / "confusion.png"
    table = runner.invoke(app, ["eval", str(model), "--data", str(data), "--confusion", str(png)])
    assert table.exit_code == 0, table.stderr
    assert png.read_bytes().startswith(b"\x89PNG")
    result = runner.invoke(app, ["eval", str(model), "--data", str(data), "--json"])
    figures = json.loads(result.stdout)
    assert {"accuracy", "mean_class_accuracy", "macro_f1", "ece", "n", "per_class", "confusion"} <= figures.keys()
    assert figures["model_sha256"] == file_sha256(model)
    assert figures["uncertain_below"] == open_classifier(model).contract.uncertain_below > 0
    told = f"asserted {100 * figures['asserted_share']:.2f}, of these right {100 * figures['asserted_precision']:.2f} "
    assert told in table.stdout
    assert figures["n"] == len(load_ferplus(data, "valid"))
    assert table.stdout.splitlines()[0] == f"accuracy {100 * figures['accuracy']:.2f} (n = {figures['n']})"


@pytest.mark.parametrize("device", ["tensorrt", "cuda:99"])
def test_a_checkpoint_runs_where_asked_or_not_at_all(trained: tuple[Path, Path, str], device: str) -> None:
    _, run, _ = trained
    with pytest.raises(ProviderUnavailableError):
        open_classifier(run / "finetune" / "best.safetensors", device=device)
    with pytest.raises(InputError, match="no such device"):
        open_classifier(run / "finetune" / "best.safetensors", device=f"{device}x")


def test_a_model_of_other_labels_is_refused(mini_ferplus: Path) -> None:
    """In another order, every figure would be wrong and nothing would look so."""
    contract = load_recipe("debug").contract()
    model = TorchClassifier(torch.nn.Identity(), contract.replace(labels=contract.labels[::-1]))
    with pytest.raises(DatasetError, match="the data has classes"):
        score(model, load_ferplus(mini_ferplus, "valid"))


def test_a_finished_run_is_not_overwritten_and_resume_finds_it_done(trained: tuple[Path, Path, str]) -> None:
    data, run, _ = trained
    arguments = ["train", "debug", "--data", str(data), "--run-dir", str(run)]
    with pytest.raises(CheckpointError, match="already holds a run"):
        runner.invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(CheckpointError, match="another recipe"):
        runner.invoke(app, [*arguments, "--resume"], catch_exceptions=False)


def test_a_stage_that_is_done_is_of_its_data_and_tells_what_made_it(mini_ferplus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [
        "train",
        "debug",
        "--run-dir",
        str(folder),
        "--set",
        'stages=["finetune"]',
        "--set",
        "finetune.epochs=1",
    ]
    arguments += ["--set", "finetune.warmup_epochs=0"]
    ours = [*arguments, "--data", str(mini_ferplus)]
    others = [*arguments, "--data", str(write_mini_ferplus(tmp_path / "others", per_class=6, seed=1)), "--resume"]
    assert runner.invoke(app, ours, catch_exceptions=False).exit_code == 0
    done = json.loads((folder / "finetune" / "done.json").read_text())
    assert done["program"].startswith("fer-mimic ")
    assert "torch " in done["machine"]
    again = runner.invoke(app, [*ours, "--resume"], catch_exceptions=False)
    assert "finetune: already done in " in again.stderr
    with pytest.raises(CheckpointError, match=r"the data is not what .*finetune was trained on: .* samples then"):
        runner.invoke(app, others, catch_exceptions=False)
    older = {key: value for key, value in done.items() if key not in ("data", "program", "machine")}
    (folder / "finetune" / "done.json").write_text(json.dumps(older))
    assert runner.invoke(app, others, catch_exceptions=False).exit_code == 0

    model = str(folder / "finetune" / "best.safetensors")
    said = "fer: best.safetensors was trained on train-main, which has faces of train: if this is the set that"
    for split, told in (("train", 1), ("valid", 0)):
        scored = runner.invoke(app, ["eval", model, "--data", str(mini_ferplus), "--split", split, "--json"])
        assert (scored.exit_code, scored.stderr.count(said)) == (0, told)


def test_resuming_where_there_is_no_run_is_an_error(mini_ferplus: Path, tmp_path: Path) -> None:
    """A mistyped name must not start anew what took days."""
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path / "mistyped"), "--resume"]
    with pytest.raises(CheckpointError, match=r"nothing to resume: .*mistyped holds no run"):
        runner.invoke(app, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_in_one_folder_are_refused(mini_ferplus: Path, tmp_path: Path) -> None:
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path)]
    with locked(tmp_path), pytest.raises(CheckpointError, match="in use by another process"):
        runner.invoke(app, arguments, catch_exceptions=False)


def test_too_small_a_disk_is_told_first(mini_ferplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path)]
    with pytest.raises(CheckpointError, match=r"pretrain: the run needs 0\.02 GB .* and 0\.00 GB are free"):
        runner.invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "recipe.json").exists()


@pytest.mark.parametrize("wrong", ["init=missing.safetensors", "pretrain.mask_ratio=0.99"])
def test_a_mistake_leaves_the_run_folder_free(mini_ferplus: Path, tmp_path: Path, wrong: str) -> None:
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path / "run")]
    arguments += ["--set", 'stages=["pretrain"]']
    with pytest.raises(FerError):
        runner.invoke(app, [*arguments, "--set", wrong], catch_exceptions=False)
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "fer eval" not in result.stderr  # of an encoder


def test_what_a_later_stage_reads_is_missed_at_once(tmp_path: Path) -> None:
    folder, _ = write_mini_photos(tmp_path / "photos", 4)
    arguments = ["train", "debug", "--data", str(folder), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(DatasetError, match="no labelled faces"):
        runner.invoke(app, [*arguments, "--set", 'pretrain.images=["photos"]'], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "train+valid"])
def test_nothing_is_selected_on_faces_that_are_trained_on(mini_ferplus: Path, tmp_path: Path, split: str) -> None:
    arguments = ["train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path)]
    for value in ('stages=["finetune"]', f"finetune.split={split}"):
        arguments += ["--set", value]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "finetune" / "last.safetensors")
    assert not (tmp_path / "finetune" / "best.safetensors").exists()
    _, info = load_checkpoint(tmp_path / "finetune" / "last.safetensors")
    assert info.counters["epochs"] == 3
    assert info.metrics == {}
    assert info.contract is not None
    assert (info.contract.temperature, info.contract.uncertain_below) == (1.0, 0.0)
    assert "dev_accuracy" not in result.stderr


def test_three_channels_and_photos(tmp_path: Path) -> None:
    """A colour network, larger than the pictures, pre-trained on photos and faces together."""
    data = write_mini_ferplus(tmp_path / "data", per_class=6)
    write_mini_photos(tmp_path / "photos", 8)
    arguments = ["train", "debug", "--data", str(data), "--data", str(tmp_path / "photos")]
    arguments += ["--run-dir", str(tmp_path / "run")]
    model = ["model.color_mode=rgb", "model.in_chans=3", "model.img_size=64", "model.mean=[0.5, 0.5, 0.5]"]
    for value in (*model, "model.std=[0.2, 0.2, 0.2]", 'pretrain.images=["photos", "faces"]', "finetune.epochs=1"):
        arguments += ["--set", value]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    classifier = open_classifier(tmp_path / "run" / "finetune" / "best.safetensors")
    gray = crops_of(load_ferplus(data, "valid"))
    assert classifier.logits(gray).shape == (len(gray), 8)
    assert np.array_equal(classifier.logits(gray), classifier.logits(np.repeat(gray[..., None], 3, axis=3)))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["eval", "missing.onnx"], ModelNotFoundError),
        (["eval", "pyproject.toml"], ModelNotFoundError),
        (["train", "no-such-recipe"], FerError),
        (["train", "mimic_tiny_ferplus", "--run-dir", "unused-run"], DatasetError),
    ],
)
def test_errors_are_ours(
    arguments: list[str], error: type[FerError], mini_ferplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        runner.invoke(app, [*arguments, "--data", str(mini_ferplus)], catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "debug"],
        ["eval", "x.onnx", "--data", ".", "--split", "no"],
        ["eval", "x.onnx", "--data", ".", "--votes", "multi_target"],
        ["train", "debug", "--sett"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def test_list_shows_the_recipes() -> None:
    result = runner.invoke(app, ["train", "--list"])
    assert result.exit_code == 0
    assert "mimic_hybrid_ferplus" in result.stdout
    lines = result.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("mimic/vit_l16_ferplus_paper "))
    assert lines[place + 1].strip().startswith("expected: 91.14 % on FERPlus Test (MIMIC Table I")
    assert lines[place + 2].strip().startswith("hardware: ")
