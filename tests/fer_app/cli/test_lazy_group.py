from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fer_app.cli import app, lazy_group

SOURCE = '''
"""A module that must not be imported for the help."""
from typing import Annotated
import typer

def paint(colour: str, coats: Annotated[int, typer.Option("--coats", help="How many.")] = 1) -> None:
    """Paint it all.

    More about painting.
    """
    if colour == "gold":
        import goldleaf
    if colour == "mauve":
        from brushes import nothing_like_that
    typer.echo(f"{coats} x {colour}")
'''


GROUP_SOURCE = """
import typer
brushes = typer.Typer(help="Look after brushes.\\nAll of them.", rich_markup_mode=None)

@brushes.callback()
def _group(): ...

@brushes.command()
def wash(times: int = 1):
    "Wash them."
    if times > 1:
        import goldleaf
    typer.echo("clean")
"""


class Distribution:
    name = "paint-shop"
    requires = ("numpy", "goldleaf>=2; extra == 'luxury'", "gold; extra == 'cheap'")

    class metadata:  # noqa: N801 - as in importlib
        @staticmethod
        def get_all(key):
            return {"Provides-Extra": ["luxury", "cheap"]}[key]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    (tmp_path / "brushes").mkdir()
    (tmp_path / "brushes" / "__init__.py").write_text("")
    (tmp_path / "brushes" / "cli.py").write_text(SOURCE)
    (tmp_path / "brushes" / "needy.py").write_text("import goldleaf\ndef gild():\n    'Gild it.'\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brushes" / "group.py").write_text(GROUP_SOURCE)
    entry_points = {
        "brushes": SimpleEntryPoint("brushes", "brushes.group:brushes"),
        "paint": SimpleEntryPoint("paint", "brushes.cli:paint"),
        "gild": SimpleEntryPoint("gild", "brushes.needy:gild"),
        "lost": SimpleEntryPoint("lost", "no_such_package.cli:lost"),
    }
    monkeypatch.setattr(lazy_group, "_entry_points", lambda: entry_points)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "brushes"]:
        del sys.modules[name]


class SimpleEntryPoint(SimpleNamespace):
    """An entry point of a distribution that is not installed."""

    def __init__(self, name, value):
        real = EntryPoint(name, value, lazy_group.GROUP)
        super().__init__(name=name, module=real.module, attr=real.attr, load=real.load, dist=Distribution)


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def test_help_comes_from_the_source_and_imports_nothing(commands):
    shown = [line.split(maxsplit=1) for line in run("--help").stdout.splitlines()]
    assert ["paint", "Paint it all."] in shown
    assert ["gild", "Gild it."] in shown
    assert ["brushes", "Look after brushes."] in shown
    assert ["lost"] in shown
    assert "predict" in [words[0] for words in shown if words]
    assert not any(name.startswith("brushes") for name in sys.modules)


def test_a_command_is_loaded_when_it_is_called(commands):
    assert run("paint", "red", "--coats", "2").stdout == "2 x red\n"
    assert "How many." in run("paint", "--help").stdout
    assert run("paint").exit_code == 2
    assert run("paint", "red", "--coats", "x").exit_code == 2


def test_a_group_of_commands_is_loaded_when_it_is_called(commands):
    assert run("brushes", "wash").stdout == "clean\n"
    shown = run("brushes", "--help").stdout
    assert "fer brushes [OPTIONS] COMMAND" in shown
    assert "Wash them." in shown
    assert "--times" in run("brushes", "wash", "--help").stdout
    assert run("brushes", "dry").exit_code == 2
    assert run("brushes", "wash", "--times", "x").exit_code == 2


@pytest.mark.parametrize(
    "arguments", [("paint", "gold"), ("gild",), ("gild", "--help"), ("brushes", "wash", "--times", "2")]
)
def test_a_missing_package_names_the_extra(commands, arguments):
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        f'fer: error: `fer {arguments[0]}` needs goldleaf, which is not installed: pip install "paint-shop[luxury]"\n'
    )


def test_a_missing_own_module_is_a_bug_and_looks_like_one(commands):
    with pytest.raises(ImportError, match="nothing_like_that"):
        run("paint", "mauve")


def test_an_extra_named_like_the_command_comes_first(commands, monkeypatch):
    monkeypatch.setattr(Distribution.metadata, "get_all", staticmethod(lambda key: ["luxury", "paint"]))
    assert 'pip install "paint-shop[paint]"' in run("paint", "gold").stderr


def test_our_own_commands_are_declared():
    found = lazy_group._entry_points()
    assert {"train", "eval", "export", "probe", "sweep"} <= set(found)
    for entry_point in found.values():
        assert lazy_group.first_line_of_help(entry_point), f"{entry_point.value} has no docstring"


def test_ctrl_c_that_nobody_waits_for_is_a_line_and_a_status_of_its_own(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fer_app.model_store.bundled_models", interrupted)
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 130
    assert result.stderr == "fer: stopped by SIGINT\n"
