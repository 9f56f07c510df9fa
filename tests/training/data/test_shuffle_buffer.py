"""The shuffle buffer's order."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.shuffle_buffer import ShuffleBuffer


def order(count: int, size: int, seed: int = 0) -> list[int]:
    buffer = ShuffleBuffer(count, size, np.random.default_rng(seed))
    return [buffer.draw() for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 9000])
@pytest.mark.parametrize("size", [1, 2, 10, 500])
def test_each_comes_once_and_none_before_it_can(count: int, size: int) -> None:
    given = order(count, size)
    assert sorted(given) == list(range(count))
    assert all(number < place + size for place, number in enumerate(given))
    assert given == order(count, size)
    with pytest.raises(IndexError):
        ShuffleBuffer(0, size, np.random.default_rng(0)).draw()


def test_it_mixes() -> None:
    assert order(100, 1) == list(range(100))
    given = np.array(order(10_000, 500))
    assert order(10_000, 500, seed=1) != given.tolist()
    assert abs(np.corrcoef(given[:-1] % 500, given[1:] % 500)[0, 1]) < 0.05  # neighbours tell nothing of each other
    late = np.arange(10_000) - given
    assert 400 < late[500:9500].std() < 600  # a picture stays for `size` draws, give or take as many


def test_held_is_what_is_still_to_come() -> None:
    whole = order(100, 7)
    buffer = ShuffleBuffer(100, 7, np.random.default_rng(0))
    for place in range(100):
        assert sorted([*buffer.held, *range(buffer.arrived, 100)]) == sorted(whole[place:])
        assert buffer.draw() == whole[place]
