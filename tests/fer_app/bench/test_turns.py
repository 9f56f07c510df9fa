from __future__ import annotations

import itertools
import time

import pytest

from fer_app.bench import turns
from fer_app.bench.turns import Case, take_turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only where a case says that time has passed."""

    class Clock:
        now = 0.0

        def passing(self, seconds):
            def run():
                self.now += seconds

            return run

    clock = Clock()
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock.now)
    return clock


def test_quantiles_by_rank():
    case = Case(print, [[0.003, 0.001], [], [0.002], [0.004, 0.005]])
    assert case.runs == 5
    assert [case.quantile_s(share) for share in (0, 0.2, 0.21, 0.5, 0.99, 1)] == [
        0.001,
        0.001,
        0.002,
        0.003,
        0.005,
        0.005,
    ]
    hundred = Case(print, [[i / 1000 for i in range(100, 0, -1)]])
    assert hundred.quantile_s(0.99) == 0.099


def test_a_ratio_is_of_turns_that_stood_side_by_side():
    """A slow moment of the machine meets both: it does not enter."""
    ours = Case(print, [[1.0], [10.0], [1.0, 1.0, 9.0]])
    theirs = Case(print, [[2.0], [20.0], [2.0], [500.0]])
    assert ours.times_as_fast(theirs) == 2
    assert theirs.times_as_fast(ours) == 0.5


def test_turns_go_round_and_end_with_the_time(clock):
    order = []
    cases = [Case(lambda name=name: (order.append(name), clock.passing(0.2)())) for name in "abc"]
    take_turns(cases, seconds=1.3)
    assert "".join(order) == "abc" + "abca"  # one run each unmeasured, then seven turns would be beyond the time
    assert [case.runs for case in cases] == [2, 1, 1]


def test_everything_has_a_turn_whatever_the_time(clock):
    cases = [Case(clock.passing(5.0)) for _ in range(3)]
    seen = []
    take_turns(cases, seconds=0, on_turn=seen.append)
    assert [case.turns for case in cases] == [[[5.0]]] * 3
    assert seen == [0, 5, 10, 15, 20, 25]


def test_short_runs_are_repeated_within_a_turn(clock):
    case = Case(clock.passing(0.011))
    take_turns([case], seconds=0)
    assert [len(turn) for turn in case.turns] == [4]


def test_real_time():
    short, long = Case(lambda: time.sleep(0.001)), Case(lambda: time.sleep(0.03))
    take_turns([short, long], seconds=0.3)
    assert len(short.turns) >= 2
    assert short.runs > long.runs
    assert long.quantile_s(0) >= 0.03
    assert long.times_as_fast(short) < 1 < short.times_as_fast(long)
    assert all(itertools.chain(short.turns, long.turns))
