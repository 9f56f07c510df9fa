"""One entry point over all sets: which one lies where, its splits, its classes."""

from __future__ import annotations

import csv
import tarfile

import numpy as np
import pytest
import torch

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.data.test_fer2013 import FOLDERS
from tests.training.data.test_label_maps import SEVEN
from tests.training.miniature import (
    write_mini_affectnet_npy,
    write_mini_affectnet_tables,
    write_mini_fer2013_csv,
    write_mini_ferplus,
    write_mini_folders,
    write_mini_photos,
    write_mini_raf_db,
)
from training.data.datasets import READERS, at, identify, load, relabel, without_contempt
from training.data.ferplus import dev_names, load_ferplus
from training.data.image_set import ImageSet
from training.data.prepare import prepare
from training.data.prepare_faces import Settings
from training.data.prepare_source import list_pictures
from training.report import Report


def write_fer2013_folders(root):
    write_mini_folders(root / "train", FOLDERS, 10)
    return write_mini_folders(root / "test", FOLDERS, 2).parent


def write_table(root):
    write_mini_folders(root, {"glad": "happiness", "bored": "neutral"}, 10)
    rows = [("path", "label"), *((path.relative_to(root), path.parent.name) for path in sorted(root.rglob("*.png")))]
    with (root / "faces.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


OWN = {"glad": "happiness", "bored": "neutral"}


def write_prepared(root):
    """Prepare the drawn faces, of which the detector finds few, and the rest are kept whole."""
    own = write_mini_folders(root / "own", OWN, 10)
    settings = Settings(img_size=40, on_missing="keep")
    prepare(list_pictures(own), root / "prepared", settings, shard_size=5, report=Report(None))


# Name -> how its miniature is written, its splits, its classes, the faces of train.
SETS = {
    "ferplus": (lambda root: write_mini_ferplus(root, 12), ("train", "valid"), LABELS, 96),
    "ferplus-csv": (lambda root: write_mini_fer2013_csv(root, 10, votes=True), ("train", "valid", "test"), LABELS, 70),
    "fer2013": (lambda root: write_mini_fer2013_csv(root, 10), ("train", "valid", "test"), SEVEN, 71),
    "raf-db": (lambda root: write_mini_raf_db(root, 10), ("train", "test"), SEVEN, 70),
    "affectnet": (lambda root: write_mini_affectnet_tables(root, 10).parent, ("train", "valid"), LABELS, 80),
    "affectnet-npy": (lambda root: write_mini_affectnet_npy(root, 10).parent, ("train", "valid"), LABELS, 80),
    "fer2013-folders": (write_fer2013_folders, ("train", "test"), SEVEN, 70),
    "csv": (write_table, ("train", "valid"), ("bored", "glad"), 16),
    "image-folder": (lambda root: write_mini_folders(root, OWN, 10), ("train", "valid"), ("bored", "glad"), 16),
    "prepared": (write_prepared, ("train", "valid"), ("bored", "glad"), 16),
}
WITHIN = {
    "affectnet": "affectnet",
    "affectnet-npy": "affectnet-npy",
    "prepared": "prepared",
}  # found in their own folder only


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Where each set's miniature lies."""
    found = {}
    for name, (write, *_) in SETS.items():
        root = tmp_path_factory.mktemp(name)
        write(root)
        found[name] = root / WITHIN.get(name, "")
    return found


def read(root, split, **options):
    return load(root, split, img_size=32, color_mode="rgb", **options)


def test_every_reader_is_tried():
    assert {reader.name for reader in READERS} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_told_from_the_others(roots, name):
    assert identify(roots[name]) == name
    _, splits, class_names, n = SETS[name]
    reader, base = at(roots[name])
    assert reader.parts(base) == splits
    assert reader.find(base) == base
    for split in splits:
        faces = read(roots[name], split)
        assert isinstance(faces, ImageSet)
        assert faces.class_names == class_names
        assert faces.targets is not None
        assert faces.images.shape[1:] in ((1, 48, 48), (3, 32, 32))
    assert len(read(roots[name], "train")) == n


@pytest.mark.parametrize("name", [name for name in SETS if name != "ferplus-csv"])
def test_dev_is_a_tenth_of_every_class_and_train_main_the_rest(roots, name):
    train, dev, main = (read(roots[name], split) for split in ("train", "dev", "train-main"))
    assert not set(dev.names) & set(main.names)
    assert set(dev.names) | set(main.names) == set(train.names)
    assert len(dev) + len(main) == len(train)
    per_class = dev.targets.argmax(1).bincount(minlength=len(dev.class_names))
    assert per_class.min() >= 1 or name == "ferplus"
    assert per_class.max() <= 2
    assert read(roots[name], "dev").names == dev.names


def test_both_forms_of_ferplus_have_the_same_dev_part(tmp_path):
    write_mini_fer2013_csv(tmp_path, 10, votes=True)
    train, dev, main = (read(tmp_path, split).names for split in ("train", "dev", "train-main"))
    assert dev == tuple(name for name in train if name in dev_names())
    assert dev
    assert main == tuple(name for name in train if name not in dev_names())
    votes = tmp_path / "fer2013new.csv"
    votes.write_text(votes.read_text().replace("fer0", "face"))
    with pytest.raises(DatasetError, match="no face of train belongs to dev"):
        read(tmp_path, "dev")


@pytest.mark.parametrize("name", ["ferplus", "fer2013", "affectnet", "affectnet-npy", "image-folder", "prepared"])
def test_train_and_valid_together(roots, name):
    train, valid, both = (read(roots[name], split) for split in ("train", "valid", "train+valid"))
    if name != "affectnet-npy":  # whose parts lie in folders of their own
        assert both.names == train.names + valid.names
    assert len(both) == len(train) + len(valid)
    assert torch.equal(both.images, torch.cat([train.images, valid.images]))
    assert torch.equal(both.targets, torch.cat([train.targets, valid.targets]))


def test_ferplus_is_read_as_before(roots):
    for split in ("train", "train-main", "dev", "valid"):
        ours, theirs = read(roots["ferplus"], split), load_ferplus(roots["ferplus"], split)
        assert ours.names == theirs.names
        assert torch.equal(ours.images, theirs.images)
    soft = read(roots["ferplus"], "train", votes="crossentropy")
    assert torch.equal(soft.targets, load_ferplus(roots["ferplus"], "train", "crossentropy").targets)
    assert torch.equal(
        read(roots["ferplus"], "valid", votes="crossentropy").targets, load_ferplus(roots["ferplus"], "valid").targets
    )
    soft = read(roots["ferplus"], "valid", eval_votes="crossentropy")
    assert torch.equal(soft.targets, load_ferplus(roots["ferplus"], "valid", eval_mode="crossentropy").targets)


def test_ferplus_in_an_archive_beside_other_files(roots, tmp_path):
    with tarfile.open(tmp_path / "faces.tar.gz", "w:gz") as archive:
        archive.add(roots["ferplus"] / "ferplus", "ferplus")
    (tmp_path / "README.txt").write_text("x")
    assert at(tmp_path)[1] == tmp_path / "faces.tar.gz"
    reader, base = at(tmp_path / "faces.tar.gz")
    assert reader.parts(base) == ("train", "valid")
    assert read(tmp_path, "valid").names == read(roots["ferplus"], "valid").names


@pytest.mark.parametrize("name", ["ferplus", "affectnet", "affectnet-npy"])
def test_contempt_can_be_dropped(roots, name):
    kept, dropped = read(roots[name], "train"), read(roots[name], "train", contempt="drop")
    assert dropped.class_names == SEVEN
    place = LABELS.index("contempt")
    assert dropped.names == tuple(n for n, k in zip(kept.names, kept.targets.argmax(1), strict=True) if k != place)
    expected = kept.targets[kept.targets.argmax(1) != place]
    assert torch.equal(dropped.targets, expected[:, [k for k in range(8) if k != place]])


def test_dropping_contempt_keeps_distributions_and_sets_without_it(roots):
    targets = torch.tensor([[0.6] + [0.0] * 6 + [0.4], [0.2] + [0.0] * 6 + [0.8]])
    faces = ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), targets, ("a", "b"), LABELS)
    assert without_contempt(faces).targets.tolist() == [[1, 0, 0, 0, 0, 0, 0]]
    whole = read(roots["raf-db"], "test")
    assert without_contempt(whole) is whole


def test_a_limit_takes_faces_of_every_class(roots):
    faces = read(roots["image-folder"], "train", limit=4)
    assert faces.targets.sum(0).tolist() == [2, 2]
    assert read(roots["ferplus"], "train", limit=5).names == read(roots["ferplus"], "train").names[:5]
    assert len(read(roots["ferplus"], "valid", limit=10_000)) == len(read(roots["ferplus"], "valid"))
    with pytest.raises(ValueError, match="limit"):
        read(roots["ferplus"], "valid", limit=0)


def test_what_is_not_there_is_said(roots, tmp_path):
    with pytest.raises(DatasetError, match="RAF-DB basic has no valid here; it has train, test"):
        read(roots["raf-db"], "valid")
    with pytest.raises(DatasetError, match="has no valid here"):
        read(roots["raf-db"], "train+valid")
    with pytest.raises(ValueError, match="unknown split 'all'"):
        read(roots["raf-db"], "all")
    with pytest.raises(DatasetError, match="does not exist"):
        identify(tmp_path / "nowhere")
    photos, shard = write_mini_photos(tmp_path, 4)
    for path in (photos, shard):
        with pytest.raises(DatasetError, match=r"holds no labelled faces that are known \(prepared faces, FERPlus, "):
            identify(path)


def test_a_models_labels_may_be_more_than_the_sets(roots):
    faces = read(roots["raf-db"], "test")
    wider = relabel(faces, LABELS)
    assert wider.class_names == LABELS
    names = [LABELS[k] for k in wider.targets.argmax(1)]
    assert names == [SEVEN[k] for k in faces.targets.argmax(1)]
    assert np.allclose(wider.targets.sum(1), 1)
    assert relabel(wider, LABELS) is wider
    with pytest.raises(DatasetError, match=r"does not know: contempt .*--drop-contempt"):
        relabel(wider, SEVEN)
    with pytest.raises(DatasetError, match="does not know: bored, glad"):
        relabel(read(roots["csv"], "valid"), LABELS)


def test_share_takes_the_same_part_of_every_class(tmp_path):
    root = write_mini_ferplus(tmp_path, 12)
    whole, half = (load(root, "train", img_size=48, color_mode="gray", share=share) for share in (1.0, 0.5))
    assert half.targets.argmax(dim=1).bincount(minlength=8).tolist() == [6] * 8
    assert set(half.names) < set(whole.names)
    assert load(root, "train", img_size=48, color_mode="gray", share=0.5).names == half.names
    with pytest.raises(ValueError, match="share"):
        load(root, "train", img_size=48, color_mode="gray", share=0.0)
