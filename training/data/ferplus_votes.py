"""FERPlus's rules that turn ten annotators' votes into training targets, over all pictures at once.

Source: Barsoum et al. 2016 (arXiv:1608.01041), section 3, and the rules of the data set's published reader. In all of
its modes single votes are taken as noise and removed first, and the sums go over what remains in all ten columns. The
mode `shares`, which is not theirs, counts every vote, for partial-label learning (Wang, Sebe and Lepri 2022,
arXiv:2209.15402); `repeated_shares` is the same without single votes.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.labels import LABELS

VoteMode = Literal["majority", "probability", "crossentropy", "multi_target", "argmax", "shares", "repeated_shares"]
VOTE_MODES: Final[tuple[VoteMode, ...]] = get_args(VoteMode)

VOTE_COLUMNS: Final = (*LABELS, "unknown", "NF")
_N_CLASSES: Final = len(LABELS)

_MAX_PEAKS: Final = 3
_PEAK_SHARE: Final = 0.75
_MULTI_SHARE: Final = 0.3
_KEEP_SHARE: Final = 0.5
_MULTI_SMOOTHING: Final = 1e-3
_SAMPLING_STREAM: Final = 0x5A3B  # tells these draws apart from every other use of the same (seed, epoch)


def vote_targets(votes: NDArray[np.integer], mode: VoteMode) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Turn votes into targets.

    Args:
        votes: integer, (N, 10), columns `VOTE_COLUMNS`: the eight expressions, unknown, no face.
        mode: `majority`: one-hot where one column has more than half; `crossentropy` and `probability`: the
            distribution over the peaks (`probability` is trained on `sample_targets` of it, drawn anew each epoch);
            `multi_target`: 1 for each column with 30% or more and 0.001 elsewhere; `argmax`: one-hot of the largest;
            `shares` and `repeated_shares`: the distribution of the votes over the expressions, where the largest column
            is one of them.

    Returns:
        targets: float32, (N, 8), the columns of `fer_app.labels.LABELS`; zeros in dropped rows.
        keep: bool, (N,), False for rows that the mode drops (no clear expression, unknown, or no face).

    Raises:
        ValueError: `votes` is not (N, 10), holds a negative number, or the mode is unknown.
    """
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.shape[1] != len(VOTE_COLUMNS):
        raise ValueError(f"votes must be (N, {len(VOTE_COLUMNS)}), got {votes.shape}")
    if (votes < 0).any():
        raise ValueError("votes holds a negative number")
    counted = np.where(votes == 1, 0, votes).astype(np.int64)
    if mode == "majority":
        kept = _majority(counted)
    elif mode in ("probability", "crossentropy"):
        kept = _peaks(counted)
    elif mode == "multi_target":
        kept = _above_share(counted)
    elif mode == "argmax":
        kept = _largest(counted)
    elif mode == "shares":
        kept = votes.astype(np.int64)
    elif mode == "repeated_shares":
        kept = counted
    else:
        raise ValueError(f"unknown mode {mode!r}; one of {', '.join(VOTE_MODES)}")

    # Ties: the first largest column wins, so an expression beats unknown and NF.
    keep = (kept.max(axis=1) > 0) & (kept.argmax(axis=1) < _N_CLASSES)
    expressions = kept[:, :_N_CLASSES] * keep[:, None]
    if mode == "multi_target":
        hot = (expressions > 0).astype(np.float64)
        targets = ((1.0 - _MULTI_SMOOTHING) * hot + _MULTI_SMOOTHING) * keep[:, None]
    else:
        targets = expressions / np.maximum(expressions.sum(axis=1, keepdims=True), 1)
    return targets.astype(np.float32), keep


def _largest(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep each row's first largest column."""
    first = np.arange(votes.shape[1]) == votes.argmax(axis=1)[:, None]
    return np.where(first, votes, 0)


def _majority(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the largest column where it has strictly more than half of the votes."""
    clear = votes.max(axis=1) > _KEEP_SHARE * votes.sum(axis=1)
    return np.where(clear[:, None], _largest(votes), 0)


def _peaks(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the peaks in decreasing order until they hold 75%, are three, or reach unknown or NF.

    All columns of one height are one peak and are taken together. Unknown or NF ends the search and is itself kept
    only if nothing came before it. A row goes when half or less of its votes are kept or more than three columns are.
    """
    total = votes.sum(axis=1)
    kept = np.zeros_like(votes)
    left = votes.copy()
    taken = np.zeros(len(votes), np.int64)
    count = np.zeros(len(votes), np.int64)
    searching = np.ones(len(votes), np.bool_)
    for _ in range(_MAX_PEAKS):  # each round takes at least one column
        searching &= (taken < _PEAK_SHARE * total) & (count < _MAX_PEAKS)
        height = left.max(axis=1)
        peak = (left == height[:, None]) & searching[:, None]
        emotions, others = peak[:, :_N_CLASSES], peak[:, _N_CLASSES:]
        ends = others.any(axis=1)
        alone = ends & ~emotions.any(axis=1) & (count == 0)
        peak[:, _N_CLASSES:] = 0
        peak[alone, _N_CLASSES + others[alone].argmax(axis=1)] = True  # of unknown and NF the first one
        kept = np.where(peak, votes, kept)
        left = np.where(peak, 0, left)
        taken += (peak * votes).sum(axis=1)
        count += peak.sum(axis=1)
        searching &= ~ends
    dropped = (kept.sum(axis=1) <= _KEEP_SHARE * total) | (count > _MAX_PEAKS)
    return np.where(dropped[:, None], 0, kept)


def _above_share(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the columns with 30% or more, where they hold more than half together."""
    total = votes.sum(axis=1)
    # In tenths, because 0.3 * 10 is not 3 in binary floating point.
    kept = np.where(10 * votes >= round(10 * _MULTI_SHARE) * total[:, None], votes, 0)
    dropped = kept.sum(axis=1) <= _KEEP_SHARE * total
    return np.where(dropped[:, None], 0, kept)


def sample_targets(targets: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Draw one class a picture from its distribution: the `probability` mode's targets of one epoch.

    The draw of picture i is a function of (seed, epoch, i) alone: it depends neither on the batch that the picture
    is in nor on how many pictures follow it.

    Args:
        targets: float32, (N, K), rows that sum to 1, in the data set's order.
        seed: the run's seed, 0 or more.
        epoch: 0-based.

    Returns:
        float32, (N, K), one-hot, on the device of `targets`.
    """
    sequence = np.random.SeedSequence([_SAMPLING_STREAM, seed, epoch])
    draws = np.random.Generator(np.random.Philox(sequence)).random(len(targets))
    uniform = torch.from_numpy(draws).to(targets.device)
    cumulative = targets.double().cumsum(dim=1)
    # Scaled by the row's own sum, so that rounding can never push a draw past the last class with weight.
    chosen = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(dim=1)
    return torch.nn.functional.one_hot(chosen, targets.shape[1]).to(targets.dtype)
