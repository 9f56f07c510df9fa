"""Fuzzy C-means on the unit sphere, anchored by labelled samples (Bezdek 1981; as Margin-Mix labels itself with it).

Margin-Mix (Florea et al. 2020, ECCV): class centroids come from fuzzy C-means, labelled samples alone decide the first
ones, later both kinds count, and an unlabelled sample gets a soft label by its distances to the centroids.

Differs: of the paper only this description was at hand. Ours are: the fuzzifier, centroids as a weighted mean of the
labelled and the unlabelled ones, at most ten rounds, centroids that are brought back to length 1, and clusters of known
sizes. Clusters keep their classes, as labelled samples belong to theirs from the start.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import DatasetError

MIN_SQUARED_DISTANCE = 1e-8
ROUNDS = 10
SMALLEST_SHIFT = 1e-4


def squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """Return `|z_i - c_j|^2`, (M, K), of rows of length 1: (M, D) and (K, D)."""
    return 2.0 - 2.0 * z @ centroids.T


def memberships(z: Tensor, centroids: Tensor, fuzzifier: float = 2.0, sizes: Tensor | None = None) -> Tensor:
    """Return how much each sample belongs to each cluster: `s_j d_ij^(-2 / (m - 1))`, divided by its sum over clusters.

    It makes `sum_ij s_j^(1 - m) u_ij^m d_ij^2` smallest: fuzzy C-means with cluster sizes s (Miyamoto and Kurosawa
    2004), and the textbook's where they are equal. Without them a cluster of few samples takes as many as a large one.
    A sample at a centroid belongs to that cluster alone, or by their sizes to all that lie there.

    Args:
        z: float, (M, D), rows of length 1.
        centroids: float, (K, D), rows of length 1.
        fuzzifier: m, above 1; the nearer to 1, the harder.
        sizes: float, (K,), positive, of any sum; None for equal ones.

    Returns:
        float32, (M, K), rows summing to 1.
    """
    with torch.autocast(device_type=z.device.type, enabled=False):
        squared = squared_distances(z.float(), centroids.float()).clamp(min=MIN_SQUARED_DISTANCE)
        scores = -squared.log() / (fuzzifier - 1.0)
        if sizes is not None:
            scores = scores + sizes.float().log()
        return scores.softmax(dim=1)


def class_means(z: Tensor, targets: Tensor, class_names: tuple[str, ...]) -> Tensor:
    """Return the mean embedding of every class, at length 1.

    Args:
        z: float32, (N, D), rows of length 1, of labelled samples.
        targets: float32, (N, K), rows summing to 1.
        class_names: K of them, for the error.

    Returns:
        float32, (K, D), rows of length 1.

    Raises:
        DatasetError: a class has no sample.
    """
    weights = targets.sum(dim=0)
    if missing := [name for name, weight in zip(class_names, weights.tolist(), strict=True) if weight == 0]:
        raise DatasetError(
            f"every class needs a labelled face to have a centroid; there is none of {', '.join(missing)}"
        )
    return F.normalize(targets.T @ z / weights[:, None], dim=1)


def settled_centroids(
    anchors: Tensor,
    unlabelled: Tensor,
    *,
    fuzzifier: float = 2.0,
    unlabelled_share: float = 0.5,
    sizes: Tensor | None = None,
) -> Tensor:
    """Let centroids settle between the labelled samples' means, where they begin, and clusters of the unlabelled ones.

    A round is `c_j = (1 - b) anchor_j + b sum_i u_ij^m z_i / sum_i u_ij^m`, at length 1, with the memberships u of the
    round before. Anchors have length 1, clusters the less the wider they are: then the direction is more the anchor's.
    There are at most ten; a largest shift below 1e-4 ends them.

    Args:
        anchors: float32, (K, D), `class_means` of the labelled samples.
        unlabelled: float32, (N, D), rows of length 1; N may be 0.
        fuzzifier: m, above 1.
        unlabelled_share: b, in [0, 1].
        sizes: float, (K,), positive, of any sum; None for equal ones.

    Returns:
        float32, (K, D), rows of length 1.
    """
    centroids = anchors
    for _ in range(ROUNDS if len(unlabelled) else 0):
        weights = memberships(unlabelled, centroids, fuzzifier, sizes) ** fuzzifier
        clusters = weights.T @ unlabelled / weights.sum(dim=0)[:, None]
        before, centroids = centroids, F.normalize(torch.lerp(anchors, clusters, unlabelled_share), dim=1)
        if (centroids - before).norm(dim=1).max() < SMALLEST_SHIFT:
            break
    return centroids
