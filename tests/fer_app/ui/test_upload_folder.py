from __future__ import annotations

import os
import time

import pytest

from fer_app.ui.upload_folder import UploadFolder


def test_only_what_lies_in_the_folder_is_in_it(tmp_path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    with UploadFolder() as uploads:
        inside = uploads.new() / "a.jpg"
        inside.write_bytes(b"x")
        link = uploads.root / "link"
        link.symlink_to(outside)
        beside = uploads.root.with_name(uploads.root.name + "-beside")
        assert uploads.contains(str(inside))
        for path in (
            str(outside),
            str(link),
            f"{uploads.root}/../{tmp_path.name}",
            f"{uploads.root}/a/../../../etc/passwd",
            str(beside),
            "a.jpg",
            "",
            "/etc/passwd\0",
            f"file://{inside}",
            "https://example.org/a.jpg",
        ):
            assert not uploads.contains(path), path


def test_it_is_private_and_gone_in_the_end() -> None:
    with UploadFolder() as uploads:
        assert uploads.root.stat().st_mode & 0o077 == 0
        assert uploads.new() != uploads.new()
        (uploads.new() / "a.jpg").write_bytes(b"x")
    assert not uploads.root.exists()


def test_what_is_old_is_swept() -> None:
    with UploadFolder(kept_s=60) as uploads:
        old, fresh = uploads.new() / "old.jpg", uploads.new() / "fresh.jpg"
        for path in (old, fresh):
            path.write_bytes(b"x")
        hour_ago = time.time() - 3600
        os.utime(old, (hour_ago, hour_ago))
        os.utime(old.parent, (hour_ago, hour_ago))
        uploads.sweep()
        assert not old.exists()
        assert fresh.exists()
        uploads.sweep(time.time() + 61)
        uploads.sweep(time.time() + 122)
        assert list(uploads.root.iterdir()) == []
        assert uploads.root.is_dir()


def test_what_is_kept_stays_for_as_long_again(tmp_path) -> None:
    foreign = tmp_path / "foreign.jpg"
    foreign.write_bytes(b"x")
    os.utime(foreign, (0, 0))
    with UploadFolder(kept_s=60) as uploads:
        mine = uploads.root / "mine.jpg"
        mine.write_bytes(b"x")
        os.utime(mine, (0, 0))
        for path in (mine, foreign, uploads.root / "none.jpg"):
            uploads.keep(path)
        uploads.sweep()
        assert mine.exists()
    assert foreign.stat().st_mtime == 0


def test_a_link_is_swept_and_not_what_it_leads_to(tmp_path) -> None:
    outside = tmp_path / "kept.txt"
    outside.write_text("kept")
    with UploadFolder() as uploads:
        (uploads.root / "link").symlink_to(tmp_path)
        uploads.sweep(time.time() + 4000)
        assert list(uploads.root.iterdir()) == []
    assert outside.exists()


def test_deletion_leaves_others_alone(tmp_path) -> None:
    outside = tmp_path / "a.jpg"
    outside.write_bytes(b"x")
    with UploadFolder() as uploads:
        inside = uploads.new() / "a.jpg"
        inside.write_bytes(b"x")
        uploads.delete([str(inside), str(outside), str(inside)])
        assert not inside.exists()
    assert outside.exists()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_names_that_no_file_can_have(name) -> None:
    with UploadFolder() as uploads:
        assert not uploads.contains(f"{uploads.root}/../{name}")
