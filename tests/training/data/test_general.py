"""General pictures from folders and archives, and the threads that decode them."""

from __future__ import annotations

import tarfile
import threading
import time

import cv2
import numpy as np
import pytest
import torch

from fer_app.errors import DatasetError
from tests.training.miniature import write_mini_photos
from training.data.decoding import decode_picture, map_in_threads
from training.data.general import load_images, square


@pytest.fixture
def photos(tmp_path):
    return write_mini_photos(tmp_path, 9)


def test_folders_and_archives_are_read_in_order(photos):
    folder, shard = photos
    both = load_images([folder, shard], 24, "rgb")
    assert both.images.shape == (18, 3, 24, 24)
    assert both.images.dtype == torch.uint8
    assert both.targets is None
    deeper = [f"deeper/photo{i:03d}.jpg" for i in (1, 3, 5, 7)]
    assert both.names[:9] == (*deeper, *(f"photo{i:03d}.jpg" for i in (0, 2, 4, 6, 8)))
    assert both.names[9:] == tuple(f"photo{i:03d}.jpg" for i in range(9, 18))
    alone = load_images([shard], 24, "rgb")
    assert torch.equal(both.images[9:], alone.images)


def test_each_name_has_its_own_picture_in_rgb(photos):
    folder, _ = photos
    loaded = load_images([folder], 32, "rgb")
    for name, image in zip(loaded.names, loaded.images, strict=True):
        bgr = cv2.imread(str(folder / name))
        side = min(bgr.shape[:2])
        top, left = (bgr.shape[0] - side) // 2, (bgr.shape[1] - side) // 2
        cut = bgr[top : top + side, left : left + side]
        expected = cv2.resize(cut, (32, 32), interpolation=cv2.INTER_AREA)[:, :, ::-1]
        assert np.array_equal(image.permute(1, 2, 0), expected)


def test_gray_has_one_channel_of_luma(photos):
    folder, _ = photos
    gray = load_images([folder], 32, "gray").images.float()
    rgb = load_images([folder], 32, "rgb").images.float()
    assert gray.shape == (9, 1, 32, 32)
    luma = 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]
    # The decoder clips colours to 0..255 after the luma was stored, so single saturated pixels differ.
    assert (gray[:, 0] - luma).abs().median() < 1.0


def test_limit_takes_the_first(photos):
    folder, shard = photos
    whole = load_images([shard, folder], 16, "gray")
    for limit in (1, 9, 11, 18, 100):
        part = load_images([shard, folder], 16, "gray", limit)
        assert part.names == whole.names[:limit]
        assert torch.equal(part.images, whole.images[:limit])


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (33, 32)])
def test_square_crops_the_centre_or_stretches(height, width):
    pixels = np.full((height, width, 1), 200, np.uint8)
    pixels[:, : width // 5] = pixels[: height // 5] = 0
    cropped, stretched = square(pixels, 10, "crop"), square(pixels, 10, "stretch")
    assert cropped.shape == stretched.shape == (10, 10, 1)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = pixels[top : top + side, left : left + side]
    assert cropped.mean() == pytest.approx(cut.mean(), abs=2)
    assert stretched.mean() == pytest.approx(pixels.mean(), abs=2)


def test_square_grows_and_keeps():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(square(pixels, 4, "crop"), pixels)
    assert square(pixels, 9, "crop").shape == (9, 9, 3)


def test_bad_pictures_are_left_out_and_counted_once(photos):
    folder, shard = photos
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture by its name")
    with pytest.warns(UserWarning, match=r"^2 of 20 pictures cannot be read: broken\.jpg, empty\.png$") as caught:
        loaded = load_images([folder, shard], 16, "gray")
    assert len(caught) == 1
    assert len(loaded) == 18


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no pictures found"):
        load_images([tmp_path], 16, "gray")
    (tmp_path / "broken.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"none of 1 pictures.*broken\.jpg"):
        load_images([tmp_path], 16, "gray")
    with pytest.raises(DatasetError, match="no sources"):
        load_images([], 16, "gray")


def test_bad_sources_are_named(photos, tmp_path):
    folder, shard = photos
    with pytest.raises(DatasetError, match="nowhere"):
        load_images([tmp_path / "nowhere"], 16, "gray")
    with pytest.raises(DatasetError, match="neither a folder"):
        load_images([next(folder.glob("*.jpg"))], 16, "gray")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="tar archive"):
        load_images([shard], 16, "gray")
    shard.write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="tar archive"):
        load_images([shard], 16, "gray")


def test_plain_tar(photos, tmp_path):
    folder, _ = photos
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        tar.add(folder, arcname="photos")
    assert len(load_images([tmp_path / "plain.tar"], 16, "rgb")) == 9


@pytest.mark.parametrize(("img_size", "limit"), [(0, None), (16, 0)])
def test_sizes_below_one_are_refused(tmp_path, img_size, limit):
    with pytest.raises(ValueError, match="at least 1"):
        load_images([tmp_path], img_size, "gray", limit)


def test_decode_picture_refuses_what_is_none():
    assert decode_picture(b"", "gray") is None
    assert decode_picture(b"GIF89a?", "rgb") is None


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_threads_keep_the_order(count):
    chunks = list(map_in_threads(lambda i: -i, range(count), threads=3))
    assert [value for chunk in chunks for value in chunk] == [-i for i in range(count)]


def test_threads_read_only_a_little_ahead():
    numbers = iter(range(100_000))
    next(map_in_threads(lambda i: i, numbers, threads=2))
    assert next(numbers) <= 128 * 6


def test_work_runs_on_several_threads_and_its_errors_arrive():
    seen = set()

    def note(i):
        seen.add(threading.current_thread().name)
        time.sleep(0.0002)

    list(map_in_threads(note, range(512), threads=4))
    assert len(seen) > 1
    assert threading.main_thread().name not in seen

    def fail(i):
        raise KeyError(i)

    with pytest.raises(KeyError):
        list(map_in_threads(fail, range(3)))
