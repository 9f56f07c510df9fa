"""Where labels and bars go in a drawn picture, and how large they are.

All lies inside the canvas and keeps off the other faces: where a panel of bars finds no free place it is left out, and
where a label finds none it is shortened.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ImageFont

from fer_app.results import NO_TRACK, Faces

# x0 y0 x1 y1 in px of the picture, the last row and column exclusive.
Rect = tuple[int, int, int, int]

# More panels than this hide the picture that they tell of.
_MAX_PANELS = 8
# A panel may cover this share of its own face's box where the picture has no room beside it.
_MAX_COVERED = 0.25


class Chip(NamedTuple):
    """A label: where it is, what it says, and how large."""

    rect: Rect
    text: str
    font_px: int
    place: int  # number of the place, as `_chip_candidates` counts


class Panel(NamedTuple):
    """A face's bars: where they are, and how large their text is."""

    rect: Rect
    font_px: int
    beside: bool
    place: int  # number of the corner, as `_panel_corners` counts


class Look(NamedTuple):
    """How a face is drawn.

    Attributes:
        box: around the face, inside the canvas.
        font_px: of its label where there is room.
        chip: its label; None where not even a short one has room.
        panel: its bars; None where they have no room.
    """

    box: Rect
    font_px: int
    chip: Chip | None
    panel: Panel | None


class SteadyLooks:
    """Remembers how the tracked faces of a video were drawn, so that sizes and places do not jump to and fro."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._of_track: dict[int, Look] = {}

    def before(self, faces: Faces) -> dict[int, Look]:
        """Give how the faces of the next frame were drawn in the last one, by their index; not all were there."""
        return {i: self._of_track[track] for i, track in self._tracks(faces).items() if track in self._of_track}

    def note(self, faces: Faces, looks: dict[int, Look]) -> None:
        """Take how they are drawn now."""
        self._of_track = {track: looks[i] for i, track in self._tracks(faces).items() if i in looks}

    def _tracks(self, faces: Faces) -> dict[int, int]:
        ids = [] if faces.track_ids is None else faces.track_ids.tolist()
        return {i: track for i, track in enumerate(ids) if track != NO_TRACK}


def lay_out(faces: Faces, steady: SteadyLooks | None = None) -> dict[int, Look]:
    """Place everything that is drawn for the faces of a picture.

    Args:
        faces: of the picture.
        steady: of the video whose next frame the picture is.

    Returns:
        The look of each face by its index, large faces first; without those that lie outside the picture.
    """
    visible = {i: box for i, box in enumerate(_boxes(faces)) if box is not None}
    boxes = dict(sorted(visible.items(), key=lambda item: -_area(item[1])))
    canvas_wh = (faces.width, faces.height)
    before = steady.before(faces) if steady is not None else {}
    fonts = {i: _font_px(box, canvas_wh, before[i].font_px if i in before else None) for i, box in boxes.items()}
    by_turn = _in_lasting_order(faces, boxes)
    chips = _place_chips(faces, by_turn, fonts, canvas_wh, before)
    panels = _place_panels(faces, by_turn, fonts, chips, canvas_wh, before)
    looks = {i: Look(box, fonts[i], chips.get(i), panels.get(i)) for i, box in boxes.items()}
    if steady is not None:
        steady.note(faces, looks)
    return looks


def _in_lasting_order(faces: Faces, boxes: dict[int, Rect]) -> dict[int, Rect]:
    """Order faces by their track numbers, those without one last.

    Who is placed first decides who gives way. By size, which differs by a pixel or two from frame to frame, labels
    would jump to and fro.
    """
    if faces.track_ids is None:
        return boxes
    numbers = faces.track_ids.tolist()
    return dict(sorted(boxes.items(), key=lambda item: (numbers[item[0]] == NO_TRACK, numbers[item[0]])))


def _boxes(faces: Faces) -> Iterator[Rect | None]:
    """Yield each face's box in whole px, cut to the picture; None for one that lies outside."""
    for x0, y0, x1, y1 in faces.detections.boxes.tolist():
        left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
        right, bottom = min(faces.width, math.ceil(x1)), min(faces.height, math.ceil(y1))
        yield (left, top, right, bottom) if left < right and top < bottom else None


def _font_px(box: Rect, canvas_wh: tuple[int, int], before_px: int | None = None) -> int:
    """An eighth of the face, within what is legible when the whole picture is looked at on a screen.

    It stays as in the frame before while that is about right: a box is never quite as large as the one before.
    """
    smallest, largest = _font_range(canvas_wh)
    wanted = min(max(min(box[2] - box[0], box[3] - box[1]) / 8, smallest), largest)
    if before_px is not None and abs(wanted - before_px) <= max(1.0, before_px / 8):
        return before_px
    return round(wanted)


def _font_range(canvas_wh: tuple[int, int]) -> tuple[float, float]:
    side = min(canvas_wh)
    smallest = max(min(side / 7, 11), 8, side * 0.012)
    return smallest, max(smallest, side * 0.035)


def load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give the font of everything that is drawn."""
    # Made anew each time (0.1 ms): FreeType's objects must not be shared between threads.
    return ImageFont.load_default(size_px)


@functools.lru_cache(maxsize=4096)
def _text_width(text: str, font_px: int) -> int:
    return math.ceil(load_font(font_px).getlength(text))


def _area(rect: Rect) -> int:
    return max(0, rect[2] - rect[0]) * max(0, rect[3] - rect[1])


def _overlap(rect: Rect, others: list[Rect]) -> int:
    """Return the area, in px, that a rectangle shares with others, added up."""
    # Not with NumPy: it takes longer for the few rectangles that there are.
    x0, y0, x1, y1 = rect
    shared = 0
    for left, top, right, bottom in others:
        if left < x1 and right > x0 and top < y1 and bottom > y0:
            wide = max(0, min(x1, right) - max(x0, left))
            shared += wide * max(0, min(y1, bottom) - max(y0, top))
    return shared


def _chip_texts(faces: Faces, i: int) -> list[str]:
    """Return what a label may say, the fullest first."""
    first, second = (faces.labels[k] for k in faces.candidates(i))
    track = ""
    if faces.track_ids is not None and faces.track_ids[i] != NO_TRACK:
        track = f"#{faces.track_ids[i]} "
    if faces.uncertain[i]:
        return [f"{track}{first}? / {second}?", f"{track}{first}?", f"{first}?"]
    return [f"{track}{first} {faces.probs[i].max():.0%}", track + first, first]


def _place_chips(
    faces: Faces,
    boxes: dict[int, Rect],
    fonts: dict[int, int],
    canvas_wh: tuple[int, int],
    before: dict[int, Look],
) -> dict[int, Chip]:
    """Give each label a place in the canvas, off the other faces and labels if there is such a place."""
    chips: dict[int, Chip] = {}
    for i, own in boxes.items():
        others = [box for j, box in boxes.items() if j != i]
        taken = [chip.rect for chip in chips.values()]
        best: tuple[int, Chip] | None = None
        last = before[i].chip if i in before else None
        for chip in _chip_candidates(_chip_texts(faces, i), own, fonts[i], canvas_wh, last):
            # Text over text is illegible; text over a neighbour's forehead merely hides it.
            cost = 4 * _overlap(chip.rect, taken) + _overlap(chip.rect, others)
            if best is None or cost < best[0]:
                best = (cost, chip)
            if cost == 0:
                break
        if best is not None:
            chips[i] = best[1]
    return chips


def _chip_candidates(
    texts: list[str], box: Rect, full_px: int, canvas_wh: tuple[int, int], last: Chip | None
) -> Iterator[Chip]:
    """Yield the places for a label that lie in the canvas: full text before short, around the box before inside."""
    canvas_w, canvas_h = canvas_wh
    smallest_px = math.ceil(_font_range(canvas_wh)[0])
    x0, y0, x1, y1 = box
    for text in texts:
        for font_px in sorted({full_px, smallest_px}, reverse=True):
            width = _text_width(text, font_px) + 2 * padding(font_px)
            height = round(font_px * 1.5)
            if width > canvas_w or height > canvas_h:
                continue
            places = [
                (x0, y0 - height),
                (x1 - width, y0 - height),
                (x0, y1),
                (x1 - width, y1),
                # Inside, from here on.
                (x0, y0),
                (x0, y1 - height),
            ]
            kept = last.place if last is not None and last.place < 4 else None
            for place in _last_first(len(places), kept):
                x, y = places[place]
                # Half a line may lie over the face rather than that the label jumps to the other side.
                if -height <= 2 * min(y, canvas_h - height - y) if place == kept else 0 <= y <= canvas_h - height:
                    x, y = min(max(x, 0), canvas_w - width), min(max(y, 0), canvas_h - height)
                    yield Chip((x, y, x + width, y + height), text, font_px, place)


def _last_first(count: int, last: int | None) -> list[int]:
    """Give 0 to `count` - 1, but before them the one that was taken in the frame before."""
    return sorted(range(count), key=lambda number: (number != last, number))


def padding(font_px: int) -> int:
    """Give the room left and right of a label's text, px."""
    return max(1, round(font_px * 0.35))


class PanelLayout(NamedTuple):
    """Measures of a panel of bars, in px."""

    pad: int
    row: int
    name: int
    bar: int
    percent: int
    rows: int

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height of the panel."""
        return 4 * self.pad + self.name + self.bar + self.percent, 2 * self.pad + self.rows * self.row


def panel_layout(labels: tuple[str, ...], font_px: int) -> PanelLayout:
    """Measure a panel with these labels."""
    return PanelLayout(
        pad=max(2, round(font_px * 0.5)),
        row=round(font_px * 1.4),
        name=max(_text_width(label, font_px) for label in labels),
        bar=round(font_px * 4.5),
        percent=_text_width("100%", font_px),
        rows=len(labels),
    )


def _place_panels(
    faces: Faces,
    boxes: dict[int, Rect],
    fonts: dict[int, int],
    chips: dict[int, Chip],
    canvas_wh: tuple[int, int],
    before: dict[int, Look],
) -> dict[int, Panel]:
    """Give as many faces as possible a panel that touches no other face, label or panel.

    All of a picture's panels lie beside the faces, or all lie below and above them (a row of people leaves more room
    there), so that it is plain which belongs to which.
    """
    smallest_px = math.ceil(_font_range(canvas_wh)[0])
    if smallest_px < 9 or len(boxes) > _MAX_PANELS:
        return {}
    last_panels = {i: look.panel for i, look in before.items() if look.panel is not None}
    was_beside = next((panel.beside for panel in last_panels.values()), True)
    choices: list[dict[int, Panel]] = []
    for beside in (was_beside, not was_beside):
        panels: dict[int, Panel] = {}
        for i, own in boxes.items():
            taken = [box for j, box in boxes.items() if j != i]
            taken += [chip.rect for chip in chips.values()] + [panel.rect for panel in panels.values()]
            largest_px = max(smallest_px, round(fonts[i] * 0.8))
            sizes = np.geomspace(largest_px, smallest_px, 4).round().astype(int).tolist()
            # A part of the face is covered only where even the smallest panel has no room beside it.
            for covered, font_px in itertools.product((0.0, _MAX_COVERED) if beside else (0.0,), sizes):
                wh = panel_layout(faces.labels, font_px).wh
                corners = list(_panel_corners(wh, own, beside))
                last = last_panels[i].place if i in last_panels and beside == was_beside else None
                for place in _last_first(len(corners), last):
                    rect = _free_place(corners[place], wh, own, taken, canvas_wh, covered)
                    if rect is not None:
                        panels[i] = Panel(rect, font_px, beside, place)
                        break
                if i in panels:
                    break
        choices.append(panels)
        if len(panels) == len(boxes):
            break
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
    corner: tuple[int, int],
    wh: tuple[int, int],
    box: Rect,
    taken: list[Rect],
    canvas_wh: tuple[int, int],
    covered: float,
) -> Rect | None:
    """Move a panel into the canvas; return where that is if it is free and covers at most this share of the face."""
    (width, height), (canvas_w, canvas_h) = wh, canvas_wh
    if width > canvas_w or height > canvas_h:
        return None
    x, y = min(max(corner[0], 0), canvas_w - width), min(max(corner[1], 0), canvas_h - height)
    rect = (x, y, x + width, y + height)
    if _overlap(rect, taken) == 0 and _overlap(rect, [box]) <= covered * _area(box):
        return rect
    return None
