"""The loss of guesses: value and gradient against a slow oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fer_app.errors import ConfigError
from training.losses.guess_loss import GuessLoss


def slow_guess_loss(logits: Tensor, guesses: list[list[float]], kind: str) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for row, guess in zip(logits, guesses, strict=True):
        probs = torch.exp(row) / torch.exp(row).sum()
        for p, q in zip(probs, guess, strict=True):
            total = total + ((p - q) ** 2 / len(guess) if kind == "mse" else -q * torch.log(p))
    return total / len(guesses)


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from(["mse", "ce"]), st.integers(0, 2**31))
@settings(max_examples=60)
def test_value_and_gradient_equal_the_slow_ones(batch, classes, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, requires_grad=True)
    guesses = torch.rand(batch, classes, generator=generator).softmax(dim=1)
    loss = GuessLoss(kind)(logits, guesses)
    slow = slow_guess_loss(logits.double(), guesses.tolist(), kind)
    torch.testing.assert_close(loss.double(), slow, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    (slow_gradient,) = torch.autograd.grad(slow, logits)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-5)


def test_guesses_get_no_gradient():
    guesses = torch.rand(2, 3).softmax(dim=1).requires_grad_()
    GuessLoss()(torch.randn(2, 3, requires_grad=True), guesses).backward()
    assert guesses.grad is None


def test_the_squared_error_is_bounded_and_cross_entropy_is_not():
    sure, other = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert GuessLoss("mse")(sure, other).item() == pytest.approx(1.0)
    assert GuessLoss("ce")(sure, other).item() == pytest.approx(50.0)


def test_float32_softmax_of_bfloat16_logits():
    logits = torch.randn(8, 8).bfloat16()
    guesses = torch.rand(8, 8).softmax(dim=1)
    loss = GuessLoss()(logits, guesses)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, GuessLoss()(logits.float(), guesses))


def test_arguments_are_checked():
    with pytest.raises(ConfigError, match="mse, ce"):
        GuessLoss("l1")
    with pytest.raises(ValueError, match=r"both be \(M, K\)"):
        GuessLoss()(torch.randn(4, 3), torch.zeros(4))
