r"""The gradient flow of full rank from a small start, at the price of the rank that has risen.

From ``X(0) = ε Q``, Q orthogonal, the flow ``Ẋ = −A_X(E′)`` of depth N > 1 raises one singular value after another, and
those that have not risen are of size ε still. In frames of the risen part and of its complement,

.. math:: X = U \Sigma V^T + U_\perp S V_\perp^T .

The kernel leaves both diagonal blocks to themselves: ``U Σ Vᵀ`` follows the flow on the matrices of its rank, and with
frames ``U⊥, V⊥`` that are transported (``U⊥ᵀ U̇⊥ = 0``),

.. math:: \dot S = -A_S(U_\perp^T E' V_\perp) .

The risen part feels S through ``E′(X)`` alone, by O(ε), and in the rotation of its frames, by ``φ(σ, ε)`` in place of
``φ(σ, 0)``, a relative ``(ε/σ)^{2/N}``; both are left out. Then S need not be known: what counts is its
driver ``C = −∫ U⊥ᵀ E′ V⊥ dt``, which is carried as an m×n matrix that is sparse, or whatever E′ is, and a correction of
low rank. After each pair of steps

.. math:: C \leftarrow (1 - U U^T)\Bigl(C - \int E' dt\Bigr)(1 - V V^T),

the integral by the trapezoidal rule. As all of S is of one size, its singular value that rises first is that along the
top singular pair of C; when and how is a scalar law, see :mod:`dlngeo.problems._rise`. It joins the risen ones when it
has come to a hundredth of the largest of them, by that law: one that the data hold below joins there, and shrinks.
Nothing is drawn at random: of Q only that it is orthogonal enters.

All this holds while S is driven. From the time ``1/(κ φ(ε, ε))`` on, κ the curvature of the cost, singular values of
size ε move by their own size in fitting what is left of the residual, and no more is raised; nor is it where the risen
part is at rest and has fitted the data to 1e-5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dlngeo import _check
from dlngeo.problems.monitor import Monitored, Record, Solution, StoppedEarly, error_on

__all__ = ["Followed", "follow"]


@dataclass
class Followed(Solution):
    """Result of :meth:`MatrixCompletion.follow <dlngeo.problems.MatrixCompletion.follow>`.

    Attributes
    ----------
    flow_time : float
        Time of the flow at ``point``.
    births : list of float
        Times at which singular values rose, the k-th to the rank k.
    rejected, products : int
        Steps that were refused, and repeated shorter; products with the Hessian.
    error : float
        Sum of the estimated errors of all steps, each relative to the point where it was made.

    See Also
    --------
    dlngeo.problems.MatrixCompletion
    dlngeo.problems.Solution
    dlngeo.flows.limits.escape_time

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> flow = MatrixCompletion.from_matrix(np.diag([3.0, 1.0])).follow(depth=3, size=1e-3)
    >>> flow.rank, np.round(flow.point[1], 4)
    (2, array([3., 1.]))
    >>> first, second = flow.births
    >>> round(second / first, 2)  # one third of the slope, thrice the wait
    3.0
    """

    flow_time: float = 0.0
    births: list[float] = field(default_factory=list)
    rejected: int = 0
    products: int = 0
    error: float = 0.0

    @property
    def rank(self) -> int:
        """Number of singular values that have risen by the end."""
        return len(self.births)


def follow(
    problem: Any,
    depth: float = 3.0,
    size: float = 1e-3,
    *,
    tolerance: float = 0.05,
    flow_time: float = math.inf,
    min_gradient_norm: float | None = None,
    heldout: Any = None,
    patience: int | None = None,
    max_time: float = math.inf,
    max_iterations: float = math.inf,
    callback: Callable[[Record, Any], None] | None = None,
) -> Followed:
    """Follow the gradient flow of full rank from a small start, storing only the singular values that have risen.

    From ``X(0) = ε Q``, Q orthogonal, the flow ``Ẋ = −A_X(E′(X))`` of depth N raises one singular value after another.
    Those that have risen follow the flow on the matrices of their rank; of the others only what drives them is carried,
    and each joins when its time has come. So no rank is given: it is found. Nothing is random, and nothing of size m×n
    is formed where ``E′`` is sparse.

    Parameters
    ----------
    depth : float
        Depth N > 1 of the network, real and finite.
    size : float
        Size ε of the start, small beside the singular values that are sought. Smaller starts lead to lower rank.
    tolerance : float
        Bound of the estimated error of a step, relative to the point, as in :class:`dlngeo.pymanopt.GradientFlow`.
    flow_time : float
        Time at which to stop.
    min_gradient_norm : float, optional
        Stop where the norm of the Riemannian gradient falls below this, unless the flow would leave the point again, or
        another singular value may still rise. By default 1e-5 of the largest norm on the way.
    heldout : LeastSquares, optional
        Data of the same matrix that were held out, to choose ``best_point``.
    patience : int, optional
        Stop after so many steps in a row without a lower error on them.
    max_time, max_iterations : float
        Seconds and steps after which to stop.
    callback : callable, optional
        Called as ``callback(record, point)`` after each step.

    Returns
    -------
    Followed
        Also after Ctrl-C, with status ``"interrupted"`` and everything seen so far.

    Raises
    ------
    ValueError
        If an option is out of range, ``size`` is not small, ``heldout`` is of another shape, the gradient vanishes at
        the matrix 0, or ``flow_time`` ends before anything has risen.
    TypeError
        If ``depth`` or ``size`` is no number, or residuals are not arrays, as those of distributed data.
    KeyboardInterrupt
        If interrupted before the first singular value has risen.

    Notes
    -----
    It is the flow of full rank with the effect on the risen part of what has not risen left out: a relative
    ``(ε/σ)^{2/N}``, which is not small at great depth. From one orthogonal start to another times of births differ by
    some percent on matrices of size 15; here they are those of a large one. What has not risen by the time
    ``1/(κ φ_N(ε, ε))``, κ the curvature of the cost along its first singular pair, never does: a scale rather than a
    law, which matters where the residual stays large, as noise makes it; hold out entries there. At depth 2 singular
    values rise like ``ε e^{2c}``, hardly one after the other, and the rank found is as high as that flow has it. The
    derivation is in :mod:`dlngeo.problems.growth`.

    Each step costs what it does on the matrices of the rank that has risen, in time and in memory, and two largest
    singular values of matrices as sparse as the data, by Lanczos.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 30))
    >>> shown = rng.random(truth.shape) < 0.4
    >>> found = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape).follow(depth=3)
    >>> found.status, found.rank
    ('converged', 2)
    """
    depth, size = _check.depth(depth), _check.positive(size, "size")
    if depth == 1:
        raise ValueError("at depth 1 all singular values rise at once, and no rank is low; take a depth above 1.")
    if not _check.positive(tolerance, "tolerance") < 1:
        raise ValueError(f"tolerance must be below 1, as it is relative to the point, got {tolerance}.")
    if not flow_time > 0:
        raise ValueError(f"flow_time must be positive, got {flow_time}; a gradient flow runs forward.")
    if min_gradient_norm is not None and not min_gradient_norm >= 0:
        raise ValueError(f"min_gradient_norm must not be negative, got {min_gradient_norm}.")
    error = error_on(heldout, problem)
    from dlngeo.problems._growing import Growth, StalledError  # with geomstats, which costs alone do without

    began = time.perf_counter()
    growth = Growth(problem, depth, size, tolerance, flow_time, min_gradient_norm)
    watched = Monitored(growth.problem, error, patience, 0.0, callback)
    progress: dict[str, Any] = {}
    try:
        while True:
            watched.problem = growth.problem
            watched.riemannian_gradient(growth.follower.point)
            progress = growth.progress()
            if (end := growth.end()) is not None:
                break
            if len(watched.history) > max_iterations:
                end = "iteration limit", f"{len(watched.history) - 1} steps were made."
                break
            if time.perf_counter() - began >= max_time:
                end = "time limit", f"{len(watched.history) - 1} steps took more than {max_time:g} seconds."
                break
            growth.step()
    except StoppedEarly as stop:
        end = "stopped early", str(stop)
    except StalledError as error:
        end = "stalled", f"Stalled: {error}."
    except KeyboardInterrupt:
        if not progress:
            raise
        end = "interrupted", f"Interrupted at flow time {progress['flow_time']:.6g}."
    return Followed(**vars(watched.solution(*end)), **progress)
