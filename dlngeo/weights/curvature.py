r"""Curvature of manifolds of weights, balanced or of any imbalance, by the Gauss equation in the flat space of all.

.. math:: \langle R(X, Y)Z, V\rangle = \langle II(Y, Z), II(X, V)\rangle - \langle II(X, Z), II(Y, V)\rangle .

The curvature of ``g_N`` downstairs, to which O'Neill's tensor adds, is in :mod:`dlngeo.matrices.curvature`.

A point is given by its frame, a :class:`~dlngeo.weights.balanced.BalancedFrame` or
:class:`~dlngeo.weights.unbalanced.LeafFrame`; tangent vectors in the form of the weights there: a sequence of arrays,
shape=[..., d_p, d_{p−1}], or an array, shape=[..., N, d, d]; an orthonormal basis of the tangent space, such as that of
:func:`dlngeo.weights.bases.tangent_basis` or :meth:`~dlngeo.weights.unbalanced.LeafFrame.tangent_basis`, with its dim
vectors along the axis before those of each matrix or stack.

References
----------
.. [1] M. P. do Carmo, "Riemannian Geometry", Birkhäuser 1992, Chapter 6, Theorem 2.5.
.. [2] B. O'Neill, "The fundamental equations of a submersion", Michigan Math. J. 13 (1966).
"""

from __future__ import annotations

from typing import Any

from dlngeo.weights.balanced import BalancedFrame, inner
from dlngeo.weights.network import Weights, layers_of, stack_like
from dlngeo.weights.unbalanced import LeafFrame

Frame = BalancedFrame | LeafFrame

__all__ = ["curvature", "mean_curvature", "ricci", "scalar_curvature", "sectional_curvature", "submersed_curvature"]


def curvature(frame: Frame, x: Weights, y: Weights, z: Weights) -> Weights:
    """Curvature operator ``R(X, Y)Z = S_{II(Y,Z)} X − S_{II(X,Z)} Y``, a tangent vector, in O(N d³).

    The sign is the one for which a sphere has ``⟨R(X, Y)Y, X⟩ > 0``.

    See Also
    --------
    dlngeo.weights.curvature.sectional_curvature
    dlngeo.matrices.curvature.Curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import BalancedFrame, inner
    >>> from dlngeo.weights.curvature import curvature, sectional_curvature
    >>> frame = BalancedFrame([np.array([[1.0, 0.0, 0.0]]), np.ones((1, 1))])
    >>> y, z = ([np.array([row]), np.zeros((1, 1))] for row in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]))  # orthonormal
    >>> bool(np.isclose(inner(curvature(frame, y, z, z), y), sectional_curvature(frame, y, z)))
    True
    """
    first = frame.weingarten(x, frame.second_fundamental_form(y, z))
    second = frame.weingarten(y, frame.second_fundamental_form(x, z))
    return stack_like(
        frame.weights, [a - b for a, b in zip(layers_of(first, "complex"), layers_of(second, "complex"), strict=True)]
    )


def sectional_curvature(frame: Frame, y: Weights, z: Weights) -> Any:
    """Sectional curvature of the plane of two tangent vectors, shape=[...].

    Raises
    ------
    ValueError
        If the vectors are linearly dependent and span no plane.

    See Also
    --------
    dlngeo.weights.curvature.curvature
    dlngeo.weights.curvature.submersed_curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.curvature import sectional_curvature
    >>> frame = BalancedFrame([np.array([[2.0, 0.0, 0.0]]), np.full((1, 1), 2.0)])  # on the cone ‖W_1‖ = |W_2|
    >>> y, z = ([np.array([row]), np.zeros((1, 1))] for row in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]))
    >>> round(float(sectional_curvature(frame, y, z)), 4)  # 1/(2λ²)
    0.125
    """
    return _gauss(frame, *_plane(frame, y, z))


def submersed_curvature(frame: BalancedFrame, y: Weights, z: Weights) -> Any:
    """Sectional curvature of ``g_N`` at the product, from horizontal vectors upstairs, shape=[...].

    O'Neill's formula adds three times the squared length of ``½ vert [Y, Z]`` to the Gauss equation [2]_. It costs
    O(N d³) and grows with the depth; :mod:`dlngeo.matrices.curvature` does not. For horizontal vectors see
    :meth:`~dlngeo.weights.balanced.BalancedFrame.lift`.

    Raises
    ------
    ValueError
        If the vectors are linearly dependent and span no plane.

    See Also
    --------
    dlngeo.weights.curvature.sectional_curvature
    dlngeo.matrices.curvature.Curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel, balanced_weights
    >>> from dlngeo.matrices.curvature import Curvature
    >>> from dlngeo.matrices.frame import Frame
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.curvature import submersed_curvature
    >>> x, y, z = np.array([[1.2, 0.3], [-0.2, 0.9]]), np.eye(2), np.array([[0.0, 1.0], [0.0, 0.0]])
    >>> frame = BalancedFrame(balanced_weights(x, 3, rng=0))
    >>> upstairs = submersed_curvature(frame, frame.lift(y), frame.lift(z))
    >>> bool(np.isclose(upstairs, Curvature(Frame.at(x, DepthKernel(3))).sectional(y, z)))
    True
    """
    y, z = _plane(frame, y, z)
    twist = frame.oneill(y, z)
    return _gauss(frame, y, z) + 3 * inner(twist, twist)


def mean_curvature(frame: Frame, basis: Weights) -> Weights:
    """Mean curvature vector: the trace of the second fundamental form, a normal vector.

    See Also
    --------
    dlngeo.weights.curvature.scalar_curvature
    dlngeo.weights.bases.tangent_basis

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import BalancedFrame, norm
    >>> from dlngeo.weights.bases import tangent_basis
    >>> from dlngeo.weights.curvature import mean_curvature
    >>> frame = BalancedFrame([np.array([[1.0, 0.0, 0.0]]), np.ones((1, 1))])  # on the cone ‖W_1‖ = |W_2|
    >>> bool(np.isclose(norm(mean_curvature(frame, tangent_basis(frame))), 2 / np.sqrt(2)))  # twice 1/(√2 λ)
    True
    """
    bend = layers_of(frame.expand().second_fundamental_form(basis, basis))
    return stack_like(frame.weights, [frame.xp.sum(layer, axis=-3) for layer in bend])


def ricci(frame: Frame, basis: Weights, y: Weights, z: Weights) -> Any:
    """Ricci curvature ``Ric(Y, Z) = Σ_a ⟨R(E_a, Y)Z, E_a⟩`` over an orthonormal basis, shape=[...].

    See Also
    --------
    dlngeo.weights.curvature.scalar_curvature
    dlngeo.weights.curvature.sectional_curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.bases import tangent_basis
    >>> from dlngeo.weights.curvature import ricci
    >>> frame = BalancedFrame([np.array([[1.0, 0.0, 0.0]]), np.ones((1, 1))])  # on the cone ‖W_1‖ = |W_2|
    >>> basis, y = tangent_basis(frame), [np.array([[0.0, 1.0, 0.0]]), np.zeros((1, 1))]
    >>> round(float(ricci(frame, basis, y, y)), 4)  # one plane of curvature 1/(2λ²), one along the cone
    0.5
    >>> bool(np.isclose(ricci(frame, basis, frame.weights, y), 0))
    True
    """
    many = frame.expand()
    along = []
    for vectors in (y, z):
        one = stack_like(frame.weights, [v[..., None, :, :] for v in layers_of(vectors, "complex")])
        along.append(many.second_fundamental_form(basis, one))
    trace = inner(frame.second_fundamental_form(y, z), mean_curvature(frame, basis))
    return trace - frame.xp.sum(inner(*along), axis=-1)


def scalar_curvature(frame: Frame, basis: Weights) -> Any:
    """Scalar curvature ``‖tr II‖² − ‖II‖²``, shape=[...], in one second fundamental form per pair of basis vectors.

    See Also
    --------
    dlngeo.weights.curvature.ricci
    dlngeo.weights.curvature.mean_curvature

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.bases import tangent_basis
    >>> from dlngeo.weights.curvature import scalar_curvature
    >>> frame = BalancedFrame([np.array([[1.0, 0.0, 0.0]]), np.ones((1, 1))])  # on the cone ‖W_1‖ = |W_2|
    >>> round(float(scalar_curvature(frame, tangent_basis(frame))), 4)  # twice that of its sphere, 1/(2λ²)
    1.0
    """
    many, layers = frame.expand(), layers_of(basis, "complex")
    mean = mean_curvature(frame, basis)
    total = inner(mean, mean)
    for a in range(layers[0].shape[-3]):
        vector = stack_like(frame.weights, [layer[..., a : a + 1, :, :] for layer in layers])
        bend = many.second_fundamental_form(basis, vector)
        total = total - frame.xp.sum(inner(bend, bend), axis=-1)
    return total


def _gauss(frame: Frame, y: Weights, z: Weights) -> Any:
    mixed = frame.second_fundamental_form(y, z)
    pure = [frame.second_fundamental_form(v, v) for v in (y, z)]
    return inner(*pure) - inner(mixed, mixed)


def _plane(frame: Frame, y: Weights, z: Weights) -> tuple[Weights, Weights]:
    """Orthonormal vectors of a plane, in which the curvature neither cancels nor leaves the range of doubles."""
    one, other = _unit(frame, layers_of(y, "complex")), _unit(frame, layers_of(z, "complex"))
    part = inner(one, other)[..., None, None]
    other = [b - part * a for a, b in zip(one, other, strict=True)]
    if not bool(frame.xp.all((inner(one, one) > 0) & (inner(other, other) > 1e-14))):
        raise ValueError(
            "linearly dependent vectors span no plane and have no sectional curvature; give independent ones."
        )
    return stack_like(y, one), stack_like(z, _unit(frame, other))


def _unit(frame: Frame, layers: list[Any]) -> list[Any]:
    xp = frame.xp
    top = sum(xp.max(xp.abs(layer), axis=(-2, -1), keepdims=True) for layer in layers)
    layers = [layer / xp.where(top > 0, top, 1.0) for layer in layers]
    size = xp.sqrt(inner(layers, layers))[..., None, None]
    return [layer / xp.where(size > 0, size, 1.0) for layer in layers]
