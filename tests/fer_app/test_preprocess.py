from __future__ import annotations

import numpy as np
import pytest

from fer_app.contract import Contract
from fer_app.errors import InputError
from fer_app.preprocess import softmax, to_input


def contract(**changes: object) -> Contract:
    plain: dict[str, object] = {
        "labels": ("a", "b"),
        "img_size": 8,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.1, 0.2, 0.3),
        "crop": "fer48-v1",
    }
    return Contract(**{**plain, **changes})  # type: ignore[arg-type]


GRAY = contract(color_mode="gray", in_chans=1, mean=(0.5,), std=(0.25,))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def test_same_size_is_only_normalised(noise):
    got = to_input(noise, contract())
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    for face in range(5):
        for channel, (mean, std) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)]):
            np.testing.assert_allclose(
                got[face, channel], (noise[face, :, :, channel] / 255.0 - mean) / std, rtol=1e-5, atol=1e-5
            )


def test_luma_weights_are_those_of_rgb_not_bgr():
    colours = np.zeros((3, 8, 8, 3), np.uint8)
    colours[np.arange(3), :, :, np.arange(3)] = 255
    luma = to_input(colours, GRAY)[:, 0, 0, 0] * 0.25 + 0.5
    np.testing.assert_allclose(luma, [0.299, 0.587, 0.114], atol=0.002)


@pytest.mark.parametrize("size", [5, 8, 13])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_grey_picture_and_its_copy_in_three_channels_are_the_same(size, in_chans):
    grey = np.random.default_rng(1).integers(0, 256, (4, size, size), np.uint8)
    wanted = contract(color_mode="gray", in_chans=in_chans, mean=(0.5,) * in_chans, std=(0.25,) * in_chans)
    from_grey = to_input(grey, wanted)
    from_rgb = to_input(np.repeat(grey[..., None], 3, axis=3), wanted)
    assert from_grey.shape == (4, in_chans, 8, 8)
    np.testing.assert_array_equal(from_grey, from_rgb)


def test_an_rgb_network_gets_a_grey_picture_three_times():
    grey = np.random.default_rng(2).integers(0, 256, (2, 8, 8), np.uint8)
    np.testing.assert_array_equal(
        to_input(grey, contract()), to_input(np.repeat(grey[..., None], 3, axis=3), contract())
    )


def test_scaling_down_averages_areas(noise):
    crops = np.random.default_rng(3).integers(0, 256, (2, 24, 24, 3), np.uint8)
    means = crops.reshape(2, 8, 3, 8, 3, 3).mean(axis=(2, 4)) / 255
    got = to_input(crops, contract(mean=(0.0,) * 3, std=(1.0,) * 3)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, means, atol=1e-5)


def test_scaling_up_follows_the_contract():
    ramp = np.repeat(np.arange(0, 256, 64, dtype=np.uint8)[None, None, :], 4, axis=1)
    row = to_input(ramp, GRAY)[0, 0, 0] * 0.25 + 0.5
    # Bilinear, pixel centres at half steps: position (i + 0.5) / 2 - 0.5, held at the border.
    expected = np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), np.arange(0, 256, 64)) / 255
    np.testing.assert_allclose(row, expected, atol=1e-5)
    cubic = to_input(ramp, GRAY.replace(interpolation="bicubic"))[0, 0, 0] * 0.25 + 0.5
    assert np.abs(cubic - row).max() > 0.005


def test_each_axis_of_an_oblong_crop_is_scaled_by_its_own_rule():
    tall = np.zeros((1, 16, 4), np.uint8)
    tall[0, ::2] = 200
    got = to_input(tall, GRAY)[0, 0] * 0.25 + 0.5
    np.testing.assert_allclose(got, 100 / 255, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 8, 8), (0, 8, 8, 3), (0, 20, 30, 3)])
def test_no_crops_keep_the_axes(shape):
    assert to_input(np.zeros(shape, np.uint8), contract()).shape == (0, 3, 8, 8)
    assert to_input([], contract()).shape == (0, 3, 8, 8)


def test_crops_of_different_sizes_equal_one_by_one(noise):
    mixed = [noise[0], noise[1, :5], np.ascontiguousarray(noise[2, :, :, 0])]
    got = to_input(mixed, GRAY)
    for i, crop in enumerate(mixed):
        np.testing.assert_array_equal(got[i : i + 1], to_input(crop[None], GRAY))


@pytest.mark.parametrize("size", [8, 5, 11])
def test_a_batch_equals_its_parts(size):
    crops = np.random.default_rng(4).integers(0, 256, (6, size, size, 3), np.uint8)
    together = to_input(crops, contract())
    np.testing.assert_array_equal(together, np.concatenate([to_input(c[None], contract()) for c in crops]))


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((1, 0, 8), np.uint8),
    ],
)
def test_other_arrays_are_refused(crops):
    with pytest.raises(InputError, match="crops"):
        to_input(crops, contract())


def test_softmax():
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 0.0], [-1e4, -1e4]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [1, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(softmax(logits[:1], 2.0), [[1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)]], atol=1e-6)
    assert softmax(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert softmax(logits).dtype == np.float32
