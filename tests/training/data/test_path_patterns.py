"""Globs and brace lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_app.errors import DatasetError
from training.data.path_patterns import expand, expand_braces


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("plain", ["plain"]),
        ("a{08..11}.tar", ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("x{,y}", ["x", "xy"]),
        ("{a}{b..c}{", ["{a}{b..c}{"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


def test_lists_and_globs_stand_for_what_is_there(tmp_path: Path) -> None:
    shards = [tmp_path / f"train-{i:03d}.tar" for i in range(12)]
    for shard in shards:
        shard.touch()
    assert expand([tmp_path / "train-{000..011}.tar"]) == shards
    assert expand([tmp_path / "train-*.tar"]) == shards
    assert expand([tmp_path / "train-00[1-3].tar"]) == shards[1:4]
    assert expand([tmp_path / "**" / "train-{00*,010}.tar"]) == shards[:11]
    assert expand([shards[3], tmp_path / "train-{002..004}.tar"]) == [shards[3], shards[2], shards[4]]  # each once


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a[1].tar", "{b,c}", "a1.tar"):
        (tmp_path / name).touch()
    assert expand([tmp_path / "a[1].tar", tmp_path / "{b,c}"]) == [tmp_path / "a[1].tar", tmp_path / "{b,c}"]


def test_missing_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.tar").touch()
    with pytest.raises(DatasetError, match=r"6\}\.tar: 5 of 6 do not exist: .*2\.tar, .*3\.tar, .*4\.tar, \.\.\.$"):
        expand([tmp_path / "{1..6}.tar"])
    with pytest.raises(DatasetError, match=r"1 of 1 do not exist: .*\*\.tgz$"):
        expand([tmp_path / "*.tgz"])
    assert expand([tmp_path / "no pattern.tar"]) == [tmp_path / "no pattern.tar"]  # its reader says so
