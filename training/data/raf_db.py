"""RAF-DB, basic emotions (Li, Deng and Du 2017, CVPR): seven expressions on aligned 100x100 colour faces.

    basic/EmoLabel/list_patition_label.txt      lines `train_00001.jpg 5`; the owner's spelling
    basic/Image/aligned/train_00001_aligned.jpg

There is no validation part; names say whether a row is of Train or Test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fer_app.errors import DatasetError
from training.data.face_index import FaceIndex
from training.data.label_files import read_csv
from training.data.label_maps import LABEL_MAPS
from training.data.splits import Part

_LABEL_FILE: Final = Path("EmoLabel") / "list_patition_label.txt"
_PICTURES: Final = Path("Image") / "aligned"


def find(path: Path) -> Path | None:
    """Return the folder that holds EmoLabel and Image: `path`, or `basic` in it; None where neither does."""
    return next((base for base in (path, path / "basic") if (base / "EmoLabel").is_dir()), None)


def parts(_base: Path) -> tuple[Part, ...]:
    """Return the official parts."""
    return ("train", "test")


def read(base: Path, part: Part) -> FaceIndex:
    """Read one part's labels.

    Args:
        base: as `find` returns it.
        part: `train` or `test`.

    Raises:
        DatasetError: a file or folder is missing, a line is damaged, or a label is unknown.
    """
    labels, pictures = base / _LABEL_FILE, base / _PICTURES
    if not pictures.is_dir():
        raise DatasetError(f"{pictures} is missing")
    label_map = LABEL_MAPS["raf-db"]
    rows: list[tuple[str, int]] = []
    for line, spaced in read_csv(labels, delimiter=" "):
        where = f"{labels}, line {line}"
        cells = [cell for cell in spaced if cell]
        if len(cells) != 2:
            raise DatasetError(f"{where}: {len(cells)} columns, expected 2")
        name, own = cells
        if not name.startswith(("train_", "test_")):
            raise DatasetError(f"{where}: {name!r} is of neither part: expected train_... or test_...")
        place = label_map.class_index(own, where)
        if name.startswith(f"{part}_") and place is not None:
            stem, dot, suffix = name.rpartition(".")
            rows.append((f"{stem}_aligned{dot}{suffix}", place))
    if not rows:
        raise DatasetError(f"{labels} has no row of {part}")
    return FaceIndex.of_classes(pictures, rows, label_map.class_names)
