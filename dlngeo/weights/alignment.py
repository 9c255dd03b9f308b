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

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlngeo import _check
from dlngeo._linalg import haar, nearest_orthogonal
from dlngeo.errors import GeodesicError
from dlngeo.shooting import Connecting, newton, not_converged, search
from dlngeo.weights.balanced import BalancedFrame, norm
from dlngeo.weights.bases import horizontal_basis
from dlngeo.weights.geodesics import BALANCED, relaxed
from dlngeo.weights.network import Weights, layers_of, stack_like

__all__ = ["Alignment", "act", "align", "nearest_chords", "procrustes"]

Array = NDArray[np.float64]

# A third of the random starts lead to the best alignment where there are two, in the hardest case known.
_STARTS, _SWEEPS = 10, 1000
_HORIZONTAL = replace(BALANCED, basis_at=lambda w: horizontal_basis(BalancedFrame(w)))


class Alignment(NamedTuple):
    """Weights aligned along their fibre, the gauge transformation, and the horizontal velocity that leads to them.

    ``residual`` is by how far the geodesic of that velocity misses them, relative to their norm.

    See Also
    --------
    dlngeo.weights.alignment.align
    dlngeo.weights.alignment.act

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.alignment import act, align
    >>> weights, base = (np.stack(balanced_weights(np.diag(s), 2)) for s in ([4.0, 9.0], [1.0, 1.0]))
    >>> found = align(weights, base)
    >>> bool(np.allclose(act(found.gauge, weights), found.weights)), found.residual < 1e-10
    (True, True)
    """

    weights: Array
    gauge: Array
    velocity: Array
    residual: float


def act(gauge: Any, weights: Weights) -> Any:
    """Gauge transformation ``(Q_1 W_1, Q_2 W_2 Q_1ᵀ, …, W_N Q_{N−1}ᵀ)``, of orthogonal ``Q_1, …, Q_{N−1}``.

    The product stays, and so does the imbalance, turned by the Q. They are stacked, shape=[..., N−1, d, d], and all
    inner widths are d.

    See Also
    --------
    dlngeo.weights.alignment.procrustes
    dlngeo.geomstats.GaugeAction

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import end_to_end
    >>> from dlngeo.weights.alignment import act
    >>> weights, turn = [np.diag([1.0, 2.0]), np.ones((2, 2))], np.array([[[0.0, -1.0], [1.0, 0.0]]])
    >>> act(turn, weights)[0]
    array([[ 0., -2.],
           [ 1.,  0.]])
    >>> bool(np.allclose(end_to_end(act(turn, weights)), end_to_end(weights)))
    True
    """
    xp, q, *layers = _check.floating(gauge, *layers_of(weights))
    last = len(layers) - 1
    if last == 0:  # of no terms, but of the shape of the batch
        layers = [layers[0] + xp.zeros(q.shape[:-3], dtype=q.dtype)[..., None, None]]
    for p in range(last):
        layers[p] = q[..., p, :, :] @ layers[p]
        layers[p + 1] = layers[p + 1] @ q[..., p, :, :].mT
    return stack_like(weights, layers)


def procrustes(weights: Weights, base: Weights, gauge: Array) -> Array:
    """Turn weights along their fibre to the nearest chord from others, by alternating Procrustes problems.

    Each start of ``gauge``, shape=[..., N−1, d, d], orthogonal matrices whose determinants are kept, leads to a local
    optimum, which is returned. All inner widths are d.

    See Also
    --------
    dlngeo.weights.alignment.act
    dlngeo.weights.alignment.nearest_chords

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.alignment import act, procrustes
    >>> base, turn = [np.diag([1.0, 2.0]), np.diag([1.0, 2.0])], np.array([[[0.6, -0.8], [0.8, 0.6]]])
    >>> turned = act(turn, base)
    >>> back = procrustes(turned, base, np.eye(2)[None])
    >>> bool(np.allclose(back, turn.mT)), bool(np.allclose(act(back, turned), base))
    (True, True)
    """
    w, b = layers_of(weights), layers_of(base)
    depth, signs = len(w), np.linalg.det(gauge)
    if depth == 1:
        return gauge
    sizes = w[0].shape[1], w[-1].shape[0]
    first, last = (np.broadcast_to(np.eye(size), (*gauge.shape[:-3], size, size)) for size in sizes)
    q = [first, *np.moveaxis(gauge, -3, 0), last]
    for _ in range(_SWEEPS):
        change = 0.0
        for p in range(1, depth):
            pull = b[p - 1] @ q[p - 1] @ w[p - 1].T + b[p].T @ q[p + 1] @ w[p]
            before, q[p] = q[p], nearest_orthogonal(pull, signs[..., p - 1])
            change = max(change, float(np.abs(q[p] - before).max()))
        if change < 1e-13:
            break
    return np.stack(q[1:-1], axis=-3)


def nearest_chords(weights: Weights, base: Weights, signs: Array) -> tuple[Array, Array]:
    """Turn weights to others by :func:`procrustes` from several starts, of a fixed seed, since there are local minima.

    Given the signs of the determinants of the orthogonal matrices, shape=[N−1], these are returned,
    shape=[n, N−1, d, d], with the lengths of the chords, shape=[n].

    See Also
    --------
    dlngeo.weights.alignment.procrustes
    dlngeo.weights.alignment.align

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.alignment import nearest_chords
    >>> weights, base = [np.diag([2.0, 3.0])] * 2, [np.eye(2)] * 2
    >>> gauges, chords = nearest_chords(weights, base, np.ones(1))
    >>> bool(np.isclose(chords.min(), np.sqrt(2 * (1**2 + 2**2))))
    True
    """
    inner_width = layers_of(weights)[0].shape[0]
    starts = haar(np.random.default_rng(0), (_STARTS, len(signs), inner_width, inner_width))
    gauges = procrustes(weights, base, nearest_orthogonal(starts, signs))
    pairs = zip(layers_of(act(gauges, weights)), layers_of(base), strict=True)
    return gauges, norm([turned - b for turned, b in pairs])


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

    See Also
    --------
    dlngeo.weights.alignment.nearest_chords
    dlngeo.weights.network.horizontal_lift

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.alignment import align
    >>> from dlngeo.weights.balanced import norm
    >>> weights, base = (np.stack(balanced_weights(np.diag(s), 2)) for s in ([4.0, 9.0], [1.0, 1.0]))
    >>> found = align(weights, base)
    >>> bool(np.isclose(norm(found.velocity) ** 2, 2 * (1**2 + 2**2)))  # twice that of Bures and Wasserstein
    True
    """
    signs = np.cumprod(np.sign(np.linalg.det(weights)) * np.sign(np.linalg.det(base)))
    if signs[-1] < 0:
        raise GeodesicError(
            "the determinants of the two products have opposite signs, and no path of invertible matrices joins them; "
            "change the sign of a row of one.",
            status="disconnected",
        )
    gauges, chords = nearest_chords(weights, base, signs[:-1])
    best: Alignment | None = None
    failure, shorter = not_converged("there is nothing to try"), -1.0
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
        raise failure
    return best


def _refine(weights: Array, base: Array, gauge: Array, tolerance: float) -> Alignment:
    """Find the horizontal geodesic that ends on the fibre near a given point of it.

    The fibre is followed as the end moves, by turning the weights to the end; what is left is horizontal there.
    """
    turned, chord = gauge, act(gauge, weights)

    def nearest_on_fibre(end: Array) -> Array:
        nonlocal turned
        turned = procrustes(weights, end, turned)
        return act(turned, weights)

    def attempt(guess: Callable[[], Array]) -> Connecting:
        nonlocal turned
        turned = gauge
        return newton(base, nearest_on_fibre, guess(), _HORIZONTAL, tolerance)

    guesses = (lambda: chord - base), (lambda: relaxed(base, chord, BALANCED))
    found = search(((np.inf, partial(attempt, guess)) for guess in guesses), tolerance)
    return Alignment(act(turned, weights), turned, found.velocity, found.residual)
