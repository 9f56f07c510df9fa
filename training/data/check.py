"""Looking a data set through: which one it is, how many faces each split and class has, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fer_app.errors import DatasetError
from training.data.datasets import Reader, at
from training.data.face_index import FaceIndex
from training.data.image_set import ImageSet
from training.data.splits import PARTS, Part


@dataclass(frozen=True)
class PartCheck:
    """One official part.

    Attributes:
        n: labelled faces; of FERPlus those with a majority.
        per_class: how many of them each class has.
        published: how many the complete part has; None where the set has no official size.
    """

    n: int
    per_class: Mapping[str, int]
    published: int | None


@dataclass(frozen=True)
class DataCheck:
    """What was found.

    Attributes:
        path: where the set lies.
        data_set: its name.
        title: what people call it.
        class_names: in the order of a model's outputs.
        contempt: whether the set has the class; `kept` unless a recipe or command drops it.
        splits: the parts that are there and could be read.
        absent: the official parts of the set that are not there; no fault by itself.
        problems: a sentence for each file that is missing, unreadable or damaged.
    """

    path: str
    data_set: str
    title: str
    class_names: tuple[str, ...]
    contempt: Literal["kept", "absent"]
    splits: Mapping[Part, PartCheck]
    absent: tuple[Part, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def check(path: Path, *, decode: bool = True) -> DataCheck:
    """Look through the labelled set at a path.

    Args:
        path: as `training.data.datasets.load` takes it.
        decode: read every picture; without it, see only whether the files of indexed sets are there.

    Raises:
        DatasetError: there is no known set at the path.
    """
    reader, base = at(path)
    splits: dict[Part, PartCheck] = {}
    problems: list[str] = []
    class_names: tuple[str, ...] = ()
    there = _parts(reader, base, problems)
    for part in there:
        try:
            faces = reader.read(base, part, "majority")
        except DatasetError as error:
            # A fault of a file that all parts share comes once.
            problems += [told for told in error.problems or (str(error),) if told not in problems]
            continue
        class_names = faces.class_names
        splits[part] = PartCheck(len(faces), _counts(faces), reader.published.get(part))
        if isinstance(faces, FaceIndex):
            problems += faces.problems(decode=decode)
    return DataCheck(
        path=str(base),
        data_set=reader.name,
        title=reader.title,
        class_names=class_names,
        contempt="kept" if "contempt" in class_names else "absent",
        splits=splits,
        absent=tuple(part for part in PARTS if part in reader.published and part not in there),
        problems=tuple(problems),
    )


def _parts(reader: Reader, base: Path, problems: list[str]) -> tuple[Part, ...]:
    try:
        return reader.parts(base)
    except DatasetError as error:
        problems.append(str(error))
        return ()


def _counts(faces: ImageSet | FaceIndex) -> dict[str, int]:
    assert faces.targets is not None  # every reader gives them
    counts = faces.targets.argmax(dim=1).bincount(minlength=len(faces.class_names)).tolist()
    return dict(zip(faces.class_names, counts, strict=True))
