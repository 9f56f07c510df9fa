"""What other packages bring through entry points, and what to install where they lack a package themselves."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer_app.errors import MissingExtraError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@functools.cache
def entry_points_of(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; none of them is loaded."""
    # Not at the top: it loads the whole of `email`, which our own commands do without.
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=group)}


def needs_extras(what: str, entry_point: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the lack of a package, on import or later in a run, into an error that names the extra.

    Args:
        what: needs the package, for the message.
        entry_point: brings `function`.
        function: is called.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if not missing or missing == entry_point.module.partition(".")[0]:
                raise
            remedy = _remedy(entry_point, missing)
            raise MissingExtraError(f"{what} needs {missing}, which is not installed: {remedy}") from error

    return wrapped


def _remedy(entry_point: EntryPoint, missing: str) -> str:
    """Find the extra of an entry point's distribution that brings a package; one named like it comes first."""
    distribution = entry_point.dist
    if distribution is None:
        return f"pip install {missing}"
    extras = distribution.metadata.get_all("Provides-Extra") or []
    bringing = [
        extra[1]
        for requirement in distribution.requires or []
        if re.match(rf"{re.escape(missing)}\b", requirement.replace("-", "_"), re.IGNORECASE)
        and (extra := re.search(r"extra == ['\"]([\w.-]+)['\"]", requirement))
    ]
    best = entry_point.name if entry_point.name in extras else next(iter(bringing), "")
    return f'pip install "{distribution.name}[{best}]"' if best else f"pip install {missing}"
