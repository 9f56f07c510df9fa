"""The command line, one file a command.

What the base install can do is here. Commands of the other folders come through the entry-point group `fer.commands`
and are loaded only when they are called, so that `fer --help` stays quick and this folder knows none of its siblings.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fer_app.cli.annotate import annotate
from fer_app.cli.bench import bench
from fer_app.cli.doctor import doctor
from fer_app.cli.lazy_group import LazyGroup
from fer_app.cli.models import models
from fer_app.cli.predict import predict
from fer_app.cli.ui import ui

app = typer.Typer(
    name="fer",
    cls=LazyGroup,
    no_args_is_help=True,
    # Plain help and plain tracebacks: rich's take 50 ms to load and wrap to boxes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(annotate)
app.command()(ui)
app.command()(models)
app.command()(doctor)
app.command()(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fer_app import __version__

        typer.echo(f"fer {__version__}")
        raise typer.Exit


@app.callback()
def fer(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Read facial expressions in pictures; train and export the models that do."""


def main() -> None:
    """Run `fer`; the console script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # A stream that the caller has closed (`>&-`) is as good as one that nobody reads.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold bytes that no encoding knows; printing it must not fail.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="backslashreplace")
    # Pictures, videos and data may be named by patterns on every system: they are tried as names first, and looked up
    # where they are read, not by what Windows lacks a shell for.
    app(windows_expand_args=False)
