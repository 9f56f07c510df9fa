"""The measured part of a bundled model's card: Markdown that also reads well in a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from export.failure_sheet import Answer, ask, draw_answers
from export.lineage import Balancing, Joining, Run, Step
from export.model_speed import BATCHES, Speed, measure_speed
from export.variants import Variant
from fer_app.errors import ExportError
from fer_app.model_choice import holds_accuracy
from training.data.image_set import ImageSet
from training.evaluation import crops_of, hard_targets, open_classifier, predict
from training.metrics import CalibrationBins, ClassificationReport
from training.plots import draw_confusion, draw_reliability
from training.robustness import Robustness, measure_robustness

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PICTURES: Final = ("confusion.png", "reliability.png", "failures.jpg")
"""What is drawn for each model, after `NAME-`, in the folder `docs/images`."""

_WEAK = 0.7  # classes with a smaller recall or precision are told in words


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All figures of a card.

    Attributes:
        name: of the model.
        runs: what made it, oldest first.
        dev_accuracy: a share, of the checkpoint that it chose; None where the last epoch counts.
        files: the float32 one first.
        report: of that one, on FERPlus Valid.
        calibration: of that one.
        robustness: of each file.
        speed: of each file.
        answers: to a spoilt portrait, by `asked`.
        asked: the file that `fer predict` runs on a CPU.
    """

    name: str
    runs: Sequence[Step]
    dev_accuracy: float | None
    files: Sequence[Variant]
    report: ClassificationReport
    calibration: CalibrationBins
    robustness: Sequence[Sequence[Robustness]]
    speed: Speed
    answers: list[Answer]
    asked: Variant

    @property
    def made_by(self) -> Run | Joining:
        """What trained it, or joined its members."""
        return next(step for step in reversed(self.runs) if not isinstance(step, Balancing))


def marked(card: Path) -> str:
    """Return the text of a card.

    Raises:
        ExportError: there is none, or it has no marks.
    """
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not (BEGIN in text and END in text and text.index(BEGIN) < text.index(END)):
        raise ExportError(f"{card} must exist and hold {BEGIN} and {END}; the measured part goes between them")
    return text


def measure(
    name: str,
    runs: Sequence[Step],
    dev_accuracy: float | None,
    files: Sequence[Variant],
    faces: ImageSet,
    *,
    bench_s: float,
) -> Measured:
    """Measure what a card tells.

    Args:
        name: of the model.
        runs: what made it.
        dev_accuracy: a share, of the checkpoint that it chose; None where the last epoch counts.
        files: the float32 one first.
        faces: FERPlus Valid.
        bench_s: seconds for the measurement of speed.
    """
    crops, targets = crops_of(faces), hard_targets(faces)
    classifiers = [open_classifier(file.path, device="cpu") for file in files]
    predictions = predict(classifiers[0], faces)
    fast = (
        one
        for one in files
        if one.precision == "int8" and holds_accuracy(files[0].contract.metrics, one.contract.metrics)
    )
    asked = next(fast, files[0])
    return Measured(
        name=name,
        runs=runs,
        dev_accuracy=dev_accuracy,
        files=files,
        report=predictions.report(),
        calibration=predictions.calibration(),
        robustness=[list(measure_robustness(classifier, crops, targets)) for classifier in classifiers],
        speed=measure_speed([file.path for file in files], crops[: max(BATCHES)], bench_s),
        answers=ask(asked.path),
        asked=asked,
    )


def draw_pictures(made: Measured, folder: Path) -> None:
    """Draw the confusion matrix, the reliability diagram, and the spoilt portrait.

    Raises:
        InputError: a picture cannot be written.
    """
    confusion, reliability, failures = (folder / f"{made.name}-{picture}" for picture in PICTURES)
    scored = f"{made.name}, FERPlus Valid (majority)"
    draw_confusion(made.report, confusion, title=f"{scored}, n = {made.report.n}")
    draw_reliability(made.calibration, reliability, title=scored)
    title = f"One portrait, spoilt: what fer predict says with {made.name} in {made.asked.precision}"
    draw_answers(made.answers, failures, title=title)


def write_card(made: Measured, card: Path) -> None:
    """Put the measured part between the marks of a card; the rest stays.

    Raises:
        ExportError: as `marked` raises.
    """
    text = marked(card)
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    sections = (_figures, _classes, _calibration, _robustness, _speed, _failures, _training)
    lines = [line for section in sections for line in ("", *section(made))]
    card.write_text("\n".join([text[:begin], *lines, "", text[end:]]), encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> list[str]:
    """Return a Markdown table whose columns line up in plain text too.

    Args:
        header: a name for each column.
        rows: as long as the header.
        words: so many columns, from the left, are words; the others are numbers, and on the right.
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = []
    for row in cells:
        pairs = enumerate(zip(row, widths, strict=True))
        fitted = [cell.ljust(width) if k < words else cell.rjust(width) for k, (cell, width) in pairs]
        lines.append(f"| {' | '.join(fitted)} |")
    rule = "|".join("-" * (width + 1) + ("-" if k < words else ":") for k, width in enumerate(widths))
    return [lines[0], f"|{rule}|", *lines[1:]]


def _picture(made: Measured, alt: str, number: int) -> list[str]:
    return ["", f"![{alt}](../../docs/images/{made.name}-{PICTURES[number]})"]


def _told_epoch(made: Run | Joining) -> str | None:
    """Say which epoch's weights these are, where accuracy on `dev` did not choose it."""
    if isinstance(made, Joining):
        return "each member's own"
    return "the last, as the recipe says" if made.recipe["finetune"].get("selected_epoch") == "last" else None


def _looks(made: Run | Joining) -> str:
    """Say how often each face is looked at."""
    if isinstance(made, Joining) and made.mirrored:
        return "each face and its mirror image, by the network itself"
    return "no test-time tricks"


def _figures(made: Measured) -> Iterator[str]:
    report, full = made.report, made.files[0]
    yield "## How good it is"
    yield ""
    yield "- Scored on: FERPlus `label.csv`, Valid, majority, 8 classes; the data set's own 48 x 48 crop, no detector,"
    yield f"  {_looks(made.made_by)}; n = {report.n}. Valid chose no weights and no threshold."
    interval = " to ".join(map(_percent, report.accuracy_ci95))
    yield f"- Accuracy: **{_percent(report.accuracy)} %** (95 % interval {interval})."
    if made.dev_accuracy is None:
        yield "- Chosen by: nothing; it is the last epoch's."
    elif (epoch := _told_epoch(made.made_by)) is not None:
        lifted = ", how far rare classes are lifted" if isinstance(made.runs[-1], Balancing) else ""
        yield f"- Epoch: {epoch}. `dev`, a tenth of Train, set the temperature{lifted} and what is"
        yield f"  uncertain; {_percent(made.dev_accuracy)} % of it are right."
    else:
        chosen = f"accuracy on `dev`, a tenth of Train ({_percent(made.dev_accuracy)} %)"
        yield f"- Chosen by: {chosen}, after every epoch."
    yield f"- Temperature: {full.contract.temperature:.3f}."
    for file in made.files:
        yield from _uncertainty(file)
    yield ""
    header = ("file", "MB", "accuracy %", "mean class accuracy %", "macro F1 %", "calibration error %")
    rows = []
    for file in made.files:
        assert file.report is not None
        shares = (file.report.accuracy, file.report.mean_class_accuracy, file.report.macro_f1, file.report.ece)
        rows.append((f"`{file.path.name}`", f"{file.bytes / 1e6:.1f}", *map(_percent, shares)))
    yield from table(header, rows)
    yield ""
    yield "`calibration error` is the expected one, of 15 bins. How each file came about, and its digest:"
    yield ""
    for file in made.files:
        yield f"- {file.precision}: {file.method}, sha256 `{file.sha256}`."
    yield f"- Recipe sha256 `{full.contract.recipe_sha256}`."
    yield f"- Largest difference of a logit, torch against ONNX Runtime, float32: {max(full.differences.values()):.1e}."


def _uncertainty(file: Variant) -> Iterator[str]:
    below, metrics = file.contract.uncertain_below, file.contract.metrics
    if not below:
        return
    told = [f"- {file.precision}: a face whose largest probability is below {100 * below:.0f} % is marked uncertain"]
    if "ferplus_valid_asserted_share" in metrics:
        told.append(f"{_percent(metrics['ferplus_valid_asserted_share'])} % have no mark")
    if "ferplus_valid_asserted_precision" in metrics:
        told.append(f"{_percent(metrics['ferplus_valid_asserted_precision'])} % of those are right")
    yield "; ".join(told) + "."


def _classes(made: Measured) -> Iterator[str]:
    report = made.report
    yield "## By class"
    yield ""
    shares = np.stack([report.recall, report.precision, report.f1], axis=1)
    rows = [
        (
            label,
            str(report.confusion[k].sum()),
            *("-" if np.isnan(share) else _percent(share, 1) for share in shares[k]),
        )
        for k, label in enumerate(report.labels)
    ]
    yield from table(("class", "faces", "recall %", "precision %", "F1 %"), rows)
    yield ""
    yield "Faces of each class (rows), and what they are called (columns):"
    yield ""
    short = [label[:3] for label in report.labels]
    yield from table(("", *short), ((label, *map(str, report.confusion[k])) for k, label in enumerate(report.labels)))
    yield from _picture(made, "confusion matrix on FERPlus Valid", 0)
    words = list(_weak_classes(report))
    if words:
        yield ""
        yield from words


def _weak_classes(report: ClassificationReport) -> Iterator[str]:
    """Say in words which classes are missed or given wrongly, and what they are mixed up with."""
    off = report.confusion - np.diag(np.diag(report.confusion))
    for k, label in enumerate(report.labels):
        faces, given = int(report.confusion[k].sum()), int(report.confusion[:, k].sum())
        if faces and report.recall[k] < _WEAK:
            most = int(off[k].argmax())
            never = "never said, and so " if not given else ""
            missed = f"- **{label}** is {never}missed in {off[k].sum()} of {faces}"
            yield f"{missed}; {report.labels[most]} is what it is called most often then ({off[k, most]})."
        if given and report.precision[k] < _WEAK:
            most = int(off[:, k].argmax())
            wrong = f"- Of {given} faces that are called **{label}**, {off[:, k].sum()} are not"
            yield f"{wrong}; most of those are {report.labels[most]} ({off[most, k]})."


def _calibration(made: Measured) -> Iterator[str]:
    bins = made.calibration
    yield "## How far to trust a probability"
    yield ""
    yield "Faces by the largest of their probabilities, and the share of them that is right (float32):"
    yield ""
    edges = np.linspace(0.0, 100.0, len(bins.counts) + 1)
    rows = [
        (
            f"{edges[k]:.0f} to {edges[k + 1]:.0f}",
            str(bins.counts[k]),
            _percent(bins.confidence[k] / bins.counts[k], 1),
            _percent(bins.right[k] / bins.counts[k], 1),
        )
        for k in np.flatnonzero(bins.counts)
    ]
    yield from table(("probability %", "faces", "mean %", "right %"), rows)
    yield from _picture(made, "reliability diagram on FERPlus Valid", 1)


def _robustness(made: Measured) -> Iterator[str]:
    yield "## When the picture is poor"
    yield ""
    yield "The same faces of FERPlus Valid, spoilt; nothing is detected or aligned again (`training/robustness.py`)."
    yield "`same` is the share of faces whose label stays what it is on the plain crop. Sizes above 48 px are the same"
    yield "pictures, enlarged."
    yield ""
    header = ["change"]
    for file in made.files:
        header += [f"{file.precision}: right %", "same %"]
    rows = []
    for changes in zip(*made.robustness, strict=True):
        figures = [_percent(share, 1) for change in changes for share in (change.accuracy, change.same)]
        rows.append((changes[0].change, *figures))
    yield from table(header, rows)


def _speed(made: Measured) -> Iterator[str]:
    yield "## Speed"
    yield ""
    yield "Faces a second, from crops to probabilities, medians; `fer bench` measures it on your machine."
    yield f"Here: {made.speed.machine}."
    yield ""
    header = ("file", *(f"{batch} at once" for batch in BATCHES))
    rows = [
        (f"`{file.path.name}`", *(f"{rate:.0f}" for rate in rates))
        for file, rates in zip(made.files, made.speed.faces_per_s, strict=True)
    ]
    yield from table(header, rows)


def _failures(made: Measured) -> Iterator[str]:
    yield "## One portrait, spoilt"
    yield ""
    yield f"What `fer predict` says, in {made.asked.precision}, of the portrait that comes with the package (NASA's, of"
    yield "Eileen Collins) when it is spoilt:"
    yield ""
    yield from table(("picture", "answer"), ((answer.change, answer.words) for answer in made.answers), words=2)
    yield from _picture(made, "a portrait, spoilt in several ways, and the answers", 2)


def _training(made: Measured) -> Iterator[str]:
    yield "## How it was trained"
    yield ""
    for run in made.runs:
        yield from run.told()
    yield ""
    yield "```sh"
    for run in made.runs:
        yield run.command()
    yield "```"
    yield ""
    today = datetime.date.today()
    yield f'All figures since "How good it is" were made by `python -m export.bundle` on {today}. To score the model'
    yield f"again: `fer eval {made.name} --data ferplus/`, with `--precision fp32` for float32."


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"
