"""Which faces of a set keep their labels when the rest is to be learnt from without."""

from __future__ import annotations

import hashlib

import torch

from fer_app.errors import DatasetError
from training.data.image_set import ImageSet

_KEY = "labelled-v1"


def labelled_subset(faces: ImageSet, count: int, seed: int) -> torch.Tensor:
    """Choose faces, every class with its share of them, by the order of the names' sha256.

    No random stream, no dependence on the order of the set: the same names come out everywhere. A class has at least
    one face among them.

    Args:
        faces: N of them, with targets; a face's class is its largest.
        count: how many.
        seed: tells one choice from another.

    Returns:
        int64, (count,), indices in the set's order.

    Raises:
        DatasetError: a class has no face, or there are fewer faces than asked for, or fewer asked for than classes.
    """
    if faces.targets is None:
        raise DatasetError("choosing labelled faces needs faces with labels")
    classes = faces.targets.argmax(dim=1)
    sizes = torch.bincount(classes, minlength=len(faces.class_names)).tolist()
    if missing := [name for name, size in zip(faces.class_names, sizes, strict=True) if not size]:
        raise DatasetError(f"labels = {count}: the faces to choose from have none of {', '.join(missing)}")
    if not len(sizes) <= count <= len(faces):
        raise DatasetError(f"labels = {count} is not between {len(sizes)} classes and {len(faces)} faces")
    chosen = torch.zeros(len(faces), dtype=torch.bool)
    for k, quota in enumerate(_quotas(sizes, count)):
        members = torch.nonzero(classes == k).flatten().tolist()
        members.sort(key=lambda i: _digest(seed, faces.names[i]))
        chosen[members[:quota]] = True
    return torch.nonzero(chosen).flatten()


def _quotas(sizes: list[int], count: int) -> list[int]:
    """Share `count` out in proportion to the sizes, whole numbers by largest remainder, none of them 0."""
    exact = [count * size / sum(sizes) for size in sizes]
    quotas = [max(1, int(share)) for share in exact]
    while sum(quotas) < count:
        open_ = [k for k, size in enumerate(sizes) if quotas[k] < size]
        quotas[max(open_, key=lambda k: exact[k] - quotas[k])] += 1
    while sum(quotas) > count:  # small classes were given their one
        full = [k for k, quota in enumerate(quotas) if quota > 1]
        quotas[min(full, key=lambda k: exact[k] - quotas[k])] -= 1
    return quotas


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{_KEY}:{seed}:{name}".encode(errors="surrogateescape")).digest()
