"""Small files beside a run or a set: written at once or not at all, and read with one kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_app.atomic_file import replacing
from fer_app.errors import CheckpointError, FerError, InputError


def write_text(path: Path, text: str, *, error: type[FerError] = CheckpointError) -> None:
    """Replace a file.

    Args:
        path: its folder exists.
        text: the whole content.
        error: what to raise.

    Raises:
        FerError: `error`: it could not be written; one that was there stays as it is.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, InputError) as fault:
        raise error(f"cannot write {path}: {fault}") from fault


def write_json(path: Path, values: Mapping[str, Any], *, error: type[FerError] = CheckpointError) -> None:
    """Replace a file by an object; raises as `write_text` does."""
    write_text(path, json.dumps(values, indent=2) + "\n", error=error)


def read_text(path: Path, *, error: type[FerError] = CheckpointError) -> str | None:
    """Return a file's text, or None where there is no file.

    Raises:
        FerError: `error`: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise error(f"{path} cannot be read: {fault}") from fault


def read_json(path: Path, *, error: type[FerError] = CheckpointError) -> dict[str, Any] | None:
    """Return a file's object, or None where there is no file.

    Raises:
        FerError: `error`: it cannot be read, or is no object.
    """
    text = read_text(path, error=error)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as fault:
        raise error(f"{path} cannot be read: {fault}") from fault
    if not isinstance(values, dict):
        raise error(f"{path} cannot be read: no JSON object")
    return values
