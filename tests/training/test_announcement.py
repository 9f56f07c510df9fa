"""What is told before a stage begins agrees with what it does."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from fer_app.errors import ConfigError
from training import announcement
from training.announcement import announce
from training.data.ferplus import load_ferplus
from training.loop import LoopSettings
from training.mimic_finetuning import MimicFinetuning
from training.recipe_files import load_recipe
from training.report import Report
from training.sampling import IndexedEpoch, Share, epoch_order
from training.speed_probe import Speed, bf16_slowdown

SETTINGS = LoopSettings(epochs=6, batch_size=16, accumulate=2, lr=1e-3, precision="fp32")


def told(data: Path, monkeypatch: pytest.MonkeyPatch, *changes: str, settings: LoopSettings = SETTINGS) -> list[str]:
    """Return the lines for a machine that does ten images a second."""
    recipe = load_recipe("debug", list(changes))
    assert recipe.finetune is not None
    target: Any = MimicFinetuning(recipe, recipe.finetune, load_ferplus(data, "train-main"), None, None)
    monkeypatch.setattr(announcement, "measure_speed", lambda *_: Speed(10.0, None))
    stream = io.StringIO()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    announce("finetune", recipe, target, settings, fabric, Report(stream))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("changes", "plan", "step", "duration"),
    [
        ((), "80 images, 6 epochs x 2 steps x 32 images", "32 images a step;", "0:00:38"),
        (
            ("finetune.balanced=true", "finetune.epoch_samples=18"),
            "80 images, 6 epochs x 1 steps x 18 images",
            "32 images a step, cut to 18 by the length of an epoch;",
            "0:00:11",
        ),
        (
            ("finetune.balanced=true", "finetune.epoch_samples=70"),
            "80 images, 6 epochs x 2 steps x 32 images",
            "32 images a step;",
            "0:00:38",
        ),
    ],
)
def test_both_lines_are_those_of_the_epoch(
    mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...], plan: str, step: str, duration: str
) -> None:
    first, second = told(mini_ferplus, monkeypatch, *changes)
    assert f"{plan} of 2 views; 10 images/s, about {duration}" in first
    assert re.search(rf"processes 1 = {step} learning rate", second)


def test_an_epoch_shorter_than_the_processes_are_many() -> None:
    assert IndexedEpoch(epoch_order(0, 0, 80, 3), Share(2, 3)).batch == 1
    with pytest.raises(ConfigError, match=r"an epoch of 2 samples is too short for 3 processes: start fewer, or raise"):
        IndexedEpoch(epoch_order(0, 0, 2, 8), Share(2, 3))


@pytest.mark.parametrize(
    ("slowdown", "precision", "warned"), [(1.9, "bf16", True), (0.3, "bf16", False), (1.9, "fp32", False)]
)
def test_slow_bf16_is_told(
    mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch, slowdown: float, precision: str, warned: bool
) -> None:
    monkeypatch.setattr(announcement, "bf16_slowdown", lambda _: slowdown)
    lines = told(mini_ferplus, monkeypatch, settings=dataclasses.replace(SETTINGS, precision=precision))
    assert (
        any("take 1.9 times as long as in float32; a run with --set precision=fp32" in line for line in lines) == warned
    )


def test_arithmetics_are_compared_by_what_they_take() -> None:
    assert 0.01 < bf16_slowdown(torch.device("cpu")) < 100
