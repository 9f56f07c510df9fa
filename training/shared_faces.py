"""Labelled faces that all processes of a machine see, held once."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from fer_app.errors import DatasetError
from training.data.image_set import ImageSet
from training.distributed import World


def once_a_machine(fabric: Fabric, read: Callable[[], ImageSet]) -> ImageSet:
    """Read faces in one process of each machine, and let the others on it see them.

    They go through a file of the folder for temporary files (`TMPDIR` names another), which all map into their memory:
    the system keeps one copy, in what it otherwise uses to cache files. Its name is gone before this returns.

    Args:
        fabric: the processes; every one of them calls this.
        read: reads the faces.

    Returns:
        What `read` returned; the pictures of several processes must not be written to.

    Raises:
        DatasetError: as `read` raises; or the file does not fit on its disk or cannot be written.
    """
    world = World(fabric)
    if world.size == getattr(fabric.strategy, "num_nodes", 1):
        return read()
    # Machines may have one folder in common.
    path = Path(tempfile.gettempdir()) / f"{world.first(_name)}-{fabric.node_rank}"
    reads = fabric.local_rank == 0
    with _removing(path) if reads else contextlib.nullcontext():
        if reads:
            _write(path, read())
        world.highest(0)  # it is there
        faces = _mapped(path)
        world.highest(0)  # all have it
    return faces


def _name() -> str:
    return f"fer-faces-{secrets.token_hex(8)}"


@contextlib.contextmanager
def _removing(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is mapped
            path.unlink(missing_ok=True)


def _write(path: Path, faces: ImageSet) -> None:
    needed, free = faces.images.nbytes, shutil.disk_usage(path.parent).free
    if needed > free:
        raise DatasetError(
            f"the processes of a machine share {len(faces)} faces through a file of {needed / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free in {path.parent}: make room, or name another folder with TMPDIR"
        )
    try:
        torch.save({field.name: getattr(faces, field.name) for field in dataclasses.fields(faces)}, path)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"the faces cannot be written to {path} for the other processes: {error}") from error


def _mapped(path: Path) -> ImageSet:
    try:
        parts: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise DatasetError(f"{path}, which the first process of this machine wrote, cannot be read: {error}") from error
    return ImageSet(**parts)
