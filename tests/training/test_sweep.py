"""Sweeps over miniature recipes: what runs, in which order, what is skipped, and what a failure leaves."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.sweeping import FER_SWEEP, PRETRAIN, app, arguments, ended, run, runner, write_finetune
from training.checkpoint import load_checkpoint
from training.data.locate import locate
from training.report import Report
from training.run_lock import locked
from training.stages import run_recipe
from training.sweep import Outcome, Sweep
from training.sweep_cells import plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "grid").mkdir()
    return tmp_path / "grid"


def test_cells_run_seed_by_seed_once_and_are_skipped_afterwards(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a_uses_z", top='init = "recipe:z_encoder"')
    write_finetune(folder, "b", top="seed = 5")
    (folder / "z_encoder.toml").write_text(PRETRAIN.format(top=""))
    first = run(folder, mini_ferplus, "--seeds", "2")
    order = [line.partition(": ")[0] for line in ended(first)]
    assert order == [
        "[1/5] z_encoder seed 0",
        "[2/5] a_uses_z seed 0",
        "[3/5] b seed 5",
        "[4/5] a_uses_z seed 1",
        "[5/5] b seed 6",
    ]
    out = folder.parent / "out"
    assert first.stdout == f"{out / 'results.md'}\n"
    encoder = out / "z_encoder" / "seed-0" / "pretrain" / "last.safetensors"
    for seed in (0, 1):
        started = json.loads((out / "a_uses_z" / f"seed-{seed}" / "init.json").read_text())
        assert started == {"init": "recipe:z_encoder", "sha256": hashlib.sha256(encoder.read_bytes()).hexdigest()}
        log = (out / "a_uses_z" / f"seed-{seed}" / "train.log").read_text()
        assert f"init: {encoder}: " in log
        assert json.loads((out / "a_uses_z" / f"seed-{seed}" / "recipe.json").read_text())["init"] == "recipe:z_encoder"

    score = json.loads((out / "b" / "seed-6" / "score-valid.json").read_text())
    made = out / "b" / "seed-6" / "finetune" / "best.safetensors"
    assert score["model_sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert (score["n"], score["data_set"], score["split"], score["epochs"]) == (32, "ferplus", "valid", 1)

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    again = run(folder, mini_ferplus, "--seeds", "2")
    assert [line.partition(": ")[2].partition(",")[0] for line in ended(again)] == ["already done"] * 5
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}

    run(folder, mini_ferplus, "--seeds", "1", "--split", "dev")
    assert (out / "b" / "seed-5" / "score-dev.json").is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_cell_has_the_bits_of_a_single_run(folder: Path, mini_ferplus: Path) -> None:
    """Whatever ran before it in the same process."""
    write_finetune(folder, "a")
    write_finetune(folder, "b", "limit = 48")
    run(folder, mini_ferplus, "--seeds", "1")
    alone = folder.parent / "alone"
    given = ["train", str(folder / "b.toml"), "--data", str(mini_ferplus), "--run-dir", str(alone)]
    assert runner.invoke(app, given, catch_exceptions=False).exit_code == 0
    cell = folder.parent / "out" / "b" / "seed-0"
    assert (cell / "recipe.json").read_text() == (alone / "recipe.json").read_text()
    ours, theirs = (load_checkpoint(run_dir / "finetune" / "last.safetensors")[0] for run_dir in (cell, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_changed_encoder_is_refused(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", top='init = "recipe:z"')
    (folder / "z.toml").write_text(PRETRAIN.format(top=""))
    run(folder, mini_ferplus, "--seeds", "1")
    out = folder.parent / "out"
    encoder, init = out / "z/seed-0/pretrain/last.safetensors", out / "a/seed-0/init.json"
    encoder.write_bytes((out / "a/seed-0/finetune/last.safetensors").read_bytes())
    told = run(folder, mini_ferplus, "--seeds", "1", status=1).stderr
    assert "a seed 0: failed: " in told
    assert "began with another encoder than z seed 0 has now" in told
    init.write_text(json.dumps({"sha256": hashlib.sha256(encoder.read_bytes()).hexdigest()}))
    run(folder, mini_ferplus, "--seeds", "1")


def test_failures_are_told_and_the_rest_goes_on(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a_diverges", "base_lr = 1e30")
    write_finetune(folder, "b_misses", top='init = "nothing.safetensors"')
    write_finetune(folder, "c_other")
    write_finetune(folder, "d_works")
    write_finetune(folder, "e_needs", top='init = "recipe:z_fails"')
    (folder / "z_fails.toml").write_text(PRETRAIN.format(top='init = "nothing.pth"'))
    other = folder.parent / "out" / "c_other" / "seed-0"
    other.mkdir(parents=True)
    (other / "recipe.json").write_text("{}")
    result = run(folder, mini_ferplus, "--seeds", "1", status=1)
    told = dict(line.partition("] ")[2].split(": ", 1) for line in result.stderr.splitlines() if line[0] == "[")
    assert told["a_diverges seed 0"].startswith("diverged: the ")
    assert "nothing.safetensors" in told["b_misses seed 0"]
    assert told["c_other seed 0"].startswith(f"failed: {other} holds a run of another recipe: move it away")
    assert told["d_works seed 0"].startswith("trained, accuracy ")
    assert told["e_needs seed 0"].startswith("failed: it starts from z_fails seed 0, which is failed")
    assert result.stderr.splitlines()[-1].startswith("fer: 5 of 6 runs have no result; ")
    assert list(other.iterdir()) == [other / "recipe.json"]

    table = (folder.parent / "out" / "results.md").read_text()
    assert "| a_diverges | " in table
    assert "- a_diverges seed 0: diverged\n" in table
    assert f"- c_other seed 0: failed: {other} holds a run" in table

    again = run(folder, mini_ferplus, "--seeds", "1", status=1).stderr
    assert "a_diverges seed 0: diverged before; remove " in again
    assert "d_works seed 0: already done, " in again


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_sweep_goes_on(folder: Path, mini_ferplus: Path, number: signal.Signals, status: int) -> None:
    write_finetune(folder, "a")
    write_finetune(folder, "b", "epochs = 40")
    write_finetune(folder, "c")
    out = folder.parent / "out"
    given = arguments(folder, mini_ferplus, "--seeds", "1")
    started = out / "b" / "seed-0" / "finetune" / "metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", FER_SWEEP, *given], stderr=subprocess.PIPE, text=True) as process:
        while not started.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(number)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == status, told
    assert "Traceback" not in told
    assert f"fer: stopped by {number.name} at epoch " in told
    table = (out / "results.md").read_text()
    assert "runs done: 1 of 3" in table
    assert "- b seed 0: unfinished\n- c seed 0: not run\n" in table
    stopped = json.loads((out / "b/seed-0/unfinished.json").read_text())
    rows = started.read_text().splitlines()

    result = run(folder, mini_ferplus, "--seeds", "1")
    states = [line.partition(": ")[2].partition(",")[0] for line in ended(result)]
    assert states == ["already done", "resumed", "trained"]
    log = (out / "b/seed-0/train.log").read_text()
    assert f"resumed at epoch {stopped['epoch'] + 1}, step {stopped['step']}" in log
    assert not (out / "b/seed-0/unfinished.json").exists()
    complete = [line for line in rows if json.loads(line)["epoch"] < stopped["epoch"]]
    assert started.read_text().splitlines()[: len(complete)] == complete
    assert "Not in the table" not in (out / "results.md").read_text()


def test_a_score_counts_for_its_weights_alone(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a")
    run(folder, mini_ferplus, "--seeds", "1")
    path = folder.parent / "out" / "a" / "seed-0" / "score-valid.json"
    true = json.loads(path.read_text())
    path.write_text(json.dumps({**true, "accuracy": 0.123}))
    assert "already done, accuracy 12.30 on valid" in run(folder, mini_ferplus, "--seeds", "1").stderr
    for other in ({"model_sha256": "of others"}, {"faces_sha256": "of others"}):
        path.write_text(json.dumps({**true, "accuracy": 0.123, **other}))
        run(folder, mini_ferplus, "--seeds", "1")
        assert json.loads(path.read_text()) == true
    older = {key: value for key, value in true.items() if key not in ("faces_sha256", "program", "machine")}
    path.write_text(json.dumps(older))
    run(folder, mini_ferplus, "--seeds", "1")
    assert json.loads(path.read_text()) == older
    table = (path.parents[2] / "results.md").read_text()
    assert f"- trained by: {true['program']}; {true['machine']} (1 run)\n- scored by: not recorded (1 run)\n" in table


def test_an_encoder_that_another_process_made_meanwhile_is_taken(folder: Path, mini_ferplus: Path) -> None:
    """Its own turn found the folder locked; the second seeds come when it is done."""
    write_finetune(folder, "a", top='init = "recipe:z"')
    (folder / "z.toml").write_text(PRETRAIN.format(top=""))
    cells = plan(str(folder), folder.parent / "out", 2)
    data = locate([mini_ferplus])
    states: list[list[str]] = []

    def publish(outcomes: list[Outcome]) -> None:
        states.append([outcome.status for outcome in outcomes])
        if len(states) == 3:
            held.close()
            run_recipe(cells[0].recipe, data, cells[0].run_dir, Report(None))

    with contextlib.ExitStack() as held:
        cells[0].run_dir.mkdir(parents=True)
        held.enter_context(locked(cells[0].run_dir))
        sweeping = Sweep(cells, data, Report(None), publish)
        sweeping.run()
    assert "in use by another process" in sweeping.outcomes[0].reason
    assert states[-1] == ["failed", "failed", "done"]


def test_time_left_follows_the_same_recipe_then_its_kind(folder: Path, mini_ferplus: Path) -> None:
    for name in ("a", "b"):
        write_finetune(folder, name)
    (folder / "z.toml").write_text(PRETRAIN.format(top=""))
    cells = plan(str(folder), folder.parent / "out", 2)
    assert [cell.title for cell in cells] == ["a seed 0", "b seed 0", "z seed 0", "a seed 1", "b seed 1"]
    sweeping = Sweep(cells, locate([mini_ferplus]), Report(None), lambda outcomes: None)
    assert sweeping._time_left() == ""
    sweeping.outcomes[0] = Outcome(cells[0], "done", seconds=3600)
    assert sweeping._time_left() == "; about 4.00 h left of the sweep"
    sweeping.outcomes[1] = Outcome(cells[1], "done", seconds=7200)
    assert sweeping._time_left() == "; about 4.50 h left of the sweep"  # z 1.5, a 1, b 2
    sweeping.outcomes[2] = Outcome(cells[2], "done", seconds=36)
    sweeping.outcomes[3] = Outcome(cells[3], "diverged")
    assert sweeping._time_left() == "; about 2.00 h left of the sweep"
