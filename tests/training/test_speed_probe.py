"""How a network computes may be chosen, and what it costs is measured; what it computes must stay the same."""

import copy
import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from fer_app.errors import ConfigError
from models.conv_stem import ConvStem
from models.vit import Blocks
from training.data.ferplus import load_ferplus
from training.loop import LoopSettings, fit, prepare_model
from training.mae_pretraining import MaePretraining
from training.memory import peak_bytes, reset_peak
from training.mimic_finetuning import MimicFinetuning
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.speed_probe import measure_speed

HYBRID = ["model.stem=conv", "model.stem_channels=[8, 8, 16, 16]", "model.drop_path_rate=0.3"]
SETTINGS = LoopSettings(epochs=2, batch_size=40, lr=1e-3, clip_grad=1.0, precision="fp32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def finetuning(mini_ferplus: Path, *changes: str) -> MimicFinetuning:
    recipe = load_recipe("debug", list(changes))
    assert recipe.finetune is not None
    return MimicFinetuning(recipe, recipe.finetune, load_ferplus(mini_ferplus, "train-main"), None, None)


def losses(objective: Any, folder: Path, fabric: Fabric, **changes: Any) -> list[float]:
    settings = LoopSettings(**{**vars(SETTINGS), **changes})
    fit(objective, settings, RunFolder(folder), fabric, Report(None))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_checkpointed_activations_change_nothing(
    mini_ferplus: Path, tmp_path: Path, fabric: Fabric, stage: str
) -> None:
    """Not even which blocks stochastic depth leaves out."""
    states, told = [], []
    for asked in (False, True):
        objective: Any = finetuning(mini_ferplus, "model.drop_path_rate=0.5")
        if stage == "pretrain":
            recipe = load_recipe("debug", ["pretrain.reconstructions_every=0"])  # a forward pass more
            assert recipe.pretrain is not None
            objective = MaePretraining(recipe, recipe.pretrain, objective._faces.images, None)
        calls: list[int] = []
        block = next(m for m in objective.model.modules() if isinstance(m, Blocks))[1]
        block.register_forward_pre_hook(lambda *a, calls=calls: calls.append(1))
        told.append(losses(objective, tmp_path / str(asked), fabric, checkpoint_activations=asked))
        assert len(calls) == 4 * (2 if asked else 1)  # steps
        states.append(objective.model.state_dict())
    assert told[0] == told[1]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_blocks_and_stem_are_compiled_and_copies_are_not(mini_ferplus: Path) -> None:
    model = finetuning(mini_ferplus, *HYBRID).model
    prepare_model(model, LoopSettings(**{**vars(SETTINGS), "compile": True}), CPU)
    compiled = {type(module) for module in model.modules() if module._compiled_call_impl is not None}
    assert compiled == {Blocks, ConvStem}
    average = copy.deepcopy(model)  # which is only scored
    assert all(module._compiled_call_impl is None for module in average.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_training_agrees(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    changes = [*HYBRID[:2], "finetune.mix_prob=0.0"]
    plain = losses(finetuning(mini_ferplus, *changes), tmp_path / "plain", fabric)
    compiled = losses(finetuning(mini_ferplus, *changes), tmp_path / "compiled", fabric, compile=True)
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_a_machine_that_cannot_compile_is_told_before_the_run(
    mini_ferplus: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nmany lines")

    monkeypatch.setattr(Blocks, "forward", fail)
    with pytest.raises(ConfigError, match=r"compile = true: torch cannot compile on this machine: no compiler$"):
        measure_speed(finetuning(mini_ferplus), SETTINGS, fabric)


def test_the_peak_is_that_of_the_stretch() -> None:
    held = peak_bytes(CPU)
    assert held is not None
    reset_peak(CPU)
    base = peak_bytes(CPU)
    size = 64 << 20
    with mmap.mmap(-1, size) as pages:  # fresh ones: the allocator may have kept freed memory that is already counted
        pages.write(b"x" * size)
    peak = peak_bytes(CPU)
    assert base is not None
    assert peak is not None
    assert peak - base > 0.8 * size


def test_measuring_tells_speed_and_memory(mini_ferplus: Path, fabric: Fabric) -> None:
    speed = measure_speed(finetuning(mini_ferplus), SETTINGS, fabric)
    assert speed.samples_per_s > 0
    assert speed.peak_bytes is not None
    assert speed.peak_bytes > 100e6  # torch alone
