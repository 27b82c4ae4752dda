"""Lloyd's iterations of k-means for few rows, in one call."""

import math

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece


@piece
def _assign(columns, centres, labels, closest, distances):
    """Write the nearest centre of each column (D, n), and the squared distance."""
    n_features, n = columns.shape
    for r in range(n):
        closest[r] = math.inf
        labels[r] = 0
    for k in range(centres.shape[0]):
        for r in range(n):
            distances[r] = 0.0
        for d in range(n_features):
            centre = centres[k, d]
            for r in range(n):
                distances[r] += (columns[d, r] - centre) * (columns[d, r] - centre)
        for r in range(n):
            is_nearer = distances[r] < closest[r]
            closest[r] = distances[r] if is_nearer else closest[r]
            labels[r] = k if is_nearer else labels[r]


@piece
def _sum(columns, weights, labels, sums, counts):
    """Write the sums (K, D) and counts (K,) of labelled columns (D, n)."""
    n_features, n = columns.shape
    for k in range(counts.size):
        counts[k] = 0.0
        for d in range(n_features):
            sums[k, d] = 0.0
    for r in range(n):
        counts[labels[r]] += weights[r]
    for d in range(n_features):
        for r in range(n):
            sums[labels[r], d] += weights[r] * columns[d, r]


@kernel
def lloyd_iterations(rows, weights, centres, n_iterations, tolerance):
    """Move centres to the means of the rows that are nearest to them.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Finite.
    weights : ndarray of shape (n,)
    centres : ndarray of shape (K, D)
    n_iterations : int
        Bound on the iterations.
    tolerance : float
        Sum of squared movements of the centres after which there is no further iteration.

    Returns
    -------
    labels : ndarray of shape (n,), int64
        Nearest centres. A cluster without rows continues from the row that is farthest from its
        centre.
    """
    n, n_features = rows.shape
    columns = np.empty((n_features, n))
    for r in range(n):
        for d in range(n_features):
            columns[d, r] = rows[r, d]
    labels, closest, distances = np.empty(n, np.int64), np.empty(n), np.empty(n)
    own, sums, counts = centres.copy(), np.empty(centres.shape), np.empty(centres.shape[0])
    for _ in range(n_iterations):
        _assign(columns, own, labels, closest, distances)
        _sum(columns, weights, labels, sums, counts)
        shift = 0.0
        for k in range(counts.size):
            farthest = 0
            if counts[k] == 0.0:
                for r in range(n):
                    farthest = r if closest[r] > closest[farthest] else farthest
                closest[farthest] = 0.0
            for d in range(n_features):
                moved = sums[k, d] / counts[k] if counts[k] > 0.0 else columns[d, farthest]
                shift += (moved - own[k, d]) * (moved - own[k, d])
                own[k, d] = moved
        if shift <= tolerance:
            break
    _assign(columns, own, labels, closest, distances)
    return labels
