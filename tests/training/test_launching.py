"""Starting processes, and what one process does with the same code: nothing here starts a second one."""

import contextlib
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import ConfigError, ProviderUnavailableError
from fer_app.worker_processes import at_most
from training import distributed
from training.cli import train as train_command
from training.distributed import Processes, World, launch
from training.fsdp import fsdp_strategy, need_plain_run
from training.loop import _finish_epoch, step_draws
from training.progress_state import Progress
from training.run_folder import RunFolder
from training.sampling import Share


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def test_the_control_group_waits_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first process counts shards or scores; torch's default is half an hour."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "new_group", lambda **given: asked.update(given))
    distributed._control_group.__wrapped__()
    assert asked["backend"] == "gloo"
    assert asked["timeout"] >= timedelta(days=1)


@pytest.mark.parametrize("said", ["Grad strides do not match bucket view strides. This may ...", "something else"])
def test_ddps_word_on_strides_without_meaning_is_left_out(said: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch("fp32", Processes(accelerator="cpu"))
        warnings.warn(said, UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == [said] * (said == "something else")


class Scored(nn.Linear):
    """Notes where it was moved to."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.moves: list[str] = []

    def to(self, *to: Any, **kind: Any) -> "Scored":
        self.moves.append(f"to {torch.device(*to, **kind)}")
        return self


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_put_together_in_main_memory_is_scored_on_the_device(
    tmp_path: Path, fabric: Fabric, fails: bool
) -> None:
    network: Any = Scored()
    objective, state = Mock(), Mock(progress=Progress())
    state.averaged.return_value = network
    objective.evaluate.side_effect = lambda model: model.moves.append("scored") or {}
    objective.save.side_effect = OSError if fails else lambda folder, model, *_: model.moves.append("saved")
    with contextlib.suppress(OSError):
        _finish_epoch(objective, state, RunFolder(tmp_path), World(fabric), torch.device("cuda:1"))
    assert network.moves == ["to cuda:1", "scored", *(["saved"] * (not fails)), "to cpu"]


class Drawing:
    draws_a_sample = 0


def test_draws_of_processes_differ_or_follow_each_other() -> None:
    drawing: Any = Drawing()
    apart, seeds = [], []
    for rank in (0, 1, 2):
        apart.append(step_draws(drawing, [0, 1, 2], 4, rank).random())
        seeds.append(torch.initial_seed())
    assert len(set(apart)) == len(set(seeds)) == 3
    drawing.draws_a_sample = 5
    whole = step_draws(drawing, [0, 1, 2], 12, 0).random((12, 5), dtype=np.float32)
    parts = [step_draws(drawing, [0, 1, 2], 4, rank).random((4, 5), dtype=np.float32) for rank in (0, 1, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_one_process_draws_as_it_always_did() -> None:
    drawing: Any = Drawing()
    ours = step_draws(drawing, [3, 1, 2], 4, 0)
    theirs = np.random.default_rng([3, 1, 2])
    assert torch.initial_seed() == int(theirs.integers(2**63))
    assert ours.random() == theirs.random()


def test_a_single_process_asks_nobody(fabric: Fabric) -> None:
    world = World(fabric)
    assert (world.rank, world.size) == (0, 1)
    assert world.first(lambda: 3) == 3
    assert world.highest(1, False) == (1, False)
    assert world.total(2.5) == 2.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "fsdp"}, "--strategy fsdp needs NVIDIA GPUs, and torch finds none here: use --strategy ddp"),
        ({"accelerator": "cuda"}, "--accelerator cuda: torch finds no NVIDIA GPU here; use cpu or auto"),
        ({"nodes": 2}, "--nodes 2: the machines cannot find each other without MASTER_ADDR, MASTER_PORT, NODE_RANK"),
    ],
)
def test_what_cannot_start_is_told_first(monkeypatch: pytest.MonkeyPatch, options: Any, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((ConfigError, ProviderUnavailableError)) as caught:
        launch("fp32", Processes(**options))
    assert str(caught.value).startswith(said)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ProviderUnavailableError, match="--devices 8: torch finds 2 GPUs here"):
        launch("fp32", Processes(devices=8))
    with pytest.raises(ProviderUnavailableError, match="--strategy fsdp needs NVIDIA GPUs, and --accelerator is cpu"):
        launch("fp32", Processes(strategy="fsdp", accelerator="cpu"))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--devices", "0", "'0' is neither a number of processes nor auto"),
        ("--devices", "two", "'two' is neither a number of processes nor auto"),
        ("--strategy", "dp", "'dp' is none of auto, ddp, fsdp"),
        ("--accelerator", "gpu", "'gpu' is none of auto, cpu, cuda"),
        ("--nodes", "0", "greater than or equal to 1"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, option: str, value: str, said: str) -> None:
    app = Typer()
    app.command()(train_command)
    result = CliRunner().invoke(app, ["debug", "--data", str(tmp_path), option, value])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_what_fsdp_was_not_made_for() -> None:
    need_plain_run(ema=False, compiles=False, checkpoints_activations=False)
    with pytest.raises(ConfigError, match=r"--strategy fsdp does not go with ema_decay, compile: turn that off"):
        need_plain_run(ema=True, compiles=True, checkpoints_activations=False)


def test_pieces_are_computed_with_as_the_whole_is() -> None:
    """Rounded to bf16, a mask's random numbers would be other ones, and gradients would add up less well."""
    kept = fsdp_strategy().mixed_precision_config
    assert kept is not None
    assert (kept.param_dtype, kept.reduce_dtype, kept.buffer_dtype) == (None, None, None)
    assert not kept.cast_root_forward_inputs


@pytest.mark.parametrize(("backend", "world", "shared"), [("nccl", 2, True), ("gloo", 2, False), ("nccl", 1, False)])
def test_batch_norms_are_shared_where_the_run_computes_on_gpus(
    monkeypatch: pytest.MonkeyPatch, backend: str, world: int, shared: bool
) -> None:
    """Whether there is a GPU in the machine is another question: `--accelerator cpu` leaves it alone."""
    monkeypatch.setattr(distributed, "own_share", lambda: Share(0, world))
    monkeypatch.setattr(distributed.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = distributed.synchronised(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in made.modules()) == shared


def test_float32_is_float32_on_gpus_too(monkeypatch: pytest.MonkeyPatch, fabric: Fabric) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(distributed, "Fabric", Mock(return_value=fabric))
    launch("fp32", Processes(devices=1, accelerator="cpu"))
    assert not torch.backends.cudnn.allow_tf32


def test_a_pool_has_as_many_processes_as_its_system_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [at_most(number) for number in (3, 200)] == [3, 200]
    monkeypatch.setattr("fer_app.worker_processes.sys.platform", "win32")
    assert [at_most(number) for number in (3, 200)] == [3, 61]
