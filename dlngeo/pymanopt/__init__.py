"""The geometry of the deep linear network as pymanopt manifolds, and any geomstats space as one."""

from dlngeo.pymanopt.adapter import from_geomstats
from dlngeo.pymanopt.fixed_rank import FixedRank

__all__ = ["FixedRank", "from_geomstats"]
