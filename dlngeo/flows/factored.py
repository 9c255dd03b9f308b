r"""Gradient flow of the deep linear network in coordinates that resolve every singular value.

A dense matrix in double precision knows a singular value σ to about ``1e-16 σ_max``, hence ``λ = σ^{1/N}`` to
``1e-16^{1/N}`` only: 0.56 at N = 64. And the SVD itself is no coordinate system where singular values coincide. So the
state is

.. math:: X = P\,e^{H}\,Q^\top, \qquad P \in \mathrm{St}(m, r),\; H = H^\top \in \mathbb R^{r \times r},\;
    Q \in \mathrm{St}(n, r),

in the gauge ``Qᵀ Q̇ = 0``. With ``H = O diag(η) Oᵀ``, ``U = P O``, ``V = Q O``, ``σ = e^η`` and ``K = Uᵀ E′(X) V``, the
flow ``Ẋ = −A_{N,X}(E′(X))`` is, entry by entry in the basis O,

.. math::
    \dot H_{kl} &= -\frac{\varphi_{kl}}{2 \varphi^\infty_{kl}} (\sigma_k K_{kl} + \sigma_l K_{lk}), \qquad
    (P^\top \dot P)_{kl} = -\frac{\varphi_{kl}}{\sigma_k + \sigma_l} (K_{kl} - K_{lk}), \\
    \dot P_\perp &= -(I - PP^\top) E' Q\, e^{(1 - 2/N) H}, \qquad
    \dot Q = -(I - QQ^\top) E'^\top P\, e^{(1 - 2/N) H},

``φ^∞`` being the kernel of infinite depth, and ``e^{(1−2/N)η} = φ(σ, 0)/σ``. It follows by inserting ``Ẋ = U M Vᵀ``,
``M = −φ ∘ K``, into the derivative of ``P e^H Qᵀ`` and separating symmetric and skew parts. All coefficients are smooth
at ``σ_k = σ_l``, bounded as ``σ → 0`` for N ≥ 2, of the same cost at every real N and at N = ∞, where
``QḢQᵀ = −½(XᵀE′ + E′ᵀX)``. Errors of H are relative errors of σ.

Layers with offsets (:class:`~dlngeo.kernels.RelaxedDepthKernel`) have their own φ here, if the rank is conserved: then
``φ(σ, σ)/σ² = O(σ^{−2/k})``, k being the number of the least offsets, as at depth k. Otherwise singular values reach
zero in finite time, where the flow is smooth in X, and their logarithms are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dlngeo.kernels import Kernel, RelaxedDepthKernel

__all__ = ["FactoredState", "has_logarithms", "never_singular", "where_fits"]

_LARGEST = np.log(np.finfo(float).max)

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def never_singular(kernel: Kernel) -> bool:
    """Whether flows keep all singular values positive: from depth 2 on, and with two offsets or more that are least."""
    if isinstance(kernel, RelaxedDepthKernel):
        return kernel.conserves_rank
    return kernel.depth is not None and kernel.depth >= 2


def has_logarithms(kernel: Kernel) -> bool:
    """Whether the state can be factored: there are velocities of log σ in closed form, if only for some time."""
    return never_singular(kernel) or (kernel.depth is not None and kernel.depth > 1)


class _DepthRates:
    """``φ(σ, τ) = r e^x (1 − e^{−2γ})/2γ · max(σ, τ)²`` and ``φ(σ, 0) = r₀ e^{x₀} σ²``, of ``γ = |log σ − log τ|``.

    Called with ``η = log σ`` it gives r and x of all pairs, ``r₀`` and ``x₀``.
    """

    def __init__(self, kernel: Kernel) -> None:
        assert kernel.depth is not None
        self.eps = 1 / kernel.depth  # 0 at infinite depth
        self.scale = kernel.at_one  # φ(s, s)/s^{2−2/N}

    def __call__(self, eta: np.ndarray) -> tuple[Any, np.ndarray, Any, np.ndarray]:
        column, row, eps = eta[..., :, None], eta[..., None, :], self.eps
        ratio = self.scale * _deformed(2 * eps * np.abs(column - row))
        return ratio, -2 * eps * np.maximum(column, row), self.scale * eps, -2 * eps * eta


class _OffsetRates:
    """The same of layers with offsets."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __call__(self, eta: np.ndarray) -> tuple[Any, np.ndarray, Any, np.ndarray]:
        column, row = eta[..., :, None], eta[..., None, :]
        with_null = np.concatenate([eta, np.full_like(eta[..., :1], -np.inf)], axis=-1)
        logarithm = self.kernel.logarithm(column, with_null[..., None, :])
        power = logarithm[..., :-1] - 2 * np.maximum(column, row)
        return _deformed(2 * np.abs(column - row)), power, 1.0, logarithm[..., -1] - 2 * eta


class FactoredState:
    """The coordinates ``(P, H, Q)``, packed into one vector, and the velocity in them, where :func:`has_logarithms`.

    States are arrays of shape [..., size]: leading axes run over many flows.
    """

    spectral, edge = True, ""

    def __init__(
        self,
        shape: tuple[int, ...],
        rank: int,
        kernel: Kernel,
        euclidean_gradient: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.m, self.n = shape
        self.rank = rank
        self.gradient = euclidean_gradient
        offsets = isinstance(kernel, RelaxedDepthKernel) and kernel.depth is None
        self.rates: Any = (_OffsetRates if offsets else _DepthRates)(kernel)
        self._split = self.m * rank, (self.m + rank) * rank

    def pack(self, u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> np.ndarray:
        """Coordinates of ``u diag(s) vt``."""
        return np.concatenate((u.ravel(), np.diag(np.log(s)).ravel(), vt.T.ravel()))

    def frame(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Singular vectors U and V as columns, η in ascending order between them, and the eigenvectors O of H."""
        r, (i, j), many = self.rank, self._split, state.shape[:-1]
        p, q = state[..., :i].reshape(*many, self.m, r), state[..., j:].reshape(*many, self.n, r)
        eta, o = np.linalg.eigh(state[..., i:j].reshape(*many, r, r))
        return p @ o, eta, q @ o, o

    def factors(self, state: np.ndarray) -> Factors:
        """Return the SVD ``(u, s, vt)``, descending, with the round-off in the orthogonality of P and Q removed."""
        u, eta, v, _ = self.frame(state)
        u, v = (a @ (1.5 * np.eye(self.rank) - 0.5 * (a.swapaxes(-1, -2) @ a)) for a in (u, v))
        return u[..., ::-1], np.exp(eta[..., ::-1]), v[..., ::-1].swapaxes(-1, -2)

    def point(self, state: np.ndarray) -> np.ndarray:
        """Return the dense matrix."""
        u, s, vt = self.factors(state)
        return (u * s[..., None, :]) @ vt

    points = point

    def singular_values(self, state: np.ndarray) -> np.ndarray:
        return self.factors(state)[1]

    def crossed(self, before: np.ndarray, after: np.ndarray) -> Any:
        return np.zeros(after.shape[:-1], dtype=bool)  # log σ is finite

    def velocity(self, t: Any, state: np.ndarray) -> np.ndarray:
        """Time derivative of the coordinates."""
        fits = np.isfinite(state).all(axis=-1)
        if not fits.all():
            return where_fits(self.velocity, t, state, fits)  # a trial step that is far too long
        u, eta, v, o = self.frame(state)
        fits = eta[..., -1] <= _LARGEST
        if not fits.all():
            return where_fits(self.velocity, t, state, fits)
        ut, vt, ot = (a.swapaxes(-1, -2) for a in (u, v, o))
        e = self.gradient((u * np.exp(eta)[..., None, :]) @ vt)
        ev = e @ v
        k = ut @ ev
        kt, column, row = k.swapaxes(-1, -2), eta[..., :, None], eta[..., None, :]
        top, gap = np.maximum(column, row), np.abs(column - row)
        # φ_kl/(2φ^∞_kl) = (ratio/2) e^power; exponents are added before exp, so that nothing overflows.
        ratio, power, null_ratio, null_power = self.rates(eta)
        half = ratio / 2 * np.exp(column + power) * k
        skew = ratio / 2 * np.exp(top + power) * _mean(gap) * (kt - k)
        null = null_ratio * np.exp(eta + null_power)[..., None, :]
        p_dot, q_dot = u @ skew, np.zeros_like(v)
        if self.m > self.rank:
            p_dot -= (ev - u @ k) * null
        if self.n > self.rank:
            q_dot -= (e.swapaxes(-1, -2) @ u - v @ kt) * null
        h_dot = o @ -(half + half.swapaxes(-1, -2)) @ ot
        many = state.shape[:-1]
        return np.concatenate([a.reshape(*many, -1) for a in (p_dot @ ot, h_dot, q_dot @ ot)], axis=-1)

    def squared_gradient_norm(self, state: np.ndarray) -> Any:
        """``g(grad E, grad E) = ⟨E′, A_X E′⟩``, the rate at which the flow lowers E."""
        u, eta, v, _ = self.frame(state)
        ut, column, row = u.swapaxes(-1, -2), eta[..., :, None], eta[..., None, :]
        e = self.gradient((u * np.exp(row)) @ v.swapaxes(-1, -2))
        ev, etu = e @ v, e.swapaxes(-1, -2) @ u
        k = ut @ ev
        top, gap = np.maximum(column, row), np.abs(column - row)
        ratio, power, null_ratio, null_power = self.rates(eta)
        phi = ratio * _mean(2 * gap) * np.exp(2 * top + power)
        null = null_ratio * np.exp(2 * eta + null_power)
        off = np.sum((ev - u @ k) ** 2, axis=-2) + np.sum((etu - v @ k.swapaxes(-1, -2)) ** 2, axis=-2)
        return np.sum(phi * k**2, axis=(-2, -1)) + np.sum(null * off, axis=-1)


def where_fits(velocity: Callable[..., np.ndarray], t: Any, state: np.ndarray, fits: Any) -> np.ndarray:
    """Velocity of those of many states that have one, and NaN for the others."""
    out = np.full_like(state, np.nan)
    if np.any(fits):
        out[fits] = velocity(np.broadcast_to(t, fits.shape)[fits], state[fits])
    return out


def _deformed(x: np.ndarray) -> np.ndarray:
    """``x/(1 − e^{−x})`` for ``x ≥ 0``, 1 at 0."""
    return np.where(x > 0, x / np.where(x > 0, -np.expm1(-x), 1.0), 1.0)


def _mean(x: np.ndarray) -> np.ndarray:
    """``(1 − e^{−x})/x`` for ``x ≥ 0``, 1 at 0."""
    return np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1.0), 1.0)
