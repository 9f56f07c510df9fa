"""Whether general pictures are kept in memory or streamed, and which shards there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fer_app.errors import CheckpointError, DatasetError
from training.data.archives import ARCHIVE_SUFFIXES
from training.data.shard_list import Counted, Shard, count_archives, list_shards
from training.json_file import read_json, write_json
from training.memory import free_bytes

MEMORY_SHARE: Final = 0.5
"""Part of the free memory that the pictures of all processes of a machine may take."""

_UNKNOWN_FREE_BYTES: Final = 4 * 10**9  # is counted with where the system does not tell


@dataclass(frozen=True)
class PhotoPlan:
    """How pictures are read.

    Attributes:
        shards: to stream from; None where the pictures are kept in memory.
        lines: for the reader: what was chosen and why, and which shards are damaged.
    """

    shards: list[Shard] | None
    lines: list[str]


def plan_photos(
    sources: Sequence[Path],
    record: Path,
    *,
    picture_bytes: int,
    stream: bool | Literal["auto"],
    limit: int | None = None,
    strict: bool = False,
    processes: int = 1,
    resume: bool = False,
) -> PhotoPlan:
    """Choose, and count the pictures.

    Args:
        sources: folders and tar archives.
        record: file of JSON that keeps the choice, with which a resumed run stays, and the archives' counts.
        picture_bytes: of one decoded picture.
        stream: `auto` streams what does not fit into `MEMORY_SHARE` of the free memory.
        limit: take the first so many pictures.
        strict: whether damaged shards of a stream are an error.
        processes: that would each keep all pictures, on this machine.
        resume: keep to the choice that `record` has.

    Raises:
        DatasetError: a source is missing or no archive, there are no pictures, or a shard is damaged and it is strict.
        CheckpointError: `record` cannot be written.
    """
    if stream is False:
        return PhotoPlan(None, ["photos: kept in memory, as pretrain.stream = false"])
    chosen, known = _read(record)
    if stream == "auto" and resume and chosen is False:
        return PhotoPlan(None, ["photos: kept in memory, as this run began"])
    free = free_bytes()
    room = int(MEMORY_SHARE * (_UNKNOWN_FREE_BYTES if free is None else free)) // processes
    if stream == "auto" and not resume and limit is not None and limit * picture_bytes <= room:
        _write(record, False, known)  # whatever there is, nothing has to be counted
        return PhotoPlan(None, [_line(f"at most {limit}", limit * picture_bytes, free, processes, "kept in memory")])
    for source in sources:
        if not source.is_dir() and not source.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise DatasetError(f"{source} is neither a folder nor one of {', '.join(ARCHIVE_SUFFIXES)}")
    counted = count_archives([source for source in sources if not source.is_dir()], known)
    shards = list_shards(sources, counted, limit)
    total = sum(shard.count for shard in shards)
    faults = [found.fault for found in counted.values() if found.fault]
    if not total:
        raise DatasetError(faults[0] if faults else f"no pictures found in {', '.join(map(str, sources))}")
    streamed = stream is True or (resume and bool(chosen)) or total * picture_bytes > room
    _write(record, streamed, counted)
    how = f"streamed from {len(shards)} shards" if streamed else "kept in memory"
    if stream is True:
        how += ", as pretrain.stream = true"
    lines = [_line(str(total), total * picture_bytes, free, processes, how)]
    if not streamed:
        return PhotoPlan(None, lines)
    if faults and strict:
        raise DatasetError(f"{len(faults)} damaged shards (strict_shards = true): {'; '.join(faults)}")
    return PhotoPlan(shards, lines + [f"{fault}; the pictures before that are used" for fault in faults])


def _line(pictures: str, needed: int, free: int | None, processes: int, how: str) -> str:
    among = f" among {processes} processes" if processes > 1 else ""
    told = f"{free / 1e9:.2f} GB" if free is not None else f"memory taken as {_UNKNOWN_FREE_BYTES / 1e9:.0f} GB"
    room = f"{MEMORY_SHARE:.0%} of {told} of free memory{among}"
    return f"photos: {pictures} pictures, {needed / 1e9:.2f} GB when decoded ({room} may be used): {how}"


def _read(record: Path) -> tuple[bool | None, dict[str, Counted]]:
    """Return the choice and the counts; nothing where there is no such file, or one of something else."""
    try:
        held = read_json(record) or {}
        return bool(held["streamed"]), {path: Counted(*row) for path, row in held["archives"].items()}
    except (CheckpointError, TypeError, KeyError, AttributeError):
        return None, {}


def _write(record: Path, streamed: bool, counted: Mapping[str, Counted]) -> None:
    write_json(record, {"streamed": streamed, "archives": counted})
