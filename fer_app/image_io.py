"""Pictures from files and bytes to uint8 RGB arrays, and back.

Pillow reads every header (so the size is known before anything is decoded) and decodes what is rare; OpenCV decodes
the 8-bit JPEG and WebP files that make up most folders, 2 to 5 times faster, and the 16-bit and floating-point files
that Pillow would cut to 8 bits. Where the two disagree on whether a file is damaged, Pillow decides: it is strict about
truncation in every version, while OpenCV 4 fills the missing half with grey.

Whatever the file holds, what comes out is uint8 RGB, upright (EXIF orientation applied), transparency over white.
"""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.atomic_file import replacing
from fer_app.errors import ImageDecodeError, InputError, MissingExtraError
from fer_app.quiet_decoders import quiet_decoders

if TYPE_CHECKING:
    from PIL.Image import Image

UInt8 = npt.NDArray[np.uint8]

# 128 Mpx decode to 384 MB: above the 100 Mpx of medium-format cameras and 108 Mpx of most telephones, far below what
# the few kilobytes of a decompression bomb can claim.
DEFAULT_MAX_PIXELS = 128_000_000

_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}
_HEAD_BYTES = 64
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION_TAG = 0x0112
_FLOAT_RANGES = (1.0, 255.0, 65535.0)
_ENCODERS: dict[str, list[int]] = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}


def read_image(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> UInt8:
    """Decode one picture: JPEG, PNG, WebP, BMP, TIFF, GIF (its first frame) or, with the extra `heic`, HEIC.

    Depth: 16-bit values are divided by 257. Floating-point values are taken as 0..1, 0..255 or 0..65535, whichever is
    the smallest range whose end the picture's largest value does not exceed twofold, and cut to it; 32-bit whole
    numbers as the smaller of the last two that holds them.

    Args:
        source: a path, the file's bytes, or a binary file open for reading.
        max_pixels: a picture with more is refused before it is decoded.
        name: what error messages call the picture; the path by default.

    Returns:
        uint8, (H, W, 3), RGB, contiguous.

    Raises:
        InputError: there is no such file, or it cannot be read.
        ImageDecodeError: the file is no picture, is damaged, or has more than `max_pixels`.
        MissingExtraError: a HEIC file without `pillow-heif`.
    """
    data, kind, name = _load(source, name)
    try:
        with quiet_decoders:
            image = _decode(data, kind, name, max_pixels)
    except (ImageDecodeError, MissingExtraError, MemoryError):
        raise
    # Damaged bytes make the decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, cv2.error.
    except Exception as error:
        raise ImageDecodeError(f"{name}: damaged {kind} file ({_one_line(error)})") from error
    return np.ascontiguousarray(image)


def from_pil(image: Image) -> UInt8:
    """Return the pixels of a PIL image as `read_image` gives those of a file.

    Args:
        image: of any mode; it is loaded if it is still a file.

    Returns:
        uint8, (H, W, 3), RGB, upright, transparency over white, contiguous.

    Raises:
        ImageDecodeError: the file behind it is damaged.
    """
    try:
        with quiet_decoders:
            image.load()
            return np.ascontiguousarray(_upright(_pillow_to_rgb(image), image))
    except MemoryError:
        raise
    except Exception as error:  # as in `read_image`
        raise ImageDecodeError(f"the PIL image cannot be decoded ({_one_line(error)})") from error


def write_image(path: str | Path, rgb: UInt8) -> None:
    """Write a picture; the file appears under its name only when it is complete.

    Args:
        path: the suffix says the format: `.png`, `.jpg`, `.jpeg` or `.webp`.
        rgb: uint8, (H, W, 3), RGB.

    Raises:
        InputError: another suffix, a folder that does not exist, or a picture too large for the format.
        ValueError: `rgb` is not such an array.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 of shape (H, W, 3), got {rgb.dtype} of shape {rgb.shape}")
    suffix = Path(path).suffix.lower()
    if suffix not in _ENCODERS:
        raise InputError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {', '.join(_ENCODERS)}")
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    try:
        with quiet_decoders:
            done, encoded = cv2.imencode(suffix, bgr, _ENCODERS[suffix])
    except cv2.error as error:
        raise InputError(f"{path}: cannot be written as {suffix} ({_one_line(error)})") from error
    if not done:
        raise InputError(f"{path}: a picture of {rgb.shape[1]} x {rgb.shape[0]} px does not fit into {suffix}")
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _load(source: str | Path | bytes | BinaryIO, name: str | None) -> tuple[bytes, str, str]:
    """Return the bytes, the format and the name; a path to something else than a picture is not read to its end."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        return data, _sniff(data, name or "<bytes>"), name or "<bytes>"
    if not isinstance(source, str | Path):
        data = source.read()
        label = name or str(getattr(source, "name", "<stream>"))
        return data, _sniff(data, label), label
    label = name or str(source)
    try:
        with Path(source).open("rb") as file:
            head = file.read(_HEAD_BYTES)
            kind = _sniff(head, label)
            return head + file.read(), kind, label
    except FileNotFoundError as error:
        raise InputError(f"{label}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{label}: is a folder, not a picture") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageDecodeError):
            raise
        raise InputError(f"{label}: cannot be read ({_one_line(error)})") from error


def _sniff(head: bytes, name: str) -> str:
    """Return the key of `_PLUGINS` that the first bytes belong to; suffixes are not trusted."""
    signatures = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"II+\0": "TIFF",
        b"MM\0+": "TIFF",
        b"GIF87a": "GIF",
        b"GIF89a": "GIF",
    }
    for signature, kind in signatures.items():
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIC"
    if not head:
        raise ImageDecodeError(f"{name}: the file is empty")
    raise ImageDecodeError(f"{name}: not a picture in a format that can be read ({', '.join(_PLUGINS)})")


def _decode(data: bytes, kind: str, name: str, max_pixels: int) -> UInt8:
    if kind == "TIFF":
        width, height, bits, ink = _tiff_layout(data)
        _check_size(width, height, max_pixels, name)
        # Pillow's TIFF reader cuts to 8 bits, or refuses; OpenCV knows no CMYK. Both apply the orientation tag.
        if bits > 8 and not ink:
            return _to_rgb(_opencv(data, cv2.IMREAD_UNCHANGED))
    image = _open(data, kind)
    _check_size(image.width, image.height, max_pixels, name)
    if kind in ("JPEG", "WebP") and image.mode in ("RGB", "L") and _opencv_may_read(image, data, kind):
        pixels = _opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, strict=False)
        if pixels is not None:
            return _upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), image)
    image.load()
    if kind == "PNG" and data[24] == 16:  # IHDR's bit depth
        pixels = _opencv(_plain_png(data), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        return _upright(_to_rgb(pixels), image)
    return _upright(_pillow_to_rgb(image), image)


def _open(data: bytes, kind: str) -> Any:
    """Read a header with Pillow's class for the format.

    Not `Image.open`: it imports every plugin, and has a pixel limit of its own that only a global variable can raise.
    """
    module, class_name = _PLUGINS[kind]
    try:
        plugin = importlib.import_module(module)
    except ImportError as error:
        if kind != "HEIC":
            raise
        raise MissingExtraError('HEIC needs pillow-heif: pip install "fer-mimic[heic]"') from error
    return getattr(plugin, class_name)(io.BytesIO(data))


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        raise ImageDecodeError(
            f"{name}: {width} x {height} px is more than the limit of {max_pixels:,} pixels; "
            "raise max_pixels (--max-pixels) if the picture is meant to be that large"
        )


def _tiff_layout(data: bytes) -> tuple[int, int, int, bool]:
    """Return width, height, the largest number of bits a sample, and whether the colours are inks (CMYK)."""
    from PIL import TiffImagePlugin

    file = io.BytesIO(data)
    big = data[2] == 43 or data[3] == 43
    directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if big else 8))
    file.seek(directory.next)
    directory.load(file)
    bits = directory.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    ink = directory.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 5
    return int(directory[256]), int(directory[257]), max(bits), ink


def _opencv_may_read(image: Any, data: bytes, kind: str) -> bool:
    if kind == "WebP":  # OpenCV 4 reads no animations
        return not getattr(image, "is_animated", False)
    # Entropy-coded data never contains this marker, so it ends the picture; where it is missing, the file is truncated.
    return data.find(b"\xff\xd9", _scan_start(data)) >= 0


def _scan_start(data: bytes) -> int:
    """Return where a JPEG's first scan begins, past the metadata segments (which may hold whole thumbnails)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:  # padding
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position


def _plain_png(data: bytes) -> bytes:
    """Return a PNG with nothing but its pixels.

    OpenCV 5 allocates whatever a chunk claims as its length, however short the file: 4 GB and half a minute for one
    wrong byte.
    """
    kept = [data[:8]]
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in (b"IHDR", b"IDAT", b"IEND"):
            if end > len(data):
                raise OSError("a chunk is longer than the file")
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _opencv(data: bytes, flags: int, *, strict: bool = True) -> Any:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None and strict:
        raise OSError("the pixels cannot be decoded")
    return pixels


def _to_rgb(pixels: npt.NDArray[Any]) -> UInt8:
    """Turn what OpenCV read unchanged, (H, W) or (H, W, 1, 3 or 4) in BGR order of any depth, into uint8 RGB."""
    unit = _unit_range(pixels)
    if unit.ndim == 3 and unit.shape[2] == 4:
        alpha = unit[..., 3:]
        unit = unit[..., :3] * alpha + (1 - alpha)
    pixels8 = np.rint(unit * 255).astype(np.uint8)
    code = cv2.COLOR_BGR2RGB if pixels8.ndim == 3 and pixels8.shape[2] == 3 else cv2.COLOR_GRAY2RGB
    return np.asarray(cv2.cvtColor(pixels8, code), np.uint8)


def _unit_range(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale pixel values of any depth to 0..1; see `read_image` for the ranges."""
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(finite.max(initial=0.0))
    # Sharpening and resampling overshoot: a picture of 0..1 may well reach 1.1, one of 0..255 never ends below 2.
    slack, ranges = (2, _FLOAT_RANGES) if values.dtype.kind == "f" else (1, _FLOAT_RANGES[1:])
    top = next((limit for limit in ranges if largest <= slack * limit), largest)
    return np.clip(finite / top, 0, 1).astype(np.float32)


def _pillow_to_rgb(image: Any) -> UInt8:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_rgb(np.asarray(image))
    if image.has_transparency_data:
        from PIL import Image

        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"), np.uint8)


def _upright(pixels: UInt8, image: Any) -> UInt8:
    """Undo the camera's rotation (EXIF tag 0x0112, values 2..8); damaged metadata counts as none."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # as in `read_image`, the bytes may be anything; here they are only metadata
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), np.uint8)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
