"""A line search whose first trial is the minimum along the straight line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dlngeo.problems.base import MatrixCost

__all__ = ["QuadraticLineSearcher"]


class QuadraticLineSearcher:
    r"""Step to the minimum of a quadratic, and backtrack by interpolation if the retraction bends away from it.

    Along the straight line a least-squares cost is a quadratic,

    .. math:: E(X + tZ) = E(X) + t \langle E'(X), Z \rangle + \tfrac12 t^2 D^2E(X)[Z, Z],

    and a retraction departs from the line at second order in t only. The first trial is the minimum of the quadratic,
    ``t = −⟨E′, Z⟩ / D²E[Z, Z]``; ``⟨E′, Z⟩`` is what the solver knows already. If the cost falls there by less than
    ``sufficient_decrease`` of what the slope promises, the next trial is the minimum of the parabola through what was
    seen, between a tenth and a half of the step.

    For the ``line_searcher`` of the solvers of pymanopt.

    Parameters
    ----------
    cost : MatrixCost
        The cost that is minimised, for its ``curvature``.
    sufficient_decrease : float
        Fraction of the decrease of the tangent, in (0, ½); at the minimum of a quadratic it is ½.
    max_trials : int
        Trials before the step is given up.

    Attributes
    ----------
    n_trials : int
        Trial points of all searches so far.

    Raises
    ------
    TypeError
        If ``cost`` is no :class:`MatrixCost`.
    ValueError
        If ``sufficient_decrease`` is not in (0, ½).

    See Also
    --------
    dlngeo.pymanopt.SmallStartLineSearcher
    dlngeo.problems.MatrixCost

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> from dlngeo.problems import LowRankApproximation, QuadraticLineSearcher
    >>> target = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> cost = LowRankApproximation(target)
    >>> search = QuadraticLineSearcher(cost)
    >>> solver = pymanopt.optimizers.SteepestDescent(line_searcher=search, max_iterations=1, verbosity=0)
    >>> problem = cost.problem(pymanopt.manifolds.Euclidean(2, 2))
    >>> bool(np.allclose(solver.run(problem, initial_point=np.zeros((2, 2))).point, target))  # one step
    True
    """

    def __init__(self, cost: MatrixCost, sufficient_decrease: float = 0.1, max_trials: int = 25) -> None:
        if not isinstance(cost, MatrixCost):
            raise TypeError(f"cost must be a dlngeo.problems.MatrixCost, got {cost!r}.")
        if not 0 < sufficient_decrease < 0.5:
            raise ValueError(f"sufficient_decrease must lie in (0, 1/2), got {sufficient_decrease}.")
        self.cost = cost
        self.sufficient_decrease = sufficient_decrease
        self.max_trials = max_trials
        self.n_trials = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> QuadraticLineSearcher:
        """Copy for one run, as the solvers of pymanopt do, without copying the data of the problem."""
        return QuadraticLineSearcher(self.cost, self.sufficient_decrease, self.max_trials)

    def search(
        self, objective: Callable[[Any], float], manifold: Any, x: Any, d: Any, f0: float, df0: float
    ) -> tuple[float, Any]:
        """Search along ``d`` from ``x``, where the cost is ``f0`` and its derivative along ``d`` is ``df0``.

        Returns
        -------
        step_size : float
            Length of the step in the metric; 0 if no trial decreased the cost.
        new_point : point
            Where it leads.
        """
        size = manifold.norm(x, d)
        curvature = self.cost.curvature(x, manifold.embedding(x, d))
        # Without curvature, along a direction that the data does not see, a step of length 1.
        step = -df0 / curvature if curvature > 0 else 1 / size
        if not 0 < step < math.inf:
            return 0.0, x
        for _ in range(self.max_trials):
            trial = manifold.retraction(x, step * d)
            value = objective(trial)
            self.n_trials += 1
            if value <= f0 + self.sufficient_decrease * step * df0:
                return step * size, trial
            excess = value - f0 - step * df0
            step *= min(0.5, max(0.1, -step * df0 / (2 * excess)))
        return 0.0, x
