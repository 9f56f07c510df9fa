"""The folder of one stage of a run: metrics, the state that resuming needs, checkpoints, and a mark when it is done.

The folder above it, of the whole run, has `recipe.json` and, after a signal has stopped the run, `unfinished.json`.

metrics.jsonl        one object a line: `step`, `epoch`, `lr`, losses, images_per_s; figures after each epoch
state.pt             weights, optimiser, moving average and counters, for resuming
labelled.txt         names of the faces whose labels are used, where only some are
photos.json          whether general pictures are streamed, and how many each tar shard holds
last.safetensors     the newest checkpoint
best.safetensors     the one with the best figure on the selection split, where a stage has one
diverged.safetensors the weights of a run that was stopped because its loss or weights were no longer finite
reconstructions      pictures of what a masked autoencoder paints, every few epochs
confidences.csv      with partial labels: each face's candidates and what became of them
revised              pictures of faces with revised labels, every few epochs
done.json            written last: the stage's summary
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from fer_app.atomic_file import replacing
from fer_app.errors import CheckpointError
from training.board import Board
from training.json_file import read_json, read_text, write_json, write_text


class RunFolder:
    """Reads and writes one stage's folder, or the run's; every file but the metrics is replaced atomically."""

    def __init__(self, path: Path, *, tensorboard: bool = False, make: bool = True) -> None:
        """Make the folder.

        Args:
            path: where.
            tensorboard: whether rows also go to the folder `tensorboard` in it, once `forget_after` was called.
            make: off where another process makes it, and writes to it.

        Raises:
            CheckpointError: it cannot be made or written to; said before any work is done.
        """
        self.path = path
        self._tensorboard = tensorboard
        self._board: Board | None = None
        if not make:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._replace("writable", b"")
            (path / "writable").unlink()
        except OSError as error:
            raise CheckpointError(f"cannot write to the run folder {path}: {error}") from error

    @property
    def state(self) -> Path:
        """What resuming needs."""
        return self.path / "state.pt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint with the best figure on the selection split."""
        return self.path / "best.safetensors"

    @property
    def diverged(self) -> Path:
        """The weights of a run that diverged."""
        return self.path / "diverged.safetensors"

    @property
    def made(self) -> Path:
        """The checkpoint that counts: the best, where the stage selects."""
        return self.best if self.best.is_file() else self.last

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here, or is done, of whatever recipe; of a run's folder."""
        return self._recipe.is_file()

    @property
    def _recipe(self) -> Path:
        return self.path / "recipe.json"

    def claim(self, recipe: str) -> None:
        """Write the run's recipe, its `to_json()`; of a run's folder.

        Raises:
            CheckpointError: it could not be written.
        """
        write_text(self._recipe, recipe)

    def refuse_another_recipe(self, recipe: str, *, instead: str) -> None:
        """See that the run in the folder, if there is one, is of this recipe.

        Args:
            recipe: its `to_json()`.
            instead: what the user can do, for the error.

        Raises:
            CheckpointError: it is not, or cannot be read.
        """
        held = read_text(self._recipe)
        if held not in (None, recipe):
            raise CheckpointError(f"{self.path} holds a run of another recipe: {instead}")

    def log(self, row: dict[str, Any]) -> None:
        """Append one object to `metrics.jsonl`; it has a `step`.

        Raises:
            CheckpointError: it could not be written.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if self._board is not None:
                self._board.add(row)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error

    def forget_after(self, step: int, epoch: int) -> None:
        """Drop what is about to be run again: metrics of later steps, of an unfinished epoch, and diverged weights.

        Args:
            step: steps done from the start.
            epoch: epochs finished.

        Raises:
            CheckpointError: the file is damaged, or could not be written.
        """
        if self._tensorboard:
            self._board = Board(self.path / "tensorboard", step)
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        try:
            self.diverged.unlink(missing_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [(line, json.loads(line)) for line in lines if line.endswith("\n")]  # else it was being written
            kept = [line for line, row in rows if row["step"] <= step and row["epoch"] <= epoch]
            self._replace(path.name, "".join(kept).encode())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be taken up again: {error}") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state that resuming needs: tensors and plain values only.

        Raises:
            CheckpointError: it could not be written; the one before stays intact.
        """
        try:
            with replacing(self.state) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot write {self.state}: {error}") from error

    def load_state(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.state
        if not path.is_file():
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch guesses of a file that is none of its own
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # its unpickler meets damage with many kinds, IndexError among them
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise CheckpointError(f"{path} cannot be read: {reason}") from error
        return state

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the stage as done and drop what only resuming needs.

        Raises:
            CheckpointError: it could not be written.
        """
        write_json(self.path / "done.json", summary)
        try:
            self.state.unlink(missing_ok=True)
            if self._board is not None:
                self._board.close()
        except OSError as error:
            raise CheckpointError(f"cannot clear up {self.path}: {error}") from error

    def summary(self) -> dict[str, Any] | None:
        """Return what `finish` wrote, or None while the stage is not done.

        Raises:
            CheckpointError: the file is damaged.
        """
        return read_json(self.path / "done.json")

    def mark_unfinished(self, marker: dict[str, Any]) -> None:
        """Say that a signal stopped the run, for `--resume` and whatever starts runs.

        Raises:
            CheckpointError: it could not be written.
        """
        write_json(self.path / "unfinished.json", marker)

    def take_unfinished(self) -> dict[str, Any] | None:
        """Return what `mark_unfinished` wrote and remove it; None where there is none."""
        path = self.path / "unfinished.json"
        try:
            marker = read_json(path)
        except CheckpointError:  # it is for the reader; the state has what counts
            marker = None
        path.unlink(missing_ok=True)
        return marker

    def _replace(self, name: str, content: bytes) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_bytes(content)
