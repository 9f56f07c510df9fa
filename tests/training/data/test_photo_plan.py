"""What is streamed, what is counted, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fer_app.errors import CheckpointError, DatasetError
from tests.training.miniature import write_mini_photos, write_mini_shards
from training.data import photo_plan, shard_list
from training.data.photo_plan import plan_photos
from training.data.shard_list import FileShard
from training.memory import free_bytes


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the archives that are counted, as they are."""
    counted, count_files = [], shard_list.count_files

    def spy(path: Path, wanted: Any) -> Any:
        counted.append(path.name)
        return count_files(path, wanted)

    monkeypatch.setattr(shard_list, "count_files", spy)
    return counted


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_plan, "free_bytes", lambda: 20_000)


def plan(sources: list[Path], folder: Path, **changes: Any) -> photo_plan.PhotoPlan:
    return plan_photos(sources, folder / "photos.json", **{"picture_bytes": 1000, "stream": "auto", **changes})


def test_what_fits_into_half_of_the_free_memory_is_kept(tmp_path: Path) -> None:
    fits = write_mini_shards(tmp_path / "a", [4, 6])
    kept = plan(fits, tmp_path)
    assert kept.shards is None
    assert kept.lines == [
        "photos: 10 pictures, 0.00 GB when decoded (50% of 0.00 GB of free memory may be used): kept in memory"
    ]
    larger = write_mini_shards(tmp_path / "b", [4, 7], ".tgz")
    streamed = plan(larger, tmp_path)
    assert streamed.shards is not None
    assert [(shard.name, shard.count, shard.first_id) for shard in streamed.shards] == [
        ("shard-00.tgz", 4, 0),
        ("shard-01.tgz", 7, 4),
    ]
    assert streamed.lines[0].endswith("): streamed from 2 shards")
    assert plan(fits, tmp_path, processes=2).shards is not None
    assert "among 2 processes" in plan(fits, tmp_path, processes=2).lines[0]


def test_the_reader_may_choose(tmp_path: Path) -> None:
    sources = write_mini_shards(tmp_path / "a", [4, 600])
    assert plan(sources, tmp_path, stream=False).shards is None
    assert plan(sources[:1], tmp_path, stream=True).shards is not None
    assert plan(sources[:1], tmp_path, stream=True).lines[0].endswith("1 shards, as pretrain.stream = true")


def test_a_limit_takes_the_first(tmp_path: Path, counting: list[str]) -> None:
    sources = write_mini_shards(tmp_path / "a", [4, 6, 5])
    assert plan(sources, tmp_path, limit=10).shards is None
    assert counting == []  # there is room for as many, whatever there is
    shards = plan(sources, tmp_path, limit=8, stream=True).shards
    assert shards is not None
    assert [shard.count for shard in shards] == [4, 4]


def test_archives_are_counted_once(tmp_path: Path, counting: list[str]) -> None:
    sources = write_mini_shards(tmp_path / "a", [4, 6], ".tar.gz")
    first = plan(sources, tmp_path, stream=True)
    assert sorted(counting) == ["shard-00.tar.gz", "shard-01.tar.gz"]
    assert plan(sources, tmp_path, stream=True) == first
    assert len(counting) == 2
    write_mini_shards(tmp_path / "a", [5], ".tar.gz")
    again = plan(sources, tmp_path, stream=True).shards
    assert counting[2:] == ["shard-00.tar.gz"]
    assert again is not None
    assert [shard.count for shard in again] == [5, 6]
    (tmp_path / "photos.json").write_text('{"streamed": true, "archives": {"a": 1}}')
    assert plan(sources, tmp_path, stream=True).shards == again


def test_a_resumed_run_stays_with_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = write_mini_shards(tmp_path / "a", [4, 7])
    shards = plan(sources, tmp_path).shards
    assert shards is not None
    monkeypatch.setattr(photo_plan, "free_bytes", lambda: 10**9)
    assert plan(sources, tmp_path, resume=True).shards == shards
    assert plan(sources, tmp_path).shards is None  # another run in the same folder
    monkeypatch.setattr(photo_plan, "free_bytes", lambda: None)
    assert plan(sources, tmp_path, resume=True).lines == ["photos: kept in memory, as this run began"]
    assert "memory taken as 4 GB" in plan(sources, tmp_path).lines[0]


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    sources = write_mini_shards(tmp_path / "a", [4, 6, 5])
    whole = sources[1].read_bytes()
    sources[1].write_bytes(whole[: len(whole) // 2])
    sources[2].write_bytes(b"")
    found = plan(sources, tmp_path, stream=True)
    assert found.shards is not None
    assert [shard.name for shard in found.shards] == ["shard-00.tar", "shard-01.tar"]
    assert 0 < found.shards[1].count < 6
    assert [line.split(" ")[0] for line in found.lines[1:]] == [str(path) for path in sources[1:]]
    assert all(line.endswith("; the pictures before that are used") for line in found.lines[1:])
    with pytest.raises(DatasetError, match=r"^2 damaged shards \(strict_shards = true\): .*shard-01.*shard-02"):
        plan(sources, tmp_path, stream=True, strict=True)
    with pytest.raises(DatasetError, match="shard-02"):
        plan(sources[2:], tmp_path)


def test_faults_of_the_sources(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing\.tar cannot be read: No such file"):
        plan([tmp_path / "missing.tar"], tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt is neither a folder nor"):
        plan([tmp_path / "notes.txt"], tmp_path)
    with pytest.raises(DatasetError, match="no pictures found in"):
        plan([tmp_path], tmp_path)
    with pytest.raises(CheckpointError, match="cannot write"):
        plan(write_mini_shards(tmp_path, [1]), tmp_path / "nowhere")


def test_folders_make_mixed_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shard = write_mini_photos(tmp_path, 9)
    monkeypatch.setattr(shard_list, "_FILES_A_SHARD", 4)
    shards = plan([shard, folder], tmp_path, stream=True).shards
    assert shards is not None
    assert [(one.count, one.first_id, one.id_step) for one in shards] == [(9, 0, 1), (3, 9, 3), (3, 10, 3), (3, 11, 3)]
    assert isinstance(shards[1], FileShard)
    assert shards[1].names == ("deeper/photo001.jpg", "deeper/photo007.jpg", "photo004.jpg")
    limited = plan([shard, folder], tmp_path, stream=True, limit=11).shards
    assert limited is not None
    assert [one.count for one in limited] == [9, 2]


def test_free_memory_is_less_than_there_is() -> None:
    free = free_bytes()
    assert free is None or 10**7 < free < 10**14
