"""Completion of tables as estimators of scikit-learn."""

from dlngeo.sklearn.imputer import LowRankImputer
from dlngeo.sklearn.pairs import PairRegressor

__all__ = ["LowRankImputer", "PairRegressor"]
