from __future__ import annotations

import numpy as np
import pytest

from fer_app.bench.product import Product, arithmetic_of, sides


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("side", [5, 130])
def test_it_multiplies(arithmetic, side):
    """The numbers are whole and small, so that every arithmetic has the exact result."""
    product = Product(arithmetic, side, "cpu", threads=1)
    for _ in range(2):
        product.run()
    expected = product.left.astype(np.float64) @ product.right.astype(np.float64)
    np.testing.assert_array_equal(product.result(), expected)
    assert product.result().dtype == {"fp32": np.float32, "fp16": np.float16, "int8": np.int32}[arithmetic]
    assert expected.max() > 9  # more than one product in a sum
    assert product.flop == 2 * side**3


def test_8_bit_products_are_of_unsigned_and_signed_numbers():
    product = Product("int8", 8, "cpu")
    assert (product.left.dtype, product.right.dtype) == (np.uint8, np.int8)


def test_what_a_network_is_held_against():
    """A device's own quick arithmetic where it has one, float32 where ONNX Runtime computes in that."""
    assert [arithmetic_of(p, "cpu") for p in ("fp32", "fp16", "int8")] == ["fp32", "fp32", "int8"]
    assert [arithmetic_of(p, "cuda:1") for p in ("fp32", "fp16", "int8")] == ["fp32", "fp16", "fp32"]
    assert [arithmetic_of(p, "tensorrt:0") for p in ("fp32", "fp16", "int8")] == ["fp32", "fp16", None]


def test_a_gpu_gets_larger_products():
    assert min(sides("cuda:0")) > max(sides("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("arithmetic", ["fp32", "fp16"])
def test_it_multiplies_on_a_gpu(arithmetic):
    product = Product(arithmetic, 130, "cuda:0")
    product.run()
    np.testing.assert_array_equal(product.result(), product.left.astype(float) @ product.right.astype(float))
