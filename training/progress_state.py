"""What a run is in the middle of: weights, optimiser, moving average, counters; saved, and taken up again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from timm.utils import ModelEmaV3
from torch import nn

from fer_app.errors import CheckpointError, DivergedError
from training.distributed import World
from training.fingerprint import differences
from training.fsdp import ShardedWeights
from training.objective import Objective
from training.run_folder import RunFolder
from training.running_means import RunningMeans


@dataclass
class Progress:
    """Where a run stands: `step` counts within the epoch, `total_steps` from the start."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def counters(self) -> dict[str, int]:
        """Return what a checkpoint says of how long it was trained."""
        return {"epochs": self.epoch, "steps": self.total_steps, "seconds": round(self.seconds)}


class PlainWeights:
    """Weights and optimiser state that every process has whole."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hold references; nothing is copied."""
        self._model, self._optimizer = model, optimizer

    def network(self) -> nn.Module:
        """Return the network."""
        return self._model

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def finite(self) -> bool:
        """Whether the weights are."""
        return bool(nn.utils.get_total_norm(list(self._model.parameters())).isfinite())


class ProgressState:
    """What a run changes as it goes on. Every method is called in all processes; the first one writes.

    Attributes:
        progress: where it stands.
        means: of the loss terms since the last row.
    """

    def __init__(
        self,
        objective: Objective,
        weights: PlainWeights | ShardedWeights,
        ema: ModelEmaV3 | None,
        folder: RunFolder,
        world: World,
    ) -> None:
        """Hold references; nothing is copied. Only the first process has a moving average."""
        self._objective, self._weights, self._ema, self._folder = objective, weights, ema, folder
        self._world = world
        self.progress, self.means = Progress(), RunningMeans()

    def averaged(self) -> nn.Module:
        """Return the network to score and to keep: the moving average, where there is one. For the first process."""
        network = self._weights.network()
        return network if self._ema is None else self._ema.module

    def save(self) -> None:
        """Write the state, unless it is no longer finite.

        Raises:
            DivergedError: see `check_finite`; the state that was saved before stays as it is.
            CheckpointError: it could not be written; the same holds.
        """
        self.check_finite()
        weights = self._weights.state()
        self._world.first(self._write, weights)

    def _write(self, weights: dict[str, Any]) -> None:
        self._folder.save_state(
            {
                **weights,
                "ema": self._ema.state_dict() if self._ema is not None else None,
                "progress": vars(self.progress),
                "means": self.means.state(),
                "objective": self._objective.state(),
                "data": self._objective.fingerprint(),
                "processes": self._world.size,
            }
        )

    def restore(self) -> bool:
        """Go on from the folder's saved state; False where there is none.

        Raises:
            CheckpointError: the state cannot be read, is not this run's, or is of other data or another number of
                processes.
        """
        state = self._folder.load_state()
        here = self._world.highest(int(state is not None))[0]
        if state is None:
            if here:
                raise CheckpointError(f"{self._folder.path} must be the same folder for all machines of a run")
            return False
        try:
            self._need_same_run(state)
            self._weights.load(state)
            if self._ema is not None:
                self._ema.load_state_dict(state["ema"])
            self.progress = Progress(**state["progress"])
            self.means.restore(state["means"])
            self._objective.restore(state.get("objective", {}))  # older states have none
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self._folder.path
            raise CheckpointError(f"the state in {path} is of another program or recipe: {error!r}") from error
        return True

    def _need_same_run(self, state: dict[str, Any]) -> None:
        """See that the state fits the data and the processes; older ones hold neither."""
        path = self._folder.path
        changed = differences(state["data"], self._objective.fingerprint()) if "data" in state else []
        if changed:
            raise CheckpointError(f"the data is not what the run in {path} began with: {'; '.join(changed)}")
        processes = state.get("processes", 1)
        if processes != self._world.size:
            raise CheckpointError(
                f"the state in {path} is of {processes} processes, this run has {self._world.size} and would take "
                f"other steps: resume with {processes} (--devices, --nodes or torchrun), or pass another --run-dir"
            )

    def check_finite(self) -> None:
        """Stop a run whose losses or weights are no longer finite, keeping its weights in `diverged.safetensors`.

        Asked at rows of the log and before anything is saved, as it waits for the device.

        Raises:
            DivergedError: one is not; the message has the step, the terms and the file.
        """
        step = self.means.bad_step(self.progress.total_steps)
        if step is not None:
            what = f"the loss is not finite from step {step} on"
        else:
            what = f"the weights are not finite after step {self.progress.total_steps}"
        if self._world.highest(step is not None or not self._weights.finite())[0]:
            network = self._weights.network()
            self._world.first(self._stop, what, step, network)

    def _stop(self, what: str, bad_step: int | None, network: nn.Module) -> NoReturn:
        """Write what is left of a diverged run, and raise."""
        progress = self.progress
        terms = {name: value if math.isfinite(value) else str(value) for name, value in self.means.newest().items()}
        row = {"step": progress.total_steps, "epoch": progress.epoch, "bad_step": bad_step or progress.total_steps}
        path = self._folder.diverged
        try:
            self._folder.log({**row, "diverged": terms})
            self._objective.write(path, network, progress.counters(), {})
            kept = f"the weights are in {path}"
        except CheckpointError as error:
            kept = f"the weights are lost ({error})"
        told = ", ".join(f"{name} {value}" for name, value in terms.items())
        raise DivergedError(
            f"{what} (epoch {progress.epoch + 1}): {told}; {kept}; "
            "lower base_lr, lengthen warmup_epochs or set clip_grad, and run again with another --run-dir"
        )
