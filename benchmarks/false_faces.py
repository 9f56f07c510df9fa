"""Count the faces that detection finds in photos of animals, plants, food, landscapes and things.

    python benchmarks/false_faces.py --data TINY_IMAGENET [--skimage] [--sheet detections.png]

The data: a folder of pictures or of .tar or .tar.gz archives of them, named CLASS_anything, where CLASS is a WordNet id
of ImageNet (`n02123045_12.jpg`). The same photos are taken every time: the first of each class in order of their names.
A photo may hold a person after all; `--sheet` writes all detections as one picture, so that someone can look.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fer_app.detection import MtcnnDetector
from fer_app.image_io import read_image, write_image
from fer_app.source_files import IMAGE_SUFFIXES

# WordNet ids of ImageNet's classes, first and last.
KINDS = {
    "animals": ("n01440764", "n02510455"),
    "food": ("n07565083", "n07932039"),
    "landscapes": ("n09193705", "n09472597"),
    "plants": ("n11879895", "n13133613"),
}
# Of the artefacts those that are seldom photographed with people.
THINGS = {
    "n02814860": "beacon",
    "n02906734": "broom",
    "n02909870": "bucket",
    "n02999410": "chain",
    "n03014705": "chest",
    "n03085013": "keyboard",
    "n03179701": "desk",
    "n03201208": "dining table",
    "n03400231": "frying pan",
    "n03706229": "compass",
    "n03854065": "organ",
    "n03891332": "parking meter",
    "n03937543": "pill bottle",
    "n03992509": "potter's wheel",
    "n04067472": "reel",
    "n04074963": "remote control",
    "n04265275": "space heater",
    "n04285008": "sports car",
    "n04328186": "stopwatch",
    "n04398044": "teapot",
    "n04417672": "thatched roof",
    "n04532670": "viaduct",
    "n04560804": "water jug",
}
# Without the portraits, and without the coins, which are portraits too.
SKIMAGE = (
    *("brick", "cat", "cell", "checkerboard", "chelsea", "clock", "coffee", "colorwheel", "grass", "gravel", "horse"),
    *("hubble_deep_field", "immunohistochemistry", "logo", "moon", "page", "retina", "rocket", "stereo_motorcycle"),
    "text",
)
CELL_PX = 144
COLUMNS = 8


def kind_of(name: str) -> str | None:
    """The kind of things that a picture's class belongs to; None for one that is not looked at."""
    wordnet_id = name.partition("_")[0]
    if wordnet_id in THINGS:
        return "things"
    return next((kind for kind, (first, last) in KINDS.items() if first <= wordnet_id <= last), None)


def photos(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all pictures of a folder and of the archives in it that belong to a kind."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if is_looked_at(Path(member.name)) else None
                    if file is not None:
                        yield Path(member.name).name, file.read()
        elif is_looked_at(path):
            yield path.name, path.read_bytes()


def is_looked_at(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and kind_of(path.name) is not None


def sample(folder: Path, per_class: int) -> dict[str, list[tuple[str, bytes]]]:
    """The first photos of every class, by kind."""
    classes: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in photos(folder):
        classes.setdefault(name.partition("_")[0], []).append((name, data))
    kinds: dict[str, list[tuple[str, bytes]]] = {}
    for members in classes.values():
        chosen = sorted(members)[:per_class]
        kinds.setdefault(kind_of(chosen[0][0]) or "", []).extend(chosen)
    return kinds


def from_skimage() -> Iterator[tuple[str, np.ndarray]]:
    """The pictures that scikit-image brings along, as uint8 RGB."""
    import skimage

    for name in SKIMAGE:
        picture = getattr(skimage.data, name)()
        picture = picture[0] if isinstance(picture, tuple) else picture
        picture = skimage.util.img_as_ubyte(picture)
        yield name, np.ascontiguousarray(picture[..., :3] if picture.ndim == 3 else np.dstack([picture] * 3))


class Count:
    """Detects in pictures of one kind after another and keeps what was found."""

    def __init__(self, detector: MtcnnDetector) -> None:
        self._detector = detector
        self.found: list[tuple[str, float, np.ndarray]] = []

    def row(self, kind: str, pictures: Iterator[tuple[str, np.ndarray]]) -> None:
        """Print a row of the table."""
        count, with_face, confidences = 0, 0, []
        for name, picture in pictures:
            (found,) = self._detector.detect([picture])
            count += 1
            with_face += len(found) > 0
            for box, confidence in zip(found.boxes, found.confidence, strict=True):
                confidences.append(float(confidence))
                self.found.append((name, float(confidence), drawn(picture, box)))
        sure = [sum(value >= limit for value in confidences) for limit in (0.9, 0.99)]
        print(f"| {kind} | {count} | {with_face} | {len(confidences)} | {sure[0]} | {sure[1]} |", flush=True)


def drawn(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The picture with one box, small enough for a contact sheet."""
    scale = CELL_PX / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = np.rint(box * scale).astype(int).tolist()
    cv2.rectangle(small, (x0, y0), (x1, y1), (255, 0, 0), 1)
    return np.pad(small, [(0, CELL_PX - small.shape[0]), (0, CELL_PX - small.shape[1]), (0, 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the photos, in files or archives")
    parser.add_argument("--skimage", action="store_true", help="also the pictures that scikit-image brings along")
    parser.add_argument("--per-class", type=int, default=6, metavar="N")
    parser.add_argument("--enlarge", type=float, default=6, metavar="TIMES", help="bicubic; the data are 64 px wide")
    parser.add_argument("--min-face", type=float, default=40, metavar="PX", help="in the enlarged photo")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the detections as one picture")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.skimage:
        parser.error("nothing to look at; give --data, --skimage or both")
    print("| kind | pictures | with a detection | detections | of confidence 0.9 and more | 0.99 and more |")
    print("|---|---|---|---|---|---|")
    count = Count(MtcnnDetector(min_face_px=arguments.min_face))
    if arguments.data:
        times = arguments.enlarge
        for kind, members in sorted(sample(arguments.data, arguments.per_class).items()):
            pictures = ((name, read_image(data)) for name, data in members)
            count.row(
                kind,
                (
                    (name, cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC))
                    for name, picture in pictures
                ),
            )
    if arguments.skimage:
        count.row("scikit-image", from_skimage())
    # As the contact sheet shows them, row by row.
    for number, (name, confidence, _) in enumerate(count.found, start=1):
        print(f"{number}: {name} {confidence:.4f}")
    if arguments.sheet and count.found:
        cells = [cell for _, _, cell in count.found]
        cells += [np.zeros_like(cells[0])] * (-len(cells) % COLUMNS)
        rows = [np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
        write_image(arguments.sheet, np.vstack(rows))


if __name__ == "__main__":
    main()
