"""Candidate sets, and the revision of confidences against a slow, obvious reading of equations 4 and 5."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training.confidences import Confidences, candidate_sets, revise

RULES = ("one_hot", "literal", "renormalised", "none")


def slow_revise(row: list[float], logits: list[float], threshold: float, rule: str) -> list[float]:
    """One sample."""
    if rule == "none" or sum(c > 0 for c in row) < 2:
        return row
    scores = [c / (1 + math.exp(-x)) for c, x in zip(row, logits, strict=True)]
    order = sorted(range(len(row)), key=lambda k: -scores[k])
    if not scores[order[0]] - scores[order[1]] > threshold:
        return row
    if rule == "one_hot":
        return [float(k == order[0]) for k in range(len(row))]
    changed = [1.0 if k == order[0] else c for k, c in enumerate(row)]
    return [c / sum(changed) for c in changed] if rule == "renormalised" else changed


def some_sets(count: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    sets = torch.rand(count, classes, generator=generator) < 0.4
    sets[torch.arange(count), torch.randint(classes, (count,), generator=generator)] = True
    return sets


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.integers(0, 2**31))
@settings(max_examples=60)
def test_revision_equals_the_slow_one_again_and_again(count, classes, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    sets = some_sets(count, classes, generator)
    for rule in RULES:
        values = sets.float() / sets.sum(dim=1, keepdim=True)
        slow = values.double().tolist()
        for _ in range(3):
            logits = 4 * torch.randn(count, classes, generator=generator)
            values = revise(values, logits, threshold, rule)
            slow = [slow_revise(row, x, threshold, rule) for row, x in zip(slow, logits.tolist(), strict=True)]
            torch.testing.assert_close(values.double(), torch.tensor(slow, dtype=torch.float64), rtol=0, atol=1e-6)
        assert ((values > 0) <= sets).all()  # no label comes in


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("one_hot", [1.0, 0.0, 0.0]),
        ("literal", [1.0, 0.5, 0.0]),
        ("renormalised", [2 / 3, 1 / 3, 0.0]),
        ("none", [0.5, 0.5, 0.0]),
    ],
)
def test_what_becomes_of_two_candidates(rule: Any, expected: list[float]) -> None:
    before = torch.tensor([[0.5, 0.5, 0.0]])
    logits = torch.tensor([[4.0, -4.0, 9.0]])  # the third is no candidate
    torch.testing.assert_close(revise(before, logits, 0.2, rule), torch.tensor([expected]))


def test_a_lead_as_large_as_the_threshold_is_none() -> None:
    before, logits = torch.tensor([[0.5, 0.5]]), torch.tensor([[200.0, -200.0]])  # scores 0.5 and 0
    assert torch.equal(revise(before, logits, 0.5, "one_hot"), before)
    assert revise(before, logits, 0.49, "one_hot").tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("size", "can"), [(1, False), (2, True), (4, True), (5, False), (8, False)])
def test_samples_with_one_over_threshold_candidates_stay(size: int, can: bool) -> None:
    before = (torch.arange(8) < size).float()[None] / size
    sure = torch.full((1, 8), -99.0)
    sure[0, 0] = 99.0
    assert torch.equal(revise(before, sure, 0.2, "one_hot"), before) is not can


def test_half_precision_logits_count_as_float32_and_no_gradient_is_kept() -> None:
    before = torch.tensor([[0.5, 0.5]], requires_grad=True)
    after = revise(before, torch.tensor([[3.0, -3.0]]).bfloat16(), 0.2, "renormalised")
    assert after.dtype == torch.float32
    assert not after.requires_grad


# --- one row a sample -----------------------------------------------------------------------------------------------


def make(rule: Any = "one_hot") -> Confidences:
    sets = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    return Confidences(sets, 0.1, rule)


SURE = torch.tensor([[9.0, -9.0, -9.0]])


def test_at_first_candidates_are_equally_likely() -> None:
    confidences = make()
    expected = torch.tensor([[0.5, 0.5, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]])
    torch.testing.assert_close(confidences.values, expected)
    torch.testing.assert_close(confidences.rows(torch.tensor([3, 0]), torch.device("cpu")), expected[[3, 0]])
    assert confidences.revised_share.item() == 0


def test_only_the_rows_of_the_batch_are_revised() -> None:
    confidences = make()
    confidences.revise(torch.tensor([2, 1]), SURE.repeat(2, 1))
    assert confidences.values[2].tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(confidences.values[[0, 1, 3]], confidences.initial[[0, 1, 3]])
    assert confidences.revised.tolist() == [False, False, True, False]
    assert confidences.revised_share.item() == 0.25


def test_of_a_sample_that_is_there_twice_the_last_counts() -> None:
    for last in (0, 1):
        confidences = make()
        rows = torch.stack([SURE[0].roll(1), SURE[0], SURE[0].roll(last)])
        confidences.revise(torch.tensor([0, 3, 0]), rows)
        assert confidences.values[0].tolist() == [float(last == 0), float(last == 1), 0.0]


def test_what_was_revised_stays_told_when_a_row_is_as_it_was() -> None:
    confidences = make("literal")
    confidences.revise(torch.tensor([0]), SURE)
    confidences.revise(torch.tensor([0]), SURE)
    assert confidences.revised.tolist() == [True, False, False, False]
    assert confidences.values[0].tolist() == [1.0, 0.5, 0.0]


def test_a_state_is_a_copy_and_is_taken_up_again() -> None:
    confidences = make()
    confidences.revise(torch.tensor([0]), SURE)
    state = confidences.state()
    confidences.revise(torch.tensor([2]), SURE)
    other = make()
    other.restore(state)
    assert torch.equal(other.values, state["confidences"])
    assert other.revised.tolist() == [True, False, False, False]
    other.revise(torch.tensor([2]), SURE)
    assert torch.equal(other.values, confidences.values)
    assert state["revised"].tolist() == [True, False, False, False]


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(KeyError):
        make().restore({})
    wrong = Confidences(torch.ones(4, 2, dtype=torch.bool), 0.1, "one_hot").state()
    with pytest.raises(ValueError, match="shape"):
        make().restore(wrong)


# --- candidate sets -------------------------------------------------------------------------------------------------


def test_candidates_are_the_labels_with_votes() -> None:
    targets = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    assert candidate_sets(targets, 0.0, 0).tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_other_labels_are_added_with_a_probability(probability: float) -> None:
    labels = torch.arange(7).repeat(3000)
    targets = F.one_hot(labels, 7).float()
    sets = candidate_sets(targets, probability, seed=3)
    assert sets[torch.arange(len(labels)), labels].all()
    added = sets & (targets == 0)
    # 18,000 draws a class: three standard deviations are below 0.012.
    shares = torch.stack([added[labels != k, k].float().mean() for k in range(7)])
    torch.testing.assert_close(shares, torch.full((7,), probability), rtol=0, atol=0.012)
    assert (sets.all(dim=1).any()) == (probability == 0.5)  # the whole set may come


def test_sets_are_drawn_once_from_their_seed() -> None:
    targets = F.one_hot(torch.arange(8).repeat(20), 8).float()
    sets = candidate_sets(targets, 0.3, 1)
    assert torch.equal(candidate_sets(targets, 0.3, 1), sets)
    assert torch.equal(candidate_sets(targets[:50], 0.3, 1), sets[:50])  # whatever follows
    assert not torch.equal(candidate_sets(targets, 0.3, 2), sets)
    assert (candidate_sets(targets, 0.1, 1) <= sets).all()
