r"""Equilibria of a free energy as the temperature changes: branches, and where they bifurcate, end, or lose rank.

Along a branch of critical points ``grad F_β(X) = 0``, with ``∂F/∂β = S/β²``,

.. math:: \frac{dX}{d\beta} = -(\operatorname{Hess} F)^{-1} \operatorname{grad} \frac{S}{\beta^2} ,

which predicts the next point; Newton's method corrects it. Where the Hessian is flat, as along orbits of a symmetry,
the pseudo-inverse leaves the point where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import brentq

from dlngeo import _check
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.problems.base import MatrixCost
from dlngeo.problems.equilibrium import Equilibrium, classified, local, newton, settle
from dlngeo.problems.free_energy import FreeEnergy

__all__ = ["Branch", "Transition", "continuation"]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

_FLAT = 1e-7
_FARTHEST = 0.3  # of the size of a point, which one step may go
_HALVINGS = 12
_OPENING = 1e-2  # of the largest singular value: one more, or a step along an unstable direction
_PRECISION = 1e-9


@dataclass(frozen=True)
class Transition:
    """Where a branch of minimisers ceased to be one.

    Attributes
    ----------
    beta : float
        Where: the zero of an eigenvalue or of the transverse slope, or for ``"fold"`` the last β that was reached.
    kind : str
        ``"bifurcation"``: an eigenvalue crossed zero. ``"rank"``: a singular value opened or closed. ``"fold"``: the
        branch ended, and the minimiser jumped.
    before, after : Equilibrium or None
        The last on the old branch, and the first on the new; None where no other was found, and the branch ends.

    See Also
    --------
    dlngeo.problems.Branch
    dlngeo.problems.continuation

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, continuation, equilibria
    >>> diagonal, ridge = MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2)), {"depth": 2, "ridge": 0.02}
    >>> start = equilibria(diagonal, beta=20.0, n_starts=3, rng=0, **ridge)[0]
    >>> (change,) = continuation(diagonal, start, [20.0, 15.0, 9.0], **ridge).transitions
    >>> change.kind, round(change.beta, 4)  # 1/(4ρ)
    ('bifurcation', 12.5)
    """

    beta: float
    kind: str
    before: Equilibrium
    after: Equilibrium | None


@dataclass(frozen=True)
class Branch:
    """Equilibria over β.

    Attributes
    ----------
    beta : array, shape=[k]
        As given, up to where the branch ended.
    equilibria : list of Equilibrium
        One for each β.
    transitions : list of Transition
        In the order met.
    rank : int
        Rank r of the model.

    See Also
    --------
    dlngeo.problems.continuation
    dlngeo.problems.Equilibrium
    dlngeo.problems.Transition

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import LowRankApproximation, continuation, equilibria
    >>> cost = LowRankApproximation(np.zeros((2, 2)))
    >>> (start,) = equilibria(cost, beta=1.0, depth=2, n_starts=3, rng=0)
    >>> branch = continuation(cost, start, [1.0, 4.0, 16.0], depth=2)
    >>> bool(np.allclose(branch.s[:, 0], [0.5, 0.25, 0.125])), branch.transitions  # 1/(2√β)
    (True, [])
    """

    beta: np.ndarray
    equilibria: list[Equilibrium] = field(repr=False)
    transitions: list[Transition]
    rank: int

    @property
    def s(self) -> np.ndarray:
        """Singular values, shape=[k, r]; zero where the rank has dropped."""
        return np.stack([np.pad(one.s, (0, self.rank - one.s.size)) for one in self.equilibria])

    @property
    def x(self) -> np.ndarray:
        """The matrices, shape=[k, m, n]."""
        return np.stack([one.x for one in self.equilibria])

    @property
    def free_energy(self) -> np.ndarray:
        """F, shape=[k]."""
        return np.array([one.free_energy for one in self.equilibria])

    @property
    def least_eigenvalue(self) -> np.ndarray:
        """Least eigenvalue of the Riemannian Hessian that is not flat, shape=[k]."""
        return np.array([_least(one) for one in self.equilibria])


def continuation(
    cost: MatrixCost,
    start: Equilibrium,
    betas: Any,
    *,
    depth: float,
    rank: int | None = None,
    widths: Sequence[int] | None = None,
    decay: float = 0.0,
    ridge: float = 0.0,
    minimisers: bool = True,
) -> Branch:
    """Follow an equilibrium over inverse temperatures.

    Parameters
    ----------
    cost : MatrixCost
        The energy.
    start : Equilibrium
        One at ``betas[0]``, from :func:`~dlngeo.problems.equilibria` with the same arguments.
    betas : array, shape=[k]
        Inverse temperatures, increasing or decreasing.
    depth, rank, widths, decay, ridge
        As for :class:`~dlngeo.problems.FreeEnergy`.
    minimisers : bool
        Where the branch is no minimiser any more, or ends, go on with the minimiser to which F leads down from there.
        Up and down again then shows hysteresis. Otherwise the branch is followed as a saddle, and ends at folds.

    Returns
    -------
    Branch

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or ``start`` is no equilibrium at ``betas[0]``.

    See Also
    --------
    dlngeo.problems.equilibria
    dlngeo.problems.Branch

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import LowRankApproximation, continuation, equilibria
    >>> cost = LowRankApproximation(np.zeros((2, 2)))
    >>> (start,) = equilibria(cost, beta=1.0, depth=2, n_starts=3, rng=0)
    >>> up = continuation(cost, start, [1.0, 2.0, 4.0], depth=2)
    >>> down = continuation(cost, up.equilibria[-1], [4.0, 2.0, 1.0], depth=2)
    >>> bool(np.allclose(up.s, down.s[::-1])), bool(np.allclose(down.s[-1], 0.5))  # no hysteresis
    (True, True)
    """
    if not isinstance(start, Equilibrium):
        raise TypeError(f"start must be an Equilibrium, as equilibria(...) returns, got {type(start).__name__}.")
    values = _check.real(betas, "betas").astype(float)
    turns = np.diff(np.atleast_1d(values))
    if values.ndim != 1 or values.size == 0 or not (np.all(turns > 0) or np.all(turns < 0)):
        raise ValueError(f"betas must be one array, increasing or decreasing, got {values}.")
    free = FreeEnergy(cost, float(values[0]), depth, rank, widths, decay=decay, ridge=ridge)
    point = newton(_model(free, start.point), start.point)
    if point is None or np.max(np.abs(np.sort(point[1]) / np.sort(start.s) - 1)) > 1e-3:
        raise ValueError(
            f"the start is no equilibrium at β = {values[0]:g}; find one with equilibria(..., beta={values[0]:g})."
        )
    here, found, transitions = classified(free, point), [], []
    found.append(here)
    for before, beta in pairwise(values):
        to = free.at(float(beta))
        moved = _advance(free, here.point, before, beta)
        there = None if moved is None else classified(to, moved)
        if there is None or (minimisers and there.kind == "saddle" and here.kind != "saddle"):
            there, transition = _beyond(free, here, there, before, beta, minimisers)
            transitions.append(transition)
            if there is None:
                break
        here = there
        found.append(here)
    return Branch(values[: len(found)], found, transitions, free.rank)


def _model(free: FreeEnergy, point: Triple) -> FreeEnergy:
    model = free if len(point[1]) == free.rank else free.lower()
    if model is None or len(point[1]) != model.rank:
        raise ValueError(
            f"the point has the rank {len(point[1])}, where F has none of its equilibria; the rank of the model is "
            f"{free.rank}."
        )
    return model


def _advance(free: FreeEnergy, point: Triple, low: float, high: float, halvings: int = _HALVINGS) -> Triple | None:
    """Follow a point from one β to another, by as many steps as it takes; None if it cannot be."""
    model = _model(free, point).at(float(low))
    frame = Frame(*point, model.entropy.kernel)
    values, _, modes = local(model, frame)
    pull = (frame.u * model.entropy.gradient(frame.s)) @ frame.vt / low**2
    slopes = np.tensordot(modes, pull, 2)
    curved = np.abs(values) > _FLAT * np.abs(values).max()
    rates = np.where(curved, -slopes / np.where(curved, values, 1.0), 0.0)
    size = np.sqrt(frame.inner(frame.point, frame.point))
    end = None
    if np.linalg.norm(rates) * abs(high - low) < _FARTHEST * size:
        step = np.tensordot(rates * (high - low), modes, 1)
        try:
            end = newton(model.at(float(high)), retract(frame, frame.split(step)), steps=12)
        except (ValueError, OverflowError):
            end = None
    if end is not None:
        apart = (end[0] * end[1]) @ end[2] - frame.point
        if np.linalg.norm(apart) < 2 * _FARTHEST * np.linalg.norm(frame.s):
            return end
    if halvings == 0:
        return None
    middle = (low + high) / 2
    half = _advance(free, point, low, middle, halvings - 1)
    return None if half is None else _advance(free, half, middle, high, halvings - 1)


def _least(one: Equilibrium) -> float:
    values = one.eigenvalues
    curved = values[np.abs(values) > _FLAT * np.abs(values).max()]
    return float(curved.min())


def _beyond(
    free: FreeEnergy, here: Equilibrium, there: Equilibrium | None, low: float, high: float, minimisers: bool
) -> tuple[Equilibrium | None, Transition]:
    """Go on where a branch of minimisers has ended between two β, or become a saddle."""
    to = free.at(float(high))
    if there is not None:
        if there.index > 0:
            at, kind = _zero(free, here, low, high, _crossing(there)), "bifurcation"
        else:
            at, kind = _zero(free, here, low, high, lambda one: one.transverse or 0.0), "rank"
        return _recorded(_descend(to, there), Transition(at, kind, here, None))
    if here.rank == free.rank and (lower := free.lower()) is not None:
        u, s, vt = here.point
        ends = [newton(lower.at(float(b)), (u[:, :-1], s[:-1], vt[:-1])) for b in (low, high)]
        if all(end is not None for end in ends):
            first, second = (
                classified(free.at(float(b)), end) for b, end in zip((low, high), ends, strict=True) if end
            )
            if first.index == second.index == 0 and (first.transverse or 0.0) < 0 <= (second.transverse or 0.0):
                at = _zero(free, first, low, high, lambda one: one.transverse or 0.0)
                return _recorded(second, Transition(at, "rank", here, None))
    last = _last(free, here, low, high)
    if not minimisers:
        return None, Transition(last, "fold", here, None)
    return _recorded(_descend(to, here), Transition(last, "fold", here, None))


def _recorded(after: Equilibrium | None, t: Transition) -> tuple[Equilibrium | None, Transition]:
    return after, Transition(t.beta, t.kind, t.before, after)


def _crossing(there: Equilibrium) -> Callable[[Equilibrium], float]:
    """Return the function to the eigenvalue that has crossed zero, the last of the negative ones on the far side."""
    return lambda one: float(one.eigenvalues[there.index - 1])


def _zero(free: FreeEnergy, here: Equilibrium, low: float, high: float, of: Callable[[Equilibrium], float]) -> float:
    """Where a quantity vanishes on the branch of an equilibrium at ``low``."""
    known = {float(low): here}

    def value(beta: float) -> float:
        if beta not in known:
            near = min(known, key=lambda b: abs(b - beta))
            point = _advance(free, known[near].point, near, beta)
            if point is None:
                raise ValueError("the branch was lost")
            known[beta] = classified(free.at(beta), point)
        return of(known[beta])

    try:
        ends = value(float(low)), value(float(high))
        if ends[0] * ends[1] >= 0:  # it vanishes at an end, to round-off
            return float(low if abs(ends[0]) < abs(ends[1]) else high)
        return float(brentq(value, float(low), float(high), xtol=_PRECISION * low, rtol=_PRECISION))
    except ValueError:
        return float(high)


def _last(free: FreeEnergy, here: Equilibrium, low: float, high: float) -> float:
    """Last β that a branch reaches, by bisection."""
    point, good, bad = here.point, float(low), float(high)
    for _ in range(12):
        middle = (good + bad) / 2
        end = _advance(free, point, good, middle, 0)
        if end is None:
            bad = middle
        else:
            point, good = end, middle
    return good


def _descend(free: FreeEnergy, one: Equilibrium) -> Equilibrium | None:
    """Find the minimiser to which F leads down from an equilibrium, or from a point that was one."""
    u, s, vt = one.point
    if one.rank < free.rank and one.kind == "saddle" and one.index == 0:
        starts = [_opened(free, one)]
    else:
        model = _model(free, one.point)
        frame = Frame(u, s, vt, model.entropy.kernel)
        mode = local(model, frame)[2][0]
        length = _OPENING * np.sqrt(frame.inner(frame.point, frame.point))
        starts = [retract(frame, frame.split(sign * length * mode)) for sign in (1, -1)]
    ends = []
    for start in starts:
        end = settle(_model(free, start), start, float(s[0]))
        if end is None and len(start[1]) == free.rank and (lower := free.lower()) is not None:
            order = np.argsort(-start[1])[:-1]
            end = settle(lower, (start[0][:, order], start[1][order], start[2][order]), float(s[0]))
        if end is not None:
            ends.append(classified(free, end))
    ends = [end for end in ends if end.kind != "saddle"]
    return min(ends, key=lambda end: end.free_energy) if ends else None


def _opened(free: FreeEnergy, one: Equilibrium) -> Triple:
    """Open one more singular value, along the normal part of the gradient of the energy."""
    u, s, vt = one.point
    gradient = np.asarray(free.energy.euclidean_gradient(one.x))
    normal = gradient - u @ (u.T @ gradient)
    normal = normal - (normal @ vt.T) @ vt
    left = np.eye(u.shape[0]) - u @ u.T
    right = np.eye(vt.shape[1]) - vt.T @ vt
    if np.linalg.norm(normal) <= 1e-12 * np.linalg.norm(gradient):
        normal = -np.outer(np.linalg.svd(left)[0][:, 0], np.linalg.svd(right)[0][:, 0])
    p, _, qt = np.linalg.svd(-normal)
    return np.column_stack((u, p[:, 0])), np.append(s, _OPENING * s[-1]), np.vstack((vt, qt[:1]))
