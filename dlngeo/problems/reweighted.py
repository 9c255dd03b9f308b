r"""Matrix completion when the rank is not known: reweighted least squares in the metric of depth N.

At a matrix with singular value decomposition ``X = U Σ Vᵀ`` let ``𝒜`` be the cometric of depth N with a floor
ε under the singular values: it multiplies the entry (k, l) of ``Uᵀ Z V`` by ``φ(σ_k ∨ ε, σ_l ∨ ε)``. The next matrix is
that of least norm among those that agree with the data,

.. math:: X^+ = \arg\min \{ \langle Y, \mathcal A^{-1} Y\rangle : P_\Omega Y = a \},

and the floor is lowered from sweep to sweep. As ``φ(σ, σ) = σ^{2 − 2/N}`` (for the normalised kernel), ``𝒜⁻¹X`` is
the gradient of ``(N/2) Σ σ^{2/N}`` above the floor, of ``Σ log σ`` at infinite depth: a matrix that is its own
successor is a stationary point of that Schatten quasi-norm on ``P_Ω X = a``. It is the norm that N balanced layers
have, ``Σ_p ‖W_p‖² = N Σ σ^{2/N}``, and the bias of training them. Depth 1 fills with zeros, depth 2 is the nuclear
norm, and from there to depth 4 fewer and fewer entries are needed.

Below the floor 𝒜 is the constant ``φ₀ = φ(ε, ε)``, so that ``𝒜 = φ₀ + 𝒟`` with 𝒟 on the tangent space T of the matrices
of rank R at the R singular values above the floor. Eliminating the multipliers of the constraint leaves a problem on T,

.. math:: X^+ = Z + P_\Omega^*(a - P_\Omega Z), \qquad
   Z = \arg\min_{Z \in T} \|P_\Omega Z - a\|^2 + \varphi_0 \langle Z, \mathcal D^{-1} Z\rangle,

a step of Levenberg and Marquardt on the manifold of rank R in a metric of depth N. It is solved by conjugate gradients
at O(|Ω| R + (m + n) R²) for each iteration.

With the arithmetic mean ``(σ_k² + σ_l²)/2`` in place of the logarithmic mean ``φ_∞ = (σ_k² − σ_l²)/log(σ_k²/σ_l²)`` it
is HM-IRLS [1]_, and with the geometric mean ``σ_k σ_l`` MatrixIRLS [2]_, from which the elimination is taken; with
ε = 0 and the rank known it is a Gauss–Newton step, of which GNMR [3]_ is another form.

References
----------
.. [1] C. Kümmerle and J. Sigl, "Harmonic mean iteratively reweighted least squares for low-rank matrix recovery",
   JMLR 19 (2018).
.. [2] C. Kümmerle and C. Mayrink Verdun, "A scalable second order method for ill-conditioned matrix completion from few
   samples", ICML 2021, arXiv:2106.02119.
.. [3] P. Zilber and B. Nadler, "GNMR: a provable one-line algorithm for low rank matrix recovery", SIMODS 4 (2022),
   arXiv:2106.12933.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg

from dlngeo import _check
from dlngeo.kernels import Kernel, of_depth
from dlngeo.problems._pattern import Pattern
from dlngeo.problems._tangent_fit import TangentFit
from dlngeo.problems.base import Products
from dlngeo.problems.monitor import error_on

__all__ = ["Completed", "Sweep", "complete"]

Array = np.ndarray
Point = tuple[Array, Array, Array]

# The floor is lowered by this factor in each sweep. Slower finds the matrix from somewhat fewer entries.
_DECAY = 0.93
# Once sweeps change the matrix by less, the floor follows the first singular value below it, for quadratic convergence.
_SETTLED, _FASTEST = 1e-4, 0.01
_LEAST_FLOOR = 1e-12
# Conjugate gradients: the error against the change of the last sweep, its bounds, and the number of iterations.
_INNER_SHARE, _LOOSEST, _TIGHTEST, _INNER_ITERATIONS = 0.01, 1e-4, 1e-13, 2000
# Sweeps without a new least held-out error, or without a lower floor.
_PATIENCE = 25
_FOLDS, _FOLD_FRACTION = 3, 0.1
# Mean relative error on held-out entries from where on zeros predict them as well.
_NO_BETTER = 0.99
# Matrices of so many entries are decomposed as a whole.
_DENSE = 250_000


class Entries(Protocol):
    """What the method needs of a completion problem."""

    shape: tuple[int, int]
    values: Array
    pattern: Pattern

    def __len__(self) -> int: ...

    def split(self, fraction: float, rng: Any) -> tuple[Entries, Entries]: ...

    def relative_error(self, point: Any) -> float: ...


@dataclass(frozen=True)
class Sweep:
    """What was seen in one sweep.

    Attributes
    ----------
    iteration : int
        Number of the sweep, from 1.
    floor : float
        The floor ε under the singular values, in units of the root mean square of the observed values.
    rank : int
        Number R of singular values above it.
    residual : float
        ``‖P_Ω Z − a‖ / ‖a‖``.
    change : float
        Relative change of Z from the singular values above the floor of the last matrix.
    heldout_error : float
        Relative error on held-out entries; NaN if there are none.
    inner_iterations : int
        Iterations of conjugate gradients.
    seconds : float
        Time since the start.

    See Also
    --------
    dlngeo.problems.Completed
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> x = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 2.0, 5.0])
    >>> history = MatrixCompletion.from_matrix(x, x < 20).complete().history
    >>> bool(np.all(np.diff([sweep.floor for sweep in history]) <= 0)), history[-1].rank, history[-1].residual < 1e-9
    (True, 1, True)
    """

    iteration: int
    floor: float
    rank: int
    residual: float
    change: float
    heldout_error: float
    inner_iterations: int
    seconds: float


@dataclass
class Completed:
    """Result of :meth:`MatrixCompletion.complete <dlngeo.problems.MatrixCompletion.complete>`.

    Attributes
    ----------
    status : str
        ``"exact"`` (all entries are met to the tolerance by a matrix with fewer parameters than entries; with hardly
        more entries than parameters there may be others),
        ``"held out"`` (held-out entries chose the floor), ``"iteration limit"`` (before the floor that they chose),
        ``"undetermined"`` (held-out entries were predicted no better than by zeros, to a percent: too few entries, or
        no low rank) or ``"interrupted"`` (Ctrl-C).
    point : tuple of array
        ``(u, s, vt)`` with ``X = (u * s) @ vt``, singular values in descending order.
    history : list of Sweep
        The sweeps that led to the point. Those of the folds, if there were any, are not among them.
    empty_rows, empty_columns : array of int
        Rows and columns without entries, which the point fills with zeros.

    See Also
    --------
    dlngeo.problems.MatrixCompletion
    dlngeo.problems.Sweep
    dlngeo.problems.FittedTable

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> x = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 2.0, 5.0])
    >>> done = MatrixCompletion.from_matrix(x, x < 20).complete()  # all but the last entry
    >>> u, s, vt = done.point
    >>> done.status, done.rank, bool(np.allclose((u * s) @ vt, x, rtol=1e-6))
    ('exact', 1, True)
    """

    status: str
    point: Point
    history: list[Sweep] = field(repr=False)
    empty_rows: Array = field(repr=False, default_factory=lambda: np.empty(0, int))
    empty_columns: Array = field(repr=False, default_factory=lambda: np.empty(0, int))

    @property
    def rank(self) -> int:
        """Rank of the point."""
        return len(self.point[1])


def complete(
    problem: Entries,
    rank: int | None = None,
    *,
    depth: float = 4,
    heldout: Entries | None = None,
    tolerance: float | None = None,
    max_iterations: int = 300,
    rng: Any = None,
    callback: Callable[[Sweep, Point], None] | None = None,
) -> Completed:
    r"""Complete the matrix by reweighted least squares in the metric of a depth; the rank need not be known.

    Each sweep finds the matrix of least norm, in the metric of depth N at the last one with a floor ε under its
    singular values, among those with the observed entries; then the floor is lowered. It seeks stationary points of
    ``Σ σ^{2/N}`` on the data, see :mod:`dlngeo.problems.reweighted`. A sweep costs some tens or hundreds of
    products with the sparse matrix and the leading singular vectors.

    First all entries are to be met to ``tolerance`` by a matrix with fewer parameters, ``R(m + n − R)``, than there
    are entries: data with noise are not. If they are, that is the result; with hardly more entries than parameters
    it need not be the only such matrix. Otherwise a tenth of the entries, drawn three times, is held out to choose
    the floor, and all entries are fitted down to the geometric mean of the three.

    Parameters
    ----------
    rank : int, optional
        Largest rank of the result. By default it is not known, and only bounded by the number of entries.
    depth : float
        Depth N ≥ 2, or ``inf``. Depth 2 seeks the nuclear norm. Depth 4 needs the fewest entries, 8 finds
        the rank more often where there is noise.
    heldout : MatrixCompletion, optional
        Held-out entries that choose the floor, in place of parts of the observed ones: the sweep of least error on
        them is returned, unless the fit is exact.
    tolerance : float, optional
        Relative residual of an exact fit. By default 1e-10; or the round-off of single precision, 2⁻²⁴, where all
        values are such numbers with all of their digits in use. Data rounded to decimals want theirs.
    max_iterations : int
        Limit of sweeps.
    rng : numpy.random.Generator or int, optional
        Source of randomness for the entries held out, or its seed. An exact fit uses none.
    callback : callable, optional
        Called as ``callback(sweep, point)`` after each sweep on all observed entries, to show progress or to save
        points. Ctrl-C, or a KeyboardInterrupt that it raises, ends the search with the last point.

    Returns
    -------
    Completed
        With the point ``(u, s, vt)``, the status and the sweeps.

    Raises
    ------
    ValueError
        If all observed values are zero, the depth is below 2, the rank exceeds the shape, or ``heldout`` is of
        another shape.

    Notes
    -----
    Rows and columns without entries are filled with zeros, as no data determine them, and named in the result,
    which is equivariant under multiples of the values, transposition, and permutations, to round-off.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 30))
    >>> shown = rng.random(truth.shape) < 0.4
    >>> found = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape).complete()
    >>> found.status, found.rank
    ('exact', 2)
    """
    kernel = of_depth(depth, normalized=True)
    if depth < 2:
        raise ValueError(f"depth {depth} has no bias toward low rank in this method; take one of at least 2.")
    tolerance = _roundoff(problem.values) if tolerance is None else _check.positive(tolerance, "tolerance")
    max_iterations = _check.positive_integer(max_iterations, "max_iterations")
    error_on(heldout, problem)
    if not np.any(problem.values):
        raise ValueError("all observed values are 0, and so is the matrix of least rank; there is nothing to complete.")
    most = _largest_rank(problem) if rank is None else _check.rank(rank, *problem.shape)
    run = partial(_run, kernel, most, tolerance, max_iterations)
    result = _choose(problem, run, heldout, rng, callback)
    result.empty_rows = np.flatnonzero(np.diff(problem.pattern.indptr) == 0)
    result.empty_columns = np.setdiff1d(np.arange(problem.shape[1]), problem.pattern.indices)
    return result


def _roundoff(values: Array) -> float:
    """Relative residual of an exact fit: that of single precision if all values have 24 bits and some use the last."""
    bits = np.frexp(np.asarray(values, np.float64))[0] * 2.0**24
    single = np.all(bits % 1 == 0) and np.any(bits % 16 != 0)  # whole numbers and halves are known exactly
    return 2.0**-24 if single else 1e-10


def _choose(
    problem: Entries,
    run: Callable[..., Completed],
    heldout: Entries | None,
    rng: Any,
    callback: Callable[[Sweep, Point], None] | None,
) -> Completed:
    """Fit all entries exactly, or down to a floor that held-out ones choose."""
    result = run(problem, heldout, callback)
    if heldout is not None or result.status in ("exact", "interrupted"):
        if result.status == "held out" and result.history[-1].heldout_error > _NO_BETTER:
            result.status = "undetermined"
        return result
    # There is noise, or no exact fit was found: entries that are held out in turn choose where to stop.
    generator = np.random.default_rng(rng)
    floors, errors = [], []
    for _ in range(_FOLDS):
        train, fold = problem.split(_FOLD_FRACTION, generator)
        found = run(train, fold, None)
        if found.status == "interrupted":
            return Completed("interrupted", result.point, result.history)
        floors.append(found.history[-1].floor)
        errors.append(found.history[-1].heldout_error)
    lowest = math.exp(float(np.mean(np.log(floors))))
    result = run(problem, None, callback, lowest)
    if result.status == "held out" and float(np.mean(errors)) > _NO_BETTER:
        result.status = "undetermined"
    return result


def _run(
    kernel: Kernel,
    most: int,
    tolerance: float,
    max_iterations: int,
    problem: Entries,
    heldout: Entries | None,
    callback: Callable[[Sweep, Point], None] | None,
    lowest: float = 0.0,
) -> Completed:
    """Sweep until an exact fit, the lowest floor wanted, or no improvement; with ``heldout``, return the best.

    ``lowest`` is a floor that held-out entries have chosen. It may not be reached, where so many singular values
    remain that the floor cannot follow; then the lowest that was reached stands for it.
    """
    history: list[Sweep] = []
    best, best_error, stale, least = None, math.inf, 0, math.inf
    status, point = "iteration limit", None
    try:
        for sweep, point in _sweeps(problem, heldout, kernel, most):
            history.append(sweep)
            if callback is not None:
                callback(sweep, point)
            error = sweep.heldout_error if heldout is not None else math.nan
            stale += 1
            if error < best_error:
                best, best_error, stale = (point, len(history)), error, 0
            if heldout is None and sweep.floor < 0.99 * least:
                least, stale = sweep.floor, 0
            if sweep.residual <= tolerance and _parameters(problem, sweep.rank) < len(problem):
                return Completed(
                    "exact", _without_zeros(point, tolerance * float(np.linalg.norm(problem.values))), history
                )
            if sweep.floor <= lowest or stale >= _PATIENCE or sweep.floor < _LEAST_FLOOR:
                status = "held out" if lowest else "stalled"
                break
            if len(history) == max_iterations:
                break
    except KeyboardInterrupt:
        if point is None:
            raise
        status = "interrupted"
    if best is not None:
        point, count = best
        history = history[:count]
        status = "interrupted" if status == "interrupted" else "held out"
    assert point is not None
    return Completed(status, point, history)


def _parameters(problem: Entries, rank: int) -> int:
    """Dimension of the matrices of a rank."""
    return rank * (sum(problem.shape) - rank)


def _largest_rank(problem: Entries) -> int:
    """Largest rank with fewer parameters than entries, at least 1."""
    rank = 1
    while rank < min(problem.shape) and _parameters(problem, rank + 1) < len(problem):
        rank += 1
    return rank


def _sweeps(
    problem: Entries, heldout: Entries | None, kernel: Kernel, most: int, inner_tolerance: float | None = None
) -> Iterator[tuple[Sweep, Point]]:
    """Yield sweeps at ever lower floors, which are in units of the root mean square of the entries.

    The floor stays above the singular value ``most + 1``: there is no use in telling apart more of them. The tolerance
    of conjugate gradients follows the change of the last sweep, unless ``inner_tolerance`` is given.
    """
    began = time.perf_counter()
    m, n = problem.shape
    pattern = problem.pattern
    unit = float(np.linalg.norm(problem.values)) / math.sqrt(len(problem))
    values = np.asarray(problem.values, np.float64) / unit
    left, right, residual = np.zeros((m, 1)), np.zeros((1, n)), values
    floor, change, rank, iteration = math.inf, 1.0, 1, 0
    while True:
        iteration += 1
        u, s, vt = _leading(left, right, pattern, residual, floor, most + 1, rank + 5)
        if math.isinf(floor):
            floor = s[0]
        following = s[rank] if rank < len(s) else 0.0
        lower = min(_DECAY * floor, max(following, _FASTEST * floor)) if change < _SETTLED else _DECAY * floor
        floor = max(lower, s[most] if most < len(s) else 0.0)
        rank = max(1, int(np.count_nonzero(s > floor)))  # at most ``most``
        space, top = TangentFit(u[:, :rank], vt[:rank].T, pattern), s[:rank]
        ridge = _ridge(kernel, top, floor)
        last = [np.diag(top), np.zeros((m, rank)), np.zeros((n, rank))]
        # Weak singular values are pulled to zero, near the floor without bound.
        guess = [np.diag(top / (1 + np.diagonal(ridge[0]) / space.fraction)), *last[1:]]
        tolerance = inner_tolerance or min(_LOOSEST, max(_INNER_SHARE * change, _TIGHTEST))
        z, count = space.solve(values, ridge, guess, tolerance, _INNER_ITERATIONS)
        change = math.sqrt(sum(_squares(a - b) for a, b in zip(z, last, strict=True)) / sum(map(_squares, z)))
        left, right = space.factors(z)
        residual = values - space.sample(z)
        point = _truncated(left, right, rank, unit)
        sweep = Sweep(
            iteration,
            floor,
            rank,
            math.sqrt(_squares(residual) / _squares(values)),
            change,
            math.nan if heldout is None else heldout.relative_error(point),
            count,
            time.perf_counter() - began,
        )
        yield sweep, point


def _ridge(kernel: Kernel, top: Array, floor: float) -> list[Array]:
    """Weights ``φ₀/(φ − φ₀)`` of ``φ₀ 𝒟⁻¹`` in the three blocks of the tangent space; 1e77 where 𝒟 vanishes.

    Kernels grow with both singular values; a difference below 0 is round-off.
    """
    top = np.maximum(top, floor)
    least = float(kernel(floor, floor))
    with np.errstate(divide="ignore", over="ignore"):
        core, outer = (
            np.minimum(least / np.maximum(kernel(top[:, None], other) - least, 0.0), np.finfo(float).max ** 0.25)
            for other in (top, np.full(1, floor))
        )
    return [core, outer.T, outer.T]


def _leading(
    left: Array, right: Array, pattern: Pattern, residual: Array, floor: float, most: int, count: int
) -> Point:
    """Singular vectors and values of ``left @ right + E`` down to the first below the floor, and ``most`` at most."""
    m, n = pattern.shape
    if m * n <= _DENSE or 3 * count > min(m, n):
        return np.linalg.svd(left @ right + pattern.matrix(residual).toarray(), full_matrices=False)
    operator = Products(
        pattern.shape,
        np.float64,
        lambda x: left @ (right @ x) + pattern.times(residual, x),
        lambda x: right.T @ (left.T @ x) + pattern.transposed_times(residual, x),
    )
    count = min(count, most)
    # PROPACK, which does not square the matrix, and a start that depends on nothing.
    start = np.random.default_rng(0).standard_normal(m)
    u, s, vt = scipy.sparse.linalg.svds(operator, count, v0=start, solver="propack")
    order = np.argsort(s)[::-1]
    u, s, vt = u[:, order], s[order], vt[order]
    if s[-1] > floor and count < most and not math.isinf(floor):
        return _leading(left, right, pattern, residual, floor, most, 2 * count)
    return u, s, vt


def _truncated(left: Array, right: Array, rank: int, unit: float) -> Point:
    """Leading part of the SVD of ``left @ right``."""
    (q, r), (p, t) = np.linalg.qr(left), np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r @ t.T)
    return q @ u[:, :rank], unit * s[:rank], vt[:rank] @ p.T


def _without_zeros(point: Point, allowance: float) -> Point:
    """Drop the singular values whose norm together is below an error that is allowed on the entries."""
    u, s, vt = point
    tails = np.sqrt(np.cumsum((s[::-1] / s[0]) ** 2)[::-1])  # the squares of the values themselves may underflow
    rank = max(1, int(np.count_nonzero(tails > allowance / s[0])))
    return u[:, :rank], s[:rank], vt[:rank]


def _squares(x: Array) -> float:
    return float(np.vdot(x, x))
