"""General pictures that are read while training goes on, for sets larger than the memory.

The order of an epoch: the shards are permuted, their pictures make one line, every process takes an equal piece of it,
and a shuffle buffer mixes the piece. All of it is a function of (seed, epoch, processes) and of how many pictures each
shard holds, so a step's place needs no saved state: resuming draws the order again up to there, which takes no
reading, leaves alone the shards that are finished, and opens those that the buffer still had pictures of, for these
alone. No picture comes twice in an epoch or is lost, and pieces of a line are equally long however uneven shards are.

The package `webdataset` reads archives about as fast (21,000 pictures/s against 23,000 of 2 kB, gzipped, on one core),
but knows no place within an epoch, splits by whole shards, and shuffles after decoding: what is here would remain.
One thread reads, a few decode: OpenCV does so without holding Python's lock, and worker processes would not be faster.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_app.errors import DatasetError
from training.augment import epoch_draws
from training.data.decoding import decode_picture, map_in_threads
from training.data.general import square
from training.data.shard_list import Shard
from training.data.shuffle_buffer import ShuffleBuffer
from training.sampling import Share

_STREAM: Final = 0x5A7D  # tells these draws apart from every other use of the same (seed, epoch)
_STEPS_AHEAD = 2
_NAMED = 5  # damaged pictures
_DRAWN_AT_ONCE = 256  # neighbours' augmentations


@dataclass(frozen=True)
class StreamBatch:
    """Pictures of one step.

    Attributes:
        images: uint8, (B, C, H, W).
        ids: int64, (B,), numbers of the pictures in the set.
        draws: float32, (B, n_draws): those pictures' rows of `training.augment.epoch_draws`.
    """

    images: Tensor
    ids: Tensor
    draws: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> StreamBatch:
        return StreamBatch(self.images[part], self.ids[part], self.draws[part])


class PhotoStream:
    """A set of general pictures in shards."""

    def __init__(
        self,
        shards: Sequence[Shard],
        img_size: int,
        color_mode: Literal["rgb", "gray"],
        *,
        shuffle_buffer: int,
        strict: bool = False,
        threads: int | None = None,
    ) -> None:
        """Read nothing of the shards yet.

        Args:
            shards: see `training.data.shard_list`.
            img_size: side of the squares that the pictures become, centre cropped, px.
            color_mode: `rgb`, or `gray` for one channel of luma.
            shuffle_buffer: pictures that are mixed, held decoded; 1 leaves them in the order of their shards.
            strict: whether a shard that cannot be read stops the run.
            threads: that decode; None means one a core, eight at most.
        """
        self.shards, self.shuffle_buffer, self.strict = shards, shuffle_buffer, strict
        self.img_size, self.threads = img_size, threads
        self.color_mode: Literal["rgb", "gray"] = color_mode
        told = json.dumps([shard.identity() for shard in shards])  # now: it is asked for at every save
        self._names = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells it from others, as `training.fingerprint` does: names, counts and sizes of the shards.

        Not their folder: a set may be moved.
        """
        return {"samples": len(self), "classes": [], "names": self._names, "targets": "", "pixels": ""}

    def first(self, count: int) -> Tensor:
        """Return the first so many pictures that can be read, or all where there are fewer: uint8, (N, C, H, W).

        Raises:
            DatasetError: none can be read.
        """
        found: list[NDArray[np.uint8]] = []
        for shard in self.shards:
            try:
                for _, _, content in shard.read(range(shard.count)):
                    pixels = self.decode(content)
                    if pixels is not None:
                        found.append(pixels)
                    if len(found) == count:
                        return _stacked(found)
            except DatasetError:  # told when its turn comes
                continue
        if not found:
            raise DatasetError(f"not one of {len(self)} pictures can be read, from {self.shards[0].name} on")
        return _stacked(found)

    def decode(self, content: bytes | Path | None) -> NDArray[np.uint8] | None:
        """Return the square, uint8 (img_size, img_size, C), or None where it cannot be read."""
        try:
            data = content.read_bytes() if isinstance(content, Path) else content
        except OSError:  # counted like a picture that cannot be decoded
            data = None
        pixels = decode_picture(data, self.color_mode) if data else None
        return None if pixels is None else square(pixels, self.img_size, "crop")

    def start_epoch(self, seed: int, epoch: int, batch_size: int, share: Share, n_draws: int) -> StreamEpoch:
        """Return an epoch's steps.

        Args:
            seed: the run's.
            epoch: counted from 0.
            batch_size: pictures of one process's step; a set that is smaller than one step of all makes one of all.
            share: the process's part.
            n_draws: numbers that a picture's augmentation takes.
        """
        return StreamEpoch(self, seed, epoch, batch_size, share, n_draws)


class _Stretch(NamedTuple):
    """Neighbouring pictures of a shard, and the numbers that they have among the process's own."""

    shard: Shard
    first: int  # position in the shard
    numbers: range


class _Picture(NamedTuple):
    pixels: NDArray[np.uint8]
    id: int
    draws: Tensor


@dataclass
class _Damage:
    """What could not be read."""

    pictures: int = 0
    names: list[str] = field(default_factory=list)  # of the first few
    shards: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.pictures += 1
        if self.pictures <= _NAMED:
            self.names.append(name)

    def __str__(self) -> str:
        return ", ".join(self.names) + (", ..." if self.pictures > _NAMED else "")


class StreamEpoch:
    """One process's part of an epoch; see `training.sampling.Epoch`."""

    def __init__(self, stream: PhotoStream, seed: int, epoch: int, batch_size: int, share: Share, n_draws: int) -> None:
        """See `PhotoStream.start_epoch`."""
        total = len(stream)
        whole = min(batch_size * share.world_size, total)
        self._steps, self._batch = total // whole, whole // share.world_size
        self._stream, self._seed, self._epoch, self._share, self._n_draws = stream, seed, epoch, share, n_draws

    def __len__(self) -> int:
        return self._steps

    @property
    def batch(self) -> int:
        """Samples of a step, of this process."""
        return self._batch

    def starting_at(self, step: int) -> Iterator[StreamBatch]:
        """Yield the steps from `step` on, prepared on another thread.

        Another picture of the step stands in for one that cannot be read, so that all processes take as many steps.

        Raises:
            DatasetError: a shard cannot be read and the stream is strict, or nothing can be read.

        Warns:
            UserWarning: at once for each shard that cannot be read on, and at the end of the epoch with the number of
                pictures that could not be read.
        """
        damage = _Damage()
        told = 0
        with closing(self._prepared(step, damage)) as batches, ThreadPoolExecutor(1, "photos") as ahead:
            pending = deque(ahead.submit(next, batches, None) for _ in range(_STEPS_AHEAD))
            try:
                while (batch := pending.popleft().result()) is not None:
                    pending.append(ahead.submit(next, batches, None))
                    for fault in damage.shards[told:]:
                        warnings.warn(f"{fault}; the rest of its pictures is left out", stacklevel=2)
                        told += 1
                    yield batch
            finally:
                ahead.shutdown(cancel_futures=True)
        if damage.pictures:
            of = (self._steps - step) * self._batch
            warnings.warn(
                f"epoch {self._epoch + 1}: {damage.pictures} of {of} pictures cannot be read: {damage}", stacklevel=2
            )

    def _prepared(self, step: int, damage: _Damage) -> Generator[StreamBatch, None, None]:
        rng = np.random.default_rng([_STREAM, self._seed, self._epoch, 1 + self._share.rank])  # 0 is the shards' own
        buffer = ShuffleBuffer(self._steps * self._batch, self._stream.shuffle_buffer, rng)
        for _ in range(step * self._batch):
            buffer.draw()
        held: dict[int, _Picture | None] = {}
        stand_in: list[_Picture] = []
        with closing(self._arriving(set(buffer.held), buffer.arrived, damage)) as arriving:
            for _ in range(step, self._steps):
                pictures = []
                for _ in range(self._batch):
                    number = buffer.draw()
                    while number not in held:
                        held.update(next(arriving))
                    if (picture := held.pop(number)) is not None:
                        pictures.append(picture)
                # The last good step's pictures come into it only where a whole step is damaged.
                stand_in = pictures or stand_in
                if not stand_in:
                    raise DatasetError(f"not one picture of a step can be read: {damage}")
                yield _batch([stand_in[i % len(stand_in)] for i in range(self._batch)])

    def _arriving(
        self, held: Collection[int], arrived: int, damage: _Damage
    ) -> Generator[dict[int, _Picture | None], None, None]:
        """Yield the process's pictures in the line's order, a few at a time, by number: those held, and all later ones.

        Pictures that cannot be read are None.
        """

        def prepare(
            item: tuple[int, int, str, bytes | Path | None],
        ) -> tuple[int, int, str, NDArray[np.uint8] | None]:
            number, picture_id, name, content = item
            return number, picture_id, name, self._stream.decode(content)

        block, rows = -1, torch.empty(0)
        with closing(map_in_threads(prepare, self._read(held, arrived, damage), self._stream.threads)) as chunks:
            for chunk in chunks:
                pictures: dict[int, _Picture | None] = {}
                for number, picture_id, name, pixels in chunk:
                    if pixels is None:
                        damage.add(name)
                        pictures[number] = None
                        continue
                    if picture_id // _DRAWN_AT_ONCE != block:
                        block = picture_id // _DRAWN_AT_ONCE
                        rows = self._draws(block * _DRAWN_AT_ONCE)
                    # A copy, or each row would keep its whole block in memory.
                    pictures[number] = _Picture(pixels, picture_id, rows[picture_id % _DRAWN_AT_ONCE].clone())
                yield pictures

    def _draws(self, first: int) -> Tensor:
        return epoch_draws(self._seed, self._epoch, _DRAWN_AT_ONCE, 1, self._n_draws, first=first)[:, 0]

    def _read(
        self, held: Collection[int], arrived: int, damage: _Damage
    ) -> Iterator[tuple[int, int, str, bytes | Path | None]]:
        """Yield number, id, name and content of what `_arriving` gives; None for what a damaged shard lacks."""
        for shard, first, numbers in self._line():
            wanted = {first + i for i, number in enumerate(numbers) if number >= arrived or number in held}
            if not wanted:
                continue
            shift = numbers.start - first
            missing = set(wanted)
            try:
                for position, name, content in shard.read(wanted):
                    missing.discard(position)
                    yield position + shift, shard.first_id + position * shard.id_step, name, content
            except DatasetError as error:
                if self._stream.strict:
                    raise
                damage.shards.append(str(error))
            for position in sorted(missing):
                picture_id = shard.first_id + position * shard.id_step
                yield position + shift, picture_id, f"picture {position + 1} of {shard.name}", None

    def _line(self) -> Iterator[_Stretch]:
        """Yield the process's piece of the epoch's line."""
        shards = self._stream.shards
        own = self._steps * self._batch
        start, stop = self._share.rank * own, (self._share.rank + 1) * own
        before = 0  # pictures of the line
        for i in np.random.default_rng([_STREAM, self._seed, self._epoch]).permutation(len(shards)):
            shard = shards[i]
            first, last = max(before, start), min(before + shard.count, stop)
            if first < last:
                yield _Stretch(shard, first - before, range(first - start, last - start))
            before += shard.count


def _batch(pictures: list[_Picture]) -> StreamBatch:
    images, ids = _stacked([picture.pixels for picture in pictures]), torch.tensor([picture.id for picture in pictures])
    return StreamBatch(images, ids, torch.stack([picture.draws for picture in pictures]))


def _stacked(pixels: list[NDArray[np.uint8]]) -> Tensor:
    """Join (H, W, C) arrays to (N, C, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
