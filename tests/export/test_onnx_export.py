import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import export.onnx_export as module
from export.onnx_export import export_onnx
from fer_app.classifier import OnnxClassifier
from fer_app.contract import METADATA_KEY
from fer_app.errors import CheckpointError, ExportError, ParityError
from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from models.wide_resnet import WideResNet
from tests.models.test_wide_resnet import with_statistics
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.evaluation import TorchClassifier, load_classifier
from training.recipe_files import load_recipe

CONV = ["model.stem=conv", "model.stem_channels=[4, 8, 8, 16]"]
TOKEN = ["finetune.global_pool=token", "finetune.projection=none"]


def write_checkpoint(path: Path, overrides: list[str]) -> Path:
    """Save a classifier with random weights that answers different pictures differently."""
    recipe = load_recipe("debug", ['stages=["finetune"]', *overrides])
    torch.manual_seed(0)
    assert recipe.finetune is not None
    head = {
        "num_classes": 8,
        "projection": recipe.finetune.projection,
        "projection_dim": 16,
        "global_pool": recipe.finetune.global_pool,
    }
    encoder = VisionTransformer(recipe.model.vit_config())
    model = MimicClassifier(encoder, **head)
    for module_ in model.modules():  # statistics of a trained net, so that folding them is tested
        if isinstance(module_, torch.nn.BatchNorm2d):
            module_.running_mean.uniform_(-0.5, 0.5)
            module_.running_var.uniform_(0.5, 2.0)
            torch.nn.init.ones_(module_.weight)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    info = CheckpointInfo(
        kind="classifier",
        architecture={"encoder": encoder.config.to_dict(), **head},
        contract=recipe.contract().replace(temperature=1.5),
    )
    save_checkpoint(path, model.state_dict(), info)
    return path


@pytest.mark.parametrize(
    "overrides",
    [[], CONV, [*CONV, "model.depth=0"], TOKEN, ["model.img_size=40"]],
    ids=["patch", "conv", "residual", "token", "40px"],
)
def test_exported_file_is_the_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", overrides)
    report = export_onnx(checkpoint, tmp_path / "a.onnx")
    assert set(report.differences) == {1, 2, 17}
    assert max(report.differences.values()) < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.safetensors"]  # no side file
    assert b"site-packages" not in (tmp_path / "a.onnx").read_bytes()  # nor where this machine keeps its code

    model, info = load_classifier(checkpoint)
    served = OnnxClassifier(tmp_path / "a.onnx", device="cpu")
    assert served.contract == info.contract
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    expected = TorchClassifier(model, served.contract).logits(crops)
    assert np.ptp(expected, axis=0).max() > 1e-2  # the comparison below can fail
    assert np.abs(served.logits(crops) - expected).max() < 1e-4
    assert served.outputs == model.output_names
    assert np.abs(served.features(crops) - TorchClassifier(model, served.contract).features(crops)).max() < 1e-3
    assert ("evidence" in served.outputs) == (overrides is not TOKEN)
    if "evidence" in served.outputs:
        assert np.abs(served.evidence(crops).mean(axis=(2, 3)) - served.logits(crops)).max() < 1e-5


@pytest.mark.parametrize("overrides", [[], ["model.img_size=33", "model.wrn_depth=16", "model.wrn_widen_factor=2"]])
def test_an_exported_wide_resnet_is_the_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    recipe = load_recipe("margin_mix/debug", overrides)
    shape = recipe.model.wide_resnet_shape()
    torch.manual_seed(0)
    model = with_statistics(WideResNet(8, **shape))
    info = CheckpointInfo(
        kind="classifier", architecture={"wide_resnet": shape, "num_classes": 8}, contract=recipe.contract()
    )
    save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), info)
    report = export_onnx(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    assert max(report.differences.values()) < 1e-4
    served = OnnxClassifier(tmp_path / "a.onnx", device="cpu")
    assert served.contract == recipe.contract()
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    expected = TorchClassifier(model, served.contract).logits(crops)
    assert np.ptp(expected, axis=0).max() > 1e-2  # the comparison below can fail
    assert np.abs(served.logits(crops) - expected).max() < 1e-4
    assert served.outputs == model.output_names
    assert np.abs(served.features(crops) - TorchClassifier(model, served.contract).features(crops)).max() < 1e-3
    assert np.abs(served.evidence(crops).mean(axis=(2, 3)) - served.logits(crops)).max() < 1e-5


def test_metadata_and_dynamic_batch(tmp_path: Path) -> None:
    export_onnx(write_checkpoint(tmp_path / "a.safetensors", []), tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx")
    contract = json.loads({p.key: p.value for p in proto.metadata_props}[METADATA_KEY])
    assert contract["temperature"] == 1.5
    assert contract["labels"][0] == "neutral"
    (batch, *rest) = proto.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [1, 48, 48]
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("pool", [[], TOKEN], ids=["avg", "token"])
def test_every_size_of_transformer(tmp_path: Path, size: str, pool: list[str]) -> None:
    width, depth, heads = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}[
        size
    ]
    shape = [f"model.embed_dim={width}", f"model.depth={depth}", f"model.num_heads={heads}"]
    odd = ["model.img_size=56", "model.patch_size=14"]
    report = export_onnx(write_checkpoint(tmp_path / "a.safetensors", [*shape, *odd, *pool]), tmp_path / "a.onnx")
    assert max(report.differences.values()) < 1e-4
    served = OnnxClassifier(tmp_path / "a.onnx", device="cpu", batch_size=3)
    crops = np.random.default_rng(0).integers(0, 256, (4, 56, 56), np.uint8)
    assert served.logits(crops[:0]).shape == (0, 8)
    one_by_one = np.concatenate([served.logits(crops[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(served.logits(crops), one_by_one, atol=1e-4)


def test_the_opset_is_the_one_that_is_promised(tmp_path: Path) -> None:
    export_onnx(write_checkpoint(tmp_path / "a.safetensors", []), tmp_path / "a.onnx")
    opsets = {one.domain: one.version for one in onnx.load(tmp_path / "a.onnx").opset_import}
    assert opsets[""] == module.OPSET


def test_a_checkpoint_of_before_contracts_told_their_precision(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    with safe_open(checkpoint, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    contract = json.loads(metadata[METADATA_KEY])
    assert contract.pop("precision") == "fp32"
    save_file(weights, checkpoint, metadata | {METADATA_KEY: json.dumps(contract)})
    export_onnx(checkpoint, tmp_path / "a.onnx")
    assert OnnxClassifier(tmp_path / "a.onnx", device="cpu").contract.precision == "fp32"


def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        export_onnx(checkpoint, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_failing_parity_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    (tmp_path / "a.onnx").write_bytes(b"the one before")
    with pytest.raises(ParityError, match="differ from the checkpoint's"):
        export_onnx(checkpoint, tmp_path / "a.onnx", tolerance=0.0)
    assert (tmp_path / "a.onnx").read_bytes() == b"the one before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.safetensors"]


def test_a_further_output_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    forward = MimicClassifier.forward_outputs

    def moved(self, images):
        logits, features, evidence = forward(self, images)
        return logits, features, evidence if torch.compiler.is_exporting() else evidence + 0.2

    monkeypatch.setattr(MimicClassifier, "forward_outputs", moved)
    with pytest.raises(ParityError, match="evidence differs"):
        export_onnx(checkpoint, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_outputs_that_are_not_numbers_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    monkeypatch.setattr(module, "parity", lambda *_: {1: float("nan")})
    with pytest.raises(ParityError):
        export_onnx(checkpoint, tmp_path / "a.onnx")


def test_weights_of_a_large_network_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    inside = export_onnx(checkpoint, tmp_path / "b.onnx")
    monkeypatch.setattr(module, "MOST_INSIDE", 100_000)
    report = export_onnx(checkpoint, tmp_path / "a.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data", "a.safetensors", "b.onnx"]
    assert (tmp_path / "a.onnx").stat().st_size < 0.5 * inside.bytes < report.bytes
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    logits = [OnnxClassifier(tmp_path / name, device="cpu").logits(crops) for name in ("a.onnx", "b.onnx")]
    np.testing.assert_allclose(*logits, atol=1e-6)
    monkeypatch.undo()
    export_onnx(checkpoint, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx.data").exists()


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_onnx(tmp_path / "none.safetensors", tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"the one before")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_onnx(tmp_path / "none.safetensors", tmp_path / "b.onnx")
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    with pytest.raises(ExportError, match="cannot write"):
        export_onnx(checkpoint, tmp_path / "missing" / "a.onnx")


def test_the_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    before = checkpoint.read_bytes()
    with pytest.raises(ExportError, match="the checkpoint itself"):
        export_onnx(checkpoint, tmp_path / "." / "a.safetensors")
    assert checkpoint.read_bytes() == before
