"""What an export made, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from export.variants import Faces, Variant
from fer_app.atomic_file import replacing

REPORT_VERSION: Final = 1


def table(variants: Sequence[Variant]) -> str:
    """Return a Markdown table, a row a file."""
    lines = [
        "| file | precision | made | MB | largest difference of a logit, batch 1 / 2 / 17 | accuracy % | mean class % "
        "| faces/s | times float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in variants:
        differences = " / ".join(f"{value:.1e}" for value in one.differences.values())
        scores = ("", "")
        if one.report is not None:
            scores = (f"{100 * one.report.accuracy:.2f}", f"{100 * one.report.mean_class_accuracy:.2f}")
        cells = (one.path.name, one.precision, one.method, f"{one.bytes / 1e6:.1f}", differences, *scores)
        lines.append("| " + " | ".join((*cells, f"{one.images_per_s:.0f}", f"{one.ratio:.2f}")) + " |")
    return "\n".join(lines)


def write_report(folder: Path, variants: Sequence[Variant], checkpoint: str, sha256: str, faces: Faces | None) -> None:
    """Write `report.json` and `report.md` beside the files.

    Args:
        folder: where.
        variants: what was made.
        checkpoint: how the user named it.
        sha256: of the checkpoint.
        faces: what was scored on.
    """
    scored = "" if faces is None else f"\nScored on {faces.title}, n = {len(faces.scored.names)}.\n"
    values: dict[str, Any] = {
        "report_version": REPORT_VERSION,
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "scored_on": None if faces is None else {"title": faces.title, "n": len(faces.scored.names)},
        "files": [_record(one) for one in variants],
    }
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / "report.md") as temporary:
        text = f"# {checkpoint}\n\nsha256 {sha256}\n{scored}\n{table(variants)}\n"
        temporary.write_text(text, encoding="utf-8")


def _record(one: Variant) -> dict[str, Any]:
    return {
        "file": one.path.name,
        "precision": one.precision,
        "method": one.method,
        "bytes": one.bytes,
        "sha256": one.sha256,
        "contract_sha256": one.contract.digest,
        "largest_logit_difference": {str(batch): value for batch, value in one.differences.items()},
        "metrics": one.contract.metrics if one.report is not None else None,
        "images_per_s": round(one.images_per_s, 1),
        "speed_ratio": round(one.ratio, 3),
    }
