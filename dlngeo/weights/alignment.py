r"""Alignment of balanced weights along their fibre: the gauge transformation that brings them closest to others.

The group ``O(d)^{N−1}`` acts by ``(Q·W)_p = Q_p W_p Q_{p−1}ᵀ``, ``Q_0 = Q_N = 1``; its orbits are the fibres of
``W ↦ X = W_N ⋯ W_1`` [1]_. Two distances can be minimised over it.

Chords
    ``Σ_p ‖Q_p W_p Q_{p−1}ᵀ − B_p‖²`` is N − 1 Procrustes problems, each coupled to its neighbours. Solving one at a
    time, ``Q_p`` being the polar factor of ``B_p Q_{p−1} W_pᵀ + B_{p+1}ᵀ Q_{p+1} W_{p+1}``, never increases it. At the
    optimum the chord is orthogonal to the fibre of W. There are local minima, hence several starts.
Geodesics
    The shortest geodesic from B to the fibre is horizontal all along [2]_, and of the length of the geodesic of ``g_N``
    between the products. Its end differs from the best chord's by the curvature, to third order in the distance, so
    that is only where the search for it begins: among horizontal velocities at B, ``d²`` unknowns, Newton's method
    finds one whose geodesic ends on the fibre.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] B. O'Neill, "The fundamental equations of a submersion", Michigan Math. J. 13 (1966).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlngeo import _check
from dlngeo._linalg import haar, nearest_orthogonal
from dlngeo.errors import GeodesicError
from dlngeo.weights.balanced import BalancedFrame, norm
from dlngeo.weights.bases import horizontal_basis
from dlngeo.weights.geodesics import BALANCED, relaxed, shoot

__all__ = ["Alignment", "act", "align", "procrustes"]

Array = NDArray[np.float64]

_STARTS, _SWEEPS, _NEWTON_STEPS = 10, 1000, 10


class Alignment(NamedTuple):
    """Weights aligned along their fibre, the gauge transformation, and the horizontal velocity that leads to them.

    ``residual`` is by how far the geodesic of that velocity misses them, relative to their norm.
    """

    weights: Array
    gauge: Array
    velocity: Array
    residual: float


def act(gauge: Any, weights: Any) -> Any:
    """Gauge transformation ``(Q_1 W_1, Q_2 W_2 Q_1ᵀ, …, W_N Q_{N−1}ᵀ)``, of orthogonal ``Q_1, …, Q_{N−1}``.

    Parameters
    ----------
    gauge : array, shape=[..., N−1, d, d]
        Orthogonal matrices.
    weights : array, shape=[..., N, d, d]
        Weights.

    Returns
    -------
    array, shape=[..., N, d, d]
        Weights of the same product and, turned by the Q, the same imbalance.
    """
    xp, q, w = _check.floating(gauge, weights)
    depth, layers = w.shape[-3], []
    if depth == 1:
        return w + xp.sum(q, axis=-3, keepdims=True)  # of no terms, but of the shape of the batch
    for p in range(depth):
        layer = w[..., p, :, :]
        layer = layer if p == depth - 1 else q[..., p, :, :] @ layer
        layers.append(layer if p == 0 else layer @ q[..., p - 1, :, :].mT)
    return xp.stack(layers, axis=-3)


def procrustes(weights: Array, base: Array, gauge: Array) -> Array:
    """Turn weights along their fibre to the nearest chord from others, by alternating Procrustes problems.

    Parameters
    ----------
    weights, base : array, shape=[N, d, d]
        Balanced weights to turn, and to turn them to.
    gauge : array, shape=[..., N−1, d, d]
        Orthogonal matrices to start from; their determinants are kept.

    Returns
    -------
    array, shape=[..., N−1, d, d]
        Orthogonal matrices, local optima.
    """
    depth = len(weights)
    signs = np.linalg.det(gauge)
    one = np.broadcast_to(np.eye(weights.shape[-1]), (*gauge.shape[:-3], *weights.shape[-2:]))
    q = [one, *np.moveaxis(gauge, -3, 0), one]
    for _ in range(_SWEEPS):
        change = 0.0
        for p in range(1, depth):
            pull = base[p - 1] @ q[p - 1] @ weights[p - 1].T + base[p].T @ q[p + 1] @ weights[p]
            last, q[p] = q[p], nearest_orthogonal(pull, signs[..., p - 1])
            change = max(change, float(np.abs(q[p] - last).max()))
        if change < 1e-13:
            break
    return np.stack(q[1:-1], axis=-3) if depth > 1 else gauge


def align(weights: Array, base: Array, tolerance: float = 1e-11) -> Alignment:
    """Turn weights along their fibre to the end of a shortest geodesic from others.

    Parameters
    ----------
    weights, base : array, shape=[N, d, d]
        Balanced weights of full rank to turn, and to turn them to.
    tolerance : float
        Largest distance of the end of the geodesic from the fibre, relative to the norm of the weights.

    Returns
    -------
    Alignment
        Of the local optima found from several starts, of a fixed seed, the one with the shortest geodesic.

    Raises
    ------
    GeodesicError
        If the products have determinants of opposite signs, or no horizontal geodesic to the fibre is found.
    """
    starts = _starts(weights, base)
    gauges = procrustes(weights, base, starts)
    chords = norm(act(gauges, weights) - base)
    best: Alignment | None = None
    failure: GeodesicError | None = None
    shorter = -1.0
    for i in np.argsort(chords):
        # The same optimum is found from many starts. One with a longer chord than the best geodesic is no candidate.
        if chords[i] - shorter <= 1e-6 * chords[i] or (best is not None and norm(best.velocity) <= chords[i]):
            continue
        shorter = chords[i]
        try:
            found = _refine(weights, base, gauges[i], tolerance)
        except GeodesicError as error:
            failure = error
            continue
        if best is None or norm(found.velocity) < norm(best.velocity):
            best = found
    if best is None:
        assert failure is not None
        raise failure
    return best


def _starts(weights: Array, base: Array) -> Array:
    depth, d = weights.shape[:2]
    signs = np.cumprod(np.sign(np.linalg.det(weights)) * np.sign(np.linalg.det(base)))
    if signs[-1] < 0:
        raise GeodesicError(
            "the determinants of the two products have opposite signs, and no path of invertible matrices joins them; "
            "change the sign of a row of one.",
            status="disconnected",
        )
    starts = haar(np.random.default_rng(0), (_STARTS, depth - 1, d, d))
    return nearest_orthogonal(starts, signs[:-1])


def _refine(weights: Array, base: Array, gauge: Array, tolerance: float) -> Alignment:
    """Find the horizontal geodesic that ends on the fibre near a given point of it, by Newton's method."""
    frame = BalancedFrame(base)
    chord = act(gauge, weights)
    try:
        return _arrive(weights, frame, gauge, frame.horizontal(chord - base), tolerance)
    except GeodesicError:
        return _arrive(weights, frame, gauge, frame.horizontal(relaxed(base, chord, BALANCED)), tolerance)


def _arrive(weights: Array, frame: BalancedFrame, gauge: Array, velocity: Array, tolerance: float) -> Alignment:
    """Correct a horizontal velocity until its geodesic ends on the fibre of the weights.

    The fibre is followed as the end moves, by turning the weights to the end; what is left is horizontal there. See
    :func:`dlngeo.weights.geodesics.connect` for the Jacobian.
    """
    base, scale = frame.weights, float(norm(weights))
    basis, residual, jacobian = horizontal_basis(frame), np.inf, None
    for _ in range(_NEWTON_STEPS):
        [end], _ = shoot(base, velocity, BALANCED, tolerance=0.01 * tolerance)
        gauge = procrustes(weights, end, gauge)
        missing = act(gauge, weights) - end
        previous, residual = residual, float(norm(missing)) / scale
        if residual <= tolerance:
            return Alignment(act(gauge, weights), gauge, velocity, residual)
        if residual > previous:
            break
        if jacobian is None or residual > 0.1 * previous:
            test = horizontal_basis(BalancedFrame(end))
            step = 1e-6 * max(float(norm(velocity)), 1e-3 * scale)
            fan = np.concatenate([velocity[None], velocity + step * basis])
            [ends], _ = shoot(np.broadcast_to(base, fan.shape), fan, BALANCED, tolerance=1e-9)
            jacobian = np.einsum("apij,bpij->ab", test, ends[1:] - ends[0]) / step
        change = np.linalg.lstsq(jacobian, np.einsum("apij,pij->a", test, missing), rcond=None)[0]
        velocity = velocity + np.tensordot(change, basis, 1)
    raise GeodesicError(
        "no horizontal geodesic to the fibre was found (status: not converged, "
        f"relative residual {residual:.1e}). The products may be far apart, or the shortest path between them may "
        "pass a singular matrix; go through an intermediate point.",
        status="not converged",
        residual=residual,
    )
