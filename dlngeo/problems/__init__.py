"""Cost functions with closed-form derivatives, and a monitored way to minimise them."""

from dlngeo.problems.approximation import LowRankApproximation
from dlngeo.problems.autodiff import AutodiffCost
from dlngeo.problems.base import MatrixCost
from dlngeo.problems.branches import Branch, Transition, continuation
from dlngeo.problems.completion import MatrixCompletion
from dlngeo.problems.complex_completion import ComplexCompletion
from dlngeo.problems.distributed import DistributedCompletion, RowBlock
from dlngeo.problems.equilibrium import Equilibrium, equilibria
from dlngeo.problems.free_energy import FreeEnergy
from dlngeo.problems.functions import FunctionCost
from dlngeo.problems.growth import Followed
from dlngeo.problems.line_search import QuadraticLineSearcher
from dlngeo.problems.monitor import Record, Solution, solve
from dlngeo.problems.quadratic import QuadraticCost
from dlngeo.problems.regression import Regression
from dlngeo.problems.reweighted import Completed, Sweep
from dlngeo.problems.sensing import MatrixSensing, RankOneSensing
from dlngeo.problems.tables import FittedTable, fit_table
from dlngeo.thermodynamics.confined import Confinement, UnboundedError, confinement

__all__ = [
    "AutodiffCost",
    "Branch",
    "Completed",
    "ComplexCompletion",
    "Confinement",
    "DistributedCompletion",
    "Equilibrium",
    "FittedTable",
    "Followed",
    "FreeEnergy",
    "FunctionCost",
    "LowRankApproximation",
    "MatrixCompletion",
    "MatrixCost",
    "MatrixSensing",
    "QuadraticCost",
    "QuadraticLineSearcher",
    "RankOneSensing",
    "Record",
    "Regression",
    "RowBlock",
    "Solution",
    "Sweep",
    "Transition",
    "UnboundedError",
    "confinement",
    "continuation",
    "equilibria",
    "fit_table",
    "solve",
]
