"""Fuzzy C-means anchored by labels: memberships and rounds against slow versions, and the edges of both."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import DatasetError
from training.fuzzy_c_means import ROUNDS, class_means, memberships, settled_centroids

NAMES = ("a", "b", "c", "d", "e")


def points(count: int, seed: int, width: int = 4) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_memberships(z: Tensor, centroids: Tensor, fuzzifier: float, sizes: Tensor | None = None) -> list[list[float]]:
    """Bezdek's formula, pair by pair: 1 / sum_k (s_k / s_j) (d_ij / d_ik)^(2 / (m - 1))."""
    shares = [1.0] * len(centroids) if sizes is None else sizes.double().tolist()
    rows = []
    for row in z.double():
        distances = [max(float((row - c).norm()), 1e-4) for c in centroids.double()]
        pairs = list(zip(shares, distances, strict=True))
        rows.append([1 / sum(t / s * (own / d) ** (2 / (fuzzifier - 1)) for t, d in pairs) for s, own in pairs])
    return rows


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([1.5, 2.0, 3.0]), st.integers(0, 2**31))
@settings(max_examples=50)
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
    assert torch.equal(memberships(z, centroids, fuzzifier, torch.full((clusters,), 1.0)), found)


def sizes_of(clusters: int, seed: int) -> Tensor:
    return torch.rand(clusters, generator=torch.Generator().manual_seed(seed)) + 0.01


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([1.5, 2.0, 3.0]), st.integers(0, 2**31))
@settings(max_examples=50)
def test_memberships_in_clusters_of_known_sizes_equal_the_slow_ones(count, clusters, fuzzifier, seed):
    z, centroids, sizes = points(count, seed), points(clusters, seed + 1), sizes_of(clusters, seed)
    found = memberships(z, centroids, fuzzifier, sizes)
    slow = torch.tensor(slow_memberships(z, centroids, fuzzifier, sizes), dtype=torch.float64)
    torch.testing.assert_close(found.double(), slow, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(memberships(z, centroids, fuzzifier, 7.0 * sizes), found)


@pytest.mark.parametrize("fuzzifier", [1.5, 2.0])
def test_memberships_make_the_objective_with_sizes_smallest(fuzzifier):
    """Where the sum of a row is held, all its memberships have the same gradient, and no other row costs less."""
    z, centroids, sizes = points(20, 0), points(4, 1), sizes_of(4, 2)
    squared = (z[:, None] - centroids).square().sum(dim=2)

    def cost(u: Tensor) -> Tensor:
        return (sizes ** (1 - fuzzifier) * u**fuzzifier * squared).sum()

    best = memberships(z, centroids, fuzzifier, sizes).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(best), best)
    torch.testing.assert_close(gradient, gradient[:, :1].expand(-1, 4), rtol=1e-3, atol=1e-5)
    others = torch.rand(200, 20, 4, generator=torch.Generator().manual_seed(3))
    assert all(cost(other / other.sum(dim=1, keepdim=True)) > cost(best) for other in others)


def test_rare_classes_take_their_share_and_no_more():
    """Two overlapping classes, nine samples of ten in the first: equal clusters give half of them away."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.2, 0.0]])
    true = torch.arange(1000) % 10 == 0
    z = F.normalize(centers[true.long()] + 0.3 * torch.randn(1000, 3, generator=generator), dim=1)
    anchors, sizes = F.normalize(centers, dim=1), torch.tensor([0.9, 0.1])
    right = {}
    for name, known in (("equal", None), ("known", sizes)):
        centroids = settled_centroids(anchors, z, fuzzifier=1.5, sizes=known)
        belongs = memberships(z, centroids, 1.5, known).argmax(dim=1)
        right[name] = float((belongs == true.long()).float().mean())
    assert right["equal"] < 0.75
    assert right["known"] > 0.8


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


def slow_settled(anchors: Tensor, z: Tensor, fuzzifier: float, share: float, sizes: Tensor | None = None) -> Tensor:
    centroids = anchors
    for _ in range(ROUNDS):
        belongs = slow_memberships(z, centroids, fuzzifier, sizes)
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
@settings(max_examples=40)
def test_centroids_settle_as_the_slow_ones(count, clusters, share, seed):
    assume(share < 1 or count >= clusters)  # otherwise clusters fall together, and rounding decides which goes where
    anchors, z = points(clusters, seed), points(count, seed + 1)
    found = settled_centroids(anchors, z, fuzzifier=2.0, unlabelled_share=share)
    torch.testing.assert_close(found, slow_settled(anchors, z, 2.0, share), rtol=1e-2, atol=1e-3)
    sizes = sizes_of(clusters, seed)
    found = settled_centroids(anchors, z, fuzzifier=2.0, unlabelled_share=share, sizes=sizes)
    torch.testing.assert_close(found, slow_settled(anchors, z, 2.0, share, sizes), rtol=1e-2, atol=1e-3)


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
