r"""The two layers of a table with offsets, sampled in turn: each is Gaussian given the other.

The entries are ``x_ij = μ + a_i + b_j + ⟨u_i, v_j⟩ + noise``, of a variance ``σ²/(w_i w′_j)`` that is learnt: some rows
and columns are noisier than others, and w is 1 give or take a half until many entries say otherwise. Rows
``(u_i, a_i)`` are Gaussian about ``Bᵀ f_i``, with a common precision that has a Wishart prior, and so are columns. This
is the Gibbs law of two layers whose energy is the squared error, with the offsets among the layers [1]_, and of each
prior the scale is learnt. Given all else a row is a small regression, on the columns that it has.

The features ``f_i`` say *which* entries are known: 1, and the leading singular vectors of the pattern, each entry
divided by the square root of the numbers of entries of its row and of its column. What is chosen to be observed tells
about the values [2]_; where it does not, B shrinks to nothing.

References
----------
.. [1] R. Salakhutdinov and A. Mnih, "Bayesian probabilistic matrix factorization using Markov chain Monte Carlo", ICML
   2008.
.. [2] Y. Koren, "Factorization meets the neighborhood", KDD 2008: SVD++ has a vector for each column that is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from dlngeo.compiled import jit

__all__ = ["sample_layers"]

Array = np.ndarray
_DENSE = 250_000  # patterns of so many entries are decomposed as a whole
_PRIOR_ENTRIES = 10.0  # entries that the prior of w is worth, which is a gamma law of mean 1
_LEAST_NOISE = 1e-8  # variance below which no noise is told from none, that of the values being 1


@jit
def _regress(
    indptr: Any, indices: Any, values: Any, weights: Any, other: Any, precision: Any, means: Any, noise: Any, out: Any
) -> None:
    """Draw each row of a layer from its law given the other layer, whose last column is an offset."""
    size = means.shape[1]
    gram, moment = np.empty((size, size)), np.empty(size)
    for i in range(means.shape[0]):
        for p in range(size):
            moment[p] = 0.0
            for q in range(size):
                gram[p, q] = precision[p, q]
                moment[p] += precision[p, q] * means[i, q]
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            weight = weights[k]
            target = weight * (values[k] - other[j, size - 1])
            for p in range(size):
                x = 1.0 if p == size - 1 else other[j, p]
                moment[p] += target * x
                for q in range(p + 1):
                    gram[p, q] += weight * x * (1.0 if q == size - 1 else other[j, q])
        for p in range(size):
            for q in range(p):
                gram[q, p] = gram[p, q]
        root = np.linalg.cholesky(gram)
        for p in range(size):
            for q in range(p):
                moment[p] -= root[p, q] * moment[q]
            moment[p] /= root[p, p]
        for p in range(size - 1, -1, -1):
            out[i, p] = moment[p] + noise[i, p]
            for q in range(p + 1, size):
                out[i, p] -= root[q, p] * out[i, q]
            out[i, p] /= root[p, p]


def _features(pattern: Any, count: int) -> tuple[Array, Array]:
    """Return 1 and leading singular vectors of the pattern, of mean square 1: shapes=[m, ≤ 1 + count], [n, …]."""
    m, n = pattern.shape
    count = min(count, min(m, n) // 20)
    u, v = np.empty((m, 0)), np.empty((n, 0))
    if count:
        scales = (scipy.sparse.diags_array(1 / np.sqrt(np.maximum(pattern.sum(axis=a), 1))) for a in (1, 0))
        scaled = next(scales) @ pattern @ next(scales)
        if m * n <= _DENSE:
            u, s, vt = np.linalg.svd(scaled.toarray(), full_matrices=False)
        else:
            u, s, vt = scipy.sparse.linalg.svds(scaled, count, v0=np.ones(min(m, n)))
        kept = np.argsort(s)[::-1][:count]
        kept = kept[s[kept] > 1e-8]  # of a pattern that is full there is one
        u, v = u[:, kept] * np.sqrt(m), vt[kept].T * np.sqrt(n)
    return np.column_stack((np.ones(m), u)), np.column_stack((np.ones(n), v))


def _prior(layer: Array, features: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw ``B`` and the precision of a layer, given the layer."""
    size = layer.shape[1]
    gram = features.T @ features + np.eye(features.shape[1])
    centre = np.linalg.solve(gram, features.T @ layer)
    scatter = np.linalg.cholesky(np.eye(size) + layer.T @ layer - centre.T @ gram @ centre)
    # Wishart by Bartlett's decomposition; any root of the scale will do, here that of the scatter, inverted.
    bartlett = np.diag(np.sqrt(rng.chisquare(size + len(layer) - np.arange(size))))
    bartlett += np.tril(rng.standard_normal((size, size)), -1)
    root = scipy.linalg.solve_triangular(scatter, bartlett, lower=True, trans="T")
    left = scipy.linalg.solve_triangular(np.linalg.cholesky(gram).T, rng.standard_normal(centre.shape))
    return centre + left @ np.linalg.inv(root), root @ root.T


def sample_layers(
    matrix: scipy.sparse.csr_array, rank: int, features: int, draws: int, burn_in: int, rng: np.random.Generator
) -> tuple[Array, Array, float]:
    """Sample the two layers of a table whose values are of mean 0 and mean square 1 or less.

    Parameters
    ----------
    matrix : sparse array, shape=[m, n]
        The observed values.
    rank, features : int
        Width of the layers, and number of singular vectors of the pattern.
    draws, burn_in : int
        Pairs of layers to keep, every second one, and sweeps before them.

    Returns
    -------
    left : array, shape=[m + 1, draws, rank + 1]
        Rows ``(u_i, a_i)``; the last is what the law expects of a row without entries.
    right : array, shape=[n + 1, draws, rank + 1]
        Columns ``(v_j, b_j)`` likewise.
    noise : float
        Mean variance of the noise.
    """
    pattern = scipy.sparse.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)
    known = _features(pattern, features)
    layers = [0.3 * rng.standard_normal((size, rank + 1)) for size in matrix.shape]
    for layer in layers:
        layer[:, rank] = 0
    kept = [np.empty((size + 1, draws, rank + 1), np.float32) for size in matrix.shape]
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    places, counts = (
        (rows, matrix.indices),
        [np.bincount(p, minlength=len(w)) for p, w in zip((rows, matrix.indices), layers, strict=True)],
    )
    by_column = np.lexsort((rows, matrix.indices))
    of_rows, of_columns = (np.append(0, np.cumsum(count)) for count in counts)
    sides = [  # of indices of one type, for which one loop is compiled
        (of_rows, matrix.indices.astype(rows.dtype), matrix.data, slice(None)),
        (of_columns, rows[by_column], matrix.data[by_column], by_column),
    ]
    scales, weight, noise = [np.ones(len(layer)) for layer in layers], 1.0, 0.0
    for sweep in range(burn_in + 2 * draws):
        expected = []
        weights = weight * scales[0][rows] * scales[1][matrix.indices]
        for k, (indptr, indices, values, order) in enumerate(sides):
            slopes, precision = _prior(layers[k], known[k], rng)
            expected.append(slopes[0])
            normal, out = rng.standard_normal(layers[k].shape), np.empty_like(layers[k])
            means = known[k] @ slopes
            _regress(indptr, indices, values, weights[order], layers[1 - k], precision, means, normal, out)
            layers[k] = out
        u, v = layers[0][rows], layers[1][matrix.indices]
        squares = (matrix.data - np.einsum("kc,kc->k", u[:, :rank], v[:, :rank]) - u[:, rank] - v[:, rank]) ** 2
        weight = rng.gamma(matrix.nnz / 2) / ((squares @ weights / weight + _LEAST_NOISE * matrix.nnz) / 2)
        for k in (0, 1):
            own = np.bincount(places[k], weight * squares * scales[1 - k][places[1 - k]], len(scales[k]))
            scales[k] = rng.gamma((_PRIOR_ENTRIES + counts[k]) / 2) / ((_PRIOR_ENTRIES + own) / 2)
        draw, odd = divmod(sweep - burn_in, 2)
        if draw >= 0 and odd:
            noise += float(np.mean(squares)) / draws
            for side, layer, other in zip(kept, layers, expected, strict=True):
                side[:-1, draw], side[-1, draw] = layer, other
    return kept[0], kept[1], noise
