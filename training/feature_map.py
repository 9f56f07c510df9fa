"""Features in the plane: t-SNE (van der Maaten & Hinton 2008), as in Fig. 7 of MIMIC (arXiv:2401.07245)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer_app.errors import DatasetError, MissingExtraError

PERPLEXITY = 30.0
SEED = 0
MIN_FACES = 4


def stratified_rows(targets: NDArray[np.int64], limit: int, seed: int = SEED) -> NDArray[np.int64]:
    """Choose faces so that every class keeps its share.

    Args:
        targets: (N,), each face's class.
        limit: how many to choose; all, where there are no more.
        seed: of the choice within each class.

    Returns:
        (min(N, limit),), ascending.
    """
    if len(targets) <= limit:
        return np.arange(len(targets))
    classes, sizes = np.unique(targets, return_counts=True)
    shares = sizes * limit / len(targets)
    chosen = np.floor(shares).astype(np.int64)
    # What rounding down has left goes to the largest remainders (Hamilton's method): no class is off by a whole face.
    chosen[np.argsort(chosen - shares, kind="stable")[: limit - chosen.sum()]] += 1
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(targets == k))[:count] for k, count in zip(classes, chosen, strict=True)]
    return np.sort(np.concatenate(rows))


def embed(features: NDArray[np.float32], seed: int = SEED) -> NDArray[np.float32]:
    """Place features in the plane so that neighbours stay neighbours; distances between clusters mean nothing.

    Args:
        features: (N, D).
        seed: of the optimisation.

    Returns:
        (N, 2).

    Raises:
        DatasetError: N is below `MIN_FACES`.
        MissingExtraError: scikit-learn is not installed.
    """
    if len(features) < MIN_FACES:
        raise DatasetError(f"t-SNE needs at least {MIN_FACES} faces, there are {len(features)}")
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtraError('t-SNE needs scikit-learn: pip install "fer-mimic[train]"') from error
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return np.asarray(points, np.float32)
