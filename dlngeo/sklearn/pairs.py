"""Values of pairs (row, column), such as ratings of items by users, as a regression of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d

from dlngeo.problems import MatrixCompletion
from dlngeo.problems.tables import fit_table

__all__ = ["PairRegressor"]


class PairRegressor(RegressorMixin, BaseEstimator):
    r"""Predict the value of a pair (row id, column id) by offsets of both and a matrix of low rank.

    The model is ``x_ij = μ + a_i + b_j + (L Rᵀ)_ij``, see :mod:`dlngeo.problems.tables`. Ids may be of any kind that
    pandas can hash, and each column of pairs of its own. Values of a pair that occurs several times are averaged.

    Parameters
    ----------
    method : {"posterior", "complete", "flow", "offsets", "auto"}
        ``"posterior"``: the mean of the Gibbs law of two layers and offsets, which learns too from which pairs are
        known; ``"complete"``: damped offsets, and a matrix of low rank by the metric of a depth in what they leave,
        exact where there is no noise; ``"flow"``: the same by a gradient flow, stopped early; ``"offsets"``: damped
        offsets alone; ``"auto"``: of these the one with the least error on a tenth of the pairs.
    depth : float
        Depth N ≥ 2 of ``"complete"``, or ``inf``.
    rank : int, optional
        Width of the layers of ``"posterior"``, by default 10; bound of the rank of ``"complete"``, by default none.
    features : int
        Singular vectors of the pattern of known pairs from which ``"posterior"`` learns; 0 to ignore the pattern.
    random_state : int, RandomState or None
        Source of randomness, of which ``"offsets"`` needs none.

    Attributes
    ----------
    rows_, columns_ : pandas.Index
        Ids seen in :meth:`fit`.
    table_ : FittedTable
        The completed table.
    n_features_in_ : int
        Always 2.
    feature_names_in_ : array of str
        Names of the two columns, if pairs came with names.

    See Also
    --------
    dlngeo.sklearn.LowRankImputer
    dlngeo.problems.fit_table

    Notes
    -----
    An id that was not seen has no offset of its own, and in the low rank what the fit expects of one: a pair with one
    known id is predicted by the offset of that, one with none by the mean.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> pairs = rng.integers(20, size=(200, 2))
    >>> values = np.sin(pairs[:, 0]) + np.cos(pairs[:, 1])
    >>> model = PairRegressor("offsets").fit(pairs, values)
    >>> bool(model.score(pairs, values) > 0.9)
    True
    """

    def __init__(
        self,
        method: str = "posterior",
        *,
        depth: float = 4,
        rank: int | None = None,
        features: int = 20,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.depth = depth
        self.rank = rank
        self.features = features
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> PairRegressor:
        """Fit the table.

        Parameters
        ----------
        X : array-like or DataFrame, shape=[n, 2]
            Ids of row and column.
        y : array-like, shape=[n]
            Values, finite.

        Returns
        -------
        PairRegressor
            Itself.

        Raises
        ------
        ValueError
            If X has not two columns, an id is missing, lengths differ, or a value is not finite.
        """
        pairs = _pairs(X)
        values = column_or_1d(y, dtype=np.float64, warn=True)
        if len(values) != len(pairs[0]) or not len(values):
            raise ValueError(f"{len(pairs[0])} pairs and {len(values)} values; give one value for each pair, and some.")
        if not np.isfinite(values).all():
            raise ValueError(f"the value {values[~np.isfinite(values)][0]} is not finite; leave such pairs out.")
        (rows, row_ids), (columns, column_ids) = map(pd.factorize, pairs)
        shape = len(row_ids), len(column_ids)
        places, inverse, counts = np.unique(rows * shape[1] + columns, return_inverse=True, return_counts=True)
        problem = MatrixCompletion(*np.divmod(places, shape[1]), np.bincount(inverse, values) / counts, shape)
        self.table_ = fit_table(
            problem,
            self.method,
            depth=self.depth,
            rank=self.rank,
            features=self.features,
            rng=check_random_state(self.random_state).randint(2**31),
        )
        self.rows_, self.columns_ = row_ids, column_ids
        self.n_features_in_ = 2
        self.__dict__.pop("feature_names_in_", None)
        if (names := _names(X)) is not None:
            self.feature_names_in_ = names
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the values of pairs, shape=[n, 2], of ids that were seen or not.

        Raises
        ------
        ValueError
            If X has not two columns, they have other names than in :meth:`fit`, or an id is missing.
        """
        check_is_fitted(self)
        known, given = getattr(self, "feature_names_in_", None), _names(X)
        if known is not None and given is not None and list(known) != list(given):
            raise ValueError(f"the columns are {list(given)}, in fit they were {list(known)}; give the same.")
        sides = zip((self.rows_, self.columns_), _pairs(X), strict=True)
        return self.table_.at(*(ids.get_indexer(side) for ids, side in sides))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags


def _pairs(X: Any) -> list[pd.Index]:
    """Return the two columns of ids."""
    table = X if isinstance(X, pd.DataFrame) else np.asarray(X)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"X has shape {table.shape}; pairs of a row id and a column id have the shape (n, 2).")
    columns = [pd.Index(table.iloc[:, k] if isinstance(table, pd.DataFrame) else table[:, k]) for k in (0, 1)]
    for name, column in zip(("row", "column"), columns, strict=True):
        if column.hasnans:
            place = int(np.argmax(column.isna()))
            raise ValueError(
                f"the {name} id of pair {place} is missing; leave out such pairs, or name what they are of."
            )
    return columns


def _names(X: Any) -> np.ndarray | None:
    if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
        return np.asarray(X.columns, dtype=object)
    return None
