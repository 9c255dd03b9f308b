"""The gradient flow of a problem, as an optimizer of pymanopt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymanopt.optimizers.optimizer import Optimizer, OptimizerResult
from pymanopt.tools import printer
from scipy.optimize import brentq

from dlngeo import _check
from dlngeo.pymanopt.following import Follower, StalledError

__all__ = ["GradientFlow", "GradientFlowResult"]

_RELATIVE = 1e-5  # of the largest gradient, where no bound is given


@dataclass
class GradientFlowResult(OptimizerResult):
    """Result of :class:`GradientFlow`: what pymanopt's optimizers return, and what only a flow has.

    Attributes
    ----------
    flow_time : float
        Time of the flow at ``point``.
    rejected : int
        Steps that were refused, and repeated shorter; ``iterations`` counts those made.
    products : int
        Products with the Hessian.
    error : float
        Sum of the estimated errors of all steps, each relative to the point where it was made.
    events : dict
        ``name → times`` of the zeros of the events.
    step_size : float
        Size of the next step.
    largest_gradient : float
        Largest norm of the gradient on the way.

    See Also
    --------
    dlngeo.pymanopt.GradientFlow
    dlngeo.flows.Flow

    Examples
    --------
    >>> import numpy as np
    >>> from pymanopt.manifolds import Euclidean
    >>> from dlngeo.problems import LowRankApproximation
    >>> from dlngeo.pymanopt import GradientFlow
    >>> target = np.diag([3.0, 2.0])
    >>> problem = LowRankApproximation(target).problem(Euclidean(2, 2))
    >>> result = GradientFlow(flow_time=1.0).run(problem, initial_point=np.zeros((2, 2)))
    >>> result.flow_time, bool(np.allclose(result.point, (1 - np.exp(-1)) * target))  # exact where it is linear
    (1.0, True)
    """

    flow_time: float = 0.0
    rejected: int = 0
    products: int = 0
    error: float = 0.0
    events: dict[str, list[float]] = field(default_factory=dict)
    largest_gradient: float = 0.0


class GradientFlow(Optimizer):
    r"""Follow the gradient flow ``ẋ = −grad E(x)``, with error control along the path.

    .. math:: x_{k+1} = R_{x_k}\bigl(-h\, \varphi_1(h \operatorname{Hess} E)\, \operatorname{grad} E\bigr), \qquad
        \varphi_1(z) = (1 - e^{-z})/z ,

    the exponential Rosenbrock–Euler method [1]_, of order two where the flow is smooth; the function of the Hessian is
    applied in a Krylov space. It minimises as other optimizers do, but what it ends at is the limit of the flow:
    in matrix completion with the metric of a deep network, from a small start, a matrix of low rank. As the flow
    becomes stiff the steps grow, so that the limit takes some tens of them. Saddles are passed as the flow passes them.

    It takes any problem, on any manifold of pymanopt and of :mod:`dlngeo.pymanopt`. A problem without Hessian gets one
    of differences of gradients. On manifolds without ``exp`` a retraction that is right to first order only lowers the
    order of the method to one.

    Parameters
    ----------
    tolerance : float
        Bound of the estimated error of a step, relative to the point: ``‖ΔX‖/‖X‖`` in the metric at X for matrices.
    flow_time : float
        Time at which to stop.
    events : dict of callables, optional
        ``name → (t, point) → float``: zeros are located, and ``result.events[name]`` lists their times. One with the
        attribute ``terminal = True`` stops the flow there.
    min_gradient_norm : float, optional
        Stop where the norm of the Riemannian gradient falls below this, unless the curvature shows that it is a saddle
        which the flow would leave in as much time again as it has taken. By default 1e-5 of the largest norm on the
        way.
    first_step : float, optional
        Size of the first step; found by default.
    max_products : int
        Hessian products that one step may take; one that needs more is shortened.
    max_time, max_iterations, verbosity, log_verbosity
        As in :class:`pymanopt.optimizers.optimizer.Optimizer`; an iteration is a step of the flow. By default there is
        no limit to them, and nothing is printed.

    Raises
    ------
    ValueError
        If an option is out of range, or, by :meth:`run`, the cost or its gradient is not finite at the initial point.

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.problems.MatrixCompletion
    dlngeo.pymanopt.GradientProblem

    References
    ----------
    .. [1] M. Hochbruck, A. Ostermann, J. Schweitzer, "Exponential Rosenbrock-type methods", SIAM J. Numer. Anal. 47
       (2009).

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> from dlngeo.pymanopt import FixedRank
    >>> data = MatrixCompletion([0, 0, 1], [0, 1, 0], [1.0, 2.0, 3.0], (2, 2))
    >>> start = data.initial_point(rank=2, size=1e-3, rng=0)
    >>> result = GradientFlow(tolerance=1e-3).run(data.problem(FixedRank(2, 2, 2, depth=4)), initial_point=start)
    >>> u, s, vt = result.point
    >>> bool(np.allclose(((u * s) @ vt)[[0, 0, 1], [0, 1, 0]], [1, 2, 3], atol=1e-4))
    True
    >>> print(round(((u * s) @ vt)[1, 1], 1))  # near the 6 of rank one, which the flow prefers
    6.0
    """

    def __init__(
        self,
        tolerance: float = 0.05,
        flow_time: float = math.inf,
        *,
        events: Mapping[str, Callable[[float, Any], float]] | None = None,
        min_gradient_norm: float | None = None,
        first_step: float | None = None,
        max_products: int = 100,
        max_time: float = math.inf,
        max_iterations: float = math.inf,
        verbosity: int = 0,
        log_verbosity: int = 0,
    ) -> None:
        self.tolerance = _check.positive(tolerance, "tolerance")
        if not tolerance < 1:
            raise ValueError(f"tolerance must be below 1, as it is relative to the point, got {tolerance}.")
        if math.isnan(flow_time) or flow_time <= 0:
            raise ValueError(f"flow_time must be positive, got {flow_time}; a gradient flow runs forward.")
        self.flow_time = float(flow_time)
        self.events = dict(events or {})
        self.first_step = None if first_step is None else _check.positive(first_step, "first_step")
        self.max_products = _check.positive_integer(max_products, "max_products")
        self._given = min_gradient_norm is not None
        super().__init__(
            max_time=max_time,
            max_iterations=max_iterations,
            min_gradient_norm=0.0 if min_gradient_norm is None else min_gradient_norm,
            min_step_size=0.0,
            verbosity=verbosity,
            log_verbosity=log_verbosity,
        )

    def run(
        self, problem: Any, *, initial_point: Any = None, resume: GradientFlowResult | None = None
    ) -> GradientFlowResult:
        """Follow the flow of a problem from a point, a random one by default.

        Ctrl-C returns what is done so far. ``resume=result`` goes on from there, to the last bit as if there had been
        no interruption, and counts on.
        """
        began = time.time()
        if resume is not None:
            if initial_point is not None:
                raise ValueError("pass initial_point, or resume=result to go on from its point, not both.")
            initial_point = resume.point
            if not resume.flow_time < self.flow_time:
                raise ValueError(f"the flow is at t = {resume.flow_time:g}; flow_time={self.flow_time:g} is not later.")
        elif initial_point is None:
            initial_point = problem.manifold.random_point()
        follower = Follower(
            getattr(problem, "unwatched", problem),
            initial_point,
            tolerance=self.tolerance,
            time=0.0 if resume is None else resume.flow_time,
            step=self.first_step if resume is None else resume.step_size,
            most=self.max_products,
            keeps=bool(self.events),
        )
        run = _Run(self, problem, follower, began, resume)
        reason = run.visit()
        try:
            while reason is None:
                reason = run.step() or run.visit()
        except KeyboardInterrupt:
            reason = f"Terminated - interrupted at flow time {follower.time:.6g}."
        if self._verbosity >= 1:
            print(reason)  # noqa: T201, as the optimizers of pymanopt do
        return self._return_result(
            start_time=began,
            point=follower.point,
            cost=follower.cost,
            iterations=follower.steps,
            stopping_criterion=reason,
            step_size=follower.step_size,
            gradient_norm=follower.gradient_norm,
            flow_time=follower.time,
            rejected=follower.rejected,
            products=follower.products,
            error=follower.error,
            events=run.happened,
            largest_gradient=run.largest,
        )

    def _return_result(self, *, start_time: float, **values: Any) -> GradientFlowResult:
        return GradientFlowResult(time=time.time() - start_time, log=self._log, **values)


class _Run:
    """One run: what is watched at each step, and when it ends."""

    def __init__(
        self, optimizer: GradientFlow, problem: Any, follower: Follower, began: float, before: GradientFlowResult | None
    ) -> None:
        self.optimizer, self.problem, self.follower, self.began = optimizer, problem, follower, began
        self.largest = 0.0
        self.happened: dict[str, list[float]] = {name: [] for name in optimizer.events}
        if before is not None:
            follower.steps, follower.rejected = before.iterations, before.rejected
            follower.products, follower.error, self.largest = before.products, before.error, before.largest_gradient
            self.happened |= {name: list(times) for name, times in before.events.items()}
        self.values = self._events()
        if undefined := _undefined(self.values):
            raise ValueError(f"{undefined} at t = {follower.time:.6g}; its zeros cannot be seen.")
        optimizer._initialize_log(optimizer_parameters={"tolerance": optimizer.tolerance})
        self.columns = printer.VoidPrinter()
        if optimizer._verbosity >= 2:
            self.columns = printer.ColumnPrinter(
                columns=[
                    ("Iteration", f"{max(len(str(min(optimizer._max_iterations, 1e6))), 5)}d"),
                    ("Flow time", "+.4e"),
                    ("Cost", "+.16e"),
                    ("Gradient norm", ".8e"),
                ]
            )
            self.columns.print_header()

    def step(self) -> str | None:
        """Make a step; return why it is the last."""
        follower, before = self.follower, self.follower.time
        try:
            follower.advance(self.optimizer.flow_time)
        except StalledError as error:
            return f"Terminated - stalled: {error}."
        values = self._events()
        if undefined := _undefined(values):
            return f"Terminated - stalled: {undefined} at flow time {follower.time:.6g}."
        passed = [
            (self._zero(name, before), name) for name, value in values.items() if _passes(self.values[name], value)
        ]
        self.values = values
        for when, name in sorted(passed):
            self.happened[name].append(when)
            if getattr(self.optimizer.events[name], "terminal", False):
                follower.return_to(when)
                self.visit()
                return f"Terminated - event {name!r} at flow time {when:.6g}."
        return None

    def visit(self) -> str | None:
        """Watch the point reached; return why the flow ends here."""
        optimizer, follower = self.optimizer, self.follower
        if self.problem is not follower.problem:  # it is watched, and sees the accepted points
            self.problem.riemannian_gradient(follower.point)
        size = follower.gradient_norm
        self.largest = max(self.largest, size)
        self.columns.print_row([follower.steps, follower.time, follower.cost, size])
        optimizer._add_log_entry(
            iteration=follower.steps,
            point=follower.point,
            cost=follower.cost,
            gradient_norm=size,
            flow_time=follower.time,
            step_size=follower.step_size,
        )
        if follower.time >= optimizer.flow_time:
            return f"Terminated - flow time {follower.time:.6g} reached after {follower.steps} iterations."
        bound = optimizer._min_gradient_norm if optimizer._given else _RELATIVE * self.largest
        small = size == 0 or (size < bound and follower.at_rest())
        return optimizer._check_stopping_criterion(
            start_time=self.began, iteration=follower.steps, gradient_norm=-1.0 if small else math.inf
        )

    def _events(self) -> dict[str, float]:
        t, point = self.follower.time, self.follower.point
        return {name: float(function(t, point)) for name, function in self.optimizer.events.items()}

    def _zero(self, name: str, before: float) -> float:
        function, follower = self.optimizer.events[name], self.follower

        def value(t: float) -> float:
            return float(function(t, follower.at(t)))

        if value(follower.time) == 0:
            return follower.time
        return float(brentq(value, before, follower.time, xtol=1e-12 * follower.time, rtol=1e-12))


def _undefined(values: dict[str, float]) -> str:
    """Say which event is NaN, if one is."""
    return next((f"the function of the event {name!r} is nan" for name, v in values.items() if math.isnan(v)), "")


def _passes(before: float, after: float) -> bool:
    return before * after < 0 or (after == 0 != before)
