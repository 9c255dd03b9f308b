r"""The entropy of a deep linear network as a function of the singular values, with two stable derivatives.

The balanced weights of rank r with product ``X = U Σ Vᵀ`` are ``W_p = Q_p Λ Q_{p−1}ᵀ`` with ``Q_0 = V``, ``Q_N = U``
and any inner frames ``Q_p ∈ St(d_p, r)``: one orbit of the orthogonal groups. The logarithm of its volume in the flat
space of weights is the entropy [1]_,

.. math:: S(X) = \sum_{p=1}^{N-1} \Big[\log\frac{c_{d_p}}{c_{d_p - r}} + (d_p - r) \sum_k \log\lambda_k\Big]
    + \tfrac12 \sum_{k<l} \log\varphi_N(\sigma_k, \sigma_l), \qquad c_d = \operatorname{vol} O(d) .

For in the metric of the flat space a rotation of ``Q_p`` within its columns is measured by the Jacobi matrices of
:mod:`dlngeo.weights.balanced`, of determinant ``φ_N``, and one that turns its k-th column out of them by ``√2 λ_k``.

S is evaluated in ``u_k = log σ_k``, which stay doubles where the ``σ_k = λ_k^N`` of deep networks do not. With
``y = 2|u_k − u_l|`` and ``ε = 1/N``,

.. math:: \log\varphi_N = 2(1 - \varepsilon) \max(u_k, u_l) + \log\frac{1 - e^{-y}}{1 - e^{-\varepsilon y}}
    = 2(1 - \varepsilon) \max(u_k, u_l) + \log\Big[1 + \frac{1 - e^{-(1 - \varepsilon)y}}{e^{\varepsilon y} - 1}\Big],

and ½ log φ_N has the slopes ``f(y) = ε/(e^{εy} − 1) − 1/(e^y − 1)`` in the smaller u and ``1 − ε − f`` in the larger.
As ``log φ_N = (1 − ε)(u_k + u_l) + H(u_k − u_l)`` with ``H(x) = log(sinh x/sinh εx)``, which is smooth and even, S is
smooth through coinciding singular values, and what looks like 0/0 there in its derivatives is a divided difference of
``H′``.

**Depths.** At integer N every constant is that of the orbit. At real N, where there are no weights, the formula is
continued with all inner widths equal to ``d = min(m, n)``, and only differences of S mean something. As N → ∞
the entropy diverges with the number of frames, and

.. math:: S_N - (N - 1) \log\frac{c_d}{c_{d-r}} - \frac{r(r-1)}{4} \log N \;\to\; S_\infty
    = \tfrac12 \sum_{k<l} \log\varphi_\infty(\sigma_k, \sigma_l) + (d - r) \sum_k \log\sigma_k ,

which is what infinite depth means here. The derivatives converge as they are, to those of ``S_∞``.

**Complex matrices.** The groups are unitary. Each pair turns in two planes, and each column in its phase, whose Jacobi
matrix has the determinant ``φ_N(σ_k, σ_k)``: with β = 1, 2 for real and complex numbers [2]_

.. math:: S(X) = \sum_{p=1}^{N-1} \Big[\log\frac{c_{d_p}}{c_{d_p - r}} + \beta (d_p - r) \sum_k \log\lambda_k\Big]
    + \tfrac\beta2 \sum_{k<l} \log\varphi_N(\sigma_k, \sigma_l)
    + \tfrac{\beta-1}2 \sum_k \log\varphi_N(\sigma_k, \sigma_k),
    \qquad c_d = \operatorname{vol} U(d) = 2^{d(d-1)/2} \prod_{k=1}^d \frac{2\pi^k}{\Gamma(k)},

at equal widths and full rank of the degree ``(1 − 1/N)[β d(d − 1)/2 + (β − 1) d]``. As ``log φ_N(σ, σ) = log N + (2 −
2/N) log σ``, what is added to β times the real derivatives is ``(β − 1)(1 − 1/N)`` for each ``∂S/∂u_k``; ``S_∞`` is the
limit of what is left without ``r²/2 log N``.

References
----------
.. [1] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [2] Contreras, Nahas, Kotwal, arXiv:2606.16579, on the entropy over the real, complex and quaternionic numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.special import zeta

from dlngeo import _check
from dlngeo.kernels import Kernel, of_depth
from dlngeo.weights.network import _widths_for

__all__ = ["SpectralEntropy", "log_orthogonal_volume", "log_stiefel_volume", "require_spectral"]

# Singular values closer than this, relative to the larger one, are close: quotients of others lose a factor of 1/_NEAR.
_NEAR = 1 / 16
# Below this argument H′ is summed as a power series, of radius π; the 18th term is below 1e-16.
_SERIES = 1.0
_COEFFICIENTS = [2 * (-1) ** n * float(zeta(2 * n + 2)) / math.pi ** (2 * n + 2) for n in range(18)]
# Pairs with ``y = 2|u_k − u_l|`` below this are close: the 12th term of the series in x = y/2 is below 1e-17.
CLOSE, _TERMS = 1.0, 11


# Slope of ½ log φ_N in the smaller logarithm of a pair, with operators alone: samplers compile these two for scalars.


def slope_apart(inverse: Any, rise: Any, decay: Any, rest: float) -> Any:
    """Slope f from ``ε/(e^{εy} − 1)``, ``1 − e^{−(1−ε)y}``, ``e^{−y}`` and ``1 − ε``, for y of at least 1.

    In this form f is accurate relative to itself at all depths, those near 1 included, where the difference is not.
    """
    return (inverse * rise - rest * decay) / (1 - decay)


def slope_close(y: Any, rest: float, series: Any) -> Any:
    """Slope ``f = ½[1 − ε − H′(y/2)]`` by :func:`bend_series`, for y below 1."""
    square, bend = y * y / 4, 0.0 * y
    for coefficient in series[::-1]:
        bend = bend * square + coefficient
    return (rest - bend * y / 2) / 2


def bend_series(depth: float, count: int = _TERMS) -> list[float]:
    """Coefficients ``2(−1)ⁿ ζ(2n+2) (1 − N^{−2n−2})/π^{2n+2}`` of ``H′(x)/x`` in x², by partial fractions of csch²."""
    return [-c * math.expm1(-(2 * n + 2) * math.log(depth)) for n, c in enumerate(_COEFFICIENTS[:count])]


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

    See Also
    --------
    dlngeo.thermodynamics.entropy.log_stiefel_volume

    Examples
    --------
    >>> from dlngeo.thermodynamics.entropy import log_orthogonal_volume
    >>> round(float(log_orthogonal_volume(2)), 6)
    2.877598
    """
    return log_stiefel_volume(d, d)


def log_stiefel_volume(d: int, r: int, field: _check.Field = "real") -> float:
    """Logarithm of the volume ``c_d/c_{d−r}`` of St(d, r) as a quotient of O(d), or U(d), with its Frobenius metric.

    It is that of r spheres, of dimensions ``d − r`` to ``d − 1``, or odd ones to ``2d − 1``, however large d is.

    Parameters
    ----------
    d, r : int
        Shape of the matrices with orthonormal columns, ``d ≥ r``.

    Raises
    ------
    TypeError, ValueError
        If they are not integers, or ``r`` is not between 0 and ``d``.

    See Also
    --------
    dlngeo.thermodynamics.entropy.log_orthogonal_volume

    Examples
    --------
    >>> from dlngeo.thermodynamics.entropy import log_orthogonal_volume, log_stiefel_volume
    >>> bool(abs(log_stiefel_volume(3, 3) - log_orthogonal_volume(3)) < 1e-12)
    True
    """
    d = _check.integer(d, "d", 0)
    if not 0 <= r <= d:
        raise ValueError(f"r must be between 0 and d = {d}, got {r}: no more than d columns are orthonormal.")
    if _check.field(field) == "complex":
        spheres = (math.log(2) + k * math.log(math.pi) - math.lgamma(k) for k in range(d - r + 1, d + 1))
        return r * (2 * d - r - 1) / 2 * math.log(2) + math.fsum(spheres)
    spheres = (math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2) for k in range(d - r + 1, d + 1))
    return r * (2 * d - r - 1) / 4 * math.log(2) + math.fsum(spheres)


class SpectralEntropy:
    r"""The entropy as a function of the singular values σ, or of their logarithms u, shape=[..., r] each, in any order.

    Its methods raise a ValueError unless they are r, and those of σ if one is negative, infinite or NaN, or where S is
    not differentiable: where one vanishes and N > 1.

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
    field : "real" or "complex"
        Numbers that the matrices have as entries.

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
        ``κ = Σ_p (d_p − r)/N``, the factor of ``Σ_k log σ_k``; of complex matrices ``2κ + 1 − 1/N``.
    series : list of float
        :func:`bend_series` of the depth, which samplers need at each step.
    degree : float
        ``β(1 − 1/N) r(r − 1)/2 + κr``, κ being the excess: to scale σ by c adds ``log c`` times as much to S.

    Raises
    ------
    TypeError
        If the depth, the rank or a width is not of its type.
    ValueError
        If they do not fit together.

    See Also
    --------
    dlngeo.entropy
    dlngeo.thermodynamics.laws.SpectralLaw

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import entropy
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy
    >>> s = np.array([2.0, 1.0])
    >>> value = SpectralEntropy(2, 2, 3).value(np.log(s))
    >>> bool(np.isclose(value, entropy(np.diag(s), 3)))
    True
    """

    def __init__(
        self,
        m: int,
        n: int,
        depth: float,
        rank: int | None = None,
        widths: Sequence[int] | None = None,
        field: _check.Field = "real",
    ) -> None:
        self.excess: float
        self.field = _check.field(field)
        self._set_widths(m, n, depth, rank, widths)
        #: Real coordinates of an entry, Dyson's β.
        self.dimension = 1 if field == "real" else 2
        if field == "complex":
            self.excess = 2 * self.excess + self._rest
            if math.isfinite(self.depth):
                self.constant += self.rank / 2 * math.log(self.depth)

    def _set_widths(self, m: int, n: int, depth: float, rank: int | None, widths: Sequence[int] | None) -> None:
        m, n = (_check.positive_integer(size, "a side of the matrices") for size in (m, n))
        self.shape, self.depth = (m, n), _check.depth(depth, allow_infinite=True)
        self.kernel: Kernel = of_depth(self.depth)
        self.series = bend_series(self.depth)
        if widths is None:
            width = min(m, n)
            self.rank = width if rank is None else _check.rank(rank, m, n)
            volume, spare = log_stiefel_volume(width, self.rank, self.field), width - self.rank
            finite = math.isfinite(self.depth)
            self.constant = (self.depth - 1) * volume if finite else 0.0
            self.excess = (self.depth - 1) / self.depth * spare if finite else float(spare)
            return
        sizes = _widths_for(widths, m, n)
        if len(sizes) - 1 != self.depth:
            raise ValueError(f"widths {tuple(sizes)} are those of depth {len(sizes) - 1}, not {self.depth:g}.")
        least = min(sizes)
        self.rank = least if rank is None else _check.rank(rank, least, least)
        self.constant = math.fsum(log_stiefel_volume(d, self.rank, self.field) for d in sizes[1:-1])
        self.excess = sum(d - self.rank for d in sizes[1:-1]) / self.depth

    @property
    def flat(self) -> bool:
        """Whether S is constant: at depth 1."""
        return self.depth == 1

    @property
    def degree(self) -> float:
        return self.dimension * self._rest * self.rank * (self.rank - 1) / 2 + self.excess * self.rank

    @property
    def _rest(self) -> float:
        """``1 − 1/N``, which would round near N = 1."""
        return (self.depth - 1) / self.depth if math.isfinite(self.depth) else 1.0

    # In u = log σ.

    def value(self, u: Any) -> Any:
        """S, shape=[...], at ``u_k = log σ_k``, which may be ``−inf``; so is S where the volume is zero."""
        xp, u = sized(self.rank, *_check.floating(u))
        total = self.constant + xp.zeros_like(u[..., 0])
        if self.depth > 1:
            large, gap = _gaps(xp, u)
            some = gap > 0
            inverse, rise = self._growth(xp, xp.where(some, gap, 1.0))
            infinite, share = math.isinf(self.depth), inverse * rise
            log_share = _log(xp, share) if infinite else xp.log1p(self.depth * share)
            log_phi = 2 * self._rest * large + xp.where(some, log_share, 0.0 if infinite else math.log(self.depth))
            pairs = xp.sum(xp.where(_diagonal(xp, u), 0.0, log_phi), axis=(-2, -1))
            total = total + self.dimension / 4 * pairs
        return total + self.excess * xp.sum(u, axis=-1) if self.excess else total

    def slope(self, u: Any) -> Any:
        """``∂S/∂u_k``, shape=[..., r], at finite u; all are non-negative, as volume grows with any singular value."""
        xp, u = sized(self.rank, *_check.floating(u))
        _, gap = _gaps(xp, u)
        near = gap < CLOSE
        far = xp.where(near, 1.0, gap)
        part = xp.where(
            near,
            slope_close(xp.where(near, gap, 0.0), self._rest, self.series),
            slope_apart(*self._growth(xp, far), xp.exp(-far), self._rest),
        )
        part = xp.where(u[..., :, None] < u[..., None, :], part, self._rest - part)
        return self.dimension * xp.sum(xp.where(_diagonal(xp, u), 0.0, part), axis=-1) + self.excess

    def _growth(self, xp: Any, y: Any) -> tuple[Any, Any]:
        """``ε/(e^{εy} − 1)``, which is 1/y at ε = 0, and ``1 − e^{−(1−ε)y}``."""
        eps = 1 / self.depth
        inverse = 1 / y if eps == 0 else -eps * xp.exp(-eps * y) / xp.expm1(-eps * y)
        return inverse, -xp.expm1(-self._rest * y)

    def bend(self, u: Any) -> Any:
        r"""``∂²S/∂u_k∂u_l``, shape=[..., r, r], at finite u; the rows sum to zero.

        .. math:: \frac{\partial^2 S}{\partial u_k \partial u_l} = -\tfrac12 H''(u_k - u_l) \quad (k \ne l), \qquad
            H''(x) = \frac{\varepsilon^2}{\sinh^2 \varepsilon x} - \frac{1}{\sinh^2 x} .
        """
        xp, u = sized(self.rank, *_check.floating(u))
        gap, diagonal = u[..., :, None] - u[..., None, :], _diagonal(xp, u)
        bend = xp.where(diagonal, 0.0, self.dimension / 2 * _bend(xp, gap, gap, self.depth))
        return xp.where(diagonal, xp.sum(bend, axis=-1)[..., None], -bend)

    # In σ.

    def __call__(self, s: Any) -> Any:
        """S, shape=[...], at σ, which may vanish; it is ``−inf`` where the volume is zero."""
        xp, s = sized(self.rank, *_check.singular_values(s))
        return self.value(_log(xp, s))

    def gradient(self, s: Any) -> Any:
        r"""Partial derivatives ``f_k = ∂S/∂σ_k``, shape=[..., r], non-negative.

        .. math:: f_k = \sum_{l \ne k} \Big[\frac{\sigma_k}{\sigma_k^2 - \sigma_l^2}
                - \frac{\lambda_k^2}{N\sigma_k(\lambda_k^2 - \lambda_l^2)}\Big] + \frac{\kappa}{\sigma_k} .
        """
        xp, s, u = self._logarithms(s)
        return xp.zeros_like(s) if self.depth == 1 else self.slope(u) / s

    def _logarithms(self, s: Any) -> tuple[Any, Any, Any]:
        """Return ``(xp, s, log s)`` after checking that S is differentiable at s."""
        xp, s = sized(self.rank, *_check.singular_values(s))
        if self.depth > 1:
            require_positive(xp, s)
        return xp, s, _log(xp, s)

    def hessian(self, s: Any) -> Any:
        """``∂²S/∂σ_k∂σ_l = [∂²S/∂u_k∂u_l − δ_kl ∂S/∂u_k]/σ_kσ_l``, shape=[..., r, r]."""
        xp, s, u = self._logarithms(s)
        row, column = s[..., :, None], s[..., None, :]
        if self.depth == 1:
            return xp.zeros_like(row * column)
        return (self.bend(u) - xp.where(_diagonal(xp, u), self.slope(u)[..., None], 0.0)) / row / column

    def quotients(self, s: Any) -> tuple[Any, Any]:
        r"""``(f_k − f_l)/(σ_k − σ_l)`` and ``(f_k + f_l)/(σ_k + σ_l)``, shape=[..., r, r] each.

        They multiply the symmetric and the skew part of a direction in the second derivative of the spectral function
        S of a matrix. With ``p_k = σ_k f_k`` the first is, for close pairs,

        .. math:: \frac{1}{\sigma_k\sigma_l}\Big[\frac{\sigma_k + \sigma_l}{2} \frac{p_k - p_l}{\sigma_k - \sigma_l}
                - \frac{p_k + p_l}{2}\Big], \qquad
            p_k - p_l = \frac{u_k - u_l}{2} \sum_j H'[u_k - u_j, u_l - u_j],

        a sum that only they need. Its diagonal is zero, and to be replaced by :meth:`hessian`.
        """
        xp, s, u = self._logarithms(s)
        row, column = s[..., :, None], s[..., None, :]
        if self.depth == 1:
            zero = xp.zeros_like(row * column)
            return zero, zero
        f = self.slope(u) / s
        fk, fl = f[..., :, None], f[..., None, :]
        diagonal = _diagonal(xp, s)
        near = xp.abs(row - column) < _NEAR * xp.maximum(row, column)
        minus = (fk - fl) / xp.where(near, 1.0, row - column)
        *batch, k, j = xp.nonzero(near & ~diagonal)
        if k.shape[0]:
            sk, sj, others = s[(*batch, k)], s[(*batch, j)], u[(*batch,)] if batch else u
            x, y = (u[(*batch, a)][:, None] - others for a in (k, j))
            ratio = sj / sk
            logarithm = xp.where(ratio == 1, 1.0, xp.log(ratio) / xp.where(ratio == 1, 1.0, ratio - 1))
            slope = logarithm / sk * xp.sum(_bend(xp, x, y, self.depth), axis=-1) * (self.dimension / 2)
            mean = f[(*batch, k)] * sk + f[(*batch, j)] * sj
            minus[(*batch, k, j)] = ((sk + sj) * slope - mean) / 2 / sk / sj
        return minus, (fk + fl) / (row + column)


def sized(rank: int, xp: Any, s: Any) -> tuple[Any, Any]:
    """Return ``(xp, s)`` after checking that s are r numbers, or many times r."""
    if s.ndim == 0 or s.shape[-1] != rank:
        raise ValueError(f"{rank} singular values are expected, got shape {tuple(s.shape)}; the rank is r.")
    return xp, s


def require_positive(xp: Any, s: Any) -> None:
    """Raise where an entropy that is singular at zero is not differentiable."""
    if not bool(xp.all(s > 0)):
        raise ValueError(
            f"the entropy is not differentiable at a singular matrix: the smallest singular value is "
            f"{float(xp.min(s)):g}. Move to a point of full rank, or declare a lower rank."
        )


def require_spectral(entropy: Any, field: _check.Field = "real") -> SpectralEntropy:
    """Return the entropy after checking its type, and that it is one of real matrices where these are meant.

    See Also
    --------
    dlngeo.thermodynamics.entropy.SpectralEntropy

    Examples
    --------
    >>> from dlngeo.thermodynamics.entropy import SpectralEntropy, require_spectral
    >>> require_spectral(SpectralEntropy(4, 3, 2)).rank
    3
    >>> try:
    ...     require_spectral(SpectralEntropy(4, 3, 2, field="complex"))
    ... except TypeError as error:
    ...     print(str(error).split(",")[0])
    the entropy is that of complex matrices
    """
    if not isinstance(entropy, SpectralEntropy):
        raise TypeError(
            f"entropy must be a SpectralEntropy, which holds depth, rank and shapes, got {type(entropy).__name__}."
        )
    if entropy.field == "complex" and field == "real":
        raise TypeError(
            "the entropy is that of complex matrices, and this is known of real ones alone; give SpectralEntropy "
            'without field="complex".'
        )
    return entropy


def _bend(xp: Any, x: Any, y: Any, depth: float) -> Any:
    r"""Divided difference ``H′[x, y]`` for ``|x − y| < ½``; ``H″(x)`` at ``x = y``.

    .. math:: H'[x, y] = C_{1/N} - C_1, \quad C_\varepsilon = \frac{\varepsilon}{\sinh \varepsilon x}
        \frac{\varepsilon}{\sinh \varepsilon y} \frac{\sinh \varepsilon(x - y)}{\varepsilon(x - y)},

    and around zero by :func:`bend_series`.
    """
    small = xp.maximum(xp.abs(x), xp.abs(y)) < _SERIES
    a, b = (xp.where(small, value, 0.0) for value in (x, y))
    power, homogeneous, series = xp.ones_like(a), xp.ones_like(a), xp.zeros_like(a)
    for coefficient in bend_series(depth, len(_COEFFICIENTS)):
        series = series + coefficient * homogeneous
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


def _gaps(xp: Any, u: Any) -> tuple[Any, Any]:
    """Larger logarithm of each pair, and ``2|u_k − u_l|``, which is zero also of two zeros, shape=[..., r, r]."""
    large, small = xp.maximum(u[..., :, None], u[..., None, :]), xp.minimum(u[..., :, None], u[..., None, :])
    some = large > -math.inf
    return large, 2 * (xp.where(some, large, 0.0) - xp.where(some, small, 0.0))


def _diagonal(xp: Any, s: Any) -> Any:
    index = xp.arange(s.shape[-1])
    return index[:, None] == index


def _log(xp: Any, a: Any) -> Any:
    """Logarithm, ``−inf`` at zero without a warning."""
    return xp.where(a > 0, xp.log(xp.where(a > 0, a, 1.0)), -math.inf)
