"""RAF-DB's basic emotions."""

from __future__ import annotations

import shutil

import pytest

from fer_app.errors import DatasetError
from tests.training.data.test_label_maps import SEVEN
from tests.training.miniature import write_mini_raf_db
from training.data import raf_db

OWN = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@pytest.fixture
def base(tmp_path):
    return write_mini_raf_db(tmp_path)


def test_the_folder_or_its_parent_is_found(base):
    assert raf_db.find(base) == base
    assert raf_db.find(base.parent) == base
    assert raf_db.find(base / "Image") is None


@pytest.mark.parametrize("part", ["train", "test"])
def test_aligned_pictures_and_labels(base, part):
    faces = raf_db.read(base, part)
    assert faces.class_names == SEVEN
    assert len(faces) == 14
    for i, (name, target) in enumerate(zip(faces.names, faces.targets, strict=True)):
        assert name == f"{part}_{i + 1:05d}_aligned.jpg"
        assert SEVEN[int(target.argmax())] == OWN[i % 7]
    assert faces.load(48, "rgb").images.shape == (14, 3, 48, 48)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train_00002.jpg 8", "line 2: unknown label '8'"),
        ("train_00002.jpg 0", "line 2: unknown label '0'"),
        ("train_00002.jpg", "line 2: 1 columns, expected 2"),
        ("train_00002.jpg 1 2", "line 2: 3 columns, expected 2"),
        ("dev_00002.jpg 1", "line 2: 'dev_00002.jpg' is of neither part"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_row_is_named(base, row, message, part):
    labels = base / "EmoLabel" / "list_patition_label.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([lines[0], row, *lines[2:]]))
    with pytest.raises(DatasetError, match=f"list_patition_label.txt, {message}"):
        raf_db.read(base, part)


def test_a_missing_file_or_folder_is_named(base):
    picture = base / "Image" / "aligned" / "train_00003_aligned.jpg"
    picture.unlink()
    with pytest.raises(DatasetError, match=r"1 of 14 pictures cannot be read: .*train_00003_aligned\.jpg"):
        raf_db.read(base, "train").load(48, "rgb")
    (base / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 1\n")
    with pytest.raises(DatasetError, match="has no row of test"):
        raf_db.read(base, "test")
    (base / "EmoLabel" / "list_patition_label.txt").unlink()
    with pytest.raises(DatasetError, match=r"list_patition_label\.txt is missing"):
        raf_db.read(base, "train")
    shutil.rmtree(base / "Image")
    with pytest.raises(DatasetError, match="aligned is missing"):
        raf_db.read(base, "train")
