"""Spaces and metrics for geomstats, in its argument order: tangent vectors first, the base point last."""

from dlngeo.geomstats.balanced import BalancedMatrices
from dlngeo.geomstats.bundle import EndToEndBundle, GaugeAction
from dlngeo.geomstats.fixed_rank import FixedRankMatrices
from dlngeo.geomstats.flat_chart import FlatChart
from dlngeo.geomstats.metrics import DLNMetric, SpectralMetric
from dlngeo.geomstats.unbalanced import UnbalancedMatrices
from dlngeo.geomstats.weights import FrobeniusMetric

__all__ = [
    "BalancedMatrices",
    "DLNMetric",
    "EndToEndBundle",
    "FixedRankMatrices",
    "FlatChart",
    "FrobeniusMetric",
    "GaugeAction",
    "SpectralMetric",
    "UnbalancedMatrices",
]
