from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_app.classifier import Classifier, OnnxClassifier
from fer_app.errors import InputError, ModelContractError, ModelError, ModelNotFoundError
from fer_app.labels import LABELS
from fer_app.preprocess import softmax

ANGER, HAPPINESS, SADNESS = (LABELS.index(label) for label in ("anger", "happiness", "sadness"))


def patched(model: Path, folder: Path, old: bytes, new: bytes) -> Path:
    """A copy of the file with some bytes exchanged for as many others."""
    content = model.read_bytes()
    assert len(old) == len(new)
    assert content.count(old) >= 1
    target = folder / "patched.onnx"
    target.write_bytes(content.replace(old, new))
    return target


@pytest.fixture(scope="module")
def classifier(tiny_model):
    return OnnxClassifier(tiny_model, device="cpu", batch_size=4)


def test_it_is_a_classifier(classifier):
    assert isinstance(classifier, Classifier)
    assert classifier.device == "cpu"
    assert classifier.contract.labels == LABELS
    assert classifier.contract.img_size == 16


def test_red_is_red_and_blue_is_blue(classifier):
    crops = np.zeros((2, 20, 20, 3), np.uint8)
    crops[0, :, :, 0] = 255
    crops[1, :, :, 2] = 255
    red, blue = classifier.logits(crops)
    np.testing.assert_allclose(red[[ANGER, HAPPINESS, SADNESS]], [6, -6, -6], atol=1e-5)
    np.testing.assert_allclose(blue[[ANGER, HAPPINESS, SADNESS]], [-6, -6, 6], atol=1e-5)
    np.testing.assert_array_equal(np.delete(red, [ANGER, HAPPINESS, SADNESS]), 0)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_any_number_of_faces(classifier, count):
    crops = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)
    logits = classifier.logits(crops)
    assert logits.shape == (count, 8)
    assert logits.dtype == np.float32
    colours = crops.mean(axis=(1, 2)) / 255 * 12 - 6
    np.testing.assert_allclose(logits[:, [ANGER, HAPPINESS, SADNESS]], colours, atol=1e-4)
    probs = classifier.probs(crops)
    np.testing.assert_array_equal(probs, softmax(logits))


def test_crops_of_different_sizes(classifier):
    crops = [np.full((size, size + 3, 3), 40 * size % 256, np.uint8) for size in (4, 16, 33, 50, 7)]
    one_by_one = np.concatenate([classifier.logits(crop[None]) for crop in crops])
    np.testing.assert_allclose(classifier.logits(crops), one_by_one, atol=1e-5)


def test_the_temperature_is_used(tiny_model, tmp_path):
    warm = OnnxClassifier(patched(tiny_model, tmp_path, b'"temperature": 1.0', b'"temperature": 2.0'), device="cpu")
    crops = np.full((1, 16, 16, 3), 200, np.uint8)
    np.testing.assert_array_equal(warm.probs(crops), softmax(warm.logits(crops), 2.0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"fer.contract", b"fer.c0ntract", "carries no contract"),
        (b'"img_size": 16', b'"img_size": 24', r"\(batch, 3, 24, 24\).*\(batch, 3, 16, 16\)"),
        (b', "contempt"]', b"            ]", r"logits \(batch, 7\).*logits \(batch, 8\)"),
        (b'"crop"', b'"crap"', "unknown fields: crap"),
        (b'{"color_mode"', b'["color_mode"', "not JSON"),
        (b"images", b"pixels", r"images tensor.*but the network is pixels tensor"),
    ],
)
def test_a_contract_that_does_not_hold(tiny_model, tmp_path, old, new, message):
    with pytest.raises(ModelContractError, match=message) as caught:
        OnnxClassifier(patched(tiny_model, tmp_path, old, new), device="cpu")
    assert "patched.onnx" in str(caught.value)


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"nothing\.onnx"):
        OnnxClassifier(tmp_path / "nothing.onnx", device="cpu")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        OnnxClassifier(tmp_path / "text.onnx", device="cpu")


def test_arguments(tiny_model):
    with pytest.raises(InputError, match="batch_size"):
        OnnxClassifier(tiny_model, batch_size=0)
    with pytest.raises(InputError, match="toaster"):
        OnnxClassifier(tiny_model, device="toaster")


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_what_the_head_sees_and_what_each_patch_says(explained_model, count):
    explained = OnnxClassifier(explained_model, device="cpu", batch_size=4)
    assert explained.outputs == ("logits", "features", "evidence")
    crops = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)
    crops[:, :8, :8, 0] = 255  # one quarter of each picture is red
    means = crops.mean(axis=(1, 2)) / 255 * 2 - 1
    np.testing.assert_allclose(explained.features(crops), means, atol=1e-5)
    evidence = explained.evidence(crops)
    assert evidence.shape == (count, 8, 4, 4)
    np.testing.assert_allclose(evidence.mean(axis=(2, 3)), explained.logits(crops), atol=1e-5)
    np.testing.assert_allclose(evidence[:, ANGER, :2, :2], 6, atol=1e-5)
    assert (evidence[:, ANGER, 2:, 2:] < 5).all()


def test_a_file_without_further_outputs(classifier):
    assert classifier.outputs == ("logits",)
    crops = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ModelError, match=r"tiny\.onnx has no output 'features'; its outputs are logits"):
        classifier.features(crops)
    with pytest.raises(ModelError, match="no output 'evidence'"):
        classifier.evidence(crops)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"evidence", b"evidense", r"logits \(batch, 8\), features \(batch, 3\), but the network is .*evidense"),
        (b', "contempt"]', b"            ]", r"evidence \(batch, 7, 4, 4\), but .*evidence \(batch, 8, 4, 4\)"),
    ],
)
def test_further_outputs_that_do_not_fit_the_contract(explained_model, tmp_path, old, new, message):
    with pytest.raises(ModelContractError, match=message):
        OnnxClassifier(patched(explained_model, tmp_path, old, new), device="cpu")
