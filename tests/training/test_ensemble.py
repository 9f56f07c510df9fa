"""`fer ensemble`: classifiers joined into one checkpoint that is scored, exported, served and learnt from."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from export.lineage import Joining, lineage
from export.onnx_export import export_onnx
from fer_app.errors import CheckpointError, FerError, InputError
from training.checkpoint import load_checkpoint, read_info, save_checkpoint
from training.cli import evaluate
from training.data.ferplus import load_ferplus
from training.encoder_weights import read_encoder
from training.ensemble import join
from training.ensemble_cli import ensemble
from training.evaluation import TorchClassifier, crops_of, file_sha256, hard_targets, load_classifier, open_classifier
from training.metrics import best_temperature
from training.mimic_finetuning import MimicFinetuning
from training.recipe_files import load_recipe

RUNNER = CliRunner()
app = Typer()
app.command("ensemble")(ensemble)
app.command("eval")(evaluate)


def saved(mini_ferplus: Path, path: Path, seed: int, temperature: float, *changes: str) -> Path:
    """Write a classifier with random weights whose answers are far from even."""
    recipe = load_recipe("debug", [f"seed={seed}", *changes])
    assert recipe.finetune is not None
    faces = load_ferplus(mini_ferplus, "train-main")
    made = MimicFinetuning(recipe, recipe.finetune, faces, None, None)
    with torch.no_grad():
        made.model.get_submodule("head").weight.normal_(std=0.5)
    figures = {"temperature": temperature, "uncertain_below": 0.4}
    made.write(path, made.model, {"epochs": 1, "seconds": 60 * seed}, figures)
    return path


@pytest.fixture
def members(mini_ferplus: Path, tmp_path: Path) -> list[Path]:
    wider = ("model.embed_dim=64", "model.num_heads=2")
    return [
        saved(mini_ferplus, tmp_path / "a.safetensors", 1, 0.5),
        saved(mini_ferplus, tmp_path / "b.safetensors", 2, 2.0, *wider),
    ]


def test_the_whole_is_calibrated_scored_and_exported(members: list[Path], mini_ferplus: Path, tmp_path: Path) -> None:
    target = tmp_path / "both.safetensors"
    told = RUNNER.invoke(
        app, ["ensemble", *map(str, members), "-o", str(target), "--data", str(mini_ferplus)], catch_exceptions=False
    )
    assert told.exit_code == 0, told.output
    assert told.stdout == f"{target}\n"
    network, info = load_classifier(target)
    assert info.contract is not None
    dev = load_ferplus(mini_ferplus, "dev")
    crops, targets = crops_of(dev), hard_targets(dev)
    logits = TorchClassifier(network, info.contract).logits(crops)
    single = [open_classifier(path).logits(crops) for path in members]
    np.testing.assert_allclose(logits, (single[0] / 0.5 + single[1] / 2.0) / 2, rtol=1e-4, atol=1e-5)
    assert info.contract.temperature == pytest.approx(best_temperature(logits, targets))
    right = float((logits.argmax(axis=1) == targets).mean())
    assert info.metrics["dev_accuracy"] == pytest.approx(right)
    assert f"dev accuracy {100 * right:.2f} %" in told.stderr
    assert info.counters == {"seconds": 180}
    assert info.recipe["members_sha256"] == [file_sha256(path) for path in members]

    export_onnx(target, tmp_path / "both.onnx")  # which compares the two
    served = open_classifier(tmp_path / "both.onnx")
    assert served.contract == info.contract
    scored = RUNNER.invoke(app, ["eval", str(target), "--data", str(mini_ferplus), "--split", "train"])
    assert scored.exit_code == 0, scored.output
    assert "both.safetensors was trained on train-main" in scored.stderr


def test_members_may_see_mirror_images_too(members: list[Path], mini_ferplus: Path, tmp_path: Path) -> None:
    target = tmp_path / "mirrored.safetensors"
    words = ["ensemble", str(members[0]), "--mirrored", "-o", str(target), "--data", str(mini_ferplus)]
    told = RUNNER.invoke(app, words, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    info = read_info(target)
    assert info.recipe["mirrored"]
    assert info.recipe.keys() - join(members, tmp_path / "plain.safetensors").recipe.keys() == {"mirrored"}
    crops = crops_of(load_ferplus(mini_ferplus, "dev"))
    alone, joined = open_classifier(members[0]), open_classifier(target)
    turned = np.ascontiguousarray(crops[:, :, ::-1])
    expected = (alone.logits(crops) + alone.logits(turned)) / 2 / 0.5
    np.testing.assert_allclose(joined.logits(crops), expected, rtol=1e-4, atol=1e-5)

    export_onnx(target, tmp_path / "mirrored.onnx")  # which compares the two, at several batch sizes
    served = open_classifier(tmp_path / "mirrored.onnx")
    np.testing.assert_allclose(served.logits(crops), joined.logits(crops), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(served.logits(turned), served.logits(crops), rtol=1e-3, atol=1e-4)
    (step,) = [step for step in lineage(target, info) if isinstance(step, Joining)]
    assert step.command().endswith(" --mirrored --data ferplus/ -o runs/ensemble.safetensors")
    assert next(step.told()).endswith(", of each face and its mirror image.")


def test_without_faces_it_is_not_calibrated(members: list[Path], tmp_path: Path) -> None:
    info = join(members, tmp_path / "both.safetensors")
    assert info.contract is not None
    assert (info.contract.temperature, info.contract.uncertain_below) == (1.0, 0.0)
    assert info.metrics == {}


def test_an_ensemble_teaches_and_is_nothing_to_start_from(
    members: list[Path], mini_ferplus: Path, tmp_path: Path
) -> None:
    target = tmp_path / "both.safetensors"
    join(members, target, mini_ferplus)
    recipe = load_recipe("debug", [f'finetune.distill={{teachers=["{target}"]}}', "finetune.loss=ce"])
    assert recipe.finetune is not None
    student = MimicFinetuning(recipe, recipe.finetune, load_ferplus(mini_ferplus, "train-main"), None, None)
    assert student.teachers is not None
    probs = student.teachers.probs(torch.randn(2, 1, recipe.model.img_size, recipe.model.img_size))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2))
    with pytest.raises(CheckpointError, match=r"both\.safetensors is an ensemble: nothing starts from it; name one"):
        read_encoder(target)
    with pytest.raises(CheckpointError, match="is an ensemble itself: name its members"):
        join([members[0], target], tmp_path / "more.safetensors")


def test_unlike_classifiers_are_refused(members: list[Path], mini_ferplus: Path, tmp_path: Path) -> None:
    target = tmp_path / "both.safetensors"

    def refused(match: str, *paths: Path, kind: type[FerError] = CheckpointError, data: Path | None = None) -> None:
        with pytest.raises(kind, match=match):
            join(paths, target, data)
        assert not target.exists()

    refused("two members or more", members[0])
    other = saved(mini_ferplus, tmp_path / "c.safetensors", 3, 1.0, "model.std=[0.3]")
    refused(r"c\.safetensors and .*a\.safetensors differ in std", members[0], other)
    weights, info = load_checkpoint(members[1])
    whole = dataclasses.replace(info, recipe=info.recipe | {"finetune": info.recipe["finetune"] | {"split": "train"}})
    save_checkpoint(tmp_path / "d.safetensors", weights, whole)
    refused("was trained on train, .* on train-main: nobody could say", members[0], tmp_path / "d.safetensors")
    both = (tmp_path / "d.safetensors",) * 2
    refused("trained on train cannot be calibrated on dev: .*; leave out --data", *both, data=mini_ferplus)
    refused("no checkpoint at", members[0], tmp_path / "nothing.safetensors")
    before = members[0].read_bytes()
    with pytest.raises(InputError, match="is a member itself"):
        join(members, members[0])
    assert members[0].read_bytes() == before
    assert "members" not in read_info(members[0]).architecture
