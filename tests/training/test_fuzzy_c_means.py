"""Fuzzy C-means anchored by labels: memberships and rounds against slow versions, and the edges of both."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import DatasetError
from training.fuzzy_c_means import ROUNDS, class_means, memberships, settled_centroids

NAMES = ("a", "b", "c", "d", "e")


def points(count: int, seed: int, width: int = 4) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_memberships(z: Tensor, centroids: Tensor, fuzzifier: float) -> list[list[float]]:
    """Bezdek's formula, pair by pair: 1 / sum_k (d_ij / d_ik)^(2 / (m - 1))."""
    rows = []
    for row in z.double():
        distances = [max(float((row - c).norm()), 1e-4) for c in centroids.double()]
        rows.append([1 / sum((own / other) ** (2 / (fuzzifier - 1)) for other in distances) for own in distances])
    return rows


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([1.5, 2.0, 3.0]), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_memberships_equal_the_slow_ones(count, clusters, fuzzifier, seed):
    z, centroids = points(count, seed), points(clusters, seed + 1)
    found = memberships(z, centroids, fuzzifier)
    torch.testing.assert_close(
        found.double(),
        torch.tensor(slow_memberships(z, centroids, fuzzifier), dtype=torch.float64),
        rtol=1e-3,
        atol=1e-4,
    )
    torch.testing.assert_close(found.sum(dim=1), torch.ones(count))


def test_a_sample_at_a_centroid_belongs_to_it_alone_and_ties_are_split():
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(
        memberships(centroids[:1], centroids), torch.tensor([[1.0, 0.0, 0.0]]), rtol=0, atol=1e-6
    )
    doubled = torch.cat([centroids[:1], centroids])
    expected = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    torch.testing.assert_close(memberships(centroids[:1], doubled), expected, rtol=0, atol=1e-6)


def test_memberships_are_float32_under_autocast():
    z, centroids = points(8, 0, 64), points(5, 1, 64)
    expected = memberships(z, centroids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memberships(z, centroids), expected)


def test_class_means_are_the_mean_directions():
    z = points(5, 3)
    targets = torch.eye(2)[[0, 1, 0, 0, 1]]
    means = class_means(z, targets, NAMES[:2])
    for k, members in enumerate(([0, 2, 3], [1, 4])):
        mean = sum(z[i] for i in members) / len(members)
        torch.testing.assert_close(means[k], mean / mean.norm())
    with pytest.raises(DatasetError, match="there is none of b, c"):
        class_means(z, torch.eye(3)[[0] * 5], NAMES[:3])


def slow_settled(anchors: Tensor, z: Tensor, fuzzifier: float, share: float) -> Tensor:
    centroids = anchors
    for _ in range(ROUNDS):
        belongs = slow_memberships(z, centroids, fuzzifier)
        moved = []
        for k, anchor in enumerate(anchors):
            weights = [row[k] ** fuzzifier for row in belongs]
            cluster = sum(w * row for w, row in zip(weights, z, strict=True)) / sum(weights)
            moved.append(F.normalize((1 - share) * anchor + share * cluster, dim=0))
        shift = max(float((a - b).norm()) for a, b in zip(moved, centroids, strict=True))
        centroids = torch.stack(moved)
        if shift < 1e-4:
            break
    return centroids


@given(st.integers(1, 12), st.integers(2, 4), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_centroids_settle_as_the_slow_ones(count, clusters, share, seed):
    anchors, z = points(clusters, seed), points(count, seed + 1)
    found = settled_centroids(anchors, z, fuzzifier=2.0, unlabelled_share=share)
    torch.testing.assert_close(found, slow_settled(anchors, z, 2.0, share), rtol=1e-2, atol=1e-3)


def test_without_unlabelled_samples_or_weight_for_them_the_anchors_stay():
    anchors = points(3, 0)
    assert torch.equal(settled_centroids(anchors, torch.zeros(0, 4)), anchors)
    torch.testing.assert_close(settled_centroids(anchors, points(9, 1), unlabelled_share=0.0), anchors)


def test_clusters_are_found_and_keep_their_classes():
    """Three tight clusters; the labelled samples' means lie off, each nearest to its own."""
    centers = torch.eye(3, 8)
    z = F.normalize(centers.repeat_interleave(50, dim=0) + 0.05 * torch.randn(150, 8), dim=1)
    anchors = F.normalize(centers + 0.5 * points(3, 5, 8), dim=1)
    found = settled_centroids(anchors, z, unlabelled_share=1.0)
    assert (found - centers).norm(dim=1).max() < 0.1
    assert (anchors - centers).norm(dim=1).min() > 0.3
    half_way = settled_centroids(anchors, z, unlabelled_share=0.5)
    assert ((half_way - centers).norm(dim=1) < (anchors - centers).norm(dim=1)).all()
