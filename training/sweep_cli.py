"""`fer sweep`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_app.errors import ConfigError
from training.cli import DataOption

if TYPE_CHECKING:
    from training.data.datasets import Split
    from training.sweep_cells import Cell


def sweep(
    folder: Annotated[
        str | None, typer.Argument(help="A folder of recipes, or a bundled one's name, e.g. ablations/table2.")
    ] = None,
    data: DataOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs a recipe, seeds counted from its own.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", "--out", metavar="DIR", help="Where runs and the table go  [default: runs/FOLDER's name]"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="What models are scored on  [default: as each recipe's published figure, or valid]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one value of every recipe.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show the runs of FOLDER and what is done of them, or the bundled folders.")
    ] = False,
) -> None:
    """Train every recipe of a folder with several seeds, score the models, and write one table."""
    from training.data.datasets import SPLITS
    from training.sweep_cells import bundled_folders, plan

    if folder is None:
        if not show:
            raise typer.BadParameter("name a folder, or pass --list to see the bundled ones", param_hint="FOLDER")
        for name, count in bundled_folders().items():
            typer.echo(f"{name} ({count} recipes)")
        return
    chosen: Split | None = next((known for known in SPLITS if known == split), None)
    if split is not None and chosen is None:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    target = output or Path("runs") / Path(folder).resolve().name
    cells = plan(folder, target, seeds, overrides, chosen)
    if show:
        from training.sweep import outcome_of

        for cell in cells:
            typer.echo(f"{cell.title}: {outcome_of(cell).words}")
        return
    if not data:
        raise typer.BadParameter("where are the pictures? pass --data at least once", param_hint="--data")
    given = ["fer", "sweep", folder, *(word for path in data for word in ("--data", str(path)))]
    given += ["--seeds", str(seeds), "--output", str(target), *(["--split", split] if split is not None else [])]
    given += [word for value in overrides or [] for word in ("--set", value)]
    title = folder.strip("/") if folder.strip("/") in bundled_folders() else Path(folder).resolve().name
    _need_one_process()
    _run(cells, data, target, title, shlex.join(given))


def _need_one_process() -> None:
    """Refuse to be several processes, which would train the same cells in the same folders; the first one tells."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        if os.environ.get("RANK", "0") != "0":
            raise typer.Exit(1)
        raise ConfigError(
            "fer sweep is one process and cannot be started by torchrun: start it alone, or train single recipes "
            "by torchrun and fer train --run-dir"
        )


def _run(cells: list[Cell], data: list[Path], out: Path, folder: str, command: str) -> None:
    """Run the cells and end with the status that tells how it went."""
    from training.data.datasets import at
    from training.data.locate import locate
    from training.interruption import RunInterruptedError
    from training.report import Report
    from training.sweep import Sweep
    from training.sweep_table import Heading, write_results

    sources, report = locate(data), Report(sys.stderr)
    title = at(sources.faces)[0].title if sources.faces is not None else "no labelled faces"
    heading = Heading(folder, command, title)
    running = Sweep(cells, sources, report, lambda outcomes: write_results(outcomes, out, heading))
    try:
        running.run()
    except RunInterruptedError as interruption:
        report.line(f"fer: {interruption}; the same command goes on, the table so far is {out / 'results.md'}")
        raise typer.Exit(interruption.exit_status) from interruption
    typer.echo(str(out / "results.md"))
    if failed := sum(outcome.status != "done" for outcome in running.outcomes):
        report.line(f"fer: {failed} of {len(cells)} runs have no result; {out / 'results.md'} says why")
        raise typer.Exit(1)
