"""Cost functions with closed-form derivatives, and a monitored way to minimise them."""

from dlngeo.problems.completion import MatrixCompletion
from dlngeo.problems.monitor import Record, Solution, solve

__all__ = ["MatrixCompletion", "Record", "Solution", "solve"]
