"""Pictures of figures, drawn with matplotlib: light background, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from fer_app.atomic_file import replacing
from fer_app.errors import InputError
from training.metrics import CalibrationBins, ClassificationReport, wilson_interval

# Okabe & Ito's eight, the yellow darkened, which is hard to see on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A800", "#000000")
_MARKERS = "osD^vPX*"
_MARKER_AREAS = (22, 20, 20, 26, 26, 36, 36, 60)  # so that all look equally large
_SHEET_COLUMNS = 8


def draw_confusion(report: ClassificationReport, path: Path, *, title: str) -> None:
    """Draw the confusion matrix: shares of the true class as colour and per cent, counts in small print.

    Raises:
        InputError: the picture cannot be written.
    """
    counts = report.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 0.85 * len(report.labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(*counts.shape):
        share, count = shares[row, column], counts[row, column]
        if count:
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}\n", ha="center", va="center", color=colour, fontsize=11)
            axes.text(column, row, f"\n\n{count}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(report.labels)), report.labels, rotation=45, ha="right")
    axes.set_yticks(range(len(report.labels)), report.labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    accuracy, mean_class = 100 * report.accuracy, 100 * report.mean_class_accuracy
    _set_title(figure, f"{title}\naccuracy {accuracy:.2f} %, mean class accuracy {mean_class:.2f} %")
    save_figure(figure, path, dpi=110)


def draw_reliability(bins: CalibrationBins, path: Path, *, title: str) -> None:
    """Draw accuracy against confidence (Guo et al. 2017, Fig. 1), and below it how many faces each bin holds.

    The lines on the bars are Wilson's 95 % intervals.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=(6.6, 7.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0.0, 1.0, len(bins.counts) + 1)
    held = np.flatnonzero(bins.counts)
    width, middles, counts = edges[1], edges[held] + edges[1] / 2, bins.counts[held]
    accuracy, confidence = bins.right[held] / counts, bins.confidence[held] / counts
    ends = np.array([wilson_interval(int(right), int(n)) for right, n in zip(bins.right[held], counts, strict=True)])
    bar = {"width": width, "edgecolor": "white", "linewidth": 1.0}
    upper.bar(middles, accuracy, color=_COLOURS[5], label="accuracy, 95 % interval", **bar)
    reach = np.abs(ends.T - accuracy)
    upper.errorbar(middles, accuracy, yerr=reach, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=3)
    upper.plot([0, 1], [0, 1], linestyle="--", color="#5A5A5A", label="perfectly calibrated")
    upper.plot(
        confidence, accuracy, "o", color=_COLOURS[4], markeredgecolor="#222222", label="at the bin's mean confidence"
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of faces that are right")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    lower.bar(middles, counts, color="#8A8A8A", **bar)
    for x, count in zip(middles, counts, strict=True):
        lower.annotate(f"{count}", (x, count), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    lower.set(xlabel="confidence: the largest probability", ylabel="faces", ylim=(0, 1.15 * counts.max()))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figures = f"n = {bins.counts.sum()}, expected calibration error {100 * bins.ece:.2f} %"
    _set_title(figure, f"{title}\n{figures}")
    save_figure(figure, path, dpi=110)


def draw_embedding(
    points: NDArray[np.float32], targets: NDArray[np.int64], labels: tuple[str, ...], path: Path, *, title: str
) -> None:
    """Draw points in the plane with colour and shape by class; the axes have no unit.

    Args:
        points: (N, 2).
        targets: (N,), each point's class.
        labels: K class names.
        path: where to.
        title: above the picture.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=(9.4, 7.4), layout="constrained")
    axes = figure.add_subplot()
    counts = np.bincount(targets, minlength=len(labels))
    for k in np.argsort(-counts, kind="stable"):  # the rare ones on top
        chosen, shape = points[targets == k], _shape_of(k)
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=_MARKER_AREAS[shape],
            marker=_MARKERS[shape],
            color=_COLOURS[k % len(_COLOURS)],
            edgecolors="white",
            linewidths=0.3,
            alpha=0.85,
            zorder=2 + len(labels) - counts[k] / len(points),
        )
    _class_legend(axes, labels, counts)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#BBBBBB")
    axes.set_aspect("equal")
    _set_title(figure, title)
    save_figure(figure, path, dpi=110)


def _shape_of(k: int) -> int:
    """Return the place of a class's marker; beyond eight classes, colours come again with other markers."""
    return (k + k // len(_COLOURS)) % len(_MARKERS)


def _class_legend(axes: Axes, labels: tuple[str, ...], counts: NDArray[np.int64]) -> None:
    """Name every class with its count, in the labels' order, beside the picture."""
    for k, label in enumerate(labels):
        shape, colour = _shape_of(k), _COLOURS[k % len(_COLOURS)]
        area = 2 * _MARKER_AREAS[shape]
        axes.scatter([], [], s=area, marker=_MARKERS[shape], color=colour, label=f"{label} ({counts[k]})")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=11)


def draw_faces(crops: NDArray[np.uint8], captions: list[tuple[str, str]], path: Path, *, title: str) -> None:
    """Draw a contact sheet.

    Args:
        crops: uint8, (N, h, w) gray or (N, h, w, 3) RGB.
        captions: N pairs, small print above each face and a caption below it.
        path: where to.
        title: above the picture.

    Raises:
        InputError: the picture cannot be written.
    """
    columns = _SHEET_COLUMNS
    rows = max(-(-len(crops) // columns), 1)
    figure = Figure(figsize=(1.75 * columns, 0.7 + 2.3 * rows), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(crops) :]:
        axes.set_axis_off()
    for axes, crop, (above, below) in zip(grid.flat, crops, captions, strict=False):
        _show(axes, crop)
        # File names may hold dollar signs, which are no formulas, and letters that the font does not have.
        plain = above.encode("ascii", "replace").decode()
        axes.set_title(plain, fontsize=7.5, color="#5A5A5A", pad=2, parse_math=False)
        axes.set_xlabel(below, fontsize=10, labelpad=3, parse_math=False)
    _set_title(figure, title)
    save_figure(figure, path, dpi=90)


def draw_picture_rows(rows: Mapping[str, NDArray[np.uint8]], path: Path, *, title: str) -> None:
    """Draw rows of pictures, each with its name at its left.

    Args:
        rows: uint8, (B, H, W, 1) gray or (B, H, W, 3) RGB, the same B in each.
        path: where to.
        title: above the picture.

    Raises:
        InputError: the picture cannot be written.
    """
    columns = max(len(pictures) for pictures in rows.values())
    size = 1.3 * columns + 0.4, 1.3 * len(rows) + 0.5
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=11)
        for axes, picture in zip(line, pictures, strict=True):
            _show(axes, picture)
    _set_title(figure, title)
    save_figure(figure, path, dpi=100)


def _show(axes: Axes, picture: NDArray[np.uint8]) -> None:
    """Show uint8 (h, w), (h, w, 1) or (h, w, 3) without axes."""
    gray = picture.ndim == 2 or picture.shape[2] == 1
    axes.imshow(np.dstack([picture] * 3) if gray else picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def save_figure(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a figure in the format that the path's suffix names, PNG without one.

    Raises:
        InputError: the picture cannot be written.
    """
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=dpi, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write {path}: {error}") from error


def _set_title(figure: Figure, title: str) -> None:
    """Put a title above a figure, in lines that are no longer than it is wide."""
    letters = int(12 * figure.get_figwidth())
    lines = [textwrap.fill(line, letters) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
