"""The FERPlus reader on miniature folders and archives, and its counts on the real data."""

from __future__ import annotations

import csv
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.miniature import write_mini_ferplus
from training.data.ferplus import SPLITS, dev_names, load_ferplus, select_dev, vote_targets


def same(a, b):
    return a.names == b.names and torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)


@pytest.fixture
def editable(mini_ferplus, tmp_path) -> Path:
    """A copy of the miniature that a test may damage."""
    return Path(shutil.copytree(mini_ferplus, tmp_path / "ferplus"))


def test_pictures_names_and_targets_belong_together(mini_ferplus):
    faces = load_ferplus(mini_ferplus, "train")
    assert faces.images.shape == (96, 1, 48, 48)
    assert faces.images.dtype == torch.uint8
    assert faces.class_names == LABELS
    with (mini_ferplus / "FER2013Train" / "label.csv").open() as file:
        labels = {row[0]: [int(v) for v in row[2:]] for row in csv.reader(file)}
    assert set(labels) - set(faces.names) == {name for name, votes in labels.items() if votes[8] == 10}
    for name, image, target in zip(faces.names, faces.images, faces.targets, strict=True):
        stored = cv2.imread(str(mini_ferplus / "FER2013Train" / name), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(image[0], stored)
        assert target.argmax() == np.argmax(labels[name])


def test_splits_partition_train(mini_ferplus):
    parts = {split: load_ferplus(mini_ferplus, split) for split in SPLITS if split != "test"}
    assert set(parts["dev"].names) == set(parts["train"].names) & dev_names()
    assert len(parts["dev"]) == 16
    assert set(parts["train-main"].names) == set(parts["train"].names) - dev_names()
    assert parts["train+valid"].names == parts["train"].names + parts["valid"].names
    assert len(parts["valid"]) == 32


def test_the_drawn_classes_can_be_learnt(mini_ferplus):
    def features(faces):
        rows = faces.images.flatten(1).double()
        return (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)

    train, valid = load_ferplus(mini_ferplus, "train"), load_ferplus(mini_ferplus, "valid")
    x = features(train)
    weights = torch.linalg.solve(x @ x.T + 100 * torch.eye(len(x)), train.targets.double() - 1 / 8)
    predicted = (features(valid) @ x.T @ weights).argmax(1)
    assert (predicted == valid.targets.argmax(1)).double().mean() > 0.6


def test_every_layout_gives_the_same(mini_ferplus, tmp_path):
    expected = load_ferplus(mini_ferplus, "train+valid")
    archive = tmp_path / "download" / "ferplus-train-valid.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(mini_ferplus, arcname="ferplus")
    for root in (mini_ferplus.parent, archive, archive.parent):
        assert same(load_ferplus(root, "train+valid"), expected)


def test_the_mode_changes_training_splits_only(mini_ferplus):
    soft = load_ferplus(mini_ferplus, "train", "crossentropy")
    assert ((soft.targets > 0).sum(1) > 1).any()
    for split in ("dev", "valid"):
        assert same(load_ferplus(mini_ferplus, split, "crossentropy"), load_ferplus(mini_ferplus, split))
        asked = load_ferplus(mini_ferplus, split, eval_mode="multi_target")
        assert asked.targets.min() == pytest.approx(0.001)
    main = load_ferplus(mini_ferplus, "train-main", "crossentropy")
    assert set(main.names) == set(soft.names) - dev_names()


def test_a_missing_root_or_folder_is_named(mini_ferplus, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        load_ferplus(tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match="FER2013Test"):
        load_ferplus(mini_ferplus, "test")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        load_ferplus(tmp_path, "train")


def test_one_of_two_folders_missing(editable):
    shutil.rmtree(editable / "FER2013Valid")
    with pytest.raises(DatasetError, match="lacks FER2013Valid"):
        load_ferplus(editable, "train+valid")
    archive = editable.parent / "half.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(editable, arcname="ferplus")
    with pytest.raises(DatasetError, match="lacks FER2013Valid"):
        load_ferplus(archive, "train+valid")


def test_missing_pictures_are_listed_and_counted(editable):
    names = load_ferplus(editable, "valid").names
    for name in names[:7]:
        (editable / "FER2013Valid" / name).unlink()
    with pytest.raises(DatasetError, match=rf"7 pictures are missing: FER2013Valid/{names[0]}.*\.\.\.$") as caught:
        load_ferplus(editable, "valid")
    assert names[4] in str(caught.value)
    assert names[5] not in str(caught.value)


def test_pictures_that_are_none_or_of_another_size_are_refused(editable):
    names = load_ferplus(editable, "valid").names
    (editable / "FER2013Valid" / names[0]).write_bytes(b"no picture")
    (editable / "FER2013Valid" / names[1]).write_bytes(b"")
    cv2.imwrite(str(editable / "FER2013Valid" / names[2]), np.zeros((40, 48), np.uint8))
    with pytest.raises(DatasetError, match=f"3 pictures .*{names[0]}, FER2013Valid/{names[1]}, .*{names[2]}"):
        load_ferplus(editable, "valid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "label.csv is missing"),
        ("", "empty"),
        ('a.png,"(0, 0, 48, 48)",1,2,3\n', "line 1: 5 columns"),
        ('a.png,"(0, 0, 48, 48)",0,0,0,0,0,0,0,0,0,10\nb.png,"(0, 0, 48, 48)",x,0,0,0,0,0,0,0,0,0\n', "line 2"),
        ('a.png,"(0, 0, 48, 48)",-3,0,0,0,0,0,0,0,0,13\n', "negative"),
        ('a.png,"(0, 0, 48, 48)",0,0,0,0,0,0,0,0,0,10\n', "no row of FER2013Valid"),
    ],
)
def test_a_bad_label_file_is_refused(editable, text, message):
    labels = editable / "FER2013Valid" / "label.csv"
    labels.unlink()
    if text is not None:
        labels.write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_ferplus(editable, "valid")


def test_a_cut_off_archive_is_refused(mini_ferplus, tmp_path):
    archive = tmp_path / "ferplus.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(mini_ferplus, arcname="ferplus")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="cannot be read as a tar archive"):
        load_ferplus(archive, "train")


def test_unknown_split():
    with pytest.raises(ValueError, match="training"):
        load_ferplus(Path(), "training")


def test_select_dev_takes_a_tenth_of_every_class(tmp_path):
    root = write_mini_ferplus(tmp_path, per_class=30)
    chosen = select_dev(root)
    train = load_ferplus(root, "train")
    labels = dict(zip(train.names, train.targets.argmax(1).tolist(), strict=True))
    assert chosen == sorted(set(chosen))
    assert np.bincount([labels[name] for name in chosen], minlength=8).tolist() == [3] * 8
    assert select_dev(root.parent) == chosen


@pytest.mark.data
class TestRealData:
    """Counts of the published label files, recounted independently."""

    @pytest.mark.parametrize(
        ("mode", "train", "valid"),
        [
            ("majority", 25_045, 3_191),
            ("probability", 27_947, 3_508),
            ("crossentropy", 27_947, 3_508),
            ("multi_target", 27_667, 3_472),
            ("argmax", 28_385, 3_555),
            ("shares", 28_385, 3_555),
            ("repeated_shares", 28_385, 3_555),
        ],
    )
    def test_counts(self, ferplus_dir, mode, train, valid):
        assert len(load_ferplus(ferplus_dir, "train", mode)) == train
        assert len(load_ferplus(ferplus_dir, "valid", eval_mode=mode)) == valid

    def test_majority_classes(self, ferplus_dir):
        both = load_ferplus(ferplus_dir, "train+valid")
        assert len(both) == 28_236
        assert len(set(both.names)) == 28_236
        per_class = both.targets[:25_045].sum(0).tolist()
        assert per_class == [8_733, 7_284, 3_136, 3_022, 2_098, 116, 536, 120]

    def test_the_dev_list_is_what_its_function_chooses(self, ferplus_dir):
        assert sorted(dev_names()) == select_dev(ferplus_dir)

    def test_dev_has_a_tenth_of_every_class(self, ferplus_dir):
        dev, main = load_ferplus(ferplus_dir, "dev"), load_ferplus(ferplus_dir, "train-main")
        assert dev.targets.sum(0).tolist() == [873, 728, 314, 302, 210, 12, 54, 12]
        assert len(dev) == len(dev_names()) == 2_505
        assert len(main) == 25_045 - 2_505
        assert not set(dev.names) & set(main.names)

    def test_no_picture_of_dev_is_trained_on_in_any_mode(self, ferplus_dir):
        main = load_ferplus(ferplus_dir, "train-main", "argmax")
        assert not set(main.names) & dev_names()


def test_vote_targets_is_reachable_from_the_reader():
    assert vote_targets(np.eye(1, 10, dtype=np.int64) * 10, "majority")[1].all()
