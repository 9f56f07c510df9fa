"""Which rows are trained on, chosen by and scored: the same names for every data set, and the same draw every time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal, get_args

import torch

Part = Literal["train", "valid", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "valid", "test")

Split = Literal["train", "train-main", "dev", "valid", "test", "train+valid"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

_MADE_OF: Final[Mapping[str, frozenset[str]]] = {
    "train": frozenset(("train-main", "dev")),
    "train+valid": frozenset(("train-main", "dev", "valid")),
}

DEV_SHARE: Final = 0.1
VALID_SHARE: Final = 0.2


def share_faces(one: str, other: str) -> bool:
    """Whether two splits of one set have faces in common."""
    return bool(_MADE_OF.get(one, {one}) & _MADE_OF.get(other, {other}))


def stratified(names: tuple[str, ...], targets: torch.Tensor, share: float, key: str) -> torch.Tensor:
    """Choose a share of every class by the order of the names' sha256: no random stream, no dependence on the others.

    Args:
        names: N names.
        targets: (N, K); a row's class is its largest.
        share: of each class, rounded; at least one, where the class has two or more.
        key: tells this choice apart from others of the same names.

    Returns:
        bool, (N,), True for the chosen.
    """
    chosen = torch.zeros(len(names), dtype=torch.bool)
    classes = targets.argmax(dim=1)
    for k in range(targets.shape[1]):
        members = torch.nonzero(classes == k).flatten().tolist()
        members.sort(key=lambda i: hashlib.sha256(f"{key}:{names[i]}".encode(errors="surrogateescape")).digest())
        count = max(round(share * len(members)), 1 if len(members) > 1 else 0)
        chosen[members[:count]] = True
    return chosen
