"""What `fer annotate` says at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer


class Report:
    """The table of all videos."""

    def __init__(self) -> None:
        self.failed = 0
        self._rows: list[tuple[str, ...]] = []
        self._total: Counter[str] = Counter()

    def add(self, video: str, summary: dict[str, Any] | None, note: str) -> None:
        """Note how a video went."""
        self.failed += note in ("failed", "damaged", "stopped")
        if summary is None:
            self._rows.append((video, "", "", "", "", "", note))
            return
        shares = sorted((summary["expressions"] or {}).items(), key=lambda item: -item[1])[:3]
        top = " ".join(f"{label} {share:.0%}" for label, share in shares if share >= 0.005)
        numbers = (summary["frames"], f"{summary['seconds']:.1f}", summary["faces"], len(summary["tracks"]))
        self._rows.append((video, *map(str, numbers), top or "no face", note))
        tracks = len(summary["tracks"])
        self._total.update(frames=summary["frames"], seconds=summary["seconds"], faces=summary["faces"], tracks=tracks)

    def print(self) -> None:
        """Write it to stdout."""
        from fer_app.cli.table import cells

        rows = [("video", "frames", "seconds", "faces", "tracks", "expressions", ""), *self._rows]
        if len(self._rows) > 1:
            of = self._total
            numbers = (of["frames"], f"{of['seconds']:.1f}", of["faces"], of["tracks"])
            rows.append((f"{len(self._rows)} videos", *map(str, numbers), "", ""))
        # A name may hold anything but a slash; a line break in it must not break the table.
        rows = [("".join(c if c.isprintable() else "?" for c in row[0]), *row[1:]) for row in rows]
        widths = [max(cells(row[i]) for row in rows) for i in range(7)]
        for row in rows:
            padded = [
                " " * (width - cells(text)) + text if 1 <= i <= 4 else text + " " * (width - cells(text))
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            typer.echo("  ".join(padded).rstrip())
