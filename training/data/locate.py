"""Which of the folders and archives given with `--data` is FERPlus, and which hold general photos."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fer_app.errors import DatasetError
from training.data.archives import ARCHIVE_SUFFIXES
from training.data.general import PICTURE_SUFFIXES

_LEVELS = 2


@dataclass(frozen=True)
class DataSources:
    """What was found.

    Attributes:
        ferplus: the FERPlus folder or archive, or None.
        photos: folders of pictures and tar shards, in the order given, shards sorted.
    """

    ferplus: Path | None
    photos: tuple[Path, ...]

    def need_ferplus(self) -> Path:
        """Return the FERPlus source.

        Raises:
            DatasetError: there is none.
        """
        if self.ferplus is None:
            raise DatasetError("no FERPlus data given: pass its folder or .tar.gz with --data")
        return self.ferplus

    def need_photos(self) -> tuple[Path, ...]:
        """Return the sources of general photos.

        Raises:
            DatasetError: there are none.
        """
        if not self.photos:
            raise DatasetError("no general photos given: pass a folder of pictures or tar shards with --data")
        return self.photos


def locate(paths: Iterable[Path]) -> DataSources:
    """Tell the sources apart by what is in them; a folder may hold several, up to two levels down.

    Raises:
        DatasetError: a path does not exist or holds neither, or there are two FERPlus sources.
    """
    ferplus: list[Path] = []
    photos: list[Path] = []
    for path in paths:
        before = len(ferplus) + len(photos)
        _sort(path, _LEVELS, ferplus, photos)
        if len(ferplus) + len(photos) == before:
            raise DatasetError(f"{path} holds neither FERPlus (FER2013Train/...) nor pictures nor tar shards")
    if len(ferplus) > 1:
        raise DatasetError(f"two sources of FERPlus given: {ferplus[0]} and {ferplus[1]}")
    return DataSources(ferplus[0] if ferplus else None, tuple(photos))


def _sort(path: Path, levels: int, ferplus: list[Path], photos: list[Path]) -> None:
    if path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES):
        (ferplus if _is_ferplus_archive(path) else photos).append(path)
    elif path.is_dir():
        children = sorted(path.iterdir())
        if any(child.is_dir() and child.name.startswith("FER2013") for child in children):
            ferplus.append(path)
            return
        if any(child.suffix.lower() in PICTURE_SUFFIXES for child in children):
            photos.append(path)  # with all that lies deeper, but not the shards beside the pictures
            children = [child for child in children if child.is_file()]
        for child in children:
            if child.is_file() or levels > 0:
                _sort(child, levels - 1, ferplus, photos)
    elif not path.exists():
        raise DatasetError(f"{path} does not exist")


def _is_ferplus_archive(path: Path) -> bool:
    """Look at the first few members: an archive need not be read whole to be known."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for position, member in enumerate(archive):
                if "FER2013" in member.name:
                    return True
                if position >= 8:
                    return False
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}") from error
    return False
