"""Folders and names of what is written."""

import os
from pathlib import Path

import pytest

from fer_app.errors import InputError
from fer_app.output_files import LONGEST_STEM, make_output_folder, short_stem, writing_to


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
