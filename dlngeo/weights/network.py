r"""The parameters of a deep linear network: products, imbalance, balanced factors.

The weights ``W = (W_1, …, W_N)``, ``W_p`` of shape ``d_p × d_{p−1}``, compute the matrix ``X = W_N ⋯ W_1``. They are
given, first layer first, as a sequence of N matrices of any widths, or stacked in one array of shape
``(..., N, d, d)`` where all widths agree; what is returned per layer comes in the form that was given. A PyTorch
``Sequential`` of ``Linear`` layers without biases stands for the list of its weights. Everything
batches over leading axes and takes NumPy or PyTorch arrays (any array-API namespace). Derivatives, covectors and
velocities of the product are arrays, shape=[..., d_N, d_0]. All may be complex; transposes are then adjoints.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
   overparameterization", ICML 2018, arXiv:1802.06509.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from dlngeo import _check
from dlngeo._linalg import adjoint, haar, is_complex
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.weights._directions import zero_directions
from dlngeo.weights.model import is_model, layers_of_model

__all__ = [
    "balanced_weights",
    "cometric_factors",
    "differential",
    "effective_cometric",
    "end_to_end",
    "horizontal_lift",
    "imbalance",
    "layer_gradient",
    "layer_hessian",
    "offsets_of",
    "rebalance",
    "widths",
]

Weights = Any  # a sequence of matrices, or one array of shape (..., N, d, d)


def widths(weights: Weights) -> tuple[int, ...]:
    """Widths ``(d_0, …, d_N)``: inputs first.

    See Also
    --------
    dlngeo.end_to_end

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import widths
    >>> widths([np.ones((2, 3)), np.ones((1, 2))])
    (3, 2, 1)
    """
    layers = layers_of(weights, "complex")
    return (layers[0].shape[-1], *(w.shape[-2] for w in layers))


def end_to_end(weights: Weights) -> Any:
    """Matrix ``X = W_N ⋯ W_1`` that the network computes.

    Parameters
    ----------
    weights : sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]
        Weights, first layer first.

    Returns
    -------
    array, shape=[..., d_N, d_0]

    Raises
    ------
    ValueError
        If the widths of neighbouring layers differ.

    See Also
    --------
    dlngeo.balanced_weights
    dlngeo.weights.network.differential

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import end_to_end
    >>> end_to_end([np.ones((2, 3)), np.ones((1, 2))])
    array([[2., 2., 2.]])
    """
    return reduce(lambda product, w: w @ product, layers_of(weights, "complex"))


def imbalance(weights: Weights) -> Any:
    """Imbalance ``G_p = W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ`` of neighbouring layers, ``p = 1 … N−1``.

    Gradient flow of any cost of the product conserves it [2]_, and it vanishes on balanced weights.

    Parameters
    ----------
    weights : sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]
        Weights, first layer first.

    Returns
    -------
    list of array, shape=[..., d_p, d_p], or array, shape=[..., N−1, d, d]

    See Also
    --------
    dlngeo.balanced_weights
    dlngeo.balancing_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import imbalance
    >>> imbalance([np.eye(2), 2 * np.eye(2)])
    [array([[3., 0.],
           [0., 3.]])]
    """
    if is_stack(weights):
        (stack,) = _check.floating(weights, field="complex")[1:]
        layers_of(stack, "complex")
        upper, lower = stack[..., 1:, :, :], stack[..., :-1, :, :]
        return adjoint(upper) @ upper - lower @ adjoint(lower)
    return [adjoint(upper) @ upper - lower @ adjoint(lower) for lower, upper in pairwise(layers_of(weights, "complex"))]


def layer_gradient(euclidean_gradient: Any, weights: Weights) -> Any:
    """Gradient in the weights of a cost E of their product, ``∂L/∂W_p = (W_N ⋯ W_{p+1})ᵀ E′(X) (W_{p−1} ⋯ W_1)ᵀ``.

    It is the adjoint of :func:`differential`, and costs 3N products.

    Raises
    ------
    ValueError
        If the derivative has another shape than the product.

    See Also
    --------
    dlngeo.weights.network.differential
    dlngeo.weights.network.layer_hessian

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import layer_gradient
    >>> weights = [np.eye(2), 2 * np.eye(2)]
    >>> layer_gradient(np.ones((2, 2)), weights)[0]
    array([[2., 2.],
           [2., 2.]])
    """
    layers = layers_of(weights, "complex")
    below = [None, *accumulate(layers[:-1], lambda product, w: w @ product)]
    gradient, out = _end_to_end(euclidean_gradient, layers, "the gradient"), []
    for w, product in zip(reversed(layers), reversed(below), strict=True):
        out.append(gradient if product is None else gradient @ adjoint(product))
        gradient = adjoint(w) @ gradient
    return stack_like(weights, out[::-1])


def layer_hessian(euclidean_gradient: Any, euclidean_hessian: Any, weights_dot: Weights, weights: Weights) -> Any:
    """Hessian product in the weights of a cost E of their product: the derivative of :func:`layer_gradient` along Ẇ.

    With ``A_p = W_N ⋯ W_p`` and ``B_p = W_p ⋯ W_1`` it is
    ``A_{p+1}ᵀ D²E(X)[Ẋ] B_{p−1}ᵀ + Ȧ_{p+1}ᵀ E′(X) B_{p−1}ᵀ + A_{p+1}ᵀ E′(X) Ḃ_{p−1}ᵀ``, and costs 8N products.
    The Euclidean ones are ``E′(X)`` and ``D²E(X)[Ẋ]``, with the velocity ``Ẋ`` of the product (:func:`differential`).

    Raises
    ------
    ValueError
        If a derivative has another shape than the product.

    See Also
    --------
    dlngeo.weights.network.layer_gradient

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import layer_hessian
    >>> weights, weights_dot = [np.eye(2), 2 * np.eye(2)], [np.eye(2), np.zeros((2, 2))]
    >>> layer_hessian(np.ones((2, 2)), np.zeros((2, 2)), weights_dot, weights)[1]
    array([[1., 1.],
           [1., 1.]])
    """
    layers, velocities = layers_of(weights, "complex"), layers_of(weights_dot, "complex")
    below, below_dot = [None, layers[0]], [None, velocities[0]]
    for w, v in zip(layers[1:-1], velocities[1:-1], strict=True):
        below_dot.append(v @ below[-1] + w @ below_dot[-1])
        below.append(w @ below[-1])
    gradient, change = (_end_to_end(a, layers, "the derivative") for a in (euclidean_gradient, euclidean_hessian))
    out = []
    columns = layers, velocities, below[: len(layers)], below_dot[: len(layers)]
    for w, v, b, b_dot in zip(*map(reversed, columns), strict=True):
        out.append(change if b is None else change @ adjoint(b) + gradient @ adjoint(b_dot))
        gradient, change = adjoint(w) @ gradient, adjoint(v) @ gradient + adjoint(w) @ change
    return stack_like(weights, out[::-1])


def differential(weights_dot: Weights, weights: Weights) -> Any:
    """Velocity ``Ẋ = Σ_p W_N ⋯ W_{p+1} Ẇ_p W_{p−1} ⋯ W_1`` of the product.

    See Also
    --------
    dlngeo.weights.network.layer_gradient
    dlngeo.weights.network.horizontal_lift

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import differential
    >>> weights = [np.eye(2), 2 * np.eye(2)]
    >>> differential([np.eye(2), np.zeros((2, 2))], weights)
    array([[2., 0.],
           [0., 2.]])
    """
    layers, velocities = layers_of(weights, "complex"), layers_of(weights_dot, "complex")
    product, velocity = layers[0], velocities[0]
    for w, v in zip(layers[1:], velocities[1:], strict=True):
        product, velocity = w @ product, v @ product + w @ velocity
    return velocity


def effective_cometric(p: Any, weights: Weights) -> Any:
    r"""Apply ``P ↦ Σ_p A_{p+1} A_{p+1}ᵀ P B_{p−1}ᵀ B_{p−1}``, ``A_p = W_N ⋯ W_p``, ``B_p = W_p ⋯ W_1``.

    Gradient flow of any weights, balanced or not, moves their product by ``Ẋ = −`` this map of ``E′(X)`` [2]_. On
    balanced weights it is the cometric ``A_{N,X}`` [1]_.

    Raises
    ------
    ValueError
        If P has another shape than the product.

    See Also
    --------
    dlngeo.matrices.frame.Frame
    dlngeo.training_flow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel, balanced_weights
    >>> from dlngeo.matrices.differentiable import frame_at
    >>> from dlngeo.weights.network import effective_cometric
    >>> x = np.array([[1.2, 0.3], [-0.2, 0.9]])
    >>> moved = effective_cometric(np.ones((2, 2)), balanced_weights(x, 3, rng=0))
    >>> bool(np.allclose(moved, frame_at(x, DepthKernel(3), 2).cometric(np.ones((2, 2)))))
    True
    """
    layers = layers_of(weights, "complex")
    p = _end_to_end(p, layers, "the covector")
    below = [None, *accumulate(layers[:-1], lambda product, w: w @ product)]
    above = [None, *accumulate(layers[:0:-1], operator.matmul)]
    total = 0.0
    for a, b in zip(reversed(above), below, strict=True):
        term = p if b is None else (p @ adjoint(b)) @ b
        total = total + (term if a is None else a @ (adjoint(a) @ term))
    return total


def cometric_factors(weights: Weights) -> list[tuple[Any, Any]]:
    """Return the ``A_{p+1} A_{p+1}ᵀ`` and ``B_{p−1}ᵀ B_{p−1}`` of :func:`effective_cometric`, for each layer.

    See Also
    --------
    dlngeo.weights.network.effective_cometric
    dlngeo.weights.offsets.fit_offsets

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import cometric_factors, effective_cometric
    >>> weights, p = [np.diag([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 1.0]])], np.ones((2, 2))
    >>> total = sum(a @ p @ b for a, b in cometric_factors(weights))
    >>> bool(np.allclose(total, effective_cometric(p, weights)))
    True
    """
    layers = layers_of(weights, "complex")
    xp, n, m = _check.floating(layers[0], field="complex")[0], layers[0].shape[-1], layers[-1].shape[-2]
    below = [xp.eye(n, dtype=layers[0].dtype), *accumulate(layers[:-1], lambda product, w: w @ product)]
    above = [xp.eye(m, dtype=layers[0].dtype), *accumulate(layers[:0:-1], operator.matmul)]
    return [(a @ adjoint(a), adjoint(b) @ b) for a, b in zip(reversed(above), below, strict=True)]


def balanced_weights(
    x: Any,
    depth_or_widths: int | Sequence[int],
    rank: int | None = None,
    rng: Any = None,
    *,
    offsets: Iterable[float] | None = None,
) -> list[Any]:
    r"""Weights ``W_p = Q_p Λ Q_{p−1}ᵀ`` of a matrix ``X = U Σ Vᵀ``, balanced, or up to multiples of the identity.

    ``Λ = Σ^{1/N}``, ``Q_0 = V``, ``Q_N = U``, and the inner frames ``Q_p ∈ St(d_p, r)`` are free: the balanced weights
    of a given X form an orbit of the orthogonal groups [1]_. They are the factorisations of X of least norm,
    ``Σ_p ‖W_p‖² = N Σ_k σ_k^{2/N}``.

    With ``offsets`` ``c_1, …, c_N``, one for each layer, first layer first, of which only differences matter,

    .. math:: W_{p+1}^\top W_{p+1} - W_p W_p^\top = (c_{p+1} - c_p) I, \qquad
        W_p = Q_p (x + c_p)^{1/2} Q_{p-1}^\top, \qquad \sigma^2 = \prod_p (x + c_p), \quad \min c = 0,

    the weights whose product follows the flow of :class:`~dlngeo.kernels.RelaxedDepthKernel`. A layer that has an
    offset has full rank: on directions that X maps to zero, ``x = 0``, its singular values are ``c_p^{1/2}``, and of
    rank r are those of the least offset alone. Inner widths ``min(m, n)`` have such weights for all offsets and ranks,
    others for some. The kernel takes ``x = 0`` for all null directions of X; those by which one side has more of them
    than the other obey it if the layer on that side has the least offset.

    Parameters
    ----------
    x : array, shape=[..., m, n]
        Matrix.
    depth_or_widths : int or sequence of int
        Depth N, with inner widths ``min(m, n)``; or the widths ``(d_0, …, d_N)``, of which ``d_0 = n`` and ``d_N = m``.
    rank : int, optional
        Rank r; the trailing singular triples of X are dropped. Defaults to the least width.
    rng : numpy.random.Generator or int, optional
        Draws the inner frames from Haar measure. Without it they are the first coordinate vectors.
    offsets : iterable of float, shape=[N], optional
        The ``c_p``, in the units of ``σ^{2/N}``.

    Returns
    -------
    list of array, shape=[..., d_p, d_{p−1}]
        Weights, first layer first.

    Raises
    ------
    TypeError
        If there are offsets and X is traced for derivatives.
    ValueError
        If the widths do not fit X, or the rank exceeds the least of them, or X has NaN or infinite entries; if the
        offsets are not N finite numbers, or no weights of these widths have them.

    See Also
    --------
    dlngeo.end_to_end
    dlngeo.imbalance
    dlngeo.weights.network.rebalance

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, end_to_end, imbalance
    >>> x = np.array([[1.2, 0.3], [-0.2, 0.9]])
    >>> weights = balanced_weights(x, 3, rng=0)
    >>> len(weights), bool(np.allclose(end_to_end(weights), x))
    (3, True)
    >>> bool(np.allclose(imbalance(weights), 0))
    True
    """
    xp, x = _check.floating(x, field="complex")
    field = field_of([x])
    _check.finite(xp, x, "the matrix")
    m, n = _check.sides(x)
    sizes = _widths_for(depth_or_widths, m, n)
    least, depth = min(sizes), len(sizes) - 1
    rank = least if rank is None else _check.rank(rank, least, least)
    shift = [0.0] * depth if offsets is None else offsets_of(offsets, depth)
    blocks = zero_directions(shift, sizes, rank)
    # Columns of the frames: the directions of the product, then those of each block where it is.
    counts = [rank + sum(b.size for b in blocks if b.first <= p <= b.last) for p in range(depth + 1)]
    u, s, vt = xp.linalg.svd(x, full_matrices=max(counts[0], counts[-1]) > min(m, n))
    frames = [adjoint(vt[..., : counts[0], :])]
    generator = None if rng is None else np.random.default_rng(rng)
    for width, count in zip(sizes[1:-1], counts[1:-1], strict=True):
        if generator is None:
            q = xp.eye(width, count, dtype=x.dtype)
        else:
            q = xp.asarray(haar(generator, (*x.shape[:-2], width, count), field), dtype=x.dtype)
        frames.append(q)
    frames.append(u[..., : counts[-1]])
    s = s[..., :rank]
    shared = s ** (2 / depth) if max(shift) == 0 else RelaxedDepthKernel(shift).shared(s)
    out = []
    for c, (lower, upper) in zip(shift, pairwise(frames), strict=True):
        values = s ** (1 / depth) if max(shift) == 0 else (shared + c) ** 0.5
        out.append((upper[..., :rank] * values[..., None, :]) @ adjoint(lower[..., :rank]))
    used = [rank] * (depth + 1)
    for b in blocks:
        for p in range(b.first, b.last):
            upper, lower = (frames[i][..., used[i] : used[i] + b.size] for i in (p + 1, p))
            out[p] = out[p] + (b.x + shift[p]) ** 0.5 * (upper @ adjoint(lower))
        used = [k + b.size if b.first <= p <= b.last else k for p, k in enumerate(used)]
    return out


def offsets_of(offsets: Iterable[float], depth: int) -> list[float]:
    """Return the offsets of N layers, the least moved to zero.

    See Also
    --------
    dlngeo.balanced_weights
    dlngeo.kernels.RelaxedDepthKernel

    Examples
    --------
    >>> from dlngeo.weights.network import offsets_of
    >>> offsets_of([3, 1, 2.5], 3)
    [2.0, 0.0, 1.5]
    """
    values = _check.offsets(offsets, depth)
    return list((values - values.min()).tolist())


def rebalance(weights: Weights, rank: int | None = None, *, offsets: Iterable[float] | None = None) -> Any:
    """Balanced weights of the same product and widths, in closed form by one SVD: the end of the balancing flow.

    Their inner frames are coordinate vectors; the balancing flow ends on the same orbit. The product is truncated to
    the rank, by default the least width. With ``offsets`` they are balanced up to multiples of the identity, see
    :func:`balanced_weights`; :func:`dlngeo.weights.offsets.fit_offsets` finds those of given weights.

    See Also
    --------
    dlngeo.balancing_flow
    dlngeo.balanced_weights

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import imbalance
    >>> from dlngeo.weights.network import rebalance
    >>> weights = rebalance([np.eye(2), 2 * np.eye(2)])
    >>> bool(np.allclose(imbalance(weights), 0))
    True
    """
    return stack_like(weights, balanced_weights(end_to_end(weights), widths(weights), rank, offsets=offsets))


def horizontal_lift(momentum: Any, weights: Weights) -> Any:
    """Horizontal lift of the tangent vector ``Z = A_X(P)`` to balanced weights, or such of offsets, from its momentum.

    ``H_p = (W_N ⋯ W_{p+1})ᵀ P (W_{p−1} ⋯ W_1)ᵀ``, of squared length ``Σ_p ‖H_p‖² = g(Z, Z)`` [1]_: the same map as
    :func:`layer_gradient`, since the gradient of E upstairs is the lift of its gradient downstairs.
    For ``P = A⁻¹(Z)`` see :meth:`dlngeo.matrices.frame.Frame.metric`.

    See Also
    --------
    dlngeo.weights.network.differential
    dlngeo.geomstats.EndToEndBundle

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.network import differential, effective_cometric, horizontal_lift
    >>> weights = balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0)
    >>> lift = horizontal_lift(np.ones((2, 2)), weights)
    >>> bool(np.allclose(differential(lift, weights), effective_cometric(np.ones((2, 2)), weights)))
    True
    """
    return layer_gradient(momentum, weights)


def _end_to_end(value: Any, layers: list[Any], name: str) -> Any:
    """Return ``value`` as an array of numbers of the field of layers, of the shape of their product."""
    return _check.matrices(_check.plain(value, name, field_of(layers)), layers[-1].shape[-2], layers[0].shape[-1], name)


def layers_of(weights: Weights, field: _check.Field = "real") -> list[Any]:
    """Return the list of matrices of weights in either form, after checking that they fit together.

    Complex ones are refused unless the field is so; if one is complex, all are.
    """
    if is_model(weights):
        weights, biases = layers_of_model(weights)
        if biases:
            raise ValueError(
                f"{len(biases)} of {len(weights)} layers have a bias, with which the network computes no matrix; build "
                "them with bias=False, or pass [layer.weight for layer in model] to leave the biases out."
            )
    if isinstance(weights, Iterator):
        raise TypeError(f"weights are read more than once, a {type(weights).__name__} only once; pass list(...) of it.")
    if not is_stack(weights):
        if not weights:
            raise ValueError("there are no weights: give at least one matrix.")
        layers = list(_check.floating(*weights, field=field)[1:])
        for p, w in enumerate(layers, 1):
            if w.ndim < 2 or 0 in w.shape[-2:]:
                raise ValueError(f"layer {p} has shape {tuple(w.shape)}; weights are matrices, leave out biases.")
        if field_of(layers) == "complex":
            layers = [w if is_complex(w) else w + 0j for w in layers]
    else:
        (stack,) = _check.floating(weights, field=field)[1:]
        if stack.ndim < 3 or stack.shape[-1] != stack.shape[-2] or 0 in stack.shape[-3:]:
            raise ValueError(
                f"stacked weights of shape {tuple(stack.shape)}; expected (..., N, d, d), or a list of matrices."
            )
        layers = [stack[..., p, :, :] for p in range(stack.shape[-3])]
    for p, (lower, upper) in enumerate(pairwise(layers), 1):
        if lower.shape[-2] != upper.shape[-1]:
            raise ValueError(
                f"layer {p} has {lower.shape[-2]} outputs and layer {p + 1} has {upper.shape[-1]} inputs; "
                "weights are given first layer first, W_p of shape (d_p, d_{p−1})."
            )
    return layers


def field_of(layers: list[Any]) -> _check.Field:
    """Return the field of matrices."""
    return "complex" if any(map(is_complex, layers)) else "real"


def is_stack(weights: Weights) -> bool:
    """Whether weights are one array rather than a sequence of matrices or a model."""
    return not (isinstance(weights, (list, tuple)) or is_model(weights))


def stack_like(weights: Weights, layers: list[Any]) -> Any:
    """Return per-layer results in the form in which the weights came."""
    if not is_stack(weights):
        return layers
    xp = _check.floating(layers[0], field="complex")[0]
    return xp.stack(layers, axis=-3)


def _widths_for(depth_or_widths: int | Sequence[int], m: int, n: int) -> list[int]:
    if isinstance(depth_or_widths, Real):
        if not isinstance(depth_or_widths, Integral):
            raise TypeError(f"weights have an integer depth, got {depth_or_widths!r}; round it.")
        depth = _check.positive_integer(depth_or_widths, "depth")
        return [n, *[min(m, n)] * (depth - 1), m]
    sizes = [_check.positive_integer(width, "a width") for width in cast(Sequence[int], depth_or_widths)]
    if len(sizes) < 2 or sizes[0] != n or sizes[-1] != m:
        raise ValueError(
            f"widths {tuple(sizes)} do not fit a {m}×{n} matrix: they must begin with {n} and end with {m}."
        )
    return sizes
