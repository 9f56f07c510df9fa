from __future__ import annotations

import math

import numpy as np
import pytest

from fer_app.detection import area_resize as module
from fer_app.detection.area_resize import Frame, area_crops, area_resize, banded_pyramid, integral_image


def slow_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The definition: the mean over rows floor(iL/n) .. ceil((i+1)L/n), and columns likewise."""
    rows, columns = image.shape[:2]
    out = np.empty((3, height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = math.floor(i * rows / height), math.ceil((i + 1) * rows / height)
            left, right = math.floor(j * columns / width), math.ceil((j + 1) * columns / width)
            out[:, i, j] = image[top:bottom, left:right].mean(axis=(0, 1))
    return out


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


@pytest.mark.parametrize("size", [(37, 53), (12, 17), (1, 1), (36, 52), (40, 60), (5, 53)])
def test_area_resize_equals_the_slow_one(picture, size):
    resized = area_resize(integral_image(picture), size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, slow_area(picture, *size), atol=1e-4)


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (0, 1), (3, 9), (11, 12)])
def test_rows_of_a_resized_picture(picture, start, stop):
    integral = integral_image(picture)
    np.testing.assert_array_equal(
        area_resize(integral, (12, 17), start, stop), area_resize(integral, (12, 17))[:, start:stop]
    )


@pytest.mark.parametrize("side", [1, 5, 24, 48])
def test_area_crops_equal_the_slow_one(picture, side):
    rectangles = np.array([[0, 0, 53, 37], [3, 5, 4, 6], [10, 0, 53, 20], [50, 30, 53, 37], [7, 9, 31, 33]])
    crops = area_crops(integral_image(picture), rectangles, side)
    assert crops.shape == (5, 3, side, side)
    for crop, (x0, y0, x1, y1) in zip(crops, rectangles, strict=True):
        np.testing.assert_allclose(crop, slow_area(picture[y0:y1, x0:x1], side, side), atol=1e-4)


def test_no_crops(picture):
    assert area_crops(integral_image(picture), np.zeros((0, 4), np.intp), 24).shape == (0, 3, 24, 24)


def test_strided_pictures(picture):
    expected = area_resize(integral_image(picture[:, ::-1].copy()), (7, 9))
    np.testing.assert_array_equal(area_resize(integral_image(picture[:, ::-1]), (7, 9)), expected)


def test_sums_beyond_32_bits_still_give_the_mean():
    white = np.full((3000, 3000, 3), 255, np.uint8)
    integral = integral_image(white)
    assert white.size // 3 * 255 > 2**31
    assert (area_resize(integral, (13, 17)) == 255).all()
    assert (area_crops(integral, np.array([[1, 2, 2999, 3000]]), 24) == 255).all()


@pytest.mark.parametrize("band_rows", [1, 2, 5, 36, 37, 100])
def test_bands_give_the_same_pixels_as_the_whole(monkeypatch, picture, band_rows):
    monkeypatch.setattr(module, "BAND_PIXELS", band_rows * picture.shape[1])
    sizes = [(37, 53), (36, 52), (12, 17), (5, 53), (1, 1), (40, 60)]
    resized = banded_pyramid(picture, sizes)
    for image, size in zip(resized, sizes, strict=True):
        np.testing.assert_array_equal(image, area_resize(integral_image(picture), size))


def test_bands_of_sums_beyond_32_bits():
    white = np.full((3000, 3000, 3), 255, np.uint8)
    for image in banded_pyramid(white, [(13, 17), (900, 900)]):
        assert (image == 255).all()


def test_a_large_frame_gives_what_a_small_one_does(monkeypatch, picture):
    sizes, rectangles = [(12, 17), (3, 4)], np.array([[0, 0, 53, 37], [3, 5, 4, 6], [7, 9, 31, 33]])
    small = Frame(picture)
    monkeypatch.setattr(module, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(module, "BAND_PIXELS", 200)
    large = Frame(picture)
    assert (large.height, large.width) == (37, 53)
    small.prepare(sizes)
    large.prepare(sizes)
    for size in sizes:
        np.testing.assert_array_equal(large.strip(size, 1, 3), small.strip(size, 1, 3))
    np.testing.assert_array_equal(large.crops(rectangles, 24), small.crops(rectangles, 24))
    assert large.crops(rectangles[:0], 24).shape == (0, 3, 24, 24)


@pytest.mark.parametrize("band_pixels", [1, 60, 400, 10_000])
def test_crops_of_a_large_frame_are_cut_from_whatever_holds_them(monkeypatch, band_pixels):
    """Alone, some together or all together, by how far they are apart."""
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (90, 110, 3), np.uint8)
    low = np.stack([rng.integers(0, 100, 30), rng.integers(0, 80, 30)], axis=1)
    rectangles = np.concatenate([low, np.minimum(low + rng.integers(1, 40, (30, 1)), [110, 90])], axis=1)
    expected = area_crops(integral_image(picture), rectangles, 7)
    monkeypatch.setattr(module, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(module, "BAND_PIXELS", band_pixels)
    np.testing.assert_array_equal(Frame(picture).crops(rectangles, 7), expected)
