"""AffectNet's two releases."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.miniature import AFFECTNET_ORDER, write_mini_affectnet_npy, write_mini_affectnet_tables
from training.data import affectnet


@pytest.fixture
def tables(tmp_path):
    return write_mini_affectnet_tables(tmp_path)


@pytest.fixture
def annotations(tmp_path):
    return write_mini_affectnet_npy(tmp_path)


@pytest.mark.parametrize("part", ["train", "valid"])  # the miniature's training.csv has a header, the other has none
def test_tables_give_the_face_in_the_box(tables, part):
    faces = affectnet.read_table(tables, part)
    assert faces.class_names == LABELS
    assert [LABELS[int(target.argmax())] for target in faces.targets] == list(AFFECTNET_ORDER) * 2  # less the no-face
    images = faces.load(48, "gray").images
    scene = cv2.imread(str(faces.root / faces.names[3]), cv2.IMREAD_GRAYSCALE)
    assert np.abs(images[3, 0].numpy().astype(int) - scene[20:68, 10:58]).max() <= 1


def test_tables_are_found_in_their_own_folder_too(tables):
    assert affectnet.find_tables(tables) == tables
    assert affectnet.find_tables(tables.parent) is None
    lists = tables / "Manually_Annotated_file_lists"
    lists.mkdir()
    (tables / "training.csv").rename(lists / "training.csv")
    assert affectnet.table_parts(tables) == ("train", "valid")
    assert len(affectnet.read_table(tables, "train").load(48, "rgb")) == 16
    (tables / "validation.csv").unlink()
    assert affectnet.find_tables(tables) == tables
    assert affectnet.find_tables(lists) == lists
    assert len(affectnet.read_table(lists, "train").load(48, "rgb")) == 16
    with pytest.raises(DatasetError, match=r"validation\.csv is missing"):
        affectnet.read_table(tables, "valid")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",4,-0.5", ",11,-0.5", "line 6: unknown label '11'"),
        ("0/face004.jpg,10", "0/face004.jpg,left", "line 6: the face's box is left, 20, 48, 48"),
        ("0/face004.jpg,10", "0/face004.jpg,nan", "line 6: the face's box is nan, 20, 48, 48"),
        ("0/face004.jpg,", "0/face004.jpg,,", "line 6: 10 columns, expected 9"),
        ("face_width", "width", "line 1: columns subDirectory_filePath, face_x, face_y, width"),
    ],
)
def test_a_damaged_row_is_named(tables, old, new, message):
    table = tables / "training.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=f"training.csv, {message}"):
        affectnet.read_table(tables, "train")


def test_missing_pictures_of_tables_are_named(tables):
    (tables / "Manually_Annotated_Images" / "0" / "face002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 16 pictures cannot be read: .*face002\.jpg"):
        affectnet.read_table(tables, "train").load(48, "rgb")
    shutil.rmtree(tables / "Manually_Annotated_Images")
    with pytest.raises(DatasetError, match="Manually_Annotated_Images is missing"):
        affectnet.read_table(tables, "train")
    table = tables / "validation.csv"
    table.write_text(table.read_text().splitlines()[-1])
    with pytest.raises(DatasetError, match="has no row with an expression"):
        affectnet.read_table(tables, "valid")


def test_annotation_files(annotations):
    assert affectnet.find_annotations(annotations) == annotations
    assert affectnet.find_annotations(annotations.parent) is None
    assert affectnet.annotation_parts(annotations) == ("train", "valid")
    for part in ("train", "valid"):
        faces = affectnet.read_annotations(annotations, part)
        assert len(faces) == 16
        assert faces.class_names == LABELS
        for name, target in zip(faces.names, faces.targets, strict=True):
            assert LABELS[int(target.argmax())] == AFFECTNET_ORDER[int(name.removesuffix(".jpg")) % 8]
        assert faces.load(32, "rgb").images.shape == (16, 3, 32, 32)


def test_annotations_may_be_numbers_and_others_are_left_out(annotations):
    np.save(annotations / "train_set" / "annotations" / "0_exp.npy", np.array(7))
    np.save(annotations / "train_set" / "annotations" / "1_exp.npy", np.array("8"))
    faces = affectnet.read_annotations(annotations, "train")
    assert "1.jpg" not in faces.names
    assert LABELS[int(faces.targets[faces.names.index("0.jpg")].argmax())] == "contempt"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array("11"), "unknown label '11'"),
        (np.array(["1", "2"]), "cannot be read"),
        (np.array({"a": 1}, dtype=object), "cannot be read"),
    ],
)
def test_a_damaged_annotation_is_named(annotations, value, message):
    np.save(annotations / "train_set" / "annotations" / "3_exp.npy", value)
    with pytest.raises(DatasetError, match=rf"3_exp\.npy:? {message}"):
        affectnet.read_annotations(annotations, "train")


def test_missing_parts_of_annotations_are_named(annotations):
    (annotations / "train_set" / "annotations" / "3_exp.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"3_exp\.npy cannot be read"):
        affectnet.read_annotations(annotations, "train")
    (annotations / "val_set" / "images" / "2.jpg").write_text("no picture")
    with pytest.raises(DatasetError, match=r"1 of 16 pictures cannot be read: .*2\.jpg"):
        affectnet.read_annotations(annotations, "valid").load(8, "rgb")
    shutil.rmtree(annotations / "val_set" / "images")
    with pytest.raises(DatasetError, match="images is missing"):
        affectnet.read_annotations(annotations, "valid")
    shutil.rmtree(annotations / "train_set" / "annotations")
    (annotations / "train_set" / "annotations").mkdir()
    with pytest.raises(DatasetError, match=r"has no .*_exp\.npy with an expression"):
        affectnet.read_annotations(annotations, "train")
