r"""Missing values of a table of numbers, of rows that were seen and of new ones.

In :meth:`LowRankImputer.fit` the table is completed. What is kept of it is the law of a row,

.. math:: x = c + B z + \text{noise}, \qquad z \sim N(0, \operatorname{diag} \tau^2),

with ``c = μ + b`` from the offsets of the columns, and for ``B`` the vector of ones, which has the offset of the row,
and the right singular vectors. The variances ``τ²`` and ``σ²`` are those of largest likelihood in the rows seen, by
expectation and maximisation from the completed table. A row is filled by its own regression with ridge ``σ²/τ²``, the
mean of that law given the entries that it has:

.. math:: z = \arg\min \|x_\Omega - c_\Omega - B_\Omega z\|^2 + \sum_k (\sigma^2/\tau_k^2) z_k^2 .
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dlngeo.problems import MatrixCompletion
from dlngeo.problems.tables import FittedTable, fit_table

__all__ = ["LowRankImputer"]

Array = np.ndarray
_ROWS, _STEPS = 2000, 30  # rows that tell the variances, and steps of expectation and maximisation
_BLOCK = 20_000_000  # numbers in the Gram matrices of the rows that are solved together
_LEAST_NOISE = 1e-12  # beside the variance of what B z explains; so far are equations that have no noise solved


class LowRankImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill missing values by offsets of rows and columns and a matrix of low rank.

    Rows that were not seen are filled by ridge regression in the row space that was found, see
    :mod:`dlngeo.sklearn.imputer`, and so are those that were, by the same formula. Known values stay as they are.

    Parameters
    ----------
    method : {"complete", "flow", "posterior", "offsets", "auto"}
        How the row space is found, see :class:`~dlngeo.sklearn.PairRegressor`.
    depth : float
        Depth N ≥ 2 of ``"complete"``, or ``inf``.
    rank : int, optional
        Largest rank of ``"complete"``, by default any; that of ``"posterior"``, by default 10.
    random_state : int, RandomState or None
        Source of randomness.

    Attributes
    ----------
    table_ : FittedTable
        The completed table, without its columns that have no values.
    components_ : array, shape=[k, n_features_in_]
        Rows ``Bᵀ``, the first of ones; NaN in columns without values.
    location_ : array, shape=[n_features_in_]
        The mean row c; NaN in columns without values.
    variances_, noise_variance_ : array, shape=[k] and float
        The variances τ² and σ².
    rank_ : int
        Rank of the completed table without its offsets.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    See Also
    --------
    dlngeo.sklearn.PairRegressor
    dlngeo.problems.fit_table

    Notes
    -----
    No data determine a column that has no value in :meth:`fit`, which stays missing, nor a row that has no value, which
    becomes the mean row. Of both there is a warning that names them. A table of pandas gives a table of pandas.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 40)) + rng.standard_normal(40)
    >>> table = np.where(rng.random(truth.shape) < 0.5, truth, np.nan)
    >>> filled = LowRankImputer().fit_transform(table)
    >>> float(np.abs(filled - truth).max().round(4))
    0.0
    """

    def __init__(
        self, method: str = "complete", *, depth: float = 4, rank: int | None = None, random_state: Any = 0
    ) -> None:
        self.method = method
        self.depth = depth
        self.rank = rank
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> LowRankImputer:
        """Complete the table X, shape=[n_samples, n_features], NaN where missing, and keep its row space."""
        x = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        known = ~np.isnan(x)
        self._has_values = known.any(axis=0)
        if not known.any():
            raise ValueError("all values are missing; give a table with some.")
        if not self._has_values.all():
            warnings.warn(f"no value in {self._named(~self._has_values)}: left missing.", UserWarning, stacklevel=2)
        x, known = x[:, self._has_values], known[:, self._has_values]
        problem = MatrixCompletion.from_matrix(x)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        self.table_ = table = fit_table(problem, self.method, depth=self.depth, rank=self.rank, rng=rng)
        basis, means = _basis(table), (table.mean + table.column_offsets[:-1])
        rows = np.sort(rng.permutation(np.flatnonzero(known.any(axis=1)))[:_ROWS])
        variances, noise = _variances(table, np.where(known, x - means, 0.0)[rows], known[rows], basis, rows)
        self.components_ = np.full((basis.shape[1], self.n_features_in_), np.nan)
        self.location_ = np.full(self.n_features_in_, np.nan)
        self.components_[:, self._has_values], self.location_[self._has_values] = basis.T, means
        self.variances_, self.noise_variance_, self.rank_ = variances, noise, table.rank
        return self

    def transform(self, X: Any) -> Any:
        """Fill the missing values of rows, shape=[n_samples, n_features_in_], seen in :meth:`fit` or not."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False, copy=True)
        part = self._has_values
        known, basis = ~np.isnan(x[:, part]), self.components_[:, part].T
        if not part.all() and not np.isnan(x[:, ~part]).all():
            new = ~part & ~np.isnan(x).all(axis=0)
            warnings.warn(f"fit saw no value of {self._named(new)}: not used.", UserWarning, stacklevel=2)
        if not known.any(axis=1).all():
            empty = np.flatnonzero(~known.any(axis=1))
            warnings.warn(
                f"{len(empty)} rows have no value that could tell them apart, the first {empty[:5].tolist()}: "
                "filled with the mean row.",
                UserWarning,
                stacklevel=2,
            )
        wanted = np.flatnonzero(~known.all(axis=1))
        centred = np.where(known, x[:, part] - self.location_[part], 0.0)
        for block in np.array_split(wanted, 1 + len(wanted) * basis.shape[1] ** 2 // _BLOCK):
            z, _ = _coordinates(centred[block], known[block], basis, self.variances_, self.noise_variance_)
            filled = self.location_[part] + z @ basis.T
            x[np.ix_(block, part)] = np.where(known[block], x[np.ix_(block, part)], filled)
        if isinstance(X, pd.DataFrame):
            return pd.DataFrame(x, index=X.index, columns=X.columns)
        return x

    def _named(self, chosen: Array) -> str:
        names = np.flatnonzero(chosen).tolist()
        if hasattr(self, "feature_names_in_"):
            names = self.feature_names_in_[chosen].tolist()
        return f"{len(names)} columns ({', '.join(map(str, names[:5]))}{', …' if len(names) > 5 else ''})"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _basis(table: FittedTable) -> Array:
    """Ones and the right singular vectors, shape=[n, k]; of a posterior mean as many as its rank."""
    right = table.right[:-1]
    if table.rank:
        _, r = np.linalg.qr(table.left[:-1])
        u, _, _ = np.linalg.svd(right @ r.T, full_matrices=False)
        right = u[:, : table.rank]
    return np.column_stack((np.ones(len(right)), right))


def _coordinates(centred: Array, known: Array, basis: Array, variances: Array, noise: float) -> tuple[Array, Array]:
    """Mean and covariance of z given the entries of each row; ``centred`` is 0 where nothing is known."""
    scaled = basis * np.sqrt(variances)  # z = τ w: nothing is divided by a variance of 0
    count, size = scaled.shape
    products = (scaled[:, :, None] * scaled[:, None, :]).reshape(count, -1)
    gram = (known.astype(np.float64) @ products).reshape(-1, size, size)
    ridge = max(noise, _LEAST_NOISE * float(np.max(np.einsum("nk,nk->k", scaled, scaled))))
    if ridge == 0:  # a table that its columns tell
        return np.zeros((len(known), size)), np.zeros((len(known), size, size))
    inverse = np.linalg.inv(gram + ridge * np.eye(size))
    w = np.einsum("mkl,ml->mk", inverse, centred @ scaled)
    root = np.sqrt(variances)
    return w * root, noise * inverse * root * root[:, None]


def _variances(table: FittedTable, centred: Array, known: Array, basis: Array, rows: Array) -> tuple[Array, float]:
    """Variances τ² and σ² of largest likelihood, from those of the completed table."""
    fitted = table.row_offsets[rows, None] + table.left[rows] @ table.right[:-1].T
    z = np.linalg.lstsq(basis, fitted.T, rcond=None)[0].T
    variances, noise, count = np.mean(z**2, axis=0), table.noise, int(known.sum())
    for _ in range(_STEPS):
        z, covariance = _coordinates(centred, known, basis, variances, noise)
        left = np.where(known, centred - z @ basis.T, 0.0)
        spread = np.einsum("nk,mkl,nl,mn->", basis, covariance, basis, known.astype(float), optimize=True)
        variances = np.mean(z**2 + np.einsum("mkk->mk", covariance), axis=0)
        noise = float(np.sum(left**2) + spread) / count
    return variances, noise
