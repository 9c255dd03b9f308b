"""Cost functions with closed-form derivatives, and a monitored way to minimise them."""

from dlngeo.problems.base import MatrixCost
from dlngeo.problems.completion import MatrixCompletion
from dlngeo.problems.line_search import QuadraticLineSearcher
from dlngeo.problems.monitor import Record, Solution, solve

__all__ = ["MatrixCompletion", "MatrixCost", "QuadraticLineSearcher", "Record", "Solution", "solve"]
