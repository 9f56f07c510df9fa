"""Which of the folders and archives given with `--data` are labelled faces, and which hold general photos."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fer_app.errors import DatasetError
from training.data.archives import ARCHIVE_SUFFIXES
from training.data.datasets import READERS
from training.data.general import PICTURE_SUFFIXES
from training.data.path_patterns import expand

_LEVELS = 2
_OWN = "image-folder"


@dataclass(frozen=True)
class DataSources:
    """What was found.

    Attributes:
        faces: the labelled set, as `training.data.datasets` takes it, or None.
        ferplus: the same, when it is FERPlus's folder or archive.
        photos: folders of pictures and tar shards, in the order given, shards sorted.
        photo_folders: for each of `photos`, the names of the folders it lies in, down from the path that was given.
        unreadable: what is wrong with archives of which not even the first names can be read; they are among `photos`.
    """

    faces: Path | None
    ferplus: Path | None
    photos: tuple[Path, ...]
    photo_folders: tuple[frozenset[str], ...]
    unreadable: tuple[str, ...] = ()

    def need_faces(self) -> Path:
        """Return the labelled set.

        Raises:
            DatasetError: there is none.
        """
        if self.faces is None:
            told = "no labelled faces given: pass FERPlus, another set or one folder a class with --data"
            raise DatasetError("; ".join((told, *self.unreadable)))
        return self.faces

    def need_ferplus(self) -> Path:
        """Return the FERPlus source.

        Raises:
            DatasetError: there is none.
        """
        if self.ferplus is None:
            told = "no FERPlus data given: pass its folder or .tar.gz with --data"
            raise DatasetError("; ".join((told, *self.unreadable)))
        return self.ferplus

    def need_photos(self, folders: Collection[str] = ()) -> tuple[Path, ...]:
        """Return the sources of general photos, or those that lie in folders of these names.

        Raises:
            DatasetError: there are none, or none in one of the folders.
        """
        if not self.photos:
            raise DatasetError("no general photos given: pass a folder of pictures or tar shards with --data")
        if not folders:
            return self.photos
        if missing := [name for name in folders if not any(name in names for names in self.photo_folders)]:
            raise DatasetError(f"no photos in a folder named {' or '.join(missing)}: pass one so named with --data")
        return tuple(
            path for path, names in zip(self.photos, self.photo_folders, strict=True) if not names.isdisjoint(folders)
        )


def locate(paths: Iterable[Path]) -> DataSources:
    """Tell the sources apart by what is in them; a folder may hold several, up to two levels down.

    A folder of class folders looks like a folder of general photos: it is always among the photos, and it is the
    labelled set too when it was given itself, once, and nothing else is one. Paths may be patterns, see
    `training.data.path_patterns`.

    Raises:
        DatasetError: a path does not exist or holds neither, no archive can be read, or there are two labelled sets.
    """
    sets: list[tuple[str, Path]] = []
    own_folders: list[tuple[str, Path]] = []
    photos: dict[Path, frozenset[str]] = {}
    unreadable: dict[Path, str] = {}
    for path in expand(paths):
        before, here = len(sets), list[Path]()
        if path.is_dir() and (own := _labelled(path)) is not None and own[0] == _OWN:
            own_folders.append(own)
        _sort(path, _LEVELS, sets, here, unreadable)
        if len(sets) == before and not here:
            raise DatasetError(f"{path} holds neither labelled faces (FERPlus, ...) nor pictures nor tar shards")
        # Of a shard that is given itself, by a pattern perhaps, the folder around it counts.
        ways = (path.absolute(), path.resolve())  # a link has two names
        given = {(way.parent if path.is_file() else way).name for way in ways}
        for photo in here:  # each once, though two patterns may name it
            photos.setdefault(photo, frozenset((*given, *photo.relative_to(path).parts)))
    if unreadable and not sets and len(unreadable) == len(photos):
        raise DatasetError(next(iter(unreadable.values())))
    found = sets or (own_folders if len(own_folders) == 1 else [])
    if len(found) > 1:
        raise DatasetError(f"two sources of labelled faces given: {found[0][1]} and {found[1][1]}")
    name, faces = found[0] if found else ("", None)
    ferplus = faces if name == "ferplus" else None
    return DataSources(faces, ferplus, tuple(photos), tuple(photos.values()), tuple(unreadable.values()))


def _labelled(path: Path) -> tuple[str, Path] | None:
    """Return the name of the labelled set at a path, and where in it the set lies."""
    for reader in READERS:
        base = reader.find(path)
        if base is not None:
            return reader.name, base
    return None


def _sort(
    path: Path, levels: int, sets: list[tuple[str, Path]], photos: list[Path], unreadable: dict[Path, str]
) -> None:
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    try:
        found = _labelled(path)
    except DatasetError as error:
        if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise
        unreadable[path] = str(error)  # one of many shards, perhaps; those who read photos see to it
        found = None
    if path.is_file():
        if found is not None:
            sets.append(found)
        elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
            photos.append(path)
        return
    if found is not None and found[0] != _OWN and _lies_in(found[1], path):
        sets.append(found)
        return
    children = sorted(path.iterdir())
    if any(child.suffix.lower() in PICTURE_SUFFIXES for child in children):
        photos.append(path)  # with all that lies deeper, but not the shards beside the pictures
        children = [child for child in children if child.is_file()]
    for child in children:
        is_shard = child.is_file() and child.name.lower().endswith(ARCHIVE_SUFFIXES)
        if is_shard or (child.is_dir() and levels > 0):
            _sort(child, levels - 1, sets, photos, unreadable)


def _lies_in(base: Path, folder: Path) -> bool:
    """Whether a set is the folder itself or a table in it; archives and folders in it are come to one by one."""
    is_table = base.is_file() and not base.name.lower().endswith(ARCHIVE_SUFFIXES)
    return base == folder or (is_table and base.parent == folder)
