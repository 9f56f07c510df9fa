from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fer_app.video.pipeline import Pipeline


def slowly(items: Iterator[int], seconds: float) -> Iterator[int]:
    for item in items:
        time.sleep(seconds)
        yield item + 1


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_order_is_kept_and_stages_run_side_by_side() -> None:
    begun = time.monotonic()
    with Pipeline() as pipeline:
        items = iter(range(20))
        for _ in range(4):
            items = pipeline.thread(slowly(items, 0.02))
        assert list(items) == list(range(4, 24))
    assert time.monotonic() - begun < 20 * 4 * 0.02 * 0.7


def test_nobody_is_far_ahead() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with Pipeline(depth=2) as pipeline:
        items = pipeline.thread(slowly(pipeline.thread(source()), 0))
        next(items)
        time.sleep(0.2)
        assert len(made) <= 8


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_error_of_any_stage_comes_out_once_after_what_was_before_it(stage: int) -> None:
    def failing(items: Iterator[int], this: int) -> Iterator[int]:
        for number in items:
            if this == stage and number == 5:
                raise KeyError("five")
            yield number

    seen: list[int] = []
    with pytest.raises(KeyError, match="five"), Pipeline() as pipeline:  # noqa: PT012
        items: Iterator[int] = iter(range(100))
        for this in range(3):
            items = pipeline.thread(failing(items, this))
        seen.extend(items)
    assert seen == list(range(5))


def test_leaving_early_ends_all_threads_even_of_an_endless_source() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    with pytest.raises(RuntimeError, match="enough"), Pipeline() as pipeline:  # noqa: PT012
        items = pipeline.thread(slowly(pipeline.thread(endless()), 0))
        for _ in range(10):
            next(items)
        raise RuntimeError("enough")


def test_nothing_comes_out_of_nothing() -> None:
    with Pipeline() as pipeline:
        assert list(pipeline.thread(slowly(pipeline.thread(iter(())), 0))) == []
