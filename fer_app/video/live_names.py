"""Names of cameras and streams: which are live, and what may be said of them."""

from __future__ import annotations

import re
from pathlib import Path

_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp", "rtp")
_DEVICE = re.compile(r"(?:/dev/video)?(\d+)")
# Cameras take them in the path too: `rtsp://host/user=admin&password=x&channel=1`.
_SECRET = re.compile(r"((?:user|login|pass|pwd|token|secret|auth|key)[a-z]*=)[^&;/]*", re.IGNORECASE)


def is_live(source: str | Path) -> bool:
    """Whether this names a camera (`0`, `/dev/video0`) or a stream (`rtsp://...`), and not a file."""
    scheme, separator, _ = str(source).partition("://")
    return camera_number(source) is not None or (bool(separator) and scheme.lower() in _SCHEMES)


def camera_number(source: str | Path) -> int | None:
    """Give the number of a camera of this machine; None for anything else."""
    found = _DEVICE.fullmatch(str(source))
    return int(found[1]) if found else None


def shown_name(source: str | Path) -> str:
    """Give what messages, rows and files may call a source: an address without user name, password and query.

    A camera is `camera 0`; a file is what it was.
    """
    number = camera_number(source)
    if number is not None:
        return f"camera {number}"
    if not is_live(source):
        return str(source)
    scheme, _, rest = str(source).partition("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    host = host.rpartition("@")[2]
    if "@" in rest and not re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host):
        # A slash or question mark in a password that was not written as %2F or %3F: what follows it is no path.
        return shown_name(f"{scheme}://{rest.rpartition('@')[2]}")
    query = "?..." if "?" in rest else ""
    return f"{scheme}://{host}{slash}" + _SECRET.sub(r"\1...", path) + query
