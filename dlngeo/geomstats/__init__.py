"""Spaces and metrics for geomstats, in its argument order: tangent vectors first, the base point last."""

from dlngeo.geomstats.fixed_rank import FixedRankMatrices
from dlngeo.geomstats.flat_chart import FlatChart
from dlngeo.geomstats.metrics import DLNMetric, SpectralMetric

__all__ = ["DLNMetric", "FixedRankMatrices", "FlatChart", "SpectralMetric"]
