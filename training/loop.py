"""The training loop, shared by every stage.

One pass reads top to bottom: order, learning rate, loss, step, average, log, save. Every random draw is a function of
(seed, epoch, step or sample), so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.fsdp import FSDPStrategy
from timm.layers import Attention
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fer_app.stop_signals import StopSignals
from models.conv_stem import ConvStem
from models.vit import Blocks
from training.distributed import World
from training.fsdp import ShardedWeights, is_sharded
from training.interruption import RunInterruptedError
from training.objective import Objective
from training.progress_state import PlainWeights, Progress, ProgressState
from training.report import Report, clock
from training.run_folder import RunFolder
from training.running_means import RunningMeans
from training.sampling import Epoch
from training.schedule import warmup_cosine

LOG_EVERY_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how to optimise.

    Attributes:
        epochs: passes over the samples.
        batch_size: samples of one forward and backward pass, of one process.
        accumulate: passes whose gradients make one step; the last, smaller step of an epoch is left out.
        lr: peak learning rate.
        min_lr: learning rate at the end of the cosine.
        warmup_epochs: length of the linear warm-up.
        optimizer: `adamw` (decoupled weight decay) or `adam` (L2 added to the gradient).
        betas: Adam's moments.
        clip_grad: largest norm of the whole gradient; None for no limit.
        ema_decay: decay a step of the moving average of the weights; None for none.
        seed: of every random draw.
        precision: `bf16` (autocast) or `fp32`.
        checkpoint_minutes: the state is saved at least this often, and after each epoch.
        compile: whether torch compiles the blocks and the convolutional stem.
        checkpoint_activations: whether blocks are computed again on the way back, to save memory.
    """

    epochs: int
    batch_size: int
    lr: float
    accumulate: int = 1
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    precision: str = "bf16"
    checkpoint_minutes: float = 5.0
    compile: bool = False
    checkpoint_activations: bool = False

    @property
    def samples_a_step(self) -> int:
        """Samples of one optimiser step, of one process."""
        return self.batch_size * self.accumulate


def make_optimizer(groups: list[dict[str, Any]], settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser; each group's learning rate is set before every step."""
    kind: type[torch.optim.Adam] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    # In one pass over the weights; the default takes a dozen for each of them.
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=True)


def prepare_model(model: nn.Module, settings: LoopSettings, device: torch.device) -> None:
    """Choose how the network computes, not what: attention, activations that are kept, compilation.

    On a CPU the plain attention is taken: for the few tokens of a face, the fused one's backward pass costs far more.
    Measured on ViT-Tiny with 36 tokens in bf16: 1.7 times the plain one's time for a whole training step.
    """
    for module in model.modules():
        if isinstance(module, Attention) and device.type == "cpu":
            module.fused_attn = False
        if isinstance(module, Blocks):
            module.grad_checkpointing = settings.checkpoint_activations
        # Not the whole model: its losses call methods beside `forward`, and masking differs from step to step.
        if isinstance(module, Blocks | ConvStem) and settings.compile:
            module.compile()


def mark_forward_methods(model: Any, objective: Objective) -> None:
    """Tell Fabric which methods run under its precision, as `forward` does."""
    for name in objective.forward_methods:
        model.mark_forward_method(name)


def fit(
    objective: Objective,
    settings: LoopSettings,
    folder: RunFolder,
    fabric: Fabric,
    report: Report,
    *,
    resume: bool = False,
) -> Progress:
    """Train until `settings.epochs` are done; with `resume`, from the folder's saved state.

    Raises:
        DivergedError: a loss or a weight that is not finite; what was saved before stays.
        CheckpointError: a state that cannot be read or written.
        RunInterruptedError: SIGTERM or SIGINT arrived; the state is saved.
    """
    world = World(fabric)
    report = report if world.rank == 0 else Report(None)
    prepare_model(objective.model, settings, fabric.device)
    whole = copy.deepcopy(objective.model) if isinstance(fabric.strategy, FSDPStrategy) else objective.model
    plain = make_optimizer(objective.param_groups(), settings)
    model, optimizer = fabric.setup(objective.model, plain)
    mark_forward_methods(model, objective)
    weights = ShardedWeights(whole, model, plain) if is_sharded(model) else PlainWeights(objective.model, plain)
    averages = settings.ema_decay is not None and world.rank == 0
    ema = ModelEmaV3(objective.model, decay=settings.ema_decay, use_warmup=True) if averages else None
    state = ProgressState(objective, weights, ema, folder, world)
    if resume and state.restore():
        report.line(f"resumed at epoch {state.progress.epoch + 1}, step {state.progress.step}")
    progress, means = state.progress, state.means
    world.first(folder.forget_after, progress.total_steps, progress.epoch)

    saved = started = time.monotonic()
    with StopSignals() as stop:
        for epoch in range(progress.epoch, settings.epochs):
            batches = objective.start_epoch(epoch, settings.samples_a_step, world.share)
            model.train()
            steps = _steps(objective, settings, model, optimizer, fabric, batches, epoch, progress.step)
            for step, samples, losses in steps:
                progress.step, progress.total_steps = step + 1, progress.total_steps + 1
                if ema is not None:
                    ema.update(objective.model, step=progress.total_steps)
                now = time.monotonic()
                progress.seconds, started = progress.seconds + now - started, now
                means.add(world.mean(losses), samples * world.size, progress.seconds)
                if progress.step % LOG_EVERY_STEPS == 0 or progress.step == len(batches):
                    state.check_finite()
                    row = means.take()
                    logged = {"step": progress.total_steps, "epoch": epoch, "lr": _lr(optimizer), **row}
                    world.first(folder.log, logged)
                report.progress(functools.partial(_live_line, progress, settings, means, optimizer, len(batches)))
                # A signal may reach any process, and clocks differ: all have to do the same.
                is_due = world.rank == 0 and now - saved > 60 * settings.checkpoint_minutes
                received, due = world.highest(stop.received or 0, is_due)
                if received or due:
                    state.save()
                    saved = time.monotonic()
                if received:
                    raise RunInterruptedError(received, epoch, progress.step)
            progress.epoch, progress.step = epoch + 1, 0
            _finish_epoch(objective, state, folder, world, fabric.device)
            state.save()
            saved = time.monotonic()
            report.line(_epoch_line(progress, settings, means))
            if received := world.highest(stop.received or 0)[0]:
                raise RunInterruptedError(received, progress.epoch, 0)
    return progress


def _finish_epoch(
    objective: Objective, state: ProgressState, folder: RunFolder, world: World, device: torch.device
) -> None:
    """Score the network and write the stage's checkpoints, in the first process."""
    progress, network = state.progress, state.averaged()

    def score() -> dict[str, float]:
        # What was put together from pieces lies in main memory, and goes back there to leave the GPU its room.
        home = next(network.parameters()).device
        network.to(device)
        try:
            figures = objective.evaluate(network)
            folder.log({"step": progress.total_steps, "epoch": progress.epoch, **figures})
            objective.save(folder, network, progress.counters(), figures)
        finally:
            network.to(home)
        return figures

    progress.figures = world.first(score)


def _steps(
    objective: Objective,
    settings: LoopSettings,
    model: Any,  # Fabric's wrapper
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batches: Epoch,
    epoch: int,
    first: int,
) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
    """Take the epoch's optimiser steps from `first` on, giving each step's number, samples and terms."""
    for step, samples in enumerate(batches.starting_at(first), first):
        lr = warmup_cosine(
            epoch + step / len(batches),
            epochs=settings.epochs,
            warmup_epochs=settings.warmup_epochs,
            peak=settings.lr,
            floor=settings.min_lr,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        rng = step_draws(objective, [settings.seed, epoch, step], len(samples), fabric.global_rank)
        terms: dict[str, Tensor] = {}
        parts = [samples[i : i + settings.batch_size] for i in range(0, len(samples), settings.batch_size)]
        for i, part in enumerate(parts):
            with fabric.no_backward_sync(model, enabled=i + 1 < len(parts)):
                # Fabric's own autocast covers `forward` alone, and not the methods that are marked beside it.
                with fabric.autocast():
                    losses = objective.losses(model, part, rng)
                weight = len(part) / len(samples)  # the last part may be smaller
                fabric.backward(losses["loss"] * weight if len(parts) > 1 else losses["loss"])
            for name, term in losses.items():
                terms[name] = terms[name] + term.detach() * weight if name in terms else term.detach() * weight
        if settings.clip_grad is not None and is_sharded(model):
            fabric.clip_gradients(model, optimizer, max_norm=settings.clip_grad, error_if_nonfinite=False)
        elif settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step, len(samples), terms


def step_draws(objective: Objective, key: list[int], samples: int, rank: int) -> np.random.Generator:
    """Return what a process's pass draws from, and seed torch's generator for the draws inside the network.

    Where every sample has its own draws, each process takes up those of its share, so that a step of several
    processes is one of a single process with all their samples. Else processes draw apart.

    Args:
        objective: says how it draws.
        key: seed, epoch and step.
        samples: of this process's step.
        rank: the process.
    """
    rng = np.random.default_rng(key)
    seed = rng.integers(2**63)
    if rank > 0:
        own = np.random.default_rng([*key, rank])
        seed = own.integers(2**63)
        if objective.draws_a_sample:
            rng.random((rank * samples, objective.draws_a_sample), dtype=np.float32)  # those of the shares before
        else:
            rng = own
    torch.manual_seed(int(seed))  # stochastic depth
    return rng


def _epoch_line(progress: Progress, settings: LoopSettings, means: RunningMeans) -> str:
    left = progress.seconds / progress.epoch * (settings.epochs - progress.epoch)
    values = _values({**means.last, **progress.figures})
    return f"epoch {progress.epoch}/{settings.epochs} {values} ({clock(left)} left)"


def _live_line(
    progress: Progress, settings: LoopSettings, means: RunningMeans, optimizer: torch.optim.Optimizer, steps: int
) -> str:
    """Return where the stage stands; it waits for the device, so it is not called at every step."""
    row = dict(means.peek())
    left = progress.seconds / progress.total_steps * (settings.epochs * steps - progress.total_steps)
    rate = row.pop("images_per_s")
    return (
        f"epoch {progress.epoch + 1}/{settings.epochs} step {progress.step}/{steps}, {clock(left)} left, "
        f"{rate:.0f} images/s, lr {_lr(optimizer):.3g}, {_values(row)}"
    )


def _lr(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[-1]["lr"])


def _values(row: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in row.items())
