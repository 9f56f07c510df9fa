"""Whether a model reads faces in pictures as it reads a data set's crops, whatever the picture's colour and size.

`python -m training.wild_check MODEL --data DIR [--data PHOTOS] [--limit N] [--photo PORTRAIT] [--scene PNG] [--json]`

FERPlus Valid (majority) is rendered into scenes (`training.wild_scenes`), which go through detection, alignment and
classifier as in `fer predict`. The exit status is 1 when accuracy falls by more than 2 points from the crops to the
scenes, or colour or size changes more than 5 % of the labels. See docs/wild_check.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.alignment import similarity_transforms, template_named
from fer_app.errors import FerError
from fer_app.image_io import read_image, write_image
from fer_app.preprocess import softmax
from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from training.data.ferplus import load_ferplus
from training.data.general import load_images
from training.data.locate import locate
from training.evaluation import crops_of, hard_targets, open_classifier
from training.wild_changes import MIRRORED, Change, crop_changes, picture_changes
from training.wild_scenes import SIZES, Scene, scenes_of

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
Measured = dict[str, Any]

MOST_LOST_POINTS = 2.0
MOST_CHANGED_PERCENT = 5.0
# Top two closer than this: the label is open.
CLOSE = 0.10
# Every so many-th scene is seen again under each change of the picture.
CHANGED_SCENES = 5
_SCENES_AT_ONCE = 16
_PHOTOS, _PHOTO_PX = 200, 256
_TURN_EDGES = (0, 8, 16, 25)


class Reading(NamedTuple):
    """What the pipeline said of each face.

    Attributes:
        labels: int64, (N,), -1 for a face that was not found.
        offsets: float64, (N, 4), log of the scale, shift right and down in px of 48, and degrees from the face's own
            crop to the served one; NaN for a face that was not found.
    """

    labels: Int64
    offsets: Float64


def match(faces: Faces, middles: Float64, sizes: Int64) -> Int64:
    """Tell which found face lies on each place, -1 for none: the one nearest to its middle, within half of its size.

    Args:
        faces: what was found.
        middles: float64, (N, 2), x y in px of the picture.
        sizes: (N,), sides in px.
    """
    boxes = faces.detections.boxes
    if not len(boxes):
        return np.full(len(middles), -1, np.int64)
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.linalg.norm(found[None] - middles[:, None], axis=2)
    nearest = apart.argmin(axis=1)
    return np.where(apart.min(axis=1) < sizes / 2, nearest, -1).astype(np.int64)


def read_scenes(
    recognizer: Recognizer, scenes: Sequence[Scene], count: int, side: int, change: Change | None = None
) -> Reading:
    """Send scenes through the pipeline, changed or as they are.

    Args:
        recognizer: the pipeline.
        scenes: of which the faces are numbered below `count`.
        count: number of faces.
        side: of their own crops, in px.
        change: of the pictures.
    """
    labels, offsets = np.full(count, -1, np.int64), np.full((count, 4), np.nan)
    template = template_named(recognizer.classifier.contract.crop) * side
    for start in range(0, len(scenes), _SCENES_AT_ONCE):
        some = scenes[start : start + _SCENES_AT_ONCE]
        images = [scene.image if change is None else change.apply(scene.image) for scene in some]
        for scene, image, faces in zip(some, images, recognizer.predict_images(images, [""] * len(some)), strict=True):
            scale = image.shape[1] / scene.image.shape[1]
            middles = scene.placements @ [side / 2, side / 2, 1]
            if change is MIRRORED:
                middles[:, 0] = scene.image.shape[1] - middles[:, 0]
            rows = match(faces, middles * scale, scene.sizes * scale)
            seen = rows >= 0
            labels[scene.numbers[seen]] = faces.top[rows[seen]]
            if change is None and seen.any():
                own = _own_places(faces.detections.landmarks[rows[seen]], scene.placements[seen])
                offsets[scene.numbers[seen]] = _offsets(similarity_transforms(own, template), side)
    return Reading(labels, offsets)


def _own_places(landmarks: npt.NDArray[np.float32], placements: Float64) -> Float64:
    """Landmarks in a scene, (N, 5, 2), as places in the faces' own crops."""
    back = np.linalg.inv(placements[:, :, :2])
    return np.asarray(np.einsum("nij,npj->npi", back, landmarks - placements[:, None, :, 2]), np.float64)


def _offsets(transforms: Float64, side: int) -> Float64:
    shift = (transforms @ [side / 2, side / 2, 1] - side / 2) * 48 / side
    scale = np.log(np.hypot(transforms[:, 0, 0], transforms[:, 1, 0]))
    turn = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
    return np.column_stack([scale, shift, turn])


def compared(reference: Int64, labels: Int64, close: npt.NDArray[np.bool_]) -> Measured:
    """Count the labels that differ, among faces that have one in both (not -1)."""
    both = (reference >= 0) & (labels >= 0)
    differ = both & (reference != labels)
    return {
        "faces": int(both.sum()),
        "changed_percent": _percent(differ[both]),
        "changed_of_clear_percent": _percent(differ[both & ~close]),
        "changes_that_were_close_percent": _percent(close[differ]),
    }


def _percent(hits: npt.NDArray[np.bool_]) -> float | None:
    return round(100 * float(hits.mean()), 2) if len(hits) else None


def accuracies(reference: Int64, piped: Int64, targets: Int64) -> Measured:
    """Accuracy on the crops and in the scenes, of the same faces: those that were found."""
    found = piped >= 0
    crop, scene = (_percent(labels[found] == targets[found]) for labels in (reference, piped))
    lost = None if crop is None or scene is None else round(crop - scene, 2)
    row = {"faces": len(piped), "found_percent": _percent(found)}
    return row | {"crop_accuracy": crop, "pipeline_accuracy": scene, "lost_points": lost}


def measure(recognizer: Recognizer, crops: UInt8, targets: Int64, backgrounds: UInt8 | None) -> Measured:
    """Measure everything on gray crops, uint8 (N, S, S), of classes (N,)."""
    classifier, side = recognizer.classifier, crops.shape[1]
    logits = classifier.logits(crops)
    reference = np.asarray(logits.argmax(axis=1), np.int64)
    ordered = np.sort(softmax(logits, classifier.contract.temperature), axis=1)
    close = np.asarray(ordered[:, -1] - ordered[:, -2] < CLOSE)
    scenes = list(scenes_of(crops, backgrounds))
    base = read_scenes(recognizer, scenes, len(crops), side)
    sizes, turns = np.zeros(len(crops), np.int64), np.zeros(len(crops))
    for scene in scenes:
        sizes[scene.numbers], turns[scene.numbers] = scene.sizes, np.abs(scene.turns)
    groups = {f"{size} px": sizes == size for size in sorted(SIZES)}
    for low, high in pairwise(_TURN_EDGES):
        groups[f"turned {low} to {high} deg"] = (turns >= low) & (turns < high)
    rows = {"all": accuracies(reference, base.labels, targets)}
    rows |= {name: accuracies(reference[of], base.labels[of], targets[of]) for name, of in groups.items()}
    some = scenes[::CHANGED_SCENES]
    pictures = {
        change.name: compared(base.labels, read_scenes(recognizer, some, len(crops), side, change).labels, close)
        | {"bounded": change.bounded}
        for change in picture_changes()
    }
    coloured = np.repeat(crops[..., None], 3, axis=3)
    shown = {}
    for change in crop_changes(side):
        labels = classifier.logits(np.stack([change.apply(crop) for crop in coloured])).argmax(axis=1)
        shown[change.name] = compared(reference, labels, close) | {"bounded": change.bounded}
    return {
        "close_percent": _percent(close),
        "accuracy": rows,
        "scene_against_crop": compared(reference, base.labels, close),
        "offsets": _scatter(base.offsets[base.labels >= 0]),
        "crop_changes": shown,
        "picture_changes": pictures,
    }


def _scatter(offsets: Float64) -> Measured:
    """How far the served crops lie from the faces' own."""
    if not len(offsets):
        return {}
    names = ("log_scale", "right_px_of_48", "down_px_of_48", "roll_deg")
    low, middle, high = np.percentile(offsets, [5, 50, 95], axis=0)
    columns = np.stack([offsets.std(axis=0), low, middle, high], axis=1)
    keys = ("sd", "p5", "p50", "p95")
    return {name: dict(zip(keys, row.round(3).tolist(), strict=True)) for name, row in zip(names, columns, strict=True)}


def read_portrait(recognizer: Recognizer, photo: Path) -> Measured:
    """Label and probability of a photo's largest face under each change, and as it is; None where none is found."""
    image = read_image(photo)
    answers: Measured = {}
    for name, changed in [("as it is", image), *((c.name, c.apply(image)) for c in picture_changes())]:
        faces = recognizer.predict(changed)
        answers[name] = [faces.label(0), round(float(faces.probs[0].max()), 3)] if len(faces) else None
    return answers


def failures(measured: Measured) -> list[str]:
    """Say which bounds do not hold."""
    lost = measured["accuracy"]["all"]["lost_points"]
    told = []
    if lost is None or lost > MOST_LOST_POINTS:
        told.append(f"accuracy falls by {lost} points from crops to scenes, more than {MOST_LOST_POINTS:g}")
    for kind in ("crop_changes", "picture_changes"):
        for name, row in measured[kind].items():
            changed = row["changed_percent"]
            if row["bounded"] and (changed is None or changed > MOST_CHANGED_PERCENT):
                what = f"{kind.removesuffix('_changes')}, {name}"
                told.append(f"{what}: {changed} % of the labels change, more than {MOST_CHANGED_PERCENT:g} %")
    answers = measured.get("portrait", {})
    first = answers.get("as it is")
    told += [
        f"portrait, {name}: {answer and answer[0]}, not {first and first[0]}"
        for name, answer in answers.items()
        if answer is None or first is None or answer[0] != first[0]
    ]
    return told


def as_text(measured: Measured) -> str:
    """Write the tables."""
    lines = [f"{'':24}{'faces':>7}{'found %':>9}{'crop %':>9}{'scene %':>9}{'lost':>7}"]
    for name, row in measured["accuracy"].items():
        cells = "".join(f"{_cell(row[key]):>9}" for key in ("found_percent", "crop_accuracy", "pipeline_accuracy"))
        lines.append(f"{name:24}{row['faces']:>7}{cells}{_cell(row['lost_points']):>7}")
    lines += ["", f"{'labels that change':24}{'faces':>7}{'% of all':>10}{'% of clear':>12}{'were close %':>14}"]
    lines.append(_change_line("scene against crop", measured["scene_against_crop"]))
    for kind in ("crop_changes", "picture_changes"):
        lines += [kind.replace("_", " ")]
        lines += [_change_line(f"  {name}", row) for name, row in measured[kind].items()]
    lines += ["", f"{'served from own crop':24}{'sd':>9}{'5 %':>9}{'50 %':>9}{'95 %':>9}"]
    lines += [f"{n:24}" + "".join(f"{value:>9.3f}" for value in row.values()) for n, row in measured["offsets"].items()]
    for name, answer in measured.get("portrait", {}).items():
        lines.append(f"portrait, {name}: {' '.join(map(str, answer)) if answer else 'no face'}")
    told = measured["failures"]
    return "\n".join([*lines, "", *(f"FAILS: {line}" for line in told), *([] if told else ["all bounds hold"])])


def _change_line(name: str, row: Measured) -> str:
    return (
        f"{name:24}{row['faces']:>7}{_cell(row['changed_percent']):>10}{_cell(row['changed_of_clear_percent']):>12}"
        f"{_cell(row['changes_that_were_close_percent']):>14}"
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _run(arguments: argparse.Namespace) -> Measured:
    sources = locate(arguments.data)
    faces = load_ferplus(sources.need_ferplus(), "valid")
    crops, targets = crops_of(faces), hard_targets(faces)
    if arguments.limit is not None and arguments.limit < len(crops):
        rows = np.linspace(0, len(crops) - 1, arguments.limit).astype(np.intp)
        crops, targets = crops[rows], targets[rows]
    backgrounds = None
    if sources.photos:
        backgrounds = load_images(sources.photos, _PHOTO_PX, "rgb", _PHOTOS).images.permute(0, 2, 3, 1).numpy()
    if arguments.scene is not None:
        write_image(arguments.scene, next(scenes_of(crops, backgrounds)).image)
    classifier = open_classifier(arguments.model, device="cpu")
    recognizer = Recognizer(classifier, device="cpu")  # type: ignore[arg-type]
    measured = measure(recognizer, crops, targets, backgrounds)
    if arguments.photo is not None:
        measured["portrait"] = read_portrait(recognizer, arguments.photo)
    return measured | {"failures": failures(measured)}


def main() -> int:
    """Measure, print, and say whether the bounds hold."""
    parser = argparse.ArgumentParser(prog="python -m training.wild_check", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an .onnx file or a .safetensors checkpoint")
    parser.add_argument("--data", type=Path, action="append", required=True, help="FERPlus, and photos for backgrounds")
    parser.add_argument("--limit", type=int, help="look at this many faces, spread over the set (all)")
    parser.add_argument("--photo", type=Path, help="a portrait to read in all its changes too")
    parser.add_argument("--scene", type=Path, help="write the first scene here, to be looked at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit must be at least 1")
    try:
        measured = _run(arguments)
    except FerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write((json.dumps(measured, indent=2) if arguments.json else as_text(measured)) + "\n")
    return 1 if measured["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
