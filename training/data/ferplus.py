"""FERPlus (Barsoum et al. 2016, arXiv:1608.01041): eight expressions on 48x48 gray faces, ten votes a picture.

Read from the official layout, a folder or the `.tar.gz` that holds it:

    ferplus/FER2013Train/{label.csv, fer0000000.png, ...}   ferplus/FER2013Valid/   ferplus/FER2013Test/

`label.csv` has no header; its columns are file name, box (always the whole picture), and the ten votes of
`VOTE_COLUMNS`. It is the file that published figures use; the separate `fer2013new.csv` differs in 1,602 rows.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from training.data.archives import ARCHIVE_SUFFIXES, first_names, read_tar
from training.data.decoding import decode_picture, map_in_threads
from training.data.ferplus_votes import VOTE_COLUMNS, VoteMode, sample_targets, vote_targets
from training.data.image_set import ImageSet
from training.data.splits import SPLITS, Part, Split
from training.first_few import first_few

__all__ = [
    "SPLITS",
    "Split",
    "VoteMode",
    "dev_names",
    "find",
    "load_ferplus",
    "parts",
    "sample_targets",
    "select_dev",
    "vote_targets",
]

_SIDE_PX: Final = 48
_FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("FER2013Train",),
    "train-main": ("FER2013Train",),
    "dev": ("FER2013Train",),
    "valid": ("FER2013Valid",),
    "test": ("FER2013Test",),
    "train+valid": ("FER2013Train", "FER2013Valid"),
}
_PARTS: Final[Mapping[str, Part]] = {"FER2013Train": "train", "FER2013Valid": "valid", "FER2013Test": "test"}
_BELOW: Final = ("", "ferplus", "data")
_EVALUATED: Final = ("dev", "valid", "test")
_DEV_SHARE: Final = 0.1
_DEV_KEY: Final = "ferplus-dev-v1"


def find(path: Path) -> Path | None:
    """Return the folder that holds FER2013Train, ..., or the archive; None where there is neither.

    Args:
        path: the folder, its parent, the archive, or a folder with no other archive than that.

    Raises:
        DatasetError: an archive cannot be read.
    """
    if path.is_file():
        is_archive = path.name.lower().endswith(ARCHIVE_SUFFIXES)
        # The first few members are enough: an archive need not be read whole to be known.
        return path if is_archive and any("FER2013" in name for name in first_names(path, 8)) else None
    for below in _BELOW:
        if any((path / below / folder).is_dir() for folder in _PARTS):
            return path / below
    archives = [file for file in path.iterdir() if file.name.lower().endswith(ARCHIVE_SUFFIXES)]
    return find(archives[0]) if len(archives) == 1 and archives[0].is_file() else None


def parts(base: Path) -> tuple[Part, ...]:
    """Return the official parts that are there.

    Args:
        base: as `find` returns it.

    Raises:
        DatasetError: the archive cannot be read.
    """
    if base.is_dir():
        return tuple(part for folder, part in _PARTS.items() if (base / folder).is_dir())
    folders = {PurePosixPath(name).parent.name for name in first_names(base)}
    return tuple(part for folder, part in _PARTS.items() if folder in folders)


def load_ferplus(
    root: Path, split: Split, mode: VoteMode = "majority", *, eval_mode: VoteMode = "majority"
) -> ImageSet:
    """Read one split.

    Args:
        root: the folder that holds `FER2013Train`, ..., its parent, or the archive (`.tar`, `.tar.gz`, `.tgz`).
        split: `train`, `train-main` (Train without the names of `dev_names()`), `dev` (those names; in Train),
            `valid`, `test`, or `train+valid`.
        mode: the vote rule of the splits that are trained on: train, train-main, train+valid.
        eval_mode: the vote rule of dev, valid and test. Published figures are majority whatever was trained on, so
            `mode` never changes these; ask here for another rule.

    Returns:
        images uint8, (N, 1, 48, 48); targets float32, (N, 8); names as in label.csv, in its order. Rows that the
        rule drops are left out. The targets of `probability` are distributions, for `sample_targets`.

    Raises:
        DatasetError: the folder, a label.csv or pictures are missing, or one of them cannot be read.
        ValueError: no such split or mode.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")
    rule = eval_mode if split in _EVALUATED else mode
    files = _open(Path(root), _FOLDERS[split])
    wanted: list[tuple[str, str]] = []
    targets: list[NDArray[np.float32]] = []
    for folder in _FOLDERS[split]:
        names, votes = _read_labels(files, folder)
        rows, keep = vote_targets(votes, rule)
        if split in ("dev", "train-main"):
            in_dev = np.array([name in dev_names() for name in names], np.bool_)
            keep &= in_dev if split == "dev" else ~in_dev
        targets.append(rows[keep])
        wanted += [(folder, name) for name, kept in zip(names, keep, strict=True) if kept]
    if not wanted:
        raise DatasetError(f"{root}: no row of {', '.join(_FOLDERS[split])} belongs to split {split!r} in mode {rule}")
    return ImageSet(
        images=torch.from_numpy(_read_pictures(files, wanted)),
        targets=torch.from_numpy(np.concatenate(targets)),
        names=tuple(name for _, name in wanted),
        class_names=LABELS,
    )


class _Files:
    """The files of the needed folders: paths when they lie on disk, their bytes when they came from an archive."""

    def __init__(self, where: Path, found: Mapping[tuple[str, str], Path | bytes]) -> None:
        self.where = where
        self._found = found

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._found

    def read(self, key: tuple[str, str]) -> bytes:
        item = self._found[key]
        return item if isinstance(item, bytes) else item.read_bytes()


def _open(root: Path, folders: tuple[str, ...]) -> _Files:
    """Find the needed folders below `root`, or in the archive that it names or holds."""
    if not root.exists():
        raise DatasetError(f"{root} does not exist; give the FERPlus folder, its parent, or its .tar.gz")
    if root.is_file():
        return _open_archive(root, folders)
    for candidate in (root / below for below in _BELOW):
        if any((candidate / folder).is_dir() for folder in folders):
            return _open_folder(candidate, folders)
    archives = sorted(path for path in root.iterdir() if path.name.lower().endswith(ARCHIVE_SUFFIXES))
    if len(archives) == 1:
        return _open_archive(archives[0], folders)
    held = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise DatasetError(
        f"{root} has no {' or '.join(folders)} (nor in a ferplus/ or data/ below it) and no single archive; "
        f"it holds {held}"
    )


def _open_folder(base: Path, folders: tuple[str, ...]) -> _Files:
    if missing := [folder for folder in folders if not (base / folder).is_dir()]:
        raise DatasetError(f"{base} lacks {', '.join(missing)}")
    return _Files(base, {(folder, path.name): path for folder in folders for path in (base / folder).iterdir()})


def _open_archive(path: Path, folders: tuple[str, ...]) -> _Files:
    """Read the needed folders in one pass: a compressed archive cannot be entered twice cheaply."""
    found: dict[tuple[str, str], Path | bytes] = {}
    for name, content in read_tar(path, lambda name: PurePosixPath(name).parent.name in folders):
        found[PurePosixPath(name).parent.name, PurePosixPath(name).name] = content
    present = {folder for folder, _ in found}
    if missing := [folder for folder in folders if folder not in present]:
        raise DatasetError(f"{path} lacks {', '.join(missing)}")
    return _Files(path, found)


def _read_labels(files: _Files, folder: str) -> tuple[list[str], NDArray[np.int64]]:
    """Read one label.csv: N file names and votes int64, (N, 10)."""
    where = f"{files.where}: {folder}/label.csv"
    if (folder, "label.csv") not in files:
        raise DatasetError(f"{where} is missing")
    names: list[str] = []
    votes: list[list[int]] = []
    line = 0
    try:
        text = files.read((folder, "label.csv")).decode("utf-8-sig")
        for line, row in enumerate(csv.reader(io.StringIO(text)), start=1):
            if not row:
                continue
            if len(row) != 2 + len(VOTE_COLUMNS):
                raise DatasetError(f"{where}, line {line}: {len(row)} columns, expected {2 + len(VOTE_COLUMNS)}")
            names.append(row[0])
            votes.append([int(cell) for cell in row[2:]])
    except (ValueError, csv.Error) as error:
        raise DatasetError(f"{where}, line {line}: {error}") from error
    if not names:
        raise DatasetError(f"{where} is empty")
    if min(map(min, votes)) < 0:
        raise DatasetError(f"{where} has a negative number of votes")
    return names, np.array(votes, np.int64)


def _read_pictures(files: _Files, wanted: list[tuple[str, str]]) -> NDArray[np.uint8]:
    """Decode the wanted pictures: uint8, (N, 1, 48, 48)."""
    images = np.empty((len(wanted), 1, _SIDE_PX, _SIDE_PX), np.uint8)
    missing = [key for key in wanted if key not in files]
    unreadable: list[tuple[str, str]] = []
    present = [(index, key) for index, key in enumerate(wanted) if key in files]
    decoded = chain.from_iterable(map_in_threads(lambda item: decode_picture(files.read(item[1]), "gray"), present))
    for (index, key), pixels in zip(present, decoded, strict=True):
        if pixels is None or pixels.shape != (_SIDE_PX, _SIDE_PX, 1):
            unreadable.append(key)
        else:
            images[index, 0] = pixels[:, :, 0]
    if missing or unreadable:
        told = [_faults("missing", missing), _faults(f"unreadable or not {_SIDE_PX}x{_SIDE_PX}", unreadable)]
        problems = [f"{files.where}: {'/'.join(key)} is missing" for key in missing]
        problems += [f"{files.where}: {'/'.join(key)} is no picture of {_SIDE_PX}x{_SIDE_PX} px" for key in unreadable]
        raise DatasetError(f"{files.where}: {'; '.join(filter(None, told))}", problems)
    return images


def _faults(what: str, keys: list[tuple[str, str]]) -> str:
    """Say how many pictures are so and name the first few; nothing where there are none."""
    return f"{len(keys)} pictures are {what}: {first_few(['/'.join(key) for key in keys])}" if keys else ""


@lru_cache(maxsize=1)
def dev_names() -> frozenset[str]:
    """The file names of the fixed dev part of Train: what `select_dev` chose, kept beside this file."""
    text = resources.files("training.data").joinpath("ferplus_dev.txt").read_text("utf-8")
    return frozenset(text.split())


def select_dev(root: Path) -> list[str]:
    """Choose the dev part: of each class of Train (majority) a tenth, rounded, by the order of the names' sha256.

    Hashing needs no random generator whose stream could change between versions, and whether a name comes early does
    not depend on which other names there are. `ferplus_dev.txt` is this list, one name a line.

    Args:
        root: as for `load_ferplus`.

    Returns:
        File names, sorted.

    Raises:
        DatasetError: as `load_ferplus`.
    """
    names, votes = _read_labels(_open(Path(root), _FOLDERS["train"]), "FER2013Train")
    targets, keep = vote_targets(votes, "majority")
    chosen: list[str] = []
    for k in range(len(LABELS)):
        members = [name for name, row in zip(names, keep & (targets[:, k] > 0), strict=True) if row]
        members.sort(key=lambda name: hashlib.sha256(f"{_DEV_KEY}:{name}".encode()).digest())
        chosen += members[: round(_DEV_SHARE * len(members))]
    return sorted(chosen)
