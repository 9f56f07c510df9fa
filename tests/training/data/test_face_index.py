"""Pictures on disk, read at the size asked for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fer_app.contract import Contract
from fer_app.errors import DatasetError
from fer_app.image_io import read_image
from fer_app.preprocess import to_input
from training.data import face_index
from training.data.face_index import FaceIndex


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 60)), ("b.png", (30, 80)), ("c.png", (20, 20))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return tmp_path


def index(root, *names, boxes=None):
    return FaceIndex.of_classes(root, [(name, i % 2) for i, name in enumerate(names)], ("x", "y"), boxes)


@pytest.mark.parametrize(("color_mode", "channels"), [("rgb", 3), ("gray", 1)])
def test_pictures_are_scaled_as_serving_scales_them(folder, color_mode, channels):
    faces = index(folder, "a.png", "b.png", "c.png").load(48, color_mode)
    assert faces.images.shape == (3, channels, 48, 48)
    contract = Contract(
        labels=("x", "y"),
        img_size=48,
        color_mode=color_mode,
        in_chans=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        crop="fer48-v1",
    )
    served = to_input([read_image(folder / name) for name in faces.names], contract)
    assert np.abs(served * 255 - faces.images.numpy()).max() <= 0.501  # rounded to bytes once


def test_targets_names_and_subsets(folder):
    faces = index(folder, "a.png", "b.png", "c.png")
    assert faces.targets.tolist() == [[1, 0], [0, 1], [1, 0]]
    part = faces.subset(torch.tensor([2, 1]))
    assert part.names == ("c.png", "b.png")
    assert part.load(8, "rgb").targets.tolist() == [[1, 0], [0, 1]]


def test_boxes_cut_out_the_face_and_are_cut_to_the_picture(folder):
    boxes = np.array([[10, 5, 30, 25], [70, 20, 200, 200]])
    faces = index(folder, "a.png", "b.png", boxes=boxes).load(20, "rgb")
    whole = read_image(folder / "a.png")
    assert np.array_equal(faces.images[0].permute(1, 2, 0).numpy(), whole[5:25, 10:30])
    outside = index(folder, "c.png", boxes=np.array([[30, 0, 40, 10]]))
    with pytest.raises(DatasetError, match=r"c\.png: the face's box \[30, 0, 40, 10\] is not in the picture \(20 x 20"):
        outside.load(8, "rgb")
    assert len(list(outside.problems())) == 1


def test_what_is_missing_or_unreadable_is_listed(folder):
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "text.jpg").write_text("no picture")
    faces = index(folder, "a.png", "bad.png", "gone.png", "text.jpg")
    with pytest.raises(DatasetError, match=r"3 of 4 pictures cannot be read: .*bad\.png.*; .*gone\.png.*; .*text\.jpg"):
        faces.load(8, "rgb")
    found = list(faces.problems())
    assert [name for name in faces.names if any(name in problem for problem in found)] == list(faces.names[1:])
    (problem,) = faces.problems(decode=False)
    assert problem == f"{folder / 'gone.png'}: no such file"


def test_parts_must_fit_each_other(folder):
    with pytest.raises(DatasetError, match="targets"):
        FaceIndex(folder, ("a.png",), torch.zeros(2, 2), ("x", "y"))
    with pytest.raises(DatasetError, match="boxes"):
        index(folder, "a.png", boxes=np.zeros((2, 4), np.int64))


def test_faces_that_do_not_fit_into_memory_are_not_begun(folder, monkeypatch):
    monkeypatch.setattr(face_index, "free_bytes", lambda: 2 * 3 * 20 * 20)
    assert len(index(folder, "a.png", "b.png").load(20, "rgb")) == 2
    with pytest.raises(DatasetError, match=r"3 faces at 20 px take .* GB, and .* GB of memory are free: take fewer"):
        index(folder, "a.png", "b.png", "c.png").load(20, "rgb")
