"""Runs that are really sent signals, and end with the bits of one that never was."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import StoppedError
from fer_app.stop_signals import StopSignals
from training.checkpoint import load_checkpoint
from training.cli import train
from training.interruption import RunInterruptedError

# A shell's background jobs ignore SIGINT, and so would what this starts from one.
FER_TRAIN = """
import signal, typer
signal.signal(signal.SIGINT, signal.default_int_handler)
from training.cli import train
typer.run(train)
"""
app = Typer()
app.command()(train)


def arguments(data: Path, folder: Path, *changes: str) -> list[str]:
    given = ["debug", "--data", str(data), "--run-dir", str(folder)]
    for value in ("finetune.epochs=12", "pretrain.epochs=12", *changes):
        given += ["--set", value]
    return given


def resume_here(given: list[str]) -> str:
    result = CliRunner().invoke(app, [*given, "--resume"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stderr


def stop(given: list[str], ready: Callable[[], bool], signal_number: int) -> tuple[int, str]:
    """Start `fer train`, send it a signal when `ready`; return its status and what it told."""
    with subprocess.Popen([sys.executable, "-c", FER_TRAIN, *given], stderr=subprocess.PIPE, text=True) as process:
        while not ready():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal_number)
        told = process.communicate(timeout=120)[1]
    return process.returncode, told


def contents(folder: Path) -> list[dict[str, Any]]:
    """Every stage's rows, without what the clock says."""
    stages = ("pretrain", "finetune")
    lines = [line for stage in stages for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_s"} for line in lines]


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert contents(ours) == contents(theirs)
    for name in ("pretrain/last", "finetune/last", "finetune/best"):
        (a, _), (b, _) = (load_checkpoint(folder / f"{name}.safetensors") for folder in (ours, theirs))
        assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.fixture(scope="module")
def whole(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = CliRunner().invoke(app, arguments(mini_ferplus, folder), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_resumes_bit_identical(
    mini_ferplus: Path, tmp_path: Path, whole: Path, number: signal.Signals, status: int
) -> None:
    given = arguments(mini_ferplus, tmp_path)
    stage = "finetune" if number == signal.SIGTERM else "pretrain"
    started = tmp_path / stage / "metrics.jsonl"
    returned, told = stop(given, started.exists, number)
    assert returned == status, told
    assert "Traceback" not in told
    marker = json.loads((tmp_path / "unfinished.json").read_text())
    assert (marker["stage"], marker["signal"]) == (stage, number.name)
    # The file counts epochs from 0, words do from 1.
    assert f"fer: stopped by {number.name} at epoch {marker['epoch'] + 1}, step {marker['step']};" in told
    assert (tmp_path / stage / "state.pt").is_file()
    assert not (tmp_path / stage / "done.json").exists()
    assert not (tmp_path / "lock.json").exists()

    told = resume_here(given)
    assert f"going on after stage {stage}, signal {number.name}, epoch {marker['epoch'] + 1}, step" in told
    assert f"resumed at epoch {marker['epoch'] + 1}, step {marker['step']}" in told
    assert not (tmp_path / "unfinished.json").exists()
    assert_same_run(tmp_path, whole)


def test_a_killed_run_resumes_bit_identical(mini_ferplus: Path, tmp_path: Path, whole: Path) -> None:
    """Twice, at whatever it is doing then; most likely writing, as the state is saved after every step."""
    given = arguments(mini_ferplus, tmp_path, "checkpoint_minutes=1e-9")
    state = tmp_path / "finetune" / "state.pt"
    assert stop(given, state.exists, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / "unfinished.json").exists()
    before = state.stat().st_mtime_ns
    assert stop([*given, "--resume"], lambda: state.stat().st_mtime_ns > before, signal.SIGKILL)[0] == -signal.SIGKILL
    resume_here(given)
    assert_same_run(tmp_path, whole)
    assert list(tmp_path.rglob(".fer-*.tmp")) == []


def test_a_second_signal_does_what_it_always_did() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as stop_signals:
        signal.raise_signal(signal.SIGTERM)
        assert stop_signals.received == signal.SIGTERM
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_handlers_come_and_go_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop_signals:
            signal.raise_signal(signal.SIGINT)
            assert stop_signals.received is None
            assert signal.getsignal(signal.SIGTERM) == stop_signals._note
        assert signal.getsignal(signal.SIGTERM) != stop_signals._note
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    seen = []

    def enter() -> None:
        with StopSignals() as stop_signals:
            seen.append(stop_signals.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]


def test_exit_status() -> None:
    stopped: list[StoppedError] = [RunInterruptedError(n, 0, 0) for n in (signal.SIGTERM, signal.SIGINT)]
    assert [error.exit_status for error in stopped] == [143, 130]
    assert str(stopped[1]) == "stopped by SIGINT at epoch 1, step 0; the state is saved: pass --resume to go on"
