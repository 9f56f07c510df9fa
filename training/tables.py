"""Figures as text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.metrics import ClassificationReport


def report_lines(report: ClassificationReport, *, test_time_flip: bool = False) -> list[str]:
    """Return the lines that `fer eval` prints; the first is `accuracy 71.23 (n = 3191)`, in per cent."""
    lines = [
        f"accuracy {100 * report.accuracy:.2f} (n = {report.n})",
        f"mean class accuracy {100 * report.mean_class_accuracy:.2f}",
        f"macro F1 {100 * report.macro_f1:.2f}",
        f"expected calibration error {100 * report.ece:.2f}",
        *_asserted_lines(report),
        *(["test-time flip: on"] if test_time_flip else []),
        "",
        f"{'class':12}{'n':>6}{'recall':>9}{'precision':>11}{'F1':>8}",
    ]
    for k, label in enumerate(report.labels):
        figures = (report.recall[k], report.precision[k], report.f1[k])
        cells = ["-" if np.isnan(value) else f"{100 * value:.1f}" for value in figures]
        lines.append(f"{label:12}{report.confusion[k].sum():>6}{cells[0]:>9}{cells[1]:>11}{cells[2]:>8}")
    columns = "".join(f"{label[:6]:>8}" for label in report.labels)
    lines += ["", "confusion (rows: true, columns: predicted)", " " * 12 + columns]
    lines += [
        f"{label:12}" + "".join(f"{count:>8}" for count in report.confusion[k]) for k, label in enumerate(report.labels)
    ]
    return lines


def _asserted_lines(report: ClassificationReport) -> list[str]:
    """Return what is asserted, where there is a threshold."""
    told = report.asserted
    if not told.uncertain_below:
        return []
    precision = "" if told.precision is None else f", of these right {100 * told.precision:.2f}"
    return [f"asserted {100 * told.share:.2f}{precision} (uncertain below {told.uncertain_below:g})"]


def group_lines(column: str, groups: Mapping[str, ClassificationReport]) -> list[str]:
    """Return a table of groups, a line each, in per cent; `95 %` is Wilson's interval of the accuracy."""
    width = max(len(name) for name in (column, *groups)) + 2
    header = f"{column:{width}}{'n':>6}{'accuracy':>10}{'95 %':>15}{'mean class':>12}{'macro F1':>10}{'ECE':>7}"
    lines = [header]
    for name, report in groups.items():
        low, high = (100 * end for end in report.accuracy_ci95)
        lines.append(
            f"{name:{width}}{report.n:>6}{100 * report.accuracy:>10.1f}{f'{low:.1f} - {high:.1f}':>15}"
            f"{100 * report.mean_class_accuracy:>12.1f}{100 * report.macro_f1:>10.1f}{100 * report.ece:>7.1f}"
        )
    return lines
