"""Photos with known faces, `fer data prepare` on them, and what it has written."""

from __future__ import annotations

import tarfile

import cv2
import numpy as np
from typer.testing import CliRunner

from fer_app.image_io import write_image
from training.data_cli import data

RUNNER = CliRunner()


def run(*arguments, status=0):
    result = RUNNER.invoke(data, ["prepare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def members(out):
    """All files in all shards of a folder: name -> bytes."""
    found = {}
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    return found


def crop(content):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_photos(root, astronaut, count):
    """Scenes with the portrait in one, two or no places, the last one in gray; as PNG."""
    for i in range(count):
        scene = np.full((400, 620, 3), 40 + 10 * (i % 10), np.uint8)
        for place in range(i % 3):
            side = 380 - 100 * place
            small = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA)
            top = 4 * (i % 5)
            scene[top : top + side, 340 * place : 340 * place + side] = small[:, : 620 - 340 * place]
        if i == count - 1:
            scene[:] = scene.mean(axis=2, keepdims=True).astype(np.uint8)
        folder = root / ("deeper" if i % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"photo.{i:02d}.png", scene)
    return root
