"""`fer` as a group of its own commands and of those that other packages bring, loaded when they are called."""

from __future__ import annotations

import ast
import importlib.util
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fer_app.errors import FerError
from fer_app.extras import entry_points_of, needs_extras

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "fer.commands"


class LazyGroup(TyperGroup):
    """Typer's group plus the entry points of `fer.commands`; a `FerError` is one line on stderr and exit status 1."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands, our own first."""
        own = super().list_commands(ctx)
        return own + [name for name in sorted(_entry_points()) if name not in own]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return a command by name; one from an entry point is not loaded yet."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = _entry_points().get(cmd_name)
        return None if found is None else LazyCommand(found)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except FerError as error:
            typer.echo(f"fer: error: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:  # where nobody waits for it: while libraries are loaded, for instance
            typer.echo("fer: stopped by SIGINT", err=True)
            raise typer.Exit(128 + signal.SIGINT) from error


class LazyCommand(TyperCommand):
    """Stands for an entry point: it knows the name and a line of help, and loads the rest when it is called."""

    def __init__(self, entry_point: EntryPoint) -> None:
        """Take the line of help from the function's source, without importing it."""
        super().__init__(entry_point.name, callback=None, params=[], short_help=first_line_of_help(entry_point))
        self._entry_point = entry_point

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Load the real command and hand over to it; also where shell completion asks for its options."""
        return _load(self._entry_point).make_context(info_name, args, parent, **extra)


def _entry_points() -> dict[str, EntryPoint]:
    return entry_points_of(GROUP)


def _load(entry_point: EntryPoint) -> Any:
    """Load a command: a function with Typer's annotations, or a `typer.Typer` with commands of its own."""
    loaded = _needs_extras(entry_point, entry_point.load)()
    if isinstance(loaded, typer.Typer):
        group = typer.main.get_command(loaded)
        group.name = entry_point.name
        group.invoke = _needs_extras(entry_point, group.invoke)  # type: ignore[method-assign]
        return group
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(entry_point.name)(_needs_extras(entry_point, loaded))
    return typer.main.get_command(app)


def _needs_extras(entry_point: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    return needs_extras(f"`fer {entry_point.name}`", entry_point, function)


def first_line_of_help(entry_point: EntryPoint) -> str:
    """Read the first line of a command's help from its source file; empty when it cannot be found.

    That is a function's docstring, or the text of `help=` where a name is bound to `typer.Typer(help="...")`.
    """
    package, *rest = entry_point.module.split(".")
    try:
        # Only the top-level package: looking for a submodule would import its parents.
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    candidates = [folder.joinpath(*rest) for folder in folders]
    files = [file for path in candidates for file in (path.with_suffix(".py"), path / "__init__.py")]
    if not rest and spec.origin:
        files = [Path(spec.origin)]
    for file in files:
        if file.is_file():
            return _help_in(file, entry_point.attr).partition("\n")[0]
    return ""


def _help_in(file: Path, name: str) -> str:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=found) if found == name:
                return ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Call(keywords=keywords)) if found == name:
                texts = [word.value for word in keywords if word.arg == "help"]
                return "".join(str(text.value) for text in texts if isinstance(text, ast.Constant))
    return ""
