"""A data set that lies in memory: pictures, targets and names in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from fer_app.errors import DatasetError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures of one size, with what is known about each.

    Attributes:
        images: uint8, (N, C, H, W); C is 1 (gray) or 3 (RGB).
        targets: float32, (N, K), each row a distribution or a multi-hot row over `class_names`; None without labels.
        names: N names, as the data set spells them.
        class_names: K class names, in the order of the columns of `targets`; empty without labels.

    Raises:
        DatasetError: the parts do not fit each other.
    """

    images: torch.Tensor
    targets: torch.Tensor | None
    names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DatasetError(f"images must be uint8 (N, 1 or 3, H, W), got {self.images.dtype} {shape}")
        if len(self.names) != shape[0]:
            raise DatasetError(f"{shape[0]} images but {len(self.names)} names")
        if self.targets is None:
            return
        expected = (shape[0], len(self.class_names))
        if self.targets.dtype != torch.float32 or tuple(self.targets.shape) != expected:
            raise DatasetError(
                f"targets must be float32 {expected}, got {self.targets.dtype} {tuple(self.targets.shape)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: torch.Tensor) -> Self:
        """Return the samples at `indices` (int64, (M,)), in that order; the pictures are copied."""
        return type(self)(
            images=self.images[indices],
            targets=None if self.targets is None else self.targets[indices],
            names=tuple(self.names[i] for i in indices.tolist()),
            class_names=self.class_names,
        )
