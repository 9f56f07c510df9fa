from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_app.errors import InputError
from fer_app.source_files import IMAGE_SUFFIXES, find_images, is_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "img10.jpg",
        "img2.jpg",
        "Img1.PNG",
        "notes.txt",
        ".hidden.jpg",
        "[1].jpg",
        "straße.webp",
        "sub/10/b.tif",
        "sub/2/a.heic",
        "sub/z.gif",
        ".cache/thumb.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(found: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


TOP = ["Img1.PNG", "img2.jpg", "img10.jpg", "straße.webp", "[1].jpg"]
SUB = ["sub/z.gif", "sub/2/a.heic", "sub/10/b.tif"]


def test_a_folder_gives_its_pictures_in_natural_order(folder: Path) -> None:
    assert sorted(names(find_images([folder]), folder)) == sorted(TOP)
    numbered = [name for name in names(find_images([folder]), folder) if name.lower().startswith("img")]
    assert numbered == ["Img1.PNG", "img2.jpg", "img10.jpg"]


def test_recursive_goes_down(folder: Path) -> None:
    found = names(find_images([str(folder)], recursive=True), folder)
    assert [name for name in found if name.startswith("sub/")] == SUB
    assert len(found) == len(TOP) + len(SUB)


def test_a_named_file_is_always_taken(folder: Path) -> None:
    named = [folder / "notes.txt", folder / ".hidden.jpg", folder / "[1].jpg"]
    assert find_images(named) == named


def test_patterns(folder: Path) -> None:
    assert names(find_images([f"{folder}/img*.jpg"]), folder) == ["img2.jpg", "img10.jpg"]
    assert names(find_images([f"{folder}/sub*"]), folder) == ["sub/z.gif"]
    assert names(find_images([f"{folder}/sub*"], recursive=True), folder) == SUB
    assert sorted(names(find_images([f"{folder}/**/*.*"]), folder)) == sorted(TOP + SUB)
    assert names(find_images([f"{folder}/img[12].jpg"]), folder) == ["img2.jpg"]


def test_sources_keep_their_order(folder: Path) -> None:
    assert names(find_images([folder / "straße.webp", folder / "img2.jpg"]), folder) == ["straße.webp", "img2.jpg"]
    assert find_images([]) == []


def test_what_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg: no such file or folder"):
        find_images([folder / "gone.jpg"])
    with pytest.raises(InputError, match="matches no picture"):
        find_images([f"{folder}/*.bmp"])


def test_what_may_not_be_looked_at_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"x: cannot be looked at: File name too long"):
        find_images(["x" * 300])
    really = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sorted(names(find_images([folder]), folder)) == sorted(TOP)
    with pytest.raises(InputError, match=r"sub: cannot be looked into: Permission denied"):
        find_images([folder], recursive=True)


def test_on_windows_an_address_or_a_pattern_is_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system knows no such names, and says so in another way than that there is no such file."""
    really = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if "*" in path.name or "rtsp:" in path.parts:
            error = OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect")
            error.winerror = 123  # type: ignore[attr-defined]
            raise error
        return really(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert not is_folder(Path("rtsp://somewhere/1"))
    assert names(find_images([folder / "*.webp"]), folder) == ["straße.webp"]


def test_an_empty_name_is_not_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="empty"):
        find_images([""])


def test_a_folder_without_pictures_gives_none(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    assert find_images([tmp_path], recursive=True) == []


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
