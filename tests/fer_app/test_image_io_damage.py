from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fer_app.scene import encoded, scene

from fer_app.errors import ImageDecodeError, InputError
from fer_app.image_io import read_image

KINDS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_errors(tmp_path: Path, kind: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageDecodeError, match=r"half\.\w+: damaged \w+ file \(.+\)$"):
        read_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_truncated_deep_files_are_errors(suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(1).integers(0, 65535, (64, 64, 3), np.uint16)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    with pytest.raises(ImageDecodeError, match="damaged"):
        read_image(data[: len(data) // 2])
    assert capfd.readouterr().err == ""


@given(st.sampled_from(KINDS), st.data())
@settings(max_examples=150)
def test_damaged_bytes_give_a_picture_or_our_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(Image.fromarray(scene()), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = read_image(bytes(damaged), max_pixels=1_000_000)
    except ImageDecodeError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_an_embedded_thumbnail_does_not_hide_truncation() -> None:
    thumbnail = encoded(Image.fromarray(scene()), "JPEG")
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + app1 + data[2:]
    assert read_image(whole).shape == noise.shape
    with pytest.raises(ImageDecodeError):
        read_image(whole[: -len(data) // 3])


def test_a_wrong_chunk_length_in_a_deep_png_costs_nothing() -> None:
    deep = cv2.imencode(".png", scene().astype(np.uint16) * 257)[1].tobytes()
    idat = deep.index(b"IDAT") - 4
    extra = struct.pack(">I", 0xFFFFFFF0) + b"teXt" + bytes(4)
    started = time.monotonic()
    for damaged in (deep[:idat] + extra + deep[idat:], deep[:-12] + extra + deep[-12:]):
        try:
            assert read_image(damaged).shape == (40, 64, 3)
        except ImageDecodeError:
            continue
    assert time.monotonic() - started < 1


def test_bytes_after_the_picture_do_not_matter() -> None:
    data = encoded(Image.fromarray(scene()), "JPEG")
    np.testing.assert_array_equal(read_image(data + b"\xff\xda trailer of a telephone \xff\xd8"), read_image(data))


@pytest.mark.parametrize("content", [b"hello, I am a text", b"%PDF-1.7", b"BM", b"\xff\xd8\xff", b"RIFF1234WEBP"])
def test_no_picture_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ünreadable.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageDecodeError, match=r"ünreadable\.jpg: "):
        read_image(path)


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageDecodeError, match="empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageDecodeError, match="<stdin>: the file is empty"):
        read_image(b"", name="<stdin>")
    with pytest.raises(InputError, match="cannot be read"):
        read_image("nul\0byte.png")


def bomb(side: int) -> bytes:
    """A PNG header that claims a picture of side x side px, and nothing behind it."""
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("side", [12_000, 100_000])
def test_the_pixel_limit_is_checked_before_decoding(side: int) -> None:
    idat = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageDecodeError, match=rf"bomb: {side} x {side} px .* limit of 128,000,000 .*max_pixels"):
        read_image(bomb(side) + idat, name="bomb")


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixel_limit_can_be_set(kind: str) -> None:
    data = encoded(Image.fromarray(scene(20, 30)), kind)
    assert read_image(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageDecodeError, match="30 x 20 px is more than the limit of 599 pixels"):
        read_image(data, max_pixels=599)


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in set(KINDS) - {"TIFF"}:  # whose limit is on one strip, not on the picture
        assert read_image(encoded(Image.fromarray(scene()), kind)).shape == (40, 64, 3)
