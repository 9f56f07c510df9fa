"""Draw what was found into a picture: a box a face, its label, and bars for all probabilities where there is room.

Everything scales with the picture and the face, lies inside the canvas, and keeps off the other faces: where a panel of
bars finds no free place it is left out, and where a label finds none it is shortened. Drawn with Pillow, whose text is
legible at 8 px; nothing here depends on fonts of the machine.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fer_app.label_layout import Chip, Panel, Rect, SteadyLooks, lay_out, load_font, padding, panel_layout
from fer_app.results import Faces

RGB = tuple[int, int, int]

# Okabe and Ito's palette (jfly.uni-koeln.de/color), which stays distinct with every common colour blindness; light grey
# takes the place of its black.
_PALETTE: tuple[RGB, ...] = (
    (200, 200, 200),
    (240, 228, 66),
    (230, 159, 0),
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
)
_COLOUR_OF = {
    "neutral": _PALETTE[0],
    "happiness": _PALETTE[1],
    "surprise": _PALETTE[2],
    "sadness": _PALETTE[3],
    "anger": _PALETTE[4],
    "disgust": _PALETTE[5],
    "fear": _PALETTE[6],
    "contempt": _PALETTE[7],
}
_BLACK: RGB = (0, 0, 0)
_WHITE: RGB = (255, 255, 255)
_DIMMED: RGB = (205, 205, 205)


def draw_faces(image: npt.NDArray[np.uint8], faces: Faces, steady: SteadyLooks | None = None) -> npt.NDArray[np.uint8]:
    """Return a copy of a picture with its faces drawn.

    An uncertain face carries its two most probable labels with question marks instead of a percentage; a tracked one
    its number.

    Args:
        image: uint8, (H, W, 3), RGB; left as it is.
        faces: what was found in it.
        steady: of the video whose next frame this is.

    Returns:
        uint8, (H, W, 3), RGB.

    Raises:
        ValueError: the picture's size is not the one that the faces were found in.
    """
    if image.shape != (faces.height, faces.width, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 of shape {(faces.height, faces.width, 3)}, got {image.dtype} of shape {image.shape}"
        )
    looks = lay_out(faces, steady)
    pixels = image.copy()
    # Small faces lie over large ones, labels over bars, and both over boxes.
    for i, look in looks.items():
        _draw_box(pixels, look.box, _colour(faces, i), look.font_px)
    for i, look in looks.items():
        if look.panel is not None:
            _draw_panel(pixels, look.panel, faces, i)
    for i, look in looks.items():
        if look.chip is not None:
            _draw_chip(pixels, look.chip, _colour(faces, i))
    return pixels


def label_colour(label: str, index: int) -> RGB:
    """Return the colour of a class: fixed for the canonical labels, by its place among the model's for others."""
    return _COLOUR_OF.get(label, _PALETTE[index % len(_PALETTE)])


def _colour(faces: Faces, i: int) -> RGB:
    top = int(faces.top[i])
    return label_colour(faces.labels[top], top)


def _draw_box(pixels: npt.NDArray[np.uint8], box: Rect, colour: RGB, font_px: int) -> None:
    width = max(1, round(font_px / 7))
    # A dark seam on both sides keeps the line visible on a background of its own colour.
    seam = width // 2 if font_px > 8 else 0
    _draw_frame(pixels, box, width + 2 * seam, _BLACK, 0.4)
    x0, y0, x1, y1 = box
    _draw_frame(pixels, (x0 + seam, y0 + seam, x1 - seam, y1 - seam), width, colour, 1.0)


def _draw_frame(pixels: npt.NDArray[np.uint8], rect: Rect, width: int, colour: RGB, alpha: float) -> None:
    """Blend a hollow rectangle into the pixels; `rect` is its outer edge."""
    x0, y0, x1, y1 = rect
    if x0 >= x1 or y0 >= y1:
        return
    wide, high = min(width, (x1 - x0 + 1) // 2), min(width, (y1 - y0 + 1) // 2)
    inner_rows = slice(y0 + high, max(y0 + high, y1 - high))
    for part in (
        pixels[y0 : y0 + high, x0:x1],
        pixels[max(y0 + high, y1 - high) : y1, x0:x1],
        pixels[inner_rows, x0 : x0 + wide],
        pixels[inner_rows, max(x0 + wide, x1 - wide) : x1],
    ):
        part[...] = np.rint(part * (1 - alpha) + np.array(colour) * alpha)


@contextlib.contextmanager
def _patch(pixels: npt.NDArray[np.uint8], rect: Rect) -> Iterator[ImageDraw.ImageDraw]:
    """Give something to draw with on one rectangle, in its coordinates; what it draws outside is cut off.

    Only that part goes through Pillow: taking a 12 Mpx picture there and back costs more than all the drawing. A
    colour with a fourth value, its alpha, is blended with what is there.
    """
    x0, y0, x1, y1 = rect
    part = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    yield ImageDraw.Draw(part, "RGBA")
    pixels[y0:y1, x0:x1] = np.asarray(part)


def _draw_chip(pixels: npt.NDArray[np.uint8], chip: Chip, colour: RGB) -> None:
    x0, y0, x1, y1 = chip.rect
    # Rec. 709 luma; from here up black has the larger contrast ratio of the two.
    ink = _BLACK if 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 105 else _WHITE
    with _patch(pixels, chip.rect) as draw:
        draw.rectangle((0, 0, x1 - x0, y1 - y0), fill=colour)
        _write(draw, (padding(chip.font_px), (y1 - y0) / 2), chip.text, chip.font_px, ink, "lm")


def _draw_panel(pixels: npt.NDArray[np.uint8], panel: Panel, faces: Faces, i: int) -> None:
    layout, font_px = panel_layout(faces.labels, panel.font_px), panel.font_px
    width, height = layout.wh
    bar_x = 2 * layout.pad + layout.name
    thickness = max(2, round(font_px * 0.6))
    with _patch(pixels, panel.rect) as draw:
        draw.rectangle((0, 0, width, height), fill=(*_BLACK, 170))
        for k, (label, prob) in enumerate(zip(faces.labels, faces.probs[i].tolist(), strict=True)):
            middle = layout.pad + (k + 0.5) * layout.row
            ink = _WHITE if k == int(faces.top[i]) else _DIMMED
            _write(draw, (layout.pad, middle), label, font_px, ink, "lm")
            _write(draw, (width - layout.pad, middle), f"{prob:.0%}", font_px, ink, "rm")
            top = round(middle - thickness / 2)
            draw.rectangle((bar_x, top, bar_x + layout.bar - 1, top + thickness - 1), fill=(*_WHITE, 45))
            filled = round(prob * layout.bar)
            if filled:
                draw.rectangle((bar_x, top, bar_x + filled - 1, top + thickness - 1), fill=label_colour(label, k))


def _write(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, font_px: int, ink: RGB, anchor: str) -> None:
    """Draw text as Pillow does, pixel for pixel; a video's labels are the same words and numbers again and again."""
    (part_x, x), (part_y, y) = (math.modf(value) for value in xy)
    mask, left, top = _text_mask(text, font_px, anchor, part_x, part_y)
    draw.bitmap((int(x) + left, int(y) + top), mask, fill=ink)


@functools.lru_cache(maxsize=4096)
def _text_mask(text: str, font_px: int, anchor: str, part_x: float, part_y: float) -> tuple[Image.Image, int, int]:
    """Return how far each pixel is covered by a text, and where that lies from the anchor.

    Args:
        text: one line.
        font_px: size of the font.
        anchor: Pillow's name for the place that is the anchor.
        part_x: of a pixel, by which the anchor lies to the right of its pixel's corner.
        part_y: the same downwards.

    Returns:
        mask: mode L.
        left: of its corner, px.
        top: the same.
    """
    font = load_font(font_px)
    x0, y0, x1, y1 = font.getbbox(text, anchor=anchor)
    left, top = min(0, math.floor(x0) - 1), min(0, math.floor(y0) - 1)
    mask = Image.new("L", (max(1, math.ceil(x1) - left + 2), max(1, math.ceil(y1) - top + 2)))
    ImageDraw.Draw(mask).text((part_x - left, part_y - top), text, fill=255, font=font, anchor=anchor)
    return mask, left, top
