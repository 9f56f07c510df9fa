"""The training loop, shared by every stage.

One pass reads top to bottom: order, learning rate, loss, step, average, log, save. Every random draw is a function of
(seed, epoch, step or sample), so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from timm.layers import Attention
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fer_app.errors import CheckpointError, DivergedError
from training.report import Report
from training.run_folder import RunFolder
from training.schedule import warmup_cosine

LOG_EVERY_STEPS = 20
_PROBE_STEPS = 4


class Objective(Protocol):
    """What a stage trains: a model, its samples, and the loss of a batch of them.

    Attributes:
        model: is trained in place.
        num_samples: how many samples an epoch has.
        views: pictures a sample.
        forward_methods: the model's methods beside `forward` that `losses` calls.
    """

    model: nn.Module
    num_samples: int
    forward_methods: tuple[str, ...]

    @property
    def views(self) -> int: ...  # noqa: D102 - described above

    def param_groups(self) -> list[dict[str, Any]]:
        """Return optimiser groups, each with `lr_scale`."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare what is drawn once an epoch."""

    def losses(self, model: nn.Module, indices: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return scalar terms of the batch; `loss` is the one that is minimised."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return figures on the selection split, or nothing."""

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the stage's checkpoint(s)."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how to optimise.

    Attributes:
        epochs: passes over the samples.
        batch_size: samples of one forward and backward pass.
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

    @property
    def samples_a_step(self) -> int:
        """Samples of one optimiser step, of one process."""
        return self.batch_size * self.accumulate


@dataclass
class Progress:
    """Where a run stands: `step` counts within the epoch, `total_steps` from the start."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


def epoch_order(seed: int, epoch: int, num_samples: int, batch_size: int) -> Tensor:
    """Return what each step of the epoch sees: int64, (steps, batch), a permutation of seed and epoch alone."""
    batch = min(batch_size, num_samples)
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num_samples))
    steps = num_samples // batch
    return order[: steps * batch].reshape(steps, batch)


def make_optimizer(objective: Objective, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser; each group's learning rate is set before every step."""
    kind: type[torch.optim.Adam] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    return kind(objective.param_groups(), lr=settings.lr, betas=settings.betas)


def use_fast_attention(model: nn.Module, device: torch.device) -> None:
    """Take the plain attention on a CPU: for the few tokens of a face, the fused one's backward pass costs far more.

    Measured on ViT-Tiny with 36 tokens in bf16: 1.7 times the plain one's time for a whole training step.
    """
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused_attn = False


def measure_speed(objective: Objective, settings: LoopSettings, fabric: Fabric) -> float:
    """Return samples/s of forward and backward on a copy of the model; the run itself is untouched."""
    use_fast_attention(objective.model, fabric.device)
    model = fabric.setup_module(copy.deepcopy(objective.model))
    _mark_forward_methods(model, objective)
    model.train()
    batches = epoch_order(settings.seed, 0, objective.num_samples, settings.batch_size)
    started, done = 0.0, 0
    objective.start_epoch(0)
    for i in range(_PROBE_STEPS):
        batch = batches[i % len(batches)]
        with fabric.autocast():
            losses = objective.losses(model, batch, np.random.default_rng(0))
        fabric.backward(losses["loss"])
        if i == 0:  # the first step allocates
            started = _time_when_done(losses)
        else:
            done += len(batch)
    return done / (_time_when_done(losses) - started)


def _time_when_done(losses: dict[str, Tensor]) -> float:
    """Return the time, in s, when the device has done all that was asked of it: a GPU is only given work."""
    losses["loss"].item()
    return time.perf_counter()


def _mark_forward_methods(model: Any, objective: Objective) -> None:
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
        DivergedError: a loss that is not finite.
        CheckpointError: a state that cannot be read or written.
    """
    use_fast_attention(objective.model, fabric.device)
    model, optimizer = fabric.setup(objective.model, make_optimizer(objective, settings))
    _mark_forward_methods(model, objective)
    ema = ModelEmaV3(objective.model, decay=settings.ema_decay, use_warmup=True) if settings.ema_decay else None
    progress, means = Progress(), _Means()
    if resume and (state := folder.load_state()) is not None:
        try:
            objective.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if ema is not None:
                ema.load_state_dict(state["ema"])
            progress = Progress(**state["progress"])
            means.restore(state["means"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the state in {folder.path} is of another program or recipe: {error!r}") from error
        report.line(f"resumed at epoch {progress.epoch}, step {progress.step}")
    folder.forget_after(progress.total_steps, progress.epoch)
    averaged: nn.Module = ema.module if ema is not None else objective.model

    saved = started = time.monotonic()
    for epoch in range(progress.epoch, settings.epochs):
        objective.start_epoch(epoch)
        batches = epoch_order(settings.seed, epoch, objective.num_samples, settings.samples_a_step)
        model.train()
        for step, losses in _steps(objective, settings, model, optimizer, fabric, batches, epoch, progress.step):
            progress.step, progress.total_steps = step + 1, progress.total_steps + 1
            if ema is not None:
                ema.update(objective.model, step=progress.total_steps)
            now = time.monotonic()
            progress.seconds, started = progress.seconds + now - started, now
            means.add(losses, len(batches[step]), progress.seconds)
            if progress.step % LOG_EVERY_STEPS == 0 or progress.step == len(batches):
                row = means.take(epoch, progress.total_steps)
                lr = optimizer.param_groups[-1]["lr"]
                folder.log({"step": progress.total_steps, "epoch": epoch, "lr": lr, **row})
                report.live(f"epoch {epoch + 1}/{settings.epochs} step {step + 1}/{len(batches)} {_values(row)}")
            if now - saved > 60 * settings.checkpoint_minutes:
                _save_state(folder, objective, optimizer, ema, progress, means)
                saved = time.monotonic()
        progress.epoch, progress.step = epoch + 1, 0
        progress.figures = objective.evaluate(averaged)
        folder.log({"step": progress.total_steps, "epoch": progress.epoch, **progress.figures})
        counters = {"epochs": progress.epoch, "steps": progress.total_steps, "seconds": round(progress.seconds)}
        objective.save(folder, averaged, counters, progress.figures)
        _save_state(folder, objective, optimizer, ema, progress, means)
        saved = time.monotonic()
        report.line(_epoch_line(progress, settings, means))
    return progress


def _steps(
    objective: Objective,
    settings: LoopSettings,
    model: Any,  # Fabric's wrapper
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batches: Tensor,
    epoch: int,
    first: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Take the epoch's optimiser steps from `first` on, giving each step's terms."""
    for step in range(first, len(batches)):
        lr = warmup_cosine(
            epoch + step / len(batches),
            epochs=settings.epochs,
            warmup_epochs=settings.warmup_epochs,
            peak=settings.lr,
            floor=settings.min_lr,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        rng = np.random.default_rng([settings.seed, epoch, step])
        torch.manual_seed(int(rng.integers(2**63)))  # stochastic depth, masking
        terms: dict[str, Tensor] = {}
        parts = [batches[step][i : i + settings.batch_size] for i in range(0, batches.shape[1], settings.batch_size)]
        for i, part in enumerate(parts):
            with fabric.no_backward_sync(model, enabled=i + 1 < len(parts)):
                # Fabric's own autocast covers `forward` alone, and not the methods that are marked beside it.
                with fabric.autocast():
                    losses = objective.losses(model, part, rng)
                share = len(part) / len(batches[step])  # the last part may be smaller
                fabric.backward(losses["loss"] * share if len(parts) > 1 else losses["loss"])
            for name, term in losses.items():
                terms[name] = terms[name] + term.detach() * share if name in terms else term.detach() * share
        if settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step, terms


def _save_state(
    folder: RunFolder,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    ema: ModelEmaV3 | None,
    progress: Progress,
    means: _Means,
) -> None:
    folder.save_state(
        {
            "model": objective.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema.state_dict() if ema is not None else None,
            "progress": vars(progress),
            "means": means.state(),
        }
    )


class _Means:
    """Means of the terms since the last row, summed on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._since = self._now = 0.0
        self.last: dict[str, float] = {}

    def add(self, losses: dict[str, Tensor], samples: int, seconds: float) -> None:
        for name, term in losses.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._steps, self._samples, self._now = self._steps + 1, self._samples + samples, seconds

    def state(self) -> dict[str, Any]:
        return {"sums": self._sums, "steps": self._steps, "samples": self._samples, "since": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        self._sums, self._steps = dict(state["sums"]), state["steps"]
        self._samples, self._since = state["samples"], state["since"]

    def take(self, epoch: int, step: int) -> dict[str, float]:
        """Return the means and start anew.

        Raises:
            DivergedError: one of them is not finite.
        """
        row = {name: float(total) / self._steps for name, total in self._sums.items()}
        if not all(math.isfinite(value) for value in row.values()):
            terms = ", ".join(f"{name} {value:g}" for name, value in row.items())
            raise DivergedError(
                f"the loss is not finite around step {step} (epoch {epoch}): {terms}; "
                "lower base_lr, lengthen warmup_epochs or set clip_grad, and run again"
            )
        row["images_per_s"] = round(self._samples / max(self._now - self._since, 1e-9), 1)
        self._sums, self._steps, self._samples, self._since, self.last = {}, 0, 0, self._now, row
        return row


def _epoch_line(progress: Progress, settings: LoopSettings, means: _Means) -> str:
    left = progress.seconds / progress.epoch * (settings.epochs - progress.epoch)
    values = _values({**means.last, **progress.figures})
    return f"epoch {progress.epoch}/{settings.epochs} {values} (about {left / 3600:.2f} h left)"


def _values(row: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in row.items())
