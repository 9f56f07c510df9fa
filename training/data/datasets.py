"""One entry point over all labelled data sets: which one lies at a path, and its faces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from fer_app.errors import DatasetError
from training.data import affectnet, fer2013, ferplus, ferplus_csv, image_folder, path_csv, prepared, raf_db
from training.data.face_index import FaceIndex
from training.data.ferplus import SPLITS, Split, VoteMode, dev_names
from training.data.image_set import ImageSet
from training.data.prepared import PreparedFaces
from training.data.splits import DEV_SHARE, Part, stratified

__all__ = [
    "READERS",
    "SPLITS",
    "Contempt",
    "Reader",
    "Split",
    "at",
    "identify",
    "in_dev",
    "load",
    "relabel",
    "without_contempt",
]

Contempt = Literal["keep", "drop"]
Faces = ImageSet | FaceIndex

_DEV_KEY: Final = "dev-v1"
_SHARE_KEY: Final = "share-v1"
_NEEDED: Final[Mapping[Split, tuple[Part, ...]]] = {
    "train": ("train",),
    "train-main": ("train",),
    "dev": ("train",),
    "valid": ("valid",),
    "test": ("test",),
    "train+valid": ("train", "valid"),
}
_EVALUATED: Final = ("dev", "valid", "test")


@dataclass(frozen=True)
class Reader:
    """How one data set is read.

    Attributes:
        name: what `identify` returns.
        title: what people call it.
        find: the path that `parts` and `read` take, when the set lies at a path; None otherwise.
        parts: the official parts that are there.
        read: one of them; the vote rule is for sets with votes.
        published: how many faces each part has when it is complete, by majority where there are votes; counted for
            FERPlus and FER2013, taken from papers for the others.
    """

    name: str
    title: str
    find: Callable[[Path], Path | None]
    parts: Callable[[Path], tuple[Part, ...]]
    read: Callable[[Path, Part, VoteMode], Faces]
    published: Mapping[Part, int] = dataclasses.field(default_factory=dict)


def _plain(read: Callable[[Path, Part], Faces]) -> Callable[[Path, Part, VoteMode], Faces]:
    """Give a reader of a set without votes the parameter that it does not need."""
    return lambda base, part, _mode: read(base, part)


# The first that finds itself at a path is taken, so what is looser comes later.
READERS: Final[tuple[Reader, ...]] = (
    Reader(prepared.NAME, "prepared faces", prepared.find, prepared.parts, prepared.read),
    Reader(
        "ferplus",
        "FERPlus",
        ferplus.find,
        ferplus.parts,
        lambda base, part, mode: ferplus.load_ferplus(base, part, mode, eval_mode=mode),
        {"train": 25_045, "valid": 3_191, "test": 3_137},
    ),
    Reader(
        "ferplus-csv",
        "FERPlus (fer2013new.csv)",
        ferplus_csv.find,
        ferplus_csv.parts,
        ferplus_csv.read,
        {"train": 25_060, "valid": 3_199, "test": 3_153},
    ),
    Reader(
        "fer2013",
        "FER2013",
        fer2013.find_csv,
        fer2013.csv_parts,
        _plain(fer2013.read_csv),
        {"train": 28_709, "valid": 3_589, "test": 3_589},
    ),
    Reader("raf-db", "RAF-DB basic", raf_db.find, raf_db.parts, _plain(raf_db.read), {"train": 12_271, "test": 3_068}),
    Reader(
        "affectnet",
        "AffectNet (tables)",
        affectnet.find_tables,
        affectnet.table_parts,
        _plain(affectnet.read_table),
        {"train": 287_651, "valid": 4_000},
    ),
    Reader(
        "affectnet-npy",
        "AffectNet (annotation files)",
        affectnet.find_annotations,
        affectnet.annotation_parts,
        _plain(affectnet.read_annotations),
        {"train": 287_651, "valid": 4_000},
    ),
    Reader(
        "fer2013-folders",
        "FER2013 (folders)",
        fer2013.find_folders,
        image_folder.parts,
        _plain(fer2013.read_folders),
        {"train": 28_709, "test": 7_178},
    ),
    Reader("csv", "table of paths and labels", path_csv.find, path_csv.parts, _plain(path_csv.read)),
    Reader("image-folder", "folder a class", image_folder.find, image_folder.parts, _plain(image_folder.read)),
)


def at(path: Path) -> tuple[Reader, Path]:
    """Return the reader of the data set at a path, and the path that it takes.

    Raises:
        DatasetError: the path does not exist, or holds no labelled set that is known.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    for reader in READERS:
        base = reader.find(path)
        if base is not None:
            return reader, base
    known = ", ".join(reader.title for reader in READERS)
    raise DatasetError(f"{path} holds no labelled faces that are known ({known})")


def identify(path: Path) -> str:
    """Return the name of the data set at a path.

    Raises:
        DatasetError: as `at`.
    """
    return at(path)[0].name


def load(
    path: Path,
    split: Split,
    *,
    img_size: int,
    color_mode: Literal["rgb", "gray"],
    votes: VoteMode = "majority",
    eval_votes: VoteMode = "majority",
    contempt: Contempt = "keep",
    limit: int | None = None,
    share: float = 1.0,
) -> ImageSet:
    """Read one split of whatever labelled set lies at a path.

    Args:
        path: a folder, an archive of FERPlus, or a table.
        split: `train`, `valid` and `test` are the set's own; `dev` is a fixed, class-stratified tenth of train,
            `train-main` the rest of it; `train+valid` is both.
        img_size: side of the squares that pictures on disk are scaled to, px. Sets of 48 px faces stay as they are.
        color_mode: what pictures on disk are decoded to; gray sets stay gray.
        votes: FERPlus's rule for what is trained on: train, train-main, train+valid.
        eval_votes: its rule for dev, valid and test.
        contempt: `drop` leaves out the faces and the class, where the set has it: AffectNet-8 becomes AffectNet-7.
        share: take this part of the faces of every class, always the same ones: 0 < share <= 1.
        limit: take this many faces; the first ones of FERPlus and FER2013, evenly spaced ones elsewhere.

    Returns:
        Faces with targets; `class_names` are the set's.

    Raises:
        DatasetError: no known set, a split that it does not have, or faults in its files.
        ValueError: no such split or rule, `limit` is below 1, or `share` is not in (0, 1].
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    reader, base = at(path)
    rule = eval_votes if split in _EVALUATED else votes
    if reader.name == "ferplus":  # decodes the wanted pictures only, so it splits by itself
        faces: Faces = ferplus.load_ferplus(base, split, rule, eval_mode=rule)
    else:
        faces = _split(reader, base, split, rule)
    if contempt == "drop":
        faces = without_contempt(faces)
    if share < 1:
        assert faces.targets is not None  # every reader gives them
        faces = faces.subset(torch.nonzero(stratified(faces.names, faces.targets, share, _SHARE_KEY)).flatten())
    if limit is not None and limit < len(faces):
        steps = torch.arange(limit)
        faces = faces.subset(steps if isinstance(faces, ImageSet) else steps * len(faces) // limit)
    return faces.load(img_size, color_mode) if isinstance(faces, FaceIndex) else faces


def _split(reader: Reader, base: Path, split: Split, rule: VoteMode) -> Faces:
    """Read the official parts that a split is made of, and choose its rows."""
    needed = _NEEDED[split]
    there = reader.parts(base)
    if missing := [part for part in needed if part not in there]:
        raise DatasetError(f"{base}: {reader.title} has no {' and no '.join(missing)} here; it has {', '.join(there)}")
    faces = [reader.read(base, part, rule) for part in needed]
    if split not in ("dev", "train-main"):
        joined = _joined(faces) if len(faces) > 1 else faces[0]
        if len(joined) == 0:
            raise DatasetError(f"{base}: no face belongs to {split}: a class needs two pictures for that")
        return joined
    whole = faces[0]
    dev = in_dev(reader.name, whole)
    chosen = torch.nonzero(dev if split == "dev" else ~dev).flatten()
    if len(chosen) == 0:
        hint = "; with --set finetune.split=train all are trained on" if split == "dev" else ""
        raise DatasetError(f"{base}: no face of train belongs to {split}: a class needs two for that{hint}")
    return whole.subset(chosen)


def in_dev(data_set: str, train: Faces) -> torch.Tensor:
    """Tell which faces of a set's train belong to `dev`.

    Args:
        data_set: the reader's name.
        train: the whole part.

    Returns:
        bool, (N,).
    """
    if isinstance(train, PreparedFaces):  # the same faces as in the set that they were prepared from
        return torch.tensor(train.in_dev, dtype=torch.bool)
    if data_set.startswith("ferplus"):  # both forms have the same
        return torch.tensor([name in dev_names() for name in train.names], dtype=torch.bool)
    assert train.targets is not None  # every reader gives them
    return stratified(train.names, train.targets, DEV_SHARE, _DEV_KEY)


def _joined(faces: list[Faces]) -> Faces:
    """Join parts of one set."""
    first = faces[0]
    if isinstance(first, PreparedFaces):
        return PreparedFaces.joined([part for part in faces if isinstance(part, PreparedFaces)])
    names = tuple(name for part in faces for name in part.names)
    targets = torch.cat([part.targets for part in faces if part.targets is not None])
    if isinstance(first, ImageSet):
        images = torch.cat([part.images for part in faces if isinstance(part, ImageSet)])
        return ImageSet(images, targets, names, first.class_names)
    roots = {part.root for part in faces if isinstance(part, FaceIndex)}
    root = next(iter(roots)) if len(roots) == 1 else Path()
    paths = names
    if len(roots) > 1:  # parts of one set may lie in different folders
        paths = tuple(str(part.root / name) for part in faces if isinstance(part, FaceIndex) for name in part.names)
    boxes = [part.boxes for part in faces if isinstance(part, FaceIndex) and part.boxes is not None]
    joined_boxes = torch.cat([torch.from_numpy(part) for part in boxes]).numpy() if boxes else None
    return FaceIndex(root, paths, targets, first.class_names, joined_boxes)


def without_contempt(faces: Faces) -> Faces:
    """Leave out the class contempt and the faces whose largest target it is; other sets come back as they are."""
    if "contempt" not in faces.class_names or faces.targets is None:
        return faces
    place = faces.class_names.index("contempt")
    kept = faces.subset(torch.nonzero(faces.targets.argmax(dim=1) != place).flatten())
    assert kept.targets is not None
    columns = [k for k in range(len(faces.class_names)) if k != place]
    targets = kept.targets[:, columns]
    # Distributions stay distributions; multi-hot rows are none.
    is_share = torch.isclose(kept.targets.sum(dim=1), torch.tensor(1.0))
    targets = torch.where(is_share[:, None], targets / targets.sum(dim=1, keepdim=True), targets)
    return dataclasses.replace(kept, targets=targets, class_names=tuple(faces.class_names[k] for k in columns))


def relabel(faces: ImageSet, labels: tuple[str, ...]) -> ImageSet:
    """Bring the columns of the targets to a model's labels, which may be more than the set has.

    Raises:
        DatasetError: the set has a class that is none of the labels.
    """
    if faces.targets is None or faces.class_names == labels:
        return faces
    if unknown := [name for name in faces.class_names if name not in labels]:
        hint = "; leave it out with --drop-contempt" if unknown == ["contempt"] else ""
        raise DatasetError(
            f"the data has classes that the model does not know: {', '.join(unknown)} "
            f"(the model knows {', '.join(labels)}){hint}"
        )
    targets = torch.zeros(len(faces), len(labels))
    targets[:, [labels.index(name) for name in faces.class_names]] = faces.targets
    return dataclasses.replace(faces, targets=targets, class_names=labels)
