"""Geodesics of the balanced weights, ``Ẅ = II(Ẇ, Ẇ)`` in the flat space of all weights."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from scipy.integrate import DOP853

from dlngeo.errors import GeodesicError
from dlngeo.weights.balanced import BalancedFrame, norm
from dlngeo.weights.network import Weights, layers_of, stack_like
from dlngeo.weights.projections import snap

__all__ = ["shoot_balanced"]

# Of the smallest λ at the start: a geodesic that gets below runs into weights of lower rank, where it ends.
_SINGULAR = 1e-9
_DRIFT = 1e-6


def shoot_balanced(frame: BalancedFrame, vectors: Weights, tolerance: float = 1e-12) -> Weights:
    r"""Follow the geodesic from balanced weights with a given velocity for unit time.

    It is integrated by DOP853. As every λ changes at most with speed ``‖V‖/√N``, no step of half ``λ_min √N/‖V‖`` can
    pass unnoticed over the weights of lower rank, at which geodesics end; the radius of curvature, of the order of
    λ_min, asks for steps of that size anyway.

    Parameters
    ----------
    frame : BalancedFrame
        Point, of NumPy arrays without batch axes.
    vectors : sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        Velocity, tangent.
    tolerance : float
        Local error of the integration, relative to the size of weights and velocity.

    Returns
    -------
    sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d]
        Balanced weights.

    Raises
    ------
    GeodesicError
        If the geodesic runs into weights of lower rank before unit time (status ``"singular"``), or if its speed at
        the end is not that at the start to 1e-6 (status ``"not converged"``).
    """
    start, velocity = layers_of(frame.weights), layers_of(vectors)
    shapes = [w.shape for w in start]
    ends = list(accumulate(w.size for w in start))
    size, speed = ends[-1], float(norm(velocity))
    scale = max(float(norm(start)), speed)

    def unpack(y: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(shape) for part, shape in zip(np.split(y, ends[:-1]), shapes, strict=True)]

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        moving = unpack(y[size:])
        bend: Any = BalancedFrame(unpack(y[:size]), frame.rank).second_fundamental_form(moving, moving)
        return np.concatenate([y[size:], *(b.ravel() for b in bend)])

    if speed == 0:
        return stack_like(frame.weights, start)
    state = np.concatenate([part.ravel() for part in (*start, *velocity)])
    solver = DOP853(rate, 0.0, state, 1.0, rtol=tolerance, atol=tolerance * scale)
    while solver.status == "running":
        least = float(BalancedFrame(unpack(solver.y[:size]), frame.rank).lam.min())
        solver.max_step = least * frame.depth**0.5 / (2 * speed)
        if least < _SINGULAR * float(frame.lam.min()) or solver.step() is not None:
            raise GeodesicError(
                f"the geodesic runs into weights of rank below {frame.rank} at time {solver.t:.6g} and ends there "
                "(status: singular). Shorten the tangent vector.",
                status="singular",
            )
    drift = abs(float(np.linalg.norm(solver.y[size:])) / speed - 1)
    if not drift < _DRIFT:
        raise GeodesicError(
            f"the speed of the geodesic changed by {drift:.1e}, relatively: its end is not accurate (status: not "
            "converged). Shorten the tangent vector.",
            status="not converged",
        )
    return stack_like(frame.weights, snap(unpack(solver.y[:size]), frame.rank))
