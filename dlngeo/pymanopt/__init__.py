"""The geometry of the deep linear network as pymanopt manifolds, and any geomstats space as one."""

from dlngeo.pymanopt.adapter import from_geomstats
from dlngeo.pymanopt.balanced import Balanced
from dlngeo.pymanopt.checks import Check, check_gradient, check_hessian, check_retraction
from dlngeo.pymanopt.costs import pull_back
from dlngeo.pymanopt.fixed_rank import FixedRank

__all__ = [
    "Balanced",
    "Check",
    "FixedRank",
    "check_gradient",
    "check_hessian",
    "check_retraction",
    "from_geomstats",
    "pull_back",
]
