"""Folders of classes and tables of paths: the sets that users make."""

from __future__ import annotations

import pytest

from fer_app.errors import DatasetError
from tests.training.miniature import write_mini_folders
from training.data import image_folder, path_csv

MOODS = {"sad": "sadness", "happy": "happiness", "bored": "neutral"}
KNOWN = {"sad": "sadness", "happy": "happiness", "neutral": "neutral"}


def labelled(faces):
    """Each picture's name and its class."""
    return {
        name: faces.class_names[int(target.argmax())] for name, target in zip(faces.names, faces.targets, strict=True)
    }


def test_own_names_are_kept_and_the_parts_split_every_class(tmp_path):
    write_mini_folders(tmp_path, MOODS, 10)
    assert image_folder.find(tmp_path) == tmp_path
    assert image_folder.parts(tmp_path) == ("train", "valid")
    train, valid = (labelled(image_folder.read(tmp_path, part)) for part in ("train", "valid"))
    assert len(train) == 24
    assert len(valid) == 6
    assert not train.keys() & valid.keys()
    for part in (train, valid):
        assert set(part.values()) == set(MOODS)
        assert all(name.split("/")[0] == label for name, label in part.items())
    assert image_folder.read(tmp_path, "train").class_names == ("bored", "happy", "sad")


def test_a_new_picture_does_not_move_the_others_between_parts(tmp_path):
    write_mini_folders(tmp_path, MOODS, 10)
    before = image_folder.read(tmp_path, "valid").names
    (tmp_path / "sad" / "new.png").write_bytes((tmp_path / "sad" / "0.png").read_bytes())
    after = image_folder.read(tmp_path, "valid").names
    assert len(set(before) ^ set(after) - {"sad/new.png"}) <= 1


def test_known_names_become_canonical(tmp_path):
    write_mini_folders(tmp_path, KNOWN, 2)
    faces = image_folder.read(tmp_path, "train")
    assert faces.class_names == ("neutral", "happiness", "sadness")
    assert all(KNOWN[name.split("/")[0]] == label for name, label in labelled(faces).items())


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_folders_for_the_parts(tmp_path, valid):
    write_mini_folders(tmp_path / "train", MOODS, 3)
    write_mini_folders(tmp_path / valid, {"sad": "sadness", "happy": "happiness"}, 2)
    (tmp_path / "train" / ".cache").mkdir()
    assert image_folder.find(tmp_path) == tmp_path
    assert image_folder.parts(tmp_path) == ("train", "valid")
    assert len(image_folder.read(tmp_path, "train")) == 9
    faces = image_folder.read(tmp_path, "valid")
    assert len(faces) == 4
    assert faces.class_names == ("bored", "happy", "sad")  # the same as of train
    assert faces.load(16, "gray").images.shape == (4, 1, 16, 16)
    with pytest.raises(DatasetError, match="no folder for test"):
        image_folder.read(tmp_path, "test")


def test_what_is_no_set_of_classes(tmp_path):
    assert image_folder.find(tmp_path / "nowhere") is None
    assert image_folder.find(tmp_path) is None
    write_mini_folders(tmp_path, {"sad": "sadness"}, 1)
    assert image_folder.find(tmp_path) is None  # one folder
    write_mini_folders(tmp_path, MOODS, 1)
    assert image_folder.find(tmp_path) == tmp_path
    (tmp_path / "stray.jpg").write_bytes(b"")
    assert image_folder.find(tmp_path) is None


def test_faults_of_folders_are_named(tmp_path):
    write_mini_folders(tmp_path, MOODS, 2)
    (tmp_path / "angry").mkdir()
    with pytest.raises(DatasetError, match="angry has no picture"):
        image_folder.read(tmp_path, "train")
    for name in ("train", "val", "valid"):
        write_mini_folders(tmp_path / "two" / name, MOODS, 1)
    with pytest.raises(DatasetError, match="both val and valid are valid"):
        image_folder.find(tmp_path / "two")


@pytest.fixture
def table(tmp_path):
    write_mini_folders(tmp_path / "pictures", MOODS, 10)
    lines = ["path,label,subject"]
    lines += [f"pictures/{mood}/{i}.png,{mood},{i}" for mood in MOODS for i in range(9)]
    lines.append(f"{tmp_path / 'pictures' / 'sad' / '9.png'},sad,9")
    path = tmp_path / "faces.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_without_parts(table):
    assert path_csv.find(table) == table
    assert path_csv.find(table.parent) == table
    assert path_csv.parts(table) == ("train", "valid")
    train, valid = (labelled(path_csv.read(table, part)) for part in ("train", "valid"))
    assert len(train) + len(valid) == 28
    assert len(valid) == 6
    assert not train.keys() & valid.keys()
    assert all(name.split("/")[-2] == label for name, label in {**train, **valid}.items())
    assert path_csv.read(table, "train").load(8, "rgb").images.shape == (22, 3, 8, 8)


def test_a_table_with_parts(table):
    rows = table.read_text().splitlines()
    parts = ["train", "val", "test"]
    table.write_text("\n".join([rows[0] + ",split", *(f"{row},{parts[i % 3]}" for i, row in enumerate(rows[1:]))]))
    assert path_csv.parts(table) == ("train", "valid", "test")
    assert [len(path_csv.read(table, part)) for part in ("train", "valid", "test")] == [10, 9, 9]


def test_what_is_no_such_table(table):
    (table.parent / "other.csv").write_text("name,size\na,1\n")
    assert path_csv.find(table.parent) == table
    assert path_csv.find(table.parent / "other.csv") is None
    (table.parent / "third.csv").write_text("path,label\na.png,x\n")
    assert path_csv.find(table.parent) is None  # which of the two?
    assert path_csv.find(table.parent / "pictures" / "sad" / "0.png") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,x\nb.png\n", "line 3: 1 columns, expected 2"),
        ("path,label\na.png,x\nb.png,y,z\n", "line 3: 3 columns, expected 2"),
        ("path,label\na.png,x\n,y\n", "line 3: a row needs a path and a label"),
        ("path,label\na.png,x\nb.png,\n", "line 3: a row needs a path and a label"),
        ("path,label,split\na.png,x,train\nb.png,y,dev\n", "line 3: unknown split 'dev'"),
        ("path,split\na.png,train\n", "line 1: no column label"),
        ("", "is empty"),
        (None, "is missing"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, text, message):
    table = tmp_path / "faces.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(DatasetError, match=f"faces.csv,? {message}"):
        path_csv.read(table, "train")


def test_too_few_classes_or_rows(tmp_path):
    table = tmp_path / "faces.csv"
    table.write_text("path,label\na.png,x\n")
    with pytest.raises(DatasetError, match="two classes or more, found x"):
        path_csv.read(table, "train")
    table.write_text("path,label,split\na.png,x,train\nb.png,y,train\n")
    with pytest.raises(DatasetError, match="has no row of test"):
        path_csv.read(table, "test")
