"""Reading prepared faces, and what is said of damaged ones."""

from __future__ import annotations

import json
import tarfile

import pytest

from fer_app.errors import DatasetError
from tests.training.miniature import write_mini_ferplus, write_mini_folders
from training.data.check import check
from training.data.datasets import at, identify, load
from training.data.prepare import prepare
from training.data.prepare_faces import Settings
from training.data.prepare_source import list_pictures
from training.data.prepared import crop_note
from training.groups import read_groups
from training.report import Report


def prepared(source, out):
    prepare(list_pictures(source), out, Settings(img_size=40, on_missing="keep"), shard_size=6, report=Report(None))
    return out


@pytest.fixture
def out(tmp_path):
    return prepared(write_mini_folders(tmp_path / "own", {"glad": "happiness", "bored": "neutral"}, 10), tmp_path / "o")


def test_the_folder_or_its_header_is_found_and_looked_through(out):
    assert identify(out) == "prepared"
    assert at(out / "prepared.json")[1] == out
    found = check(out)
    assert found.problems == ()
    assert {part: split.n for part, split in found.splits.items()} == {"train": 16, "valid": 4}


def test_size_and_colours_are_those_asked_for(out):
    for img_size, color_mode, shape in ((40, "rgb", (16, 3, 40, 40)), (24, "gray", (16, 1, 24, 24))):
        assert load(out, "train", img_size=img_size, color_mode=color_mode).images.shape == shape
    both = load(out, "train+valid", img_size=40, color_mode="rgb")
    assert len(set(both.names)) == 20
    few = load(out, "train", img_size=40, color_mode="rgb", limit=4)
    assert len(few) == 4
    whole = load(out, "train", img_size=40, color_mode="rgb")
    assert (few.images[1] == whole.images[4]).all()


def test_faces_of_a_table_keep_its_paths_so_that_its_columns_fit_them(tmp_path):
    root = write_mini_folders(tmp_path / "own", {"glad": "happiness", "bored": "neutral"}, 4)
    camera_of = {f"{name}/{i}.png": f"camera {i}" for name in ("glad", "bored") for i in range(4)}
    table = root / "faces.csv"
    rows = [f"{path},{path.partition('/')[0]},{camera}\n" for path, camera in camera_of.items()]
    table.write_text("path,label,camera\n" + "".join(rows))
    for data in (table, prepared(table, tmp_path / "o")):
        names = load(data, "train+valid", img_size=40, color_mode="rgb").names
        assert sorted(names) == sorted(camera_of)
        assert read_groups(table, "camera", names) == tuple(camera_of[name] for name in names)


def test_a_missing_or_other_shard_is_told(out):
    shard = out / "train-000001.tar"
    shard.rename(out / "kept.tar")
    assert "train-000001.tar cannot be read" in check(out).problems[0]
    (out / "train-000002.tar").rename(shard)
    with pytest.raises(DatasetError, match=r"train-000001.tar holds 4 faces, prepared.json says 6"):
        load(out, "train", img_size=40, color_mode="rgb")
    shard.write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=r"train-000001.tar cannot be read"):
        load(out, "train", img_size=40, color_mode="rgb")


def test_damaged_crops_are_listed(out):
    shard = out / "valid-000000.tar"
    with tarfile.open(shard) as archive:
        places = [member.offset_data for member in archive if member.name.endswith(".png")]
    content = bytearray(shard.read_bytes())
    for place in places[:2]:
        content[place : place + 8] = b"damaged!"
    shard.write_bytes(content)
    problems = check(out).problems
    assert len(problems) == 2
    assert all("valid-000000.tar" in problem for problem in problems)
    assert check(out, decode=False).problems == ()


def test_damaged_headers(out):
    header = out / "prepared.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(DatasetError, match="format version 2; this program reads 1"):
        identify(out)
    header.write_text("{")
    with pytest.raises(DatasetError, match=r"prepared.json cannot be read"):
        identify(out)


def test_ferplus_has_its_majority_only(tmp_path):
    out = prepared(write_mini_ferplus(tmp_path, 3), tmp_path / "out")
    assert len(load(out, "train", img_size=40, color_mode="gray")) == 24
    with pytest.raises(DatasetError, match="majority; for the votes 'probability', use FERPlus itself"):
        load(out, "train", img_size=40, color_mode="gray", votes="probability")
    assert len(load(out, "valid", img_size=40, color_mode="gray", votes="probability")) == 8


def test_how_far_faces_are_what_serving_makes(out):
    for data_set in ("ferplus", "ferplus-csv", "fer2013", "fer2013-folders"):
        assert crop_note(data_set, out, 48) is None
    assert "`fer data prepare`" in (crop_note("raf-db", out, 48) or "")
    assert crop_note("prepared", out, 40) is None
    assert "prepared at 40 px, scaled to the model's 48" in (crop_note("prepared", out, 48) or "")
