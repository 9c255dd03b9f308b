"""Solvers, in the form of those of SciPy, for flows that are stiff: exponential steps, and a choice made on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
import scipy.integrate

from dlngeo.pymanopt import FixedRank, from_geomstats
from dlngeo.pymanopt.following import Follower, StalledError

__all__ = ["Automatic", "ExponentialSteps", "Posed"]

_STIFF = 1.0  # of h |λ|. A mode with this product, at tolerances fit for order 8, has died away: only steps feel it
_SEEN, _UNSEEN = 15, 6  # steps in a row after which a flow is held to be stiff, or not to be
_FEW = 2000  # steps that an explicit method may still make
_SMALL = 400  # numbers in a state whose Jacobian is cheap


class Posed:
    """A gradient flow as a problem of pymanopt, with the maps between states and points."""

    def __init__(self, space: Any, state: Any, gradient: Any, hessian: Any, cost: Any) -> None:
        self.state = state
        # Where singular matrices are no part of the space, singular values are kept as such.
        self.factored = state.spectral and bool(state.rank)
        manifold: Any
        if self.factored:
            m, n = space.shape
            manifold = FixedRank(m, n, state.rank, kernel=space.metric.kernel, field=space.metric.field)
        else:
            manifold = from_geomstats(space)
        numpy, size = pymanopt.function.numpy(manifold), manifold.point_layout

        def dense(*arrays: Any) -> Any:
            return arrays[0] if size == 1 else (arrays[0] * arrays[1]) @ arrays[2]

        def second(*arrays: Any) -> Any:
            if size == 1:
                return hessian(*arrays)
            u, s, vt, du, ds, dvt = arrays
            return hessian((u * s) @ vt, (du * s + u * ds) @ vt + (u * s) @ dvt)

        self.evaluations = 0

        def first(*arrays: Any) -> Any:
            self.evaluations += 1
            return gradient(dense(*arrays))

        self.problem = pymanopt.Problem(
            manifold,
            numpy((lambda *arrays: 0.0) if cost is None else (lambda *arrays: float(cost(dense(*arrays))))),
            euclidean_gradient=numpy(first),
            euclidean_hessian=None if hessian is None else numpy(second),
        )

    def point(self, y: np.ndarray) -> Any:
        return self.state.factors(y) if self.factored else self.state.point(y)

    def pack(self, point: Any) -> np.ndarray:
        return self.state.pack(*point) if self.factored else np.ravel(point)


class ExponentialSteps:
    """The exponential Rosenbrock–Euler method of :class:`dlngeo.pymanopt.GradientFlow`, as a solver of SciPy."""

    def __init__(self, posed: Posed, t: float, y: np.ndarray, t_bound: float, *, rtol: float) -> None:
        self.posed, self.t, self.y, self.t_bound, self.status = posed, float(t), y, t_bound, "running"
        self.tolerance = rtol
        self._follower = Follower(posed.problem, posed.point(y), tolerance=rtol, time=self.t)

    @property
    def nfev(self) -> int:
        return self.posed.evaluations

    def step(self) -> str | None:
        try:
            self._follower.advance(self.t_bound)
        except StalledError as error:
            if self._follower.gradient_norm == 0:  # a point of rest, for ever
                self.t, self.status = self.t_bound, "finished"
                return None
            self.status = "failed"
            return str(error)
        self.t, self.y = self._follower.time, self.posed.pack(self._follower.point)
        if self.t >= self.t_bound:
            self.status = "finished"
        return None

    def dense_output(self) -> Callable[[float], np.ndarray]:
        return Piece(self.posed, self._follower.last if self.t == self._follower.time else self._follower.at)


class Piece:
    """The states along one step, which are computed from its Krylov spaces, and are left behind by pickle."""

    def __init__(self, posed: Posed, at: Any) -> None:
        self.posed, self.at = posed, at

    def __call__(self, t: Any) -> np.ndarray:
        if np.ndim(t):
            return np.stack([self(when) for when in t], axis=-1)
        return self.posed.pack(self.at(float(t)))

    def __deepcopy__(self, memo: Any) -> Piece:
        return self  # nothing in it changes

    def __reduce__(self) -> Any:
        return _Lost, ()


class _Lost:
    """In place of what could not be pickled."""

    def __call__(self, t: Any) -> Any:
        raise ValueError("a flow of exponential steps keeps its points, not what is between, when it is pickled.")


class Automatic:
    """DOP853, and where the flow has become stiff and is far from its end, a method that does not mind.

    The test for stiffness is after Hairer and Wanner [1]_: two stages of DOP853 end at the same time, and the ratio of
    the differences of their velocities and their states is a Lipschitz constant. They hold its product with the step
    size against the region of stability, 6.1; here it is held against 1, since at tolerances fit for order 8 a mode of
    a gradient flow that has died away shortens the steps long before stability does. The method is then BDF at the same
    tolerances where the Jacobian is cheap, else exponential steps, if the tolerances were left to us.

    References
    ----------
    .. [1] E. Hairer, G. Wanner, "Solving ordinary differential equations II", 2nd ed., Springer 1996, section IV.2.
    """

    first = scipy.integrate.DOP853

    def __init__(
        self,
        fun: Any,
        t: float,
        y: np.ndarray,
        t_bound: float,
        *,
        rtol: float,
        atol: float,
        exponential: Callable[[float, np.ndarray, float], Any] | None = None,
    ) -> None:
        self._fun, self._tolerances, self._exponential = fun, {"rtol": rtol, "atol": atol}, exponential
        self._solver: Any = self.first(fun, t, y, t_bound, rtol=rtol, atol=atol)
        self._before = self._stiff = self._calm = 0
        self._watching, self.note = True, ""

    @property
    def t(self) -> float:
        return self._solver.t

    @property
    def y(self) -> np.ndarray:
        return self._solver.y

    @property
    def status(self) -> str:
        return self._solver.status

    @property
    def nfev(self) -> int:
        return self._before + self._solver.nfev

    def dense_output(self) -> Any:
        return self._solver.dense_output()

    def step(self) -> str | None:
        if self._watching and self._is_stiff():
            self._switch()
        return self._solver.step()

    def _is_stiff(self) -> bool:
        solver = self._solver
        if solver.step_size is None:
            return False
        # The last two stages are at the end of the step: one of them is the end itself.
        y = solver.y_old + solver.step_size * (solver.A[-1] @ solver.K[: len(solver.A)])
        apart = float(np.linalg.norm(solver.y - y))
        rate = float(np.linalg.norm(solver.K[len(solver.A)] - solver.K[len(solver.A) - 1]))
        if rate * solver.step_size > _STIFF * apart:
            self._stiff, self._calm = self._stiff + 1, 0
        else:
            self._calm += 1
            if self._calm == _UNSEEN:
                self._stiff = 0
        return self._stiff >= _SEEN and solver.t_bound - solver.t > _FEW * solver.step_size

    def _switch(self) -> None:
        solver, self._watching = self._solver, False
        if solver.y.size <= _SMALL:
            new: Any = scipy.integrate.BDF(self._fun, solver.t, solver.y, solver.t_bound, **self._tolerances)
            name = "BDF went on, at the same tolerances"
        elif self._exponential is not None:
            new = self._exponential(solver.t, solver.y, solver.t_bound)
            name = f"exponential steps went on, at a relative tolerance of {new.tolerance:g}"
        else:
            self.note = f' The flow is stiff from t = {solver.t:.6g} on; method="implicit" takes longer steps.'
            return
        self._before, self._solver = solver.nfev, new
        self.note = f" The flow is stiff from t = {solver.t:.6g} on: {name}."
