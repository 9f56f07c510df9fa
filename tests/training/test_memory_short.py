"""Memory that does not suffice, told in a line."""

import pytest
import torch

from fer_app.errors import MemoryShortError
from training.memory import need_memory


def test_a_cpu_that_cannot_allocate_is_told_like_a_gpu() -> None:
    said = r"^pretrain: out of memory .*: lower pretrain\.batch_size"
    with pytest.raises(MemoryShortError, match=said) as caught, need_memory("pretrain"):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "\n" not in str(caught.value)
    with pytest.raises(MemoryShortError, match=r"^finetune: out of memory: lower"), need_memory("finetune"):
        raise MemoryError


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), need_memory("pretrain"):
        raise RuntimeError("shapes")
