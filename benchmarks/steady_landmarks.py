"""Draw the landmarks of a face that the picture cuts off: as the cascade gives them, and as two further looks do.

`python benchmarks/steady_landmarks.py examples/astronaut.jpg docs/images/steady_landmarks.jpg`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from fer_app.detection import MtcnnDetector
from fer_app.image_io import read_image, write_image

# Rows and columns of the portrait, so that its face lies at an edge of the picture.
CUTS = (np.s_[:, 200:], np.s_[:155], np.s_[90:], np.s_[:150, 190:])
WIDTH, HEIGHT = 240, 220
GREEN = (0, 200, 0)


def main() -> None:
    """Draw one column a cut; above the cascade's landmarks, below the steady ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("portrait", type=Path)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    portrait = read_image(arguments.portrait)
    rows = []
    for steady in (False, True):
        detector, tiles = MtcnnDetector(steady=steady), []
        for cut in CUTS:
            picture = portrait[cut].copy()
            (found,) = detector.detect([picture])
            tile = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
            for x, y in found.landmarks[:1].reshape(-1, 2).round().astype(int).tolist():
                cv2.circle(picture, (x, y), 4, GREEN, -1, cv2.LINE_AA)
            # The part that the face is in.
            begin = max(0, min(round(float(found.boxes[0, [0, 2]].mean())) - WIDTH // 2, picture.shape[1] - WIDTH))
            part = picture[:HEIGHT, begin : begin + WIDTH - 8]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
        rows.append(np.hstack(tiles))
    write_image(arguments.figure, np.vstack(rows))


if __name__ == "__main__":
    main()
