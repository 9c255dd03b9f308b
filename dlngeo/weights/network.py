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
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from dlngeo import _check
from dlngeo._linalg import adjoint, haar, is_complex
from dlngeo.weights.model import is_model, layers_of_model

__all__ = [
    "balanced_weights",
    "differential",
    "effective_cometric",
    "end_to_end",
    "horizontal_lift",
    "imbalance",
    "layer_gradient",
    "layer_hessian",
    "rebalance",
    "widths",
]

Weights = Any  # a sequence of matrices, or one array of shape (..., N, d, d)


def widths(weights: Weights) -> tuple[int, ...]:
    """Widths ``(d_0, …, d_N)``: inputs first."""
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
    """
    layers = layers_of(weights, "complex")
    below = [None, *accumulate(layers[:-1], lambda product, w: w @ product)]
    gradient, out = _check.plain(euclidean_gradient, "the gradient", "complex"), []
    for w, product in zip(reversed(layers), reversed(below), strict=True):
        out.append(gradient if product is None else gradient @ adjoint(product))
        gradient = adjoint(w) @ gradient
    return stack_like(weights, out[::-1])


def layer_hessian(euclidean_gradient: Any, euclidean_hessian: Any, weights_dot: Weights, weights: Weights) -> Any:
    """Hessian product in the weights of a cost E of their product: the derivative of :func:`layer_gradient` along Ẇ.

    With ``A_p = W_N ⋯ W_p`` and ``B_p = W_p ⋯ W_1`` it is
    ``A_{p+1}ᵀ D²E(X)[Ẋ] B_{p−1}ᵀ + Ȧ_{p+1}ᵀ E′(X) B_{p−1}ᵀ + A_{p+1}ᵀ E′(X) Ḃ_{p−1}ᵀ``, and costs 8N products.
    The Euclidean ones are ``E′(X)`` and ``D²E(X)[Ẋ]``, with the velocity ``Ẋ`` of the product (:func:`differential`).
    """
    layers, velocities = layers_of(weights, "complex"), layers_of(weights_dot, "complex")
    below, below_dot = [None, layers[0]], [None, velocities[0]]
    for w, v in zip(layers[1:-1], velocities[1:-1], strict=True):
        below_dot.append(v @ below[-1] + w @ below_dot[-1])
        below.append(w @ below[-1])
    gradient, change = (_check.plain(a, "the derivative", "complex") for a in (euclidean_gradient, euclidean_hessian))
    out = []
    columns = layers, velocities, below[: len(layers)], below_dot[: len(layers)]
    for w, v, b, b_dot in zip(*map(reversed, columns), strict=True):
        out.append(change if b is None else change @ adjoint(b) + gradient @ adjoint(b_dot))
        gradient, change = adjoint(w) @ gradient, adjoint(v) @ gradient + adjoint(w) @ change
    return stack_like(weights, out[::-1])


def differential(weights_dot: Weights, weights: Weights) -> Any:
    """Velocity ``Ẋ = Σ_p W_N ⋯ W_{p+1} Ẇ_p W_{p−1} ⋯ W_1`` of the product."""
    layers, velocities = layers_of(weights, "complex"), layers_of(weights_dot, "complex")
    product, velocity = layers[0], velocities[0]
    for w, v in zip(layers[1:], velocities[1:], strict=True):
        product, velocity = w @ product, v @ product + w @ velocity
    return velocity


def effective_cometric(p: Any, weights: Weights) -> Any:
    r"""Apply ``P ↦ Σ_p A_{p+1} A_{p+1}ᵀ P B_{p−1}ᵀ B_{p−1}``, ``A_p = W_N ⋯ W_p``, ``B_p = W_p ⋯ W_1``.

    Gradient flow of any weights, balanced or not, moves their product by ``Ẋ = −`` this map of ``E′(X)`` [2]_. On
    balanced weights it is the cometric ``A_{N,X}`` [1]_.
    """
    layers, p = layers_of(weights, "complex"), _check.plain(p, "the covector", "complex")
    below = [None, *accumulate(layers[:-1], lambda product, w: w @ product)]
    above = [None, *accumulate(layers[:0:-1], operator.matmul)]
    total = 0.0
    for a, b in zip(reversed(above), below, strict=True):
        term = p if b is None else (p @ adjoint(b)) @ b
        total = total + (term if a is None else a @ (adjoint(a) @ term))
    return total


def balanced_weights(
    x: Any, depth_or_widths: int | Sequence[int], rank: int | None = None, rng: Any = None
) -> list[Any]:
    r"""Balanced weights ``W_p = Q_p Λ Q_{p−1}ᵀ`` of a matrix ``X = U Σ Vᵀ``, with ``Λ = Σ^{1/N}``.

    ``Q_0 = V``, ``Q_N = U``, and the inner frames ``Q_p ∈ St(d_p, r)`` are free: the weights of a given X form an orbit
    of the orthogonal groups [1]_. They are the factorisations of X of least norm, ``Σ_p ‖W_p‖² = N Σ_k σ_k^{2/N}``.

    Parameters
    ----------
    x : array, shape=[..., m, n]
        Matrix.
    depth_or_widths : int or sequence of int
        Depth N, with inner widths ``min(m, n)``; or the widths ``(d_0, …, d_N)``, of which ``d_0 = n`` and ``d_N = m``.
    rank : int, optional
        Rank r; the trailing singular triples of X are dropped. Defaults to the least width.
    rng : numpy.random.Generator or int, optional
        Draws the inner frames from Haar measure. Without it they are the first r coordinate vectors.

    Returns
    -------
    list of array, shape=[..., d_p, d_{p−1}]
        Weights, first layer first.

    Raises
    ------
    ValueError
        If the widths do not fit X, or the rank exceeds the least of them, or X has NaN or infinite entries.
    """
    xp, x = _check.floating(x, field="complex")
    field: _check.Field = "complex" if is_complex(x) else "real"
    _check.finite(xp, x, "the matrix")
    m, n = x.shape[-2:]
    sizes = _widths_for(depth_or_widths, m, n)
    least = min(sizes)
    rank = least if rank is None else _check.rank(rank, least, least)
    u, s, vt = xp.linalg.svd(x, full_matrices=False)
    frames = [adjoint(vt[..., :rank, :])]
    generator = None if rng is None else np.random.default_rng(rng)
    for width in sizes[1:-1]:
        if generator is None:
            q = xp.eye(width, rank, dtype=x.dtype)
        else:
            q = xp.asarray(haar(generator, (*x.shape[:-2], width, rank), field), dtype=x.dtype)
        frames.append(q)
    frames.append(u[..., :rank])
    lam = s[..., None, :rank] ** (1 / (len(sizes) - 1))
    return [(upper * lam) @ adjoint(lower) for lower, upper in pairwise(frames)]


def rebalance(weights: Weights, rank: int | None = None) -> Any:
    """Balanced weights of the same product and widths, in closed form by one SVD: the end of the balancing flow.

    Their inner frames are coordinate vectors; the balancing flow ends on the same orbit. The product is truncated to
    the rank, by default the least width.
    """
    return stack_like(weights, balanced_weights(end_to_end(weights), widths(weights), rank))


def horizontal_lift(momentum: Any, weights: Weights) -> Any:
    """Horizontal lift of the tangent vector ``Z = A_{N,X}(P)`` to balanced weights, from its momentum P.

    ``H_p = (W_N ⋯ W_{p+1})ᵀ P (W_{p−1} ⋯ W_1)ᵀ``, of squared length ``Σ_p ‖H_p‖² = g_N(Z, Z)`` [1]_: the same map as
    :func:`layer_gradient`, since the gradient of E upstairs is the lift of its gradient downstairs.
    For ``P = A⁻¹(Z)`` see :meth:`dlngeo.matrices.frame.Frame.metric`.
    """
    return layer_gradient(momentum, weights)


def layers_of(weights: Weights, field: _check.Field = "real") -> list[Any]:
    """Return the list of matrices of weights in either form, after checking that they fit together.

    Complex ones are refused unless the field is so.
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
            if w.ndim < 2:
                raise ValueError(f"layer {p} has shape {tuple(w.shape)}; weights are matrices, leave out biases.")
    else:
        (stack,) = _check.floating(weights, field=field)[1:]
        if stack.ndim < 3 or stack.shape[-1] != stack.shape[-2]:
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
