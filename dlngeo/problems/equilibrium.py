"""The equilibria of the free energy of any cost: minimisers by trust regions, and saddles by Newton's method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymanopt.optimizers import TrustRegions

from dlngeo import _check
from dlngeo._linalg import haar
from dlngeo.flows.limits import hessian_modes
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.problems.base import MatrixCost
from dlngeo.problems.free_energy import FreeEnergy
from dlngeo.thermodynamics.confined import UnboundedError, confinement

__all__ = ["Equilibrium", "classified", "equilibria", "newton", "settle"]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

_FLAT = 1e-7  # eigenvalues below this part of the largest are zero
_RESIDUAL = 1e-6  # gradient before the last step, relative to the largest eigenvalue and the point
_CLOSE = 1e-7  # length of the last step of Newton's method, relative to the point
_SAME, _LEVEL = 1e-5, 1e-9  # of matrices and of values of F that are one
_GONE = 1e-6  # of the largest singular value: a smaller one has gone to zero
_GROWN = 30.0  # growth of a point, after which a descent is begun anew with steps of its size
_ROUNDS = 5  # of descents, after which a point that still grows has run away


@dataclass(frozen=True)
class Equilibrium:
    """A critical point of a free energy among the matrices of its rank.

    Attributes
    ----------
    kind : str
        ``"minimum"``; ``"degenerate minimum"``, which lies on a manifold of minimisers, or is one to higher order;
        ``"saddle"``.
    free_energy : float
        F there.
    s : array, shape=[k]
        Singular values, decreasing.
    rank : int
        k: the rank r of the model, or r − 1 where F extends to it.
    index : int
        Number of negative eigenvalues of the Riemannian Hessian.
    dimension : int
        Number of vanishing ones: the dimension of the manifold of equilibria, where they are one.
    transverse : float or None
        At rank r − 1, the slope of F in the square of one more ``λ = σ^{1/N}``, in the worst direction; where it is
        negative the point is a saddle. None at rank r.
    residual : float
        Norm of the Riemannian gradient.
    eigenvalues : array, shape=[k(m + n − k)]
        Those of the Riemannian Hessian, ascending: rates of the gradient flow.
    point : triple of arrays
        ``(u, s, vt)``.

    See Also
    --------
    dlngeo.problems.equilibria
    dlngeo.problems.Branch
    dlngeo.problems.FreeEnergy

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import FreeEnergy, LowRankApproximation, equilibria
    >>> cost = LowRankApproximation(np.zeros((2, 2)))
    >>> (one,) = equilibria(cost, beta=1.0, depth=2, n_starts=3, rng=0)
    >>> one.kind, one.dimension, np.round(one.s, 4)  # half a rotation, by any angle
    ('degenerate minimum', 1, array([0.5, 0.5]))
    >>> bool(np.allclose(FreeEnergy(cost, beta=1.0, depth=2).euclidean_gradient(one.x), 0, atol=1e-8))
    True
    """

    kind: str
    free_energy: float
    s: np.ndarray
    rank: int
    index: int
    dimension: int
    transverse: float | None
    residual: float
    eigenvalues: np.ndarray = field(repr=False)
    point: Triple = field(repr=False)

    @property
    def x(self) -> np.ndarray:
        """The matrix, shape=[m, n]."""
        u, s, vt = self.point
        return (u * s) @ vt


def equilibria(
    cost: MatrixCost,
    *,
    beta: float,
    depth: float,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    decay: float = 0.0,
    ridge: float = 0.0,
    n_starts: int = 24,
    scale: float = 1.0,
    saddles: bool = False,
    rng: Any = None,
) -> list[Equilibrium]:
    """Find the equilibria of the free energy of a cost, of least free energy first.

    From many starts, small and large, trust regions of pymanopt minimise F on the matrices of rank r, and on those of
    rank r − 1 where F extends to them (:mod:`dlngeo.problems.free_energy`); Newton's method makes the ends exact, and
    the spectrum of the Riemannian Hessian says what they are. Hessians are formed: this is for matrices of some
    hundreds of entries at most.

    Parameters
    ----------
    cost : MatrixCost
        The energy: any cost of :mod:`dlngeo.problems`, of which ``FunctionCost`` takes functions.
    beta, depth, rank, widths, decay, ridge
        As for :class:`~dlngeo.problems.FreeEnergy`.
    n_starts : int
        Number of starts at each rank.
    scale : float
        Typical singular value of the starts, which are spread log-normally about 1/10 of it, itself, and 10 times it.
    saddles : bool
        Also look for saddles, by Newton's method from each start. Otherwise only those are given that minimise F among
        the matrices of rank r − 1, and only where no minimiser was found.
    rng : numpy.random.Generator or int, optional
        Draws the starts.

    Returns
    -------
    list of Equilibrium
        Different ones; of a manifold of equilibria one point: ends whose Hessian has a null space are one where they
        agree in F, in rank, in the index and in the dimension.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or no search converges.
    UnboundedError
        If F is not bounded below: by :func:`~dlngeo.problems.confinement`, or as descents show that run away.

    See Also
    --------
    dlngeo.problems.Equilibrium
    dlngeo.problems.continuation
    dlngeo.problems.confinement

    Examples
    --------
    >>> from dlngeo.problems import MatrixCompletion
    >>> data = MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2))
    >>> least, *_ = equilibria(data, beta=100.0, depth=2, ridge=0.02, n_starts=3, rng=0)
    >>> least.kind, np.round(least.s, 4)  # where σ − 1 + ρσ = 1/(4βσ)
    ('minimum', array([0.9829, 0.9829]))
    """
    free = FreeEnergy(cost, beta, depth, rank, widths, decay=decay, ridge=ridge)
    n_starts, scale = _check.positive_integer(n_starts, "n_starts"), _check.positive(scale, "scale")
    generator = np.random.default_rng(rng)
    told = confinement(cost, depth, rank, widths, decay=decay, ridge=ridge)
    if told.bounded is False:
        raise UnboundedError(f"the free energy is not bounded below at any β: {told.reason}", told.ray)
    found: list[Equilibrium] = []
    for model in (free, free.lower()):
        if model is None:
            continue
        for k in range(n_starts):
            start = _start(model, scale * 10.0 ** (k % 3 - 1), generator)
            ends = [settle(model, start, scale)] + ([newton(model, start)] if saddles else [])
            for end in ends:
                one = None if end is None else classified(free, end)
                if one is not None and not any(_same(one, other) for other in found):
                    found.append(one)
    if not found:
        raise ValueError(
            f"none of {n_starts} searches converged; try another scale or more starts, and see that the derivatives "
            "of the cost are right (dlngeo.pymanopt.check_gradient)."
        )
    kept = found if saddles else [one for one in found if one.kind != "saddle"] or found
    return sorted(kept, key=lambda one: one.free_energy)


def _start(free: FreeEnergy, scale: float, rng: np.random.Generator) -> Triple:
    (m, n), r = free.shape, free.rank
    s = np.sort(scale * np.exp(rng.standard_normal(r)))[::-1]
    return haar(rng, (m, r)), s.copy(), haar(rng, (n, r)).T


def settle(free: FreeEnergy, start: Triple, scale: float = 1.0) -> Triple | None:
    """Descend by trust regions, and to the end by Newton's method; None if the rank drops on the way, or it fails."""
    from dlngeo.pymanopt import FixedRank  # with geomstats, as in MatrixCost.problem

    (m, n), point = free.shape, start
    size = max(scale, float(start[1][0]))
    for _ in range(_ROUNDS):
        manifold = FixedRank(m, n, free.rank, free.depth, scale=size / math.sqrt(m * n))
        solver = TrustRegions(verbosity=0, max_iterations=150, min_gradient_norm=1e-7)
        found = solver.run(free.problem(manifold), initial_point=type(manifold.random_point())(*point))
        point = (found.point[0], found.point[1], found.point[2])
        if point[1].min() < _GONE * point[1].max():
            return None
        grown, size = float(point[1].max()) / size, max(size, float(point[1].max()))
        end = newton(free, point, descend=True) if grown < _GROWN else None
        if end is not None or grown < 2:
            return end
    if free.cost(point) > free.cost(start):
        return None
    u, s, vt = point
    raise UnboundedError(
        "the free energy does not seem to be bounded below: a descent ran away to a matrix with the singular values "
        f"{s}; give weight decay of the layers (decay) or a ridge.",
        (u * (s / np.linalg.norm(s))) @ vt,
    )


def newton(free: FreeEnergy, start: Triple, *, descend: bool = False, steps: int = 60) -> Triple | None:
    """Newton's method on the manifold, flat directions left alone; None if it does not converge.

    Parameters
    ----------
    free : FreeEnergy
    start : triple of arrays
    descend : bool
        Refuse steps along which F rises beyond round-off, and ends with a negative eigenvalue, as those of a minimiser.
    steps : int
        Steps at most.
    """
    point = start
    for _ in range(steps):
        frame = Frame(*point, free.entropy.kernel)
        try:
            values, slopes, modes = local(free, frame)
        except (ValueError, np.linalg.LinAlgError):
            return None
        top = float(np.abs(values).max())
        curved = np.abs(values) > _FLAT * top
        residual = float(np.linalg.norm(slopes))
        shift = np.where(curved, -slopes / np.where(curved, values, 1.0), 0.0)
        length = float(np.linalg.norm(shift))
        size = math.sqrt(frame.inner(frame.point, frame.point))
        if length < _CLOSE * size and residual > _RESIDUAL * top * size:
            return None  # what is left of the slope is along flat directions
        if descend and (length > size / 2 or values[0] < -1e-3 * top):
            return None
        step = np.tensordot(shift * min(1.0, size / (4 * length)), modes, 1)
        try:
            point = retract(frame, frame.split(step))
        except (OverflowError, ValueError):
            return None
        if not np.isfinite(point[1]).all() or point[1].min() < _GONE * point[1].max():
            return None
        if length < _CLOSE * size:
            return point
    return None


def local(free: FreeEnergy, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and modes of the Hessian at a point, and the slopes of F along the modes."""
    values, modes = hessian_modes(free, frame)
    slopes = np.tensordot(modes, free.euclidean_gradient((frame.u, frame.s, frame.vt)), 2)
    return values, slopes, modes


def classified(free: FreeEnergy, point: Triple) -> Equilibrium:
    """Say what an equilibrium is, at the rank of the model or one below."""
    order = np.argsort(-point[1])
    u, s, vt = point[0][:, order], point[1][order], point[2][order]
    model = free if s.size == free.rank else free.lower()
    assert model is not None
    values, slopes, _ = local(model, Frame(u, s, vt, model.entropy.kernel))
    top = float(np.abs(values).max())
    index, flat = int(np.sum(values < -_FLAT * top)), int(np.sum(np.abs(values) <= _FLAT * top))
    transverse, value = None, model.cost((u, s, vt))
    if model is not free:
        transverse = model.transverse((u, s, vt))
        value += (model.entropy.constant - free.entropy.constant) / free.beta
    level = None if transverse is None else transverse / model.transverse_size((u, s, vt))
    down = index > 0 or (level is not None and level < -_FLAT)
    kind = "saddle" if down else "degenerate minimum" if flat or (level is not None and level <= _FLAT) else "minimum"
    residual = float(np.linalg.norm(slopes))
    return Equilibrium(kind, value, s, s.size, index, flat, transverse, residual, values, (u, s, vt))


def _same(one: Equilibrium, other: Equilibrium) -> bool:
    if (one.rank, one.index, one.dimension) != (other.rank, other.index, other.dimension):
        return False
    if abs(one.free_energy - other.free_energy) > _LEVEL * (1 + abs(one.free_energy)):
        return False
    return one.dimension > 0 or bool(np.linalg.norm(one.x - other.x) < _SAME * np.linalg.norm(one.x))
