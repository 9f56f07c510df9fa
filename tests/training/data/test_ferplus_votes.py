"""The vote rules against slow, obvious readings of them, and on label rows with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fer_app.labels import LABELS
from training.data.ferplus_votes import VOTE_COLUMNS, VOTE_MODES, sample_targets, vote_targets

UNKNOWN, NF = 8, 9


def majority_oracle(votes):
    best = max(votes)
    return {votes.index(best): best} if best > 0.5 * sum(votes) else {}


def peaks_oracle(votes):
    total, left, kept = sum(votes), list(votes), {}
    reached = 0
    while total and reached < 0.75 * total and len(kept) < 3:
        height = max(left)
        stop = False
        for column in [c for c in range(10) if left[c] == height]:
            left[column] = 0
            reached += height
            if column >= UNKNOWN:
                stop = True
                if not kept:
                    kept[column] = height
                break
            kept[column] = height
        if stop:
            break
    return {} if sum(kept.values()) <= 0.5 * total or len(kept) > 3 else kept


def multi_oracle(votes):
    total = sum(votes)
    kept = {c: v for c, v in enumerate(votes) if v > 0 and v * 100 >= 30 * total}
    return kept if sum(kept.values()) > 0.5 * total else {}


def argmax_oracle(votes):
    return {votes.index(max(votes)): max(votes)} if max(votes) else {}


def shares_oracle(votes):
    return {c: v for c, v in enumerate(votes) if v}


ORACLES = {
    "shares": shares_oracle,
    "repeated_shares": shares_oracle,
    "majority": majority_oracle,
    "probability": peaks_oracle,
    "crossentropy": peaks_oracle,
    "multi_target": multi_oracle,
    "argmax": argmax_oracle,
}


def oracle(row, mode):
    """One row: its eight targets, or None when it is dropped."""
    kept = ORACLES[mode]([0 if v == 1 and mode != "shares" else int(v) for v in row])
    if not kept or min(c for c in kept if kept[c] == max(kept.values())) >= UNKNOWN:
        return None
    kept = {c: v for c, v in kept.items() if c < UNKNOWN}
    if mode == "multi_target":
        return [1.0 if c in kept else 0.001 for c in range(8)]
    return [kept.get(c, 0) / sum(kept.values()) for c in range(8)]


def row(**votes):
    return [votes.get(name, 0) for name in VOTE_COLUMNS]


def targets_of(votes, mode):
    targets, keep = vote_targets(np.array([votes]), mode)
    return dict(zip(LABELS, targets[0].astype(float).round(4).tolist(), strict=True)) if keep[0] else None


@pytest.mark.parametrize("mode", VOTE_MODES)
def test_equals_the_oracle_on_many_rows(mode):
    rng = np.random.default_rng(3)
    # Few columns with weight, as in the real labels, make ties, thirds and halves frequent.
    weights = rng.dirichlet(np.full(10, 0.35), 6000)
    votes = np.array([rng.multinomial(rng.integers(0, 11), w) for w in weights])
    targets, keep = vote_targets(votes, mode)
    assert targets.dtype == np.float32
    assert targets.shape == (6000, 8)
    assert 0.2 < keep.mean() < 0.95
    for values, kept, line in zip(targets, keep, votes, strict=True):
        expected = oracle(line, mode)
        assert kept == (expected is not None), line
        np.testing.assert_allclose(values, expected or np.zeros(8), atol=1e-6, err_msg=str(line))


@pytest.mark.parametrize("mode", [mode for mode in VOTE_MODES if mode != "shares"])
def test_single_votes_are_removed_first(mode):
    # Without the removal, happiness has 5 of 10: no majority.
    votes = row(happiness=5, neutral=1, sadness=1, anger=1, fear=1, unknown=1)
    assert targets_of(votes, mode)["happiness"] == 1.0
    assert targets_of(row(**dict.fromkeys(VOTE_COLUMNS, 1)), mode) is None
    assert targets_of(row(), mode) is None


@pytest.mark.parametrize("mode", VOTE_MODES)
@pytest.mark.parametrize("column", ["unknown", "NF"])
def test_unknown_and_no_face_are_dropped(mode, column):
    assert targets_of(row(**{column: 10}), mode) is None
    assert targets_of(row(**{column: 7, "happiness": 3}), mode) is None


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ({"neutral": 4, "anger": 3, "sadness": 2}, None),  # 4 of 9 is no majority
        ({"neutral": 5, "anger": 5}, None),  # strictly more than half
        ({"neutral": 5, "anger": 4}, "neutral"),
        ({"fear": 6, "unknown": 4}, "fear"),
        ({"fear": 5, "unknown": 5}, None),
    ],
)
def test_majority(votes, label):
    expected = None if label is None else {name: float(name == label) for name in LABELS}
    assert targets_of(row(**votes), "majority") == expected


@pytest.mark.parametrize(
    ("votes", "kept"),
    [
        ({"neutral": 8, "anger": 2}, {"neutral": 1.0}),  # 80% reached, the search ends
        ({"neutral": 6, "anger": 4}, {"neutral": 0.6, "anger": 0.4}),
        ({"neutral": 4, "anger": 2, "fear": 2, "sadness": 2}, None),  # the tied second peak makes four columns
        ({"neutral": 3, "anger": 3, "fear": 3}, {"neutral": 0.3333, "anger": 0.3333, "fear": 0.3333}),
        ({"neutral": 6, "unknown": 4}, {"neutral": 1.0}),  # unknown ends the search and goes
        ({"neutral": 5, "unknown": 5}, None),  # what precedes it is only half
        ({"neutral": 4, "anger": 3, "NF": 3}, {"neutral": 0.5714, "anger": 0.4286}),  # tied with NF, which goes
        ({"unknown": 6, "neutral": 4}, None),
        ({"unknown": 5, "NF": 5}, None),
        ({"neutral": 4, "anger": 4, "unknown": 2}, {"neutral": 0.5, "anger": 0.5}),
    ],
)
@pytest.mark.parametrize("mode", ["crossentropy", "probability"])
def test_peaks(votes, kept, mode):
    expected = None if kept is None else {name: kept.get(name, 0.0) for name in LABELS}
    assert targets_of(row(**votes), mode) == expected


@pytest.mark.parametrize(
    ("votes", "kept"),
    [
        ({"neutral": 7, "anger": 3}, ("neutral", "anger")),  # 30% counts
        ({"neutral": 8, "anger": 2}, ("neutral",)),
        ({"neutral": 5, "anger": 2, "fear": 3}, ("neutral", "fear")),
        ({"neutral": 3, "anger": 2, "fear": 2, "sadness": 3}, ("neutral", "sadness")),
        ({"neutral": 4, "anger": 2, "fear": 2, "sadness": 2}, None),  # 40% kept
        ({"neutral": 5, "unknown": 5}, ("neutral",)),  # kept together, and the expression is first
        ({"neutral": 4, "unknown": 6}, None),
    ],
)
def test_multi_target(votes, kept):
    expected = None if kept is None else {name: 1.0 if name in kept else 0.001 for name in LABELS}
    assert targets_of(row(**votes), "multi_target") == expected


def test_argmax_takes_the_first_of_equals():
    assert targets_of(row(sadness=5, anger=5), "argmax")["sadness"] == 1.0
    assert targets_of(row(contempt=5, unknown=5), "argmax")["contempt"] == 1.0


def test_shares_count_single_votes_and_leave_out_what_is_no_expression():
    votes = row(happiness=5, neutral=1, fear=2, unknown=2)
    shares = dict.fromkeys(LABELS, 0.0) | {"happiness": 0.625, "neutral": 0.125, "fear": 0.25}
    assert targets_of(votes, "shares") == shares
    assert targets_of(votes, "repeated_shares") == shares | {"happiness": 0.7143, "neutral": 0.0, "fear": 0.2857}


def test_no_rows_give_no_targets():
    for mode in VOTE_MODES:
        targets, keep = vote_targets(np.zeros((0, 10), np.int64), mode)
        assert targets.shape == (0, 8)
        assert keep.shape == (0,)


def test_bad_votes_are_refused():
    with pytest.raises(ValueError, match="10"):
        vote_targets(np.zeros((3, 8), np.int64), "majority")
    with pytest.raises(ValueError, match="negative"):
        vote_targets(np.full((1, 10), -1), "majority")
    with pytest.raises(ValueError, match="plurality"):
        vote_targets(np.zeros((1, 10), np.int64), "plurality")


def test_votes_are_not_changed():
    votes = np.array([row(neutral=1, anger=6, fear=3)])
    vote_targets(votes, "crossentropy")
    assert votes.tolist() == [row(neutral=1, anger=6, fear=3)]


def test_sampled_classes_follow_the_distribution():
    targets = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).repeat(20_000, 1)
    drawn = sample_targets(targets, seed=1, epoch=0)
    assert drawn.dtype == torch.float32
    assert (drawn.sum(1) == 1).all()
    np.testing.assert_allclose(drawn.mean(0), [0.5, 0.0, 0.3, 0.2], atol=0.015)
    assert drawn[:, 1].sum() == 0


def test_a_sampled_class_is_a_function_of_seed_epoch_and_index():
    targets = torch.full((300, 8), 0.125)
    first = sample_targets(targets, seed=5, epoch=2)
    assert torch.equal(first, sample_targets(targets, seed=5, epoch=2))
    assert torch.equal(first[:100], sample_targets(targets[:100], seed=5, epoch=2))
    for seed, epoch in ((5, 3), (6, 2), (2, 5)):
        agree = (first * sample_targets(targets, seed=seed, epoch=epoch)).sum() / 300
        assert agree < 0.25


def test_one_hot_targets_are_sampled_as_they_are():
    targets = torch.eye(8)
    assert torch.equal(sample_targets(targets, seed=0, epoch=0), targets)
