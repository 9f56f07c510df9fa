import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fer_app.errors import CheckpointError, DivergedError
from tests.training.interrupted import Killed, KilledError, rows
from training import report
from training.checkpoint import load_checkpoint
from training.data.ferplus import load_ferplus
from training.loop import LoopSettings, fit
from training.mimic_finetuning import MimicFinetuning
from training.progress_state import Progress
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.speed_probe import measure_speed

RECIPE = load_recipe("debug", ["model.drop_path_rate=0.3"])
SETTINGS = LoopSettings(
    epochs=3,
    batch_size=32,
    lr=1e-3,
    warmup_epochs=1,
    clip_grad=1.0,
    ema_decay=0.9,
    precision="fp32",
    checkpoint_minutes=1e-9,  # the state is saved after every step
)


class Interruptible(Killed, MimicFinetuning):
    """Stops before its n-th step, as a killed process would."""


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def objective(mini_ferplus: Path, kind: type[Interruptible] = Interruptible) -> Any:
    faces, selection = load_ferplus(mini_ferplus, "train-main"), load_ferplus(mini_ferplus, "dev")
    assert RECIPE.finetune is not None
    return kind(RECIPE, RECIPE.finetune, faces, selection, None)


def run(target: Interruptible, folder: Path, fabric: Fabric, *, resume: bool = False, **changes: Any) -> Progress:
    settings = LoopSettings(**{**vars(SETTINGS), **changes})
    return fit(target, settings, RunFolder(folder), fabric, Report(None), resume=resume)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_resumed_run_ends_bit_identical(mini_ferplus: Path, tmp_path: Path, fabric: Fabric, steps: int) -> None:
    run(objective(mini_ferplus), tmp_path / "whole", fabric)
    killed = objective(mini_ferplus)
    killed.passes_left = steps
    with pytest.raises(KilledError):
        run(killed, tmp_path / "killed", fabric)
    torch.rand(7)  # whatever state the global generator is in must not matter
    progress = run(objective(mini_ferplus), tmp_path / "killed", fabric, resume=True)

    assert progress.total_steps == 3 * 2  # 80 faces in batches of 32
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = (tmp_path / which / name for which in ("killed", "whole"))

        (a, info_a), (b, info_b) = load_checkpoint(ours), load_checkpoint(theirs)
        assert all(torch.equal(a[key], b[key]) for key in b)
        assert info_a.metrics == info_b.metrics
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


class KilledAfter(Interruptible):
    """Stops after an epoch's last step: before its checkpoints are written, or before its state is."""

    saves = False

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        if self.saves:
            super().save(folder, model, counters, figures)
        raise KilledError


@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["state after the last step", "no state yet"])
@pytest.mark.parametrize("saves", [False, True])
def test_killed_between_an_epochs_files(
    mini_ferplus: Path, tmp_path: Path, fabric: Fabric, minutes: float, saves: bool
) -> None:
    """The rows and the checkpoints of the epoch that is run or scored again must not be there twice, or stale."""
    run(objective(mini_ferplus), tmp_path / "whole", fabric, epochs=2)
    killed = objective(mini_ferplus, KilledAfter)
    killed.saves = saves
    with pytest.raises(KilledError):
        run(killed, tmp_path / "killed", fabric, epochs=2, checkpoint_minutes=minutes)
    assert (tmp_path / "killed" / "state.pt").exists() == (minutes < 1)
    run(objective(mini_ferplus), tmp_path / "killed", fabric, epochs=2, resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    for name in ("last.safetensors", "best.safetensors"):
        (a, _), (b, _) = (load_checkpoint(tmp_path / which / name) for which in ("killed", "whole"))
        assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("passes", [[16, 16], [12, 12, 8]])
def test_accumulated_passes_are_one_batch(
    mini_ferplus: Path, tmp_path: Path, fabric: Fabric, passes: list[int]
) -> None:
    """Without mixing and contrast, which see one pass, the gradient of a step is that of all its samples at once."""
    changes = ["model.drop_path_rate=0.0", "finetune.loss=ce", "finetune.mix_prob=0.0"]
    recipe = load_recipe("debug", changes)
    assert recipe.finetune is not None
    faces = load_ferplus(mini_ferplus, "train-main").subset(torch.arange(32))
    models = []
    for batch_size in (32, passes[0]):
        target = Interruptible(recipe, recipe.finetune, faces, None, None)
        seen = []
        target.model.get_submodule("encoder.blocks.0").register_forward_hook(lambda *a, s=seen: s.append(len(a[1][0])))
        name = str(batch_size)
        run(target, tmp_path / name, fabric, batch_size=batch_size, accumulate=-(-32 // batch_size), epochs=2)
        models.append(target.model.state_dict())
        assert [row["step"] for row in rows(tmp_path / name)] == [1, 1, 2, 2]
        assert seen == [2 * n for n in (passes if batch_size < 32 else [32])] * 2  # two views
    whole, parts = models
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: name + text)
    losses = [rows(tmp_path / str(size))[0]["loss"] for size in (32, passes[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_tells_where_the_stage_stands(
    mini_ferplus: Path, tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_LIVE_S", 0.0)
    monkeypatch.setattr(report, "_columns", lambda _: 200)
    told = Terminal()
    settings = LoopSettings(**{**vars(SETTINGS), "batch_size": 16})
    fit(objective(mini_ferplus), settings, RunFolder(tmp_path), fabric, Report(told))
    lines = [line for line in re.split(r"[\r\n]+", told.getvalue()) if line.strip()]
    live = [line for line in lines if ", lr " in line]
    figure, time_left = r"[\d.e+-]+", r"\d+:\d\d:\d\d left"
    for i, line in enumerate(live):
        begins = rf"epoch {i // 5 + 1}/3 step {i % 5 + 1}/5, {time_left}, \d+ images/s, lr {figure}, "
        assert re.fullmatch(begins + rf"loss {figure} ce {figure} contrastive {figure}", line), line
    assert len(live) == 15  # every step, not the log's
    assert float(live[4].partition("lr ")[2].partition(",")[0]) > 10 * float(live[0].partition("lr ")[2].split(",")[0])
    ends = [line for line in lines if ", lr " not in line]
    assert [re.fullmatch(rf"epoch \d/3 .* dev_accuracy .*\({time_left}\)", line) is not None for line in ends] == [
        True
    ] * 3


def test_seed_changes_the_run(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    run(objective(mini_ferplus), tmp_path / "a", fabric, epochs=1)
    run(objective(mini_ferplus), tmp_path / "b", fabric, epochs=1, seed=1)
    assert rows(tmp_path / "a") != rows(tmp_path / "b")


class Diverging(Interruptible):
    """Has a loss, or only a gradient, that is not finite from its fourth step on."""

    steps, only_gradient = 0, False

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        self.steps += 1
        terms = super().losses(model, samples, rng)
        if self.steps < 4:
            return terms
        zero = next(self.model.parameters()).sum() * 0
        return {**terms, "loss": terms["loss"] + (zero.sqrt() if self.only_gradient else zero / 0)}


@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved at every step", "saved at epochs"])
@pytest.mark.parametrize("only_gradient", [False, True])
def test_a_run_that_diverges_stops_and_keeps_the_good_state(
    mini_ferplus: Path, tmp_path: Path, fabric: Fabric, only_gradient: bool, minutes: float
) -> None:
    target = objective(mini_ferplus, Diverging)
    target.only_gradient = only_gradient
    with pytest.raises(DivergedError) as caught:
        run(target, tmp_path, fabric, epochs=5, batch_size=24, checkpoint_minutes=minutes)  # three steps an epoch
    # A gradient alone shows in the next step's loss, or in the weights where they are about to be saved.
    step = 4 if minutes < 1 or not only_gradient else 5
    loss = "weights are" if only_gradient and minutes < 1 else "loss is"
    said = f"the {loss} not finite {'after' if loss == 'weights are' else 'from'} step {step}"
    assert said in str(caught.value)
    assert f"the weights are in {tmp_path / 'diverged.safetensors'}" in str(caught.value)
    assert load_checkpoint(tmp_path / "diverged.safetensors")[1].kind == "classifier"
    *_, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert last["bad_step"] == step
    assert (last["diverged"]["loss"] == "nan") == (loss == "loss is")

    state = RunFolder(tmp_path).load_state()
    assert state is not None
    assert state["progress"]["total_steps"] == 3
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    run(objective(mini_ferplus), tmp_path, fabric, epochs=5, batch_size=24, resume=True)
    run(objective(mini_ferplus), tmp_path / "whole", fabric, epochs=5, batch_size=24)
    assert rows(tmp_path) == rows(tmp_path / "whole")
    assert not (tmp_path / "diverged.safetensors").exists()


def test_diverging_on_a_full_disk_is_still_told(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    tmp_path.joinpath("diverged.safetensors").mkdir()
    with pytest.raises(DivergedError, match=r"not finite from step 4 on .* loss nan, ce .*the weights are lost \("):
        run(objective(mini_ferplus, Diverging), tmp_path, fabric, checkpoint_minutes=60.0)


def test_measuring_the_speed_leaves_the_model_alone(mini_ferplus: Path, fabric: Fabric) -> None:
    target = objective(mini_ferplus)
    before = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
    assert measure_speed(target, SETTINGS, fabric).samples_per_s > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in target.model.state_dict().items())


def test_a_state_of_other_data_is_refused(mini_ferplus: Path, tmp_path: Path, fabric: Fabric) -> None:
    run(objective(mini_ferplus), tmp_path, fabric, epochs=1)
    target = objective(mini_ferplus)
    target._faces = target._faces.subset(torch.arange(1, 80))
    with pytest.raises(
        CheckpointError, match=r"not what the run in .* began with: 80 samples then, 79 now; other names"
    ):
        run(target, tmp_path, fabric, resume=True)
    state = RunFolder(tmp_path).load_state()
    assert state is not None
    del state["data"]  # as states once were
    RunFolder(tmp_path).save_state(state)
    assert run(objective(mini_ferplus), tmp_path, fabric, epochs=1, resume=True).epoch == 1


def test_damaged_state_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state({"progress": {"epoch": 1}})
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        folder.load_state()


@pytest.mark.parametrize("content", [b"", b"0", b"\x80\x02.", b"\x80\xfe)R.", b"garbage\n", bytes(range(128, 256))])
def test_a_state_that_is_no_state_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        RunFolder(tmp_path).load_state()


@pytest.mark.parametrize("state", [{}, {"model": {"w": torch.zeros(1)}}, [1]])
def test_a_state_of_something_else_is_an_error(mini_ferplus: Path, tmp_path: Path, fabric: Fabric, state: Any) -> None:
    RunFolder(tmp_path).save_state(state)
    with pytest.raises(CheckpointError, match="another program or recipe"):
        run(objective(mini_ferplus), tmp_path, fabric, resume=True)


@pytest.mark.parametrize("content", ["{", "[]\n", '{"step": 1}\n', '{"step": "a", "epoch": 0}\n', "\0\n"])
def test_damaged_small_files_are_errors(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(content)
    if content.endswith("\n"):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be taken up again"):
            folder.forget_after(1, 1)
    else:  # it was being written
        folder.forget_after(1, 1)
        assert (tmp_path / "metrics.jsonl").read_text() == ""
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"done\.json cannot be read"):
        folder.summary()


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: .*No space"):
        folder.log({"step": 1, "epoch": 0})
    (tmp_path / "done.json").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*done\.json: .*No space"):
        folder.finish({})


def test_unwritable_run_folder_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write to the run folder"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_precision_reaches_the_network(mini_ferplus: Path, tmp_path: Path, precision: Any, dtype: torch.dtype) -> None:
    """Also through `forward_train`, which Fabric's own autocast passes by."""
    target = objective(mini_ferplus)
    seen = []
    target.model.get_submodule("encoder.blocks.0.attn.qkv").register_forward_hook(lambda *a: seen.append(a[2].dtype))
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    target.passes_left = 5  # four to measure the speed, one to train
    measure_speed(target, SETTINGS, fabric)
    with pytest.raises(KilledError):
        run(target, tmp_path, fabric)
    assert len(seen) == 5
    assert set(seen) == {dtype}
