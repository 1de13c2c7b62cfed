"""Fréchet distance between two sets of features, read off sums that add over sites.

Heusel et al. 2017, "GANs trained by a two time-scale update rule", equation 6: of the normal
distributions with the same mean and covariance. N = examples, F = features.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def moments_length(features: int) -> int:
    """F sums and F (F + 1) / 2 sums of products."""
    return features + features * (features + 1) // 2


def moments(features: Floats) -> Floats:
    """Sums of the features [N, F], and of their products (upper triangle, row by row)."""
    products = features.T @ features
    return np.concatenate([features.sum(axis=0), products[np.triu_indices(len(products))]])


def distance(n: float, one: Floats, other: Floats, *, unit: float) -> float:
    """Between two sets of n examples each.

    Args:
        n: at least 1.
        one: moments of the first set.
        other: moments of the second set.
        unit: what a feature of 1 was counted as.
    """
    (mean, covariance), (other_mean, other_covariance) = (
        _normal(n, sums, unit) for sums in (one, other)
    )
    root = _root(covariance)
    # The trace of the root of a product is that of the root of this symmetric one.
    shared = np.linalg.eigvalsh(root @ other_covariance @ root).clip(0.0)
    apart = np.square(mean - other_mean).sum() + np.trace(covariance + other_covariance)
    return max(0.0, float(apart - 2.0 * np.sqrt(shared).sum()))


def _normal(n: float, sums: Floats, unit: float) -> tuple[Floats, Floats]:
    """Mean [F] and covariance [F, F]."""
    features = int((np.sqrt(8 * len(sums) + 9) - 3) / 2)
    mean = sums[:features] / n
    products = np.zeros((features, features))
    upper = np.triu_indices(features)
    products[upper] = sums[features:] / n
    products = products + np.triu(products, 1).T
    return mean / unit, (products - np.outer(mean, mean)) / unit**2


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    return root
