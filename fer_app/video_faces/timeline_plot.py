"""Draw the expressions of each person over time, a panel a person, with matplotlib (extra `[plots]`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_app.annotate import label_colour
from fer_app.atomic_file import replacing
from fer_app.errors import MissingExtraError
from fer_app.video_faces.timeline import PersonCurve, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_WIDTH_IN = 12.0
_PANEL_IN = 1.35
_ABOVE_PANEL_IN = 0.4
_HEAD_IN, _FOOT_IN, _LEFT_IN, _RIGHT_IN = 0.85, 0.7, 0.75, 0.35
# The palette is made for drawing on pictures; its yellow and its light grey need a dark ground.
_GROUND, _PANEL, _INK, _GRID = "#17191d", "#22252b", "#eceef1", "#3d424b"
# Between two marks of the axis, seconds; the first that leaves at most so many marks is taken.
_TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 13
_LONGEST_NAME = 70
# Lines of so many points are drawn thinner.
_DENSE_POINTS = 300
# From here on the picture says over how much time it averages.
_COARSE_S = 0.4


def import_matplotlib() -> Any:
    """Import what is needed of matplotlib, which takes a moment, and return the class of figures.

    No state of `pyplot` is touched: a figure has a canvas of its own, which draws into memory.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from matplotlib.backends import backend_agg  # noqa: F401 - what saves a figure as PNG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('the timeline needs matplotlib: pip install "fer-mimic[plots]"') from error
    return Figure


def plot_timeline(path: Path, timeline: Timeline, title: str) -> None:
    """Write a PNG with one panel for each person, 1440 px wide; it appears when it is whole.

    Args:
        path: of the file.
        timeline: who is drawn.
        title: what the video is called.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    panels = max(1, len(timeline.persons))
    height_in = _HEAD_IN + panels * (_ABOVE_PANEL_IN + _PANEL_IN) + _FOOT_IN
    figure = import_matplotlib()(figsize=(_WIDTH_IN, height_in), dpi=_DPI, facecolor=_GROUND)
    figure.subplots_adjust(
        left=_LEFT_IN / _WIDTH_IN,
        right=1 - _RIGHT_IN / _WIDTH_IN,
        bottom=_FOOT_IN / height_in,
        top=1 - (_HEAD_IN + _ABOVE_PANEL_IN) / height_in,
        hspace=_ABOVE_PANEL_IN / _PANEL_IN,
    )
    columns = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for axes in columns:
        _style(axes)
    for axes, person in zip(columns, timeline.persons, strict=False):
        _draw_person(axes, person, timeline.labels)
    if not timeline.persons:
        columns[0].text(0.5, 0.7, "no face", transform=columns[0].transAxes, color=_INK, ha="center", fontsize=13)
    _set_time_axis(columns[-1], timeline)
    left, from_top = 0.25 / _WIDTH_IN, 1 / height_in
    figure.text(
        left,
        1 - 0.35 * from_top,
        _legible(title),
        color=_INK,
        fontsize=15,
        fontweight="bold",
        va="center",
        parse_math=False,
    )
    _add_legend(figure, columns[0], timeline, (left, 1 - 0.75 * from_top))
    figure.text(1 - left, 0.2 * from_top, _note(timeline), color=_INK, fontsize=9, ha="right", va="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_GROUND)


def clock(time_s: float, *, fraction: bool = False) -> str:
    """Spell a time of a video: `0:07`, `12:34`, `1:02:03`; with a tenth of a second where a whole one is too coarse.

    Args:
        time_s: seconds, from 0 on.
        fraction: with a tenth.
    """
    tenths = round(time_s * 10) if fraction else round(time_s) * 10
    hours, minutes, seconds = tenths // 36000, tenths // 600 % 60, tenths // 10 % 60
    text = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{text}.{tenths % 10}" if fraction else text


def _style(axes: Axes) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100 %"])
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_person(axes: Axes, person: PersonCurve, labels: tuple[str, ...]) -> None:
    width = 1.9 if len(person.times_s) < _DENSE_POINTS else 1.4
    # Those that are shown for longest lie on top.
    for k in np.argsort(np.nanmean(person.probs, axis=0), kind="stable").tolist():
        colour = np.array(label_colour(labels[k], k)) / 255
        axes.plot(person.times_s, person.probs[:, k], color=colour, linewidth=width, solid_joinstyle="round")
    seen = f"{person.seconds:.1f} s" if person.seconds < 60 else clock(person.seconds)
    between = f"{clock(person.first_s)} to {clock(person.last_s)}"
    axes.set_title(f"#{person.track_id}   seen for {seen}, {between}", loc="left", color=_INK, fontsize=11, pad=5)


def _set_time_axis(axes: Axes, timeline: Timeline) -> None:
    length_s = max(timeline.end_s - timeline.begin_s, 0.1)
    axes.set_xlim(timeline.begin_s, timeline.begin_s + length_s)
    step_s = next((step for step in _TICK_STEPS_S if length_s / step <= _MOST_TICKS), length_s / _MOST_TICKS)
    first = int(np.ceil(timeline.begin_s / step_s - 1e-9))
    ticks = [n * step_s for n in range(first, int((timeline.begin_s + length_s) / step_s + 1e-9) + 1)]
    axes.set_xticks(ticks, [clock(tick, fraction=step_s < 1) for tick in ticks])


def _add_legend(figure: Any, axes: Axes, timeline: Timeline, left_middle: tuple[float, float]) -> None:
    lines = []
    for k, label in enumerate(timeline.labels):
        colour = np.array(label_colour(label, k)) / 255
        lines += axes.plot([], [], color=colour, linewidth=3.5, label=label)
    figure.legend(
        handles=lines,
        loc="center left",
        bbox_to_anchor=left_middle,
        borderpad=0,
        borderaxespad=0,
        ncols=len(lines),
        frameon=False,
        labelcolor=_INK,
        fontsize=11,
        handlelength=1.3,
        columnspacing=1.5,
    )


def _note(timeline: Timeline) -> str:
    notes = []
    if timeline.left_out:
        notes.append(f"not shown: {timeline.left_out} more track{'s' * (timeline.left_out > 1)}, seen for less time")
    if timeline.bin_s >= _COARSE_S:
        notes.append(f"averages over {timeline.bin_s:.3g} s")
    return "; ".join(notes)


def _legible(name: str) -> str:
    """Replace what the font lacks, which would be told as a warning, and shorten what is too long in the middle."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans:bold")).get_charmap()
    name = "".join(c if c.isprintable() and ord(c) in known else "?" for c in name)
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
