r"""Geodesics of manifolds of weights in the flat space of all weights, from a velocity and between two points.

Geodesics solve ``Ẅ = II(Ẇ, Ẇ)`` with the second fundamental form of the manifold. :mod:`dlngeo.shooting` integrates
them, and their ends are projected to the manifold, off which they have drifted by the integrator's error. Between two
points, the search starts from the projected chord, and then from a path between the points that has been shortened to
almost a geodesic.

The surfaces here are of stacked weights in NumPy, shape=[..., N, d, d]; :mod:`dlngeo.geomstats` brings other backends
to them. :func:`shoot_balanced` and :func:`connect_balanced` are geodesics of balanced weights of any widths and rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from dlngeo._linalg import nearest_orthogonal, rotation_between, span
from dlngeo.errors import GeodesicError
from dlngeo.shooting import (
    Attempt,
    Path,
    Surface,
    at,
    connect,
    conserved,
    length,
    newton,
    not_converged,
    shoot,
)
from dlngeo.weights.balanced import BalancedFrame, inner, norm
from dlngeo.weights.bases import tangent_basis
from dlngeo.weights.network import Weights, layers_of, stack_like
from dlngeo.weights.projections import nearest, snap
from dlngeo.weights.unbalanced import LeafFrame, nearby

__all__ = [
    "BALANCED",
    "WeightSurface",
    "balanced",
    "balanced_weights_path",
    "connect_balanced",
    "leaf",
    "relaxed",
    "shoot_balanced",
]

Array = NDArray[np.float64]

# The rough geodesic that Newton's method starts from.
_NODES, _SWEEPS, _OVER_RELAXATION = 16, 100, 1.6


@dataclass(frozen=True)
class WeightSurface(Surface):
    """A manifold of stacked weights with the metric of the flat space of all weights.

    Attributes
    ----------
    frame : callable
        Weights → an object with ``tangent`` and ``second_fundamental_form``, for a batch.
    basis_at : callable
        Weights, one point → orthonormal basis of the tangent space, shape=[dim, N, d, d].
    project : callable
        Weights close to the manifold → weights on it.
    retract : callable
        The same, but cheap, and only continuous in the normal part: it fixes the manifold, and keeps tangent steps to
        first order.
    path : callable
        Two points → a path between them, a function of times; raises :class:`~dlngeo.errors.GeodesicError` if there
        is none.
    crossing : callable
        Weights at two times → whether a geodesic passes between them a singular layer, where it ends.

    See Also
    --------
    dlngeo.weights.geodesics.balanced
    dlngeo.weights.geodesics.leaf

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.geodesics import BALANCED
    >>> weights = np.stack(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> velocity = BALANCED.frame(weights).tangent(np.ones((3, 2, 2)))
    >>> bend = BALANCED.acceleration(weights, velocity)
    >>> bool(np.linalg.norm(bend) > 0.1), bool(np.allclose(BALANCED.frame(weights).tangent(bend), 0))
    (True, True)
    """

    frame: Callable[[Array], Any]
    basis_at: Callable[[Array], Array]
    project: Callable[[Array], Array]
    retract: Callable[[Array], Array]
    path: Callable[[Array, Array], Path]
    crossing: Callable[[Array, Array], bool]
    point_ndim = 3

    def acceleration(self, x: Array, v: Array) -> Array:
        """Second fundamental form ``II(V, V)``."""
        return self.frame(x).second_fundamental_form(v, v)

    def inner(self, x: Array, v: Array, w: Array) -> Array:
        """Inner product of the flat space."""
        return inner(v, w)

    def crossed(self, before: Array, after: Array) -> bool:
        """Whether a layer becomes singular between two points."""
        return self.crossing(before, after)

    def settle(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Projections to the manifold and its tangent space."""
        points = self.project(x)
        return points, self.frame(points).tangent(v)

    def basis(self, x: Array) -> tuple[Array, Array]:
        """Orthonormal basis in which velocities are sought, its own dual."""
        basis = self.basis_at(x)
        return basis, basis

    def attempts(self, x0: Array, x1: Array, tolerance: float) -> Iterator[tuple[float, Attempt]]:
        """Newton's method from the chord, then from a shortened path."""
        bound = length(self.path(x0, x1), self)
        yield bound, lambda: newton(x0, at(x1), x1 - x0, self, tolerance)
        yield bound, lambda: newton(x0, at(x1), relaxed(x0, x1, self), self, tolerance)


def balanced(rank: int | None = None, widths: Sequence[int] | None = None) -> WeightSurface:
    """Balanced weights of a rank, by default the width; see :mod:`dlngeo.weights.balanced`.

    Between weights of other ``widths`` or rank, filled up with zeros to be square, geodesics are sought among such.

    A geodesic ends at a layer of lower rank. The equation is smooth across a singular value that vanishes, since the
    manifold goes on there as an immersed one, with a negative λ. But the partial isometry of every layer jumps, by a
    half turn; in a step that resolves the geodesic it turns by far less than a right angle, which makes the r largest
    singular values of the sum of both at least √2.

    See Also
    --------
    dlngeo.weights.geodesics.leaf
    dlngeo.weights.geodesics.shoot_balanced

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, imbalance
    >>> from dlngeo.shooting import shoot
    >>> from dlngeo.weights.geodesics import balanced
    >>> weights = np.stack(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> velocity = 0.2 * balanced().frame(weights).tangent(np.ones((3, 2, 2)))
    >>> [end], _ = shoot(weights, velocity, balanced())
    >>> bool(np.allclose(imbalance(end), 0)), bool(np.allclose(imbalance(weights + velocity), 0))
    (True, False)
    """
    return WeightSurface(
        frame=partial(BalancedFrame, rank=rank),
        basis_at=partial(_balanced_basis, rank=rank, widths=widths),
        project=partial(nearest, rank=rank),
        retract=partial(snap, rank=rank),
        path=balanced_weights_path if widths is None else partial(_frames_path, rank=rank, widths=widths),
        crossing=partial(_turns, rank=rank),
    )


def _balanced_basis(weights: Array, rank: int | None, widths: Sequence[int] | None) -> Array:
    if widths is None:
        return tangent_basis(BalancedFrame(weights, rank))
    return _filled(tangent_basis(BalancedFrame(_cut(weights, widths), rank)), weights.shape[-1])


def _filled(layers: Weights, size: int) -> Array:
    """Stack of square layers, shape=[..., N, size, size], filled up with zeros."""
    widths = [((0, size - w.shape[-2]), (0, size - w.shape[-1])) for w in layers_of(layers)]
    parts = zip(layers_of(layers), widths, strict=True)
    return np.stack([np.pad(w, [(0, 0)] * (w.ndim - 2) + list(width)) for w, width in parts], axis=-3)


def _cut(stack: Array, widths: Sequence[int]) -> list[Array]:
    """Layers of given widths: the inverse of :func:`_filled`."""
    return [stack[..., p, :upper, :lower] for p, (lower, upper) in enumerate(pairwise(widths))]


def _turns(before: Array, after: Array, rank: int | None) -> bool:
    r = slice(before.shape[-1] if rank is None else rank)
    factors = (np.linalg.svd(weights[..., 0, :, :]) for weights in (before, after))
    total = sum(u[..., :, r] @ vt[..., r, :] for u, _, vt in factors)
    return bool(np.any(np.linalg.svd(total, compute_uv=False)[..., r] < np.sqrt(2)))


def leaf(imbalance: Array) -> WeightSurface:
    """Leaf of weights of the given imbalance, shape=[N−1, d, d]; see :mod:`dlngeo.weights.unbalanced`.

    A geodesic that goes straight through a singular point of a leaf, as it can if some ``G_p`` is singular, is followed
    beyond it.

    See Also
    --------
    dlngeo.weights.geodesics.balanced
    dlngeo.geomstats.UnbalancedMatrices

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import imbalance
    >>> from dlngeo.shooting import shoot
    >>> from dlngeo.weights.geodesics import leaf
    >>> weights = np.array([[[1.0, 0.5], [0.0, 1.0]], [[2.0, 0.0], [1.0, 1.0]]])
    >>> surface = leaf(imbalance(weights))
    >>> velocity = 0.2 * surface.frame(weights).tangent(np.ones((2, 2, 2)))
    >>> [end], _ = shoot(weights, velocity, surface)
    >>> bool(np.allclose(imbalance(end), imbalance(weights)))
    True
    """
    project = partial(nearby, target=imbalance)
    return WeightSurface(LeafFrame, _leaf_basis, project, project, partial(_chord, project), _never)


def _leaf_basis(weights: Array) -> Array:
    return LeafFrame(weights).tangent_basis()


def _never(before: Array, after: Array) -> bool:
    return False


def _chord(project: Callable[[Array], Array], w0: Array, w1: Array) -> Path:
    def points(t: Array) -> Array:
        try:
            return project(w0 + t[:, None, None, None] * (w1 - w0))
        except ValueError as error:
            raise not_converged(f"the chord cannot be projected to the leaf ({error})") from None

    return points


def shoot_balanced(frame: BalancedFrame, vectors: Weights, tolerance: float = 1e-12) -> Weights:
    r"""Follow the geodesic from balanced weights of any widths with a given velocity for unit time.

    Let ``B_p`` have orthonormal columns that span those of ``Q_p`` and, in the frames of the layers on either side of
    it, of the parts ``L_p`` and ``R_{p+1}`` of the velocity, which agree where there are both. Reflections
    ``2 B_p B_pᵀ − 1`` of the widths are isometries that fix the point and the velocity, and so the whole geodesic: it
    is ``B_p Y_p B_{p−1}ᵀ``, of weights Y of widths at most 2r. It costs O(N d r²) and a problem of that size.

    Weights are of NumPy, without batch axes. The tolerance is the local error of the integration, relative to the size
    of weights and velocity.

    Raises
    ------
    GeodesicError
        If the geodesic runs into weights of lower rank before unit time (status ``"singular"``), or if its energy at
        the end is not that at the start to 1e-6 (status ``"not converged"``).

    See Also
    --------
    dlngeo.weights.geodesics.connect_balanced
    dlngeo.weights.projections.retract

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.geodesics import shoot_balanced
    >>> weights = balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), (2, 3, 2), rng=0)
    >>> end = shoot_balanced(BalancedFrame(weights), weights)  # along the ray, as the balanced weights are a cone
    >>> all(np.allclose(a, 2 * b) for a, b in zip(end, weights))
    True
    """
    parts = frame.split(vectors)
    bases = [span(q, side) for q, side in zip(frame.q, [parts.rights[0], *parts.lefts], strict=True)]
    state = np.stack([_reduced(layers, bases) for layers in (frame.weights, vectors)])
    [end], [velocity] = shoot(state[0], state[1], balanced(frame.rank), tolerance=tolerance)
    conserved(*(float(inner(v, v)) for v in (state[1], velocity)))
    return stack_like(frame.weights, _restored(end, bases))


def connect_balanced(start: BalancedFrame, end: BalancedFrame, tolerance: float = 1e-10) -> tuple[list[Array], float]:
    """Find a geodesic between balanced weights of the same widths and rank: its initial velocity, and its length.

    A geodesic that is the only shortest one is fixed by the reflections of :func:`shoot_balanced`, of bases that span
    the columns of both ``Q_p``: it is one of weights of widths at most 2r. The tolerance and what is raised are those
    of :func:`dlngeo.shooting.connect`. Weights are of NumPy, without batch axes.

    See Also
    --------
    dlngeo.weights.geodesics.shoot_balanced
    dlngeo.weights.alignment.align

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame, norm
    >>> from dlngeo.weights.geodesics import connect_balanced
    >>> weights = balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), (2, 3, 2), rng=0)
    >>> start, end = BalancedFrame(weights), BalancedFrame([2 * w for w in weights])
    >>> velocity, length = connect_balanced(start, end)  # along the ray, as the balanced weights are a cone
    >>> all(np.allclose(v, w) for v, w in zip(velocity, weights)), bool(np.isclose(length, norm(weights)))
    (True, True)
    """
    r = start.rank
    bases = [span(a, None if len(a) == r else b) for a, b in zip(start.q, end.q, strict=True)]
    x0, x1 = (_reduced(frame.weights, bases) for frame in (start, end))
    widths = [b.shape[1] for b in bases]
    surface = balanced(r, widths if max(widths) > r else None)
    found = connect(x0, x1, surface, tolerance)
    return _restored(found.velocity, bases), found.length


def _reduced(layers: Weights, bases: list[Array]) -> Array:
    """Weights in bases of their columns, filled up to be square."""
    small = [b.T @ w @ a for w, (a, b) in zip(layers_of(layers), pairwise(bases), strict=True)]
    return _filled(small, max(b.shape[1] for b in bases))


def _restored(stack: Array, bases: list[Array]) -> list[Array]:
    layers = _cut(stack, [b.shape[1] for b in bases])
    return [b @ w @ a.T for w, (a, b) in zip(layers, pairwise(bases), strict=True)]


def relaxed(w0: Array, w1: Array, surface: WeightSurface) -> Array:
    """Return the initial velocity of a rough geodesic: a path whose points move to the middle of their neighbours.

    Even and odd points move in turn, by more than the whole way, which takes sweeps in proportion to the number of
    points (successive over-relaxation). Steps are tangent, so that a cheap way back to the manifold does.

    See Also
    --------
    dlngeo.weights.geodesics.balanced_weights_path
    dlngeo.weights.geodesics.connect_balanced

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.geodesics import BALANCED, relaxed
    >>> weights = np.stack(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> bool(np.allclose(relaxed(weights, 2 * weights, BALANCED), weights, atol=0.01))
    True
    """
    points = surface.path(w0, w1)(np.linspace(0, 1, _NODES + 1))
    size = float(norm(points).max())
    for _ in range(_SWEEPS):
        largest = 0.0
        for first in (1, 2):
            i = np.arange(first, _NODES, 2)
            step = surface.frame(points[i]).tangent((points[i - 1] + points[i + 1]) / 2 - points[i])
            points[i] = surface.retract(points[i] + _OVER_RELAXATION * step)
            largest = max(largest, float(norm(step).max()))
        if largest < 1e-4 * size:
            break
    whole = float(norm(np.diff(points, axis=0)).sum())
    slope = surface.frame(points[0]).tangent(-11 * points[0] + 18 * points[1] - 9 * points[2] + 2 * points[3])
    return slope * (whole / norm(slope))


def balanced_weights_path(w0: Array, w1: Array) -> Path:
    """Path of balanced weights, ``W_p = O_p S_{p−1}`` with ``S_p = O_p S_{p−1} O_pᵀ``: S moves linearly, each O turns.

    The polar factors ``O_1, …, O_N`` of the layers and the positive ``S_0`` are coordinates on all balanced weights of
    full rank, which so are ``SPD(d) × O(d)^N``: their components are told apart by the signs of ``det W_p``.

    Raises
    ------
    GeodesicError
        If a determinant changes sign between the points.

    See Also
    --------
    dlngeo.weights.geodesics.relaxed
    dlngeo.matrices.paths.connecting_paths

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import imbalance
    >>> from dlngeo.weights.geodesics import balanced_weights_path
    >>> turn, root = np.array([[0.6, -0.8], [0.8, 0.6]]), np.diag([2.0, 3.0])
    >>> start, end = np.stack([np.eye(2)] * 2), np.stack([turn @ root, root @ turn.T])
    >>> middle = balanced_weights_path(start, end)(np.array([0.5]))
    >>> bool(np.allclose(imbalance(middle), 0)), bool(np.all(np.linalg.det(middle) > 0))
    (True, True)
    """
    signs = [np.sign(np.linalg.det(w)) for w in (w0, w1)]
    if np.any(signs[0] != signs[1]):
        raise _disconnected(f"layer {int(np.flatnonzero(signs[0] != signs[1])[0]) + 1}")
    ends = ((polar(a)[0], polar(b)[0]) for a, b in zip(w0, w1, strict=True))
    turns = [(o0, rotation_between(o0, o1)) for o0, o1 in ends]
    s0, s1 = (polar(w[0])[1] for w in (w0, w1))

    def path(t: Array) -> Array:
        s = (1 - t[:, None, None]) * s0 + t[:, None, None] * s1
        layers = []
        for o0, turn in turns:
            o = o0 @ turn(t)
            layers.append(o @ s)
            s = o @ s @ o.swapaxes(-1, -2)
        points = np.stack(layers, axis=-3)
        points[t == 0], points[t == 1] = w0, w1
        return points

    return path


def _disconnected(what: str) -> GeodesicError:
    return GeodesicError(
        f"the determinants of {what} of the two points have opposite signs, and no path of invertible layers joins "
        "them. Align one point to the other along its fibre, if their products have determinants of the same sign.",
        status="disconnected",
    )


def _frames_path(w0: Array, w1: Array, rank: int | None, widths: Sequence[int]) -> Path:
    """Path of balanced weights ``Q_p S Q_{p−1}ᵀ`` of any widths: the positive S moves linearly, each ``Q_p`` turns.

    Frames have the symmetry ``Q_p ↦ Q_p H`` with an orthogonal H, by which those of ``w1`` are brought close to those
    of ``w0``. A square one turns only if its determinant keeps its sign.

    Raises
    ------
    GeodesicError
        If a determinant changes sign between the points.
    """
    start, end = (BalancedFrame(_cut(w, widths), rank) for w in (w0, w1))
    r, pairs = start.rank, list(zip(start.q, end.q, strict=True))
    fixed = [(p, np.sign(np.linalg.det(a) * np.linalg.det(b))) for p, (a, b) in enumerate(pairs) if len(a) == r]
    for (i, sign), (j, other) in pairwise(fixed):
        if sign != other:
            raise _disconnected(f"layer {j}" if j == i + 1 else f"the product of layers {i + 1} to {j}")
    gauge = nearest_orthogonal(sum(b.T @ a for a, b in pairs), fixed[0][1] if fixed else 0)
    turns = [_turning(a, b @ gauge) for a, b in pairs]
    s0, s1 = np.diag(start.lam), (gauge.T * end.lam) @ gauge

    def path(t: Array) -> Array:
        s = (1 - t[:, None, None]) * s0 + t[:, None, None] * s1
        frames = [turn(t) for turn in turns]
        points = _filled([b @ s @ a.swapaxes(-1, -2) for a, b in pairwise(frames)], w0.shape[-1])
        points[t == 0], points[t == 1] = w0, w1
        return points

    return path


def _turning(a: Array, b: Array) -> Path:
    """Path of frames with r orthonormal columns, by rotations; for square ones of one orientation."""
    r = a.shape[1]
    rest0, rest1 = (np.linalg.qr(q, mode="complete")[0][:, r:] for q in (a, b))
    if rest0.size:
        sign = np.linalg.det(np.hstack((a, rest0))) * np.linalg.det(np.hstack((b, rest1)))
        rest1 = rest1 @ nearest_orthogonal(rest1.T @ rest0, sign)
    full = np.hstack((a, rest0))
    turn = rotation_between(full, np.hstack((b, rest1)))
    return lambda t: full @ turn(t)[..., :r]


BALANCED = balanced()
