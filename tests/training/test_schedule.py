import math

import pytest

from training.schedule import warmup_cosine


def test_follows_the_published_curve() -> None:
    at = lambda e: warmup_cosine(e, epochs=10, warmup_epochs=2, peak=1.0, floor=0.1)  # noqa: E731
    assert at(0.0) == 0.0
    assert at(1.0) == 0.5
    assert at(2.0) == 1.0
    assert at(6.0) == pytest.approx(0.1 + 0.9 * 0.5)
    assert at(4.0) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert at(10.0) == pytest.approx(0.1)


def test_without_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0.0, epochs=1, warmup_epochs=0, peak=3.0) == 3.0


def test_warmup_as_long_as_the_run_ends_at_the_peak() -> None:
    assert warmup_cosine(1.0, epochs=1, warmup_epochs=1, peak=3.0) == 3.0
