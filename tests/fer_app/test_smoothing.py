from __future__ import annotations

import numpy as np
import pytest

from fer_app.results import NO_TRACK
from fer_app.smoothing import TrackSmoother

ONE = np.array([1], np.int64)


def curve(smoother: TrackSmoother, times: np.ndarray) -> np.ndarray:
    """The first class of a face that is sure of it before 1 s and sure of the other after."""
    rows = [[[1.0, 0.0]] if t < 1 else [[0.0, 1.0]] for t in times]
    return np.array(
        [smoother.update(ONE, np.array(row, np.float32), t)[0, 0] for t, row in zip(times, rows, strict=True)]
    )


def test_half_is_left_after_a_half_life_at_any_frame_rate() -> None:
    for fps in (10, 30, 100):
        times = np.arange(0, 2 * fps) / fps
        smoothed = curve(TrackSmoother(0.3), times)
        since = times - (1 - 1 / fps)  # the last frame of the first kind
        expected = np.where(times < 1, 1.0, 0.5 ** (since / 0.3))
        np.testing.assert_allclose(smoothed, expected, atol=1e-6)


def test_irregular_times_give_the_same_curve() -> None:
    regular = np.arange(0, 200) / 100
    some = np.sort(np.random.default_rng(0).choice(regular[100:], 20, replace=False))
    dense = dict(zip(regular, curve(TrackSmoother(0.5), regular), strict=True))
    sparse = curve(TrackSmoother(0.5), np.concatenate([regular[:100], some]))[100:]
    np.testing.assert_allclose(sparse, [dense[t] for t in some], atol=1e-6)


def test_rows_sum_to_one_and_tracks_do_not_mix() -> None:
    smoother, random = TrackSmoother(0.2), np.random.default_rng(1)
    probs = random.dirichlet(np.ones(8), (20, 2)).astype(np.float32)
    together = [smoother.update(np.array([1, 2]), probs[i], i / 30) for i in range(20)]
    alone = TrackSmoother(0.2)
    for i in range(20):
        np.testing.assert_allclose(together[i].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(together[i][1:], alone.update(np.array([2]), probs[i, 1:], i / 30), atol=1e-7)
    assert np.abs(together[-1] - probs[-1]).max() > 0.01


def test_zero_is_off_and_faces_without_a_track_are_left_alone() -> None:
    probs = [np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)]
    for smoother, track in ((TrackSmoother(0), 1), (TrackSmoother(5), NO_TRACK)):
        smoother.update(np.array([track]), probs[0], 0.0)
        assert smoother.update(np.array([track]), probs[1], 0.03).tolist() == [[0.0, 1.0]]


def test_what_is_forgotten_takes_no_memory() -> None:
    smoother = TrackSmoother(0.01)
    for i in range(1000):
        smoother.update(np.array([i]), np.array([[1.0, 0.0]], np.float32), i / 10)
    assert len(smoother._tracks) <= 3


@pytest.mark.parametrize("half_life_s", [-1, float("nan"), float("inf")])
def test_a_half_life_is_a_time(half_life_s: float) -> None:
    with pytest.raises(ValueError, match="half_life_s"):
        TrackSmoother(half_life_s)
