"""`fer data check`: counts, and faults that are all listed."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from fer_app.cli import app, lazy_group
from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.conftest import REPOSITORY
from tests.training.miniature import (
    write_mini_fer2013_csv,
    write_mini_ferplus,
    write_mini_folders,
    write_mini_photos,
    write_mini_raf_db,
)
from training.data.check import check
from training.data_cli import data

RUNNER = CliRunner()


def run(*arguments, status=0):
    result = RUNNER.invoke(data, ["check", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def test_a_whole_set_has_counts_and_no_problems(tmp_path):
    write_mini_raf_db(tmp_path, 2)
    lines = run(tmp_path).splitlines()
    assert lines[0] == f"RAF-DB basic in {tmp_path / 'basic'}"
    assert lines[1] == "7 classes; contempt: absent"
    assert lines[2].split() == ["train", "test"]
    assert [line.split() for line in lines[3:10]] == [[label, "2", "2"] for label in LABELS if label != "contempt"]
    assert lines[10].split() == ["all", "14", "14"]
    assert lines[11].split() == ["published", "12271", "3068"]
    assert lines[12:] == ["nothing is missing or unreadable"]


def test_json(tmp_path):
    write_mini_folders(tmp_path, {"glad": "happiness", "bored": "neutral"}, 5)
    found = json.loads(run(tmp_path, "--json"))
    assert found == {
        "path": str(tmp_path),
        "data_set": "image-folder",
        "title": "folder a class",
        "class_names": ["bored", "glad"],
        "contempt": "absent",
        "splits": {
            "train": {"n": 8, "per_class": {"bored": 4, "glad": 4}, "published": None},
            "valid": {"n": 2, "per_class": {"bored": 1, "glad": 1}, "published": None},
        },
        "absent": [],
        "problems": [],
    }


def test_every_missing_and_unreadable_picture_is_listed(tmp_path):
    base = write_mini_raf_db(tmp_path, 2)
    pictures = base / "Image" / "aligned"
    missing = [pictures / f"train_{i:05d}_aligned.jpg" for i in range(1, 8)]
    for path in missing:
        path.unlink()
    cut = pictures / "test_00001_aligned.jpg"
    cut.write_bytes(cut.read_bytes()[:100])
    text = run(tmp_path, status=1)
    problems = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 8
    assert all(any(str(path) in line for line in problems) for path in [*missing, cut])
    assert text.splitlines()[-1] == "8 problems"
    assert len(json.loads(run(tmp_path, "--json", status=1))["problems"]) == 8
    assert len(check(tmp_path, decode=False).problems) == 7
    assert "7 problems" in run(tmp_path, "--labels-only", status=1)


def test_a_part_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    base = write_mini_ferplus(tmp_path, 2)
    (base / "FER2013Valid" / "label.csv").unlink()
    found = check(tmp_path)
    assert list(found.splits) == ["train"]
    assert found.contempt == "kept"
    assert found.absent == ("test",)
    (problem,) = found.problems
    assert "FER2013Valid/label.csv is missing" in problem
    assert "not here: test" in run(tmp_path, status=1)


def test_every_fault_of_ferplus_is_listed_too(tmp_path):
    base = write_mini_ferplus(tmp_path, 12)
    pictures = sorted((base / "FER2013Train").glob("*.png"))[::12]
    for path in pictures[1:]:
        path.unlink()
    pictures[0].write_bytes(b"no picture")
    found = check(tmp_path)
    faulty = [path for path in pictures if any(f"FER2013Train/{path.name} is" in told for told in found.problems)]
    assert len(faulty) > 6  # but for the face that no one recognised, if it is among them
    assert len(faulty) >= len(pictures) - 1
    assert len(found.problems) == len(faulty)


def test_a_fault_that_all_parts_share_is_told_once(tmp_path):
    table = write_mini_fer2013_csv(tmp_path, 1)
    table.write_text(table.read_text().replace("\n1,", "\n9,", 1))
    (problem,) = check(tmp_path).problems
    assert "line 4: unknown label '9'" in problem
    (tmp_path / "own.csv").write_text("path,label,split\na.png,x,nowhere\n")
    (problem,) = check(tmp_path / "own.csv").problems
    assert "line 2: unknown split" in problem
    assert "1 problems" in run(tmp_path / "own.csv", status=1)


def test_what_is_no_set(tmp_path):
    folder, _ = write_mini_photos(tmp_path, 2)
    with pytest.raises(DatasetError, match="no labelled faces"):
        check(folder)


def test_it_is_a_command_of_fer(tmp_path, monkeypatch):
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"][lazy_group.GROUP]
    found = {name: EntryPoint(name, value, lazy_group.GROUP) for name, value in declared.items()}
    assert lazy_group.first_line_of_help(found["data"]) == "Look through a data set, and align its faces."
    monkeypatch.setattr(lazy_group, "_entry_points", lambda: found)
    write_mini_folders(tmp_path / "own", {"glad": "happiness", "bored": "neutral"}, 5)
    result = RUNNER.invoke(app, ["data", "check", str(tmp_path / "own")])
    assert result.exit_code == 0
    assert "nothing is missing" in result.stdout
    result = RUNNER.invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"fer: error: {tmp_path} holds no labelled faces")


def test_usage():
    assert RUNNER.invoke(data, ["check"]).exit_code == 2
    assert "Say which data set it is" in RUNNER.invoke(data, ["--help"]).stdout
