"""What a run is in the middle of: weights, optimiser, moving average, counters; saved, and taken up again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from timm.utils import ModelEmaV3
from torch import nn

from fer_app.errors import CheckpointError, DivergedError
from training.fingerprint import differences
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


class ProgressState:
    """What a run changes as it goes on.

    Attributes:
        progress: where it stands.
        means: of the loss terms since the last row.
    """

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, ema: ModelEmaV3 | None, folder: RunFolder
    ) -> None:
        """Hold references; nothing is copied."""
        self._objective, self._optimizer, self._ema, self._folder = objective, optimizer, ema, folder
        self.progress, self.means = Progress(), RunningMeans()

    @property
    def averaged(self) -> nn.Module:
        """The network to score and to keep: the moving average, where there is one."""
        return self._objective.model if self._ema is None else self._ema.module

    def save(self) -> None:
        """Write the state, unless it is no longer finite.

        Raises:
            DivergedError: see `check_finite`; the state that was saved before stays as it is.
            CheckpointError: it could not be written; the same holds.
        """
        self.check_finite()
        self._folder.save_state(
            {
                "model": self._objective.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "ema": self._ema.state_dict() if self._ema is not None else None,
                "progress": vars(self.progress),
                "means": self.means.state(),
                "data": self._objective.fingerprint(),
            }
        )

    def restore(self) -> bool:
        """Go on from the folder's saved state; False where there is none.

        Raises:
            CheckpointError: the state cannot be read, is not this run's, or is of other data.
        """
        state = self._folder.load_state()
        if state is None:
            return False
        try:
            # Older states do not hold it.
            changed = differences(state["data"], self._objective.fingerprint()) if "data" in state else []
            if changed:
                raise CheckpointError(
                    f"the data is not what the run in {self._folder.path} began with: {'; '.join(changed)}"
                )
            self._objective.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._ema is not None:
                self._ema.load_state_dict(state["ema"])
            self.progress = Progress(**state["progress"])
            self.means.restore(state["means"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self._folder.path
            raise CheckpointError(f"the state in {path} is of another program or recipe: {error!r}") from error
        return True

    def check_finite(self) -> None:
        """Stop a run whose losses or weights are no longer finite, keeping its weights in `diverged.safetensors`.

        Asked at rows of the log and before anything is saved, as it waits for the device.

        Raises:
            DivergedError: one is not; the message has the step, the terms and the file.
        """
        progress, model = self.progress, self._objective.model
        step = self.means.bad_step(progress.total_steps)
        if step is not None:
            what = f"the loss is not finite from step {step} on"
        elif not nn.utils.get_total_norm(list(model.parameters())).isfinite():
            what = f"the weights are not finite after step {progress.total_steps}"
        else:
            return
        terms = {name: value if math.isfinite(value) else str(value) for name, value in self.means.newest().items()}
        row = {"step": progress.total_steps, "epoch": progress.epoch, "bad_step": step or progress.total_steps}
        path = self._folder.diverged
        try:
            self._folder.log({**row, "diverged": terms})
            self._objective.write(path, model, progress.counters(), {})
            kept = f"the weights are in {path}"
        except CheckpointError as error:
            kept = f"the weights are lost ({error})"
        told = ", ".join(f"{name} {value}" for name, value in terms.items())
        raise DivergedError(
            f"{what} (epoch {progress.epoch + 1}): {told}; {kept}; "
            "lower base_lr, lengthen warmup_epochs or set clip_grad, and run again with another --run-dir"
        )
