"""Miniature data sets for tests: drawn faces in FERPlus's layout, whose class can be learnt, and coloured photos."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_app.labels import LABELS
from training.data.ferplus import dev_names

SIDE_PX = 48

# Class -> how far the mouth's middle, left corner and right corner lie below its line, how far it opens, and how far
# the brows' outer and inner ends lie above theirs; all in px of a 48 px face.
_FACES = {
    "neutral": (0, 0, 0, 0, 0, 0),
    "happiness": (5, -2, -2, 0, 0, 0),
    "surprise": (0, 0, 0, 6, 4, 4),
    "sadness": (-4, 3, 3, 0, -2, 2),
    "anger": (-1, 1, 1, 0, 3, -3),
    "disgust": (-3, -3, 3, 2, -1, -3),
    "fear": (-2, 3, 3, 4, -1, 4),
    "contempt": (0, 0, -6, 0, 0, 3),
}


def draw_face(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a face of a class, uint8 (48, 48), with its place, light and noise at random."""
    middle, left, right, opening, outer, inner = _FACES[label]
    skin, ink = int(rng.integers(150, 220)), int(rng.integers(0, 60))
    image = np.full((SIDE_PX, SIDE_PX), int(rng.integers(60, 130)), np.uint8)
    dx, dy = (int(shift) for shift in rng.integers(-2, 3, size=2))
    cv2.ellipse(image, (24 + dx, 24 + dy), (18, 22), 0, 0, 360, skin, -1)
    for side in (-1, 1):
        cv2.circle(image, (24 + dx + 7 * side, 20 + dy), 2, ink, -1)
        brow = [(24 + dx + 11 * side, 14 + dy - outer), (24 + dx + 4 * side, 14 + dy - inner)]
        cv2.line(image, brow[0], brow[1], ink, 2)
    corners = np.array([-8, -4, 0, 4, 8])
    curve = np.array([left, (left + middle) // 2, middle, (right + middle) // 2, right])
    upper = np.stack([24 + dx + corners, 34 + dy + curve], axis=1).astype(np.int32)
    if opening:
        lower = upper[::-1] + np.array([0, opening], np.int32)
        cv2.fillPoly(image, [np.concatenate([upper, lower])], ink)
    cv2.polylines(image, [upper], False, ink, 2)
    noisy = image + rng.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def write_mini_ferplus(root: Path, per_class: int = 12, seed: int = 0) -> Path:
    """Write `root/ferplus` with Train (`per_class` faces of each class, some named as in the dev list) and Valid.

    Valid has a third as many. Most votes go to the drawn class; the last row of each label.csv is a face that all
    annotators called unknown, which every mode drops.

    Returns:
        The folder that holds FER2013Train and FER2013Valid.
    """
    rng = np.random.default_rng(seed)
    in_dev = sorted(dev_names())
    others = [name for i in range(10 * 8 * per_class) if (name := f"fer{i:07d}.png") not in dev_names()]
    for folder, count, n_dev in (
        ("FER2013Train", per_class, max(1, per_class // 5)),
        ("FER2013Valid", per_class // 3, 0),
    ):
        target = root / "ferplus" / folder
        target.mkdir(parents=True)
        rows = []
        for i in range(max(1, count)):
            for k, label in enumerate(LABELS):
                name = in_dev.pop() if i < n_dev else others.pop()
                votes = [0] * 10
                votes[k] = int(rng.integers(6, 10))
                votes[int(rng.integers(0, 8))] += 10 - votes[k]
                rows.append((name, votes, draw_face(label, rng)))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        rows.append((others.pop(), [0] * 8 + [10, 0], draw_face("neutral", rng)))
        for name, _, image in rows:
            cv2.imwrite(str(target / name), image)
        with (target / "label.csv").open("w", newline="") as file:
            csv.writer(file).writerows([name, "(0, 0, 48, 48)", *votes] for name, votes, _ in rows)
    return root / "ferplus"


def write_mini_photos(root: Path, n: int, seed: int = 0) -> tuple[Path, Path]:
    """Write `n` coloured JPEGs of different sizes to the folder `root/photos` and others to `root/shard-00.tar.gz`.

    Returns:
        The folder and the archive.
    """
    rng = np.random.default_rng(seed)
    folder, shard = root / "photos", root / "shard-00.tar.gz"
    (folder / "deeper").mkdir(parents=True)
    with tarfile.open(shard, "w:gz") as archive:
        for i in range(2 * n):
            width, height = (int(side) for side in rng.integers(40, 100, size=2))
            image = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (width, height))
            encoded = cv2.imencode(".jpg", image)[1].tobytes()
            if i < n:
                (folder / ("deeper" if i % 2 else "") / f"photo{i:03d}.jpg").write_bytes(encoded)
            else:
                member = tarfile.TarInfo(f"photo{i:03d}.jpg")
                member.size = len(encoded)
                archive.addfile(member, io.BytesIO(encoded))
    return folder, shard
