"""Costs of a matrix as costs of the weights that multiply to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt

from dlngeo._check import returned
from dlngeo.pymanopt.balanced import Balanced
from dlngeo.weights.network import differential, end_to_end, layer_gradient, layer_hessian

__all__ = ["pull_back"]

Matrix = Any


def pull_back(
    manifold: Balanced,
    cost: Callable[[Matrix], float],
    euclidean_gradient: Callable[[Matrix], Matrix],
    euclidean_hessian: Callable[[Matrix, Matrix], Matrix] | None = None,
) -> pymanopt.Problem:
    r"""Pose the problem of minimising ``L(W) = E(W_N ⋯ W_1)`` on the balanced weights, from E and its derivatives.

    .. math:: \frac{\partial L}{\partial W_p} = (W_N \cdots W_{p+1})^\top E'(X)\, (W_{p-1} \cdots W_1)^\top ,

    and its derivative gives the Hessian product, see :func:`dlngeo.weights.network.layer_hessian`. No autodiff is
    involved.

    Parameters
    ----------
    manifold : Balanced
        Where to minimise.
    cost : callable
        ``X → E(X)``, of the product, an array of shape (d_N, d_0).
    euclidean_gradient : callable
        ``X → E′(X)``, an array of the shape of X.
    euclidean_hessian : callable, optional
        ``(X, Z) → D²E(X)[Z]``, the same. Trust regions need it.

    Returns
    -------
    pymanopt.Problem
        The cost is ``inf`` where ``E`` is NaN, so that a line search backs off.

    Raises
    ------
    TypeError
        If ``manifold`` is not :class:`Balanced`, or, when it is evaluated, a function returns no real numbers.
    ValueError
        When it is evaluated, if a function returns an array of another shape.

    See Also
    --------
    dlngeo.pymanopt.Balanced
    dlngeo.weights.network.layer_gradient

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> manifold = Balanced((3, 4, 2), rng=0)
    >>> problem = pull_back(manifold, lambda x: 0.5 * np.sum((x - target) ** 2), lambda x: x - target, lambda x, z: z)
    >>> result = pymanopt.optimizers.TrustRegions(verbosity=0).run(problem)
    >>> bool(np.allclose(result.point[1] @ result.point[0], target))
    True
    """
    if not isinstance(manifold, Balanced):
        raise TypeError(f"costs are pulled back to dlngeo.pymanopt.Balanced, got {type(manifold).__name__}.")
    numpy_backend = pymanopt.function.numpy(manifold)

    @numpy_backend
    def loss(*weights: Any) -> float:
        value = float(returned(cost(end_to_end(weights)), (), "the cost", finite=False))
        return math.inf if math.isnan(value) else value

    def slope(x: np.ndarray) -> np.ndarray:
        return returned(euclidean_gradient(x), x.shape, "the gradient", finite=False)

    @numpy_backend
    def gradient(*weights: Any) -> Any:
        return layer_gradient(slope(end_to_end(weights)), weights)

    def hessian(*arrays: Any) -> Any:
        weights, weights_dot = arrays[: manifold.depth], arrays[manifold.depth :]
        x, velocity = end_to_end(weights), differential(weights_dot, weights)
        change = returned(euclidean_hessian(x, velocity), x.shape, "the Hessian product", finite=False)  # type: ignore[misc]
        return layer_hessian(slope(x), change, weights_dot, weights)

    return pymanopt.Problem(
        manifold,
        loss,
        euclidean_gradient=gradient,
        euclidean_hessian=None if euclidean_hessian is None else numpy_backend(hessian),
    )
