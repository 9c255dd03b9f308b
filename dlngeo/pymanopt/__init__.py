"""The geometry of the deep linear network as pymanopt manifolds, and any geomstats space as one."""

from dlngeo.pymanopt.balanced import Balanced
from dlngeo.pymanopt.checks import Check, check_gradient, check_hessian, check_retraction
from dlngeo.pymanopt.fixed_rank import FixedRank
from dlngeo.pymanopt.from_geomstats import from_geomstats
from dlngeo.pymanopt.gradient_flow import GradientFlow, GradientFlowResult
from dlngeo.pymanopt.gradient_problem import GradientProblem
from dlngeo.pymanopt.local import FixedRankModel
from dlngeo.pymanopt.product import Product
from dlngeo.pymanopt.pull_back import pull_back
from dlngeo.pymanopt.small_start import SmallStartLineSearcher, small_start

__all__ = [
    "Balanced",
    "Check",
    "FixedRank",
    "FixedRankModel",
    "GradientFlow",
    "GradientFlowResult",
    "GradientProblem",
    "Product",
    "SmallStartLineSearcher",
    "check_gradient",
    "check_hessian",
    "check_retraction",
    "from_geomstats",
    "pull_back",
    "small_start",
]
