"""What is counted; a whole vision transformer against its formula is in tests/export."""

from __future__ import annotations

import pytest

from fer_app.bench import operations
from fer_app.bench.operations import Node, count_operations
from fer_app.model_store import bundled_models

MAC = 2  # a multiplication and an addition


@pytest.mark.parametrize(
    ("operator", "given", "made", "expected"),
    [
        ("MatMul", [[1, 10, 320]], [[1, 10, 960]], MAC * 10 * 320 * 960),
        ("MatMul", [[1, 5, 10, 64], [1, 5, 64, 10]], [[1, 5, 10, 10]], MAC * 5 * 10 * 64 * 10),
        ("MatMul", [[7], [7, 4]], [[4]], MAC * 7 * 4),
        ("MatMulInteger", [[2, 3, 5], [5, 7], [], []], [[2, 3, 7]], MAC * 2 * 3 * 5 * 7),
        ("Gemm", [[3, 5], [5, 7], [7]], [[3, 7]], MAC * 3 * 5 * 7),
        ("Gemm", [[5, 3], [5, 7]], [[3, 7]], MAC * 3 * 5 * 7),  # the first one meant transposed
        ("FusedMatMul", [[2, 5, 3], [2, 5, 7]], [[2, 3, 7]], MAC * 2 * 3 * 5 * 7),
        ("Conv", [[1, 8, 20, 20], [16, 8, 3, 3], [16]], [[1, 16, 10, 10]], MAC * 16 * 100 * 8 * 9),
        ("Conv", [[1, 8, 20, 20], [8, 1, 3, 3]], [[1, 8, 20, 20]], MAC * 8 * 400 * 9),  # depthwise
        ("QLinearConv", [[1, 8, 20, 20], [], [], [16, 8, 1, 1]], [[1, 16, 20, 20]], MAC * 16 * 400 * 8),
        ("Attention", [[2, 10, 32], [32, 96]], [[2, 10, 32]], MAC * 2 * (10 * 32 * 96 + 2 * 100 * 32)),
        ("Attention", [[2, 4, 10, 8], [2, 4, 12, 8], [2, 4, 12, 6]], [[2, 4, 10, 6]], MAC * 2 * 4 * 120 * (8 + 6)),
        ("MultiHeadAttention", [[2, 10, 32], [2, 12, 32], [2, 12, 32]], [[2, 10, 32]], MAC * 2 * 120 * 64),
    ],
)
def test_products(operator, given, made, expected):
    assert operations._PRODUCTS[operator](given, made) == expected


def test_a_small_file(tiny_model):
    """Three mean colours times the weights of eight labels."""
    assert count_operations(tiny_model) == (MAC * 3 * 8, 0, "")


@pytest.mark.parametrize("model", bundled_models(), ids=lambda model: model.name)
def test_a_bundled_model_is_counted_in_both_arithmetics(model):
    flop, int8, unknown = count_operations(model.path)
    assert (int8, unknown) == (0, "")
    low, high = (6e8, 12e8) if model.role == "accurate" else (1e8, 3e8)  # two networks, each looks twice
    assert low < flop < high
    (variant,) = model.variants
    assert variant.precision == "int8"
    flop_there, int8, unknown = count_operations(variant.path)
    assert (flop_there, unknown) == (flop, "")
    assert int8 > 0.9 * flop


@pytest.mark.parametrize("given", [[[2, 10]], [[2, 10, 3, 4, 5]]])
def test_an_operator_of_unknown_form_makes_the_count_unknown(tiny_model, given, monkeypatch):
    monkeypatch.setattr(
        operations, "_trace", lambda *_, **__: [Node("Relu", [], []), Node("Attention", given, [[1, 2, 3]])]
    )
    assert count_operations(tiny_model) == (None, 0, "the arithmetic of Attention is not known here")


def test_an_unknown_operator_makes_the_count_unknown(tiny_model, monkeypatch):
    monkeypatch.delitem(operations._PRODUCTS, "MatMul")
    assert count_operations(tiny_model) == (None, 0, "the arithmetic of MatMul is not known here")


def test_a_file_that_cannot_be_run(tmp_path):
    (tmp_path / "bad.onnx").write_text("bad")
    flop, _, unknown = count_operations(tmp_path / "bad.onnx")
    assert flop is None
    assert "bad.onnx" in unknown


def test_no_trace_is_left_behind(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(operations.tempfile, "tempdir", str(tmp_path))
    count_operations(tiny_model)
    assert list(tmp_path.iterdir()) == []
