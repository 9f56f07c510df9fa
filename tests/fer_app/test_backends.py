"""Backends that other packages bring: found by name, loaded when asked for, and missing packages are named."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from fer_app import backends
from fer_app.backends import backend_names, find_model, open_classifier
from fer_app.classifier import OnnxClassifier
from fer_app.cli import app
from fer_app.errors import InputError, MissingExtraError, ModelNotFoundError
from fer_app.recognizer import Recognizer
from fer_app.session import GpuOptions

SOURCE = """
from pathlib import Path
from fer_app.classifier import OnnxClassifier
asked = []

def find(model):
    return Path(str(model).replace(".abacus", ".onnx"))

def open(file, **options):
    asked.append(options)
    return OnnxClassifier(file, device="cpu")
"""


class Distribution:
    name = "abacus-shop"
    requires = ("beads>=2; extra == 'luxury'",)

    class metadata:  # noqa: N801 - as in importlib
        @staticmethod
        def get_all(key):
            return ["luxury"]


@pytest.fixture
def abacus(tmp_path, monkeypatch):
    """Two backends of a package that is not installed; one of them lacks something."""
    (tmp_path / "abacus_shop").mkdir()
    for name, source in (("__init__", ""), ("abacus", SOURCE), ("needy", "import beads")):
        (tmp_path / "abacus_shop" / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = {}
    for name in ("abacus", "needy"):
        real = EntryPoint(name, f"abacus_shop.{name}", backends.GROUP)
        found[name] = SimpleNamespace(name=name, module=real.module, load=real.load, dist=Distribution)
    monkeypatch.setattr(backends, "entry_points_of", lambda group: found if group == backends.GROUP else {})
    yield
    for name in [name for name in sys.modules if name.startswith("abacus_shop")]:
        del sys.modules[name]


def test_a_backend_is_used_when_asked_for(abacus, tiny_model, tmp_path):
    assert backend_names() == ("onnx", "abacus", "needy")
    model = str(tiny_model).replace(".onnx", ".abacus")
    assert find_model(model, backend="abacus") == tiny_model
    crops = np.full((1, 16, 16, 3), 200, np.uint8)
    recognizer = Recognizer(
        model, backend="abacus", device="cpu", precision="bf16", batch_size=7, threads=3, detect=False
    )
    np.testing.assert_array_equal(
        recognizer.classifier.probs(crops), OnnxClassifier(tiny_model, device="cpu").probs(crops)
    )
    asked = sys.modules["abacus_shop.abacus"].asked
    assert asked == [{"device": "cpu", "precision": "bf16", "batch_size": 7, "threads": 3}]


def test_onnx_runtime_is_the_default_and_loads_no_other(abacus, tiny_model):
    assert isinstance(open_classifier(tiny_model, device="cpu"), OnnxClassifier)
    assert "abacus_shop" not in sys.modules
    with pytest.raises(ModelNotFoundError, match="comes in fp32, not in bf16"):
        open_classifier(tiny_model, device="cpu", precision="bf16")


def test_mistakes(abacus, tiny_model):
    with pytest.raises(InputError, match="no such backend: 'slate'; use one of onnx, abacus, needy"):
        open_classifier(tiny_model, backend="slate")
    with pytest.raises(InputError, match="no such precision"):
        open_classifier(tiny_model, backend="abacus", precision="int4")
    with pytest.raises(InputError, match="CUDA graphs are for the backend onnx, not for abacus"):
        open_classifier(tiny_model, backend="abacus", gpu=GpuOptions(memory_mb=100))
    with pytest.raises(InputError, match="batch_size"):
        open_classifier(tiny_model, backend="abacus", batch_size=0)
    with pytest.raises(MissingExtraError, match=r'backend needy needs beads.*pip install "abacus-shop\[luxury\]"'):
        open_classifier(tiny_model, backend="needy")


def test_at_the_command_line(abacus, tiny_model: Path, astronaut_path: Path):
    def fer(backend: str):
        arguments = ["predict", str(astronaut_path), "-m", str(tiny_model), "--backend", backend, "--format", "csv"]
        return CliRunner().invoke(app, arguments)

    refused = fer("slate")
    assert refused.exit_code == 2
    assert "'slate' is none of onnx, abacus, needy" in refused.stderr
    missing = fer("needy")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("fer: error: the backend needy needs beads")
    done = fer("abacus")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert sys.modules["abacus_shop.abacus"].asked


def test_the_backends_of_this_project_are_declared():
    assert set(backend_names()) >= {"onnx", "torch", "tensorrt"}
    assert {one.value for one in entry_points(group=backends.GROUP)} >= {"export.torch_backend"}


@pytest.mark.parametrize("backend", ["torch", "tensorrt"])
def test_in_a_base_install_the_extra_is_named(backend, astronaut_path: Path):
    code = "import sys; sys.modules['torch'] = None; from fer_app.cli import main; main()"
    arguments = ["predict", str(astronaut_path), "--backend", backend]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    expected = f'fer: error: the backend {backend} needs torch, which is not installed: pip install "fer-mimic[train]"'
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", expected)
