"""Where the landmarks lie in a data set's own crops, and how well a served crop agrees with them.

`python -m training.measure_template --data DIR [--limit N] [--figure PICTURE.png --example PHOTO.jpg]`

Two measurements on FERPlus, whose 48 x 48 crops come without landmarks:

1. Train: each crop is enlarged onto a gray canvas, the detector finds the landmarks, and their medians in the crop's
   unit square, made symmetric, are the template (`fer_app.alignment.TEMPLATES["fer48-v1"]`).
2. Valid: the same photos on both paths. Path 1 is the data set's crop as it is. Path 2 is serving: the enlarged photo
   in a scene, detected, aligned to the template, cut out at 48 px. Reported are the differences of position, size,
   roll and gray values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.alignment import TEMPLATES, align_faces, similarity_transforms
from fer_app.detection import MtcnnDetector
from fer_app.image_io import read_image, write_image
from fer_app.results import LANDMARKS
from training.data.ferplus import Split, load_ferplus

UInt8 = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]

CROP = "fer48-v1"
SIDE = 48
ENLARGE = 6
# Canvas around the crop, in px of the crop: MTCNN looks for boxes that reach beyond the face.
MARGIN = 12
CANVAS_GRAY = 127
FRAMES_PER_RUN = 64
# subject's left <-> right, in the order of `fer_app.results.LANDMARKS`
MIRROR = [1, 0, 2, 4, 3]


class Found(NamedTuple):
    """The pictures in which a face was found.

    Attributes:
        crops: uint8, (N, 48, 48), the data set's own crops.
        landmarks: float64, (N, 5, 2), in px of the crop (0..48).
        kept: int64, (N,), their numbers among the pictures that were looked at.
        looked_at: number of pictures that the detector saw.
    """

    crops: UInt8
    landmarks: Float64
    kept: npt.NDArray[np.int64]
    looked_at: int


def load_crops(data: Path, split: Split, limit: int | None) -> UInt8:
    """Read a split's pictures, uint8 (N, 48, 48); with `limit` as many of them, spread over the whole split."""
    crops = load_ferplus(data, split).images[:, 0].numpy()
    if limit is not None and limit < len(crops):
        crops = crops[np.linspace(0, len(crops) - 1, limit).astype(np.intp)]
    return crops


def enlarged(crop: UInt8) -> UInt8:
    """Put one crop, enlarged by `ENLARGE`, in the middle of a gray canvas: uint8, (H, W)."""
    large = cv2.resize(crop, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
    border = (MARGIN * ENLARGE,) * 4
    return np.asarray(cv2.copyMakeBorder(large, *border, cv2.BORDER_CONSTANT, value=CANVAS_GRAY), np.uint8)


def find_landmarks(crops: UInt8) -> Found:
    """Run the detector on every crop, and keep those with a face."""
    detector = MtcnnDetector(min_face_px=SIDE * ENLARGE / 2, max_faces=1)
    kept, landmarks = [], []
    for start in range(0, len(crops), FRAMES_PER_RUN):
        scenes = [np.repeat(enlarged(crop)[..., None], 3, axis=2) for crop in crops[start : start + FRAMES_PER_RUN]]
        for i, found in enumerate(detector.detect(scenes)):
            if len(found):
                kept.append(start + i)
                landmarks.append(found.landmarks[0].astype(np.float64) / ENLARGE - MARGIN)
    return Found(crops[kept], np.reshape(landmarks, (-1, 5, 2)), np.array(kept, np.int64), len(crops))


def template_from(landmarks: Float64) -> Float64:
    """The symmetric median face in the unit square, sized so that the median transform to it has scale 1.

    Args:
        landmarks: float64, (N, 5, 2), in px of the crop.

    Returns:
        float64, (5, 2).
    """
    median = np.median(landmarks, axis=0) / SIDE
    mirrored = median[MIRROR] * [-1, 1] + [1, 0]
    template = (median + mirrored) / 2
    scale = np.median(scales_of(similarity_transforms(landmarks, template * SIDE)))
    centre = template.mean(axis=0)
    return np.asarray((template - centre) / scale + centre, np.float64)


def scales_of(transforms: Float64) -> Float64:
    """Scale of each similarity transform: float64, (N,)."""
    return np.asarray(np.hypot(transforms[:, 0, 0], transforms[:, 1, 0]), np.float64)


def quartiles(values: Float64) -> str:
    """Median and quartiles as text."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def served_crops(found: Found) -> tuple[UInt8, npt.NDArray[np.bool_]]:
    """Path 2: the aligned crops, uint8 (N, 48, 48), and which of their pixels show the photo, not the canvas."""
    served, inside = [], []
    photo = enlarged(np.full((SIDE, SIDE), 255, np.uint8)) == 255
    for original, landmarks in zip(found.crops, (found.landmarks + MARGIN) * ENLARGE, strict=True):
        scene = enlarged(original)
        # The mask of the photo travels in the green channel.
        picture = np.stack([scene, photo.astype(np.uint8) * 255, scene], axis=2)
        crop = align_faces(picture, landmarks[None], img_size=SIDE, crop=CROP)[0]
        served.append(crop[..., 0])
        inside.append(crop[..., 1] == 255)
    return np.stack(served), np.stack(inside)


def report_template(found: Found) -> Iterator[str]:
    """Lines of the first measurement."""
    yield f"Train: a face found in {len(found.landmarks)} of {found.looked_at} pictures"
    spread = np.subtract(*np.percentile(found.landmarks / SIDE, [75, 25], axis=0))
    template = template_from(found.landmarks)
    for name, row, iqr in zip(LANDMARKS, template, spread, strict=True):
        yield f"  {name:12s} {row[0]:.4f} {row[1]:.4f}   interquartile range {iqr[0]:.3f} {iqr[1]:.3f}"
    yield f"  largest difference from the template in use: {np.abs(template - TEMPLATES[CROP]).max():.4f}"


def turned(crops: UInt8, transforms: Float64) -> Float64:
    """The data set's own crops under the transforms that serving found: float64, (N, 48, 48)."""
    moved = []
    for crop, transform in zip(crops, transforms, strict=True):
        # OpenCV counts from the centres of pixels.
        shift = transform[:, 2] + transform[:, :2] @ [0.5, 0.5] - 0.5
        matrix = np.column_stack([transform[:, :2], shift])
        moved.append(cv2.warpAffine(crop, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(moved).astype(np.float64)


def report_agreement(found: Found, served: UInt8, inside: npt.NDArray[np.bool_]) -> Iterator[str]:
    """Lines of the second measurement."""
    transforms = similarity_transforms(found.landmarks, TEMPLATES[CROP] * SIDE)
    middle = np.array([SIDE / 2, SIDE / 2, 1])
    shift = transforms @ middle - SIDE / 2
    roll = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
    fitted = np.einsum("nij,npj->npi", transforms[:, :, :2], found.landmarks) + transforms[:, None, :, 2]
    error = np.linalg.norm(fitted - TEMPLATES[CROP] * SIDE, axis=2).mean(axis=1)
    a, b = found.crops.astype(np.float64), served.astype(np.float64)

    def gray(x: Float64, y: Float64) -> Float64:
        return np.asarray((np.abs(x - y) * inside).sum(axis=(1, 2)) / inside.sum(axis=(1, 2)), np.float64)

    yield f"Valid: a face found in {len(found.landmarks)} of {found.looked_at} pictures; medians (quartiles)"
    yield f"  scale served / training        {quartiles(scales_of(transforms))}"
    yield f"  shift right, px of 48          {quartiles(shift[:, 0])}"
    yield f"  shift down, px of 48           {quartiles(shift[:, 1])}"
    yield f"  roll taken out, degrees        {quartiles(np.abs(roll))}   signed {quartiles(roll)}"
    yield f"  landmarks to template, px      {quartiles(error)}"
    yield f"  crop inside the photo          {quartiles(inside.mean(axis=(1, 2)))}"
    yield f"  |gray| same photo, both paths  {quartiles(gray(a, b))}"
    yield f"  |gray| after the same turn     {quartiles(gray(turned(found.crops, transforms), b))}"
    yield f"  |gray| with another photo      {quartiles(gray(a, np.roll(b, 1, axis=0)))}"
    yield f"  correlation of the mean crops  {np.corrcoef(a.mean(axis=0).ravel(), b.mean(axis=0).ravel())[0, 1]:.4f}"


def draw_figure(path: Path, example: Path, train: Found, served: UInt8) -> None:
    """Write the picture of docs/alignment.md: a photo with its crop, the crop, and mean faces of both paths."""
    photo = read_image(example)
    face = MtcnnDetector(max_faces=1).detect([photo])[0]
    transform = similarity_transforms(face.landmarks, TEMPLATES[CROP])[0]
    back = np.linalg.inv(np.vstack([transform, [0, 0, 1]]))[:2]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ back[:, :2].T + back[:, 2]
    points = TEMPLATES[CROP] @ back[:, :2].T + back[:, 2]
    marked = photo.copy()
    cv2.polylines(marked, [corners.round().astype(np.int32)], True, (255, 220, 0), 2, cv2.LINE_AA)
    for template, measured in zip(points, face.landmarks[0], strict=True):
        cv2.circle(marked, (int(measured[0]), int(measured[1])), 4, (0, 230, 0), -1, cv2.LINE_AA)
        cv2.drawMarker(marked, (int(template[0]), int(template[1])), (255, 60, 60), cv2.MARKER_CROSS, 12, 2)
    side = 336
    reach = int(1.5 * (corners.max(axis=0) - corners.min(axis=0)).max())
    x, y = np.clip(corners.mean(axis=0).astype(int) - reach // 2, 0, None)
    around = cv2.resize(marked[y : y + reach, x : x + reach], (side, side), interpolation=cv2.INTER_LINEAR)
    panels = [("photo: landmarks (dots), template (crosses)", around)]
    crop = align_faces(photo, face.landmarks, img_size=SIDE, crop=CROP)[0]
    for title, small in (
        ("its served crop, 48 px", crop),
        (f"mean training crop, n = {len(train.crops)}", train.crops.mean(axis=0).round().astype(np.uint8)),
        (f"mean served crop, n = {len(served)}", served.mean(axis=0).round().astype(np.uint8)),
    ):
        rgb = small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
        large = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_NEAREST)
        for x, y in (TEMPLATES[CROP] * side).round().astype(int):
            cv2.drawMarker(large, (int(x), int(y)), (255, 60, 60), cv2.MARKER_CROSS, 14, 2)
        panels.append((title, large))
    canvas = np.full((side + 34, len(panels) * (side + 8) - 8, 3), 255, np.uint8)
    for i, (title, panel) in enumerate(panels):
        left = i * (side + 8)
        canvas[34:, left : left + side] = panel
        cv2.putText(canvas, title, (left, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    write_image(path, canvas)


def main() -> int:
    """Measure, print, and draw when asked."""
    parser = argparse.ArgumentParser(prog="python -m training.measure_template", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FERPlus folder or archive")
    parser.add_argument("--limit", type=int, help="look at this many pictures of each split (all)")
    parser.add_argument("--figure", type=Path, help="write the picture of docs/alignment.md here")
    parser.add_argument("--example", type=Path, help="the photo in that picture")
    arguments = parser.parse_args()
    if (arguments.figure is None) != (arguments.example is None):
        parser.error("--figure and --example go together")
    train = find_landmarks(load_crops(arguments.data, "train", arguments.limit))
    sys.stdout.writelines(f"{line}\n" for line in report_template(train))
    valid = find_landmarks(load_crops(arguments.data, "valid", arguments.limit))
    served, inside = served_crops(valid)
    sys.stdout.writelines(f"{line}\n" for line in report_agreement(valid, served, inside))
    if arguments.figure is not None:
        draw_figure(arguments.figure, arguments.example, train, served)
    return 0


if __name__ == "__main__":
    sys.exit(main())
