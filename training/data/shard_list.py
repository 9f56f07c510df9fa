"""The shards of a set of general pictures: which there are, how many pictures each holds, and what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from fer_app.errors import DatasetError
from training.data.archives import count_files, read_tar
from training.data.general import PICTURE_SUFFIXES

_FILES_A_SHARD = 1000  # of a folder of pictures
_COUNTING_THREADS = 4  # most of the time goes to the disk and to zlib, which does not hold Python's lock


class Shard(Protocol):
    """Pictures that are read one after another.

    Attributes:
        count: how many are taken, from the first.
        first_id: number of the first picture in the whole set.
        id_step: from one picture's number to the next one's.
        name: for messages.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - described above
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def first_id(self) -> int: ...  # noqa: D102
    @property
    def id_step(self) -> int: ...  # noqa: D102

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, str, bytes | Path]]:
        """Yield position, name and content (or the file that has it) of the pictures at the wanted positions.

        Raises:
            DatasetError: the shard is damaged or gone.
        """

    def identity(self) -> list[object]:
        """Return plain values that tell it from others."""


@dataclass(frozen=True)
class TarShard:
    """A tar archive, plain or gzipped; positions count its pictures."""

    path: Path
    count: int
    first_id: int
    id_step: int = 1

    @property
    def name(self) -> str:
        """See `Shard`."""
        return self.path.name

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, str, bytes | Path]]:
        """See `Shard.read`; nothing behind the last wanted picture is read."""
        left, position, current = len(wanted), -1, -1

        def is_wanted(name: str) -> bool:
            nonlocal position, current
            if not is_picture(name):
                return False
            position += 1
            current = position
            return position in wanted

        if left:
            for name, content in read_tar(self.path, is_wanted):
                yield current, f"{self.name}/{name}", content
                left -= 1
                if not left:
                    return

    def identity(self) -> list[object]:
        """See `Shard.identity`."""
        return [self.name, self.count, self.path.stat().st_size]


@dataclass(frozen=True)
class FileShard:
    """Some of a folder's pictures: every so manieth, as neighbours are often of one kind."""

    root: Path
    names: tuple[str, ...]
    first_id: int
    id_step: int

    @property
    def name(self) -> str:
        """See `Shard`."""
        return self.root.name

    @property
    def count(self) -> int:
        """See `Shard`."""
        return len(self.names)

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, str, bytes | Path]]:
        """See `Shard.read`; the files are read where they are decoded."""
        for position, name in enumerate(self.names):
            if position in wanted:
                yield position, name, self.root / name

    def identity(self) -> list[object]:
        """See `Shard.identity`."""
        return [self.name, *self.names]


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES)


class Counted(NamedTuple):
    """What was found in an archive of that size (in bytes) and time of change (in ns): pictures before its fault."""

    size: int
    changed: int
    pictures: int
    fault: str | None


def count_archives(paths: Iterable[Path], known: Mapping[str, Counted]) -> dict[str, Counted]:
    """Count the pictures of archives, by path; those that are as `known` has them are not read again.

    A gzipped archive is decompressed for it, of a plain one the headers are read.

    Raises:
        DatasetError: an archive is missing.
    """
    before: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
        before[path] = (state.st_size, state.st_mtime_ns)

    def count(path: Path) -> Counted:
        held = known.get(str(path))
        return held if held and held[:2] == before[path] else Counted(*before[path], *count_files(path, is_picture))

    with ThreadPoolExecutor(_COUNTING_THREADS) as pool:
        return dict(zip(map(str, before), pool.map(count, before), strict=True))


def list_shards(sources: Iterable[Path], counted: Mapping[str, Counted], limit: int | None = None) -> list[Shard]:
    """Return the shards of folders and archives, without those that hold nothing.

    Pictures are numbered as `general.load_images` reads them: in the order of the sources, of a folder's paths, and of
    an archive's members.

    Args:
        sources: folders of pictures (all that is in them makes shards of about 1000) and tar archives.
        counted: see `count_archives`; has every archive.
        limit: take this many pictures, the first ones; None takes all.
    """
    shards: list[Shard] = []
    next_id = 0
    for source in sources:
        left = None if limit is None else limit - next_id
        if str(source) in counted:
            count = counted[str(source)].pictures
            shards.append(TarShard(source, count if left is None else min(left, count), next_id))
            next_id += shards[-1].count
        else:
            files = sorted(path for path in source.rglob("*") if is_picture(path.name) and path.is_file())[:left]
            names = [path.relative_to(source).as_posix() for path in files]
            step = -(-len(names) // _FILES_A_SHARD)
            shards += [FileShard(source, tuple(names[i::step]), next_id + i, step) for i in range(step)]
            next_id += len(names)
    return [shard for shard in shards if shard.count]
