from __future__ import annotations

import builtins
import importlib.util
import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from tests.fer_app.scene import encoded, scene, worst

from fer_app import image_io
from fer_app.errors import ImageDecodeError, MissingExtraError
from fer_app.image_io import from_pil, read_image, write_image

needs_heic = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heic")


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 3),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("GIF", {}, 12),
    ],
)
def test_every_format_gives_the_same_rgb(kind: str, options: dict[str, Any], tolerance: float) -> None:
    pixels = read_image(encoded(Image.fromarray(scene()), kind, **options))
    assert pixels.shape == (40, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert worst(pixels, scene()) <= tolerance


@needs_heic
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic(orientation: int) -> None:
    import pillow_heif

    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored = Image.fromarray(rotate_back(scene(), orientation))
    pillow_heif.from_pillow(stored).save(buffer, quality=95, exif=exif.tobytes())
    assert worst(read_image(buffer.getvalue()), scene()) < 6


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_heif(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pillow_heif"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(builtins, "__import__", no_heif)
    with pytest.raises(MissingExtraError, match=r"fer-mimic\[heic\]"):
        read_image(b"\0\0\0\x18ftypheic" + bytes(64))


# What each EXIF value says was done to the upright picture when it was stored, spelled out by hand.
def rotate_back(upright: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    return np.ascontiguousarray(stored)


@given(
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
@settings(max_examples=60)
def test_exif_orientation_is_undone(orientation: int, kind: str, size: tuple[int, int]) -> None:
    upright = scene(*size)
    stored = Image.fromarray(rotate_back(upright, orientation))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    if kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        options["tiffinfo"] = tags
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    pixels = read_image(encoded(stored, kind, **options))
    assert pixels.shape == upright.shape
    assert worst(pixels, upright) <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_16_bit_tiff(orientation: int) -> None:
    gray = scene()[..., 0]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = orientation
    stored = rotate_back(scene(), orientation)[..., 0].astype(np.uint16) * 257
    pixels = read_image(encoded(Image.fromarray(stored), "TIFF", tiffinfo=tags))
    np.testing.assert_array_equal(pixels[..., 1], gray)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_out_of_range_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    pixels = read_image(encoded(Image.fromarray(scene()), "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, scene())


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.fromarray(scene()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert read_image(data).shape == (40, 64, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_is_scaled_not_cut(suffix: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (10, 12, channels), dtype=np.uint16)
    deep[0, 0] = 65535
    deep[0, 1, :3] = 255  # 255 / 257 rounds to 1; the high byte alone is 0
    if channels == 4:
        deep[..., 3] = 65535
    done, data = cv2.imencode(suffix, deep)
    assert done
    expected = np.rint(deep[..., :3].astype(float) / 257)
    expected = np.repeat(expected, 3, axis=2) if channels == 1 else expected[..., ::-1]
    np.testing.assert_array_equal(read_image(data.tobytes()), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("gray", [False, True])
def test_floating_point_tiff(dtype: type, top: float, gray: bool) -> None:
    bgr = scene()[..., ::-1].astype(dtype) / 255 * top
    bgr[0, 0] = top
    values = bgr[..., 2] if gray else bgr
    done, data = cv2.imencode(".tiff", values, [cv2.IMWRITE_TIFF_COMPRESSION, 1])  # none; the default may be lossy
    assert done
    expected = scene()
    expected[0, 0] = 255
    expected = np.repeat(expected[..., :1], 3, axis=2) if gray else expected
    assert np.abs(read_image(data.tobytes()).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_overshoot_does_not_darken_the_picture(top: float) -> None:
    values = np.array([[0, 0.5 * top, top, 1.2 * top]], np.float32)
    done, data = cv2.imencode(".tiff", values)
    assert done
    assert read_image(data.tobytes())[0, :, 0].tolist() == [0, 128, 255, 255]


def test_nan_and_negative_values_are_black() -> None:
    values = np.array([[np.nan, -1.0, np.inf, 1.0]], np.float32)
    done, data = cv2.imencode(".tiff", values)
    assert done
    assert read_image(data.tobytes())[0, :, 0].tolist() == [0, 0, 0, 255]


@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]),
    kind=st.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF"]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
@settings(max_examples=150)
def test_any_mode_gives_uint8_rgb_of_the_right_brightness(mode: str, kind: str, size: tuple[int, int]) -> None:
    white = Image.new("RGBA" if mode in ("LA", "PA", "RGBA") else "RGB", size, "white")
    if mode in ("I;16", "I", "F"):
        kind = "TIFF"  # the only one that stores them all as they are
        peak: int = {"I;16": 65535, "I": 255, "F": 1}[mode]
        image = Image.new(mode, size, peak)
    else:
        image = white.convert("LA").convert("PA") if mode == "PA" else white.convert(mode)
    try:
        data = encoded(image, kind)
    except (OSError, ValueError, KeyError):  # this format does not store this mode
        return
    pixels = read_image(data)
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.min() >= 250


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_transparency_lies_over_white(kind: str, options: dict[str, Any]) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, 0:2] = (255, 0, 0, 255)
    rgba[:, 2:4] = (0, 0, 0, 0)
    rgba[:, 4:6] = (0, 0, 0, 128)
    pixels = read_image(encoded(Image.fromarray(rgba), kind, **options))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 2].tolist() == [255, 255, 255]
    assert abs(int(pixels[0, 4, 0]) - 127) <= 1


def test_transparent_palette_and_key_colour_lie_over_white() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        assert read_image(encoded(palette, kind, transparency=0)).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    keyed = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    assert read_image(encoded(keyed, "PNG", transparency=(9, 8, 7))).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_cmyk_is_not_inverted() -> None:
    data = encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert worst(read_image(data), scene()) < 4
    deep = encoded(Image.fromarray(scene()).convert("CMYK"), "TIFF")
    assert worst(read_image(deep), scene()) < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels = read_image(data)
    assert worst(pixels, np.broadcast_to(np.array([255, 0, 0]), pixels.shape)) < 4


@pytest.mark.parametrize("name", ["photo.jpg", "Überraschung.png", "笑顔 😀.webp", 'a\'b "c".png'])
def test_any_path_as_text_and_as_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_image(path, scene())
    assert worst(read_image(path), scene()) < 4
    np.testing.assert_array_equal(read_image(str(path)), read_image(path))
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_image(file), read_image(path))


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a.png.jpg"
    path.write_bytes(encoded(Image.fromarray(scene()), "PNG"))
    np.testing.assert_array_equal(read_image(path), scene())


def test_threads_leave_the_global_settings_as_they_were() -> None:
    get_level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
    level, filters = get_level(), list(warnings.filters)
    data = encoded(Image.fromarray(scene()), "PNG")
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(read_image, [data] * 64))) == 64
    assert get_level() == level
    assert list(warnings.filters) == filters


def test_photo_speed_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary photo must not go through Pillow's slower decoder."""
    data = encoded(Image.fromarray(scene()), "JPEG")
    monkeypatch.setattr(image_io, "_pillow_to_rgb", lambda image: pytest.fail("decoded by Pillow"))
    assert read_image(data).shape == (40, 64, 3)


def test_pil_images_are_read_like_files() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(rotate_back(scene(), 6)), "PNG", exif=exif)
    np.testing.assert_array_equal(from_pil(Image.open(io.BytesIO(data))), scene())
    clear = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    assert from_pil(clear).tolist() == [[[255, 255, 255]] * 3] * 2
    with pytest.raises(ImageDecodeError, match="the PIL image cannot be decoded"):
        from_pil(Image.open(io.BytesIO(encoded(Image.fromarray(scene()), "JPEG")[:-200])))
