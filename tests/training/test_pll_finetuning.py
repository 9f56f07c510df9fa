"""Fine-tuning with partial labels: the order of Alg. 1, resuming, what a run leaves, and the commands on its model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn import functional as F
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import CheckpointError, ConfigError
from fer_app.image_io import read_image
from models.mimic import MimicClassifier
from models.pll_fer import PllFerClassifier
from tests.training.interrupted import Killed, KilledError, rows
from training.checkpoint import load_checkpoint
from training.cli import evaluate, train
from training.confidences import candidate_sets
from training.data.ferplus import load_ferplus
from training.evaluation import TorchClassifier, crops_of, hard_targets, load_classifier
from training.kept_head import take_head
from training.loop import LoopSettings, fit
from training.pll_finetuning import PllFinetuning
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.sampling import Share
from training.speed_probe import measure_speed

PLL = [
    "finetune.loss=pll",
    "finetune.votes=shares",
    "finetune.views=1",
    "finetune.mix_prob=0.0",
    "finetune.pll.threshold=0.02",
]
DECODER = [f"finetune.label_decoder.{size}" for size in ("depth=1", "num_heads=2", "ffn_dim=16")]
SETTINGS = LoopSettings(epochs=3, batch_size=32, lr=3e-3, ema_decay=0.9, precision="fp32", checkpoint_minutes=1e-9)


class Interruptible(Killed, PllFinetuning):
    """Stops before its n-th step, as a killed process would."""


def objective(data: Path, *changes: str, select: bool = True) -> Interruptible:
    recipe = load_recipe("debug", [*PLL, *changes])
    assert recipe.finetune is not None
    faces = load_ferplus(data, "train-main", recipe.finetune.votes)
    return Interruptible(recipe, recipe.finetune, faces, load_ferplus(data, "dev") if select else None, None)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def run(target: Interruptible, folder: Path, fabric: Fabric, *, resume: bool = False) -> None:
    fit(target, SETTINGS, RunFolder(folder), fabric, Report(None), resume=resume)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "confidences.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("rule", ["one_hot", "renormalised"])
def test_a_resumed_run_ends_bit_identical(mini_ferplus: Path, tmp_path: Path, fabric: Fabric, rule: str) -> None:
    """Confidences too, after a kill in an epoch in which they are revised."""
    changes = [*DECODER, f"finetune.pll.revision={rule}"]
    whole = objective(mini_ferplus, *changes)
    run(whole, tmp_path / "whole", fabric)
    killed = objective(mini_ferplus, *changes)
    killed.passes_left = 3  # of two steps an epoch: in the second
    with pytest.raises(KilledError):
        run(killed, tmp_path / "killed", fabric)
    assert 0 < int(killed._confidences.revised.sum()) < int(whole._confidences.revised.sum())
    torch.rand(7)  # whatever state the global generator is in must not matter
    resumed = objective(mini_ferplus, *changes)
    run(resumed, tmp_path / "killed", fabric, resume=True)
    for name, tensor in whole.state().items():
        assert torch.equal(resumed.state()[name], tensor), name
    (a, info_a), (b, info_b) = (load_checkpoint(tmp_path / which / "last.safetensors") for which in ("killed", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in b)
    assert info_a.metrics == info_b.metrics
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert table(tmp_path / "killed") == table(tmp_path / "whole")


def test_a_state_with_other_candidates_is_refused(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    killed = objective(mini_ferplus)
    killed.passes_left = 1
    with pytest.raises(KilledError):
        run(killed, tmp_path, fabric)
    with pytest.raises(CheckpointError, match="other labels"):
        run(objective(mini_ferplus, "finetune.pll.flip_probability=0.5"), tmp_path, fabric, resume=True)


def test_a_step_revises_and_then_takes_the_loss(mini_ferplus: Path) -> None:
    """Alg. 1: the same forward pass, the revised confidences."""
    target = objective(mini_ferplus, "finetune.pll.revise_after_epochs=0", "finetune.pll.threshold=0.0")
    target.start_epoch(0, 16, Share())
    samples = torch.arange(5, 21)
    model = target.model.eval()
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    terms = target.losses(model, samples, np.random.default_rng(0))
    images = target._augment(target._faces.images[samples], target._draws[samples, 0])
    logits = model(images)
    sets = candidate_sets(target._targets, 0.0, 0)[samples]
    settled = (logits.sigmoid() * sets / sets.sum(dim=1, keepdim=True)).argmax(dim=1)
    assert (sets.sum(dim=1) > 1).any()
    torch.testing.assert_close(terms["pll"], F.cross_entropy(logits, settled))
    assert torch.equal(terms["loss"], terms["pll"])
    ambiguous = int((sets.sum(dim=1) > 1).sum())
    assert terms["revised"].item() == pytest.approx(ambiguous / target.num_samples)


def test_nothing_is_revised_before_its_epoch(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    run(objective(mini_ferplus, "finetune.pll.threshold=0.0", "finetune.pll.revise_after_epochs=2"), tmp_path, fabric)
    shares = [row["revised"] for row in rows(tmp_path) if "lr" in row]
    assert shares[:2] == [0.0, 0.0]
    assert shares[2] > 0


def test_the_uniform_loss_is_added_with_its_weight(mini_ferplus: Path) -> None:
    weights = (0.0, 0.5)
    found = []
    for weight in weights:
        target = objective(mini_ferplus, *DECODER, f"finetune.label_decoder.uniform_weight={weight}")
        target.start_epoch(0, 16, Share())
        terms = target.losses(target.model.eval(), torch.arange(16), np.random.default_rng(0))
        torch.testing.assert_close(terms["loss"], terms["pll"] + weight * terms["uniform"])
        found.append(terms["uniform"].item())
    assert found[1] == pytest.approx(10.00008, abs=2e-5)  # begins at the simplex
    assert found[0] > 10.0002  # begins at random


def test_measuring_the_speed_leaves_the_labels_alone(mini_ferplus: Path, fabric: Fabric) -> None:
    target = objective(mini_ferplus, *DECODER, "finetune.pll.revise_after_epochs=0", "finetune.pll.threshold=0.0")
    before = {**target.state(), **{name: t.clone() for name, t in target.model.state_dict().items()}}
    measure_speed(target, SETTINGS, fabric)
    after = {**target.state(), **target.model.state_dict()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in target.model.parameters())


def test_what_a_run_leaves(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    target = objective(mini_ferplus, "finetune.pll.sheet_every=2", "finetune.epochs=3", select=False)
    run(target, tmp_path, fabric)
    faces, values, revised = target._faces, target._confidences.values, target._confidences.revised
    assert faces.targets is not None
    lines = table(tmp_path)
    assert [line["name"] for line in lines] == list(faces.names)
    for i, line in enumerate(lines):
        given = faces.class_names[int(faces.targets[i].argmax())]
        candidates = [name for k, name in enumerate(faces.class_names) if faces.targets[i, k] > 0]
        settled = faces.class_names[int(values[i].argmax())] if revised[i] else ""
        assert (line["given"], line["candidates"], line["revised"]) == (given, "|".join(candidates), settled)
        sure = [float(line[f"confidence_{name}"]) for name in faces.class_names]
        assert sure == pytest.approx(values[i].tolist(), abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "revised").iterdir()) == ["epoch-0002.png", "epoch-0003.png"]
    assert read_image(tmp_path / "revised" / "epoch-0003.png").std() > 10
    figures = rows(tmp_path)[-1]
    right = faces.targets.argmax(dim=1) == values.argmax(dim=1)
    assert 0 < figures["revised"] == pytest.approx(float(revised.float().mean()))
    assert figures["revised_to_given"] == pytest.approx(float(right[revised].float().mean()))
    assert "dev_accuracy" not in figures


def test_a_sheet_without_a_revised_face(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    run(objective(mini_ferplus, "finetune.pll.revision=none"), tmp_path, fabric)
    assert (tmp_path / "revised" / "epoch-0003.png").is_file()
    assert rows(tmp_path)[-1]["revised"] == 0
    assert "revised_to_given" not in rows(tmp_path)[-1]


def test_heads_and_what_checkpoints_say_of_them(mini_ferplus: Path, tmp_path: Path) -> None:
    for changes, kind in (((), MimicClassifier), (DECODER, PllFerClassifier)):
        target = objective(mini_ferplus, *changes)
        path = tmp_path / f"{kind.__name__}.safetensors"
        target.write(path, target.model, {}, {"dev_accuracy": 0.5, "temperature": 1.5, "revised": 0.25})
        model, info = load_classifier(path)
        assert isinstance(model, kind)
        assert info.contract is not None
        assert info.contract.temperature == 1.5
        images = torch.randn(2, 1, 48, 48)
        assert torch.equal(model(images), target.model.eval()(images))


def test_a_linear_head_is_new_after_a_label_decoder(mini_ferplus: Path, tmp_path: Path) -> None:
    target = objective(mini_ferplus, *DECODER)
    target.write(tmp_path / "a.safetensors", target.model, {}, {"dev_accuracy": 0.5})
    model = objective(mini_ferplus).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = take_head(model, str(tmp_path / "a.safetensors"), target.class_names)
    assert told == "head: new, as that of a.safetensors is of another kind"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_sets_without_ambiguous_faces_are_refused(mini_ferplus: Path) -> None:
    with pytest.raises(ConfigError, match="every face has one candidate"):
        objective(mini_ferplus, "finetune.votes=majority")
    target = objective(mini_ferplus, "finetune.votes=majority", "finetune.pll.flip_probability=0.3")
    assert (target._confidences.candidates.sum(dim=1) > 1).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["finetune.views=2"], "set views = 1"),
        (["finetune.mix_prob=0.5"], "set mix_prob = 0.0"),
        (["finetune.label_smoothing=0.1", "finetune.class_weights=inverse"], "label_smoothing = 0.0, class_weights = "),
        ([*DECODER, "finetune.keep_head=true"], "keep_head = true goes on with a linear head"),
        (["finetune.loss=ce"], "the tables pll and label_decoder are for loss = 'pll'"),
        (["finetune.pll.treshold=0.1"], "unknown key finetune.pll.treshold (did you mean threshold?)"),
        (["finetune.label_decoder.dept=2"], "did you mean depth?"),
        (["finetune.pll.revision=hard"], "finetune.pll.revision"),
    ],
)
def test_settings_that_do_not_fit_are_told(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("debug", [*PLL, *changes])
    assert said in str(caught.value)


def test_train_and_eval(mini_ferplus: Path, tmp_path: Path) -> None:
    """Masked HOG, then partial labels with a label decoder, then the commands on what came out."""
    app = Typer()
    for name, command in (("train", train), ("eval", evaluate)):
        app.command(name)(command)

    def fer(*arguments: str) -> Any:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result

    hog = ["pretrain.method=hog", "pretrain.hog_cell_px=4", "pretrain.mask_ratio=0.4"]
    sets = [word for change in (*hog, *PLL, *DECODER) for word in ("--set", change)]
    told = fer("train", "debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path / "run"), *sets)
    best = tmp_path / "run" / "finetune" / "best.safetensors"
    assert told.stdout.strip() == str(best)
    assert " revised " in told.stderr
    assert (tmp_path / "run" / "pretrain" / "reconstructions" / "epoch-0001.png").is_file()

    figures = json.loads(fer("eval", str(best), "--data", str(mini_ferplus), "--json").stdout)
    assert figures["n"] == 32
    model, info = load_classifier(best)
    assert isinstance(model, PllFerClassifier)
    assert info.architecture["head"] == "label_decoder"
    assert info.contract is not None
    faces = load_ferplus(mini_ferplus, "valid")
    said = TorchClassifier(model, info.contract).logits(crops_of(faces)).argmax(axis=1)
    assert figures["accuracy"] == pytest.approx((said == hard_targets(faces)).mean())
