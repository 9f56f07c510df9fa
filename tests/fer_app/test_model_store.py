from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from fer_app import model_store
from fer_app.classifier import OnnxClassifier
from fer_app.detection import MtcnnDetector
from fer_app.errors import ModelIntegrityError, ModelNotFoundError
from fer_app.model_store import (
    bundled_detectors,
    bundled_models,
    find_bundled,
    read_card,
    resolve_detector,
    resolve_model,
    verify,
)

MODEL = """
[[model]]
name = "{name}"
file = "{name}.onnx"
sha256 = "{sha256}"
contract_sha256 = "0"
license = "research only"
default = {default}

[model.metrics]
ferplus_valid_accuracy = 0.5
"""


@pytest.fixture
def weights(tmp_path, monkeypatch, tiny_model):
    """A folder of weights with two classifiers; the second is the default."""
    sha256 = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    manifest = ""
    for name, default in (("one", "false"), ("two", "true")):
        shutil.copy(tiny_model, tmp_path / f"{name}.onnx")
        manifest += MODEL.format(name=name, sha256=sha256, default=default)
    (tmp_path / "manifest.toml").write_text(manifest)
    monkeypatch.setattr(model_store, "WEIGHTS", tmp_path)
    return tmp_path


def test_what_is_bundled_is_what_the_manifest_says():
    variants = [other for entry in bundled_models() for other in entry.variants]
    for entry in (*bundled_models(), *variants, *bundled_detectors()):
        assert hashlib.sha256(verify(entry).read_bytes()).hexdigest() == entry.sha256
        assert entry.license
    for model in bundled_models():
        assert OnnxClassifier(model.path, device="cpu").contract.digest == model.contract_sha256
        assert model.metrics
    for variant in variants:
        contract = OnnxClassifier(variant.path, device="cpu").contract
        assert (contract.digest, contract.precision) == (variant.contract_sha256, variant.precision)
        assert contract.metrics == variant.metrics
    assert {entry.name for entry in bundled_detectors()} == {"mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet"}


def test_every_bundled_network_is_in_the_manifest():
    variants = [other for entry in bundled_models() for other in entry.variants]
    listed = {entry.path for entry in (*bundled_models(), *variants, *bundled_detectors())}
    assert set(model_store.WEIGHTS.rglob("*.onnx")) == listed


def test_names_and_paths(weights, tiny_model):
    assert resolve_model() == weights / "two.onnx"
    assert resolve_model("default") == weights / "two.onnx"
    assert resolve_model("one") == weights / "one.onnx"
    assert resolve_model(str(tiny_model)) == tiny_model
    assert resolve_model(tiny_model) == tiny_model
    assert [(m.name, m.default, m.metrics) for m in bundled_models()] == [
        ("one", False, {"ferplus_valid_accuracy": 0.5}),
        ("two", True, {"ferplus_valid_accuracy": 0.5}),
    ]
    with pytest.raises(ModelNotFoundError, match=r"'three'.*one, two"):
        resolve_model("three")


def test_a_damaged_file_is_refused(weights):
    content = bytearray((weights / "one.onnx").read_bytes())
    content[100] ^= 1
    (weights / "one.onnx").write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=r"one\.onnx is damaged.*install"):
        resolve_model("one")
    assert resolve_model("two")


def test_a_file_is_read_for_verification_once(weights):
    resolve_model("one")
    (weights / "one.onnx").unlink()
    assert resolve_model("one") == weights / "one.onnx"


def test_a_missing_file(weights):
    (weights / "two.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match=r"two\.onnx is missing"):
        resolve_model()


def test_the_detector_runs_only_what_was_verified(weights, tmp_path):
    shutil.copytree(Path(model_store.__file__).parent / "weights" / "mtcnn", tmp_path / "mtcnn")
    shutil.copy(Path(model_store.__file__).parent / "weights" / "manifest.toml", tmp_path)
    assert MtcnnDetector(device="cpu")
    with pytest.raises(ModelNotFoundError, match="no network 'mtcnn-qnet'"):
        resolve_detector("mtcnn-qnet")
    (tmp_path / "mtcnn" / "onet.onnx").write_bytes(b"something else")
    model_store._verified.cache_clear()
    with pytest.raises(ModelIntegrityError, match=r"onet\.onnx is damaged"):
        MtcnnDetector(device="cpu")


def test_nothing_bundled(weights):
    (weights / "manifest.toml").write_text("")
    assert bundled_models() == ()
    with pytest.raises(ModelNotFoundError, match="--model"):
        resolve_model()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("[[model]\n", "manifest.toml"),
        ("[[modell]]\nname = 'x'\n", "unknown table modell"),
        ("[[detector]]\nname = 'x'\nfile = 'x'\nlicense = 'MIT'\n", "detector x: sha256 is missing"),
        ("[[detector]]\nname = 'x'\nfile = 'x'\nlicense = 'MIT'\nsha256 = '0'\nsize = 3\n", "x: unknown key size"),
        (MODEL.format(name="x", sha256="0", default="false"), "exactly one model must have default"),
        (MODEL.format(name="fast", sha256="0", default="true"), "model fast: that is a role"),
        (MODEL.format(name="x", sha256="0", default='true\nrole = "best"'), "no such role: 'best'"),
        (
            "".join(MODEL.format(name=name, sha256="0", default='true\nrole = "fast"') for name in "xy"),
            "two models have the role 'fast'",
        ),
    ],
)
def test_a_manifest_with_a_mistake(weights, manifest, message):
    (weights / "manifest.toml").write_text(manifest)
    with pytest.raises(ModelIntegrityError, match=message):
        bundled_models()


def test_a_role_is_another_name(weights):
    text = (weights / "manifest.toml").read_text()
    (weights / "manifest.toml").write_text(text.replace("default = false", 'default = false\nrole = "accurate"'))
    assert resolve_model("accurate") == weights / "one.onnx"
    assert resolve_model("one") == weights / "one.onnx"
    assert resolve_model() == weights / "two.onnx"
    assert [entry.title for entry in bundled_models()] == ["one (accurate)", "two (default)"]
    assert find_bundled("fast") is None
    with pytest.raises(ModelNotFoundError, match=r"no model of the role 'fast' .* one \(accurate\), two \(default\)"):
        resolve_model("fast")


def test_cards(weights):
    text = (weights / "manifest.toml").read_text()
    (weights / "manifest.toml").write_text(text.replace("default = true", 'default = true\ncard = "two.md"'))
    (weights / "two.md").write_text("# δύο", encoding="utf-8")
    assert read_card() == read_card("two") == "# δύο"
    with pytest.raises(ModelNotFoundError, match=r"no model 'three'"):
        read_card("three")
    with pytest.raises(ModelNotFoundError, match=r"card of one cannot be read"):
        read_card("one")


def test_every_bundled_model_has_a_card():
    for entry in bundled_models():
        card = read_card(entry.name)
        assert card.startswith(f"# {entry.name}\n")
        assert entry.sha256 in card
