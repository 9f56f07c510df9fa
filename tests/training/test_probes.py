"""Probes against slow oracles and scikit-learn, and `fer probe` on drawn faces."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import CheckpointError, DatasetError, InputError
from models.vit import VisionTransformer
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import crops_of
from training.frozen_features import FrozenEncoder, load_encoder_checkpoint
from training.probe_cli import probe
from training.probe_report import ProbeOptions, run_probe
from training.probes import STRENGTHS, choose_linear, fit_linear, knn_probs
from training.recipe_files import load_recipe
from training.report import Report
from training.stages import run_recipe

app = Typer()
app.command()(probe)

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def clusters(n: int, seed: int, dim: int = 6, classes: int = 3, spread: float = 1.0) -> tuple[Features, Labels]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    labels = np.arange(n) % classes
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels.astype(np.int64)


# --- nearest neighbours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (40, 0.07)])
def test_neighbours_equal_the_slow_ones(k: int, temperature: float) -> None:
    train, labels = clusters(40, 1)
    queries, _ = clusters(9, 2)
    found = knn_probs(train, labels, queries, 3, k=k, temperature=temperature)
    for query, probs in zip(queries.astype(np.float64), found, strict=True):
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in train.astype(float)]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:k]
        votes = [sum(math.exp(cosines[i] / temperature) for i in nearest if labels[i] == c) for c in range(3)]
        assert np.allclose(probs, np.array(votes) / sum(votes), atol=1e-4)


def test_a_face_is_its_own_neighbour_and_length_does_not_matter() -> None:
    train, labels = clusters(30, 3)
    assert (knn_probs(train, labels, 7 * train, 3, k=1).argmax(axis=1) == labels).all()
    assert knn_probs(train, labels, train[:0], 3).shape == (0, 3)


def test_more_rows_than_are_compared_at_once() -> None:
    train, labels = clusters(30, 3)
    queries, _ = clusters(2500, 4)
    whole = knn_probs(train, labels, queries, 3, k=5)
    parts = [knn_probs(train, labels, queries[i : i + 500], 3, k=5) for i in range(0, 2500, 500)]
    assert np.allclose(whole, np.concatenate(parts), atol=1e-6)


@pytest.mark.parametrize(("k", "temperature", "said"), [(31, 0.07, "30 features"), (5, 0.0, "temperature")])
def test_settings_of_neighbours_are_checked(k: int, temperature: float, said: str) -> None:
    train, labels = clusters(30, 3)
    with pytest.raises(InputError, match=said):
        knn_probs(train, labels, train, 3, k=k, temperature=temperature)


# --- the linear layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_the_linear_layer_equals_scikit_learns(strength: float) -> None:
    train, labels = clusters(120, 5, spread=2.0)
    queries, _ = clusters(40, 6, spread=2.0)
    layer = fit_linear(train, labels, 3, strength)
    mean, std = train.mean(axis=0), train.std(axis=0)
    # Its penalty is |w|^2 / 2 + C x the sum of losses, ours the mean of losses + strength x |w|^2 / 2.
    theirs = LogisticRegression(C=1 / (strength * len(train)), tol=1e-10, max_iter=5000)
    theirs.fit(((train - mean) / std).astype(np.float64), labels)
    expected = theirs.predict_proba(((queries - mean) / std).astype(np.float64))
    assert np.allclose(layer.probs(queries), expected, atol=1e-4)


def test_the_gradient_is_zero_at_the_layer() -> None:
    """The optimum of mean cross-entropy + strength x |weight|^2 / 2, written out."""
    train, labels = clusters(90, 7, spread=2.0)
    layer = fit_linear(train, labels, 3, 1e-2)
    x = (torch.from_numpy(train).double() - layer.mean) / layer.std
    error = (x @ layer.weight.T + layer.bias).softmax(dim=1) - torch.eye(3)[torch.from_numpy(labels)]
    gradient = error.T @ x / len(x) + 1e-2 * layer.weight
    assert gradient.abs().max() < 1e-5
    assert error.mean(dim=0).abs().max() < 1e-5
    assert x.mean(dim=0).abs().max() < 1e-5
    assert (x.square().mean(dim=0) - 1).abs().max() < 1e-4


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train, labels = clusters(60, 8)
    train[:, 2] = 1.5
    probs = fit_linear(train, labels, 3, 1e-3).probs(train)
    assert np.isfinite(probs).all()
    assert (probs.argmax(axis=1) == labels).mean() > 0.8


def test_dev_chooses_the_strength() -> None:
    train, labels = clusters(30, 9, dim=25, spread=3.0)
    dev, dev_labels = clusters(300, 10, dim=25, spread=3.0)
    chosen = choose_linear(train, labels, dev, dev_labels, 3)
    right = {s: (fit_linear(train, labels, 3, s).probs(dev).argmax(axis=1) == dev_labels).mean() for s in STRENGTHS}
    assert right[chosen.strength] == max(right.values())
    assert len(set(right.values())) > 1
    known = {s: (fit_linear(train, labels, 3, s).probs(train).argmax(axis=1) == labels).mean() for s in STRENGTHS}
    equal = [s for s in STRENGTHS if known[s] == max(known.values())]
    assert len(equal) > 1
    assert choose_linear(train, labels, train, labels, 3).strength == max(equal)


# --- features ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an encoder and a classifier."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    changes = ["finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.split=train-main"]
    run_recipe(load_recipe("debug", changes), locate([mini_ferplus]), folder, Report(None))
    return folder


def test_an_encoders_features_are_its_final_tokens(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    frozen = FrozenEncoder(path, "cpu")
    crops = crops_of(load_ferplus(mini_ferplus, "valid"))
    features = frozen(crops)
    encoder, info = load_encoder_checkpoint(path)
    assert info.recipe["model"]["mean"] == [0.5]
    images = (torch.from_numpy(crops)[:, None].float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        tokens = encoder.forward_features(images)
    assert list(features) == ["token", "avg"] == list(frozen.features)
    assert np.allclose(features["token"], tokens[:, 0], atol=1e-5)
    assert np.allclose(features["avg"], tokens[:, 1:].mean(dim=1), atol=1e-5)


def test_a_classifiers_features_are_what_its_head_sees(trained: Path, mini_ferplus: Path) -> None:
    from training.evaluation import TorchClassifier, load_classifier

    path = trained / "finetune" / "last.safetensors"
    model, info = load_classifier(path)
    assert info.contract is not None
    crops = crops_of(load_ferplus(mini_ferplus, "valid"))
    features = FrozenEncoder(path, "cpu")(crops)
    assert list(features) == ["head"]
    assert np.array_equal(features["head"], TorchClassifier(model, info.contract).features(crops))


def test_random_weights_have_the_shape_and_nothing_else(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    crops = crops_of(load_ferplus(mini_ferplus, "valid"))
    plain, own = (FrozenEncoder(path, "cpu", untrained=untrained)(crops) for untrained in (True, False))
    again = FrozenEncoder(path, "cpu", untrained=True)(crops)
    assert plain["avg"].shape == own["avg"].shape
    assert np.array_equal(plain["avg"], again["avg"])
    assert not np.allclose(plain["avg"], own["avg"])
    with pytest.raises(CheckpointError, match="is a classifier"):
        FrozenEncoder(trained / "finetune" / "last.safetensors", untrained=True)


def test_a_checkpoint_without_a_recipe_is_told(trained: Path, tmp_path: Path) -> None:
    encoder, info = load_encoder_checkpoint(trained / "pretrain" / "last.safetensors")
    save_checkpoint(
        tmp_path / "bare.safetensors",
        encoder.state_dict(),
        CheckpointInfo(kind="encoder", architecture=info.architecture),
    )
    with pytest.raises(CheckpointError, match="does not tell how its pictures come in"):
        FrozenEncoder(tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        FrozenEncoder(tmp_path / "nothing.safetensors")
    odd = CheckpointInfo(kind="encoder", architecture={"encoder": {**info.architecture["encoder"], "depth": 1}})
    save_checkpoint(tmp_path / "odd.safetensors", encoder.state_dict(), odd)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: its weights do not fit: 12 unknown"):
        load_encoder_checkpoint(tmp_path / "odd.safetensors")


# --- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_table_and_the_object_tell_the_same(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    text = run(path, "--data", mini_ferplus, "--k", 5)
    told = json.loads(run(path, "--data", mini_ferplus, "--k", 5, "--json"))
    assert told == json.loads(run(path, "--data", mini_ferplus, "--k", 5, "--json")), "nothing is drawn"
    n = {split: len(load_ferplus(mini_ferplus, split)) for split in ("train-main", "dev", "valid")}
    assert (told["n_train"], told["n_dev"], told["n"]) == (n["train-main"], n["dev"], n["valid"])
    assert f"FERPlus: train-main n = {n['train-main']}, dev n = {n['dev']}, valid n = {n['valid']}" in text
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["checkpoint_sha256"] == sha256
    assert f"checkpoint sha256 {sha256}" in text
    assert (told["data_set"], told["split"], told["votes"]) == ("ferplus", "valid", "majority")
    assert (told["method"], told["k"], told["temperature"], told["feature_width"]) == ("mae", 5, 0.07, 64)
    kinds = [(row["feature"], row["probe"]) for row in told["probes"]]
    assert kinds == [("token", "knn"), ("token", "linear"), ("avg", "knn"), ("avg", "linear")]
    for row in told["probes"]:
        assert row["n"] == n["valid"]
        assert row["strength"] in (STRENGTHS if row["probe"] == "linear" else (None,))
        assert f"{100 * row['accuracy']:.2f}" in text


def test_probes_are_fit_on_train_main_and_scored_on_the_split(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    report = run_probe(ProbeOptions(checkpoint=path, data=mini_ferplus, k=7, temperature=0.2, device="cpu"))
    frozen = FrozenEncoder(path, "cpu")
    parts = {split: load_ferplus(mini_ferplus, split) for split in ("train-main", "dev", "valid")}
    features = {split: frozen(crops_of(faces))["avg"] for split, faces in parts.items()}
    labels = {split: faces.targets.argmax(dim=1).numpy() for split, faces in parts.items() if faces.targets is not None}
    knn = knn_probs(features["train-main"], labels["train-main"], features["valid"], 8, k=7, temperature=0.2)
    layer = choose_linear(features["train-main"], labels["train-main"], features["dev"], labels["dev"], 8)
    right = [(p.argmax(axis=1) == labels["valid"]).mean() for p in (knn, layer.probs(features["valid"]))]
    assert [row.figures.accuracy for row in report.rows[2:]] == pytest.approx(right)
    assert report.rows[3].strength == layer.strength


def test_a_probe_of_random_weights_says_so(trained: Path, mini_ferplus: Path) -> None:
    told = json.loads(run(trained / "pretrain" / "last.safetensors", "--data", mini_ferplus, "--untrained", "--json"))
    assert told["method"] == "none"


def test_a_classifier_is_probed_with_a_caution_where_it_saw_the_split(
    trained: Path, mini_ferplus: Path, tmp_path: Path
) -> None:
    report = run_probe(ProbeOptions(checkpoint=trained / "finetune" / "last.safetensors", data=mini_ferplus))
    assert (report.method, report.caution) == ("fine-tuned", None)
    assert [(row.feature, row.probe) for row in report.rows] == [("head", "knn"), ("head", "linear")]
    changes = ['stages=["finetune"]', "finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.split=train+valid"]
    made = run_recipe(load_recipe("debug", changes), locate([mini_ferplus]), tmp_path / "run", Report(None))
    result = CliRunner().invoke(app, [str(made), "--data", str(mini_ferplus)], catch_exceptions=False)
    assert "fer: last.safetensors was trained on train+valid, which has faces of valid" in result.stderr


def test_what_cannot_be_probed_is_told(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    with pytest.raises(DatasetError, match="has no FER2013Test"):
        run(path, "--data", mini_ferplus, "--split", "test")
    with pytest.raises(InputError, match="k = 500"):
        run(path, "--data", mini_ferplus, "--k", "500")
    assert CliRunner().invoke(app, [str(path), "--data", str(mini_ferplus), "--split", "dev"]).exit_code == 2


def test_contempt_is_left_out(trained: Path, mini_ferplus: Path) -> None:
    path = trained / "pretrain" / "last.safetensors"
    told = json.loads(run(path, "--data", mini_ferplus, "--drop-contempt", "--json"))
    targets = load_ferplus(mini_ferplus, "valid").targets
    assert targets is not None
    assert told["n"] == (targets.argmax(dim=1) != 7).sum() < len(targets)
    assert told["drop_contempt"] is True


def test_encoders_are_not_opened_as_classifiers(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="is a classifier, not a pre-trained encoder"):
        load_encoder_checkpoint(trained / "finetune" / "last.safetensors")
    encoder, _ = load_encoder_checkpoint(trained / "pretrain" / "last.safetensors")
    assert isinstance(encoder, VisionTransformer)
    assert not encoder.training
