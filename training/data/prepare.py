"""`fer data prepare`: detect and align once, so that training sees the crops that serving makes.

A part's pictures are cut into ranges, one a shard (`training.data.prepare_shard`), which workers make in any order.
While it runs, the folder holds `preparing.json` (what was asked for) and a report a finished shard; in the end these
give way to `missing.csv` and `prepared.json`, which is written last.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fer_app.atomic_file import replacing
from fer_app.errors import DatasetError, StoppedError
from fer_app.stop_signals import StopSignals
from training.data.prepare_faces import Settings
from training.data.prepare_shard import ShardReport, Task
from training.data.prepare_source import PictureList
from training.data.prepare_workers import run_tasks
from training.data.prepared import FORMAT_VERSION, HEADER_NAME, MISSING_NAME, UNFINISHED_NAME, read_header
from training.json_file import read_json, write_json
from training.report import Report, clock
from training.run_lock import locked

_REPORTS: Final = "reports"
_TENTHS: Final = 10


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        out: the folder.
        splits: what `prepared.json` says of each part.
    """

    out: Path
    splits: Mapping[str, Mapping[str, Any]]

    @property
    def faces(self) -> int:
        """How many faces there are in all."""
        return sum(split["faces"] for split in self.splits.values())

    @property
    def unreadable(self) -> int:
        """How many pictures could not be read, in all."""
        return sum(split["unreadable"] for split in self.splits.values())


def prepare(
    source: PictureList,
    out: Path,
    settings: Settings,
    *,
    shard_size: int = 1000,
    workers: int = 1,
    resume: bool = False,
    report: Report,
) -> Prepared:
    """Detect, align and write a source's faces.

    Args:
        source: what `list_pictures` found.
        out: a new or empty folder; with `resume` one that a run with the same source and settings left.
        settings: what decides about the crops.
        shard_size: pictures a shard; how many faces it gets depends on how many are found.
        workers: processes; the files are the same whatever their number.
        resume: keep the shards that are whole.
        report: tells the user.

    Raises:
        DatasetError: the folder is not empty, or holds other work; it cannot be written to; or no face was found.
        StoppedError: SIGINT or SIGTERM; whole shards are kept.
    """
    asked = {
        "format_version": FORMAT_VERSION,
        "source": {"data_set": source.data_set, "title": source.title, "pictures_sha256": source.digest()},
        "class_names": list(source.class_names),
        "shard_size": shard_size,
        **asdict(settings),
        "pictures": {part: len(pictures) for part, pictures in source.parts.items()},
    }
    _make_folder(out, resume=resume)
    with locked(out, instead="-o", error=DatasetError):
        if _claim(out, asked, resume=resume):
            report.line(f"{out} is complete already")
        else:
            _make_shards(_tasks(source, shard_size), out, settings, workers, report)
            _finish(out, asked, _tasks(source, shard_size), source)
        _clear(out)
    prepared = Prepared(out, read_header(out / HEADER_NAME)["splits"])
    if not prepared.faces:
        raise DatasetError(f"no face was found in {source.where}; see {out / MISSING_NAME}")
    return prepared


def _tasks(source: PictureList, shard_size: int) -> list[Task]:
    return [
        Task(part, number, first, pictures[first : first + shard_size], source.class_names)
        for part, pictures in source.parts.items()
        for number, first in enumerate(range(0, len(pictures), shard_size))
    ]


def _make_folder(out: Path, *, resume: bool) -> None:
    if resume and not any((out / name).is_file() for name in (UNFINISHED_NAME, HEADER_NAME)):
        raise DatasetError(f"nothing to resume: {out} holds no prepared faces; check -o, or leave out --resume")
    try:
        held = sorted(child.name for child in out.iterdir()) if out.exists() else []
        if held and not resume:
            hint = "pass --resume to go on, or " if UNFINISHED_NAME in held or HEADER_NAME in held else ""
            raise DatasetError(f"{out} is not empty ({', '.join(held[:3])}): {hint}give another folder with -o")
        (out / _REPORTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"cannot write to {out}: {error}") from error


def _claim(out: Path, asked: Mapping[str, Any], *, resume: bool) -> bool:
    """Write down what is asked for, or see that it is what the folder holds; true when nothing is left to do."""
    if not resume:
        write_json(out / UNFINISHED_NAME, asked, error=DatasetError)
        return False
    name = HEADER_NAME if (out / HEADER_NAME).is_file() else UNFINISHED_NAME
    held = read_json(out / name, error=DatasetError) or {}
    if name == HEADER_NAME:
        held["pictures"] = {part: split["pictures"] for part, split in held["splits"].items()}
    if told := [f"{key} was {held.get(key)}, is {value}" for key, value in asked.items() if held.get(key) != value]:
        raise DatasetError(f"{out} was begun otherwise ({'; '.join(told)}): give another folder with -o")
    return name == HEADER_NAME


def _make_shards(tasks: list[Task], out: Path, settings: Settings, workers: int, report: Report) -> None:
    """Make the shards that are not there."""
    left = [task for task in tasks if not _is_done(task, out)]
    total = sum(len(task.pictures) for task in tasks)
    kept = total - sum(len(task.pictures) for task in left)
    if kept:
        report.line(f"{len(tasks) - len(left)} of {len(tasks)} shards are there already ({kept} pictures)")
    start, told, announced = time.monotonic(), -1.0, _TENTHS * kept // max(total, 1)
    with StopSignals() as signals:

        def poll(done: int) -> bool:
            nonlocal told, announced
            now, so_far = time.monotonic(), kept + done
            if done and (now - told >= 1 or so_far == total):
                told = now
                text = _progress(so_far, total, done / (now - start))
                report.live(text)
                tenth = _TENTHS * so_far // total
                if tenth > announced:  # for logs, where there is no live line
                    announced = tenth
                    report.line(text)
            return signals.received is not None

        if not run_tasks(left, settings, out, out / _REPORTS, workers=workers, poll=poll):
            assert signals.received is not None
            raise StoppedError(signals.received, f"; the finished shards in {out} are kept: pass --resume to go on")


def _progress(done: int, total: int, rate: float) -> str:
    return f"{done}/{total} pictures, {rate:.0f} pictures/s, {clock((total - done) / rate)} left"


def _is_done(task: Task, out: Path) -> bool:
    found = ShardReport.read(out / _REPORTS / f"{task.stem}.json")
    return found is not None and (not found.faces or (out / f"{task.stem}.tar").is_file())


def _finish(out: Path, asked: Mapping[str, Any], tasks: list[Task], source: PictureList) -> None:
    """Write the list of what is missing, and the header."""
    splits: dict[str, dict[str, Any]] = {}
    missing: list[tuple[str, str, str]] = []
    for part in source.parts:
        made = [(task, ShardReport.read(out / _REPORTS / f"{task.stem}.json")) for task in tasks if task.part == part]
        reports = [(task, found) for task, found in made if found is not None]
        whole = sum(found.views["none"] for _, found in reports)
        without = sum(len(found.missing) for _, found in reports)
        splits[part] = {
            "pictures": sum(found.pictures for _, found in reports),
            "faces": sum(found.faces for _, found in reports),
            "found": sum(found.views["picture"] for _, found in reports),
            "found_closer": sum(found.views["closer"] for _, found in reports),
            "kept_whole": whole,
            "dropped": without - whole,
            "unreadable": sum(len(found.unreadable) for _, found in reports),
            "per_class": {name: sum(found.per_class[name] for _, found in reports) for name in source.class_names},
            "shards": [{"file": f"{task.stem}.tar", "faces": found.faces} for task, found in reports if found.faces],
        }
        outcome = "kept whole" if asked["on_missing"] == "keep" else "dropped"
        for _, found in reports:
            missing += [(part, name, f"no face found, {outcome}") for name in found.missing]
            missing += [(part, name, reason) for name, reason in found.unreadable]
    _write_table(out / MISSING_NAME, [("split", "name", "what"), *missing])
    header = {key: value for key, value in asked.items() if key != "pictures"}
    write_json(out / HEADER_NAME, {**header, "splits": splits}, error=DatasetError)


def _clear(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(out / _REPORTS, ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / UNFINISHED_NAME).unlink()


def _write_table(path: Path, rows: list[tuple[str, str, str]]) -> None:
    try:
        # The bytes of names that are no UTF-8 come out as they were.
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
