"""What a sweep writes: a row a run as CSV, a row a recipe as Markdown, and a picture of the accuracies."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from fer_app.atomic_file import replacing
from fer_app.errors import InputError
from training.sweep import Outcome, maker

_SCORES = ("accuracy", "mean_class_accuracy", "macro_f1")


@dataclass(frozen=True)
class Heading:
    """What stands above the table.

    Attributes:
        folder: of the recipes.
        command: the whole line.
        data_set: its title.
    """

    folder: str
    command: str
    data_set: str


def write_results(outcomes: Sequence[Outcome], out: Path, heading: Heading) -> None:
    """Write `results.csv`, `results.md` and `results.png`; each is replaced at once.

    Raises:
        InputError: one cannot be written.
    """
    contents = {
        "results.csv": runs_csv(outcomes, out).encode(),
        "results.md": recipes_markdown(outcomes, heading).encode(),
        "results.png": draw_accuracies(outcomes, heading),
    }
    for name, content in contents.items():
        try:
            out.mkdir(parents=True, exist_ok=True)
            with replacing(out / name) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise InputError(f"cannot write {out / name}: {error}") from error


def runs_csv(outcomes: Sequence[Outcome], out: Path) -> str:
    """Return one row a run; shares are per cent with two digits, and what is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    percents = (*_SCORES, "ece")
    titles = ["recipe", "seed", "status", "split", *(f"{key}_percent" for key in percents), "n", "epochs"]
    table.writerow([*titles, "training_hours", "model_sha256", "recipe_sha256", "run_dir"])
    for outcome in outcomes:
        cell, score = outcome.cell, outcome.score or {}
        table.writerow(
            [cell.name, cell.recipe.seed, outcome.words, "" if cell.only_pretrains else cell.split]
            + [f"{100 * score[key]:.2f}" if score else "" for key in percents]
            + [score.get("n", ""), "" if outcome.epochs is None else outcome.epochs, _hours([outcome])]
            + [score.get("model_sha256", ""), cell.recipe.sha256, cell.run_dir.relative_to(out).as_posix()]
        )
    return text.getvalue()


def recipes_markdown(outcomes: Sequence[Outcome], heading: Heading) -> str:
    """Return the table of the recipes, with what it takes to make it again, and a list of what is not in it."""
    scored = [outcome for outcome in outcomes if outcome.score is not None]
    lines = [
        f"# {heading.folder}",
        "",
        f"- command: `{heading.command}`",
        f"- scored on: {heading.data_set} {_splits(outcomes)}",
        *_makers("trained by", [o.trained_by for o in outcomes if o.trained_by]),
        *_makers("scored by", [(maker(o.score),) for o in scored if o.score is not None]),
        f"- runs done: {sum(o.status == 'done' for o in outcomes)} of {len(outcomes)}, "
        f"{_hours(outcomes) or '0.00'} h of training",
        "",
        "Accuracy, mean class accuracy and macro-F1 in per cent: mean ± sample standard deviation over the seeds. "
        "Hours are of training, mean of a run.",
        "",
        *_classifiers([outcome for outcome in outcomes if not outcome.cell.only_pretrains]),
        *_encoders([outcome for outcome in outcomes if outcome.cell.only_pretrains]),
    ]
    if left := [outcome for outcome in outcomes if outcome.status != "done"]:
        lines += ["Not in the table:", "", *(f"- {o.cell.title}: {_plain(o.words)}" for o in left), ""]
    return "\n".join(lines)


def _splits(outcomes: Sequence[Outcome]) -> str:
    """Return each split that is scored, with its number of faces where that is known."""
    sizes: dict[str, set[int]] = {}
    for outcome in outcomes:
        if not outcome.cell.only_pretrains:
            sizes.setdefault(outcome.cell.split, set()).update([outcome.score["n"]] if outcome.score else [])
    told = [f"{split}, n = {', '.join(map(str, sorted(n))) or 'not known yet'}" for split, n in sizes.items()]
    return "; ".join(told) or "nothing"


def _makers(what: str, records: Iterable[tuple[str, ...]]) -> list[str]:
    """Return a line for each program and machine, with its number of runs."""
    counted = Counter(" and ".join(dict.fromkeys(record)) for record in records)
    return [f"- {what}: {_plain(words)} ({n} run{'s' * (n > 1)})" for words, n in counted.items()]


def _classifiers(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the rows of what can be scored, with published figures where a recipe has one."""
    if not outcomes:
        return []
    published = any(outcome.cell.recipe.expected for outcome in outcomes)
    titles = ["recipe", "summary", "scored on", "seeds", "accuracy", "mean class accuracy", "macro-F1"]
    titles += ["published accuracy, where"] * published + ["hours"]
    rows = []
    for name, runs in _by_recipe(outcomes).items():
        recipe, scored = runs[0].cell.recipe, [run for run in runs if run.score is not None]
        row = [name, recipe.summary, runs[0].cell.split, f"{len(scored)} of {len(runs)}"]
        row += (
            [spread([run.score[key] for run in scored if run.score]) for key in _SCORES] if scored else _unscored(runs)
        )
        if published:
            told = recipe.expected
            row.append(f"{told.accuracy:.2f} on {told.data_set} {told.split.title()}" if told else "")
        rows.append([*row, _hours(runs, mean=True)])
    return [*_table(titles, rows), ""]


def _encoders(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the rows of recipes that only pre-train."""
    if not outcomes:
        return []
    rows = [
        [o.cell.name, o.cell.recipe.summary, o.words, "" if o.epochs is None else str(o.epochs), _hours([o])]
        for o in outcomes
    ]
    return [*_table(["pre-training", "summary", "status", "epochs", "hours"], rows), ""]


def spread(shares: Sequence[float]) -> str:
    """Return mean and sample standard deviation in per cent; of one figure the figure."""
    percents = [100 * share for share in shares]
    if len(percents) == 1:
        return f"{percents[0]:.2f}"
    return f"{statistics.mean(percents):.2f} ± {statistics.stdev(percents):.2f}"


def _unscored(runs: Sequence[Outcome]) -> list[str]:
    """Return the cells of a recipe without a score: why, in one word each."""
    return [", ".join(dict.fromkeys(run.status for run in runs)), "", ""]


def _by_recipe(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    rows: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.cell.name):
        rows.setdefault(outcome.cell.name, []).append(outcome)
    return rows


def _hours(outcomes: Sequence[Outcome], *, mean: bool = False) -> str:
    """Return the hours that finished runs took, together or on average; nothing where none is finished."""
    known = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    return f"{sum(known) / (len(known) if mean else 1) / 3600:.2f}" if known else ""


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *([_plain(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Keep a text to one line and to its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def draw_accuracies(outcomes: Sequence[Outcome], heading: Heading) -> bytes:
    """Return a PNG: a row a recipe, a point a seed, the mean with its sample standard deviation."""
    rows = _by_recipe([outcome for outcome in outcomes if not outcome.cell.only_pretrains])
    figure = Figure(figsize=(8.0, 1.6 + 0.4 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    for place, runs in enumerate(rows.values()):
        percents = [100 * run.score["accuracy"] for run in runs if run.score is not None]
        if not percents:
            axes.text(0.01, place, _unscored(runs)[0], transform=axes.get_yaxis_transform(), va="center", color="0.45")
            continue
        mean = statistics.mean(percents)
        deviation = statistics.stdev(percents) if len(percents) > 1 else None
        axes.errorbar(mean, place, xerr=deviation, fmt="D", color="tab:blue", capsize=4, markersize=7, zorder=2)
        axes.plot(percents, [place] * len(percents), "o", color="tab:orange", markersize=4, zorder=3)
    several = len({runs[0].cell.split for runs in rows.values()}) > 1
    labels = [f"{name} ({runs[0].cell.split})" if several else name for name, runs in rows.items()]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel("accuracy, per cent: single seeds (dots), mean (diamond) and sample standard deviation (bar)")
    axes.set_title(f"{heading.folder}: {heading.data_set} {_splits(outcomes)}")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
