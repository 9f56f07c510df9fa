"""Which of several files of one network is run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from fer_app import model_choice, model_store
from fer_app.contract import METADATA_KEY
from fer_app.errors import InputError, ModelError, ModelNotFoundError
from fer_app.model_choice import choose_model, holds_accuracy
from fer_app.recognizer import Recognizer
from fer_app.session import open_session

MANIFEST = """
[[model]]
name = "tiny"
file = "tiny.onnx"
sha256 = "{full}"
contract_sha256 = "0"
license = "any"
default = true
[model.metrics]
ferplus_valid_accuracy = 0.84
ferplus_valid_mean_class_accuracy = 0.6

[[model.variant]]
precision = "int8"
file = "tiny.int8.onnx"
sha256 = "{int8}"
contract_sha256 = "0"
metrics = {{ ferplus_valid_accuracy = {accuracy}, ferplus_valid_mean_class_accuracy = 0.5 }}

[[model.variant]]
precision = "fp16"
file = "tiny.fp16.onnx"
sha256 = "{fp16}"
contract_sha256 = "0"
metrics = {{ ferplus_valid_accuracy = 0.84 }}
"""


def as_precision(tiny_model: Path, path: Path, precision: str) -> Path:
    """Copy the tiny classifier and let it say that it is of another precision, and nothing of another length."""
    content = tiny_model.read_bytes()
    old = open_session(tiny_model, device="cpu").metadata[METADATA_KEY]
    new = old.replace('"precision": "fp32"', f'"precision": "{precision}"')
    assert precision in new
    path.write_bytes(content.replace(old.encode(), new.encode()))
    return path


@pytest.fixture
def bundled(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a model of three files; call it with the accuracy of the int8 one."""

    def install(accuracy: float) -> Path:
        digests = {}
        for precision in ("full", "int8", "fp16"):
            name = "tiny.onnx" if precision == "full" else f"tiny.{precision}.onnx"
            shutil.copy(tiny_model, tmp_path / name)
            digests[precision] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        (tmp_path / "manifest.toml").write_text(MANIFEST.format(accuracy=accuracy, **digests))
        monkeypatch.setattr(model_store, "WEIGHTS", tmp_path)
        model_store._manifest.cache_clear()
        return tmp_path

    yield install
    model_store._manifest.cache_clear()


def test_auto_takes_the_fast_file_that_is_good_enough(bundled) -> None:
    folder = bundled(0.8361)
    for name in ("default", "tiny"):
        assert choose_model(name, device="cpu") == folder / "tiny.int8.onnx"
        assert choose_model(name, device="cuda") == folder / "tiny.fp16.onnx"
        assert choose_model(name, precision="fp32", device="cpu") == folder / "tiny.onnx"


def test_auto_leaves_what_lost_too_much_and_who_asks_gets_it(bundled) -> None:
    folder = bundled(0.8349)
    assert choose_model(device="cpu") == folder / "tiny.onnx"
    assert choose_model(device="cpu", precision="int8") == folder / "tiny.int8.onnx"


def test_auto_looks_for_a_device_that_works(bundled, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled(0.84)
    monkeypatch.setattr(model_choice, "nvidia_device_visible", lambda: True)
    monkeypatch.setattr(model_choice, "device_problem", lambda name: "")
    assert choose_model() == folder / "tiny.fp16.onnx"
    monkeypatch.setattr(model_choice, "device_problem", lambda name: "no libraries")
    assert choose_model() == folder / "tiny.int8.onnx"


def test_what_counts_as_good_enough() -> None:
    full = {"a_accuracy": 0.8, "a_mean_class_accuracy": 0.5, "a_ece": 0.01}
    assert holds_accuracy(full, {"a_accuracy": 0.7951})
    assert not holds_accuracy(full, {"a_accuracy": 0.7949})
    assert not holds_accuracy(full, {"b_accuracy": 0.9})
    assert not holds_accuracy(full | {"b_accuracy": 0.7}, {"a_accuracy": 0.8})
    assert not holds_accuracy({}, {})


def test_a_file_is_taken_as_it_is(tiny_model: Path) -> None:
    assert choose_model(tiny_model) == tiny_model
    assert choose_model(str(tiny_model), precision="fp32") == tiny_model
    with pytest.raises(ModelNotFoundError, match=r"tiny\.onnx comes in fp32, not in int8; `fer export`"):
        choose_model(tiny_model, precision="int8")
    with pytest.raises(ModelNotFoundError, match="no model 'nothing'"):
        choose_model("nothing")
    with pytest.raises(InputError, match="no such precision: 'int4'; use one of auto, fp32, fp16, bf16, int8"):
        Recognizer(tiny_model, precision="int4", device="cpu")


def test_a_folder_with_files_of_one_network(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="without ONNX files"):
        choose_model(tmp_path)
    full = as_precision(tiny_model, tmp_path / "model.onnx", "fp32")
    assert choose_model(tmp_path, device="cpu") == full
    other = as_precision(tiny_model, tmp_path / "model.int8.onnx", "int8")
    assert choose_model(tmp_path, device="cpu") == full  # nothing says that it is as good
    assert choose_model(tmp_path, precision="int8", device="cpu") == other
    other.write_bytes(other.read_bytes().replace(b'"uncertain_below": 0.5', b'"uncertain_below": 0.4'))
    assert Recognizer(other, device="cpu", detect=False).classifier.contract.uncertain_below == 0.4
    assert choose_model(tmp_path, precision="int8", device="cpu") == other  # its own probabilities, its own threshold
    shutil.copy(full, tmp_path / "twice.onnx")
    with pytest.raises(ModelError, match=r"different networks \(model\.int8\.onnx, model\.onnx, twice\.onnx\)"):
        choose_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('precision = "int8"', 'precision = "int4"', "variant: precision is 'int4'"),
        ('precision = "int8"', "", "variant: precision is missing"),
        ('file = "tiny.int8.onnx"', 'file = "x"\nname = "y"', "variant: unknown key name"),
    ],
)
def test_a_manifest_with_a_mistake_in_a_variant(bundled, old: str, new: str, message: str) -> None:
    path = bundled(0.84) / "manifest.toml"
    path.write_text(path.read_text().replace(old, new))
    model_store._manifest.cache_clear()
    with pytest.raises(model_store.ModelIntegrityError, match=message):
        choose_model()
