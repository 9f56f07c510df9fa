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
from typer import Typer
from typer.testing import CliRunner, Result

from fer_app.errors import ConfigError, DatasetError
from training.checkpoint import load_checkpoint
from training.cli import train
from training.data.locate import locate
from training.report import Report
from training.run_lock import locked
from training.stages import run_recipe
from training.sweep import Outcome, Sweep
from training.sweep_cells import bundled_folders, plan
from training.sweep_cli import sweep

app = Typer()
app.command("sweep")(sweep)
app.command("train")(train)
runner = CliRunner()

FER_SWEEP = """
import signal, typer
signal.signal(signal.SIGINT, signal.default_int_handler)
from training.sweep_cli import sweep
typer.run(sweep)
"""
FINETUNE = """
base = "debug"
stages = ["finetune"]
checkpoint_minutes = 60.0
{top}
[finetune]
warmup_epochs = 0
{finetune}
"""
PRETRAIN = """
base = "debug"
stages = ["pretrain"]
{top}
[pretrain]
limit = 64
"""


def write_finetune(folder: Path, name: str, finetune: str = "", top: str = "") -> None:
    for value in ("epochs = 1", "limit = 32"):
        if value.split()[0] not in finetune:
            finetune += f"\n{value}"
    (folder / f"{name}.toml").write_text(FINETUNE.format(top=top, finetune=finetune))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "grid").mkdir()
    return tmp_path / "grid"


def arguments(folder: Path, data: Path, *more: str) -> list[str]:
    return [str(folder), "--data", str(data), "--out", str(folder.parent / "out"), *more]


def run(folder: Path, data: Path, *more: str, status: int = 0) -> Result:
    result = runner.invoke(app, ["sweep", *arguments(folder, data, *more)], catch_exceptions=False)
    assert result.exit_code == status, result.stderr
    return result


def ended(result: Result) -> list[str]:
    """The lines at the ends of cells, without their times."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("[") and " begins" not in line]
    return [line.partition(" on ")[0].rpartition(" accuracy ")[0] or line for line in lines]


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


def test_all_problems_of_a_folder_are_told_at_once(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", top='init = "recipe:nowhere"')
    write_finetune(folder, "b", top='init = "recipe:a"')
    (folder / "c.toml").write_text(PRETRAIN.format(top='init = "recipe:d"'))
    (folder / "d.toml").write_text(PRETRAIN.format(top='init = "recipe:c"'))
    with pytest.raises(ConfigError) as caught:
        run(folder, mini_ferplus)
    assert str(caught.value).split("; ") == [
        "a: init = 'recipe:nowhere': no recipe nowhere in the folder",
        "b: init = 'recipe:a': a does more than pre-train",
        "c: init = 'recipe:d' leads back to it: c -> d -> c",
        "d: init = 'recipe:c' leads back to it: d -> c -> d",
    ]
    write_finetune(folder, "e", "epoch_s = 1")
    write_finetune(folder, "f", "los = 1")
    with pytest.raises(
        ConfigError, match=r"e.toml: unknown key finetune.epoch_s .*; f.toml: unknown key finetune.los "
    ):
        run(folder, mini_ferplus)
    assert not (folder.parent / "out").exists()


def test_what_was_trained_on_is_not_scored(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", 'split = "train"')
    write_finetune(folder, "b", 'split = "train+valid"')
    write_finetune(folder, "c")
    (folder / "z.toml").write_text(PRETRAIN.format(top=""))
    for split, named in (
        ("valid", "b (trained on train+valid, scored on valid)"),
        ("dev", "a (trained on train, scored on dev), b (trained on train+valid, scored on dev)"),
    ):
        with pytest.raises(ConfigError) as caught:
            run(folder, mini_ferplus, "--split", split)
        assert str(caught.value) == f"trained on what they would be scored on, pass another --split: {named}"
    with pytest.raises(ConfigError, match=r"a \(.*, b \(.*, c \(trained on train-main, scored on train\)"):
        run(folder, mini_ferplus, "--split", "train")
    assert not (folder.parent / "out").exists()


def test_each_recipe_is_scored_where_its_published_figure_is(folder: Path) -> None:
    figure = "{ data_set = 'FERPlus', split = 'test', accuracy = 1.0, source = 'it' }"
    write_finetune(folder, "a", top=f"expected = {figure}")
    write_finetune(folder, "b")
    write_finetune(folder, "c", 'split = "train+valid"')
    assert [cell.split for cell in plan(str(folder), Path("o"), 1)] == ["test", "valid", "test"]
    assert [cell.split for cell in plan(str(folder), Path("o"), 1, split="test")] == ["test"] * 3
    cells = plan("ablations/table5", Path("o"), 1)
    assert {cell.split for cell in cells if not cell.only_pretrains} == {"test"}


def test_memory_that_does_not_suffice_fails_one_cell(
    folder: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")

    monkeypatch.setattr("training.stages.fit", fit)
    write_finetune(folder, "a")
    told = run(folder, mini_ferplus, "--seeds", "1", status=1).stderr
    words = "finetune: out of memory (CUDA out of memory): lower finetune.batch_size and raise finetune.accumulate"
    assert f"a seed 0: failed: {words} by as much, or set checkpoint_activations = true" in told


def test_several_processes_are_refused(folder: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_finetune(folder, "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cannot be started by torchrun: start it alone"):
        run(folder, mini_ferplus)
    monkeypatch.setenv("RANK", "1")
    assert run(folder, mini_ferplus, status=1).stderr == ""
    assert not (folder.parent / "out").exists()


def test_recipes_below_a_folder_and_changes(folder: Path) -> None:
    (folder / "deep").mkdir()
    write_finetune(folder, "a")
    write_finetune(folder / "deep", "b", top='init = "recipe:z"')
    (folder / "deep" / "z.toml").write_text(PRETRAIN.format(top=""))
    cells = plan(str(folder), Path("o"), 2, ["finetune.limit=9", "pretrain.epochs=4", "model.depth=1"])
    assert [str(cell.run_dir) for cell in cells] == [
        "o/a/seed-0",
        "o/deep/z/seed-0",
        "o/deep/b/seed-0",
        "o/a/seed-1",
        "o/deep/b/seed-1",
    ]
    assert [cell.start.name if cell.start else None for cell in cells] == [None, None, "deep/z", None, "deep/z"]
    assert {cell.recipe.model.depth for cell in cells} == {1}
    assert all(cell.recipe.finetune is None or cell.recipe.finetune.limit == 9 for cell in cells)
    assert cells[1].recipe.pretrain is not None
    assert cells[1].recipe.pretrain.epochs == 4
    (folder / "deep" / "z.toml").write_text((folder / "a.toml").read_text())
    with pytest.raises(ConfigError, match="does more than pre-train"):
        plan(str(folder), Path("o"), 1)


def test_a_stage_that_no_recipe_has_cannot_be_changed(folder: Path) -> None:
    (folder / "z.toml").write_text('stages = ["pretrain"]\n[pretrain]\nepochs = 1\nbatch_size = 8\nbase_lr = 1e-3\n')
    with pytest.raises(ConfigError, match=r"--set 'finetune.epochs=1': no recipe here has this table"):
        plan(str(folder), Path("o"), 1, ["finetune.epochs=1"])


@pytest.mark.parametrize("name", list(bundled_folders()))
def test_bundled_folders_can_be_planned(name: str) -> None:
    cells = plan(name, Path("o"), 1)
    assert len(cells) == bundled_folders()[name]
    assert all(cell.recipe.name == f"{name}/{cell.name}" for cell in cells)


def test_missing_pictures_are_told_before_anything_runs(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a")
    (folder / "z.toml").write_text(PRETRAIN.format(top="") + 'images = ["photos"]\n')
    with pytest.raises(DatasetError, match="no general photos given"):
        run(folder, mini_ferplus)
    with pytest.raises(DatasetError, match="FER2013Test"):
        run(folder, mini_ferplus, "--split", "test", "--set", 'pretrain.images=["faces"]')
    assert not (folder.parent / "out").exists()


def test_fer_train_tells_to_run_the_folder(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", top='init = "recipe:z"')
    given = ["train", str(folder / "a.toml"), "--data", str(mini_ferplus), "--run-dir", str(folder / "run")]
    with pytest.raises(ConfigError, match=r"the recipe z beside this one makes: .* `fer sweep`, or pass --set init="):
        runner.invoke(app, given, catch_exceptions=False)


def test_list_shows_folders_and_what_is_done(folder: Path, mini_ferplus: Path) -> None:
    shown = runner.invoke(app, ["sweep", "--list"], catch_exceptions=False).stdout
    assert "ablations/table2 (9 recipes)\n" in shown
    write_finetune(folder, "a")
    run(folder, mini_ferplus, "--seeds", "1")
    shown = run(folder, mini_ferplus, "--seeds", "2", "--list").stdout
    assert shown == "a seed 0: done\na seed 1: not run\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "name a folder"),
        (["x"], "no folder 'x'"),
        (["ablations/table3"], "where are the pictures"),
        (["ablations/table3", "--split", "no"], "is none of"),
    ],
)
def test_wrong_usage(more: list[str], said: str) -> None:
    result = runner.invoke(app, ["sweep", *more])
    assert result.exit_code != 0
    assert said in (result.stderr + str(result.exception)).replace("\n", " ").replace("│", "")
