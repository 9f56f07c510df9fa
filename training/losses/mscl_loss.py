"""Mix-supervised contrastive loss (MSCL; Zhang et al. 2024, "MIMIC", arXiv:2401.07245, eq. 11-13)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.scl_loss import check_temperature, contrastive_loss

MsclAnchor = Literal["dominant", "soft"]

# A mixture of exactly one half must count as positive whatever the rounding of its weights.
TOLERANCE = 1e-6


def mixed_positives(targets: Tensor, threshold: float, anchor: MsclAnchor) -> Tensor:
    """Decide which mixed samples are positives of which (eq. 13: `|Mix(y_a, y_b) - y_i| <= t`).

    The distance is the total variation, half the L1 distance: 1 minus the weight of the anchor's class when the
    anchor is one-hot. A threshold of 0.5 then reads "the anchor's class is the dominant part of the mixture". The
    paper leaves the norm open; with L1 or L2 many anchors would have no positive at all.

    Args:
        targets: float, (M, K), rows summing to 1, without label smoothing.
        threshold: t.
        anchor: `dominant` takes the one-hot vector of an anchor's largest class as y_i, which at t = 0.5 is the rule
            of the authors' code; `soft` takes its mixed label literally.

    Returns:
        bool, (M, M); row i marks the positives of anchor i, itself possibly among them.
    """
    targets = targets.detach().float()
    anchors = targets
    if anchor == "dominant":
        anchors = F.one_hot(targets.argmax(dim=1), targets.shape[1]).to(targets.dtype)
    distance = torch.cdist(anchors, targets, p=1.0) / 2
    return distance <= threshold + TOLERANCE


class MsclLoss(nn.Module):
    """Contrast mixed samples; those whose mixed labels are near are positives.

    Anchors without a positive are left out, and the loss is the mean over the others.

    Differs: eq. 11 sums over the anchors. The mean is what the authors' code computes and what their trade-off of 0.1
    was tuned with.

    Args:
        temperature: tau.
        threshold: t, on the total variation distance, in [0, 1].
        anchor: see `mixed_positives`.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(self, temperature: float = 0.07, threshold: float = 0.5, anchor: MsclAnchor = "dominant") -> None:
        super().__init__()
        if not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"the threshold of MSCL is a total variation, in [0, 1], got {threshold}")
        if anchor not in get_args(MsclAnchor):
            raise ConfigError(f"there is no MSCL anchor {anchor!r}; there are {', '.join(get_args(MsclAnchor))}")
        self.temperature = check_temperature(temperature)
        self.threshold = threshold
        self.anchor: MsclAnchor = anchor

    def forward(self, z: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            z: (M, d), rows of length 1; all mixed views of a batch.
            targets: float, (M, K), mixed labels of the rows of `z`, without label smoothing.

        Raises:
            ValueError: the shapes do not fit.
        """
        if z.ndim != 2 or targets.ndim != 2 or len(z) != len(targets):
            raise ValueError(f"z {tuple(z.shape)} and targets {tuple(targets.shape)} must be (M, d) and (M, K)")
        return contrastive_loss(z, mixed_positives(targets, self.threshold, self.anchor), self.temperature)
