"""`fer train` on shards that do not fit into memory, really killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import CheckpointError
from tests.training.miniature import write_mini_photos, write_mini_shards
from tests.training.test_interruption import FER_TRAIN, stop
from training.checkpoint import load_checkpoint
from training.cli import train
from training.data import photo_plan
from training.run_folder import RunFolder

app = Typer()
app.command()(train)


def arguments(data: Path | str, folder: Path, *changes: str) -> list[str]:
    given = ["debug", "--data", str(data), "--run-dir", str(folder)]
    sizes = ("model.img_size=16", "pretrain.batch_size=8", "pretrain.epochs=4", "pretrain.shuffle_buffer=16")
    for value in ('stages=["pretrain"]', 'pretrain.images=["photos"]', *sizes, *changes):
        given += ["--set", value]
    return given


def run(given: list[str]) -> str:
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stderr


def fail(*_: object) -> None:
    raise CheckpointError("no more")


def rows(folder: Path) -> list[str]:
    return [line.partition(', "images_per_s"')[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_stream_goes_on_with_the_pictures_that_were_left(tmp_path: Path) -> None:
    """The same bits as a run that was not killed: no picture came twice in the epoch, and none was lost."""
    write_mini_shards(tmp_path / "shards", [30, 9, 41, 20], ".tar.gz")
    data = f"{tmp_path}/shards/shard-{{00..03}}.tar.gz"
    told = run(arguments(data, tmp_path / "whole", "pretrain.stream=true"))
    assert "photos: 100 pictures, 0.00 GB when decoded" in told
    assert "): streamed from 4 shards, as pretrain.stream = true" in told
    assert "100 images, 4 epochs x 12 steps x 8 images" in told

    given = arguments(data, tmp_path / "killed", "pretrain.stream=true", "checkpoint_minutes=1e-9")
    folder = tmp_path / "killed" / "pretrain"
    state = folder / "state.pt"
    assert stop(given, state.exists, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (folder / "done.json").exists()
    run([*given, "--resume"])
    assert rows(folder) == rows(tmp_path / "whole" / "pretrain")
    (a, _), (b, _) = (
        load_checkpoint(tmp_path / name / "pretrain" / "last.safetensors") for name in ("killed", "whole")
    )
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_two_processes_take_as_many_steps_each_of_uneven_shards(tmp_path: Path) -> None:
    write_mini_shards(tmp_path / "shards", [41, 3, 2])
    given = arguments(tmp_path / "shards", tmp_path / "run", "pretrain.stream=true", "pretrain.epochs=2")
    script = tmp_path / "fer_train.py"  # the launcher starts it again for the second process
    script.write_text(FER_TRAIN)
    command = [sys.executable, str(script), *given, "--devices", "2", "--accelerator", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "46 images, 2 epochs x 2 steps x 16 images" in done.stderr
    assert done.stderr.count("): streamed from 3 shards") == 1
    assert '"step": 4' in rows(tmp_path / "run" / "pretrain")[-1]


def test_other_shards_are_no_way_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_mini_shards(tmp_path / "shards", [30, 20])
    given = arguments(tmp_path / "shards", tmp_path / "run", "pretrain.stream=true")
    finish = RunFolder.finish
    monkeypatch.setattr(RunFolder, "finish", fail)  # after the last state is saved
    with pytest.raises(CheckpointError, match="no more"):
        CliRunner().invoke(app, given, catch_exceptions=False)
    monkeypatch.setattr(RunFolder, "finish", finish)
    shards[1].unlink()
    result = CliRunner().invoke(app, [*given, "--resume"])
    assert "50 samples then, 30 now; other names of the pictures" in str(result.exception)


def test_a_set_that_fits_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mini_photos(tmp_path / "data", 16)
    told = run(arguments(tmp_path / "data", tmp_path / "fits"))
    assert "photos: at most 1024 pictures, 0.00 GB when decoded (50% of " in told
    assert "): kept in memory" in told
    monkeypatch.setattr(photo_plan, "free_bytes", lambda: 32 * 16 * 16)
    told = run(arguments(tmp_path / "data", tmp_path / "does not"))
    assert "): streamed from 2 shards" in told


def test_a_stream_is_of_photos_alone(tmp_path: Path, mini_ferplus: Path) -> None:
    write_mini_photos(tmp_path / "data", 4)
    given = arguments(tmp_path / "data", tmp_path / "run", "pretrain.stream=true", 'pretrain.images=["photos","faces"]')
    result = CliRunner().invoke(app, [*given, "--data", str(mini_ferplus)])
    assert "pretrain.stream = true reads photos alone" in str(result.exception)
