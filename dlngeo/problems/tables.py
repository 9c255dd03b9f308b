r"""Offsets and low rank: what a table with rows and columns of unlike size is completed by.

A matrix of low rank is sought in what the offsets of rows and columns leave of the values,

.. math:: x_{ij} = \mu + a_i + b_j + (L R^T)_{ij} + \text{noise} .

Offsets are shrunken means: the fewer entries, the more. They are Gaussian of variances that the values tell,

.. math:: a_i = \frac{\sum_j (x_{ij} - \mu - b_j)}{n_i + \sigma^2/\tau^2},

by expectation and maximisation for ``τ²`` of rows and of columns and for ``σ²`` [1]_. The low rank is that of
:meth:`~dlngeo.problems.MatrixCompletion.complete`, or the mean of the Gibbs law of two layers and offsets, see
:mod:`dlngeo.problems._layers`.

References
----------
.. [1] G. K. Robinson, "That BLUP is a good thing: the estimation of random effects", Statistical Science 6 (1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse

from dlngeo import _check
from dlngeo.problems._layers import sample_layers
from dlngeo.problems.completion import MatrixCompletion

__all__ = ["METHODS", "FittedTable", "fit_table", "held_out_errors"]

Array = np.ndarray
METHODS = ("offsets", "flow", "complete", "posterior")
_BURN_IN, _DRAWS = 30, 60
_STEPS, _TOLERANCE = 200, 1e-6
_EXACT = 1e-12  # what offsets leave of the spread and is round-off
_HELD_OUT = 0.1
_PATIENCE, _FLOW_STEPS = 15, 200  # steps of a flow without a lower error on entries held out, and at most


@dataclass(frozen=True)
class FittedTable:
    """A completed table.

    Attributes
    ----------
    method : str
        By what it was fitted, see :func:`fit_table`.
    mean : float
        The number μ.
    row_offsets, column_offsets : array, shape=[m + 1], [n + 1]
        The last is that of a row or column without entries; so in the factors.
    left, right : array, shape=[m + 1, k], [n + 1, k]
        Factors of ``L Rᵀ``. Those of a posterior mean are the layers of all draws, beside one another.
    rank : int
        Rank of the matrix without its offsets; of a posterior that of each draw.
    noise : float
        Variance of the noise, as the fit estimates it: what is left, for each degree of freedom.
    heldout : dict of str to array
        Errors of each method on the entries held out to choose among them; empty where there was no choice.

    See Also
    --------
    dlngeo.problems.fit_table
    dlngeo.problems.Completed

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, fit_table
    >>> x = np.add.outer([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    >>> table = fit_table(MatrixCompletion.from_matrix(x, x < 7), "offsets")  # all but the last entry
    >>> table.rank, bool(np.allclose(table.dense(), x, atol=1e-6))
    (0, True)
    >>> bool(np.isclose(table.at(np.array([-1]), np.array([-1]))[0], table.mean + table.row_offsets[-1]
    ...                 + table.column_offsets[-1]))
    True
    """

    method: str
    mean: float
    row_offsets: Array = field(repr=False)
    column_offsets: Array = field(repr=False)
    left: Array = field(repr=False)
    right: Array = field(repr=False)
    rank: int
    noise: float
    heldout: dict[str, Array] = field(repr=False, default_factory=dict)

    def at(self, rows: Array, columns: Array) -> Array:
        """Evaluate entries; the row or column −1 is one of which nothing is known."""
        out = self.mean + self.row_offsets[rows] + self.column_offsets[columns]
        for part in np.array_split(np.arange(len(out)), 1 + len(out) * self.left.shape[1] // 10_000_000):
            out[part] += np.einsum("kc,kc->k", self.left[rows[part]], self.right[columns[part]])
        return out

    def dense(self) -> Array:
        """Evaluate the m×n matrix."""
        low = self.left[:-1] @ self.right[:-1].T
        return self.mean + self.row_offsets[:-1, None] + self.column_offsets[None, :-1] + low


def fit_table(
    problem: MatrixCompletion,
    method: str = "auto",
    *,
    depth: float = 4,
    rank: int | None = None,
    features: int = 20,
    rng: Any = None,
) -> FittedTable:
    r"""Complete a table by offsets of rows and columns, and a matrix of low rank.

    Parameters
    ----------
    problem : MatrixCompletion
        The observed entries.
    method : str
        ``"offsets"``: shrunken means of rows and columns alone; ``"complete"``: besides, what
        :meth:`~dlngeo.problems.MatrixCompletion.complete` finds in what they leave; ``"flow"``: there the flow of
        :meth:`~dlngeo.problems.MatrixCompletion.follow`, stopped by a tenth of the entries; ``"posterior"``: the mean
        of the Gibbs law of offsets and two layers; ``"auto"``: the one of least error on a tenth of the entries, which
        are held out, fitted to all.
    depth : float
        Depth of ``"complete"`` and of ``"flow"``, which has no infinite one.
    rank : int, optional
        Largest rank of ``"complete"``, by default any; width of the layers of ``"posterior"``, by default 10, and at
        most ``min(m, n) − 1``.
    features : int
        Number of singular vectors of the pattern of known entries from which ``"posterior"`` learns; at most a
        twentieth of ``min(m, n)``.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or its seed.

    Returns
    -------
    FittedTable
        The completed table.

    Raises
    ------
    ValueError
        If the method is none of these, or rank or depth are not possible.

    See Also
    --------
    dlngeo.problems.FittedTable
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, fit_table
    >>> x = np.add.outer([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    >>> table = fit_table(MatrixCompletion.from_matrix(x, x < 7), "offsets")  # all but the last entry
    >>> round(float(table.at(np.array([3]), np.array([4]))[0]), 4)  # 3 + 4
    7.0
    """
    if method not in (*METHODS, "auto"):
        raise ValueError(f"method must be one of {(*METHODS, 'auto')}, got {method!r}.")
    generator = np.random.default_rng(rng)
    most = None if rank is None else min(_check.positive_integer(rank, "rank"), *problem.shape)
    features = _check.integer(features, "features", 0)
    if method == "auto":
        options: dict[str, Any] = {"depth": depth, "rank": rank, "features": features, "rng": generator}
        if round(_HELD_OUT * len(problem)) == 0:
            return fit_table(problem, "offsets", **options)
        errors = held_out_errors(problem, **options)[1]
        best = min(errors, key=lambda name: float(errors[name] @ errors[name]))
        return replace(fit_table(problem, best, **options), heldout=errors)
    base = _offsets(problem)
    if method == "offsets":
        return base
    if method == "posterior":
        return _posterior(problem, base, most, features, generator)
    return _with_low_rank(problem, base, method, depth, most, generator)


def held_out_errors(
    problem: MatrixCompletion,
    folds: int | None = None,
    methods: Sequence[str] = METHODS,
    *,
    depth: float = 4,
    rng: Any = None,
    **options: Any,
) -> tuple[Array, dict[str, Array]]:
    """Predict entries by each method from the others.

    Parameters
    ----------
    folds : int, optional
        Number of parts, each of which is predicted from the others; by default a tenth from the rest, and no more.
    methods : sequence of str
        Methods to try.
    depth, rng, **options
        As in :func:`fit_table`.

    Returns
    -------
    places : array of int, shape=[k, n]
        The entries held out, part by part.
    errors : dict of str to array, shape=[k n]
        The errors of each method there. A flow has no infinite depth, and is left out there.

    Raises
    ------
    ValueError
        If there are fewer entries than parts.
    """
    generator = np.random.default_rng(rng)
    order, size = generator.permutation(len(problem)), len(problem) // (folds or round(1 / _HELD_OUT))
    if size == 0 or (folds is not None and folds < 2):
        raise ValueError(f"{len(problem)} entries do not give {folds or 10} parts; take two or more, or more entries.")
    places = order[: size * (folds or 1)].reshape(-1, size)
    errors: dict[str, list[Array]] = {name: [] for name in methods if name != "flow" or math.isfinite(depth)}
    entries = problem.rows, problem.cols, np.asarray(problem.values, np.float64)
    for held in places:
        rest = np.setdiff1d(order, held)
        train = MatrixCompletion(entries[0][rest], entries[1][rest], entries[2][rest], problem.shape)
        for name, found in errors.items():
            fitted = fit_table(train, name, depth=depth, rng=generator, **options)
            found.append(fitted.at(entries[0][held], entries[1][held]) - entries[2][held])
    return places, {name: np.concatenate(found) for name, found in errors.items()}


def _offsets(problem: MatrixCompletion) -> FittedTable:
    """Shrunken means, by expectation and maximisation; variances are taken for independent given the others."""
    places, values = (problem.rows, problem.cols), np.asarray(problem.values, np.float64)
    counts = [np.bincount(p, minlength=size) for p, size in zip(places, problem.shape, strict=True)]
    mean, noise = float(values.mean()), float(values.var())
    offsets, spreads = [np.zeros(size) for size in problem.shape], [noise / 4] * 2
    last = math.inf
    for _ in range(_STEPS):
        if noise <= (_EXACT * max(1.0, abs(mean))) ** 2 or abs(noise - last) <= _TOLERANCE * noise:
            break
        last, extra = noise, 0.0
        for k in (0, 1):
            rest = values - mean - offsets[1 - k][places[1 - k]]
            if spreads[k] <= _EXACT * noise:  # no offsets of this side
                offsets[k] = np.zeros(problem.shape[k])
                continue
            width = counts[k] + noise / spreads[k]
            offsets[k] = np.bincount(places[k], rest, problem.shape[k]) / width
            known = counts[k] > 0
            spreads[k] = float(np.mean(offsets[k][known] ** 2 + noise / width[known]))
            extra += noise * float(np.sum(counts[k] / width))
        error = values - mean - offsets[0][places[0]] - offsets[1][places[1]]
        shift = float(error.mean())
        mean += shift
        noise = (float(np.sum((error - shift) ** 2)) + extra) / len(values)
    a, b = (np.append(side, 0.0) for side in offsets)
    left, right = (np.zeros((size + 1, 0)) for size in problem.shape)
    return FittedTable("offsets", mean, a, b, left, right, 0, noise)


def _with_low_rank(
    problem: MatrixCompletion, base: FittedTable, method: str, depth: float, most: int | None, rng: np.random.Generator
) -> FittedTable:
    """Add a matrix of low rank in what the offsets leave."""
    rest = problem.values - base.at(problem.rows, problem.cols)
    spread = float(np.sqrt(np.mean(rest**2)))
    if spread <= _EXACT * float(np.sqrt(np.mean(np.square(problem.values)))):
        return replace(base, method=method)
    left_over = MatrixCompletion(problem.rows, problem.cols, rest / spread, problem.shape)
    if method == "complete":
        u, s, vt = left_over.complete(most, depth=depth, rng=rng).point
    elif len(problem) * _HELD_OUT < 1:
        return replace(base, method=method)
    else:
        train, heldout = left_over.split(_HELD_OUT, rng)
        u, s, vt = train.follow(depth, heldout=heldout, patience=_PATIENCE, max_iterations=_FLOW_STEPS).best_point
    left, right = (np.vstack((side, np.zeros((1, len(s))))) for side in (u * (spread * s), vt.T))
    fitted = replace(base, method=method, left=left, right=right, rank=len(s))
    squares = float(np.sum((problem.values - fitted.at(problem.rows, problem.cols)) ** 2))
    (m, n), count = problem.shape, len(problem)
    freedom = max(count - len(s) * (m + n - len(s)), count / 10)  # shrunken singular values count for less than one
    return replace(fitted, noise=squares / freedom)


def _posterior(
    problem: MatrixCompletion, base: FittedTable, most: int | None, features: int, rng: np.random.Generator
) -> FittedTable:
    mean, scale = float(np.mean(problem.values)), float(np.std(problem.values))
    rank = min(most or 10, min(problem.shape) - 1)
    if rank < 1 or scale <= _EXACT * max(1.0, abs(mean)):
        return replace(base, method="posterior")
    indptr = problem.pattern.indptr
    matrix = scipy.sparse.csr_array(((problem.values - mean) / scale, problem.cols, indptr), problem.shape)
    left, right, noise = sample_layers(matrix, rank, features, _DRAWS, _BURN_IN, rng)
    a, b = (scale * side[:, :, rank].mean(axis=1, dtype=np.float64) for side in (left, right))
    left, right = (
        math.sqrt(scale / _DRAWS) * side[:, :, :rank].reshape(len(side), -1).astype(np.float64)
        for side in (left, right)
    )
    return FittedTable("posterior", mean, a, b, left, right, rank, scale**2 * noise)
