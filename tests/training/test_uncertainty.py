"""The threshold that is chosen, against a slow search, and what is asserted at it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import classification_report
from training.predictions import Predictions
from training.tables import report_lines
from training.uncertainty import asserted, choose_threshold


def two_class(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Faces that are all called the first of two classes, with these probabilities."""
    probs = np.array([[p, 1 - p] for p in confidences], np.float32)
    return probs, np.array([0 if one else 1 for one in right], np.int64)


@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.booleans())
def test_threshold_against_a_slow_search(seed: int, n: int, precision: float, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, n)
    if coarse:  # many ties, and values that are thresholds themselves
        confidence = confidence.round(2)
    probs, targets = two_class(confidence.tolist(), (rng.random(n) < confidence).tolist())
    expected = 1.0
    for thousandth in range(1001):
        told = asserted(probs, targets, thousandth / 1000)
        if told.count and told.right >= precision * told.count:
            expected = thousandth / 1000
            break
    assert choose_threshold(probs, targets, precision) == expected


def test_nothing_is_uncertain_where_all_together_are_right_enough() -> None:
    assert choose_threshold(*two_class([0.6] * 20, [True] * 19 + [False])) == 0.0


def test_everything_is_uncertain_where_nothing_is_right_enough() -> None:
    probs, targets = two_class([0.7, 0.8, 0.9], [True, True, False])
    assert choose_threshold(probs, targets) == 1.0
    told = asserted(probs, targets, 1.0)
    assert (told.share, told.precision) == (0.0, None)


def test_most_is_asserted_though_a_higher_threshold_would_not_hold() -> None:
    # Of the surest two one is wrong, of all but the least sure 19 in 20 are right.
    probs, targets = two_class([0.6, *[0.8] * 18, 0.9, 0.95], [False, *[True] * 19, False])
    chosen = choose_threshold(probs, targets)
    assert chosen == 0.601
    assert asserted(probs, targets, 0.9).precision == 0.5
    assert asserted(probs, targets, chosen).precision == 0.95


def test_faces_of_one_probability_are_not_parted() -> None:
    probs, targets = two_class([0.75] * 10 + [0.9] * 10, [True] * 9 + [False] + [True] * 10)
    assert choose_threshold(probs, targets, 0.96) == 0.751
    assert choose_threshold(probs, targets, 0.95) == 0.0


def test_a_probability_on_the_threshold_is_asserted_as_in_serving() -> None:
    probs, targets = two_class([0.7, 0.3], [True, False])
    told = asserted(probs, targets, 0.7)
    assert told.count == 2  # 0.7 is no float32; it is compared as one, as `Faces.uncertain` is
    assert (probs.max(axis=1) < 0.7).tolist() == [False, False]


def test_figures_at_a_threshold() -> None:
    probs, targets = two_class([0.6, 0.8, 0.9, 0.95], [False, True, True, False])
    report = classification_report(probs, targets, ("a", "b"), uncertain_below=0.75)
    told = report.to_dict()
    assert (told["uncertain_below"], told["asserted_share"]) == (0.75, 0.75)
    assert told["asserted_precision"] == pytest.approx(2 / 3)
    assert "asserted 75.00, of these right 66.67 (uncertain below 0.75)" in report_lines(report)

    without = classification_report(probs, targets, ("a", "b"))
    assert (without.asserted.share, without.asserted.precision) == (1.0, without.accuracy)
    assert not any(line.startswith("asserted") for line in report_lines(without))
    nothing = classification_report(probs, targets, ("a", "b"), uncertain_below=1.0)
    assert nothing.to_dict()["asserted_precision"] is None
    assert "asserted 0.00 (uncertain below 1)" in report_lines(nothing)


def test_some_of_the_faces_at_the_threshold_of_all() -> None:
    probs, targets = two_class([0.6, 0.8, 0.9, 0.95], [False, True, True, False])
    predictions = Predictions(tuple("wxyz"), ("a", "b"), targets, probs, uncertain_below=0.75)
    assert predictions.report(np.array([True, True, False, False])).asserted.share == 0.5
