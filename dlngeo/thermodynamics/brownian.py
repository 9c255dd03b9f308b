r"""Brownian motion of a spectral metric, of generator ``½Δ_g``: what is known of its singular values.

In ``y`` with ``dy/dσ = φ(σ, σ)^{−1/2}`` they move by a stochastic differential equation of Dyson's kind,

.. math:: dy_k = dB_k + \tfrac12 \frac{\partial \log J}{\partial y_k}\,dt, \qquad
    J = \prod_{k<l} \frac{\sigma_k^2 - \sigma_l^2}{\varphi(\sigma_k, \sigma_l)}
    \prod_k \Big[\frac{\sigma_k}{\varphi(\sigma_k, 0)^{1/2}}\Big]^{m+n-2r} ,

for the volume is ``J dy`` and Haar measure on the frames, and the metric has no cross terms between them. At depth N
the factors of J are ``λ_k² − λ_l²`` and ``λ_k``: the equation is that of the singular values of flat matrices, so that
at every real N

.. math:: \Lambda_t \sim \text{singular values of } \Lambda_0 + (t/N)^{1/2}\,G, \qquad
    G \in \mathbb R^{r \times (m+n-r)} \text{ Gaussian},

a non-central Wishart law of λ². At infinite depth ``y = log σ`` and J is ``∏ (y_k − y_l)``: ``log σ`` are the
eigenvalues of ``log Σ_0 + t^{1/2}(G + Gᵀ)/2``, and ``log |det X|`` is a Brownian motion of variance rt. With
``c = m + n − r``, from ``Δ‖Y‖² = 2rc`` and ``Δ tr(YYᵀ)² = 4(r + c + 1)‖Y‖²`` of flat matrices,

.. math:: \Delta_g \sum \lambda_k^2 = \frac{2rc}N, \qquad
    \Delta_g \sum \lambda_k^4 = \frac{4(r + c + 1)}N \sum \lambda_k^2 .

The metric is not normalised; divided by N it is N times slower.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
.. [2] M.-F. Bru, "Diffusions of perturbed principal component analysis", J. Multivariate Anal. 29 (1989).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.kernels import Kernel

__all__ = ["brownian_drift", "brownian_moments", "brownian_singular_values"]


def brownian_drift(s: Any, kernel: Kernel, shape: tuple[int, int]) -> np.ndarray:
    r"""Drift ``½Δ_g σ_k`` of the singular values, which have the noise ``φ(σ_k, σ_k)^{1/2} dB_k``.

    .. math:: \tfrac12 \varphi_{kk} \frac{\partial \log J}{\partial \sigma_k}
        + \tfrac14 \frac{d\varphi(\sigma_k, \sigma_k)}{d\sigma_k} .

    Parameters
    ----------
    s : array, shape=[..., r]
        Singular values, positive and different.
    kernel : Kernel
        The kernel φ.
    shape : tuple of int
        ``(m, n)``.

    Returns
    -------
    array, shape=[..., r]

    Raises
    ------
    TypeError, ValueError
        If the kernel is none, singular values are not positive or not different, or more than the least side.

    See Also
    --------
    dlngeo.thermodynamics.brownian.brownian_moments
    dlngeo.sampling.BrownianMotion

    Examples
    --------
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.thermodynamics.brownian import brownian_drift
    >>> round(float(brownian_drift([2.0], DepthKernel(1), (3, 1))[0]), 4)  # Bessel's in R³, (3 − 1)/(2σ)
    0.5
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a dlngeo.Kernel, got {type(kernel).__name__}; see dlngeo.DepthKernel.")
    s = _positive(s, *_check.shape(shape))
    row, column = np.broadcast_arrays(s[..., :, None], s[..., None, :])
    own = np.eye(s.shape[-1], dtype=bool)
    if np.any((row == column) & ~own):
        raise ValueError("singular values coincide, where their drift is infinite; move them apart.")
    codimension = sum(shape) - 2 * s.shape[-1]
    psi = kernel.divided_difference
    difference = np.where(own, 1.0, row**2 - column**2)
    pairs = 1 / difference - psi(column, row, row) / kernel(row, column)
    phi = kernel(s, s)
    total = np.sum(np.where(own, 0.0, pairs), axis=-1)
    if codimension:
        zero = np.zeros_like(s)
        total = total + codimension / 2 * (1 / s**2 - psi(zero, s, s) / kernel(s, zero))
    return s * (phi * total + psi(s, s, s))


def _singular_values(s: Any, m: int, n: int) -> np.ndarray:
    """Return singular values of m×n matrices, shape=[..., r]."""
    _, s = _check.singular_values(_check.real(s, "singular values").astype(float))
    if s.ndim == 0:
        raise ValueError(f"r singular values of each matrix are expected, got shape {s.shape}; add an axis.")
    _check.rank(s.shape[-1], m, n)
    return s


def _positive(s: Any, m: int, n: int) -> np.ndarray:
    s = _singular_values(s, m, n)
    if not np.all(s > 0):
        raise ValueError(f"the smallest singular value is {s.min():g}; give the positive ones, of a lower rank.")
    return s


def _arguments(s: Any, t: Any, depth: Any, shape: tuple[int, int]) -> tuple[np.ndarray, float, float, int]:
    depth = _check.depth(depth, allow_infinite=True)
    s = (_positive if math.isinf(depth) else _singular_values)(s, *_check.shape(shape))
    if s.ndim != 1:
        raise ValueError(f"the singular values of one matrix are expected, got shape {s.shape}.")
    if math.isinf(depth) and not (len(s) == shape[0] == shape[1]):
        raise ValueError(f"infinite depth lives on square matrices of full rank, not {shape} at rank {len(s)}.")
    return s, _check.positive(t, "t"), depth, sum(shape) - len(s)


def brownian_moments(s: Any, t: float, depth: float, shape: tuple[int, int]) -> tuple[float, float]:
    r"""Exact means of ``Σλ_k²`` and ``Σλ_k⁴`` after a time t.

    .. math:: \langle\Sigma\lambda^2\rangle = p + \frac{rct}N, \qquad
        \langle\Sigma\lambda^4\rangle = q + \frac{2(r + c + 1)}N \Big[pt + \frac{rct^2}{2N}\Big],

    with ``p = Σλ²`` and ``q = Σλ⁴`` at the start and ``c = m + n − r``. At infinite depth, of ``y = log σ``, the means
    of ``Σy_k`` and ``Σy_k²``, which are ``Σy_k`` and ``Σy_k² + tr(r + 1)/2``.

    Parameters
    ----------
    s : array, shape=[r]
        Singular values at the start.
    t : float
        Time, of the metric that is not normalised at finite depth.
    depth : float
        Depth N, real, or infinite.
    shape : tuple of int
        ``(m, n)``.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or infinite depth is asked for matrices that are not square and of full rank.

    See Also
    --------
    dlngeo.thermodynamics.brownian.brownian_singular_values
    dlngeo.thermodynamics.brownian.brownian_drift

    Examples
    --------
    >>> from dlngeo.thermodynamics.brownian import brownian_moments
    >>> brownian_moments([2.0], 1.0, 1, (3, 1))  # in R³: 2² + 3t, and 2⁴ + 10 (2² t + 3t²/2)
    (7.0, 71.0)
    """
    s, t, depth, columns = _arguments(s, t, depth, shape)
    r = len(s)
    if math.isinf(depth):
        y = np.log(s)
        return float(np.sum(y)), float(np.sum(y**2)) + t * r * (r + 1) / 2
    square = s ** (2 / depth)
    p, q, rate = float(np.sum(square)), float(np.sum(square**2)), r * columns / depth
    return p + rate * t, q + 2 * (r + columns + 1) / depth * (p * t + rate * t**2 / 2)


def brownian_singular_values(
    s: Any, t: float, depth: float, shape: tuple[int, int], size: int, rng: Any = None
) -> np.ndarray:
    """Draw the singular values σ after a time t from their exact law, shape=[size, r], decreasing.

    Parameters
    ----------
    s, t, depth, shape
        As for :func:`brownian_moments`.
    size : int
        Number of draws.
    rng : numpy.random.Generator or int, optional
        Generator or seed.

    Raises
    ------
    TypeError, ValueError
        As for :func:`brownian_moments`.

    See Also
    --------
    dlngeo.thermodynamics.brownian.brownian_moments
    dlngeo.sampling.BrownianMotion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.thermodynamics.brownian import brownian_moments, brownian_singular_values
    >>> s = brownian_singular_values([2.0, 1.0], 0.5, 3, (4, 3), size=20_000, rng=0)
    >>> squares = np.sum(s ** (2 / 3), axis=-1)
    >>> mean, error = squares.mean(), squares.std() / np.sqrt(len(squares))
    >>> bool(abs(mean - brownian_moments([2.0, 1.0], 0.5, 3, (4, 3))[0]) < 4 * error)
    True
    """
    s, t, depth, columns = _arguments(s, t, depth, shape)
    size, r = _check.positive_integer(size, "size"), len(s)
    noise = math.sqrt(t) * np.random.default_rng(rng).standard_normal((size, r, columns))
    if math.isinf(depth):
        return np.exp(np.linalg.eigvalsh(np.diag(np.log(s)) + (noise + np.swapaxes(noise, 1, 2)) / 2)[:, ::-1])
    start = np.eye(r, columns) * s[:, None] ** (1 / depth)
    return np.linalg.svd(start + noise / math.sqrt(depth), compute_uv=False) ** depth
