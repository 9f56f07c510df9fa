from __future__ import annotations

import pytest
import torch

from fer_app.errors import DatasetError
from training.data.image_set import ImageSet


def an_image_set(**changes):
    values = {
        "images": torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 4, 4),
        "targets": torch.eye(3, 2),
        "names": ("a", "b", "c"),
        "class_names": ("x", "y"),
    }
    return ImageSet(**(values | changes))


def test_subset_keeps_rows_together():
    part = an_image_set().subset(torch.tensor([2, 0]))
    assert part.names == ("c", "a")
    assert part.images[:, 0, 0, 0].tolist() == [2, 0]
    assert part.targets.tolist() == [[0, 0], [1, 0]]
    assert len(part) == 2


def test_subset_without_targets():
    assert an_image_set(targets=None, class_names=()).subset(torch.tensor([1])).targets is None


@pytest.mark.parametrize(
    "changes",
    [
        {"images": torch.zeros(3, 1, 4, 4)},
        {"images": torch.zeros(3, 2, 4, 4, dtype=torch.uint8)},
        {"images": torch.zeros(3, 4, 4, dtype=torch.uint8)},
        {"names": ("a", "b")},
        {"targets": torch.zeros(3, 3)},
        {"targets": torch.zeros(2, 2)},
        {"targets": torch.zeros(3, 2, dtype=torch.float64)},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes):
    with pytest.raises(DatasetError):
        an_image_set(**changes)
