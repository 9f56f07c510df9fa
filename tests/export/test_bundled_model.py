"""The models that ship: their files agree, their figures are true, and training can start from the default one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from export.bundle import LARGEST_FAST, LARGEST_FILE
from export.model_card import PICTURES
from fer_app.cli import app
from fer_app.errors import CheckpointError, ModelNotFoundError
from fer_app.model_store import ROLES, bundled_models, read_card
from training.checkpoint import bundled_checkpoint, checkpoint_at, init_path, load_checkpoint, read_info, recipe_digest
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import evaluate, file_sha256, model_file, open_classifier
from training.recipe_files import bundled_recipes, load_recipe
from training.report import Report
from training.stages import run_recipe

MODELS = bundled_models()
TRAINING_WEIGHTS = bundled_checkpoint().parent


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_the_served_file_computes_what_the_kept_weights_do(entry) -> None:
    served, kept = open_classifier(entry.path), open_classifier(TRAINING_WEIGHTS / f"{entry.name}.safetensors")
    assert served.contract == kept.contract
    assert served.contract.metrics == dict(entry.metrics)
    crops = np.random.default_rng(0).integers(0, 256, (9, 48, 48), np.uint8)
    assert np.abs(served.logits(crops) - kept.logits(crops)).max() < 1e-4


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_its_recipe_is_the_bundled_one(entry) -> None:
    kept = read_info(TRAINING_WEIGHTS / f"{entry.name}.safetensors")
    assert open_classifier(entry.path).contract.recipe_sha256 == recipe_digest(kept.recipe)
    if "members" in kept.recipe:
        assert {word.removeprefix("recipe:") for word in kept.recipe["members"]} <= {
            "bundled:" + MODELS[0].name,
            *bundled_recipes(),
        }
        return
    trained = {name: value for name, value in kept.recipe.items() if name not in ("name", "balanced")}
    name = kept.recipe["balanced"]["of"].removeprefix("recipe:")
    stage = kept.recipe["finetune"]
    own = {key: kept.recipe[key] for key in ("init", "precision", "seed", "checkpoint_minutes")} | {
        "finetune.batch_size": stage["batch_size"]
    }
    if "distill" in stage:
        own["finetune.distill.teachers"] = json.dumps(stage["distill"]["teachers"])
    recipe = load_recipe(name, [f"{key}={value}" for key, value in own.items()])
    assert trained | {"name": name} == json.loads(recipe.to_json())


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_its_card_and_size(entry, repository: Path) -> None:
    card = read_card(entry.name)
    assert all((repository / f"docs/images/{entry.name}-{picture}").is_file() for picture in PICTURES)
    assert entry.sha256 in card
    assert f"**{100 * entry.metrics['ferplus_valid_accuracy']:.2f} %**" in card
    sizes = [file.path.stat().st_size for file in (entry, *entry.variants)]
    assert max(sizes) <= LARGEST_FILE
    assert entry.role != "fast" or min(sizes) <= LARGEST_FAST


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_its_other_arithmetics_are_of_the_same_network(entry) -> None:
    served = open_classifier(entry.path)
    crops = np.random.default_rng(0).integers(0, 256, (64, 48, 48), np.uint8)
    for variant in entry.variants:
        other = open_classifier(variant.path)
        own = {"metrics": {}, "uncertain_below": 0.0}  # each arithmetic's probabilities have a threshold that fits them
        assert other.contract.replace(precision="fp32", **own) == served.contract.replace(**own)
        assert other.outputs == served.outputs == ("logits", "features", "evidence")
        assert np.corrcoef(other.logits(crops).ravel(), served.logits(crops).ravel())[0, 1] > 0.98
        assert variant.path.stat().st_size < 0.6 * entry.path.stat().st_size
        assert variant.sha256 in read_card(entry.name)


@pytest.mark.data
@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_its_figure_is_true(entry, ferplus_dir: Path) -> None:
    report = evaluate(open_classifier(entry.path), load_ferplus(locate([ferplus_dir]).need_ferplus(), "valid"))
    assert report.n == 3191
    assert report.accuracy == pytest.approx(entry.metrics["ferplus_valid_accuracy"], abs=1 / 3191)
    for variant in entry.variants:
        report = evaluate(open_classifier(variant.path), load_ferplus(locate([ferplus_dir]).need_ferplus(), "valid"))
        assert report.accuracy == pytest.approx(variant.metrics["ferplus_valid_accuracy"], abs=3 / 3191)


def test_training_starts_from_it(mini_ferplus: Path, tmp_path: Path) -> None:
    values = ["finetune.epochs=1", "finetune.base_lr=1e-12", "finetune.batch_size=16"]
    recipe = load_recipe("finetune", [*values, "finetune.warmup_epochs=0.0", "finetune.ema_decay=0.5"])
    made = run_recipe(recipe, locate([mini_ferplus]), tmp_path / "run", Report(None))
    (ours, _), (theirs, _) = load_checkpoint(made), load_checkpoint(bundled_checkpoint())
    names = [name for name in theirs if name.startswith("encoder.blocks.") and name.endswith("weight")]
    assert names
    assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in names)


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_it_is_known_by_its_names_wherever_a_model_is_named(entry, mini_ferplus: Path, tmp_path: Path) -> None:
    kept = TRAINING_WEIGHTS / f"{entry.name}.safetensors"
    for name in filter(None, (entry.name, entry.role)):
        assert checkpoint_at(name) == init_path(f"bundled:{name}") == kept
        assert model_file(name, precision="fp32") == entry.path
        run = CliRunner().invoke(
            app, ["eval", name, "--data", str(mini_ferplus), "--device", "cpu", "--precision", "fp32"]
        )
        assert run.exit_code == 0, run.output
        assert f"model sha256 {entry.sha256}" in run.output
    shown = CliRunner().invoke(app, ["contract", "show", entry.name, "--json"])
    assert f'"recipe_sha256": "{open_classifier(entry.path).contract.recipe_sha256}"' in shown.output
    exported = CliRunner().invoke(app, ["export", entry.name, "-o", str(tmp_path / "m.onnx")])
    assert exported.exit_code == 0, exported.output
    assert open_classifier(tmp_path / "m.onnx").contract.labels == open_classifier(entry.path).contract.labels


def test_the_default_one_is_a_member_of_the_accurate_one_as_it_is_bundled() -> None:
    (accurate,) = (entry for entry in MODELS if entry.role == "accurate")
    joined, info = load_checkpoint(TRAINING_WEIGHTS / f"{accurate.name}.safetensors")
    place = info.recipe["members"].index(f"bundled:{MODELS[0].name}")
    own, _ = load_checkpoint(bundled_checkpoint())
    assert MODELS[0].default
    assert info.recipe["members_sha256"][place] == file_sha256(bundled_checkpoint())
    assert all(torch.equal(joined[f"members.{place}.{name}"], tensor) for name, tensor in own.items())


def test_names_of_none_of_them_are_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_app.model_store.bundled_models", lambda: MODELS[:1])
    (role,) = set(ROLES) - {MODELS[0].role}
    with pytest.raises(ModelNotFoundError, match=f"no model of the role '{role}' .* {MODELS[0].name}"):
        model_file(role)
    with pytest.raises(CheckpointError, match=f"no model '{role}' is bundled .* {MODELS[0].name}"):
        init_path(f"bundled:{role}")
    with pytest.raises(CheckpointError, match=f"no model '{role}' is bundled"):
        checkpoint_at(role)
    with pytest.raises(CheckpointError, match=f"no model 'nosuch': there is no such file, .* {MODELS[0].name}"):
        checkpoint_at("nosuch")
    assert checkpoint_at("run/best.safetensors") == init_path("run/best.safetensors") == Path("run/best.safetensors")
