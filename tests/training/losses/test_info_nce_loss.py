"""InfoNCE on pictures and on patches: closed values, and slow oracles for value and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.info_nce_loss import MocoV3Loss, PatchNceLoss, info_nce


def slow_nce(queries: Tensor, keys: Tensor, own: list[int], temperature: float) -> Tensor:
    terms = []
    for i, place in enumerate(own):
        scores = [torch.exp(queries[i] @ key / temperature) for key in keys]
        terms.append(-torch.log(scores[place] / sum(scores)))
    return sum(terms) / len(terms)


def compare(loss: Tensor, slow: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(loss.double(), slow, rtol=1e-4, atol=1e-5)
    ours, theirs = torch.autograd.grad(loss, inputs), torch.autograd.grad(slow, inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@given(st.integers(1, 6), st.integers(0, 4), st.sampled_from([0.07, 0.2, 1.0]), st.integers(0, 2**31))
@settings(max_examples=40)
def test_moco_v3_equals_the_slow_one(samples: int, others: int, temperature: float, seed: int) -> None:
    """`others` keys of another process come first."""
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(samples, 5, generator=generator, requires_grad=True) for _ in range(2)]
    keys = [F.normalize(torch.randn(others + samples, 5, generator=generator), dim=1) for _ in range(2)]
    queries = [F.normalize(one, dim=1) for one in raw]
    loss, _ = MocoV3Loss(temperature)((queries[0], queries[1]), (keys[0], keys[1]), first=others)
    own = [others + i for i in range(samples)]
    exact = [F.normalize(one.double(), dim=1) for one in raw]
    slow = slow_nce(exact[0], keys[1].double(), own, temperature) + slow_nce(
        exact[1], keys[0].double(), own, temperature
    )
    compare(loss, 2 * temperature * slow, *raw)


@given(st.integers(1, 3), st.integers(2, 6), st.sampled_from(["picture", "batch"]), st.integers(0, 2**31))
@settings(max_examples=40)
def test_patches_equal_the_slow_ones(batch: int, num_patches: int, negatives: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 1 + seed % (num_patches - 1)
    mask = torch.rand(batch, num_patches, generator=generator).argsort(dim=1) < count
    raw = torch.randn(batch, num_patches, 4, generator=generator, requires_grad=True)
    targets = F.normalize(torch.randn(batch, num_patches, 4, generator=generator), dim=2)
    loss, match = PatchNceLoss(0.1, negatives)(F.normalize(raw, dim=2), targets, mask)
    exact, terms, right = F.normalize(raw.double(), dim=2), [], []
    for b in range(batch):
        for i in mask[b].nonzero().flatten().tolist():
            keys = targets[b] if negatives == "picture" else targets.flatten(0, 1)
            place = i if negatives == "picture" else b * num_patches + i
            terms.append(slow_nce(exact[b, i : i + 1], keys.double(), [place], 0.1))
            right.append(float((keys.double() @ exact[b, i]).argmax() == place))
    compare(loss, sum(terms) / len(terms), raw)
    assert match.item() == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_closed_values(temperature: float) -> None:
    eye = torch.eye(4)
    alone = math.log(math.exp(1 / temperature) + 3) - 1 / temperature
    loss, match = MocoV3Loss(temperature)((eye, eye), (eye, eye))
    assert loss.item() == pytest.approx(2 * temperature * 2 * alone, rel=1e-4)
    assert match == 1
    loss, match = MocoV3Loss(temperature)((eye, eye), (eye.roll(1, 0), eye.roll(1, 0)))
    assert loss.item() == pytest.approx(4 * temperature * (alone + 1 / temperature), rel=1e-4)
    assert match == 0
    same = torch.full((4, 9), 1 / 3)
    assert info_nce(same, same, torch.arange(4), temperature)[0].item() == pytest.approx(math.log(4), rel=1e-5)


def test_visible_patches_cost_nothing_and_are_negatives() -> None:
    mask = torch.tensor([[True, False, False]])
    targets = F.normalize(torch.randn(1, 3, 4), dim=2)
    patches = F.normalize(torch.randn(1, 3, 4), dim=2).requires_grad_()
    loss, _ = PatchNceLoss()(patches, targets, mask)
    (gradient,) = torch.autograd.grad(loss, patches)
    assert torch.equal(gradient[0, 1:], torch.zeros(2, 4))
    other = targets.clone()
    other[0, 2] = patches.detach()[0, 0]
    assert PatchNceLoss()(patches, other, mask)[0] > loss


def test_float32_similarities_under_autocast() -> None:
    q, k = F.normalize(torch.randn(16, 32), dim=1), F.normalize(torch.randn(16, 32), dim=1)
    patches, targets = q.reshape(2, 8, 32), k.reshape(2, 8, 32)
    mask = torch.arange(8).expand(2, -1) < 5

    def values() -> list[Tensor]:
        return [
            MocoV3Loss()((q, q), (k, k))[0],
            *(PatchNceLoss(negatives=kind)(patches, targets, mask)[0] for kind in ("picture", "batch")),
        ]

    expected = values()
    with torch.autocast("cpu", torch.bfloat16):
        found = values()
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        MocoV3Loss(0.0)
    with pytest.raises(ConfigError, match="temperature"):
        PatchNceLoss(-1.0)
    with pytest.raises(ConfigError, match="there are picture, batch"):
        PatchNceLoss(negatives="image")  # type: ignore[arg-type]
