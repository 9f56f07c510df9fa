"""FER2013 as a table of pixels and as folders, and FERPlus's votes on its rows."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.data.test_label_maps import SEVEN
from tests.training.miniature import write_mini_fer2013_csv, write_mini_folders
from training.data import fer2013, ferplus_csv

FOLDERS = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "sad": "sadness",
    "surprise": "surprise",
}


@pytest.fixture
def table(tmp_path):
    return write_mini_fer2013_csv(tmp_path, votes=True)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def damage(path, line, column, value):
    """Change a cell: column None drops the row's last one, line None drops the last row."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if line is None:
        del rows[-1]
    elif column is None:
        del rows[line - 1][-1]
    else:
        rows[line - 1][column] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(("part", "usage"), [("train", "Training"), ("valid", "PublicTest"), ("test", "PrivateTest")])
def test_pixels_and_labels_of_each_part(table, part, usage):
    faces = fer2013.read_csv(table, part)
    rows = [(i, row) for i, row in enumerate(rows_of(table)) if row["Usage"] == usage]
    assert faces.names == tuple(f"row{i:05d}" for i, _ in rows)
    assert faces.class_names == SEVEN
    own = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    for image, target, (_, row) in zip(faces.images, faces.targets, rows, strict=True):
        assert " ".join(map(str, image.flatten().tolist())) == row["pixels"]
        assert SEVEN[int(target.argmax())] == own[int(row["emotion"])]
        assert target.sum() == 1


def test_the_table_is_found(table, tmp_path):
    assert fer2013.find_csv(table) == table
    assert fer2013.find_csv(tmp_path) == table
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "fer2013").mkdir()
    assert fer2013.find_csv(tmp_path / "up") is None
    moved = table.rename(tmp_path / "up" / "fer2013" / "fer2013.csv")
    assert fer2013.find_csv(tmp_path / "up") == moved


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (3, 0, "7", "fer2013.csv, line 3: unknown label '7'"),
        (3, 1, "1 2 3", "fer2013.csv, line 3: 3 pixels, expected 2304"),
        (3, 1, "1 x", "fer2013.csv, line 3: pixels: "),
        (3, 1, "256", "fer2013.csv, line 3: pixels: "),
        (4, 2, "Train", "fer2013.csv, line 4: unknown Usage 'Train'"),
        (5, None, "", "fer2013.csv, line 5: 2 columns, expected 3"),
        (1, 2, "Use", "fer2013.csv, line 1: no column Usage"),
    ],
)
def test_a_damaged_row_is_named(table, line, column, value, message):
    damage(table, line, column, value)
    with pytest.raises(DatasetError, match=message):
        fer2013.read_csv(table, "train")


def test_a_table_that_is_missing_empty_or_no_text(table):
    table.write_bytes(b"emotion,pixels,Usage\n\xff\xfe")
    with pytest.raises(DatasetError, match=r"fer2013\.csv is no UTF-8 text"):
        fer2013.read_csv(table, "train")
    table.write_text("emotion,pixels,Usage\n")
    with pytest.raises(DatasetError, match="has no row of train"):
        fer2013.read_csv(table, "train")
    table.write_text("")
    with pytest.raises(DatasetError, match=r"fer2013\.csv is empty"):
        fer2013.read_csv(table, "train")
    table.unlink()
    with pytest.raises(DatasetError, match=r"fer2013\.csv is missing"):
        fer2013.read_csv(table, "train")


def test_votes_are_paired_by_row_not_by_name(table, tmp_path):
    votes = rows_of(tmp_path / "fer2013new.csv")
    numbers = [int(row["Image name"][3:10]) for row in votes if row["Image name"]]
    assert len(set(numbers)) < len(numbers)  # the miniature has the traps
    assert any(number != i for i, number in enumerate(numbers))
    for part, usage in (("train", "Training"), ("valid", "PublicTest")):
        faces = ferplus_csv.read(tmp_path, part)
        pairs = [
            (vote, row)
            for vote, row in zip(votes, rows_of(table), strict=True)
            if row["Usage"] == usage and vote["NF"] == "0"
        ]
        assert faces.names == tuple(vote["Image name"] for vote, _ in pairs)
        assert "" not in faces.names
        assert faces.class_names == LABELS
        for image, target, (vote, row) in zip(faces.images, faces.targets, pairs, strict=True):
            assert " ".join(map(str, image.flatten().tolist())) == row["pixels"]
            assert vote[LABELS[int(target.argmax())]] == "8"


def test_the_vote_rule_is_the_one_asked_for(table, tmp_path):
    for line in range(2, 9):
        for column in range(2, 12):
            damage(tmp_path / "fer2013new.csv", line, column, "5" if column in (2, 3) else "0")
    clear = ferplus_csv.read(tmp_path, "train")
    soft = ferplus_csv.read(tmp_path, "train", "crossentropy")
    assert len(soft) == len(clear) + 7
    assert np.allclose(soft.targets[0, :3], [0.5, 0.5, 0])


@pytest.mark.parametrize(
    ("file", "line", "column", "value", "message"),
    [
        (
            "fer2013new.csv",
            3,
            0,
            "PublicTest",
            "line 3: Usage is 'PublicTest', but that of fer2013.csv",
        ),
        ("fer2013new.csv", 4, 2, "x", "fer2013new.csv, line 4: votes: "),
        ("fer2013new.csv", 4, 2, "-1", "fer2013new.csv, line 4: a negative"),
        ("fer2013new.csv", 4, None, "", "fer2013new.csv, line 4: 11 columns, expected 12"),
        ("fer2013new.csv", 1, 11, "NFF", "fer2013new.csv, line 1: no column NF"),
        ("fer2013new.csv", None, None, "", "fer2013new.csv has fewer rows than .*fer2013.csv"),
        ("fer2013.csv", None, None, "", "fer2013.csv has fewer rows than .*fer2013new.csv"),
        ("fer2013.csv", 5, 1, "1", "fer2013.csv, line 5: 1 pixels"),
    ],
)
def test_damaged_votes_are_named(table, tmp_path, file, line, column, value, message):
    damage(tmp_path / file, line, column, value)
    with pytest.raises(DatasetError, match=message):
        ferplus_csv.read(tmp_path, "train")


def test_votes_without_faces_or_with_none_left(table, tmp_path):
    votes = tmp_path / "fer2013new.csv"
    rows = votes.read_text().splitlines()
    unclear = [",".join([*row.split(",")[:2], *["1"] * 10]) for row in rows[1:]]
    votes.write_text("\n".join([rows[0], *unclear]))
    with pytest.raises(DatasetError, match="no row of train is left in mode majority"):
        ferplus_csv.read(tmp_path, "train")
    table.unlink()
    with pytest.raises(DatasetError, match=r"fer2013\.csv is missing"):
        ferplus_csv.read(tmp_path, "train")


def test_folders(tmp_path):
    for part, count in (("train", 3), ("test", 1)):
        write_mini_folders(tmp_path / part, FOLDERS, count)
    assert fer2013.find_folders(tmp_path) == tmp_path
    faces = fer2013.read_folders(tmp_path, "train")
    assert len(faces) == 21
    assert faces.class_names == SEVEN
    for name, target in zip(faces.names, faces.targets, strict=True):
        assert name.startswith("train/")
        assert SEVEN[int(target.argmax())] == FOLDERS[name.split("/")[1]]
    assert len(fer2013.read_folders(tmp_path, "test")) == 7


def test_folders_of_another_set_are_not_fer2013(tmp_path):
    assert fer2013.find_folders(tmp_path) is None
    write_mini_folders(tmp_path / "train", {**FOLDERS, "bored": "neutral"}, 1)
    write_mini_folders(tmp_path / "test", FOLDERS, 1)
    assert fer2013.find_folders(tmp_path) is None


def test_an_unknown_or_empty_class_folder_is_named(tmp_path):
    write_mini_folders(tmp_path / "train", FOLDERS, 1)
    write_mini_folders(tmp_path / "test", {**FOLDERS, "bored": "neutral"}, 1)
    with pytest.raises(DatasetError, match=r"test.bored: unknown label 'bored'"):
        fer2013.read_folders(tmp_path, "test")
    (tmp_path / "train" / "sad" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"train.sad has no picture"):
        fer2013.read_folders(tmp_path, "train")
    with pytest.raises(DatasetError, match="no folder for valid"):
        fer2013.read_folders(tmp_path, "valid")
