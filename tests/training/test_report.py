import io
import os
import time

import pytest

from training.report import Report, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_is_written_over_and_lines_stay() -> None:
    stream = Terminal()
    report = Report(stream)
    report.live("step 1")
    report.live("2")
    report.line("done")
    report.line("next")
    assert stream.getvalue() == "step 1\r      \r2\r \rdone\nnext\n"


def test_no_live_line_in_a_log_file() -> None:
    stream = io.StringIO()
    report = Report(stream)
    report.live("step 1")
    report.line("done")
    assert stream.getvalue() == "done\n"


def test_silence() -> None:
    Report(None).line("x")
    Report(None).live("x")
    Report(None).progress(lambda: "x")


@pytest.mark.parametrize(("stream", "every_s"), [(Terminal(), 1.0), (io.StringIO(), 300.0)])
def test_progress_is_told_by_time(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, every_s: float) -> None:
    """And is asked for only then: it waits for the device."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report, asked = Report(stream), []
    for i in range(1, 31):  # ten a period
        now = 100.0 + i * every_s / 10 + 1e-6
        report.progress(lambda i=i: asked.append(i) or f"step {i}")  # type: ignore[misc]
    assert asked == [10, 20, 30]
    report.line("done")
    erased = "\r       \r"
    live = f"step 10{erased}step 20{erased}step 30{erased}done\n"
    assert stream.getvalue() == (live if every_s == 1 else "step 10\nstep 20\nstep 30\ndone\n")


def test_the_live_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pty(Terminal):
        def fileno(self) -> int:
            return 7

    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((12, 24)))
    stream = Pty()
    Report(stream).live("a line that would wrap")
    assert stream.getvalue() == "a line that"


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 61.6, 100 * 3600 + 59)] == ["0:00:00", "0:01:02", "100:00:59"]
