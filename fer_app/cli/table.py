"""The readable table of `fer predict`: aligned plain text, a row a face, written as the pictures come."""

from __future__ import annotations

import unicodedata
from typing import TextIO

from fer_app.results import Faces

_GAP = "  "
_NO_FACE = "no face"
_READABLE_NAME = 20
_SHORTEST_NAME = 12
# The column `face`, the gaps between the columns, and the longest remarks that are common.
_NUMBER_GAPS_AND_REMARKS = 4 + 4 * len(_GAP) + 12


class Table:
    """Writes rows whose columns line up, though later pictures are not known yet."""

    def __init__(self, stream: TextIO, names: list[str], width: int | None) -> None:
        """Prepare the columns.

        Args:
            stream: where the rows go.
            names: of all pictures, for the width of the first column.
            width: of the terminal in cells; a narrow one gets shortened names and no column for every expression.
                None where the output is no terminal: nothing is left out.
        """
        self._stream = stream
        self._width = width
        self._name_width = max([cells(name) for name in names] + [len("picture")])
        self._header_written = False
        self._label_width = 0
        self._short: tuple[str, ...] = ()

    def write(self, faces: Faces) -> None:
        """Write the rows of one picture; one that says so when it has no face."""
        if not self._header_written:
            self._write_header(faces.labels)
        if len(faces) == 0:
            self._row(faces.source, "-", _NO_FACE, "", [], "")
        for i in range(len(faces)):
            probs = faces.probs[i]
            first, second = faces.candidates(i)
            doubt, remarks = ("?", ["uncertain"]) if faces.uncertain[i] else ("", [])
            width = self._label_width + 1
            self._row(
                faces.source,
                str(i + 1),
                f"{faces.labels[first] + doubt:<{width}} {_percent(probs[first])}",
                # Never more than 50 %: two digits.
                f"{faces.labels[second] + doubt:<{width}} {_percent(probs[second]).lstrip():>3}",
                [_percent(p).rstrip("%") for p in probs],
                " ".join([*remarks, *faces.quality[i]]),
            )

    def _write_header(self, labels: tuple[str, ...]) -> None:
        self._header_written = True
        self._label_width = max(len(label) for label in labels)
        self._short = _shortened(labels)
        if self._width is not None:
            fixed = 2 * (self._label_width + 6) + _NUMBER_GAPS_AND_REMARKS
            probs = sum(max(3, len(short)) + 1 for short in self._short) + 1
            # Long names give way first, then the columns of all expressions.
            if min(self._name_width, _READABLE_NAME) + fixed + probs > self._width:
                self._short, probs = (), 0
            self._name_width = min(self._name_width, max(_SHORTEST_NAME, self._width - fixed - probs))
        self._row("picture", "face", "expression", "second", list(self._short), "remarks")

    def _row(self, name: str, number: str, first: str, second: str, probs: list[str], remarks: str) -> None:
        columns = [
            _fit(name, self._name_width),
            f"{number:>4}",
            f"{first:<{self._label_width + 6}}",
            f"{second:<{self._label_width + 5}}",
        ]
        if self._short:
            values = probs or [""] * len(self._short)
            columns.append(" ".join(f"{v:>{max(3, len(s))}}" for v, s in zip(values, self._short, strict=True)))
        columns.append(remarks)
        self._stream.write(_GAP.join(columns).rstrip() + "\n")


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: wide East Asian characters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _fit(name: str, width: int) -> str:
    """Pad a name to a width, or leave out its beginning: the end of a path tells more."""
    # A name may hold anything but a slash; a line break in it must not break the table.
    name = "".join(char if char.isprintable() else "?" for char in name)
    if cells(name) > width:
        while cells(name) > width - 1:
            name = name[1:]
        name = "…" + name
    return name + " " * (width - cells(name))


def _shortened(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the shortest beginnings, of three letters or more, that tell the labels apart."""
    for length in range(3, max(len(label) for label in labels)):
        short = tuple(label[:length] for label in labels)
        if len(set(short)) == len(labels):
            return short
    return labels


def _percent(share: float) -> str:
    return f"{100 * share:3.0f}%"
