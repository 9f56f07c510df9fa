import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer_app.errors import DatasetError, MissingExtraError
from training.feature_map import embed, stratified_rows


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 80))
@example([2, 4, 4, 4, 13], 2)  # whose last class has a share of 0.96
def test_every_class_keeps_its_share(sizes: list[int], limit: int) -> None:
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = stratified_rows(targets, limit)
    assert len(rows) == min(limit, len(targets))
    assert (np.diff(rows) > 0).all()
    if len(targets) > limit:
        chosen = np.bincount(targets[rows], minlength=len(sizes))
        assert (np.abs(chosen - np.array(sizes) * limit / len(targets)) < 1).all()


def test_the_choice_is_the_same_every_time_and_not_the_first_ones() -> None:
    targets = np.zeros(100, np.int64)
    rows = stratified_rows(targets, 10)
    assert rows.tolist() == stratified_rows(targets, 10).tolist()
    assert rows.max() > 10
    assert rows.tolist() != stratified_rows(targets, 10, seed=1).tolist()


def test_clusters_stay_apart() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 8)).astype(np.float32)
    features[20:] += 20
    points = embed(features)
    assert points.shape == (40, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert ((distances.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()
    assert np.array_equal(points, embed(features))


@pytest.mark.parametrize("n", [4, 5])
def test_few_faces(n: int) -> None:
    assert np.isfinite(embed(np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32))).all()


def test_too_few_faces() -> None:
    with pytest.raises(DatasetError, match="at least 4 faces, there are 3"):
        embed(np.zeros((3, 6), np.float32))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        embed(np.zeros((4, 6), np.float32))
