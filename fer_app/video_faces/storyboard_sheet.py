"""Draw the clearest moments of a video as a contact sheet, with Pillow: the base install is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fer_app.annotate import label_colour
from fer_app.atomic_file import replacing
from fer_app.results import NO_TRACK
from fer_app.video_faces.storyboard import TILE_PX, Moment
from fer_app.video_faces.timeline_plot import clock

_COLUMNS = 4
_GAP_PX = 18
_HEAD_PX = 84
_BAND_PX = 34
_FOOT_PX = 30
_GROUND, _INK, _DIMMED, _PANEL = (23, 25, 29), (236, 238, 241), (170, 175, 182), (34, 37, 43)


def sheet_wh(moments: int) -> tuple[int, int]:
    """Give the size of a sheet in px.

    Args:
        moments: how many are on it.
    """
    rows = math.ceil(moments / _COLUMNS)
    tile_height = _BAND_PX + TILE_PX + _FOOT_PX
    return _COLUMNS * (TILE_PX + _GAP_PX) + _GAP_PX, _HEAD_PX + rows * (tile_height + _GAP_PX)


def draw_sheet(moments: Sequence[Moment], labels: tuple[str, ...], title: str, *, blurred: bool) -> Image.Image:
    """Draw a sheet: four moments a row, each with its expression, probability, time and track number.

    Args:
        moments: in their order.
        labels: the model's, which decide the colours.
        title: what the video is called.
        blurred: the faces are unrecognisable, and the sheet says so.
    """
    sheet = Image.new("RGB", sheet_wh(len(moments)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (_GAP_PX, 30), _fitting(title, sheet.width - 2 * _GAP_PX, _font(24)), fill=_INK, font=_font(24), anchor="lm"
    )
    note = "clearest moments of each expression" if moments else "no expression is clearly shown"
    note += "; faces made unrecognisable" * blurred
    draw.text((_GAP_PX, 62), note, fill=_DIMMED, font=_font(16), anchor="lm")
    for number, moment in enumerate(moments):
        row, column = divmod(number, _COLUMNS)
        left = _GAP_PX + column * (TILE_PX + _GAP_PX)
        top = _HEAD_PX + row * (_BAND_PX + TILE_PX + _FOOT_PX + _GAP_PX)
        _draw_moment(sheet, draw, moment, labels.index(moment.label), (left, top))
    return sheet


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as JPEG; the file appears when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=92)


def _draw_moment(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, moment: Moment, k: int, corner: tuple[int, int]
) -> None:
    left, top = corner
    right, colour = left + TILE_PX, label_colour(moment.label, k)
    draw.rectangle((left, top, right - 1, top + _BAND_PX - 1), fill=colour)
    # Rec. 709 luma; from here up black has the larger contrast ratio of the two.
    ink = (0, 0, 0) if 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 105 else (255, 255, 255)
    middle, percent = top + _BAND_PX / 2, f"{moment.prob:.0%}"
    room = TILE_PX - 30 - _font(18).getlength(percent)
    draw.text((left + 10, middle), _fitting(moment.label, room, _font(18)), fill=ink, font=_font(18), anchor="lm")
    draw.text((right - 10, middle), percent, fill=ink, font=_font(18), anchor="rm")
    sheet.paste(Image.fromarray(moment.crop), (left, top + _BAND_PX))
    below = top + _BAND_PX + TILE_PX
    draw.rectangle((left, below, right - 1, below + _FOOT_PX - 1), fill=_PANEL)
    middle = below + _FOOT_PX / 2
    draw.text((left + 10, middle), clock(moment.time_s, fraction=True), fill=_INK, font=_font(16), anchor="lm")
    if moment.track_id != NO_TRACK:
        draw.text((right - 10, middle), f"#{moment.track_id}", fill=_INK, font=_font(16), anchor="rm")


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _fitting(text: str, width_px: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text in the middle until it fits; what cannot be drawn becomes a question mark."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    kept = len(text)
    shortened = text
    while font.getlength(shortened) > width_px and kept > 2:
        kept -= 1
        shortened = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shortened
