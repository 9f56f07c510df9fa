"""Running a folder of recipes: cell after cell, each an ordinary run that is scored once; what is done is skipped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fer_app.contract import ColorMode
from fer_app.errors import CheckpointError, DivergedError, FerError
from training.data.datasets import Contempt, Split, at, load, relabel
from training.data.image_set import ImageSet
from training.data.locate import DataSources
from training.evaluation import evaluate, file_sha256, open_classifier
from training.fingerprint import faces_digest
from training.interruption import RunInterruptedError
from training.json_file import read_json, write_json
from training.made_by import made_by
from training.report import Report
from training.run_folder import RunFolder
from training.stages import run_recipe
from training.sweep_cells import Cell

Status = Literal["done", "not run", "unfinished", "not scored", "diverged", "failed"]
_Wanted = tuple[Split, int, ColorMode, Contempt]
_FIGURES = ("accuracy", "mean_class_accuracy", "macro_f1", "ece", "n")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cell has come to.

    Attributes:
        cell: which.
        status: `done` for a score, or an encoder; `failed` has a reason.
        reason: of a failure, in one line.
        seconds: of training, once all stages are done.
        epochs: of all stages, once they are done.
        score: what `score-SPLIT.json` holds: shares, not per cent.
        trained_by: what made each stage, as `maker` tells it, once all are done.
    """

    cell: Cell
    status: Status
    reason: str = ""
    seconds: float | None = None
    epochs: int | None = None
    score: dict[str, Any] | None = None
    trained_by: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The status, with its reason."""
        return f"{self.status}: {self.reason}" if self.reason else self.status


def maker(record: Mapping[str, Any]) -> str:
    """Return the program and the machine that a file of `done.json`'s or `score-SPLIT.json`'s kind tells of."""
    if "program" not in record:  # older ones do not
        return "not recorded"
    return f"{record['program']}; {record.get('machine', 'machine not recorded')}"


def outcome_of(cell: Cell) -> Outcome:
    """Return what a cell's folder says of it."""
    try:
        cell.refuse_another_recipe()
        if not cell.holds_run:
            return Outcome(cell, "not run")
        stages = cell.summaries()
        if stages is None:
            return Outcome(cell, "diverged" if cell.diverged else "unfinished")
        spent: dict[str, Any] = {key: sum(stage[key] for stage in stages) for key in ("seconds", "epochs")}
        spent["trained_by"] = tuple(maker(stage) for stage in stages)
        _refuse_another_encoder(cell)
        if cell.only_pretrains:
            return Outcome(cell, "done", **spent)
        score = read_json(_score_path(cell))
        return Outcome(cell, "not scored" if score is None else "done", **spent, score=score)
    except FerError as error:
        return Outcome(cell, "failed", str(error))


class Sweep:
    """Runs cells in their order.

    Args:
        cells: as `training.sweep_cells.plan` returns them.
        data: where the pictures are.
        report: gets a line when a cell begins and one when it ends; what a run tells goes to `train.log` in its folder.
        publish: is given all outcomes at the start and after every cell.
    """

    def __init__(
        self,
        cells: list[Cell],
        data: DataSources,
        report: Report,
        publish: Callable[[list[Outcome]], None],
    ) -> None:
        self.outcomes = [outcome_of(cell) for cell in cells]
        self._data, self._report, self._publish = data, report, publish
        self._faces: tuple[_Wanted, ImageSet] | None = None
        self._digests: dict[tuple[Split, Contempt], str] = {}

    def run(self) -> None:
        """Run and score what is not done; a cell that fails is told, and the rest goes on.

        Raises:
            RunInterruptedError: a signal stopped a run, whose state is saved.
            DatasetError: pictures that a cell needs are not there.
            InputError: the table cannot be written.
        """
        self._need_data()
        self._publish(self.outcomes)
        for i, cell in enumerate([outcome.cell for outcome in self.outcomes]):
            head = f"[{i + 1}/{len(self.outcomes)}] {cell.title}:"
            try:
                after, told = self._finish(cell, head)
            except RunInterruptedError:
                self.outcomes[i] = outcome_of(cell)
                self._publish(self.outcomes)
                raise
            except DivergedError as error:
                after, told = Outcome(cell, "diverged"), f"diverged: {error}"
            except FerError as error:
                there = outcome_of(cell)
                after = Outcome(cell, "failed", str(error), there.seconds, there.epochs)
                told = after.words
            self.outcomes[i] = after
            self._report.line(f"{head} {told}{self._time_left()}")
            self._publish(self.outcomes)
            gc.collect()  # a run's pictures hang in cycles of Fabric's wrappers until then

    def _need_data(self) -> None:
        """Miss pictures now, and not after hours of the cells before; this also reads the split."""
        todo = [outcome.cell.recipe for outcome in self.outcomes if outcome.seconds is None]
        for table in (recipe.pretrain for recipe in todo if "pretrain" in recipe.stages):
            if table is not None and "photos" in table.images:
                self._data.need_photos(table.photos_from)
            if table is not None and "faces" in table.images:
                self._data.need_faces()
        scored = [outcome.cell for outcome in self.outcomes if not outcome.cell.only_pretrains]
        for cell in {cell.split: cell for cell in reversed(scored)}.values():
            self._faces_for(cell)

    def _finish(self, cell: Cell, head: str) -> tuple[Outcome, str]:
        """Run and score what is missing of a cell; return its outcome and what to tell."""
        cell.refuse_another_recipe()
        before = outcome_of(cell)
        if before.status == "diverged":
            return before, f"diverged before; remove {cell.run_dir} to run it again"
        did = "already done"
        if before.seconds is None:
            encoder = self._encoder(cell)
            did = "resumed" if cell.holds_run else "trained"
            self._report.line(f"{head} begins{self._time_left()}; see {_log_path(cell)}")
            self._train(cell, encoder)
        _refuse_another_encoder(cell)
        if not cell.only_pretrains:
            self._score(cell)
        after = outcome_of(cell)
        if after.status != "done":  # damaged while we worked here
            raise CheckpointError(after.reason or f"{cell.run_dir} is {after.status}")
        hours = f"{(after.seconds or 0) / 3600:.2f} h"
        figure = f"accuracy {100 * after.score['accuracy']:.2f} on {cell.split}, " if after.score else ""
        return after, f"{did}, {figure}{hours}"

    def _encoder(self, cell: Cell) -> Path | None:
        """Return the checkpoint that a cell starts from, and see that a run goes on with the one it began with."""
        if cell.start is None:
            return None
        if outcome_of(cell.start).status != "done":  # asked anew: another process may run it
            given = next(outcome for outcome in self.outcomes if outcome.cell is cell.start)
            raise CheckpointError(f"it starts from {cell.start.title}, which is {given.status}")
        if cell.holds_run:
            _refuse_another_encoder(cell)
        else:
            RunFolder(cell.run_dir)  # makes it, and says if that cannot be done
            write_json(
                _init_path(cell),
                {"init": f"recipe:{cell.recipe.starts_from}", "sha256": file_sha256(cell.start.checkpoint)},
            )
        return cell.start.checkpoint

    def _train(self, cell: Cell, encoder: Path | None) -> None:
        RunFolder(cell.run_dir)
        path = _log_path(cell)
        try:
            log = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error
        with log:
            run_recipe(cell.recipe, self._data, cell.run_dir, Report(log), resume=cell.holds_run, encoder=encoder)

    def _score(self, cell: Cell) -> None:
        """Score a cell's checkpoint, unless this very one was scored on this set."""
        path, sha256 = _score_path(cell), file_sha256(cell.checkpoint)
        data_set = at(self._data.need_faces())[0].name
        held, digest = read_json(path), self._digest_for(cell)
        told = None if held is None else (held.get("model_sha256"), held.get("data_set"), held.get("faces_sha256"))
        if told in ((sha256, data_set, digest), (sha256, data_set, None)):  # older ones do not tell of the faces
            return
        classifier = open_classifier(cell.checkpoint)
        figures = evaluate(classifier, relabel(self._faces_for(cell), classifier.contract.labels)).to_dict()
        stages = cell.summaries() or []
        write_json(
            path,
            {
                **{key: figures[key] for key in _FIGURES},
                "data_set": data_set,
                "split": cell.split,
                "faces_sha256": digest,
                "model_sha256": sha256,
                "recipe_sha256": cell.recipe.sha256,
                "epochs": sum(stage["epochs"] for stage in stages),
                "training_seconds": sum(stage["seconds"] for stage in stages),
                **made_by(),
            },
        )

    def _faces_for(self, cell: Cell) -> ImageSet:
        """Return the split at the recipe's size and colours; the one that was read last is kept."""
        model, table = cell.recipe.model, cell.recipe.finetune
        assert table is not None  # it is a classifier's
        key = (cell.split, model.img_size, model.color_mode, table.contempt)
        if self._faces is None or self._faces[0] != key:
            self._faces = None  # first: two of them need not fit
            root, size, mode = self._data.need_faces(), model.img_size, model.color_mode
            faces = load(root, cell.split, img_size=size, color_mode=mode, contempt=table.contempt)
            self._faces = key, faces
            self._digests[cell.split, table.contempt] = faces_digest(faces)
        return self._faces[1]

    def _digest_for(self, cell: Cell) -> str:
        """Return what tells the split's faces from others, which are read for it once."""
        assert cell.recipe.finetune is not None  # it is a classifier's
        key = (cell.split, cell.recipe.finetune.contempt)
        if key not in self._digests:
            self._faces_for(cell)
        return self._digests[key]

    def _time_left(self) -> str:
        """Estimate the whole sweep's from what cells of the same recipe took, or else of the same kind, or any."""
        took = [outcome for outcome in self.outcomes if outcome.seconds]
        seconds = 0.0
        for outcome in self.outcomes:
            if outcome.status not in ("not run", "unfinished"):
                continue
            cell = outcome.cell
            same = [o for o in took if o.cell.name == cell.name]
            kind = [o for o in took if o.cell.only_pretrains == cell.only_pretrains]
            known = [o.seconds or 0.0 for o in same or kind or took]
            if not known:
                return ""
            seconds += sum(known) / len(known)
        return f"; about {seconds / 3600:.2f} h left of the sweep" if seconds else ""


def _refuse_another_encoder(cell: Cell) -> None:
    """See that the encoder which a run began with is still the one that its `init` stands for."""
    if cell.start is None:
        return
    began = read_json(_init_path(cell))
    there = file_sha256(cell.start.checkpoint) if cell.start.checkpoint.is_file() else None
    if began is None or began.get("sha256") != there:
        raise CheckpointError(
            f"{cell.run_dir} began with another encoder than {cell.start.title} has now: "
            "move it away to run it again, or bring that encoder back"
        )


def _init_path(cell: Cell) -> Path:
    return cell.run_dir / "init.json"


def _score_path(cell: Cell) -> Path:
    return cell.run_dir / f"score-{cell.split}.json"


def _log_path(cell: Cell) -> Path:
    return cell.run_dir / "train.log"
