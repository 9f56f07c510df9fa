"""The exact versions: well formed, complete, inside the ranges of pyproject.toml, and the same in both files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def ranges(lines: list[str]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, comparison and version of every requirement that is not this project itself."""
    found = []
    for line in lines:
        match = re.match(r"([\w-]+)(?:\[[\w,]+\])?(>=|==)([\d.]+)", line)
        if not line.startswith(PROJECT["name"]):
            assert match, line
            found.append((match[1], match[2], tuple(map(int, match[3].split(".")))))
    return found


@pytest.mark.parametrize("file", ["base.txt", "dev.txt"])
def test_every_line_is_an_exact_version(file: str) -> None:
    for line in (ROOT / "constraints" / file).read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line), line


def test_both_files_agree() -> None:
    assert pinned("base.txt").items() <= pinned("dev.txt").items()


@pytest.mark.parametrize(
    ("file", "requirements"),
    [
        ("base.txt", PROJECT["dependencies"]),
        (
            "dev.txt",
            [line for extra in ("heic", "parquet", "plots", "train", "export", "dev") for line in EXTRAS[extra]],
        ),
    ],
)
def test_every_requirement_is_pinned_within_its_range(file: str, requirements: list[str]) -> None:
    versions = pinned(file)
    for name, sign, bound in ranges(requirements):
        version = tuple(map(int, versions[name].split(".")))
        assert version >= bound if sign == ">=" else version == bound, name


def test_the_base_install_pins_no_framework() -> None:
    assert not pinned("base.txt").keys() & {"torch", "torchvision", "timm", "lightning", "onnx", "facenet-pytorch"}
