"""Patterns for paths: `*`, `?`, `[...]` as the shell knows them, `**`, and brace lists such as `{000..146}`.

They are written as for WebDataset, and quoted, so that the shell leaves them alone.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from fer_app.errors import DatasetError
from training.first_few import first_few

_MAGIC = re.compile(r"[*?[]")
_GROUP = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return paths with patterns replaced by what they stand for, in order, each once.

    A path that exists is no pattern, whatever its name.

    Raises:
        DatasetError: a pattern, or one of the names of its list, stands for nothing that exists.
    """
    found: list[Path] = []
    for path in paths:
        names = expand_braces(str(path))
        if path.exists() or (len(names) == 1 and not _MAGIC.search(str(path))):
            found.append(path)  # whoever reads it says so where it is missing
            continue
        missing = []
        for name in names:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 - Path's own needs a folder to start from
            there = [Path(match) for match in sorted(matches)]
            found += there
            if not there:
                missing.append(name)
        if missing:
            raise DatasetError(f"{path}: {len(missing)} of {len(names)} do not exist: {first_few(missing, 3)}")
    return list(dict.fromkeys(found))


def expand_braces(pattern: str) -> list[str]:
    """Return what a text with lists such as `{a,b}` and `{08..11}` stands for; numbers keep the width of the first."""
    group = _GROUP.search(pattern)
    if group is None:
        return [pattern]
    first, last, listed = group.groups()
    if listed is not None:
        parts = listed.split(",")
    else:
        step = 1 if int(first) <= int(last) else -1
        parts = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + step, step)]
    return [name for part in parts for name in expand_braces(pattern[: group.start()] + part + pattern[group.end() :])]
