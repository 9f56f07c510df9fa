"""What two processes do in test_distributed.py: `python -m tests.training.two_processes TASK DATA FOLDER`.

Fabric's launcher starts the second process as it does for `fer train --devices 2`. The cases are also run by the test
itself, in one process with all samples of a step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.fsdp import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from fer_app.contract import Contract
from fer_app.errors import DatasetError, FerError
from tests.training.interrupted import Killed, KilledError
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.data.photo_stream import PhotoStream
from training.data.shard_list import count_archives, list_shards
from training.distillation import Teachers
from training.distributed import Processes, World, gather, gather_rows, launch
from training.ending import together
from training.fsdp import fsdp_strategy
from training.loop import LoopSettings, fit
from training.losses.info_nce_loss import MocoV3Loss
from training.losses.mscl_loss import MsclLoss
from training.mae_pretraining import MaePretraining
from training.margin_mix import MarginMix
from training.margin_mix_table import MarginMixTable
from training.mimic_finetuning import MimicFinetuning
from training.moco_pretraining import MocoPretraining
from training.pll_finetuning import PllFinetuning
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.shared_faces import once_a_machine

PLAIN = ("finetune.mix_prob=0.0", "model.drop_path_rate=0.0")
CASES: dict[str, tuple[str, ...]] = {
    "mae": (),
    "ce": (*PLAIN, "finetune.loss=ce"),
    "ce, balanced": (*PLAIN, "finetune.loss=ce", "finetune.balanced=true"),
    "mscl, gathered": (*PLAIN, "finetune.contrastive_gather=true", "finetune.contrastive_weight=5.0"),
    "mscl, apart": (*PLAIN, "finetune.contrastive_weight=5.0"),
    "pll": (
        *PLAIN,
        "finetune.loss=pll",
        "finetune.votes=shares",
        "finetune.views=1",
        "finetune.balanced=true",
        "finetune.pll.threshold=0.02",
        "finetune.label_decoder.num_heads=2",
        "finetune.label_decoder.ffn_dim=16",
        "finetune.label_decoder.dropout=0.0",
    ),
}
MIXED = ("model.drop_path_rate=0.3", "model.stem=conv", "model.stem_channels=[8, 8, 16, 16]")


class CpuFsdp(FSDPStrategy):
    """FSDP on a CPU, which Fabric refuses; torch's own does not, if it is told the device."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(
            module, sharding_strategy=self.sharding_strategy, device_id=torch.device("cpu"), **self._fsdp_kwargs
        )


class Finetuning(Killed, MimicFinetuning):
    """Stops before its n-th pass, as a killed process would."""


class Pretraining(Killed, MaePretraining):
    """The same."""


class FailingError(DatasetError):
    pass


class Failing(MimicFinetuning):
    """Fails in the second process alone, in the middle of a run."""

    rank, steps = 0, 0

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        self.steps += 1
        if self.rank == 1 and self.steps == 3:
            raise FailingError("the second process cannot read")
        return super().losses(model, samples, rng)


class Diverging(MimicFinetuning):
    """Has a loss that is not a number, in the second process alone."""

    rank = 0

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        terms = super().losses(model, samples, rng)
        return {**terms, "loss": terms["loss"] * (float("nan") if self.rank == 1 else 1)}


class FewLabels(MarginMix):
    """Keeps the centroids of every use."""

    used: list[Tensor]

    def _centroids(self, device: torch.device) -> Tensor:
        centroids = super()._centroids(device)
        self.used.append(centroids.clone())
        return centroids


def few_labels(data: Path) -> FewLabels:
    changes = ("finetune.labels=24", "finetune.epoch_steps=2", "finetune.epochs=2", "finetune.ema_decay=0.5")
    recipe = load_recipe("margin_mix/debug", list(changes))
    assert isinstance(recipe.finetune, MarginMixTable)
    target = FewLabels(recipe, recipe.finetune, load_ferplus(data, "train-main"), None, None)
    target.used = []
    return target


def finetuning(data: Path, kind: Any, *changes: str) -> Any:
    recipe = load_recipe("debug", list(changes))
    assert recipe.finetune is not None
    faces, selection = load_ferplus(data, "train-main", recipe.finetune.votes), load_ferplus(data, "dev")
    if recipe.finetune.balanced:  # something to balance: half of the classes but the first
        assert faces.targets is not None
        kept = (faces.targets.argmax(dim=1) == 0) | (torch.arange(len(faces)) % 2 == 0)
        faces = faces.subset(torch.nonzero(kept).flatten())
    return kind(recipe, recipe.finetune, faces, selection, None)


def streaming(shards: Path) -> Pretraining:
    recipe = load_recipe("debug", ["model.img_size=16"])
    assert recipe.pretrain is not None
    archives = sorted(shards.iterdir())
    listed = list_shards(archives, count_archives(archives, {}), None)
    return Pretraining(recipe, recipe.pretrain, PhotoStream(listed, 16, "gray", shuffle_buffer=16), None)


def objective(case: str, data: Path) -> Any:
    if case != "mae":
        return finetuning(data, PllFinetuning if case == "pll" else MimicFinetuning, *CASES[case])
    recipe = load_recipe("debug")
    assert recipe.pretrain is not None
    return MaePretraining(recipe, recipe.pretrain, load_ferplus(data, "train-main").images, None)


def settings(processes: int, **changes: Any) -> LoopSettings:
    """Steps of 32 samples: two processes with two passes of eight each, or one with two of 16 or one of 32."""
    plain: dict[str, Any] = {"epochs": 2, "batch_size": 32 // processes, "lr": 1e-3, "clip_grad": 1.0}
    return LoopSettings(**{**plain, "ema_decay": 0.9, "precision": "fp32", **changes})


def train(target: Any, folder: Path, fabric: Fabric, *, resume: bool = False, **changes: Any) -> dict[str, Tensor]:
    first = fabric.is_global_zero
    chosen = settings(fabric.world_size, **changes)
    fit(target, chosen, RunFolder(folder, make=first), fabric, Report(None), resume=resume)
    return dict(target.model.state_dict())


def equalities(data: Path, folder: Path, fabric: Fabric) -> None:
    """Run every case, a run with everything random, and the same after a kill."""
    for case in CASES:
        state = train(objective(case, data), folder / case, fabric)
        torch.save(state, folder / f"{case}-{fabric.global_rank}.pt")
    state = train(contrastive(data), folder / "moco", fabric, ema_decay=None)
    torch.save(state, folder / f"moco-{fabric.global_rank}.pt")
    accumulated = train(objective("mae", data), folder / "passes", fabric, batch_size=8, accumulate=2)
    torch.save(accumulated, folder / f"passes-{fabric.global_rank}.pt")

    whole = train(finetuning(data, Finetuning, *MIXED), folder / "whole", fabric, checkpoint_minutes=1e-9)
    torch.save(whole, folder / f"whole-{fabric.global_rank}.pt")
    killed = finetuning(data, Finetuning, *MIXED)
    killed.passes_left = 3
    try:
        train(killed, folder / "killed", fabric, checkpoint_minutes=1e-9)
    except KilledError:
        train(finetuning(data, Finetuning, *MIXED), folder / "killed", fabric, checkpoint_minutes=1e-9, resume=True)

    few = few_labels(data)
    state = train(few, folder / "few labels", fabric, batch_size=8)
    torch.save((state, few.used), folder / f"few labels-{fabric.global_rank}.pt")

    train(streaming(folder / "shards"), folder / "stream", fabric, checkpoint_minutes=1e-9)
    stopped = streaming(folder / "shards")
    stopped.passes_left = 4
    try:
        train(stopped, folder / "stream, killed", fabric, checkpoint_minutes=1e-9)
    except KilledError:
        train(streaming(folder / "shards"), folder / "stream, killed", fabric, resume=True)

    diverging = finetuning(data, Diverging)
    diverging.rank = fabric.global_rank
    try:
        train(diverging, folder / "diverged", fabric)
    except (FerError, SystemExit) as error:
        (folder / f"diverged-{fabric.global_rank}.txt").write_text(repr(error))


def shared(data: Path, folder: Path, fabric: Fabric) -> None:
    """Faces that the first process alone reads."""
    rank = fabric.global_rank

    def read() -> ImageSet:
        (folder / f"read-{rank}").touch()
        return load_ferplus(data, "train-main")

    faces = once_a_machine(fabric, read)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/fer-faces-" in line]
    (folder / f"maps-{rank}.txt").write_text("\n".join(maps))
    torch.save((faces.images, faces.targets, faces.names, faces.class_names), folder / f"shared-{rank}.pt")


def gathered_loss(folder: Path, fabric: Fabric) -> None:
    """The loss of four codes in each process, and its gradient after the mean over processes that DDP takes."""
    codes, targets = codes_and_targets()
    rank = World(fabric).rank
    weight = torch.eye(codes.shape[1], requires_grad=True)
    z = nn.functional.normalize(codes[4 * rank : 4 * rank + 4] @ weight, dim=1)
    loss = MsclLoss()(*gather(z, targets[4 * rank : 4 * rank + 4]))
    loss.backward()
    assert weight.grad is not None
    torch.save((loss.detach(), fabric.all_reduce(weight.grad, reduce_op="mean")), folder / f"loss-{rank}.pt")


def gathered_keys(folder: Path, fabric: Fabric) -> None:
    """MoCo v3's loss of four queries in each process against all keys, and its gradient after DDP's mean."""
    queries, keys = queries_and_keys()
    rank = World(fabric).rank
    own = slice(4 * rank, 4 * rank + 4)
    weight = torch.eye(5, requires_grad=True)
    asked = [nn.functional.normalize(view[own] @ weight, dim=1) for view in queries]
    (first, row), (second, _) = (gather_rows(view[own]) for view in keys)
    loss, _ = MocoV3Loss()((asked[0], asked[1]), (first, second), row)
    loss.backward()
    assert weight.grad is not None
    mean = fabric.all_reduce(loss.detach(), reduce_op="mean")
    torch.save((mean, fabric.all_reduce(weight.grad, reduce_op="mean")), folder / f"keys-{rank}.pt")


TAUGHT = (1, 9, 600)  # fewer than there are processes, no whole number of shares, several batches


class PixelTeachers(Teachers):
    """Teachers that answer by a face's first pixels."""

    def __init__(self, contract: Contract) -> None:
        self._networks, self._contract = [], contract

    def probs(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3].softmax(dim=1)


def answers(number: int) -> Tensor:
    """What such teachers say of so many faces."""
    pixels = torch.randint(256, (number, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    faces = ImageSet(pixels, None, tuple(map(str, range(number))), ())
    return PixelTeachers(load_recipe("debug").contract(("a", "b", "c"))).answers(faces, torch.device("cpu"))


def queries_and_keys() -> tuple[list[Tensor], list[Tensor]]:
    """Two views of eight codes each: queries, not of length 1 yet, and keys."""
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(8, 5, generator=generator) for _ in range(4)]
    return views[:2], [nn.functional.normalize(view, dim=1) for view in views[2:]]


def contrastive(data: Path) -> MocoPretraining:
    changes = ("method=moco_v3", "moco.mlp_dim=16", "moco.out_dim=8", "batch_size=16", "epochs=2")
    recipe = load_recipe("debug", [f"pretrain.{change}" for change in changes])
    assert recipe.pretrain is not None
    return MocoPretraining(recipe, recipe.pretrain, load_ferplus(data, "train-main").images, None)


def codes_and_targets() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = 4 * torch.randn(8, 3, generator=generator)
    return torch.randn(8, 5, generator=generator), targets.softmax(dim=1)


def fails(data: Path, folder: Path, fabric: Fabric) -> None:
    target = finetuning(data, Failing)
    target.rank = fabric.global_rank
    train(target, folder / "failing", fabric)


def shards(data: Path, folder: Path) -> None:
    """Train with weights in pieces, and once more with a kill in between."""
    # torch gathers Adam's moments one after the other in one buffer, and relies on this to copy them out of a GPU.
    torch.Tensor.cpu = lambda tensor: tensor.clone()  # type: ignore[method-assign, assignment]
    policy = fsdp_strategy()._fsdp_kwargs["auto_wrap_policy"]
    strategy = CpuFsdp(auto_wrap_policy=policy, state_dict_type="full")
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy, precision="32-true")
    fabric.launch()
    changes: dict[str, Any] = {"ema_decay": None, "checkpoint_minutes": 1e-9}
    with together(fabric):
        train(objective("mae", data), folder / "mae", fabric, ema_decay=None)
        train(finetuning(data, Finetuning, *MIXED[:1]), folder / "whole", fabric, **changes)
        killed = finetuning(data, Finetuning, *MIXED[:1])
        killed.passes_left = 3
        try:
            train(killed, folder / "killed", fabric, **changes)
        except KilledError:
            train(finetuning(data, Finetuning, *MIXED[:1]), folder / "killed", fabric, resume=True, **changes)


def main(task: str, data: Path, folder: Path) -> None:
    if task == "shards":
        shards(data, folder)
        return
    fabric = launch("fp32", Processes(devices=2, accelerator="cpu"))
    (folder / f"pid-{fabric.global_rank}").write_text(str(os.getpid()))
    with together(fabric):
        if task == "equalities":
            gathered_loss(folder, fabric)
            gathered_keys(folder, fabric)
            torch.save([answers(number) for number in TAUGHT], folder / f"answers-{fabric.global_rank}.pt")
            shared(data, folder, fabric)
            equalities(data, folder, fabric)
        elif task == "fail":
            fails(data, folder, fabric)
        elif task == "kill":
            if fabric.global_rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            World(fabric).highest(0)
            time.sleep(60)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except FerError as error:
        sys.stderr.write(f"fer: error: {error}\n")
        raise SystemExit(1) from error
