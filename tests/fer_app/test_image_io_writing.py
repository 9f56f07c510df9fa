from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.fer_app.scene import scene, worst

from fer_app.errors import InputError
from fer_app.image_io import read_image, write_image


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_written_pictures_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, scene())
    assert worst(read_image(path), scene()) < (1 if suffix.lower() == ".png" else 4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_write_takes_views(tmp_path: Path) -> None:
    write_image(tmp_path / "view.png", scene()[::-1, ::2])
    np.testing.assert_array_equal(read_image(tmp_path / "view.png"), scene()[::-1, ::2])


def test_write_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write \.bmp; use \.png"):
        write_image(tmp_path / "out.bmp", scene())
    with pytest.raises(InputError, match="does not exist"):
        write_image(tmp_path / "no folder" / "out.png", scene())
    with pytest.raises(InputError, match=r"wide\.webp"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 17_000, 3), np.uint8))
    with pytest.raises(ValueError, match="rgb must be uint8"):
        write_image(tmp_path / "out.png", scene()[..., 0])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    write_image(path, scene())

    def disk_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_image(path, scene()[::-1])
    np.testing.assert_array_equal(read_image(path), scene())
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_written_files_have_ordinary_permissions_and_links_stay(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.touch()
    (tmp_path / "link.png").symlink_to("target.png")
    write_image(tmp_path / "link.png", scene())
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "target.png").stat().st_mode == plain.stat().st_mode


def test_drawn_text_is_upright_after_a_round_trip(tmp_path: Path) -> None:
    canvas = Image.new("RGB", (80, 40), "black")
    ImageDraw.Draw(canvas).rectangle((0, 0, 10, 10), fill="red")
    write_image(tmp_path / "corner.jpg", np.asarray(canvas))
    pixels = read_image(tmp_path / "corner.jpg")
    assert pixels[4, 4, 0] > 200
    assert pixels[4, 4, 2] < 60
    assert pixels[-4, -4].max() < 20
