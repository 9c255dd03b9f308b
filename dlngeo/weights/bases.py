r"""Explicit orthonormal bases of the horizontal, vertical, tangent and normal spaces of the balanced weights.

For each pair (k, l) of singular values, the vertical vectors ``Ω_p W_p − W_p Ω_{p−1}`` and the normal vectors
``S_p W_p − W_p S_{p−1}`` are governed by one Jacobi matrix, whose eigenvectors are sines,

.. math:: T_p^{(j)} = \sin(j p \pi/N), \qquad
    \mu_j = \lambda_k^2 + \lambda_l^2 - 2 \lambda_k \lambda_l \cos(j \pi/N), \quad j < N,

so that the generators ``Ω_p = T_p (e_k e_lᵀ − e_l e_kᵀ)/√(N μ_j)`` give orthonormal vertical vectors, and with a plus
sign normal ones. The horizontal vectors are ``λ_k^{N−p} λ_l^{p−1} e_k e_lᵀ/√φ_N(σ_k, σ_l)`` [1]_. Where a width exceeds
the rank, unit vectors of the left, right and null parts complete the bases. Over the complex numbers i times each
horizontal vector is one more, i times each normal one without null part is vertical, and the other way round.

Each basis of n vectors at a frame is given in the form of the weights there: a sequence of arrays,
shape=[..., n, d_p, d_{p−1}], or an array, shape=[..., n, N, d, d].

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088, Section 4.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, pairwise
from typing import Any

import numpy as np

from dlngeo.weights.balanced import BalancedFrame, Parts
from dlngeo.weights.network import Weights, layers_of, stack_like

__all__ = ["horizontal_basis", "normal_basis", "tangent_basis", "vertical_basis"]


def horizontal_basis(frame: BalancedFrame) -> Weights:
    """Orthonormal basis of the horizontal space, ``n = r(d_N + d_0 − r)``: lifts of one of ``g_N`` at the product.

    See Also
    --------
    dlngeo.weights.bases.tangent_basis
    dlngeo.weights.network.horizontal_lift

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> frame = BalancedFrame(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> basis = horizontal_basis(frame)
    >>> gram = sum(np.einsum("aij,bij->ab", layer, layer) for layer in basis)
    >>> bool(np.allclose(gram, np.eye(4))), bool(np.allclose(frame.expand().horizontal(basis), basis))
    (True, True)
    """
    xp, r, last = frame.xp, frame.rank, frame.depth - 1
    pairs = _with_imaginary(frame, xp.reshape(xp.eye(r * r, dtype=frame.q[0].dtype), (r * r, 1, r, r)), -4)
    parts = [_parts(frame, cores=frame.horizontal_units[0][..., None, :, :, :] * pairs)]
    parts += [_parts(frame, lefts={last: left}) for left in _left_units(frame, frame.q[-1])]
    parts += [_parts(frame, rights={0: right}) for right in _left_units(frame, frame.q[0])]
    return _assemble(frame, parts)


def vertical_basis(frame: BalancedFrame) -> Weights:
    """Orthonormal basis of the vertical space, tangent to the orbit, ``n = Σ_{p=1}^{N−1} (d_p r − r(r+1)/2)``.

    See Also
    --------
    dlngeo.weights.bases.tangent_basis
    dlngeo.weights.alignment.act

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> from dlngeo.weights.network import differential
    >>> weights = balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0)
    >>> basis = vertical_basis(BalancedFrame(weights))
    >>> len(basis[0]), bool(np.allclose(differential(basis, weights), 0))  # the product stays
    (2, True)
    """
    return _assemble(frame, _generated(frame, -1))


def normal_basis(frame: BalancedFrame) -> Weights:
    """Orthonormal basis of the normal space of the balanced weights, ``n = Σ_p d_p d_{p−1} − dim``.

    See Also
    --------
    dlngeo.weights.bases.tangent_basis

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> frame = BalancedFrame(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> basis = normal_basis(frame)
    >>> len(basis[0]), bool(np.allclose(frame.expand().tangent(basis), 0))  # two symmetric equations
    (6, True)
    """
    parts = _generated(frame, 1)
    for p, (lower, upper) in enumerate(pairwise(frame.q)):
        left, right = (_complement(frame, q).mT for q in (upper, lower))
        if left.shape[-2] and right.shape[-2]:
            outer = left[..., :, None, :, None] * right.conj()[..., None, :, None, :]
            parts.append(_parts(frame, nulls={p: _with_imaginary(frame, _merge(frame, outer), -3)}))
    return _assemble(frame, parts)


def tangent_basis(frame: BalancedFrame) -> Weights:
    """Orthonormal basis of the tangent space: the horizontal basis, then the vertical one.

    See Also
    --------
    dlngeo.weights.bases.horizontal_basis
    dlngeo.weights.bases.vertical_basis
    dlngeo.weights.balanced.dimension

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame, dimension
    >>> frame = BalancedFrame(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> basis = tangent_basis(frame)
    >>> len(basis[0]), dimension((2, 2, 2, 2), 2), bool(np.allclose(frame.expand().tangent(basis), basis))
    (6, 6, True)
    """
    bases = [layers_of(basis(frame), "complex") for basis in (horizontal_basis, vertical_basis)]
    return stack_like(frame.weights, [frame.xp.concat(pair, axis=-3) for pair in zip(*bases, strict=True)])


def _generated(frame: BalancedFrame, sign: int) -> list[Parts]:
    """Orthonormal vectors ``T_p W_p − W_p T_{p−1}`` with symmetric (sign 1) or skew (sign −1) ``T_p``."""
    xp, lam, depth = frame.xp, frame.lam, frame.depth
    if depth == 1:
        return []
    p = xp.arange(1, depth, dtype=lam.dtype)
    sines, cosines = xp.sin(p[:, None] * p * (math.pi / depth)), xp.cos(p * (math.pi / depth))  # (j, p), (j,)
    parts = []
    for i, k in combinations_with_replacement(range(frame.rank), 2):
        a, b = lam[..., i, None], lam[..., k, None]
        # Σ_p ‖T_p Λ − Λ T_{p−1}‖² is TᵀJT = μ N/2 for each of the entries (i, k) and (k, i) of T.
        scale = ((a**2 + b**2 - 2 * a * b * cosines) * depth / (2 if i == k else 1)) ** -0.5
        # Over the complex numbers, i times the vectors of the other sign as well.
        for phase, other in ((1, sign), (1j, -sign))[: 1 if frame.field == "real" else 2]:
            if i == k and other < 0:
                continue
            unit = np.zeros((frame.rank, frame.rank))
            unit[k, i], unit[i, k] = other, 1
            units = xp.asarray(unit if phase == 1 else phase * unit, dtype=frame.q[0].dtype)
            generators = (scale[..., None] * sines)[..., None, None] * units
            parts.append(_parts(frame, cores=frame.expand().generate(generators)))
    for q, layer in zip(frame.q[1:-1], range(depth - 1), strict=True):
        for unit in _left_units(frame, q):
            half = unit / math.sqrt(2)
            parts.append(_parts(frame, lefts={layer: half}, rights={layer + 1: -sign * half}))
    return parts


def _complement(frame: BalancedFrame, q: Any) -> Any:
    """Orthonormal basis of the orthogonal complement of the columns of q, shape=[..., d, d − r]."""
    return frame.xp.linalg.qr(q, mode="complete")[0][..., frame.rank :]


def _left_units(frame: BalancedFrame, q: Any) -> list[Any]:
    """Left parts ``n e_kᵀ`` for n in a basis of the complement of q: a list of none or one, shape=[..., n, d, r]."""
    normals = _complement(frame, q).mT
    if normals.shape[-2] == 0:
        return []
    units = normals[..., :, None, :, None] * frame.xp.eye(frame.rank, dtype=q.dtype)[:, None, :]
    return [_with_imaginary(frame, _merge(frame, units), -3)]


def _with_imaginary(frame: BalancedFrame, vectors: Any, axis: int) -> Any:
    """Of complex weights, vectors and i times these."""
    return vectors if frame.field == "real" else frame.xp.concat([vectors, 1j * vectors], axis=axis)


def _merge(frame: BalancedFrame, a: Any) -> Any:
    """Merge the fourth axis from the end into the third."""
    *batch, one, other, m, n = a.shape
    return frame.xp.reshape(a, (*batch, one * other, m, n))


def _parts(frame: BalancedFrame, cores: Any = None, **given: dict[int, Any]) -> Parts:
    """Parts of vectors, shape=[..., n, …] each, zero but for those given by layer."""
    some = cores if cores is not None else next(iter(next(iter(given.values())).values()))
    batch = tuple(some.shape[: -3 if cores is not None else -2])

    def zeros(*shape: int) -> Any:
        return frame.xp.zeros((*batch, *shape), dtype=frame.q[0].dtype)

    r, sizes = frame.rank, frame.widths
    shapes = {
        "lefts": [(d, r) if d > r else None for d in sizes[1:]],
        "rights": [(d, r) if d > r else None for d in sizes[:-1]],
        "nulls": [(d, c) if min(c, d) > r else None for c, d in pairwise(sizes)],
    }
    columns = {
        name: [None if shape is None else given.get(name, {}).get(p, zeros(*shape)) for p, shape in enumerate(layers)]
        for name, layers in shapes.items()
    }
    return Parts(zeros(frame.depth, r, r) if cores is None else cores, **columns)


def _assemble(frame: BalancedFrame, parts: list[Parts]) -> Weights:
    """Vectors of all the given parts, one after the other along the axis before the layers."""
    expanded = frame.expand()
    if not parts:
        return stack_like(
            frame.weights, [w[..., None, :, :][..., :0, :, :] for w in layers_of(frame.weights, "complex")]
        )
    layers = [layers_of(expanded.assemble(part), "complex") for part in parts]
    return stack_like(frame.weights, [frame.xp.concat(column, axis=-3) for column in zip(*layers, strict=True)])
