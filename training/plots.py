"""Pictures of figures, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fer_app.errors import InputError
from training.metrics import ClassificationReport


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
    axes.set_title(f"{title}\naccuracy {accuracy:.2f} %, mean class accuracy {mean_class:.2f} %", fontsize=11)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {error}") from error
