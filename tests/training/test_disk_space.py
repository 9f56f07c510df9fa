import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from fer_app.errors import CheckpointError
from training.disk_space import need_disk_space, state_bytes
from training.run_folder import RunFolder


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    usage = SimpleNamespace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.mark.parametrize("ema", [False, True])
def test_the_states_size_is_the_files(tmp_path: Path, ema: bool) -> None:
    model = nn.Sequential(nn.Linear(500, 500), nn.BatchNorm1d(500), nn.Linear(500, 500).requires_grad_(False))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.rand(4, 500)).sum().backward()
    optimizer.step()
    average = ModelEmaV3(model).state_dict() if ema else None
    folder = RunFolder(tmp_path)
    folder.save_state({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average})
    assert folder.state.stat().st_size == pytest.approx(state_bytes(model, ema=ema), rel=0.02)


def test_too_little_space_is_an_error_that_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = nn.Linear(5000, 5000), RunFolder(tmp_path)
    weights = 4 * (5000 * 5000 + 5000)
    needed = need_disk_space(folder, model, ema=False)
    assert needed == pytest.approx(2 * 3 * weights + 3 * weights, rel=0.05)
    free(monkeypatch, needed)
    assert need_disk_space(folder, model, ema=False) == needed
    free(monkeypatch, needed - 1)
    with pytest.raises(CheckpointError, match=r"the run needs 0\.92 GB .* and 0\.92 GB are free: make room"):
        need_disk_space(folder, model, ema=False)
    folder.last.write_bytes(bytes(1000))  # it will be replaced
    assert need_disk_space(folder, model, ema=False) == needed - 1000
