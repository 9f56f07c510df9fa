"""Draw what was found into a picture: a box a face, its label, and bars for all probabilities where there is room.

Everything scales with the picture and the face, lies inside the canvas, and keeps off the other faces: where a panel of
bars finds no free place it is left out, and where a label finds none it is shortened. Drawn with Pillow, whose text is
legible at 8 px; nothing here depends on fonts of the machine.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fer_app.results import NO_TRACK, Faces

RGB = tuple[int, int, int]
# x0 y0 x1 y1 in px of the picture, the last row and column exclusive.
Rect = tuple[int, int, int, int]

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

# More panels than this hide the picture that they tell of.
_MAX_PANELS = 8
# A panel may cover this share of its own face's box where the picture has no room beside it.
_MAX_COVERED = 0.25


class _Chip(NamedTuple):
    rect: Rect
    text: str
    font_px: int


class _Panel(NamedTuple):
    rect: Rect
    font_px: int


def draw_faces(image: npt.NDArray[np.uint8], faces: Faces) -> npt.NDArray[np.uint8]:
    """Return a copy of a picture with its faces drawn.

    An uncertain face carries its two most probable labels with question marks instead of a percentage; a tracked one
    its number.

    Args:
        image: uint8, (H, W, 3), RGB; left as it is.
        faces: what was found in it.

    Returns:
        uint8, (H, W, 3), RGB.

    Raises:
        ValueError: the picture's size is not the one that the faces were found in.
    """
    if image.shape != (faces.height, faces.width, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 of shape {(faces.height, faces.width, 3)}, got {image.dtype} of shape {image.shape}"
        )
    visible = {i: box for i, box in enumerate(_boxes(faces)) if box is not None}
    # Small faces lie over large ones, not under them.
    boxes = dict(sorted(visible.items(), key=lambda item: -_area(item[1])))
    canvas_wh = (faces.width, faces.height)
    pixels = image.copy()
    for i, box in boxes.items():
        _draw_box(pixels, box, _colour(faces, i), _font_px(box, canvas_wh))
    boxes = _in_lasting_order(faces, boxes)
    chips = _place_chips(faces, boxes, canvas_wh)
    for i, panel in _place_panels(faces, boxes, chips, canvas_wh).items():
        _draw_panel(pixels, panel, faces, i)
    for i, chip in chips.items():
        _draw_chip(pixels, chip, _colour(faces, i))
    return pixels


def _in_lasting_order(faces: Faces, boxes: dict[int, Rect]) -> dict[int, Rect]:
    """Order faces by their track numbers, those without one last.

    Who is placed first decides who gives way. By size, which differs by a pixel or two from frame to frame, labels
    would jump to and fro.
    """
    if faces.track_ids is None:
        return boxes
    numbers = faces.track_ids.tolist()
    return dict(sorted(boxes.items(), key=lambda item: (numbers[item[0]] == NO_TRACK, numbers[item[0]])))


def label_colour(label: str, index: int) -> RGB:
    """Return the colour of a class: fixed for the canonical labels, by its place among the model's for others."""
    return _COLOUR_OF.get(label, _PALETTE[index % len(_PALETTE)])


def _colour(faces: Faces, i: int) -> RGB:
    top = int(faces.top[i])
    return label_colour(faces.labels[top], top)


def _boxes(faces: Faces) -> Iterator[Rect | None]:
    """Yield each face's box in whole px, cut to the picture; None for one that lies outside."""
    for x0, y0, x1, y1 in faces.detections.boxes.tolist():
        left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
        right, bottom = min(faces.width, math.ceil(x1)), min(faces.height, math.ceil(y1))
        yield (left, top, right, bottom) if left < right and top < bottom else None


def _font_px(box: Rect, canvas_wh: tuple[int, int]) -> int:
    """An eighth of the face, within what is legible when the whole picture is looked at on a screen."""
    smallest, largest = _font_range(canvas_wh)
    return round(min(max(min(box[2] - box[0], box[3] - box[1]) / 8, smallest), largest))


def _font_range(canvas_wh: tuple[int, int]) -> tuple[float, float]:
    side = min(canvas_wh)
    smallest = max(min(side / 7, 11), 8, side * 0.012)
    return smallest, max(smallest, side * 0.035)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Made anew each time (0.1 ms): FreeType's objects must not be shared between threads.
    return ImageFont.load_default(size_px)


@functools.lru_cache(maxsize=4096)
def _text_width(text: str, font_px: int) -> int:
    return math.ceil(_font(font_px).getlength(text))


def _area(rect: Rect) -> int:
    return max(0, rect[2] - rect[0]) * max(0, rect[3] - rect[1])


def _overlap(rect: Rect, others: list[Rect]) -> int:
    """Return the area, in px, that a rectangle shares with others, added up."""
    if not others:
        return 0
    rects = np.array(others)
    wide = np.minimum(rects[:, 2], rect[2]) - np.maximum(rects[:, 0], rect[0])
    high = np.minimum(rects[:, 3], rect[3]) - np.maximum(rects[:, 1], rect[1])
    return int((np.maximum(wide, 0) * np.maximum(high, 0)).sum())


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


def _chip_texts(faces: Faces, i: int) -> list[str]:
    """Return what a label may say, the fullest first."""
    ranked = np.argsort(-faces.probs[i], kind="stable")
    first = faces.labels[int(ranked[0])]
    track = ""
    if faces.track_ids is not None and faces.track_ids[i] != NO_TRACK:
        track = f"#{faces.track_ids[i]} "
    if faces.uncertain[i]:
        pair = [f"{faces.labels[int(k)]}?" for k in ranked[:2]]
        return [track + " / ".join(pair), f"{track}{first}?", f"{first}?"]
    return [f"{track}{first} {faces.probs[i].max():.0%}", track + first, first]


def _place_chips(faces: Faces, boxes: dict[int, Rect], canvas_wh: tuple[int, int]) -> dict[int, _Chip]:
    """Give each label a place in the canvas, off the other faces and labels if there is such a place."""
    chips: dict[int, _Chip] = {}
    for i, own in boxes.items():
        others = [box for j, box in boxes.items() if j != i]
        taken = [chip.rect for chip in chips.values()]
        best: tuple[int, _Chip] | None = None
        for chip in _chip_candidates(_chip_texts(faces, i), own, canvas_wh):
            # Text over text is illegible; text over a neighbour's forehead merely hides it.
            cost = 4 * _overlap(chip.rect, taken) + _overlap(chip.rect, others)
            if best is None or cost < best[0]:
                best = (cost, chip)
            if cost == 0:
                break
        if best is not None:
            chips[i] = best[1]
    return chips


def _chip_candidates(texts: list[str], box: Rect, canvas_wh: tuple[int, int]) -> Iterator[_Chip]:
    """Yield the places for a label that lie in the canvas: full text before short, around the box before inside."""
    canvas_w, canvas_h = canvas_wh
    full_px, smallest_px = _font_px(box, canvas_wh), math.ceil(_font_range(canvas_wh)[0])
    x0, y0, x1, y1 = box
    for text in texts:
        for font_px in sorted({full_px, smallest_px}, reverse=True):
            width = _text_width(text, font_px) + 2 * _padding(font_px)
            height = round(font_px * 1.5)
            if width > canvas_w or height > canvas_h:
                continue
            for x, y in (
                (x0, y0 - height),
                (x1 - width, y0 - height),
                (x0, y1),
                (x1 - width, y1),
                (x0, y0),
                (x0, y1 - height),
            ):
                if 0 <= y <= canvas_h - height:
                    x = min(max(x, 0), canvas_w - width)
                    yield _Chip((x, y, x + width, y + height), text, font_px)


def _padding(font_px: int) -> int:
    return max(1, round(font_px * 0.35))


def _draw_chip(pixels: npt.NDArray[np.uint8], chip: _Chip, colour: RGB) -> None:
    x0, y0, x1, y1 = chip.rect
    # Rec. 709 luma; from here up black has the larger contrast ratio of the two.
    ink = _BLACK if 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 105 else _WHITE
    with _patch(pixels, chip.rect) as draw:
        draw.rectangle((0, 0, x1 - x0, y1 - y0), fill=colour)
        middle = (_padding(chip.font_px), (y1 - y0) / 2)
        draw.text(middle, chip.text, fill=ink, font=_font(chip.font_px), anchor="lm")


class _PanelLayout(NamedTuple):
    """Measures of a panel of bars, in px."""

    pad: int
    row: int
    name: int
    bar: int
    percent: int
    rows: int

    @property
    def wh(self) -> tuple[int, int]:
        return 4 * self.pad + self.name + self.bar + self.percent, 2 * self.pad + self.rows * self.row


def _panel_layout(labels: tuple[str, ...], font_px: int) -> _PanelLayout:
    return _PanelLayout(
        pad=max(2, round(font_px * 0.5)),
        row=round(font_px * 1.4),
        name=max(_text_width(label, font_px) for label in labels),
        bar=round(font_px * 4.5),
        percent=_text_width("100%", font_px),
        rows=len(labels),
    )


def _place_panels(
    faces: Faces, boxes: dict[int, Rect], chips: dict[int, _Chip], canvas_wh: tuple[int, int]
) -> dict[int, _Panel]:
    """Give as many faces as possible a panel that touches no other face, label or panel.

    All of a picture's panels lie beside the faces, or all lie below and above them (a row of people leaves more room
    there), so that it is plain which belongs to which.
    """
    smallest_px = math.ceil(_font_range(canvas_wh)[0])
    if smallest_px < 9 or len(boxes) > _MAX_PANELS:
        return {}
    choices: list[dict[int, _Panel]] = []
    for beside in (True, False):
        panels: dict[int, _Panel] = {}
        for i, own in boxes.items():
            taken = [box for j, box in boxes.items() if j != i]
            taken += [chip.rect for chip in chips.values()] + [panel.rect for panel in panels.values()]
            largest_px = max(smallest_px, round(_font_px(own, canvas_wh) * 0.8))
            sizes = np.geomspace(largest_px, smallest_px, 4).round().astype(int).tolist()
            # A part of the face is covered only where even the smallest panel has no room beside it.
            for covered, font_px in itertools.product((0.0, _MAX_COVERED) if beside else (0.0,), sizes):
                wh = _panel_layout(faces.labels, font_px).wh
                rect = _free_place(_panel_corners(wh, own, beside), wh, own, taken, canvas_wh, covered)
                if rect is not None:
                    panels[i] = _Panel(rect, font_px)
                    break
        choices.append(panels)
    return max(choices, key=len)


def _panel_corners(wh: tuple[int, int], box: Rect, beside: bool) -> Iterator[tuple[int, int]]:
    """Yield the upper left corners to try: right before left and as high as the box, or below before above."""
    (width, height), (x0, y0, x1, y1) = wh, box
    gap = max(2, (x1 - x0) // 40)
    if beside:
        for x in (x1 + gap, x0 - gap - width):
            for y in (y0, y1 - height, (y0 + y1 - height) // 2):
                yield x, y
    else:
        label_height = round(0.2 * (y1 - y0))
        for y in (y1 + gap, y1 + label_height, y0 - gap - height, y0 - label_height - height):
            for x in ((x0 + x1 - width) // 2, x0, x1 - width):
                yield x, y


def _free_place(
    corners: Iterator[tuple[int, int]],
    wh: tuple[int, int],
    box: Rect,
    taken: list[Rect],
    canvas_wh: tuple[int, int],
    covered: float,
) -> Rect | None:
    """Return the first place that is free, once in the canvas, and covers at most this share of the face, or None."""
    (width, height), (canvas_w, canvas_h) = wh, canvas_wh
    if width > canvas_w or height > canvas_h:
        return None
    for wanted_x, wanted_y in corners:
        x, y = min(max(wanted_x, 0), canvas_w - width), min(max(wanted_y, 0), canvas_h - height)
        rect = (x, y, x + width, y + height)
        if _overlap(rect, taken) == 0 and _overlap(rect, [box]) <= covered * _area(box):
            return rect
    return None


def _draw_panel(pixels: npt.NDArray[np.uint8], panel: _Panel, faces: Faces, i: int) -> None:
    layout, font = _panel_layout(faces.labels, panel.font_px), _font(panel.font_px)
    width, height = layout.wh
    bar_x = 2 * layout.pad + layout.name
    thickness = max(2, round(panel.font_px * 0.6))
    with _patch(pixels, panel.rect) as draw:
        draw.rectangle((0, 0, width, height), fill=(*_BLACK, 170))
        for k, (label, prob) in enumerate(zip(faces.labels, faces.probs[i].tolist(), strict=True)):
            middle = layout.pad + (k + 0.5) * layout.row
            ink = _WHITE if k == int(faces.top[i]) else _DIMMED
            draw.text((layout.pad, middle), label, fill=ink, font=font, anchor="lm")
            draw.text((width - layout.pad, middle), f"{prob:.0%}", fill=ink, font=font, anchor="rm")
            top = round(middle - thickness / 2)
            draw.rectangle((bar_x, top, bar_x + layout.bar - 1, top + thickness - 1), fill=(*_WHITE, 45))
            filled = round(prob * layout.bar)
            if filled:
                draw.rectangle((bar_x, top, bar_x + filled - 1, top + thickness - 1), fill=label_colour(label, k))
