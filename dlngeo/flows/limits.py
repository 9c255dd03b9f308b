r"""Four questions about the training of deep linear networks [1]_, answered with numbers.

Does it converge, and to what?
    :func:`classify_limit`: a minimiser, a saddle or no limit, with the gradient and the least eigenvalue of the
    Riemannian Hessian as evidence. For regression all critical points are known [2]_:
    :class:`dlngeo.problems.QuadraticCost` has them.
How fast?
    In the end at the rate of the least eigenvalue of ``A^{1/2} E″ A^{1/2}`` (:func:`hessian_eigenvalues`), and at any
    time by :func:`loss_bound`, from the least value of the kernel on the path. :func:`observed_rate` measures it.
Does depth help or hurt?
    :func:`end_to_end_step` is the step that gradient descent on N layers makes with a vector [3]_.
How do width, depth and data enter?
    Inner widths not at all from balanced starts, depth through :func:`escape_time`, data through the conditioning of
    ``QuadraticCost.from_data``.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] B. Bah, H. Rauhut, U. Terstiege, M. Westdickenberg, "Learning deep linear neural networks: Riemannian gradient
   flows and convergence to global minimizers", Information and Inference 11 (2022), arXiv:1910.05505.
.. [3] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
   overparameterization", ICML 2018, arXiv:1802.06509.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.integrate import quad

from dlngeo import _check
from dlngeo._check import returned
from dlngeo.kernels import DepthKernel, of_depth
from dlngeo.matrices.frame import Frame

__all__ = [
    "Limit",
    "LimitKind",
    "classify_limit",
    "end_to_end_step",
    "escape_time",
    "hessian_eigenvalues",
    "hessian_modes",
    "loss_bound",
    "observed_rate",
]


class LimitKind(StrEnum):
    """What a flow has come to.

    See Also
    --------
    dlngeo.flows.limits.Limit
    dlngeo.flows.limits.classify_limit

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import LimitKind, classify_limit
    >>> from dlngeo.problems import LowRankApproximation
    >>> problem = LowRankApproximation(np.diag([2.0, 1.0]))
    >>> [classify_limit(problem, x, 2).kind.value for x in (np.diag([2.0, 1.0]), np.diag([2.0, 0.0]), np.eye(2))]
    ['minimiser', 'saddle', 'not converged']
    >>> LimitKind.SADDLE == "saddle"
    True
    """

    MINIMISER = "minimiser"  #: critical, and no direction of descent to second order
    SADDLE = "saddle"  #: critical on the matrices of its rank, but some direction goes down
    CRITICAL = "critical"  #: one of the two, the Hessian not having been asked
    NOT_CONVERGED = "not converged"


@dataclass(frozen=True)
class Limit:
    """What :func:`classify_limit` found.

    Attributes
    ----------
    kind : LimitKind
        ``"minimiser"``, ``"saddle"``, ``"critical"`` or ``"not converged"``; a string.
    rank : int
        Number k of singular values that have not vanished.
    gradient_norm : float
        Norm of the Euclidean gradient along the matrices of rank k.
    normal_gradient_norm : float
        Norm of the rest of it: what a higher rank could still lower.
    least_eigenvalue : float or None
        Of the Riemannian Hessian at rank k; its negative is the rate of escape, itself the rate of convergence. None
        with ``hessian=False``.
    point : array, shape=[m, n]
        The point, truncated to rank k.

    See Also
    --------
    dlngeo.flows.limits.classify_limit
    dlngeo.flows.limits.LimitKind

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import classify_limit
    >>> from dlngeo.problems import LowRankApproximation
    >>> limit = classify_limit(LowRankApproximation(np.diag([5.0, 4.0, 3.0])), np.diag([5.0, 0.0, 0.0]), 3)
    >>> limit.rank, bool(limit.gradient_norm < 1e-12), round(limit.normal_gradient_norm, 4)  # √(4² + 3²)
    (1, True, 5.0)
    """

    kind: LimitKind
    rank: int
    gradient_norm: float
    normal_gradient_norm: float
    least_eigenvalue: float | None
    point: np.ndarray


def classify_limit(
    problem: Any,
    x: Any,
    depth: float,
    rank: int | None = None,
    *,
    rank_tolerance: float = 1e-3,
    tolerance: float = 1e-6,
    hessian: bool = True,
) -> Limit:
    """Say what the end of a flow is: a minimiser, a saddle, or not yet a limit.

    Below the rank r of the model a point with a normal gradient is a saddle: the flow leaves it along further singular
    values, exponentially at N = 2 and like a power of time at N ≥ 3, where the Hessian does not see it.

    Parameters
    ----------
    problem : object
        With ``euclidean_gradient(x)`` and ``euclidean_hessian(x, z)``, such as every cost of :mod:`dlngeo.problems`.
    x : array, shape=[m, n]
        End of the flow.
    depth : float
        Depth N of the metric.
    rank : int, optional
        Rank r of the model. Defaults to ``min(m, n)``.
    rank_tolerance : float
        Singular values below this part of the largest have vanished. N ≥ 3 layers let them decay like a power of time.
    tolerance : float
        Critical is a gradient below this, relative to the gradient at 0; a direction of descent has an eigenvalue below
        minus this, relative to the largest.
    hessian : bool
        Whether to compute the Hessian, which takes ``k(m + n − k)`` products with it and as many numbers squared.

    Returns
    -------
    Limit

    Raises
    ------
    ValueError
        If ``x`` is not finite or zero.

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.flows.limits.hessian_eigenvalues

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import classify_limit
    >>> from dlngeo.problems import LowRankApproximation
    >>> problem, second = LowRankApproximation(np.diag([2.0, 1.0])), np.diag([0.0, 1.0])
    >>> classify_limit(problem, second, 2, rank=1).kind, classify_limit(problem, np.diag([2.0, 0.0]), 2, rank=1).kind
    (<LimitKind.SADDLE: 'saddle'>, <LimitKind.MINIMISER: 'minimiser'>)
    >>> round(classify_limit(problem, second, 2, rank=1).least_eigenvalue, 4)  # 1 − 2: it turns to the larger one
    -1.0
    """
    x = _check.real(x, "the point").astype(float)
    _check.finite(np, x, "the point")
    model = min(x.shape) if rank is None else _check.rank(rank, *x.shape)
    s = np.linalg.svd(x, compute_uv=False)
    if s[0] == 0:
        raise ValueError("the zero matrix has no frame: it is a critical point at every depth above 1.")
    k = min(int(np.sum(s > rank_tolerance * s[0])), model)
    frame = Frame.at(x, DepthKernel(1), k)
    point = frame.point
    gradient = returned(problem.euclidean_gradient(point), x.shape, "the gradient")
    scale = float(np.linalg.norm(returned(problem.euclidean_gradient(np.zeros_like(x)), x.shape, "the gradient at 0")))
    along = frame.project(gradient)
    gradient_norm, normal_norm = float(np.linalg.norm(along)), float(np.linalg.norm(gradient - along))
    eigenvalues = hessian_eigenvalues(problem, point, depth, k) if hessian else np.zeros(1)
    down = eigenvalues[0] < -tolerance * np.abs(eigenvalues).max() or (k < model and normal_norm > tolerance * scale)
    if gradient_norm > tolerance * scale:
        kind = LimitKind.NOT_CONVERGED
    elif down:
        kind = LimitKind.SADDLE
    else:
        kind = LimitKind.MINIMISER if hessian else LimitKind.CRITICAL
    return Limit(kind, k, gradient_norm, normal_norm, float(eigenvalues[0]) if hessian else None, point)


def hessian_eigenvalues(
    problem: Any, x: Any, depth: float, rank: int | None = None, *, normalized: bool = False
) -> np.ndarray:
    r"""Eigenvalues of the Riemannian Hessian, ascending: at a critical point, the rates of the flow near it.

    Where ``E′ = 0`` they are those of ``A^{1/2} E″ A^{1/2}``; at a critical point below full rank the curvature of the
    manifold adds its term. Near a minimiser ``dist(X, X*) ~ e^{−μt}`` and ``E − E* ~ e^{−2μt}`` with the least μ.

    At infinite depth ``φ(σ, 0) = 0``: in the directions that leave the column or row space of a singular matrix nothing
    moves, and the eigenvalues are those of the cost ``C ↦ E(U C Vᵀ)`` of invertible r×r matrices alone.

    Parameters
    ----------
    problem : object
        With ``euclidean_gradient(x)`` and ``euclidean_hessian(x, z)``.
    x : array, shape=[m, n]
        Point.
    depth : float
        Depth N of the metric.
    rank : int, optional
        Rank r of the point. Defaults to ``min(m, n)``.
    normalized : bool
        Divide by N. Infinite depth always is.

    Returns
    -------
    array, shape=[r(m + n − r)], or [r²] at infinite depth

    See Also
    --------
    dlngeo.flows.limits.hessian_modes
    dlngeo.flows.limits.observed_rate

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import hessian_eigenvalues
    >>> from dlngeo.problems import LowRankApproximation
    >>> target = np.diag([2.0, 1.0])
    >>> np.round(hessian_eigenvalues(LowRankApproximation(target), target, 2), 4)  # σ_k + σ_l
    array([2., 3., 3., 4.])
    """
    x = _check.real(x, "the point").astype(float)
    r = min(x.shape) if rank is None else rank
    if math.isinf(depth) and r < max(x.shape):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        problem, x, rank = _Core(problem, u[:, :r], vt[:r]), np.diag(s[:r]), r
    return hessian_modes(problem, Frame.at(x, of_depth(depth, normalized), rank))[0]


def hessian_modes(problem: Any, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the Riemannian Hessian, ascending, and eigenvectors that are orthonormal in the metric.

    Parameters
    ----------
    problem : object
        With ``euclidean_gradient(x)`` and ``euclidean_hessian(x, z)``.
    frame : Frame
        The point, with a metric.

    Returns
    -------
    eigenvalues : array, shape=[k]
    modes : array, shape=[k, m, n]

    See Also
    --------
    dlngeo.flows.limits.hessian_eigenvalues
    dlngeo.matrices.frame.Frame

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import hessian_modes
    >>> from dlngeo.kernels import DepthKernel
    >>> from dlngeo.matrices.frame import Frame
    >>> from dlngeo.problems import LowRankApproximation
    >>> target = np.diag([2.0, 1.0])
    >>> frame = Frame.at(target, DepthKernel(2))
    >>> values, modes = hessian_modes(LowRankApproximation(target), frame)
    >>> bool(np.allclose([[np.sum(frame.metric(a) * b) for b in modes] for a in modes], np.eye(4)))
    True
    >>> np.round(np.abs(modes[0]), 4)  # the slowest is that of σ₂, of length √(2 σ₂)
    array([[0.    , 0.    ],
           [0.    , 1.4142]])
    """
    point, (m, n), r = frame.point, (frame.m, frame.n), frame.rank
    left, right = (np.linalg.svd(a, full_matrices=True) for a in (frame.u, frame.vt))
    left, right = np.hstack((frame.u, left[0][:, r:])), np.vstack((frame.vt, right[2][r:]))
    units = [np.outer(left[:, i], right[j]) for i in range(m) for j in range(n) if i < r or j < r]
    orthonormal = [frame.half_power(unit) for unit in units]
    gradient = returned(problem.euclidean_gradient(point), point.shape, "the gradient")
    hessians = [returned(problem.euclidean_hessian(point, z), point.shape, "the Hessian") for z in orthonormal]
    images = [frame.hessian(z, gradient, h) for z, h in zip(orthonormal, hessians, strict=True)]
    momenta = np.stack([frame.metric(z) for z in orthonormal]).reshape(len(units), -1)
    matrix = momenta @ np.stack(images).reshape(len(units), -1).T
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values, np.tensordot(vectors.T, np.stack(orthonormal), 1)


class _Core:
    """The cost ``C ↦ E(U C Vᵀ)``."""

    def __init__(self, problem: Any, u: np.ndarray, vt: np.ndarray) -> None:
        self.problem, self.u, self.vt = problem, u, vt

    def euclidean_gradient(self, c: np.ndarray) -> np.ndarray:
        return self.u.T @ np.asarray(self.problem.euclidean_gradient(self.u @ c @ self.vt)) @ self.vt.T

    def euclidean_hessian(self, c: np.ndarray, z: np.ndarray) -> np.ndarray:
        whole = self.problem.euclidean_hessian(self.u @ c @ self.vt, self.u @ z @ self.vt)
        return self.u.T @ np.asarray(whole) @ self.vt.T


def observed_rate(t: Any, values: Any, *, tail: float = 0.5) -> float:
    """Rate at which values decay at last: minus the slope of their logarithm over the tail, by least squares.

    Parameters
    ----------
    t, values : array, shape=[k]
        Times, and positive values.
    tail : float
        Part of the time span that counts.

    Raises
    ------
    ValueError
        If less than three times are in the tail, or a value there is not positive.

    See Also
    --------
    dlngeo.flows.limits.hessian_eigenvalues

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import observed_rate
    >>> times = np.linspace(0, 5, 50)
    >>> round(float(observed_rate(times, np.exp(-3 * times))), 6)
    3.0
    """
    t, values = _check.real(t, "t"), _check.real(values, "the values")
    if t.ndim != 1 or t.shape != values.shape:
        raise ValueError(f"times of shape {t.shape} and values of shape {values.shape}; expected two vectors alike.")
    late = t >= t[-1] - tail * (t[-1] - t[0])
    if late.sum() < 3:
        raise ValueError(f"only {late.sum()} times are in the tail; give more output times.")
    if not np.all(values[late] > 0):
        raise ValueError("the values in the tail must be positive; end the flow before it reaches round-off.")
    return float(-np.polyfit(t[late], np.log(values[late]), 1)[0])


def loss_bound(t: Any, singular_values: Any, losses: Any, depth: float, convexity: float, **kernel: bool) -> np.ndarray:
    r"""Bound on the loss along a flow of full rank, ``E − E* ≤ (E_0 − E*) exp(−2α ∫ min_{kl} φ_{kl} dt)``.

    For E with strong convexity α, ``−dE/dt = ⟨E′, A E′⟩ ≥ min φ ‖E′‖² ≥ 2α min φ (E − E*)``, and the least value of the
    kernel is ``φ(σ_min, σ_min) = N σ_min^{2−2/N}`` [2]_.

    Parameters
    ----------
    t : array, shape=[k]
        Times.
    singular_values : array, shape=[k, r]
        Along the flow, ``r = m = n``.
    losses : array, shape=[k]
        ``E − E*``; only the first is used.
    depth : float
        Depth N.
    convexity : float
        α.
    **kernel
        ``normalized=True`` for the normalised metric.

    Returns
    -------
    array, shape=[k]
        The integral is taken by the trapezoidal rule.

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.flows.limits.hessian_eigenvalues

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import loss_bound
    >>> t = np.linspace(0, 1, 5)  # at σ = 1, where φ = 2, the bound is e^{−4αt}
    >>> bool(np.allclose(loss_bound(t, np.ones((5, 2)), np.full(5, 3.0), 2, 0.5), 3 * np.exp(-2 * t)))
    True
    """
    t, losses = _check.real(t, "t"), _check.real(losses, "the losses")
    least = np.min(_check.real(singular_values, "the singular values"), axis=-1)
    if not t.shape == least.shape == losses.shape:
        raise ValueError(f"times, singular values and losses are of {t.shape}, {least.shape}, {losses.shape} points.")
    phi = of_depth(depth, **kernel)(least, least)
    integral = np.concatenate(([0.0], np.cumsum(np.diff(t) * (phi[1:] + phi[:-1]) / 2)))
    return losses[0] * np.exp(-2 * convexity * integral)


def end_to_end_step(w: np.ndarray, gradient: np.ndarray, step_size: float, depth: float) -> np.ndarray:
    r"""Step of gradient descent on N balanced layers with one output, in the product w, to first order.

    .. math:: w \leftarrow w - \eta\,\|w\|^{2 - 2/N} \big(\nabla + (N - 1)\, \mathrm{Pr}_w \nabla\big)

    [3]_, Claim 2: an adaptive step size, and momentum along w. Against it the layers differ by O(η²) a step.

    Parameters
    ----------
    w, gradient : array, shape=[n]
        Vector, and gradient of the cost there.
    step_size : float
        η.
    depth : float
        N, finite.

    Returns
    -------
    array, shape=[n]

    Raises
    ------
    TypeError, ValueError
        If ``w`` is no finite vector, the gradient no other of its shape, or the step or the depth out of range.

    See Also
    --------
    dlngeo.gradient_descent
    dlngeo.flows.limits.escape_time

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.flows.limits import end_to_end_step
    >>> w, gradient = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    >>> bool(np.allclose(end_to_end_step(w, gradient, 0.1, 3), [1 - 3 * 0.1, -0.1]))  # N times as far along w
    True
    """
    depth, step_size = _check.depth(depth), _check.positive(step_size, "step_size")
    w = _check.real(w, "w")
    if w.ndim != 1:
        raise ValueError(
            f"w has shape {w.shape}; the step is that of a vector, the product of layers with one output. For matrices "
            "take gradient_descent."
        )
    w, gradient = returned(w, w.shape, "w"), returned(gradient, w.shape, "the gradient")
    norm = float(np.linalg.norm(w))
    if depth == 1:
        return w - step_size * gradient
    if norm == 0:
        return w  # a critical point of the layers
    along = w * (w @ gradient) / norm**2
    return w - step_size * norm ** (2 - 2 / depth) * (gradient + (depth - 1) * along)


def escape_time(start: float, target: float, depth: float, *, part: float = 0.5, normalized: bool = False) -> float:
    r"""Time in which a singular value grows from a small start to a part of its target, ``∫ dσ/(φ_σσ (s − σ))``.

    As the start goes to zero it grows like ``start^{−(1 − 2/N)}/((N − 2) s)`` for N > 2 and like ``log(1/start)/(2s)``
    at N = 2: from small starts deep networks learn one singular value after the other.

    Parameters
    ----------
    start, target : float
        ``0 < start < part · target``.
    depth : float
        N.
    part : float
        Between 0 and 1.
    normalized : bool
        Measure in the time of the normalised metric. Infinite depth always does.

    Raises
    ------
    ValueError
        If the values are not in this order.

    See Also
    --------
    dlngeo.flows.limits.observed_rate

    Examples
    --------
    >>> from dlngeo.flows.limits import escape_time
    >>> round(escape_time(1e-3, 1.0, 3) / escape_time(1e-6, 1.0, 3), 3)  # nearly (1e-3)^(1/3)
    0.092
    """
    if not 0 < start < part * target < target:
        raise ValueError(f"expected 0 < start < part·target < target, got {start:g}, {part:g} · {target:g}.")
    kernel = of_depth(depth, normalized)

    def integrand(log_s: float) -> float:
        s = math.exp(log_s)
        return s / (float(kernel(s, s)) * (target - s))

    return float(quad(integrand, math.log(start), math.log(part * target), epsabs=0, epsrel=1e-10, limit=200)[0])
