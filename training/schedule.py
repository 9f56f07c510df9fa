"""Learning-rate schedules as pure functions of training progress."""

from __future__ import annotations

import math


def warmup_cosine(progress: float, *, epochs: float, warmup_epochs: float, peak: float, floor: float = 0.0) -> float:
    """Linear warm-up from zero, then half a cosine down to `floor`.

    Set before every step from the fractional epoch (He et al. 2022, `util/lr_sched.py`: lr follows iterations).

    Args:
        progress: epochs done so far, fractional; the first step has 0.
        epochs: length of the run.
        warmup_epochs: length of the linear part.
        peak: value at the end of the warm-up.
        floor: value at the end of the run.
    """
    if progress < warmup_epochs:
        return peak * progress / warmup_epochs
    share = (progress - warmup_epochs) / max(epochs - warmup_epochs, 1e-12)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def momentum_cosine(progress: float, *, epochs: float, start: float) -> float:
    """Rise from `start` to 1 along half a cosine: the momentum of MoCo v3's slow encoder (arXiv:2104.02057).

    Args:
        progress: epochs done so far, fractional; the first step has 0.
        epochs: length of the run.
        start: value of the first step.
    """
    return 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * progress / epochs))
