r"""The entropy of a deep linear network as a function of the singular values, with two stable derivatives.

The balanced weights of rank r with product ``X = U Σ Vᵀ`` are ``W_p = Q_p Λ Q_{p−1}ᵀ`` with ``Q_0 = V``, ``Q_N = U``
and any inner frames ``Q_p ∈ St(d_p, r)``: one orbit of the orthogonal groups. The logarithm of its volume in the flat
space of weights is the entropy [1]_,

.. math:: S(X) = \sum_{p=1}^{N-1} \Big[\log\frac{c_{d_p}}{c_{d_p - r}} + (d_p - r) \sum_k \log\lambda_k\Big]
    + \tfrac12 \sum_{k<l} \log\varphi_N(\sigma_k, \sigma_l), \qquad c_d = \operatorname{vol} O(d) .

For in the metric of the flat space a rotation of ``Q_p`` within its columns is measured by the Jacobi matrices of
:mod:`dlngeo.weights.balanced`, of determinant ``φ_N``, and one that turns its k-th column out of them by ``√2 λ_k``.

In ``u_k = log σ_k`` the pairs give ``½(1 − 1/N)(u_k + u_l) + ½H(u_k − u_l)`` with ``H(x) = log(sinh x/sinh(x/N))``,
which is smooth and even. So S is smooth through coinciding singular values, and what looks like 0/0 there in its
derivatives is a divided difference of ``H′``.

**Depths.** At integer N every constant is that of the orbit. At real N, where there are no weights, the formula is
continued with all inner widths equal to ``d = min(m, n)``, and only differences of S mean something. As N → ∞
the entropy diverges with the number of frames, and

.. math:: S_N - (N - 1) \log\frac{c_d}{c_{d-r}} - \frac{r(r-1)}{4} \log N \;\to\; S_\infty
    = \tfrac12 \sum_{k<l} \log\varphi_\infty(\sigma_k, \sigma_l) + (d - r) \sum_k \log\sigma_k ,

which is what infinite depth means here. The derivatives converge as they are, to those of ``S_∞``.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.special import zeta

from dlngeo import _check
from dlngeo.kernels import Kernel, of_depth
from dlngeo.weights.network import _widths_for

__all__ = ["SpectralEntropy", "log_orthogonal_volume", "log_stiefel_volume"]

# Singular values closer than this, relative to the larger one, are close: quotients of others lose a factor of 1/_NEAR.
_NEAR = 1 / 16
# At ratios of singular values below this ψ leaves the range of doubles. Their squares are nothing next to 1.
_FAR = 1e-150
# Below this argument H′ is summed as a power series, of radius π; the 18th term is below 1e-16.
_SERIES = 1.0
_COEFFICIENTS = [2 * (-1) ** n * float(zeta(2 * n + 2)) / math.pi ** (2 * n + 2) for n in range(18)]


def log_orthogonal_volume(d: int) -> float:
    r"""Logarithm of the volume of the orthogonal group O(d) in the Frobenius metric.

    .. math:: c_d = 2^{d(d-1)/4} \prod_{k=1}^d \frac{2\pi^{k/2}}{\Gamma(k/2)}, \qquad c_0 = 1,

    since O(d) is fibred over spheres, whose radius is ``√2`` in this metric.

    Parameters
    ----------
    d : int
        Dimension, at least 0.

    Raises
    ------
    TypeError, ValueError
        If ``d`` is not such an integer.
    """
    d = 0 if d == 0 else _check.positive_integer(d, "d")
    spheres = (math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2) for k in range(1, d + 1))
    return d * (d - 1) / 4 * math.log(2) + math.fsum(spheres)


def log_stiefel_volume(d: int, r: int) -> float:
    """Logarithm of the volume ``c_d/c_{d−r}`` of St(d, r) as a quotient of O(d) with its Frobenius metric.

    Parameters
    ----------
    d, r : int
        Shape of the matrices with orthonormal columns, ``d ≥ r``.

    Raises
    ------
    TypeError, ValueError
        If they are not integers, or ``r`` is not between 0 and ``d``.
    """
    if not 0 <= r <= d:
        raise ValueError(f"r must be between 0 and d = {d}, got {r}: no more than d columns are orthonormal.")
    return log_orthogonal_volume(d) - log_orthogonal_volume(d - r)


class SpectralEntropy:
    r"""The entropy as a function of the singular values.

    Parameters
    ----------
    m, n : int
        Shape of the matrices.
    depth : float
        Number of layers N, real, at least 1, or ``inf`` for the renormalised limit.
    rank : int, optional
        Rank r. Defaults to the least width.
    widths : sequence of int, optional
        Widths ``(d_0, …, d_N)``, of which ``d_0 = n`` and ``d_N = m``. The inner ones default to ``min(m, n)``.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    depth, rank
        N and r.
    kernel : Kernel
        ``φ_N``.
    constant : float
        The part of S that does not depend on the singular values.
    excess : float
        ``κ = Σ_p (d_p − r)/N``, the factor of ``Σ_k log σ_k``.

    Raises
    ------
    TypeError
        If the depth, the rank or a width is not of its type.
    ValueError
        If they do not fit together.
    """

    def __init__(
        self, m: int, n: int, depth: float, rank: int | None = None, widths: Sequence[int] | None = None
    ) -> None:
        m, n = (_check.positive_integer(size, "a side of the matrices") for size in (m, n))
        self.shape, self.depth = (m, n), _check.depth(depth, allow_infinite=True)
        self.kernel: Kernel = of_depth(self.depth)
        if widths is None:
            width = min(m, n)
            self.rank = width if rank is None else _check.rank(rank, m, n)
            volume, spare = log_stiefel_volume(width, self.rank), width - self.rank
            finite = math.isfinite(self.depth)
            self.constant = (self.depth - 1) * volume if finite else 0.0
            self.excess = (self.depth - 1) / self.depth * spare if finite else float(spare)
            return
        sizes = _widths_for(widths, m, n)
        if len(sizes) - 1 != self.depth:
            raise ValueError(f"widths {tuple(sizes)} are those of depth {len(sizes) - 1}, not {self.depth:g}.")
        least = min(sizes)
        self.rank = least if rank is None else _check.rank(rank, least, least)
        self.constant = math.fsum(log_stiefel_volume(d, self.rank) for d in sizes[1:-1])
        self.excess = sum(d - self.rank for d in sizes[1:-1]) / self.depth

    def __call__(self, s: Any) -> Any:
        """Evaluate S, shape=[...], at singular values, shape=[..., r]; it is ``−inf`` where the volume is zero.

        Raises
        ------
        ValueError
            If they are not r, or negative, infinite or NaN.
        """
        xp, s = self._checked(s)
        total = self.constant + xp.zeros_like(s[..., 0])
        if self.depth > 1:
            large, small = xp.maximum(s[..., :, None], s[..., None, :]), xp.minimum(s[..., :, None], s[..., None, :])
            ratio = small / xp.where(large > 0, large, 1.0)
            far = ratio < _FAR
            phi = self.kernel(xp.ones_like(ratio), xp.where(far, 1.0, ratio))  # φ itself may leave the range of doubles
            log_phi = (2 - 2 / self.depth) * _log(xp, large)
            log_phi = log_phi + xp.where(far, self._distant(xp, large, small), _log(xp, phi))
            total = total + xp.sum(xp.where(_diagonal(xp, s), 0.0, log_phi), axis=(-2, -1)) / 4
        return total + self.excess * xp.sum(_log(xp, s), axis=-1) if self.excess else total

    def _checked(self, s: Any) -> tuple[Any, Any]:
        """Return ``(xp, s)`` after checking that s are r singular values, or many times r."""
        xp, s = _check.singular_values(s)
        if s.ndim == 0 or s.shape[-1] != self.rank:
            raise ValueError(f"{self.rank} singular values are expected, got shape {tuple(s.shape)}; the rank is r.")
        return xp, s

    def _distant(self, xp: Any, large: Any, small: Any) -> Any:
        """``log φ(1, ρ) = −log(1 − ρ^{2/N})`` for ratios ρ = small/large whose square is nothing next to 1."""
        some = small > 0
        gap = 2 * xp.where(some, xp.log(xp.where(some, large, 1.0)) - xp.log(xp.where(some, small, 1.0)), math.inf)
        return -_log(xp, gap if math.isinf(self.depth) else -xp.expm1(-gap / self.depth))

    def gradient(self, s: Any) -> Any:
        r"""Partial derivatives ``f_k = ∂S/∂σ_k``, shape=[..., r].

        .. math:: f_k = \sum_{l \ne k} \Big[\frac{\sigma_k}{\sigma_k^2 - \sigma_l^2}
                - \frac{\lambda_k^2}{N\sigma_k(\lambda_k^2 - \lambda_l^2)}\Big] + \frac{\kappa}{\sigma_k}
            = \sigma_k \sum_{l \ne k} \frac{\psi_l(k, k)}{\varphi_{kl}} + \frac{\kappa}{\sigma_k},

        of which the second form is free of cancellation. All are non-negative: volume grows with any singular value.

        Parameters
        ----------
        s : array, shape=[..., r]
            Singular values.

        Raises
        ------
        ValueError
            If a singular value vanishes and N > 1: there S is not differentiable. Or as for S itself.
        """
        xp, s = self._checked(s)
        if self.depth == 1:
            return xp.zeros_like(s)
        if not bool(xp.all(s > 0)):
            raise ValueError(
                f"the entropy is not differentiable at a singular matrix: the smallest singular value is "
                f"{float(xp.min(s)):g}. Move to a point of full rank, or declare a lower rank."
            )
        row, column = s[..., :, None], s[..., None, :]
        large = xp.maximum(row, column)
        a, b = row / large, column / large
        far = xp.minimum(a, b) < _FAR
        a, b = xp.where(far, 1.0, a), xp.where(far, 1.0, b)  # ψ itself may leave the range of doubles
        share = a**2 * self.kernel.divided_difference(b, a, a) / self.kernel(a, b)
        # Apart by more than that, σ_k²ψ/φ is 1/N(ρ^{−2/N} − 1) of the smaller, and 1 − 1/N less that of the larger.
        gap = 2 * xp.where(far, xp.abs(xp.log(row) - xp.log(column)), 1.0)
        part = gap / self.depth
        little = 1 / gap if math.isinf(self.depth) else -xp.exp(-part) / xp.expm1(-part) / self.depth
        share = xp.where(far, xp.where(row < column, little, 1 - 1 / self.depth - little), share)
        return (xp.sum(xp.where(_diagonal(xp, s), 0.0, share), axis=-1) + self.excess) / s

    def hessian(self, s: Any) -> Any:
        r"""Second partial derivatives, shape=[..., r, r].

        .. math:: \sigma_k \sigma_l \frac{\partial^2 S}{\partial\sigma_k\partial\sigma_l}
            = -\tfrac12 H''(u_k - u_l), \qquad
            \sigma_k^2 \frac{\partial^2 S}{\partial\sigma_k^2}
            = \tfrac12 \sum_{l \ne k} H''(u_k - u_l) - \sigma_k f_k .

        Parameters
        ----------
        s : array, shape=[..., r]
            Singular values.

        Raises
        ------
        ValueError
            As :meth:`gradient`.
        """
        xp, s = self._checked(s)
        row, column = s[..., :, None], s[..., None, :]
        slope = s * self.gradient(s)
        if self.depth == 1:
            return xp.zeros_like(row * column)
        gap = xp.log(row) - xp.log(column)
        diagonal = _diagonal(xp, s)
        bend = xp.where(diagonal, 0.0, _bend(xp, gap, gap, self.depth) / 2)
        return (xp.where(diagonal, (xp.sum(bend, axis=-1) - slope)[..., None], 0.0) - bend) / row / column

    def quotients(self, s: Any) -> tuple[Any, Any]:
        r"""``(f_k − f_l)/(σ_k − σ_l)`` and ``(f_k + f_l)/(σ_k + σ_l)``, shape=[..., r, r] each.

        They multiply the symmetric and the skew part of a direction in the second derivative of the spectral function
        S of a matrix. With ``p_k = σ_k f_k`` the first is, for close pairs,

        .. math:: \frac{1}{\sigma_k\sigma_l}\Big[\frac{\sigma_k + \sigma_l}{2} \frac{p_k - p_l}{\sigma_k - \sigma_l}
                - \frac{p_k + p_l}{2}\Big], \qquad
            p_k - p_l = \frac{u_k - u_l}{2} \sum_j H'[u_k - u_j, u_l - u_j],

        a sum that only they need. Its diagonal is zero, and to be replaced by :meth:`hessian`.

        Parameters
        ----------
        s : array, shape=[..., r]
            Singular values.

        Raises
        ------
        ValueError
            As :meth:`gradient`.
        """
        xp, s = self._checked(s)
        row, column = s[..., :, None], s[..., None, :]
        f = self.gradient(s)
        if self.depth == 1:
            zero = xp.zeros_like(row * column)
            return zero, zero
        fk, fl = f[..., :, None], f[..., None, :]
        diagonal = _diagonal(xp, s)
        near = xp.abs(row - column) < _NEAR * xp.maximum(row, column)
        minus = (fk - fl) / xp.where(near, 1.0, row - column)
        *batch, k, j = xp.nonzero(near & ~diagonal)
        if k.shape[0]:
            sk, sj, others = s[(*batch, k)], s[(*batch, j)], xp.log(s)[(*batch,)] if batch else xp.log(s)
            x, y = (xp.log(a)[:, None] - others for a in (sk, sj))
            ratio = sj / sk
            logarithm = xp.where(ratio == 1, 1.0, xp.log(ratio) / xp.where(ratio == 1, 1.0, ratio - 1))
            slope = logarithm / sk * xp.sum(_bend(xp, x, y, self.depth), axis=-1) / 2
            mean = f[(*batch, k)] * sk + f[(*batch, j)] * sj
            minus[(*batch, k, j)] = ((sk + sj) * slope - mean) / 2 / sk / sj
        return minus, (fk + fl) / (row + column)


def _bend(xp: Any, x: Any, y: Any, depth: float) -> Any:
    r"""Divided difference ``H′[x, y]`` for ``|x − y| < ½``; ``H″(x)`` at ``x = y``.

    .. math:: H'[x, y] = C_{1/N} - C_1, \quad C_\varepsilon = \frac{\varepsilon}{\sinh \varepsilon x}
        \frac{\varepsilon}{\sinh \varepsilon y} \frac{\sinh \varepsilon(x - y)}{\varepsilon(x - y)},

    and around zero, by the partial fractions of csch²,
    ``H′(x) = Σ_n 2(−1)ⁿ ζ(2n+2) π^{−2n−2} (1 − N^{−2n−2}) x^{2n+1}``.
    """
    small = xp.maximum(xp.abs(x), xp.abs(y)) < _SERIES
    a, b = (xp.where(small, value, 0.0) for value in (x, y))
    power, homogeneous, series = xp.ones_like(a), xp.ones_like(a), xp.zeros_like(a)
    for n, coefficient in enumerate(_COEFFICIENTS):
        series = series - coefficient * math.expm1(-(2 * n + 2) * math.log(depth)) * homogeneous
        for _ in range(2):
            power = power * a
            homogeneous = b * homogeneous + power
    a, b = (xp.where(small, 2.0, value) for value in (x, y))  # both of one sign
    return xp.where(small, series, _cosecants(xp, a, b, 1 / depth) - _cosecants(xp, a, b, 1.0))


def _cosecants(xp: Any, x: Any, y: Any, eps: float) -> Any:
    """``ε²/(sinh εx sinh εy) · sinh ε(x − y)/(ε(x − y))``, which is ``1/(xy)`` at ε = 0."""
    if eps == 0:
        return 1 / (x * y)
    gap = eps * (x - y)
    equal = gap == 0
    value = xp.where(equal, 1.0, xp.sinh(gap) / xp.where(equal, 1.0, gap))
    for z in (x, y):
        decay = -eps * xp.abs(z)
        value = value * (2 * eps * xp.exp(decay) / -xp.expm1(2 * decay))
    return value


def _diagonal(xp: Any, s: Any) -> Any:
    index = xp.arange(s.shape[-1])
    return index[:, None] == index


def _log(xp: Any, a: Any) -> Any:
    """Logarithm, ``−inf`` at zero without a warning."""
    return xp.where(a > 0, xp.log(xp.where(a > 0, a, 1.0)), -math.inf)
