from __future__ import annotations

import io

import numpy as np
import pytest

from fer_app.cli.table import Table, cells
from fer_app.labels import LABELS
from fer_app.results import Detections, Faces


def faces(source: str, *rows: list[float], uncertain: bool = False, quality: tuple[str, ...] = ()) -> Faces:
    count = len(rows)
    return Faces(
        source=source,
        width=100,
        height=100,
        detections=Detections.whole_picture(100, 100)[np.zeros(count, np.int64)],
        probs=np.array(rows, np.float32).reshape(count, len(LABELS)),
        labels=LABELS,
        uncertain=np.full(count, uncertain),
        quality=(quality,) * count,
    )


HAPPY = [0.04, 0.93, 0.01, 0.01, 0.0, 0.0, 0.0, 0.01]
HALF = [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
SAD = [0.30, 0.02, 0.02, 0.34, 0.30, 0.0, 0.02, 0.0]


def text(*pictures: Faces, width: int | None = None) -> str:
    stream = io.StringIO()
    table = Table(stream, [picture.source for picture in pictures], width)
    for picture in pictures:
        table.write(picture)
    return stream.getvalue()


def test_the_whole_table():
    shown = text(
        faces("a.jpg", HAPPY),
        faces("holiday/b.jpg", HAPPY, SAD, uncertain=True, quality=("tiny", "dark")),
        faces("b.jpg", HALF, uncertain=True),
        faces("c.jpg"),
    )
    assert shown == (
        "picture        face  expression       second          neu hap sur sad ang dis fea con  remarks\n"
        "a.jpg             1  happiness   93%  neutral     4%    4  93   1   1   0   0   0   1\n"
        "holiday/b.jpg     1  happiness?  93%  neutral?    4%    4  93   1   1   0   0   0   1  uncertain tiny dark\n"
        "holiday/b.jpg     2  sadness?    34%  neutral?   30%   30   2   2  34  30   0   2   0  uncertain tiny dark\n"
        "b.jpg             1  neutral?    50%  contempt?  50%   50   0   0   0   0   0   0  50  uncertain\n"
        "c.jpg             -  no face\n"
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_terminal_is_not_overrun(width):
    shown = text(
        faces("a/rather/deep/folder/with/a/long/name/of/a/picture.jpg", HAPPY, quality=("blurred",)), width=width
    )
    header, row = shown.splitlines()
    assert cells(header) <= width
    assert cells(row) <= width
    assert "picture.jpg" in row
    assert "happiness" in row
    assert ("neu hap" in header) == (width >= 120)


def test_wide_letters_take_two_cells():
    shown = text(faces("顔写真.jpg", HAPPY), faces("plain.jpg", HAPPY), faces("e\u0301.jpg", HAPPY))
    starts = {cells(line[: line.index(" happiness")]) for line in shown.splitlines()[1:]}
    assert len(starts) == 1


def test_a_name_cannot_break_the_table():
    assert len(text(faces("two\nlines\x1b[31m.jpg", HAPPY)).splitlines()) == 2
    assert "two?lines?[31m.jpg" in text(faces("two\nlines\x1b[31m.jpg", HAPPY))
    assert "\udcff" not in text(faces("\udcff.jpg", HAPPY))
