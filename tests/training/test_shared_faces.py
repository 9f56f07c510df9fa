"""Faces for several processes of a machine; `test_distributed.py` has two of them read together."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from lightning.fabric import Fabric

from fer_app.errors import DatasetError
from training import shared_faces
from training.data.ferplus import load_ferplus
from training.shared_faces import once_a_machine


def test_one_process_keeps_what_it_reads(mini_ferplus: Path) -> None:
    faces = load_ferplus(mini_ferplus, "dev")
    assert once_a_machine(Fabric(accelerator="cpu", devices=1), lambda: faces) is faces


@pytest.mark.parametrize("error", [DatasetError("no such set"), None])
def test_nothing_stays_where_they_cannot_be_shared(
    mini_ferplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DatasetError | None
) -> None:
    """As the set cannot be read, or its file has no room."""
    world: Any = Mock(size=2, first=lambda make: make())
    monkeypatch.setattr(shared_faces, "World", lambda _: world)
    monkeypatch.setattr(shared_faces.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shared_faces.shutil, "disk_usage", lambda _: Mock(free=1000))
    fabric: Any = Mock(local_rank=0, node_rank=0, strategy=Mock(num_nodes=1))
    read = Mock(side_effect=error, return_value=load_ferplus(mini_ferplus, "dev"))
    said = "no such set" if error else r"a file of 0\.00 GB, and 0\.00 GB are free in .*: make room, or name another"
    with pytest.raises(DatasetError, match=said):
        once_a_machine(fabric, read)
    assert list(tmp_path.iterdir()) == []
