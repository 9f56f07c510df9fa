"""Which program and which machine made something: kept beside it, as folders outlive both."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from fer_app import __version__


def made_by() -> dict[str, str]:
    """Return `program` and `machine`, as files keep them."""
    return {"program": program(), "machine": machine()}


def machine() -> str:
    """Return the processor, its cores that this process may use, and the GPU where there is one; torch's version."""
    named = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = named[0] if named else platform.processor() or platform.machine()
    parts = [f"{processor}, {os.cpu_count()} cores ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join([*parts, f"torch {torch.__version__}"])


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def program() -> str:
    """Return the package's version, and the commit where it runs from its own checkout."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # An environment may lie inside a checkout of something else: there this file is not tracked.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--exclude=*"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"fer-mimic {__version__}"
    return f"fer-mimic {__version__}, commit {described.stdout.strip()}"
