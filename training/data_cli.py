"""`fer data`: what one does with a data set before training on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.data.check import DataCheck

data = typer.Typer(
    help="Look through a data set.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data.callback()
def _group() -> None:
    """Keep `check` a command of its own: Typer would make an app of one command that command."""


@data.command("check")
def check(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder, an archive of FERPlus, or a table.")],
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="See whether pictures are there, but do not decode them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Say which data set it is, count its faces, and list what is missing or unreadable (exit status 1)."""
    from training.data.check import check as look_through

    found = look_through(path, decode=not labels_only)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(1)


def _print(found: DataCheck) -> None:
    typer.echo(f"{found.title} in {found.path}")
    typer.echo(f"{len(found.class_names)} classes; contempt: {found.contempt}")
    width = max([len(name) for name in found.class_names] + [len("published")])
    typer.echo(" ".join([f"{'':<{width}}", *(f"{part:>8}" for part in found.splits)]).rstrip())
    for name in found.class_names:
        typer.echo(" ".join([f"{name:<{width}}", *(f"{s.per_class[name]:>8}" for s in found.splits.values())]))
    typer.echo(" ".join([f"{'all':<{width}}", *(f"{s.n:>8}" for s in found.splits.values())]))
    if any(s.published is not None for s in found.splits.values()):
        sizes = [f"{'-' if s.published is None else s.published:>8}" for s in found.splits.values()]
        typer.echo(" ".join([f"{'published':<{width}}", *sizes]))
    if found.absent:
        typer.echo(f"not here: {', '.join(found.absent)}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    typer.echo(f"{len(found.problems)} problems" if found.problems else "nothing is missing or unreadable")
