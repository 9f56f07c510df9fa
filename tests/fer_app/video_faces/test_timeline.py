from __future__ import annotations

import numpy as np
import pytest
from tests.fer_app.video_faces.made_faces import made_faces, showing

from fer_app.labels import LABELS
from fer_app.video_faces.timeline import MAX_PERSONS, ExpressionTimeline, PersonCurve

HAPPINESS = LABELS.index("happiness")


def at(curve: PersonCurve, time_s: float, k: int = HAPPINESS) -> float:
    """The curve's value at a time."""
    return float(np.interp(time_s, curve.times_s, curve.probs[:, k]))


def test_probabilities_over_time_and_a_gap_where_the_face_is_gone() -> None:
    timeline = ExpressionTimeline(LABELS)
    for n in range(250):
        time_s = n / 25
        seen = not 4 <= time_s < 6
        label = "happiness" if time_s < 2 else "anger"
        timeline.add(made_faces(time_s, [5] * seen, [showing(label)] * seen))
    result = timeline.result(10.0)
    (curve,) = result.persons
    assert (curve.track_id, curve.first_s, curve.last_s, result.left_out) == (5, 0.0, 9.96, 0)
    assert curve.seconds == pytest.approx(8.0)
    assert (result.begin_s, result.end_s) == (0.0, 10.0)
    assert at(curve, 1.0) == pytest.approx(1.0)
    assert at(curve, 3.0) == pytest.approx(0.0)
    assert at(curve, 3.0, LABELS.index("anger")) == pytest.approx(1.0)
    assert np.isnan(at(curve, 5.0))
    assert (np.diff(curve.times_s) > 0).all()
    assert (curve.times_s[0], curve.times_s[-1]) == (0.0, 10.0)
    gap = np.flatnonzero(np.isnan(curve.probs[:, 0]))
    assert len(gap) == 1
    assert curve.times_s[gap[0] - 1] == pytest.approx(4.0)
    assert curve.times_s[gap[0] + 1] == pytest.approx(6.0)


def test_smoothed_probabilities_count_where_there_are_some() -> None:
    timeline = ExpressionTimeline(LABELS)
    smoothed = showing("sadness")[None].astype(np.float32)
    timeline.add(made_faces(0.0, [1], [showing("happiness")], smoothed_probs=smoothed))
    (curve,) = timeline.result(1.0).persons
    assert at(curve, 0.5, LABELS.index("sadness")) == pytest.approx(1.0)


def test_a_video_of_hours_keeps_means_and_memory() -> None:
    timeline = ExpressionTimeline(LABELS, max_bins=64)
    happy = lambda time_s: 0.5 + 0.4 * np.sin(time_s / 600)  # noqa: E731
    most = 0
    for n in range(20000):
        timeline.add(made_faces(float(n), [1], [showing("happiness", happy(n))]))
        most = max(most, timeline.held_bins)
    assert most <= 64
    result = timeline.result(20000.0)
    (curve,) = result.persons
    assert curve.seconds == pytest.approx(20000)
    assert 20000 / 64 <= result.bin_s < 2 * 20000 / 64 + 1
    # Each inner point is the mean over its bin.
    for time_s, value in zip(curve.times_s[1:-2], curve.probs[1:-2, HAPPINESS], strict=True):
        around = np.arange(time_s - result.bin_s / 2, time_s + result.bin_s / 2, 0.05)
        assert value == pytest.approx(np.mean(happy(np.floor(around))), abs=0.01)


def test_the_same_at_any_frame_rate() -> None:
    curves = []
    for fps in (5, 25, 60):
        timeline = ExpressionTimeline(LABELS)
        for n in range(20 * fps):
            timeline.add(made_faces(n / fps, [1], [showing("happiness", 0.2 if n < 10 * fps else 0.8)]))
        curves.append(timeline.result(20.0).persons[0])
    for curve in curves:
        assert curve.seconds == pytest.approx(20)
        assert at(curve, 5) == pytest.approx(0.2)
        assert at(curve, 15) == pytest.approx(0.8)


def test_frames_far_apart_leave_no_holes() -> None:
    timeline = ExpressionTimeline(LABELS)
    for n in range(5):
        timeline.add(made_faces(4.0 * n, [1], [showing("happiness")]))
    (curve,) = timeline.result(20.0).persons
    assert not np.isnan(curve.probs).any()
    assert curve.seconds == pytest.approx(20)


def test_the_longest_are_given_and_the_others_counted() -> None:
    timeline = ExpressionTimeline(LABELS)
    # One after another, each a little longer than the one before; the first once more than all others, at the end.
    time_s, most = 0.0, 0
    for track in range(1, 41):
        for _ in range(10 + track):
            timeline.add(made_faces(time_s, [track], [showing("happiness")]))
            time_s += 0.1
        most = max(most, len(timeline._tracks))
    result = timeline.result(time_s)
    assert [curve.track_id for curve in result.persons] == list(range(40, 40 - MAX_PERSONS, -1))
    assert result.left_out == 40 - MAX_PERSONS
    # Those that are given, and those that may still go on: of the last two seconds and the frame before.
    assert most <= MAX_PERSONS + 4


def test_a_short_track_is_left_out_beside_a_longer_one_alone() -> None:
    timeline = ExpressionTimeline(LABELS)
    for n in range(50):
        timeline.add(made_faces(n / 25, [1, 2] if n < 10 else [1], [showing("happiness")] * (2 if n < 10 else 1)))
    result = timeline.result(2.0)
    assert ([curve.track_id for curve in result.persons], result.left_out) == ([1], 1)
    timeline = ExpressionTimeline(LABELS)
    timeline.add(made_faces(0.0, [7], [showing("fear")]))
    assert [curve.track_id for curve in timeline.result(0.4).persons] == [7]


def test_nobody_and_nothing() -> None:
    timeline = ExpressionTimeline(LABELS)
    assert timeline.result(0.0).persons == []
    timeline.add(made_faces(3.0, [], []))
    result = timeline.result(4.0)
    assert (result.persons, result.begin_s, result.end_s) == ([], 3.0, 4.0)
    # Frames without a length show nobody.
    timeline = ExpressionTimeline(LABELS)
    timeline.add(made_faces(3.0, [1], [showing("fear")]))
    assert timeline.result(3.0).persons == []
