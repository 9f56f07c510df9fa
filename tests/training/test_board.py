import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import MissingExtraError
from training.cli import train
from training.run_folder import RunFolder

app = Typer()
app.command()(train)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a stand-in for TensorBoard's writer is given."""
    calls: list[tuple[Any, ...]] = []

    def writer(folder: str, purge_step: int | None) -> SimpleNamespace:
        calls.append(("open", folder, purge_step))
        return SimpleNamespace(
            add_scalar=lambda *given: calls.append(given), flush=lambda: None, close=lambda: calls.append(("close",))
        )

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def test_every_number_of_a_row_is_a_curve(tmp_path: Path, written: list[tuple[Any, ...]]) -> None:
    folder = RunFolder(tmp_path, tensorboard=True)
    folder.forget_after(7, 1)
    folder.log({"step": 8, "epoch": 1, "loss": 0.5})
    folder.log({"step": 9, "epoch": 1, "bad_step": 9, "diverged": {"loss": "nan"}})
    folder.finish({})
    assert written == [
        ("open", str(tmp_path / "tensorboard"), 8),
        ("epoch", 1, 8),
        ("loss", 0.5, 8),
        ("epoch", 1, 9),
        ("bad_step", 9, 9),
        ("close",),
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_it_is_off_unless_asked_for(tmp_path: Path, written: list[tuple[Any, ...]]) -> None:
    folder = RunFolder(tmp_path)
    folder.forget_after(0, 0)
    folder.log({"step": 1, "epoch": 0, "loss": 0.5})
    folder.finish({})
    assert written == []


def test_training_writes_both_stages(mini_ferplus: Path, tmp_path: Path, written: list[tuple[Any, ...]]) -> None:
    given = ["debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path), "--tensorboard"]
    result = CliRunner().invoke(app, [*given, "--set", "finetune.epochs=1"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    opened = [call[1:] for call in written if call[0] == "open"]
    assert opened == [(str(tmp_path / stage / "tensorboard"), None) for stage in ("pretrain", "finetune")]
    assert {"loss", "ce", "lr", "dev_accuracy"} <= {call[0] for call in written}


def test_without_the_package_the_run_does_not_start(
    mini_ferplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    given = ["debug", "--data", str(mini_ferplus), "--run-dir", str(tmp_path / "run"), "--tensorboard"]
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert not (tmp_path / "run").exists()
