"""Miniature data sets for tests: drawn faces in FERPlus's layout, whose class can be learnt, and coloured photos."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Sequence
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


def write_mini_fer2013_csv(root: Path, per_class: int = 2, *, votes: bool = False, seed: int = 0) -> Path:
    """Write `root/fer2013.csv`, and with `votes` a `fer2013new.csv` whose rows pair with it, drawn names and traps.

    Every Usage has `per_class` faces of each of FER2013's seven classes, in FER2013's order. The traps of the vote
    file: after the first face of a part comes one without a name (no face), the numbers in the names skip it, and the
    part's last two rows have the same name.

    Returns:
        `root/fer2013.csv`.
    """
    rng = np.random.default_rng(seed)
    order = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    faces, voted, number = [], [], 0
    for usage in ("Training", "PublicTest", "PrivateTest"):
        drawn = [(k, label) for _ in range(per_class) for k, label in enumerate(order)]
        for i, (k, label) in enumerate([drawn[0], *drawn]):
            pixels = " ".join(str(value) for value in draw_face(label, rng).ravel())
            faces.append((k, pixels, usage))
            if i == 1:
                voted.append((usage, "", *[0] * 9, 10))
                continue
            number += i < len(drawn)
            voted.append((usage, f"fer{number:07d}.png", *[8 * (label == own) for own in LABELS], 2, 0))
    _write_csv(root / "fer2013.csv", [("emotion", "pixels", "Usage"), *faces])
    if votes:
        _write_csv(root / "fer2013new.csv", [("Usage", "Image name", *LABELS, "unknown", "NF"), *voted])
    return root / "fer2013.csv"


def write_mini_raf_db(root: Path, per_class: int = 2, seed: int = 0) -> Path:
    """Write `root/basic`, RAF-DB's folder, with `per_class` coloured 100 px faces a class in Train and in Test."""
    rng = np.random.default_rng(seed)
    order = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    lines = []
    for part in ("train", "test"):
        for i in range(7 * per_class):
            stem = f"{part}_{i + 1:05d}"
            write_face(root / "basic" / "Image" / "aligned" / f"{stem}_aligned.jpg", order[i % 7], rng, 100)
            lines.append(f"{stem}.jpg {i % 7 + 1}\n")
    (root / "basic" / "EmoLabel").mkdir()
    (root / "basic" / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root / "basic"


AFFECTNET_ORDER = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")


def write_mini_affectnet_tables(root: Path, per_class: int = 2, seed: int = 0) -> Path:
    """Write `root/affectnet`: training.csv, validation.csv (this one without a header), and whole pictures.

    Of every face's picture the face is the 48 px square at (10, 20). The last row of each table is no face.
    """
    rng = np.random.default_rng(seed)
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for part, name in enumerate(("training.csv", "validation.csv")):
        rows: list[tuple[object, ...]] = [] if part else [tuple(header.split(","))]
        for i in range(8 * per_class + 1):
            path = f"{part}/face{i:03d}.jpg"
            scene = np.zeros((90, 80, 3), np.uint8)
            scene[20:68, 10:58] = draw_face(AFFECTNET_ORDER[i % 8], rng)[..., None]
            target = root / "affectnet" / "Manually_Annotated_Images" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), scene)
            expression = 10 if i == 8 * per_class else i % 8
            rows.append((path, 10, 20, 48, 48, "1;2;3;4", expression, -0.5, 0.25))
        _write_csv(root / "affectnet" / name, rows)
    return root / "affectnet"


def write_mini_affectnet_npy(root: Path, per_class: int = 2, seed: int = 0) -> Path:
    """Write `root/affectnet-npy`: train_set and val_set, each with images and an annotation file a face."""
    rng = np.random.default_rng(seed)
    for folder in ("train_set", "val_set"):
        base = root / "affectnet-npy" / folder
        (base / "annotations").mkdir(parents=True)
        for i in range(8 * per_class):
            write_face(base / "images" / f"{i}.jpg", AFFECTNET_ORDER[i % 8], rng, 64)
            np.save(base / "annotations" / f"{i}_exp.npy", np.array(str(i % 8)))
            np.save(base / "annotations" / f"{i}_val.npy", np.array("-0.1"))
    return root / "affectnet-npy"


def write_mini_folders(root: Path, classes: dict[str, str], per_class: int = 5, seed: int = 0) -> Path:
    """Write a folder a class in `root`, each named by a key of `classes` and drawn as its value: `per_class` PNGs."""
    rng = np.random.default_rng(seed)
    for name, label in classes.items():
        for i in range(per_class):
            write_face(root / name / f"{i}.png", label, rng, 50)
    return root


def write_face(path: Path, label: str, rng: np.random.Generator, side_px: int) -> None:
    """Write a reddish drawn face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = cv2.resize(draw_face(label, rng), (side_px, side_px))
    cv2.imwrite(str(path), np.stack([gray // 2, gray // 2, gray], axis=2))


def _write_csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


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


def write_mini_shards(root: Path, counts: Sequence[int], suffix: str = ".tar", side_px: int = 12) -> list[Path]:
    """Write `root/shard-00.tar`, ...: so many PNGs each, all different, with a text file before every third picture."""
    root.mkdir(parents=True, exist_ok=True)
    paths, number = [], 0
    for i, count in enumerate(counts):
        paths.append(root / f"shard-{i:02d}{suffix}")
        with tarfile.open(paths[-1], "w" if suffix == ".tar" else "w:gz") as archive:
            for k in range(count):
                image = np.random.default_rng(number).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
                members = [(f"{number:06d}.png", cv2.imencode(".png", image)[1].tobytes())]
                if k % 3 == 0:
                    members.insert(0, (f"{number:06d}.txt", b"no picture"))
                for name, content in members:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                number += 1
    return paths
