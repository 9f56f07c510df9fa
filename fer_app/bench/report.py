"""The report of a measurement as plain text."""

from __future__ import annotations

from typing import Any

_HEADINGS = ("step", "work", "model", "runs", "ms p50", "ms p99", "images/s", "of peak", "ratio")
# Columns of words; the others hold numbers and are set to the right.
_WORDS = 3


def as_text(report: dict[str, Any]) -> str:
    """Return machine, models and a table of all rows; columns that are empty are left out."""
    return "\n".join([*_head(report), "", *_table(report["rows"], several=len(report["models"]) > 1), ""])


def _head(report: dict[str, Any]) -> list[str]:
    machine = report["machine"]
    load = "" if machine["load_before"] is None else f", load {machine['load_before']:.1f}"
    cores = f"{_several(machine['cores'], 'core')}, {_several(machine['threads'], 'thread')}"
    lines = [f"machine   {machine['cpu']}, {cores}{load}"]
    if machine["gpu"]:
        lines.append(f"gpu       {machine['gpu']} ({machine['device']})")
    versions = f"onnxruntime {machine['onnxruntime']} ({machine['provider']}), Python {machine['python']}"
    lines.append(f"software  fer-mimic {machine['fer_mimic']}, {versions}")
    for model in report["models"]:
        flop = model["flop_per_face"]
        operations = model["flop_unknown"] if flop is None else _operations(flop)
        if flop and "int8" in model["flop_by_arithmetic"]:
            operations += f" ({100 * model['flop_by_arithmetic']['int8'] / flop:.0f}% int8)"
        lines.append(
            f"model     {model['label']}: {model['img_size']} px, {operations}, sha256 {model['sha256'][:16]}…"
        )
    # Why `auto` did not take the accelerator that it saw.
    lines += [f"note      {note}" for note in dict.fromkeys(model["note"] for model in report["models"]) if note]
    for arithmetic in dict.fromkeys(product["arithmetic"] for product in report["products"]):
        speeds = [
            f"{product['gflop_per_s_best']:.0f} ({product['side']} x {product['side']})"
            for product in report["products"]
            if product["arithmetic"] == arithmetic
        ]
        lines.append(f"peak      {arithmetic} matrix products, GFLOP/s: {', '.join(speeds)}")
    return lines


def _table(rows: list[dict[str, Any]], *, several: bool) -> list[str]:
    cells = [_HEADINGS, *(_cells(row, several=several) for row in rows)]
    kept = [i for i in range(len(_HEADINGS)) if any(row[i] for row in cells[1:])]
    widths = [max(len(row[i]) for row in cells) for i in kept]
    lines: list[str] = []
    before = ""
    for row in cells:
        if row[0] != before and lines:
            lines.append("")
        before = row[0]
        parts = [
            row[i].ljust(width) if i < _WORDS else row[i].rjust(width) for i, width in zip(kept, widths, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _cells(row: dict[str, Any], *, several: bool) -> tuple[str, ...]:
    share, ratio = row["share_of_peak"], row["times_as_fast_as_first"]
    return (
        row["stage"],
        row["work"],
        (row["model"] or "") if several else "",
        str(row["runs"]),
        _three_digits(row["ms_p50"]),
        _three_digits(row["ms_p99"]),
        _three_digits(row["images_per_s"]),
        "" if share is None else f"{100 * share:.0f}%",
        f"{ratio:.2f}" if several and ratio is not None else "",
    )


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _operations(flop: int) -> str:
    for unit, size in (("GFLOP", 1e9), ("MFLOP", 1e6)):
        if flop >= size:
            return f"{flop / size:.4g} {unit} a face"
    return f"{flop} FLOP a face"


def _three_digits(value: float) -> str:
    """Write a number with three digits, or with all it has before the point."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
