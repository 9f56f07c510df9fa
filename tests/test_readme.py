"""What README and the other pages tell people to type exists, and their links lead somewhere."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples/README.md"]
PAGES += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "fer_app/weights").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a page: no comments, redirections or assignments."""
    for language, body in BLOCK.findall(text):
        if language in ("sh", "bash", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                for sign in (">", "<", "|"):
                    words = words[: words.index(sign)] if sign in words else words
                if words:
                    yield words


def typed(program: str) -> list[list[str]]:
    """The arguments with which all pages call a program, each once."""
    calls = {tuple(words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))}
    return [list(words[1:]) for words in sorted(calls) if words[0] == program]


@functools.cache
def help_of(*command: str) -> str:
    """What `fer COMMAND --help` prints, without colour and wide enough for every name."""
    done = subprocess.run(
        [sys.executable, "-c", "import fer_app.cli as c; c.main()", *command, "--help"],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def missing_of(arguments: list[str]) -> set[str]:
    """Of a call of `fer`: the command, or else the options, that its help does not name."""
    names = [word for word in arguments[:1] if not word.startswith("-")]
    if names and f" {names[0]} " not in help_of():
        return set(names)
    if names and len(arguments) > 1 and f"\n  {arguments[1]} " in help_of(*names).partition("\nCommands:")[2]:
        names.append(arguments[1])  # a command of a group
    options = {word.split("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
    return options - set(OPTION.findall(help_of(*names)))


@pytest.mark.parametrize("arguments", typed("fer"), ids=" ".join)
def test_fer_command_exists_with_its_options(arguments: list[str]) -> None:
    assert missing_of(arguments) == set()
    if arguments[0] == "train" and not arguments[1].startswith("-") and not arguments[1].endswith((".toml", "RECIPE")):
        assert (ROOT / f"training/recipes/{arguments[1]}.toml").is_file()


def test_check_sees_what_does_not_exist() -> None:
    assert missing_of(["paint", "photo.jpg"]) == {"paint"}
    assert missing_of(["predict", "photo.jpg", "--paint", "--format=csv"]) == {"--paint"}
    assert missing_of(["--paint"]) == {"--paint"}
    page = "```sh\nmake demo  # shows\nA=1 fer predict a.jpg --format csv > b.csv\n```\n```python\nfer = 1\n```\n"
    assert list(commands(page)) == [["make", "demo"], ["fer", "predict", "a.jpg", "--format", "csv"]]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {words[0] for words in typed("make")}
    assert {"demo", "test"} <= named <= targets


def test_extras_and_constraints_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for words in typed("pip") for extra in re.findall(r"\.\[(\w+)\]", " ".join(words))}
    assert named == set(extras)
    for page in PAGES:
        for path in re.findall(r"constraints/\w+\.txt", page.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), path


def test_markers_exist() -> None:
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    known = {line.split(":")[0] for line in markers["markers"]}
    assert {words[words.index("-m") + 1] for words in typed("pytest") if "-m" in words} <= known


def test_first_two_commands_are_the_demo_and_the_tests() -> None:
    first = list(commands((ROOT / "README.md").read_text(encoding="utf-8")))[:2]
    assert first == [["make", "demo"], ["make", "test"]]


def test_folders_of_the_table_exist() -> None:
    folders = re.findall(r"^\| `(\w+/)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(folders) >= 4
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = [link.split("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [link for link in links if link and "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_python_of_the_readme_runs(
    astronaut_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(astronaut_path, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [body for language, body in BLOCK.findall(page) if language == "python"]
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
