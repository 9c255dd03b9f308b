r"""Numerical checks of gradients, Hessians and retractions, for any pymanopt problem or manifold.

A derivative is checked by the order of its Taylor remainder along a curve ``c`` with ``c(0) = x``, ``ċ(0) = ξ``:

.. math:: |f(c(t)) - f(x) - t\,g(\operatorname{grad} f, \xi)| = O(t^2), \qquad
    |f(c(t)) - f(x) - t\,g(\operatorname{grad} f, \xi) - \tfrac{t^2}{2} g(\operatorname{Hess} f[\xi], \xi)| = O(t^3),

the second along a geodesic or a second-order retraction [2]_. An error of the derivative lowers the order, but only at
steps so short that it exceeds the true remainder. So the slope is measured at the shortest steps at which the remainder
stands out from the noise of the cost, which is estimated from its differences at steps far shorter still [1]_.

Nothing is assumed of points and tangent vectors but that they are arrays, or lists and tuples of such, nested or not,
and that the vectors can be added and scaled: all layouts of pymanopt will do.

References
----------
.. [1] J. Moré, S. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011).
.. [2] N. Boumal, "An introduction to optimization on smooth manifolds", sections 4.8 and 6.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymanopt
from pymanopt.manifolds.manifold import Manifold

from dlngeo.pymanopt._points import apart, draw, relative, seeded, tangency

__all__ = ["Check", "check_gradient", "check_hessian", "check_retraction"]

_STEPS = 10 ** -np.linspace(0, 8, 41)
_WINDOW = 6  # steps in the piece of line that is measured: one decade
_SPREAD = 0.05  # root mean square distance from that line, in decades, up to which it counts as straight
_SLACK = 0.1  # by which a slope may fall short
_INTEGRATED = 1e-10  # accuracy of geodesics
_ABOVE = 30.0  # times the noise, from where on a remainder is not disturbed by it


@dataclass(frozen=True)
class Check:
    """Result of a check; true exactly if it passed.

    Attributes
    ----------
    name : str
        What was checked.
    order : float
        Order that the errors must have.
    slope : float
        Order that they have: slope of ``log errors`` over ``log steps`` at the shortest steps where it can be measured;
        ``inf`` if no error stands out from the noise, NaN if there is no straight piece.
    window : tuple of float
        Shortest and longest of these steps; NaN if there are none.
    residuals : dict of str to float
        Relative violations of identities that have to hold exactly, by name.
    tolerance : float
        Bound for the residuals.
    steps, errors : array, shape=[n]
        Step lengths, descending, and errors; NaN where the curve ends before the step.
    noise : float
        Noise of the errors.

    See Also
    --------
    dlngeo.pymanopt.check_gradient
    dlngeo.pymanopt.check_hessian
    dlngeo.pymanopt.check_retraction

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> from dlngeo.pymanopt import check_gradient
    >>> manifold = pymanopt.manifolds.Euclidean(3)
    >>> cost, wrong = (pymanopt.function.numpy(manifold)(f) for f in (lambda x: x @ x / 2, lambda x: 2 * x))
    >>> check = check_gradient(pymanopt.Problem(manifold, cost, euclidean_gradient=wrong), rng=0)
    >>> bool(check), round(check.slope, 1), check.order  # the wrong part is of the first order
    (False, 1.0, 2)
    """

    name: str
    order: float
    slope: float
    window: tuple[float, float]
    residuals: dict[str, float]
    tolerance: float
    steps: np.ndarray = field(repr=False)
    errors: np.ndarray = field(repr=False)
    noise: float

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words; empty if nothing is."""
        found = []
        if not self.slope >= self.order - _SLACK:
            found.append(f"slope {self.slope:.2f} instead of {self.order:g}")
        found += [
            f"residual of {name} {value:.1e} above {self.tolerance:.0e}"
            for name, value in self.residuals.items()
            if not value <= self.tolerance
        ]
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether the slope and all residuals are what they must be."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if math.isinf(self.slope):
            measured = "exact to roundoff"
        else:
            measured = f"slope {self.slope:.2f} for steps of {self.window[0]:.0e} to {self.window[1]:.0e}"
        parts = [f"{measured} (order {self.order:g})"]
        parts += [f"{name} to {value:.0e}" for name, value in self.residuals.items()]
        verdict = "ok" if self.ok else "FAILED, " + ", ".join(self.failures)
        return f"{self.name}: {verdict}: " + ", ".join(parts)

    def plot(self, axes: Any) -> None:
        """Draw the errors over the steps, the measured piece, and a line of the required order, on Matplotlib axes."""
        seen = self.errors > 0
        axes.loglog(self.steps[seen], self.errors[seen], ".-", label="error")
        axes.axhline(max(self.noise, np.finfo(float).tiny), color="0.6", linestyle=":", label="noise")
        inside = seen & (self.steps >= self.window[0]) & (self.steps <= self.window[1])
        if np.any(inside):
            steps, errors = self.steps[inside], self.errors[inside]
            axes.loglog(steps, errors, linewidth=4, alpha=0.5, label=f"slope {self.slope:.2f}")
            reference = errors[0] * (self.steps / steps[0]) ** self.order
            drawn = reference >= 0.1 * np.min(self.errors[seen])
            axes.loglog(self.steps[drawn], reference[drawn], "k--", linewidth=1, label=f"slope {self.order:g}")
        axes.set(xlabel="step", ylabel="error", title=f"{self.name}: {'ok' if self.ok else 'FAILED'}")
        axes.legend()


def check_gradient(
    problem: pymanopt.Problem,
    point: Any = None,
    tangent_vector: Any = None,
    *,
    rng: Any = None,
    axes: Any = None,
    tolerance: float = 1e-8,
) -> Check:
    """Check that the Riemannian gradient of a problem is the derivative of its cost, in the metric of its manifold.

    Along the retraction the remainder of the linear model must have order 2, and the gradient must be tangent, as far
    as the manifold has ``to_tangent_space``. What the metric is does not enter but through ``inner_product``.

    Parameters
    ----------
    problem : pymanopt.Problem
        Problem.
    point, tangent_vector : optional
        Where and in which direction; random ones by default.
    rng : numpy.random.Generator or int, optional
        Seeds NumPy's global generator for the random draws, as the manifolds of pymanopt draw from it; its state is
        restored. Manifolds with a generator of their own, such as :class:`~dlngeo.pymanopt.FixedRank`, are seeded where
        they are made.
    axes : matplotlib Axes, optional
        Where to draw the result.
    tolerance : float
        Bound for the residuals.

    Returns
    -------
    Check
        With the residual ``tangency``.

    Raises
    ------
    ValueError
        If a tangent vector comes without its point, or the cost at the point is not finite.

    See Also
    --------
    dlngeo.pymanopt.check_hessian
    dlngeo.pymanopt.Check

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> from dlngeo.pymanopt import check_gradient
    >>> manifold = pymanopt.manifolds.Euclidean(3)
    >>> cost, right, wrong = (
    ...     pymanopt.function.numpy(manifold)(f) for f in (lambda x: x @ x / 2, lambda x: x, lambda x: 2 * x)
    ... )
    >>> problems = [pymanopt.Problem(manifold, cost, euclidean_gradient=gradient) for gradient in (right, wrong)]
    >>> [bool(check_gradient(problem, rng=0)) for problem in problems]
    [True, False]
    """
    manifold = problem.manifold
    with seeded(rng):
        point, direction = draw(manifold, point, tangent_vector)
    gradient = problem.riemannian_gradient(point)
    slope = float(manifold.inner_product(point, gradient, direction))
    found = _taylor(problem, point, lambda t: manifold.retraction(point, t * direction), slope, 0.0)
    return _finish("gradient", 2, found, tangency(manifold, point, gradient), tolerance, axes)


def check_hessian(
    problem: pymanopt.Problem,
    point: Any = None,
    tangent_vector: Any = None,
    *,
    curve: str | None = None,
    rng: Any = None,
    axes: Any = None,
    tolerance: float = 1e-8,
) -> Check:
    """Check that the Riemannian Hessian of a problem is the second covariant derivative of its cost.

    The remainder of the quadratic model must have order 3, and the Hessian must be linear, self-adjoint in the metric
    and tangent, which together with the order determines it. The gradient is assumed to be right: see
    :func:`check_gradient`.

    Parameters
    ----------
    problem, point, tangent_vector, rng, axes, tolerance
        As in :func:`check_gradient`.
    curve : "exp" or "retraction", optional
        Curve along which the cost is expanded. By default ``exp`` if the manifold has it. Along a
        retraction of first order a right Hessian fails too, unless the gradient vanishes at the point.

    Returns
    -------
    Check
        With the residuals ``tangency``, ``linearity`` and ``symmetry``.

    Raises
    ------
    ValueError
        If a tangent vector comes without its point, the cost at the point is not finite, or ``curve`` is unknown.
    NotImplementedError
        If the manifold has no Hessian.

    See Also
    --------
    dlngeo.pymanopt.check_gradient
    dlngeo.pymanopt.Check

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import FunctionCost
    >>> from dlngeo.pymanopt import FixedRank, check_hessian
    >>> manifold = FixedRank(3, 3, 2, depth=3, rng=0)
    >>> def posed(factor):
    ...     hessian = lambda x, z: factor * x**2 * z
    ...     return FunctionCost(lambda x: np.sum(x**4) / 4, lambda x: x**3, (3, 3), hessian).problem(manifold)
    >>> [bool(check_hessian(posed(factor), rng=0)) for factor in (3.0, 2.0)]
    [True, False]
    """
    if curve not in (None, "exp", "retraction"):
        raise ValueError(f'curve must be "exp", "retraction" or None, got {curve!r}.')
    manifold = problem.manifold
    with seeded(rng):
        point, direction = draw(manifold, point, tangent_vector)
        a, b = (manifold.random_tangent_vector(point) for _ in range(2))
        weight_a, weight_b = np.random.default_rng(rng).uniform(0.5, 2, 2)

    def hessian(vector: Any) -> Any:
        return problem.riemannian_hessian(point, vector)

    def norm(vector: Any) -> float:
        return float(manifold.norm(point, vector))

    along, of_a, of_b = hessian(direction), hessian(a), hessian(b)
    together = weight_a * of_a + weight_b * of_b
    size = max(weight_a * norm(of_a), weight_b * norm(of_b))
    skew = manifold.inner_product(point, of_a, b) - manifold.inner_product(point, a, of_b)
    residuals = {
        **tangency(manifold, point, along),
        "linearity": relative(norm(hessian(weight_a * a + weight_b * b) - together), size),
        "symmetry": relative(abs(float(skew)), norm(of_a) * norm(b) + norm(a) * norm(of_b)),
    }
    move = _exponential(manifold, point, direction) if curve != "retraction" else None
    if move is None:
        if curve == "exp":
            raise ValueError(f'{manifold} has no exponential map; use curve="retraction".')
        move = manifold.retraction
    slope = float(manifold.inner_product(point, problem.riemannian_gradient(point), direction))
    curvature = float(manifold.inner_product(point, along, direction))
    found = _taylor(problem, point, lambda t: move(point, t * direction), slope, curvature)
    return _finish("Hessian", 3, found, residuals, tolerance, axes)


def check_retraction(
    manifold: Manifold,
    point: Any = None,
    tangent_vector: Any = None,
    *,
    order: int = 2,
    exponential: Callable[[Any, Any], Any] | None = None,
    distance: Callable[[Any, Any], float] | None = None,
    rng: Any = None,
    axes: Any = None,
    tolerance: float = 1e-8,
) -> Check:
    """Check that a retraction agrees with the exponential map to the given order.

    Their distance at the step t must be of order ``t^{order + 1}``, and the step 0 must lead nowhere.

    Parameters
    ----------
    manifold : pymanopt manifold
        Manifold.
    point, tangent_vector, rng, axes, tolerance
        As in :func:`check_gradient`.
    order : int
        1 for any retraction, 2 for one of second order.
    exponential : callable, optional
        Function ``(point, tangent_vector) → point``; ``manifold.exp`` by default.
    distance : callable, optional
        Function ``(point, point) → float``. By default the norm of the difference of the arrays, or of the matrices
        ``(u * s) @ vt`` where points are such factors. Where this has too low an order, as it may if one point has many
        arrays, ``manifold.dist`` is tried as well.

    Returns
    -------
    Check
        With the residual ``start``.

    Raises
    ------
    ValueError
        If a tangent vector comes without its point, or there is no exponential map.

    See Also
    --------
    dlngeo.pymanopt.Check
    dlngeo.pymanopt.check_hessian

    Examples
    --------
    >>> from pymanopt.manifolds import Stiefel
    >>> from dlngeo.pymanopt import FixedRank, check_retraction
    >>> bool(check_retraction(FixedRank(5, 4, 2, depth=3, rng=0), rng=0))
    True
    >>> [bool(check_retraction(Stiefel(4, 2), order=order, rng=0)) for order in (1, 2)]  # by QR: no more than that
    [True, False]
    """
    with seeded(rng):
        point, direction = draw(manifold, point, tangent_vector)
    exp = exponential or _exponential(manifold, point, direction)
    if exp is None:
        raise ValueError(f"{manifold} has no exponential map to compare with; pass one as exponential=…")
    ends = [_both(exp, manifold.retraction, point, t * direction) for t in _STEPS]
    noise = 10 * np.finfo(float).eps * apart(point, None)

    def against(measure: Callable[[Any, Any], float]) -> Check:
        errors = np.array([math.nan if pair is None else float(measure(*pair)) for pair in ends])
        # Geodesics are integrated: what is left of the way by that is no remainder.
        moved = 0.0 if ends[0] is None else float(measure(ends[0][1], point))
        floor = np.nanmax(errors) if np.nanmax(errors, initial=0) <= _INTEGRATED * moved else noise
        start = float(measure(manifold.retraction(point, 0.0 * direction), point))
        residuals = {"start": relative(start, apart(point, None))}
        return _finish(f"retraction of order {order}", order + 1, (errors, floor), residuals, tolerance, None)

    check = against(distance or apart)
    if distance is None and not check.ok:
        with suppress(NotImplementedError, ValueError, ArithmeticError):
            other = against(manifold.dist)
            check = other if other.ok else check
    if axes is not None:
        check.plot(axes)
    return check


# Curves and their remainders.


def _taylor(
    problem: pymanopt.Problem, point: Any, curve: Callable[[float], Any], slope: float, curvature: float
) -> tuple[np.ndarray, float]:
    """Remainders of the model at all steps, and their noise."""
    start = float(problem.cost(point))
    if not math.isfinite(start):
        raise ValueError(f"the cost is {start} at the point of the check; choose another point.")

    def remainder(t: float) -> float:
        try:
            with np.errstate(all="ignore"):
                value = float(problem.cost(curve(t)))
        except (ValueError, ArithmeticError):  # the curve ends before, or the point is not finite
            return math.nan
        return abs(value - start - t * slope - t**2 * curvature / 2) if math.isfinite(value) else math.nan

    errors = np.array([remainder(t) for t in _STEPS])
    # Third differences at steps of 1e-10 hold nothing of a smooth function; of noise, 20 times its variance.
    values = [float(problem.cost(curve(1e-10 * k))) for k in range(1, 8)]
    noise = math.sqrt(np.mean(np.diff(values, 3) ** 2) / 20)
    return errors, max(noise, np.finfo(float).eps * max(abs(start), abs(slope)))


def _both(exp: Callable, retraction: Callable, point: Any, vector: Any) -> tuple[Any, Any] | None:
    """End points of the two, or None where the geodesic ends before or the point is not finite."""
    try:
        with np.errstate(all="ignore"):
            return exp(point, vector), retraction(point, vector)
    except (ValueError, ArithmeticError):
        return None


def _exponential(manifold: Manifold, point: Any, direction: Any) -> Callable[[Any, Any], Any] | None:
    try:
        manifold.exp(point, 1e-8 * direction)
    except NotImplementedError:
        return None
    return manifold.exp


def _slope(errors: np.ndarray, noise: float) -> tuple[float, tuple[float, float]]:
    """Slope of the straight piece at the shortest steps above the noise, and the steps that it spans."""
    known = np.isfinite(errors)
    if not np.any(known):
        return math.nan, (math.nan, math.nan)
    visible = np.flatnonzero(known & (errors > _ABOVE * noise))
    if visible.size < 3:
        return math.inf, (math.nan, math.nan)
    size = min(_WINDOW, visible.size)
    for end in range(visible.size, size - 1, -1):
        piece = visible[end - size : end]
        x, y = np.log10(_STEPS[piece]), np.log10(errors[piece])
        slope, level = np.polyfit(x, y, 1)
        # Level pieces are noise of another origin, such as the tolerance of an integrator: no remainder is constant.
        if slope > 0.5 and math.sqrt(np.mean((y - slope * x - level) ** 2)) < _SPREAD:
            return float(slope), (float(_STEPS[piece[-1]]), float(_STEPS[piece[0]]))
    return math.nan, (math.nan, math.nan)


def _finish(
    name: str, order: float, found: tuple[np.ndarray, float], residuals: dict[str, float], tolerance: float, axes: Any
) -> Check:
    errors, noise = found
    slope, window = _slope(errors, noise)
    check = Check(name, order, slope, window, residuals, tolerance, _STEPS.copy(), errors, noise)
    if axes is not None:
        check.plot(axes)
    return check
