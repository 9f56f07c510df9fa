"""Folders of miniature recipes, and `fer sweep` over them."""

from __future__ import annotations

from pathlib import Path

from typer import Typer
from typer.testing import CliRunner, Result

from training.cli import train
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
