import tarfile
from pathlib import Path

import pytest

from fer_app.errors import DatasetError
from tests.training.miniature import (
    write_mini_affectnet_tables,
    write_mini_fer2013_csv,
    write_mini_ferplus,
    write_mini_folders,
    write_mini_photos,
    write_mini_raf_db,
    write_mini_shards,
)
from training.data.locate import locate


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_mini_photos(tmp_path / "photos", 4)
    return tmp_path / "photos"


def test_tells_ferplus_from_photos(tmp_path: Path, photos: Path) -> None:
    ferplus = write_mini_ferplus(tmp_path / "faces", per_class=1)
    found = locate([photos, tmp_path / "faces"])
    assert found.ferplus == ferplus
    assert found.photos
    assert all(photos in (path, *path.parents) for path in found.photos)


def test_finds_both_below_one_folder_and_inside_archives(tmp_path: Path, photos: Path) -> None:
    ferplus = write_mini_ferplus(tmp_path / "unpacked", per_class=1)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "faces.tar.gz", "w:gz") as archive:
        archive.add(ferplus, "ferplus")
    photos.rename(root / "photos")
    found = locate([root])
    assert found.ferplus == root / "faces.tar.gz"
    assert found.photos


def test_shards_beside_pictures_and_all_kinds_that_can_be_read(tmp_path: Path) -> None:
    folder, shard = write_mini_photos(tmp_path / "root", 2)
    shard = shard.rename(folder / "SHARD.TAR.GZ")
    assert locate([folder]).photos == (folder, shard)
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.tif").write_bytes(b"")
    assert locate([scans]).photos == (scans,)


def test_test_split_alone_is_ferplus(tmp_path: Path) -> None:
    (tmp_path / "FER2013Test").mkdir()
    assert locate([tmp_path]).need_ferplus() == tmp_path


def test_what_is_missing_is_named(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        locate([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds neither"):
        locate([tmp_path / "empty"])
    with pytest.raises(DatasetError, match="no FERPlus data"):
        locate([photos]).need_ferplus()
    ferplus = write_mini_ferplus(tmp_path / "faces", per_class=1)
    with pytest.raises(DatasetError, match="no general photos"):
        locate([ferplus]).need_photos()
    other = write_mini_ferplus(tmp_path / "other", per_class=1)
    with pytest.raises(DatasetError, match="two sources"):
        locate([ferplus, other])


def test_damaged_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="cannot be read as a tar archive"):
        locate([tmp_path / "x.tar.gz"])


def test_other_labelled_sets_are_found_beside_photos(tmp_path: Path, photos: Path) -> None:
    base = write_mini_raf_db(tmp_path / "raf", 1)
    for given in (base, base.parent):
        found = locate([given, photos])
        assert found.faces == base
        assert found.ferplus is None
        assert found.photos == locate([photos]).photos
    table = write_mini_fer2013_csv(tmp_path / "fer2013", 1)
    assert locate([table]).need_faces() == table
    assert locate([tmp_path / "fer2013"]).need_faces() == table
    with pytest.raises(DatasetError, match="no FERPlus data"):
        locate([table]).need_ferplus()
    affectnet = write_mini_affectnet_tables(tmp_path, 1)
    assert locate([affectnet]).need_faces() == affectnet
    assert locate([affectnet]).photos == ()
    with pytest.raises(DatasetError, match="two sources"):
        locate([table, base])


def test_a_folder_a_class_is_labelled_when_nothing_else_is(tmp_path: Path, photos: Path) -> None:
    own = write_mini_folders(tmp_path / "own", {"glad": "happiness", "bored": "neutral"}, 1)
    found = locate([own, photos])
    assert found.need_faces() == own
    assert set(found.photos) == {own / "bored", own / "glad", *locate([photos]).photos}
    ferplus = write_mini_ferplus(tmp_path / "faces", per_class=1)
    assert locate([own, ferplus]).need_faces() == ferplus
    assert locate([tmp_path]).need_faces() == ferplus  # below a folder, only what can be nothing else
    other = write_mini_folders(tmp_path / "other", {"a": "fear", "b": "anger"}, 1)
    assert len(locate([own, other]).photos) == 4  # two folders of photos are no mistake
    with pytest.raises(DatasetError, match="no labelled faces"):
        locate([own, other]).need_faces()


def test_photos_may_be_asked_for_by_their_folder(tmp_path: Path) -> None:
    for name in ("general", "faces"):
        write_mini_photos(tmp_path / "all" / name, 1)  # the folder photos and a shard in it
    for given in ([tmp_path / "all"], [tmp_path / "all" / "general", tmp_path / "all" / "faces"]):
        found = locate(given)
        assert len(found.photos) == 4
        assert set(found.need_photos(["faces"])) == {path for path in found.photos if "faces" in path.parts}
        assert found.need_photos(["general", "faces"]) == found.photos == found.need_photos()
        with pytest.raises(DatasetError, match="no photos in a folder named scans: pass"):
            found.need_photos(["faces", "scans"])
    # Where the data lies says nothing about it.
    with pytest.raises(DatasetError, match="named all"):
        locate([tmp_path / "all" / "general"]).need_photos(["all"])


def test_a_link_counts_by_both_of_its_names(tmp_path: Path) -> None:
    write_mini_shards(tmp_path / "disk7", [1])
    (tmp_path / "photos").mkdir()
    link = tmp_path / "photos" / "general"
    link.symlink_to(tmp_path / "disk7")
    for given in (link, link / "shard-00.tar", tmp_path / "photos"):
        assert locate([given]).need_photos(["general"]) == (link / "shard-00.tar",)
    for given in (link, link / "shard-00.tar"):
        assert locate([given]).need_photos(["disk7"]) == (link / "shard-00.tar",)


def test_shards_by_patterns_each_once(tmp_path: Path) -> None:
    shards = write_mini_shards(tmp_path / "photos", [1] * 12)
    assert locate([tmp_path / "photos" / "shard-{00..11}.tar"]).photos == tuple(shards)
    twice = locate([tmp_path / "photos" / "shard-1*.tar", tmp_path / "photos"])
    assert twice.photos == (*shards[10:], *shards[:10])
    assert twice.need_photos(["photos"]) == twice.photos
    with pytest.raises(DatasetError, match=r"3 of 13 do not exist: .*shard-12\.tar, .*shard-13\.tar, .*shard-14\.tar$"):
        locate([tmp_path / "photos" / "shard-{02..14}.tar"])


def test_an_unreadable_shard_among_others_is_left_to_their_reader(tmp_path: Path) -> None:
    shards = write_mini_shards(tmp_path / "photos", [2, 2])
    shards[0].write_bytes(b"")
    found = locate([tmp_path])
    assert found.photos == tuple(shards)
    with pytest.raises(DatasetError, match=r"no labelled faces given: .*; .*shard-00\.tar cannot be read as a tar"):
        found.need_faces()
