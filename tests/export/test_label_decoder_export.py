"""A label decoder's checkpoint as an ONNX file: parity, its attention maps, and what serving makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.onnx_export import export_onnx
from fer_app.classifier import OnnxClassifier
from fer_app.errors import ModelContractError, ModelError
from fer_app.image_io import read_image
from fer_app.recognizer import Recognizer
from models.pll_fer import PllFerClassifier
from models.vit import VisionTransformer
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.evaluation import TorchClassifier, load_classifier
from training.recipe_files import load_recipe


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with random weights that answers different pictures differently, and its ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = load_recipe("debug", ["model.img_size=40"])
    torch.manual_seed(0)
    encoder = VisionTransformer(recipe.model.vit_config())
    sizes = {"num_classes": 8, "depth": 2, "num_heads": 2, "ffn_dim": 32, "dropout": 0.1}
    model = PllFerClassifier(encoder, **sizes)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    info = CheckpointInfo(
        kind="classifier",
        architecture={"encoder": encoder.config.to_dict(), "head": "label_decoder", **sizes},
        contract=recipe.contract().replace(temperature=1.5),
    )
    save_checkpoint(folder / "a.safetensors", model.state_dict(), info)
    report = export_onnx(folder / "a.safetensors", folder / "a.onnx")
    assert set(report.differences) == {1, 2, 17}
    assert max(report.differences.values()) < 1e-4
    return folder / "a.safetensors", folder / "a.onnx"


def test_logits_and_maps_are_the_checkpoints(exported: tuple[Path, Path]) -> None:
    checkpoint, file = exported
    model, info = load_classifier(checkpoint)
    assert isinstance(model, PllFerClassifier)
    served = OnnxClassifier(file, device="cpu", batch_size=4)
    assert served.contract == info.contract
    crops = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), np.uint8)
    expected = TorchClassifier(model, served.contract).logits(crops)
    assert np.ptp(expected, axis=0).max() > 1e-2  # the comparison below can fail
    assert np.abs(served.logits(crops) - expected).max() < 1e-4
    maps = served.attention(crops)
    assert maps.shape == (9, 8, 5, 5)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1.0, atol=1e-5)
    assert np.ptp(maps, axis=(2, 3)).max() > 1e-2
    np.testing.assert_allclose(served.attention(crops[3:4])[0], maps[3], atol=1e-5)
    assert served.attention(crops[:0]).shape == (0, 8, 5, 5)
    features = TorchClassifier(model, served.contract).features(crops)
    np.testing.assert_allclose(served.features(crops), features, atol=1e-4)
    assert served.outputs == ("logits", "features", "attention")


def test_it_serves_like_any_other(exported: tuple[Path, Path], astronaut_path: Path) -> None:
    faces = Recognizer(exported[1], device="cpu").predict(read_image(astronaut_path))
    assert faces.probs.shape == (1, 8)
    by_torch = Recognizer(exported[0], backend="torch", device="cpu").predict(read_image(astronaut_path))
    np.testing.assert_allclose(by_torch.probs, faces.probs, atol=1e-4)


@pytest.mark.parametrize(("name", "order"), [("maps", (0, 1, 2, 3)), ("attention", (0, 2, 1, 3))])
def test_other_second_outputs_are_refused(
    exported: tuple[Path, Path], tmp_path: Path, name: str, order: tuple[int, ...]
) -> None:
    proto = onnx.load(exported[1])
    for node in proto.graph.node:
        node.output[:] = ["before" if output == "attention" else output for output in node.output]
        node.input[:] = ["before" if given == "attention" else given for given in node.input]
    proto.graph.node.append(onnx.helper.make_node("Transpose", ["before"], [name], perm=order))
    shape = ["batch", *((8, 5, 5)[i - 1] for i in order[1:])]
    proto.graph.output[2].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ModelContractError, match="but the network is"):
        OnnxClassifier(tmp_path / "a.onnx", device="cpu")


def test_a_file_without_maps_has_none(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="no output 'attention'"):
        OnnxClassifier(tiny_model, device="cpu").attention(np.zeros((1, 16, 16, 3), np.uint8))
