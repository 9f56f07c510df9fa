import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_app.errors import DatasetError
from fer_app.preprocess import softmax
from training.metrics import best_temperature, calibration_bins, classification_report, wilson_interval
from training.tables import group_lines, report_lines

LABELS = ("a", "b", "c")


def one_hot(classes: list[int], confidence: float = 1.0) -> np.ndarray:
    probs = np.full((len(classes), 3), (1 - confidence) / 2)
    probs[np.arange(len(classes)), classes] = confidence
    return probs


def test_figures_by_hand() -> None:
    # true a a a b b c; predicted a a b b b b
    report = classification_report(one_hot([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2]), LABELS)
    assert report.n == 6
    assert report.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert report.accuracy == pytest.approx(4 / 6)
    assert report.mean_class_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert report.precision[:2].tolist() == pytest.approx([1.0, 0.5])
    assert np.isnan(report.precision[2])  # never predicted
    assert report.f1.tolist() == pytest.approx([0.8, 2 / 3, 0.0])
    assert report.macro_f1 == pytest.approx((0.8 + 2 / 3) / 3)
    assert report.to_dict()["per_class"]["c"]["precision"] is None  # type: ignore[index]


def test_absent_class_does_not_count() -> None:
    report = classification_report(one_hot([0, 1]), np.array([0, 1]), LABELS)
    assert report.mean_class_accuracy == 1.0
    assert report.macro_f1 == 1.0


def test_calibration_error_by_hand() -> None:
    # ten faces at confidence 0.8, of which five are right: |0.5 - 0.8|
    probs = one_hot([0] * 10, 0.8)
    report = classification_report(probs, np.array([0] * 5 + [1] * 5), LABELS)
    assert report.ece == pytest.approx(0.3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_confusion_against_a_slow_count(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probs, targets = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    report = classification_report(probs, targets, LABELS)
    for true in range(3):
        for predicted in range(3):
            pairs = [(t, int(np.argmax(p))) for t, p in zip(targets, probs, strict=True)]
            assert report.confusion[true, predicted] == pairs.count((true, predicted))
    gaps = []
    for low in np.arange(15) / 15:
        inside = [i for i in range(n) if low <= probs[i].max() < low + 1 / 15 or (low > 0.93 and probs[i].max() == 1)]
        right = sum(np.argmax(probs[i]) == targets[i] for i in inside)
        gaps.append(abs(right - sum(probs[i].max() for i in inside)))
    assert report.ece == pytest.approx(sum(gaps) / n)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no face to score"):
        classification_report(np.zeros((0, 3)), np.zeros(0, np.int64), LABELS)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20000, 3))
    probs = softmax(logits.astype(np.float32), 1.0)
    targets = (probs.cumsum(axis=1) < rng.random((20000, 1))).sum(axis=1).clip(0, 2)
    assert best_temperature(logits * true_temperature, targets) == pytest.approx(true_temperature, rel=0.05)


def test_first_line_is_the_public_one() -> None:
    report = classification_report(one_hot([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2]), LABELS)
    assert report_lines(report)[0] == "accuracy 66.67 (n = 6)"
    assert any(line.split() == ["b", "0", "2", "0"] for line in report_lines(report))


@pytest.mark.parametrize(
    ("right", "n", "ends"),
    [(5, 10, (0.2366, 0.7634)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (81, 263, (0.2553, 0.3662))],
)
def test_wilson_interval_as_published(right: int, n: int, ends: tuple[float, float]) -> None:
    """The last is an example of Newcombe (1998, Statistics in Medicine 17, table I)."""
    assert wilson_interval(right, n) == pytest.approx(ends, abs=6e-5)


def test_report_has_the_interval_of_its_accuracy() -> None:
    report = classification_report(one_hot([0] * 10), np.array([0] * 5 + [1] * 5), LABELS)
    assert report.to_dict()["accuracy_ci95"] == pytest.approx([0.2366, 0.7634], abs=6e-5)


def test_calibration_bins_by_hand() -> None:
    probs = np.concatenate([one_hot([0, 0, 0], 0.99), one_hot([1], 0.5), one_hot([2], 1.0)])
    bins = calibration_bins(probs, np.array([0, 0, 1, 1, 2]))
    assert bins.counts.tolist() == [0] * 7 + [1] + [0] * 6 + [4]
    assert bins.right.tolist() == [0] * 7 + [1] + [0] * 6 + [3]
    assert bins.confidence[[7, 14]] == pytest.approx([0.5, 3.97])
    assert bins.ece == pytest.approx((0.5 + 0.97) / 5)


def test_groups_as_a_table() -> None:
    report = classification_report(one_hot([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2]), LABELS)
    lines = group_lines("camera", {"a": report, "a long name": report})
    assert lines[0].split() == ["camera", "n", "accuracy", "95", "%", "mean", "class", "macro", "F1", "ECE"]
    assert lines[1].split() == ["a", "6", "66.7", "30.0", "-", "90.3", "55.6", "48.9", "33.3"]
    assert len({len(line) for line in lines}) == 1
