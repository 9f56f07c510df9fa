"""A labelled data set on disk: where its pictures lie and what each shows, read into memory at the size asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.errors import DatasetError, FerError
from fer_app.image_io import read_image
from training.data.decoding import map_in_threads, squeeze
from training.data.image_set import ImageSet
from training.first_few import first_few
from training.memory import free_bytes


@dataclass(frozen=True, eq=False)
class FaceIndex:
    """Paths and targets in the same order.

    Attributes:
        root: the folder that relative paths start from.
        names: N paths, as the data set spells them.
        targets: float32, (N, K), one-hot or a distribution over `class_names`.
        class_names: K class names, in the order of the columns of `targets`.
        boxes: int64, (N, 4), xyxy px: the part of the picture that is the face; None where it is the whole picture.

    Raises:
        DatasetError: the parts do not fit each other.
    """

    root: Path
    names: tuple[str, ...]
    targets: torch.Tensor
    class_names: tuple[str, ...]
    boxes: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.names), len(self.class_names))
        if self.targets.dtype != torch.float32 or tuple(self.targets.shape) != expected:
            raise DatasetError(
                f"targets must be float32 {expected}, got {self.targets.dtype} {tuple(self.targets.shape)}"
            )
        if self.boxes is not None and self.boxes.shape != (len(self.names), 4):
            raise DatasetError(f"{len(self.names)} pictures but boxes {self.boxes.shape}")

    @classmethod
    def of_classes(
        cls,
        root: Path,
        rows: list[tuple[str, int]],
        class_names: tuple[str, ...],
        boxes: NDArray[np.int64] | None = None,
    ) -> Self:
        """Make an index of paths with one class each, given by its place in `class_names`."""
        classes = torch.tensor([place for _, place in rows], dtype=torch.int64)
        targets = torch.nn.functional.one_hot(classes, len(class_names)).to(torch.float32)
        return cls(root, tuple(name for name, _ in rows), targets, class_names, boxes)

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: torch.Tensor) -> Self:
        """Return the samples at `indices` (int64, (M,)), in that order."""
        return type(self)(
            root=self.root,
            names=tuple(self.names[i] for i in indices.tolist()),
            targets=self.targets[indices],
            class_names=self.class_names,
            boxes=None if self.boxes is None else self.boxes[indices.numpy()],
        )

    def load(self, img_size: int, color_mode: Literal["rgb", "gray"], threads: int | None = None) -> ImageSet:
        """Read all pictures into memory; one that is not square is squeezed to the square, as serving does.

        Args:
            img_size: side of the squares in px.
            color_mode: `rgb`, or `gray` for one channel of luma.
            threads: that decode; None means one a core, eight at most.

        Returns:
            images uint8, (N, 3 or 1, img_size, img_size).

        Raises:
            DatasetError: the memory is too small for them; or pictures are missing or cannot be read, and it names the
                first few.
        """
        shape = (len(self), 1 if color_mode == "gray" else 3, img_size, img_size)
        self._need_memory(math.prod(shape), img_size)

        def prepare(index: int) -> NDArray[np.uint8] | str:
            pixels = self._read(index)
            if isinstance(pixels, str):
                return pixels
            if color_mode == "gray":
                pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
            return squeeze(pixels, img_size)

        images = np.empty(shape, np.uint8)
        bad: list[str] = []
        prepared = chain.from_iterable(map_in_threads(prepare, range(len(self)), threads))
        for index, pixels in enumerate(prepared):
            if isinstance(pixels, str):
                bad.append(pixels)
            else:
                images[index] = pixels.transpose(2, 0, 1)
        if bad:
            first = first_few(bad, separator="; ")
            raise DatasetError(f"{self.root}: {len(bad)} of {len(self)} pictures cannot be read: {first}", bad)
        return ImageSet(torch.from_numpy(images), self.targets, self.names, self.class_names)

    def _need_memory(self, needed: int, img_size: int) -> None:
        """See now that all pictures fit, and not when the system ends the process halfway."""
        free = free_bytes()
        if free is not None and needed > free:
            raise DatasetError(
                f"{self.root}: {len(self)} faces at {img_size} px take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB "
                "of memory are free: take fewer (finetune.limit, finetune.train_share) or smaller ones (model.img_size)"
            )

    def problems(self, *, decode: bool = True, threads: int | None = None) -> Iterator[str]:
        """Yield a sentence for each picture that is missing or, with `decode`, cannot be read."""

        def look(index: int) -> str | None:
            if not decode:
                path = self.root / self.names[index]
                return None if path.is_file() else f"{path}: no such file"
            pixels = self._read(index)
            return pixels if isinstance(pixels, str) else None

        for chunk in map_in_threads(look, range(len(self)), threads):
            yield from (problem for problem in chunk if problem is not None)

    def _read(self, index: int) -> NDArray[np.uint8] | str:
        """Return a face, uint8 (H, W, 3) RGB, or what is wrong with it."""
        path = self.root / self.names[index]
        try:
            pixels = read_image(path)
        except FerError as error:
            return str(error)
        if self.boxes is None:
            return pixels
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = self.boxes[index].clip(0, (width, height, width, height)).tolist()
        if x0 >= x1 or y0 >= y1:
            return f"{path}: the face's box {self.boxes[index].tolist()} is not in the picture ({width} x {height} px)"
        return np.ascontiguousarray(pixels[y0:y1, x0:x1])
