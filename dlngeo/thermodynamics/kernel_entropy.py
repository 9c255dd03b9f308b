r"""The entropy that belongs to a kernel.

The volume of the leaf over a matrix is, up to a constant, that of the pairs of singular values,

.. math:: S(X) = \tfrac12 \sum_{k<l\le r} \log\varphi(\sigma_k, \sigma_l)
    + \tfrac{d - r}2 \sum_k \log\varphi(\sigma_k, 0) + \text{const}, \qquad d = \min(m, n),

for networks of inner widths d: balanced ones, where it is the formula of Menon and Yu [1]_, and those that are balanced
up to multiples of the identity, see ``docs/relaxed.md`` for a proof. With ``a = σ²`` and ``φ = f(a_k, a_l)``
derivatives are those of ``½ log f``, by divided differences of f alone, so that nothing cancels where singular values
coincide.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
"""

from __future__ import annotations

from typing import Any

from dlngeo import _check
from dlngeo.kernels import Kernel, RelaxedDepthKernel, require_kernel
from dlngeo.thermodynamics.entropy import _diagonal, _log, log_stiefel_volume, require_positive, sized

__all__ = ["KernelEntropy"]


class KernelEntropy:
    r"""The entropy of a kernel as a function of the singular values, shape=[..., r], in any order.

    Parameters
    ----------
    m, n : int
        Shape of the matrices.
    kernel : Kernel
        The kernel φ.
    rank : int, optional
        Rank r. Defaults to ``min(m, n)``.
    field : "real" or "complex"
        Numbers that the matrices have as entries. Of complex ones all sums count twice, and
        ``½ Σ_k log φ(σ_k, σ_k)`` is added.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    kernel, rank
        φ and r.
    constant : float
        ``(N − 1) log vol O(d)``, or ``U(d)``, of a :class:`~dlngeo.kernels.RelaxedDepthKernel` that is not normalised,
        at full rank; otherwise 0, and only differences of S mean something.

    Raises
    ------
    TypeError
        If ``kernel`` is no kernel, or the rank no integer.
    ValueError
        If the rank exceeds a side, or the kernel is no metric at it.

    See Also
    --------
    dlngeo.thermodynamics.entropy.SpectralEntropy
    dlngeo.entropy

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> from dlngeo.thermodynamics.kernel_entropy import KernelEntropy
    >>> s = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.5]])
    >>> values = [entropy(s) for entropy in (KernelEntropy(3, 3, DepthKernel(4)), SpectralEntropy(3, 3, 4))]
    >>> bool(np.isclose(*np.diff(values)))  # equal but for a constant
    True
    """

    def __init__(self, m: int, n: int, kernel: Kernel, rank: int | None = None, field: _check.Field = "real") -> None:
        self.field = _check.field(field)
        self.dimension = 1 if field == "real" else 2
        m, n = (_check.positive_integer(size, "a side of the matrices") for size in (m, n))
        width = min(m, n)
        self.shape, self.kernel, self.rank = (m, n), kernel, width if rank is None else _check.rank(rank, m, n)
        require_kernel(kernel, width, width, self.rank)
        self._spare, self.constant = width - self.rank, 0.0
        if isinstance(kernel, RelaxedDepthKernel) and not kernel.normalized and self._spare == 0:
            self.constant = (kernel.offsets.size - 1) * log_stiefel_volume(width, width, field)

    @property
    def flat(self) -> bool:
        """Whether S is constant: at depth 1."""
        return self.kernel.depth == 1

    def __call__(self, s: Any) -> Any:
        """S, shape=[...], at σ; ``−inf`` where the volume is zero."""
        xp, s = sized(self.rank, *_check.singular_values(s))
        value = xp.where(_diagonal(xp, s), 0.0, _log(xp, self.kernel(s[..., :, None], s[..., None, :])))
        total = xp.sum(value, axis=(-2, -1)) / 4
        if self._spare:
            total = total + self._spare / 2 * xp.sum(_log(xp, self.kernel(s, xp.zeros_like(s))), axis=-1)
        total = self.dimension * total
        if self.field == "complex":
            total = total + xp.sum(_log(xp, self.kernel(s, s)), axis=-1) / 2
        return self.constant + total

    def gradient(self, s: Any) -> Any:
        r"""Partial derivatives ``f_k = ∂S/∂σ_k``, shape=[..., r].

        .. math::
            f_k = \sigma_k \Big[\sum_{l \ne k} \frac{\psi_{\sigma_l}(\sigma_k, \sigma_k)}{\varphi(\sigma_k, \sigma_l)}
            + (d - r) \frac{\psi_0(\sigma_k, \sigma_k)}{\varphi(\sigma_k, 0)}\Big] .
        """
        xp, s = self._regular(s)
        return 2 * s * self._slope(xp, s)

    def hessian(self, s: Any) -> Any:
        """``∂²S/∂σ_k∂σ_l``, shape=[..., r, r]."""
        xp, s = self._regular(s)
        row, column = xp.broadcast_arrays(s[..., :, None], s[..., None, :])
        phi, kernel = self.kernel(row, column), self.kernel
        one = kernel.divided_difference(column, row, row) / phi
        across = self.dimension / 2 * (kernel.mixed_divided_difference(row, row, column, column) / phi - one * one.mT)
        along = xp.where(
            _diagonal(xp, s), 0.0, kernel.second_divided_difference(column, row, row, row) / phi - one**2 / 2
        )
        total = xp.sum(along, axis=-1)
        if self._spare:
            zero = xp.zeros_like(s)
            phi = kernel(s, zero)
            one = kernel.divided_difference(zero, s, s) / phi
            total = total + self._spare * (kernel.second_divided_difference(zero, s, s, s) / phi - one**2 / 2)
        total = self.dimension * total
        if self.field == "complex":
            own = 2 * kernel.second_divided_difference(s, s, s, s) + kernel.mixed_divided_difference(s, s, s, s)
            total = total + own / kernel(s, s) - 2 * self._phase(s) ** 2
        diagonal = 4 * s**2 * total + 2 * self._slope(xp, s)
        return xp.where(_diagonal(xp, s), diagonal[..., None], 4 * row * column * across)

    def quotients(self, s: Any) -> tuple[Any, Any]:
        r"""``(f_k − f_l)/(σ_k − σ_l)`` and ``(f_k + f_l)/(σ_k + σ_l)`` for ``f = ∂S/∂σ``, shape=[..., r, r] each.

        With ``g = ∂S/∂a`` the first is ``g_k + g_l + (σ_k + σ_l)² (g_k − g_l)/(a_k − a_l)``, where

        .. math:: 2\frac{g_k - g_l}{a_k - a_l} = \frac{f[k,k,l;l] + f[k,l,l;l] - f[l,l;k,l]}{f(k, l)}
            + \sum_{j \ne k, l} \Big[\frac{f[k,k,l;j] + f[k,l,l;j]}{f(k, j)}
            - \frac{f[l,l;j]\, f[k,l;j]}{f(k, j)\, f(l, j)}\Big],

        with ``d − r`` terms more at ``σ_j = 0``. Its diagonal is zero, and to be replaced by :meth:`hessian`.
        """
        xp, s = self._regular(s)
        kernel, slope = self.kernel, self._slope(xp, s)
        row, column = xp.broadcast_arrays(s[..., :, None], s[..., None, :])
        own = kernel.second_divided_difference(column, row, row, column)
        own = own + kernel.second_divided_difference(column, row, column, column)
        own = (own - kernel.mixed_divided_difference(column, column, row, column)) / kernel(row, column)

        def with_third(third: Any, one: Any, two: Any) -> Any:
            curve = kernel.second_divided_difference(third, one, one, two)
            curve = curve + kernel.second_divided_difference(third, one, two, two)
            turn = kernel.divided_difference(third, two, two) * kernel.divided_difference(third, one, two)
            return (curve - turn / kernel(two, third)) / kernel(one, third)

        one, two, third = xp.broadcast_arrays(s[..., :, None, None], s[..., None, :, None], s[..., None, None, :])
        index = xp.arange(self.rank)
        mine = (index == index[:, None, None]) | (index == index[:, None])
        total = own + xp.sum(xp.where(mine, 0.0, with_third(third, one, two)), axis=-1)
        if self._spare:
            total = total + self._spare * with_third(xp.zeros_like(row), row, column)
        total = self.dimension * total
        if self.field == "complex":
            second, first = kernel.second_divided_difference, kernel.divided_difference
            change = second(row, row, row, column) + second(row, row, column, column)
            change = change + kernel.mixed_divided_difference(column, column, row, column)
            phi = first(row, row, column) + first(column, row, column)
            total = total + 2 * (change - self._phase(column) * phi) / kernel(row, row)
        f = 2 * s * slope
        minus = slope[..., :, None] + slope[..., None, :] + (row + column) ** 2 * total / 2
        return xp.where(_diagonal(xp, s), 0.0, minus), (f[..., :, None] + f[..., None, :]) / (row + column)

    def _slope(self, xp: Any, s: Any) -> Any:
        """``∂S/∂a_k``."""
        row, column = xp.broadcast_arrays(s[..., :, None], s[..., None, :])
        pairs = self.kernel.divided_difference(column, row, row) / self.kernel(row, column)
        total = xp.sum(xp.where(_diagonal(xp, s), 0.0, pairs), axis=-1) / 2
        if self._spare:
            zero = xp.zeros_like(s)
            total = total + self._spare / 2 * self.kernel.divided_difference(zero, s, s) / self.kernel(s, zero)
        return total if self.field == "real" else 2 * total + self._phase(s)

    def _phase(self, s: Any) -> Any:
        """``∂/∂a_k`` of ``½ log φ(σ_k, σ_k)``."""
        return self.kernel.divided_difference(s, s, s) / self.kernel(s, s)

    def _regular(self, s: Any) -> tuple[Any, Any]:
        """Return ``(xp, s)`` after checking that S is differentiable at s."""
        xp, s = sized(self.rank, *_check.singular_values(s))
        if not self.kernel.smooth_at_zero:
            require_positive(xp, s)
        return xp, s
