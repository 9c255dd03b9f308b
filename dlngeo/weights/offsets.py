r"""Weights that are balanced up to multiples of the identity, and how far others are from them.

Weights with ``G_p = (c_{p+1} − c_p) I`` move their product by the metric of
:class:`~dlngeo.kernels.RelaxedDepthKernel`, weights of any other imbalance by the map Â of
:func:`~dlngeo.weights.network.effective_cometric`. The offsets of :func:`fit_offsets` are those for which the rest
``Δ_p = G_p − (c_{p+1} − c_p) I`` is least; as gradient flow conserves it, it bounds the error of the metric for good.

**Theorem.** Let all inner widths be ``d = min(m, n)``, and X of full rank, its least singular value ``σ² = h(x)``. Let
J be the matrix of the quadratic form ``Σ_p (x + c_p)(v_p − v_{p−1})²``, ``v_0 = v_N = 0``, let ``δ_p = ‖Δ_p‖``, and
e run over the sums ``e_p = 1_{p−1} + 1_p`` of unit vectors. Then, if κ < 1,

.. math:: (1 - \kappa)\, A_c \le \hat A \le (1 - \kappa)^{-1} A_c, \qquad
    \kappa = \max_e \tfrac12 \big[e^\top J^{-1} \delta + (e^\top J^{-1} e)^{1/2} (\delta^\top J^{-1} \delta)^{1/2}\big],

with the map ``A_c`` of the weights of X that have the offsets: the kernel, but for ``σ²/(x + c)`` in place of
``φ(σ, 0) = σ²/x`` where the larger side of X has a layer of offset c.

*Proof.* The layers over X are one orbit of ``GL(d)^{N−1}``: up to rotations ``W_p = e^{S_p} W⁰_p e^{−S_{p−1}}`` with
symmetric S, ``S_0 = S_N = 0``, and layers ``W⁰`` of these offsets. Then ``A_{p+1} = A⁰_{p+1} e^{−S_p}`` and
``B_{p−1} = e^{S_{p−1}} B⁰_{p−1}``, so that the p-th term of Â lies between ``e^{±2a}`` times that of ``A_c``, where
``a = max_p (‖S_p‖ + ‖S_{p−1}‖)``. On the path ``W(t)`` with tS for S, ``−Σ_p ⟨S_p, G_p(t)⟩`` grows at the rate
``2 Σ_p ‖S_p W_p(t) − W_p(t) S_{p−1}‖² ≥ 2 e^{−2at} Σ_p ‖S_p W⁰_p − W⁰_p S_{p−1}‖²``, and the last sum is at least
``vᵀJv`` for ``v_p = ‖S_p‖``. Integrated, ``vᵀJv ≤ τ vᵀδ``, ``τ = a/(1 − e^{−2a})``, an ellipsoid in which
``eᵀv ≤ τκ``. As ``a ≤ max eᵀv``, ``1 − e^{−2a} ≤ κ``. ∎
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlngeo import _check
from dlngeo._autodiff import untraced
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.weights.network import Weights, cometric_factors, end_to_end, imbalance, layers_of, offsets_of, widths

__all__ = ["OffsetFit", "fit_offsets", "offset_imbalance"]

Array = NDArray[np.float64]

_DENSE = 1024  # entries of the product up to which the error is that of a matrix
_ROUND = 64 * np.finfo(float).eps  # of the squared norm of the weights: offsets that differ by less are equal


def offset_imbalance(offsets: Iterable[float], weights: Weights) -> list[Any]:
    """Return the imbalance ``(c_{p+1} − c_p) I`` of given offsets, shape=[d_p, d_p], for weights of these widths.

    See Also
    --------
    dlngeo.imbalance
    dlngeo.weights.offsets.fit_offsets

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, imbalance
    >>> from dlngeo.weights.offsets import offset_imbalance
    >>> weights = balanced_weights(np.diag([2.0, 1.0]), 3, offsets=[0, 2, 1])
    >>> bool(np.allclose(imbalance(weights), offset_imbalance([0, 2, 1], weights)))
    True
    """
    layers = layers_of(weights)
    xp, values = _check.floating(layers[0])[0], offsets_of(offsets, len(layers))
    steps = zip(pairwise(values), widths(layers)[1:-1], strict=True)
    return [(upper - lower) * xp.eye(d, dtype=layers[0].dtype) for (lower, upper), d in steps]


@dataclass(frozen=True)
class OffsetFit:
    """Offsets of given weights, and how well their kernel predicts the flow of the product.

    Attributes
    ----------
    offsets : array, shape=[N]
        The ``c_p``, of the layers in their order, the least moved to zero.
    widths : tuple of int
        Widths ``(d_0, …, d_N)``.
    rest : array, shape=[N−1]
        ``δ_p = ‖G_p − (c_{p+1} − c_p) I‖``, which gradient flow conserves.
    imbalance : float
        ``max_p δ_p / (‖W_{p+1}ᵀ W_{p+1}‖ + ‖W_p W_pᵀ‖)``: from 0, weights with these offsets, to 1.
    error : float
        Largest relative error ``‖Â(P) − A(P)‖/‖A(P)‖`` of the velocity that the kernel predicts, over all covectors P
        of the tangent space at the rank of the network, in the norm of the metric.
    exact : bool
        Whether it is that; otherwise a bound.

    See Also
    --------
    dlngeo.weights.offsets.fit_offsets
    dlngeo.kernels.RelaxedDepthKernel

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import end_to_end
    >>> from dlngeo.weights.offsets import fit_offsets
    >>> weights = [np.diag([1.0, 2.0]), np.diag([2.0, 2.7])]  # G = diag(3, 3.29), 0.145 each from the mean 3.145
    >>> fit = fit_offsets(weights)
    >>> fit.offsets.round(4), fit.rest.round(4)
    (array([0.   , 3.145]), array([0.2051]))
    >>> bool(0 < fit.error < fit.bound(end_to_end(weights)))
    True
    """

    offsets: Array
    widths: tuple[int, ...]
    rest: Array
    imbalance: float
    error: float
    exact: bool

    @cached_property
    def kernel(self) -> RelaxedDepthKernel:
        """The kernel of the offsets."""
        return RelaxedDepthKernel(self.offsets)

    def bound(self, x: Any) -> Array:
        """Bound :attr:`error` for all weights of this imbalance and of a product X, shape=[...].

        So for the products all along the flow, of which the least singular value alone counts: ``κ/(1 − κ)`` of
        :mod:`dlngeo.weights.offsets`, infinite where κ ≥ 1, where X has not full rank, or an inner width is not
        ``min(m, n)``.

        Parameters
        ----------
        x : array, shape=[..., m, n]
            Products.

        Raises
        ------
        ValueError
            If X has another shape, or NaN or infinite entries.
        """
        n, *inner, m = self.widths
        x = _check.matrices(_check.real(untraced(x), "the product").astype(float), m, n, "the product")
        _check.finite(np, x, "the product")
        if any(d != min(m, n) for d in inner):
            return np.full(x.shape[:-2], math.inf)
        least = self.kernel.shared(np.linalg.svd(x, compute_uv=False)[..., -1])
        kappa = self._kappa(least)
        # The layer of the larger side, whose offset the kernel does not see at its null directions.
        c = 0.0 if m == n else float(self.offsets[-1 if m > n else 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            outer = np.where(c > 0, least / (least + c), 1.0)
            error = np.maximum(kappa / (1 - kappa), 1 - (1 - kappa) * outer)
        return np.where(kappa < 1, error, math.inf)

    def _kappa(self, x: Array) -> Array:
        """Return the κ of the theorem, shape=[...]; infinite where J is singular."""
        inner = len(self.offsets) - 1
        if inner == 0:
            return np.zeros_like(x)
        conductance = x[..., None] + self.offsets
        form = np.zeros((*x.shape, inner, inner))
        i = np.arange(inner)
        form[..., i, i] = conductance[..., :-1] + conductance[..., 1:]
        form[..., i[1:], i[:-1]] = form[..., i[:-1], i[1:]] = -conductance[..., 1:-1]
        regular = np.linalg.eigvalsh(form)[..., 0] > _ROUND * np.max(form, axis=(-2, -1))
        inverse = np.linalg.inv(np.where(regular[..., None, None], form, np.eye(inner)))
        pairs = np.eye(inner + 1, inner) + np.eye(inner + 1, inner, -1)
        energy = np.einsum("i,...ij,j->...", self.rest, inverse, self.rest)
        own = np.einsum("ei,...ij,ej->...e", pairs, inverse, pairs)
        cross = np.einsum("ei,...ij,j->...e", pairs, inverse, self.rest)
        return np.where(regular, np.max(cross + np.sqrt(own * energy[..., None]), axis=-1) / 2, math.inf)


def fit_offsets(weights: Weights) -> OffsetFit:
    """Fit offsets to weights: by how far ``W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ = (c_{p+1} − c_p) I`` fails, and what it costs.

    The ``c_{p+1} − c_p = tr G_p/d_p`` are the means of the eigenvalues of ``G_p``: the multiples of the identity
    nearest to each, whatever the widths, so that each ``δ_p`` is the least, on which the bound depends. Offsets that
    differ by round-off are equal.

    The error at these weights is computed, up to 1024 entries of the product: the eigenvalues of Â in the metric of the
    kernel. For larger products it is bounded, by the eigenvalues of ``A_{p+1} A_{p+1}ᵀ`` and ``B_{p−1}ᵀ B_{p−1}`` in
    those of the weights with these offsets. :meth:`OffsetFit.bound` holds along the flow.

    Parameters
    ----------
    weights : sequence of array, shape=[d_p, d_{p−1}], or array, shape=[N, d, d], or torch.nn.Sequential
        One network.

    Raises
    ------
    TypeError
        If weights are no arrays of real numbers.
    ValueError
        If they do not fit together, have batch axes or are not finite.

    See Also
    --------
    dlngeo.weights.offsets.offset_imbalance
    dlngeo.weights.network.rebalance
    dlngeo.balanced_weights

    Examples
    --------
    >>> fit = fit_offsets([np.diag([1.0, 2.0]), np.diag([2.0, 7.0**0.5])])
    >>> fit.offsets, fit.error < 1e-12
    (array([0., 3.]), True)
    """
    layers = [_check.real(untraced(w), "the weights").astype(float) for w in layers_of(weights)]
    for p, w in enumerate(layers, 1):
        if w.ndim != 2:
            raise ValueError(f"layer {p} has shape {w.shape}; offsets are fitted to one network, without batch axes.")
        _check.finite(np, w, f"layer {p}")
    found = imbalance(layers)
    size = sum(float(np.sum(w**2)) for w in layers)
    offsets = _merged(np.cumsum([0.0, *(np.trace(g) / len(g) for g in found)]), _ROUND * size)
    steps = list(zip(found, offset_imbalance(offsets, layers), pairwise(layers), strict=True))
    rest = np.array([np.linalg.norm(g - level) for g, level, _ in steps])
    whole = np.array([np.linalg.norm(b.T @ b) + np.linalg.norm(a @ a.T) for *_, (a, b) in steps])
    error, exact = _error(layers, offsets)
    return OffsetFit(
        offsets=offsets,
        widths=widths(layers),
        rest=rest,
        imbalance=float(np.max(rest / np.where(whole > 0, whole, 1.0), initial=0.0)),
        error=error,
        exact=exact,
    )


def _merged(offsets: Array, tolerance: float) -> Array:
    """Offsets with the least at zero, those equal that differ by no more than the tolerance from the next below."""
    order = np.argsort(offsets)
    steps = np.diff(offsets[order], prepend=offsets[order[0]])
    out = np.empty_like(offsets)
    out[order] = np.cumsum(np.where(steps > tolerance, steps, 0.0))
    return out


def _error(layers: list[Array], offsets: Array) -> tuple[float, bool]:
    """Largest relative error of the kernel in its own metric, or a bound, and whether it is exact."""
    x, kernel, r = end_to_end(layers), RelaxedDepthKernel(offsets), min(widths(layers))
    (m, n), (u, s, vt) = x.shape, np.linalg.svd(x)
    left, right = np.zeros(m), np.zeros(n)
    left[:r], right[:r] = s[:r], s[:r]
    factors = [(u.T @ a @ u, vt @ b @ vt.T) for a, b in cometric_factors(layers)]
    if m * n <= _DENSE:
        tangent = ((np.arange(m) < r)[:, None] | (np.arange(n) < r)).ravel()
        effective = np.sum([np.kron(a, b) for a, b in factors], axis=0)[np.ix_(tangent, tangent)]
        return max(_apart(effective, kernel(left[:, None], right[None, :]).ravel()[tangent])), True
    worst = 0.0
    for p, (a, b) in enumerate(factors):
        below_a, above_a = _apart(a, np.prod(kernel.shared(left)[:, None] + offsets[p + 1 :], axis=-1))
        below_b, above_b = _apart(b, np.prod(kernel.shared(right)[:, None] + offsets[:p], axis=-1))
        worst = max(worst, 1 - (1 - below_a) * (1 - below_b), (1 + above_a) * (1 + above_b) - 1)
    return worst, False


def _apart(a: Array, diagonal: Array) -> tuple[float, float]:
    """Least ``b, c ≥ 0`` with ``(1 − b) D ≤ A ≤ (1 + c) D`` for a positive A and diagonal D; infinite if none."""
    positive = diagonal > 0
    if not positive.all() and np.abs(a[~positive]).max() > _ROUND * np.abs(a).max():
        return 1.0, math.inf
    if not positive.any():
        return 0.0, 0.0
    scale = diagonal[positive] ** -0.5
    values = np.linalg.eigvalsh(scale[:, None] * a[np.ix_(positive, positive)] * scale)
    return max(0.0, 1 - float(values[0])), max(0.0, float(values[-1]) - 1)
