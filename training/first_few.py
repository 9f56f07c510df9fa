"""The first few of many, for messages of one line."""

from __future__ import annotations

from collections.abc import Sequence


def first_few(items: Sequence[str], at_most: int = 5, separator: str = ", ") -> str:
    """Return the first items in one line, with an ellipsis where there are more."""
    more = ["..."] if len(items) > at_most else []
    return separator.join([*items[:at_most], *more])
