from typing import Any

import pytest
import torch

from training.fingerprint import differences, fingerprint

IMAGES = torch.arange(300 * 4, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(300, 1, 2, 2)
TARGETS = torch.eye(3).repeat(100, 1)
SAME: dict[str, Any] = {
    "images": IMAGES,
    "names": [f"{i}.png" for i in range(300)],
    "class_names": ["a", "b", "c"],
    "targets": TARGETS,
}


def test_the_same_data_has_no_differences() -> None:
    assert differences(fingerprint(**SAME), fingerprint(**{**SAME, "images": IMAGES.clone()})) == []
    assert differences(fingerprint(IMAGES), fingerprint(IMAGES)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": SAME["names"][::-1]}, ["other names of the pictures"]),
        ({"class_names": ["a", "c", "b"]}, ["classes a, b, c then, a, c, b now"]),
        ({"targets": TARGETS.flip(0)}, ["other labels"]),
        ({"images": 255 - IMAGES}, ["other pixels"]),
        (
            {"images": IMAGES[:-1], "targets": TARGETS[:-1], "names": SAME["names"][:-1]},
            ["300 samples then, 299 now", "other names of the pictures", "other labels", "other pixels"],
        ),
    ],
)
def test_what_changed_is_told(change: dict[str, Any], said: list[str]) -> None:
    assert differences(fingerprint(**SAME), fingerprint(**{**SAME, **change})) == said
