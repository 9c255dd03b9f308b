"""Ways onto the manifold of balanced weights: a cheap one, the metric projection, and a second-order retraction.

Weights and vectors are sequences of arrays, shape=[..., d_p, d_{p−1}], or an array, shape=[..., N, d, d], and returned
in the form that was given. The rank r defaults to the least width.

References
----------
.. [1] P.-A. Absil, J. Malick, "Projection-like retractions on matrix manifolds", SIAM J. Optim. 22 (2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

from dlngeo import _check
from dlngeo._linalg import adjoint
from dlngeo.weights.balanced import BalancedFrame, norm
from dlngeo.weights.network import Weights, layers_of, stack_like, widths
from dlngeo.weights.offsets import offset_imbalance
from dlngeo.weights.unbalanced import LeafFrame, nearby

__all__ = ["nearest", "retract", "snap"]


def snap(weights: Weights, rank: int | None = None) -> Weights:
    """Map weights to balanced ones nearby: the identity on balanced weights of rank r, and smooth around them.

    Layer after layer the polar decomposition ``W_p Q_{p−1} = Q_p S_p`` carries an orthonormal frame through the
    network; the mean S of the ``S_p`` gives balanced ``Q_p S Q_{p−1}ᵀ``. See :func:`nearest` for the metric projection.

    See Also
    --------
    dlngeo.weights.projections.nearest
    dlngeo.weights.network.rebalance

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, imbalance
    >>> from dlngeo.weights.projections import snap
    >>> weights = np.stack(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> bool(np.allclose(snap(weights), weights)), bool(np.allclose(imbalance(snap(weights + 0.1)), 0))
    (True, True)
    """
    layers = layers_of(weights, "complex")
    xp = _check.floating(layers[0], field="complex")[0]
    least = min(widths(layers))
    rank = least if rank is None else _check.rank(rank, least, least)
    frames = [adjoint(xp.linalg.svd(layers[0], full_matrices=False)[2][..., :rank, :])]
    total = 0.0
    for w in layers:
        u, s, vt = xp.linalg.svd(w @ frames[-1], full_matrices=False)
        frames.append(u @ vt)
        total = total + (adjoint(vt) * s[..., None, :]) @ vt
    mean = total / len(layers)
    return stack_like(weights, [upper @ mean @ adjoint(lower) for lower, upper in pairwise(frames)])


def nearest(
    weights: Weights,
    rank: int | None = None,
    tolerance: float = 1e-14,
    max_iterations: int = 200,
    *,
    offsets: Iterable[float] | None = None,
) -> Weights:
    """Project weights to the nearest balanced ones, in the Frobenius norm of all layers.

    From :func:`snap`, the tangent part of the remaining difference is followed until it vanishes; the convergence is
    linear, with the ratio of the distance to the radius of curvature, about ``2λ_min``, of the manifold.

    Parameters
    ----------
    tolerance : float
        Bound on the norm of the tangent part, relative to that of the weights.
    max_iterations : int
        Steps after which to give up.
    offsets : iterable of float, shape=[N], optional
        The nearest weights with ``W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ = (c_{p+1} − c_p) I`` instead, see
        :func:`dlngeo.balanced_weights`. In place of :func:`snap` they are met by Newton's method,
        :func:`dlngeo.weights.unbalanced.nearby`; the rank is left free, and the end must be a regular point.

    Raises
    ------
    ValueError
        If the steps do not converge, which they do near the manifold; or with both a rank and offsets.

    See Also
    --------
    dlngeo.weights.projections.snap
    dlngeo.weights.network.rebalance

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.projections import nearest
    >>> [w.round(4) for w in nearest([np.full((1, 1), 1.0), np.full((1, 1), 3.0)])]  # on the line of equal numbers
    [array([[2.]]), array([[2.]])]
    """
    layers = layers_of(weights, "complex")
    xp = _check.floating(layers[0], field="complex")[0]
    size = norm(layers)
    settle: Callable[[Weights], Weights] = partial(snap, rank=rank)
    frame_at: Callable[[Weights], Any] = partial(BalancedFrame, rank=rank)
    if offsets is not None:
        if rank is not None:
            raise ValueError(f"offsets leave the rank free, got rank {rank}; leave it out.")
        settle, frame_at = partial(nearby, target=offset_imbalance(offsets, layers)), LeafFrame
    point = settle(layers)
    last = xp.zeros_like(size) + math.inf
    for _ in range(max_iterations):
        step = frame_at(point).tangent([w - y for w, y in zip(layers, point, strict=True)])
        length = norm(step)
        # Below the square root of the tolerance, a step that no longer shrinks has met round-off.
        done = (length <= tolerance * size) | ((length <= tolerance**0.5 * size) & (length >= last / 2))
        if bool(xp.all(done)):
            return stack_like(weights, point)
        last = length
        point = settle([y + v for y, v in zip(point, step, strict=True)])
    raise ValueError(
        f"the projection to balanced weights did not converge in {max_iterations} steps: the tangent part is "
        f"{float(xp.max(length / size)):.1e} of the weights. Only weights near the manifold have a nearest point that "
        "can be found so; rebalance them by their product first (dlngeo.weights.network.rebalance)."
    )


def retract(frame: BalancedFrame, vectors: Weights) -> Weights:
    """Move from balanced weights along a tangent vector, to second order in its length.

    :func:`snap` of ``W + V + c ½ II(V, V)``, the geodesic to second order, with ``c = 1/(1 + ρ²)`` and
    ``ρ = ‖½ II(V, V)‖/‖V‖``. As ρ is of first order, c changes the bend at fourth order only; but a step that is longer
    than the radius of curvature, such as a line search may try, is not thrown off by a bend that grows with its square.
    The error against the geodesic is of third order, as that of :func:`snap` at a distance of third order from the
    manifold is.

    See Also
    --------
    dlngeo.weights.geodesics.shoot_balanced
    dlngeo.weights.projections.snap

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.geodesics import shoot_balanced
    >>> from dlngeo.weights.projections import retract
    >>> frame = BalancedFrame(np.stack(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0)))
    >>> steps = [h * frame.tangent(np.stack([np.eye(2), np.ones((2, 2)), np.diag([1.0, 0.0])])) for h in (0.02, 0.01)]
    >>> errors = [np.linalg.norm(retract(frame, v) - shoot_balanced(frame, v)) for v in steps]
    >>> bool(7 < errors[0] / errors[1] < 9)  # half the step, an eighth of the error
    True
    """
    bend = frame.second_fundamental_form(vectors, vectors)
    xp, length = frame.xp, norm(vectors)
    ratio = norm(bend) / xp.where(length > 0, 2 * length, 1.0)
    half = (0.5 / (1 + ratio**2))[..., None, None]
    layers = zip(*(layers_of(w, "complex") for w in (frame.weights, vectors, bend)), strict=True)
    return stack_like(frame.weights, snap([w + v + half * b for w, v, b in layers], frame.rank))
