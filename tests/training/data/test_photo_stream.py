"""Pictures that are read while training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_app.errors import DatasetError
from tests.training.miniature import write_mini_photos, write_mini_shards
from training.augment import epoch_draws
from training.data import shard_list
from training.data.general import load_images
from training.data.photo_plan import plan_photos
from training.data.photo_stream import PhotoStream, StreamBatch
from training.data.shard_list import FileShard, TarShard
from training.mae_pretraining import MaePretraining
from training.recipe_files import load_recipe
from training.sampling import Share

UNEVEN = (13, 1, 40, 7, 22, 4)
SIDE = 8


def stream(sources: list[Path], folder: Path, *, shuffle_buffer: int = 16, strict: bool = False) -> PhotoStream:
    plan = plan_photos(sources, folder / "photos.json", picture_bytes=1, stream=True)
    assert plan.shards is not None
    return PhotoStream(plan.shards, SIDE, "rgb", shuffle_buffer=shuffle_buffer, strict=strict, threads=2)


def steps(
    of: PhotoStream, batch: int = 8, *, seed: int = 0, epoch: int = 0, share: Share | None = None, first: int = 0
) -> list[StreamBatch]:
    return list(of.start_epoch(seed, epoch, batch, share or Share(), 5).starting_at(first))


def ids(batches: list[StreamBatch]) -> list[int]:
    return [number for batch in batches for number in batch.ids.tolist()]


@pytest.fixture(params=[".tar", ".tar.gz"])
def shards(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    return write_mini_shards(tmp_path / "shards", UNEVEN, request.param)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are read, as they are begun."""
    names = []

    def spy(self: TarShard, wanted: Collection[int]) -> Iterator[Any]:
        names.append(self.name)
        return read(self, wanted)

    read = TarShard.read
    monkeypatch.setattr(TarShard, "read", spy)
    return names


def test_every_picture_comes_once_with_its_own_pixels_and_draws(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = write_mini_photos(tmp_path / "more", 9)
    monkeypatch.setattr(shard_list, "_FILES_A_SHARD", 4)
    sources = [*shards[:2], folder, *shards[2:]]
    memory = load_images(sources, SIDE, "rgb").images
    photos = stream(sources, tmp_path)
    assert len(photos) == len(memory) == 96
    batches = steps(photos, epoch=3)
    assert [len(batch) for batch in batches] == [8] * 12
    assert sorted(ids(batches)) == list(range(96))
    draws = epoch_draws(0, 3, 96, 1, 5)[:, 0]
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert torch.equal(batch.images, memory[batch.ids])
        assert torch.equal(batch.draws, draws[batch.ids])
        part = batch[2:5]
        assert len(part) == 3
        assert torch.equal(part.images, memory[part.ids])


def test_order_is_of_seed_and_epoch_and_mixes_shards(shards: list[Path], tmp_path: Path) -> None:
    photos = stream(shards, tmp_path)
    first = ids(steps(photos))
    assert ids(steps(photos)) == first
    assert ids(steps(photos, seed=1)) != first
    assert ids(steps(photos, epoch=1)) != first
    plain = ids(steps(stream(shards, tmp_path, shuffle_buffer=1)))
    assert first != plain
    assert plain != sorted(plain)  # the shards are in another order
    ends = np.cumsum(UNEVEN) - 1
    breaks = [a for a, b in pairwise(plain) if b != a + 1]
    assert set(breaks) <= set(ends)  # but each is read from its beginning to its end


@pytest.mark.parametrize("world_size", [2, 3, 5, 9])
@pytest.mark.parametrize("shuffle_buffer", [1, 16])
def test_processes_share_uneven_shards_equally(
    shards: list[Path], tmp_path: Path, world_size: int, shuffle_buffer: int
) -> None:
    photos = stream(shards, tmp_path, shuffle_buffer=shuffle_buffer)
    total, batch = sum(UNEVEN), 4
    parts = [steps(photos, batch, share=Share(rank, world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {total // (batch * world_size)}
    assert {len(one) for part in parts for one in part} == {batch}
    seen = [number for part in parts for number in ids(part)]
    assert (
        len(set(seen)) == len(seen) == total // (batch * world_size) * batch * world_size
    )  # no more than a rest is lost


def test_a_set_smaller_than_a_step_makes_one(tmp_path: Path) -> None:
    photos = stream(write_mini_shards(tmp_path, [7]), tmp_path)
    assert [len(batch) for batch in steps(photos, 100)] == [7]
    parts = [steps(photos, 100, share=Share(rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in part] for part in parts] == [[3], [3]]
    assert len({*ids(parts[0]), *ids(parts[1])}) == 6


def test_set_down_anywhere_it_goes_on_and_leaves_finished_shards_alone(
    shards: list[Path], tmp_path: Path, opened: list[str]
) -> None:
    photos = stream(shards, tmp_path)
    for share in (Share(), Share(1, 2)):
        opened.clear()
        whole = steps(photos, 5, share=share)
        order = list(opened)
        assert len(order) == len(set(order))
        owner = {n: shards[i].name for i, end in enumerate(np.cumsum(UNEVEN)) for n in range(end - UNEVEN[i], end)}
        for first in range(len(whole) + 1):
            opened.clear()
            rest = steps(photos, 5, share=share, first=first)
            assert len(rest) == len(whole) - first
            for ours, theirs in zip(rest, whole[first:], strict=True):
                assert torch.equal(ours.ids, theirs.ids)
                assert torch.equal(ours.images, theirs.images)
                assert torch.equal(ours.draws, theirs.draws)
            left = {owner[number] for number in ids(whole[first:])}
            assert opened == [name for name in order if name in left]


def test_no_more_than_the_buffer_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory does not grow with the set."""
    photos = stream(write_mini_shards(tmp_path, [1500] * 2, side_px=2), tmp_path, shuffle_buffer=100)
    read_so_far = 0

    def spy(self: TarShard, wanted: Collection[int]) -> Iterator[Any]:
        nonlocal read_so_far
        for item in read(self, wanted):
            read_so_far += 1
            yield item

    read = TarShard.read
    monkeypatch.setattr(TarShard, "read", spy)
    epoch = photos.start_epoch(0, 0, 10, Share(), 1)
    in_flight = 128 * (2 * 2 + 2)  # tasks of two threads, and one more of each kind
    most = max(read_so_far - 10 * (step + 1) for step, _ in enumerate(epoch.starting_at(0)))
    assert 100 <= most <= 100 + 3 * 10 + in_flight
    assert read_so_far == 3000


def test_an_epoch_may_be_left(shards: list[Path], tmp_path: Path) -> None:
    batches = stream(shards, tmp_path).start_epoch(0, 0, 4, Share(), 1).starting_at(0)
    assert len(list(islice(batches, 2))) == 2
    batches.close()  # type: ignore[attr-defined]


def test_damaged_pictures_are_counted_once_and_others_stand_in(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for path in write_mini_photos(tmp_path / "made", 20)[0].rglob("*.jpg"):
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    photos = stream([folder], tmp_path)
    (folder / "photo003.jpg").write_bytes(b"\xff\xd8 no")
    (folder / "photo007.jpg").unlink()
    told = r"^epoch 2: 2 of 20 pictures cannot be read: photo00[37]\.jpg, photo00[37]\.jpg$"
    with pytest.warns(UserWarning, match=told) as caught:
        batches = steps(photos, 5, epoch=1)
    assert len(caught) == 1
    assert [len(batch) for batch in batches] == [5] * 4
    assert set(ids(batches)) == set(range(20)) - {3, 7}
    for batch in batches:
        assert len(set(batch.ids.tolist())) >= 3  # those of the same step


def test_a_step_of_damaged_pictures_is_filled_by_the_one_before(tmp_path: Path) -> None:
    folder, _ = write_mini_photos(tmp_path, 8)
    photos = stream([folder], tmp_path, shuffle_buffer=1)
    names = photos.shards[0]
    assert isinstance(names, FileShard)
    for name in names.names[4:]:
        (folder / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="4 of 8"):
        first, second = steps(photos, 4)
    assert torch.equal(first.ids, second.ids)
    for name in names.names:
        (folder / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="not one picture of a step can be read: deeper/photo001"):
        steps(photos, 4)


def test_a_shard_that_is_lost_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    shards = write_mini_shards(tmp_path, [20, 20, 20])
    photos, strict = stream(shards, tmp_path), stream(shards, tmp_path, strict=True)
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        batches = steps(photos, 10)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert told[0].startswith(f"{shards[1]} cannot be read as a tar archive: ")
    assert told[0].endswith("; the rest of its pictures is left out")
    assert " of 60 pictures cannot be read: picture " in told[1]
    assert [len(batch) for batch in batches] == [10] * 6
    seen = set(ids(batches))
    assert seen >= {*range(20), *range(40, 60)}
    assert 0 < len(seen & set(range(20, 40))) < 20
    with pytest.raises(DatasetError, match="shard-01"):
        steps(strict, 10)


def test_the_first_pictures_to_show(tmp_path: Path) -> None:
    shards = write_mini_shards(tmp_path, [3, 4, 5])
    photos, memory = stream(shards, tmp_path), load_images(shards, SIDE, "rgb").images
    assert torch.equal(photos.first(5), memory[:5])
    assert torch.equal(photos.first(100), memory)
    shards[0].write_bytes(b"")
    assert torch.equal(photos.first(2), memory[3:5])
    for shard in shards:
        shard.unlink()
    with pytest.raises(DatasetError, match=r"not one of 12 pictures can be read, from shard-00\.tar on"):
        photos.first(2)


def test_other_shards_have_another_fingerprint(tmp_path: Path) -> None:
    shards = write_mini_shards(tmp_path / "a", [5, 6])
    before = stream(shards, tmp_path).fingerprint()
    assert stream([path.rename(tmp_path / path.name) for path in shards], tmp_path).fingerprint() == before  # moved
    assert stream(write_mini_shards(tmp_path / "a", [6, 5]), tmp_path).fingerprint() != before


def test_pretraining_on_a_stream_is_that_in_memory(shards: list[Path], tmp_path: Path) -> None:
    changes = ["model.color_mode=rgb", "model.in_chans=3", "model.mean=[0.5,0.5,0.5]", "model.std=[0.25,0.25,0.25]"]
    augment = ["pretrain.augment.crop_scale=[0.2,1.0]", "pretrain.augment.blur_p=0.5"]
    recipe = load_recipe("debug", [f"model.img_size={SIDE}", "model.patch_size=2", *changes, *augment])
    table = recipe.pretrain
    assert table is not None
    memory = MaePretraining(recipe, table, load_images(shards, SIDE, "rgb").images, None)
    streamed = MaePretraining(recipe, table, stream(shards, tmp_path), None)
    assert streamed.num_samples == memory.num_samples == sum(UNEVEN)
    assert len(memory.start_epoch(1, 16, Share())) == len(streamed.start_epoch(1, 16, Share()))
    for batch in islice(streamed.start_epoch(1, 16, Share()).starting_at(0), 3):
        ours = streamed.losses(streamed.model, batch, np.random.default_rng(0))["loss"]
        theirs = memory.losses(memory.model, batch.ids, np.random.default_rng(0))["loss"]
        assert ours.item() == theirs.item()
