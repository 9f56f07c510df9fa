"""Folders and names of what is written."""

import contextlib
import os
import sys
import unicodedata
from pathlib import Path

import pytest

from fer_app.atomic_file import replacing
from fer_app.errors import InputError
from fer_app.output_files import LONGEST_STEM, folded, make_output_folder, short_stem, writing_to


def test_a_stem_is_cut_between_letters_and_only_when_it_must_be() -> None:
    assert short_stem("a/photo.of.me.jpg") == "photo.of.me"
    assert short_stem("x" + "ü" * 100 + ".jpg") == "x" + "ü" * 99
    assert short_stem("ü" * 100 + ".jpg") == "ü" * 100
    assert short_stem("漢" * 85) == "漢" * 66
    not_text = os.fsdecode(b"\xfc" * 210)  # of a system whose names are Latin-1
    assert short_stem(not_text) == not_text[:LONGEST_STEM]


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    make_output_folder(made)
    make_output_folder(made)
    assert made.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; --output takes a folder"):
        make_output_folder(tmp_path / "file")
    with pytest.raises(InputError, match="below: cannot write there: Not a directory"):
        make_output_folder(tmp_path / "file" / "below")


def test_what_the_system_says_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"b\.csv: cannot be written: No such file or directory"),
        writing_to(tmp_path / "b.csv"),
    ):
        (tmp_path / "nowhere" / "b.csv").write_text("")


def test_names_that_some_file_systems_take_for_one_are_one() -> None:
    assert folded(Path("A.mp4")) == folded(Path("a.mp4")) != folded(Path("b.mp4"))
    assert folded(Path(unicodedata.normalize("NFC", "é.mp4"))) == folded(Path(unicodedata.normalize("NFD", "é.mp4")))


@pytest.mark.parametrize(
    ("platform", "held_for", "works"), [("win32", 3, True), ("win32", 99, False), ("linux", 1, False)]
)
def test_on_windows_a_file_that_is_looked_into_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, held_for: int, works: bool
) -> None:
    waited: list[float] = []
    replace = Path.replace

    def held(path: Path, target: Path) -> Path:
        if len(waited) < held_for:
            raise PermissionError(13, "The process cannot access the file")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr("fer_app.atomic_file.time.sleep", waited.append)
    monkeypatch.setattr(sys, "platform", platform)
    target = tmp_path / "a.txt"
    with contextlib.nullcontext() if works else pytest.raises(PermissionError), replacing(target) as temporary:
        temporary.write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == (["whole"] if works else [])
    assert len(waited) == (3 if works else 5 if platform == "win32" else 0)
    assert sum(waited) < 5
