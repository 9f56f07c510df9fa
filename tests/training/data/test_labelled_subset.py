"""Which faces keep their labels: shares, stability, and the real subsets' digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_app.errors import DatasetError
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.data.labelled_subset import labelled_subset


def faces_of(sizes: list[int]) -> ImageSet:
    """Faces without content, so many of each class, in mixed order."""
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
    names = tuple(f"{i}.png" for i in range(len(classes)))
    targets = torch.eye(len(sizes))[classes]
    images = torch.zeros(len(classes), 1, 1, 1, dtype=torch.uint8)
    return ImageSet(images, targets, names, tuple(f"class {k}" for k in range(len(sizes))))


def counts(faces: ImageSet, chosen: torch.Tensor) -> list[int]:
    assert faces.targets is not None
    return faces.targets[chosen].sum(dim=0).int().tolist()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.data())
@settings(max_examples=80)
def test_every_class_has_its_share_and_none_is_empty(sizes, data):
    faces = faces_of(sizes)
    count = data.draw(st.integers(len(sizes), sum(sizes)))
    chosen = labelled_subset(faces, count, 0)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    found = counts(faces, chosen)
    shares = [count * size / sum(sizes) for size in sizes]
    assert all(1 <= n <= size for n, size in zip(found, sizes, strict=True))
    if min(shares) >= 1:
        assert all(abs(n - share) < 1 for n, share in zip(found, shares, strict=True))


def test_small_classes_get_one_and_the_large_ones_pay():
    faces = faces_of([97, 1, 1, 1])
    assert counts(faces, labelled_subset(faces, 10, 0)) == [7, 1, 1, 1]


def test_the_choice_depends_on_names_and_seed_alone():
    faces = faces_of([20, 30])
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    names = {faces.names[i] for i in labelled_subset(faces, 10, 0)}
    shuffled = faces.subset(order)
    assert {shuffled.names[i] for i in labelled_subset(shuffled, 10, 0)} == names
    assert {faces.names[i] for i in labelled_subset(faces, 10, 1)} != names
    larger = {faces.names[i] for i in labelled_subset(faces, 20, 0)}
    assert names < larger


@pytest.mark.parametrize(
    ("sizes", "count", "said"),
    [
        ([5, 0], 3, "none of class 1"),
        ([5, 5], 11, "is not between 2 classes and 10 faces"),
        ([5, 5], 1, "is not between 2 classes and 10 faces"),
    ],
)
def test_what_cannot_be_chosen_is_told(sizes, count, said):
    with pytest.raises(DatasetError, match=said):
        labelled_subset(faces_of(sizes), count, 0)


def test_faces_without_labels_are_refused():
    faces = faces_of([2])
    with pytest.raises(DatasetError, match="with labels"):
        labelled_subset(ImageSet(faces.images, None, faces.names, ()), 1, 0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("count", "of_each", "digest"),
    [
        (320, [112, 93, 40, 39, 27, 1, 7, 1], "38cb1a34907a6c5fbb75c3045140127a15672a2fdfcafe540800a841495b487b"),
        (
            2000,
            [697, 582, 250, 241, 168, 9, 43, 10],
            "cbc205f61fa615582d3e4be05db47e15c19b635d1e7a05801bfc85cb4e91f119",
        ),
        (
            4000,
            [1395, 1163, 501, 483, 335, 18, 86, 19],
            "dd219a2bb37d65f2af6a67fd971038bd2e6e2912a3dec2807ffe8ab2b272e212",
        ),
        (
            10000,
            [3487, 2908, 1252, 1207, 838, 46, 214, 48],
            "aad347cd68309e2def05d06af34f239ff19791d2f236ec83fbc5d8262dded7d3",
        ),
    ],
)
def test_the_subsets_of_ferplus_are_these(ferplus_dir: Path, count: int, of_each: list[int], digest: str) -> None:
    faces = load_ferplus(ferplus_dir, "train")
    chosen = labelled_subset(faces, count, 0)
    assert counts(faces, chosen) == of_each
    names = "".join(f"{faces.names[i]}\n" for i in chosen.tolist())
    assert hashlib.sha256(names.encode()).hexdigest() == digest
