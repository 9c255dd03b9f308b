"""The kernels of the deep linear network, of any real depth and of infinite depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dlngeo import _check
from dlngeo.kernels import _divided
from dlngeo.kernels.kernel import Kernel

__all__ = ["DepthKernel", "InfiniteDepthKernel", "of_depth"]


class _PowerKernel(Kernel):
    """``h[a_s, a_t]`` of ``h(a) = a^N``, times a number, and its differences; ``h = exp`` at infinite N."""

    array_api = True
    _depth: float
    _scale: float
    _epsilons: tuple[float, float, float]  # 1/N, 1 − 1/N and 1 − 2/N

    def _of(self, function: Callable[..., Any], *values: Any, terms: int = 3, at_one: float = 0.0) -> Any:
        """Evaluate a function of :mod:`dlngeo.kernels._divided`, or the constant that it is at N = 1."""
        xp, *arrays = _check.singular_values(*values)
        if self._depth == 1:
            return xp.zeros_like(sum(arrays)) + at_one
        return self._scale * function(xp, *arrays, *self._epsilons[:terms])

    def __call__(self, s: Any, t: Any) -> Any:
        return self._of(_divided.phi, s, t, terms=2, at_one=1.0)

    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        return self._of(_divided.psi, r, s, t, terms=2)

    def second_divided_difference(self, r: Any, s: Any, t: Any, u: Any) -> Any:
        r"""Evaluate ``(ψ_r(s, u) − ψ_r(s, t)) / (u² − t²)``.

        .. math:: \frac{h[a_r, a_s, a_t, a_u]\, h[a_t, a_u] - h[a_r, a_t, a_u]\, h[a_s, a_t, a_u]}
            {h[a_s, a_t]\, h[a_t, a_u]\, h[a_s, a_u]},

        to about 1e-12 relative error, for ratios of the values to 1e6; ``−inf`` for N > 1 where two of ``s``, ``t``,
        ``u`` are zero.
        """
        return self._of(_divided.second_of_kernel, r, s, t, u)

    def mixed_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        r"""Evaluate ``(ψ_r(s, t) − ψ_q(s, t)) / (r² − q²) = h[a_q, a_r, a_s, a_t] / (h[a_q, a_r] h[a_s, a_t])``.

        It has the sign of N − 2 for N > 1, is 0 at N = 1 and N = 2, and is accurate to about 1e-12 relative error, for
        ratios of the values to 1e6. Infinite for N > 1, N ≠ 2, where ``q = r = 0`` or ``s = t = 0``.
        """
        return self._of(_divided.mixed_of_kernel, q, r, s, t)

    def third_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``h[a_q, a_r, a_s, a_t]``; at most two of the values may be zero."""
        return self._scale**2 * self._of(_divided.scaled_third, q, r, s, t)


class DepthKernel(_PowerKernel):
    r"""Kernel of the depth-N deep linear network.

    .. math::
        \varphi_N(s, t) = \frac{s^2 - t^2}{s^{2/N} - t^{2/N}}, \qquad
        \varphi_N(s, s) = N s^{2 - 2/N}, \qquad \varphi_N(s, 0) = s^{2 - 2/N}.

    With ``a = σ^{2/N}`` and ``h(x) = x^N`` this is the first divided difference ``h[a_s, a_t]``, and
    ``ψ_r(s, t) = h[a_r, a_s, a_t] / h[a_s, a_t]``. Both are evaluated to about 1e-13 relative error over the whole
    range of doubles in which they are representable, at equal and at zero singular values included. The divided
    differences of ``ψ`` come from ``h[a_q, a_r, a_s, a_t]``, see :meth:`mixed_divided_difference`.

    Parameters
    ----------
    depth : float
        Number of layers N, real, at least 1. Depth 1 is the Frobenius metric; depth 2 restricted to
        symmetric positive definite matrices is twice the Bures–Wasserstein metric.
    normalized : bool
        Divide ``φ`` by N. This is the convention in which the limit N → ∞, :class:`InfiniteDepthKernel`,
        exists.

    Raises
    ------
    TypeError
        If ``depth`` is not a real number.
    ValueError
        If ``depth`` is below 1, or infinite (use :class:`InfiniteDepthKernel`).

    See Also
    --------
    dlngeo.InfiniteDepthKernel
    dlngeo.kernels.RelaxedDepthKernel
    dlngeo.check_kernel

    Notes
    -----
    ``ψ_r(0, 0)`` is ``inf`` for N > 1: the kernel is not differentiable at a vanishing singular value.

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
    .. [2] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks", ICML 2018, Claim 2.

    Examples
    --------
    >>> from dlngeo import DepthKernel
    >>> round(float(DepthKernel(3)(2.0, 1.0)), 6)
    5.107243
    >>> float(DepthKernel(2)(2.0, 1.0))  # the sum of both
    3.0
    """

    def __init__(self, depth: float, normalized: bool = False) -> None:
        self._depth = _check.depth(depth)
        self.normalized = bool(normalized)
        self._scale = 1.0 if self.normalized else self._depth
        self._epsilons = 1 / self._depth, (self._depth - 1) / self._depth, (self._depth - 2) / self._depth

    @property
    def depth(self) -> float:
        """Depth N."""
        return self._depth

    def __repr__(self) -> str:
        return f"{type(self).__name__}(depth={self._depth:g}, normalized={self.normalized})"


class InfiniteDepthKernel(_PowerKernel):
    r"""Kernel of the infinitely deep linear network: the limit of the normalised depth kernel.

    .. math::
        \varphi_\infty(s, t) = \frac{s^2 - t^2}{\log s^2 - \log t^2}, \qquad
        \varphi_\infty(s, s) = s^2, \qquad \varphi_\infty(s, 0) = 0,

    the logarithmic mean of ``s²`` and ``t²``.

    See Also
    --------
    dlngeo.DepthKernel
    dlngeo.kernels.RegularizedKernel

    Notes
    -----
    A vanishing singular value is infinitely far, and ``φ_∞(s, 0) = 0``: the metric lives on square
    invertible matrices only.

    References
    ----------
    .. [1] N. Cohen, G. Menon, Z. Veraszto, "Deep linear networks for matrix completion: an infinite depth limit",
       SIAM J. Appl. Dyn. Syst. 22 (2023), arXiv:2210.12497.

    Examples
    --------
    >>> from dlngeo import DepthKernel, InfiniteDepthKernel
    >>> round(float(InfiniteDepthKernel()(2.0, 1.0)), 6)
    2.164043
    >>> round(float(DepthKernel(1e6, normalized=True)(2.0, 1.0)), 6)
    2.164041
    """

    depth = _depth = math.inf
    normalized = True
    _scale, _epsilons = 1.0, (0.0, 1.0, 1.0)


def of_depth(depth: float, normalized: bool = False) -> DepthKernel | InfiniteDepthKernel:
    """Return the kernel of a depth: real and at least 1, or ``inf``, which is always normalised.

    Raises
    ------
    TypeError
        If ``depth`` is not a real number.
    ValueError
        If ``depth`` is below 1.

    See Also
    --------
    dlngeo.DepthKernel
    dlngeo.InfiniteDepthKernel

    Examples
    --------
    >>> import math
    >>> from dlngeo.kernels import of_depth
    >>> of_depth(3)
    DepthKernel(depth=3, normalized=False)
    >>> of_depth(math.inf)
    InfiniteDepthKernel()
    """
    depth = _check.depth(depth, allow_infinite=True)
    return InfiniteDepthKernel() if math.isinf(depth) else DepthKernel(depth, normalized)
