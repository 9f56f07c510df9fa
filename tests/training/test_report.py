import io

from training.report import Report


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
