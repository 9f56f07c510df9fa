"""Tar archives, whole and damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fer_app.errors import DatasetError
from training.data.archives import count_files, first_names, read_tar

CONTENTS = {f"{i}.bin": np.random.default_rng(i).bytes(size) for i, size in enumerate((0, 1, 511, 512, 513, 5000))}


def written(path: Path) -> Path:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.bin")
        link.type, link.linkname = tarfile.LNKTYPE, "1.bin"
        archive.addfile(link)
    return path


@pytest.fixture(params=["a.tar", "a.tar.gz", "a.tgz"])
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return written(tmp_path / request.param)


def test_what_went_in_comes_out(archive: Path) -> None:
    assert dict(read_tar(archive, lambda name: True)) == CONTENTS
    odd = {name: content for name, content in CONTENTS.items() if int(name[0]) % 2}
    assert dict(read_tar(archive, odd.__contains__)) == odd
    assert first_names(archive) == ["folder", *CONTENTS, "link.bin"]
    assert first_names(archive, 2) == ["folder", "0.bin"]
    assert count_files(archive, lambda name: True) == (len(CONTENTS), None)
    assert count_files(archive, odd.__contains__) == (3, None)


def test_gzip_is_told_by_its_content(archive: Path) -> None:
    other = archive.rename(archive.with_name("b.tar" if archive.name != "a.tar" else "b.tar.gz"))
    assert dict(read_tar(other, lambda name: True)) == CONTENTS


def test_cut_off_anywhere_is_damaged(archive: Path) -> None:
    """At a member's end too, where Python's tarfile takes the end of the file for the archive's."""
    whole = archive.read_bytes()
    end = 512 * len(first_names(archive)) + sum(-(-len(content) // 512) * 512 for content in CONTENTS.values())
    is_plain = archive.suffix == ".tar"
    for cut in sorted({*range(1, end + 1, 512), *range(0, end + 1, 512)}) if is_plain else range(0, len(whole), 97):
        archive.write_bytes(whole[:cut])
        count, fault = count_files(archive, lambda name: True)
        assert fault, cut
        assert str(archive) in fault
        found: dict[str, bytes] = {}
        with pytest.raises(DatasetError, match="cannot be read as a tar archive"):
            found.update(read_tar(archive, lambda name: True))
        assert found == {name: CONTENTS[name] for name in list(CONTENTS)[: len(found)]}
        assert len(found) <= count <= len(found) + 1
    archive.write_bytes(whole)
    assert count_files(archive, lambda name: True) == (len(CONTENTS), None)


def test_what_gzip_packed_must_come_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar.gz")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(8))
    _, fault = count_files(path, lambda name: True)
    assert fault
    assert "CRC" in fault


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", gzip.compress(b"no archive"), bytes(100)],
    ids=["empty", "text", "packed text", "zeros"],
)
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    count, fault = count_files(path, lambda name: True)
    assert count == 0
    assert fault
    with pytest.raises(DatasetError, match="cannot be read as a tar archive"):
        first_names(path)
    with pytest.raises(DatasetError, match="No such file"):
        first_names(tmp_path / "b.tar")
