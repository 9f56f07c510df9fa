import numpy as np
import pytest

from fer_app.contract import Contract
from fer_app.labels import LABELS
from training.robustness import (
    CHANGES,
    blurred,
    covered,
    dimmed,
    measure_robustness,
    noisy,
    resized,
    spotted,
    turned,
)

CROPS = np.random.default_rng(1).integers(0, 256, (4, 48, 48), np.uint8)


class Brightness:
    """Calls bright crops happy and dark ones sad, whatever their form."""

    contract = Contract(labels=LABELS, img_size=48, mean=(0.5,) * 3, std=(0.5,) * 3, crop="fer48-v1")

    def logits(self, crops: np.ndarray) -> np.ndarray:
        bright = crops.mean(axis=tuple(range(1, crops.ndim))) > 100
        return np.eye(8, dtype=np.float32)[np.where(bright, 1, 3)]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_every_change_changes_the_same_each_time_and_leaves_its_input(name: str, change) -> None:
    before = CROPS.copy()
    changed = change(CROPS)
    assert np.array_equal(CROPS, before)
    assert changed.dtype == np.uint8
    assert len(changed) == len(CROPS)
    assert np.array_equal(changed, change(CROPS))
    side = int(name.split()[0]) if name.endswith(" px") else 48
    assert changed.shape[1:] == (side, side)
    if side == 48:
        assert all(not np.array_equal(one, other) for one, other in zip(changed, CROPS, strict=True))


def test_each_change_does_what_it_says() -> None:
    flat = np.full((400, 48, 48), 128, np.uint8)
    assert noisy(flat, 10).std() == pytest.approx(10, rel=0.02)
    assert np.array_equal(noisy(flat, 10)[:2], noisy(flat[:2], 10))  # a face's noise is its own
    spike = np.zeros((1, 49, 49), np.uint8)
    spike[0, 24] = 255
    soft = blurred(spike, 0.04)[0].astype(float)
    rows = np.arange(49) - 24
    assert (soft.sum(axis=1) * rows**2).sum() / soft.sum() == pytest.approx((0.04 * 49) ** 2, rel=0.05)
    assert np.array_equal(dimmed(CROPS, 0.5), np.round(CROPS / 2).astype(np.uint8))
    assert dimmed(CROPS, 2.0).max() == 255
    quarter = turned(CROPS, 90)
    assert np.array_equal(quarter[0], np.rot90(CROPS[0]))
    assert np.array_equal(quarter[1], np.rot90(CROPS[1], -1))
    hidden = covered(CROPS, (0.25, 0.5, 0.0, 0.5))
    assert (hidden[:, 12:24, :24] == 128).all()
    assert np.array_equal(hidden[:, 24:], CROPS[:, 24:])
    squares = spotted(np.zeros((9, 48, 48), np.uint8), 1 / 3) == 128
    assert (squares.sum(axis=(1, 2)) == 16 * 16).all()
    assert len({square.tobytes() for square in squares}) > 5
    assert np.array_equal(resized(CROPS, 24), np.round(CROPS.reshape(4, 24, 2, 24, 2).mean(axis=(2, 4)) + 1e-9))


def test_shares_of_right_and_of_unchanged_labels() -> None:
    crops = np.stack([np.full((48, 48), value, np.uint8) for value in (220, 120, 60, 60)])
    rows = {row.change: row for row in measure_robustness(Brightness(), crops, np.array([1, 1, 3, 1]))}
    assert list(rows) == ["none", *(name for name, _ in CHANGES)]
    assert rows["none"][1:] == (0.75, 1.0)
    assert rows["half as bright"][1:] == (0.5, 0.75)  # 120 becomes 60; 220 becomes 110
    assert rows["twice as bright"][1:] == (0.75, 0.5)
