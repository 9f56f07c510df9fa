"""How well classes can be told from frozen features: by their nearest neighbours, and by one linear layer."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import InputError

STRENGTHS: Final = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""L2 strengths that the linear probe chooses from."""

_ROWS = 1024  # queries that are compared at once
_ITERATIONS = 200
_EPS = 1e-6


def knn_probs(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.float32]:
    """Classify by the k most similar features (Wu et al. 2018, arXiv:1805.01978; DINO's `eval_knn.py`).

    Each neighbour votes for its class with the weight exp(cosine / tau).

    Args:
        train: (N, D).
        labels: (N,), the class of each row of `train`.
        queries: (M, D).
        num_classes: K.
        k: neighbours.
        temperature: tau.

    Returns:
        (M, K), each class's share of the votes.

    Raises:
        InputError: `k` is not between 1 and N, or the temperature is not positive.
    """
    if not 1 <= k <= len(train):
        raise InputError(f"k = {k}: there are {len(train)} features to look for neighbours among")
    if not temperature > 0:
        raise InputError(f"the temperature must be positive, not {temperature}")
    known = F.normalize(torch.from_numpy(train), dim=1)
    classes = torch.from_numpy(labels)
    parts = []
    for rows in torch.split(torch.from_numpy(queries), _ROWS):
        similarity, nearest = (F.normalize(rows, dim=1) @ known.T).topk(k, dim=1)
        votes = torch.zeros(len(rows), num_classes)
        votes.scatter_add_(1, classes[nearest], (similarity / temperature).softmax(dim=1))
        parts.append(votes)
    return torch.cat(parts).numpy() if parts else np.zeros((0, num_classes), np.float32)


class LinearProbe(NamedTuple):
    """One linear layer on standardised features.

    Attributes:
        mean: float64, (D,), of the training features.
        std: float64, (D,), likewise.
        weight: float64, (K, D).
        bias: float64, (K,).
        strength: of the L2 penalty on the weight.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    strength: float

    def probs(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the classes' probabilities, (M, K), of features, (M, D)."""
        x = (torch.from_numpy(features).double() - self.mean) / self.std
        probs: NDArray[np.float32] = (x @ self.weight.T + self.bias).softmax(dim=1).float().numpy()
        return probs


def fit_linear(train: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, strength: float) -> LinearProbe:
    """Fit a linear classifier: cross-entropy + strength x |weight|^2 / 2, by L-BFGS in double precision from zero.

    Features are standardised by the training ones, as the batch norm without scale and shift of MAE's linear probe
    does. The problem is convex and nothing is drawn, so the same features give the same layer.

    Args:
        train: (N, D).
        labels: (N,).
        num_classes: K.
        strength: of the penalty; above 0.
    """
    x = torch.from_numpy(train).double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0) + _EPS
    x, y = (x - mean) / std, torch.from_numpy(labels)
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, y) + strength / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return LinearProbe(mean, std, weight.detach(), bias.detach(), strength)


def choose_linear(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    dev: NDArray[np.float32],
    dev_labels: NDArray[np.int64],
    num_classes: int,
) -> LinearProbe:
    """Fit one layer a strength, and keep the one with the best accuracy on `dev`; of equal ones the strongest penalty.

    Args:
        train: (N, D).
        labels: (N,).
        dev: (M, D), features that chose nothing else.
        dev_labels: (M,).
        num_classes: K.
    """
    fitted = [fit_linear(train, labels, num_classes, strength) for strength in STRENGTHS]
    right = [float((layer.probs(dev).argmax(axis=1) == dev_labels).mean()) for layer in fitted]
    return fitted[right.index(max(right))]
