import numpy as np

from fer_app.contract import Contract
from fer_app.labels import LABELS
from training.measure_paths import report, rescaled, tinted, variants


class Brightness:
    """Calls bright crops happy and dark ones sad, whatever their form."""

    contract = Contract(labels=LABELS, img_size=48, mean=(0.5,) * 3, std=(0.5,) * 3, crop="fer48-v1")

    def logits(self, crops: np.ndarray) -> np.ndarray:
        bright = crops.mean(axis=tuple(range(1, crops.ndim))) > 100
        return np.eye(8, dtype=np.float32)[np.where(bright, 1, 3)]


def test_each_change_does_what_it_says() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    changed = dict(variants(crops))
    assert np.array_equal(changed["mirrored"][:, :, 0], crops[:, :, 47])
    assert np.array_equal(changed["darker"], crops // 2)
    assert rescaled(crops).shape == crops.shape
    assert rescaled(crops).std() < 0.8 * crops.std()
    warm = tinted(crops, np.array([1.0, 0.5, 0.0]))
    assert np.array_equal(warm[..., 0], crops)
    assert warm[..., 2].max() == 0


def test_report_counts_labels_that_change() -> None:
    crops = np.stack([np.full((48, 48), value, np.uint8) for value in (220, 120, 60, 60)])
    lines = list(report(Brightness(), crops, np.array([1, 1, 3, 1])))
    rows = {line[:24].strip(): line[24:].split() for line in lines[1:] if not line.startswith(("  ", "served"))}
    assert rows["the data set's crop"] == ["4", "75.00", "100.00"]
    assert rows["mirrored"] == ["4", "75.00", "100.00"]
    assert rows["darker"] == ["4", "50.00", "75.00"]  # 120 becomes 60; 220 becomes 110
