"""What a run tells before a stage begins: its size, its speed, the disk and the hours that it will take."""

from __future__ import annotations

from lightning.fabric import Fabric

from training.disk_space import need_disk_space
from training.distributed import World
from training.evaluation import has_bf16
from training.loop import LoopSettings
from training.objective import Objective
from training.recipe import Recipe, Stage
from training.report import Report, clock
from training.run_folder import RunFolder
from training.speed_probe import bf16_slowdown, measure_speed

_SLOW = 1.3  # matrix products in bf16, of float32's time


def need_room(stage: Stage, folder: RunFolder, objective: Objective, settings: LoopSettings, report: Report) -> None:
    """Say how much of the disk the stage may take.

    Raises:
        CheckpointError: there is less.
    """
    needed = need_disk_space(folder, objective.model, ema=settings.ema_decay is not None)
    report.line(f"{stage}: up to {needed / 1e9:.2f} GB on the disk of {folder.path}")


def announce(
    stage: Stage, recipe: Recipe, objective: Objective, settings: LoopSettings, fabric: Fabric, report: Report
) -> None:
    """Say what is about to run and how long it will take."""
    parameters = sum(p.numel() for p in objective.model.parameters())
    world = World(fabric)
    whole = settings.samples_a_step * world.size
    epoch = objective.start_epoch(0, settings.samples_a_step, world.share)
    batch, steps = epoch.batch * world.size, len(epoch)  # not always what was asked for: an epoch may be short
    rate, peak = measure_speed(objective, settings, fabric)
    whose = "of the process" if fabric.device.type == "cpu" else f"on {fabric.device}"
    memory = f"; peak memory {peak / 1e9:.2f} GB {whose}" if peak is not None else ""
    where = f"{world.size} x {fabric.device.type}" if world.size > 1 else str(fabric.device)
    duration = settings.epochs * steps * batch / rate
    views = f" of {objective.views} views" if objective.views > 1 else ""
    report.line(
        f"{recipe.name} / {stage}: {parameters / 1e6:.2f} M parameters on {where} ({settings.precision}), "
        f"{objective.num_samples} images, {settings.epochs} epochs x {steps} steps x {batch} images{views}; "
        f"{rate:.0f} images/s, about {clock(duration)}{memory}"
    )
    table = recipe.pretrain if stage == "pretrain" else recipe.finetune
    assert table is not None
    short = f", cut to {batch} by the length of an epoch" if batch < whole else ""
    report.line(
        f"batch_size {settings.batch_size} x accumulate {settings.accumulate} x processes {world.size} = "
        f"{whole} images a step{short}; learning rate {settings.lr:g} = base_lr {table.base_lr:g} x {whole} / 256"
    )
    if (
        settings.precision == "bf16"
        and fabric.device.type == "cpu"
        and (slower := bf16_slowdown(fabric.device)) > _SLOW
    ):
        report.line(
            f"bf16 is slow on this processor: its matrix products take {slower:.1f} times as long as in float32; "
            "a run with --set precision=fp32 is likely to be faster"
        )
    if settings.precision == "bf16" and not has_bf16(fabric.device):
        report.line(
            "this GPU has no bf16, which is emulated there, and slow; a run with --set precision=fp32 is likely to be "
            "faster"
        )
