"""A network in other arithmetics: what stays as it was, and that a trained one keeps its accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.precision import to_dynamic_int8, to_fp16, to_static_int8, write_contract
from export.threshold import own_threshold
from export.variants import Faces, Variant, export_variants, metrics_of
from fer_app.classifier import OnnxClassifier
from fer_app.errors import ExportError, ParityError
from fer_app.labels import LABELS
from fer_app.model_choice import choose_model
from tests.export.test_onnx_export import CONV, write_checkpoint
from tests.training.miniature import write_mini_ferplus
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import evaluate, fitting_threshold, open_classifier
from training.metrics import classification_report
from training.recipe_files import load_recipe
from training.report import Report
from training.stages import run_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Faces]:
    """A small hybrid that has learnt the drawn faces, and the sets that it is measured on."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_mini_ferplus(folder / "data", per_class=50)
    recipe = load_recipe("debug", ['stages=["finetune"]', "finetune.epochs=6", "finetune.mix_prob=0.0", *CONV])
    checkpoint = run_recipe(recipe, locate([data]), folder / "run", Report(None))
    base = locate([data]).need_ferplus()
    read = {split: load_ferplus(base, split) for split in ("valid", "train-main", "dev")}
    return checkpoint, Faces("ferplus_valid", "FERPlus valid", read["valid"], read["train-main"], read["dev"])


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory: pytest.TempPathFactory) -> list[Variant]:
    checkpoint, faces = trained
    folder = tmp_path_factory.mktemp("made")
    targets = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
    return export_variants(checkpoint, targets, faces=faces, most_lost=0.02)


def test_a_trained_network_keeps_its_accuracy(trained, made: list[Variant]) -> None:
    checkpoint, faces = trained
    before = evaluate(open_classifier(checkpoint, device="cpu"), faces.scored)
    assert before.accuracy > 0.25  # chance is 0.125: it has learnt something that can be lost
    for variant in made:
        again = evaluate(OnnxClassifier(variant.path, device="cpu"), faces.scored)
        assert variant.report is not None
        assert again.accuracy == variant.report.accuracy >= before.accuracy - 0.02
        assert variant.contract.metrics["ferplus_valid_accuracy"] == pytest.approx(again.accuracy, abs=1e-5)


def test_files_are_smaller_and_say_what_they_are(made: list[Variant]) -> None:
    full, half, eighth = made
    assert half.bytes < 0.7 * full.bytes  # half the weights, and nodes that cast
    assert eighth.bytes < 0.6 * full.bytes
    assert max(full.differences.values()) < 1e-4 < max(eighth.differences.values())
    for variant in made:
        served = OnnxClassifier(variant.path, device="cpu")
        assert served.contract == variant.contract
        assert served.contract.precision == variant.precision
        bare = {"precision": "fp32", "metrics": {}, "uncertain_below": 0.0}
        assert served.contract.replace(**bare) == full.contract.replace(**bare)


def test_eight_bits_are_uncertain_by_their_own_probabilities(trained, made: list[Variant]) -> None:
    checkpoint, faces = trained
    full, half, eighth = made
    kept = open_classifier(checkpoint, device="cpu").contract.uncertain_below
    assert full.contract.uncertain_below == half.contract.uncertain_below == kept > 0
    served = OnnxClassifier(eighth.path, device="cpu")
    assert served.contract.uncertain_below == fitting_threshold(served, faces.choice)
    for variant in made:
        assert variant.report is not None
        told, metrics = variant.report.asserted, variant.contract.metrics
        assert told.uncertain_below == variant.contract.uncertain_below
        assert metrics["ferplus_valid_asserted_share"] == pytest.approx(told.share, abs=1e-5)
        assert metrics.get("ferplus_valid_asserted_precision") == pytest.approx(told.precision, abs=1e-5)
    assert choose_model(full.path.parent, precision="int8") == eighth.path  # files of one network still


def test_a_threshold_that_was_not_chosen_is_not_chosen_for_eight_bits(trained, made: list[Variant]) -> None:
    _, faces = trained
    served = OnnxClassifier(made[2].path, device="cpu")
    trained_on_all = served.contract.replace(uncertain_below=0.0)
    assert own_threshold(trained_on_all, served, faces.choice) == trained_on_all
    assert own_threshold(served.contract, served, None) == served.contract


def test_inputs_and_outputs_stay_float32_and_the_batch_free(made: list[Variant]) -> None:
    for variant in made:
        graph = onnx.load(variant.path).graph
        for value in (graph.input[0], graph.output[0]):
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            assert value.type.tensor_type.shape.dim[0].dim_param


def test_eight_bits_leave_attention_and_norms_in_float(made: list[Variant]) -> None:
    graph = onnx.load(made[2].path).graph
    names = {node.op_type for node in graph.node}
    assert names & {"DequantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul"}
    rounded = {out for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    assert not rounded & set(softmax.input)
    seven = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    weights = [array for array in seven if array.ndim > 1]
    assert weights
    assert all(np.abs(array.astype(int)).max() <= 64 for array in weights)


def test_half_precision_keeps_sums_in_float32(made: list[Variant]) -> None:
    graph = onnx.load(made[1].path).graph
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer)
    assert any(node.op_type == "Cast" for node in graph.node)


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_every_calibration_and_a_batch_that_is_left_over(trained, made, tmp_path: Path, calibration) -> None:
    images = np.random.default_rng(0).normal(size=(33, 1, 48, 48)).astype(np.float32)
    to_static_int8(made[0].path, tmp_path / "a.onnx", images, calibration)
    write_contract(tmp_path / "a.onnx", made[2].contract)
    assert OnnxClassifier(tmp_path / "a.onnx", device="cpu").contract == made[2].contract


def test_what_the_tools_raise_becomes_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no network")
    images = np.zeros((2, 1, 48, 48), np.float32)
    with pytest.raises(ExportError, match="could not convert the model to fp16"):
        to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(ExportError, match="could not convert the model to int8"):
        to_dynamic_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(ExportError, match="could not convert the model to int8"):
        to_static_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", images, "minmax")
    assert not (tmp_path / "b.onnx").exists()


def test_half_precision_that_is_far_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    monkeypatch.setattr("export.variants.FP16_TOLERANCE", 0.0)
    with pytest.raises(ParityError, match="not written"):
        export_variants(checkpoint, {"fp32": tmp_path / "a.onnx", "fp16": tmp_path / "b.onnx"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_without_faces_nothing_is_scored(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    (half,) = export_variants(checkpoint, {"fp16": tmp_path / "a.onnx"})
    assert half.report is None
    assert half.contract.metrics == {}
    assert max(half.differences.values()) < 0.05
    with pytest.raises(ExportError, match="int8 is calibrated on faces"):
        export_variants(checkpoint, {"int8": tmp_path / "b.onnx"})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    with pytest.raises(ExportError, match="cannot write"):
        export_variants(checkpoint, {"fp32": tmp_path / "missing" / "a.onnx"})


def test_a_large_network_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.onnx_export.MOST_INSIDE", 100_000)
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    full, half = export_variants(checkpoint, {"fp32": tmp_path / "large.onnx", "fp16": tmp_path / "half.onnx"})
    names = ["a.safetensors", "half.onnx", "large.onnx", "large.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert full.bytes == sum((tmp_path / name).stat().st_size for name in names[2:]) > half.bytes
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    logits = [OnnxClassifier(one.path, device="cpu").logits(crops) for one in (full, half)]
    np.testing.assert_allclose(*logits, atol=0.05)


def test_figures_round_once() -> None:
    """Of 85.835 % with a little more, a figure that was rounded before would become 85.83."""
    targets = np.arange(3191) % len(LABELS)
    told = np.where(np.arange(3191) < 2739, targets, (targets + 1) % len(LABELS))
    report = classification_report(np.eye(len(LABELS), dtype=np.float32)[told], targets, LABELS)
    kept = metrics_of(report, "valid")["valid_accuracy"]
    assert f"{100 * kept:.2f}" == f"{100 * report.accuracy:.2f}" == "85.84"
