r"""Langevin dynamics of complex matrices ``X = U Λ^N V*`` of rank r, at every real depth N.

The derivation is that of :mod:`dlngeo.sampling.compiled.steps`, with adjoints for transposes. A variation of X has the
core ``M = U* dX V = Ω_U Σ − Σ Ω_V + dΣ`` with anti-Hermitian Ω, so that for every pair, ``k = l`` included,

.. math:: M_{kl} \pm \bar M_{lk} = (\sigma_l \mp \sigma_k)(\Omega_U \pm \Omega_V)_{kl} + 2\,\delta_{kl}\,d\sigma_k
    \;(\text{of } + \text{ alone}).

The pairs (k, k) have an imaginary part, the phase ``Ω_U − Ω_V``; that of ``Ω_U + Ω_V`` is common to both frames and X
does not see it. The noise of the metric is ``M_kl = √(2h/β) φ_kl^{1/2} ξ_kl``, with real and imaginary parts of ξ
independent and standard normal. The volume ``∏_{k,l} φ_kl^{−1}``, with two real directions to an entry, makes that of
``y = √N λ`` the volume of flat complex r×c matrices, ``c = m + n − r``,

.. math:: J = \prod_{k<l} (y_k^2 - y_l^2)^2 \prod_k y_k^{2(c-r)+1} ,

so that λ moves as the singular values of those: Dyson's motion at β = 2, of Laguerre's kind. In the orthonormal frame
of the metric a step is ``K_kl = √(2h/β) ξ_kl − h φ_kl^{1/2} C_kl``, ``C = U* E′ V``. With ``q = tanh(x/2)/tanh(Nx/2)``,
``x = log λ_k/λ_l``, so that ``φ_N(σ_k, σ_l)^{1/2}/(σ_l ∓ σ_k) = q^{±1/2}/(λ_l ∓ λ_k)``, the flat matrix takes the part
``N^{−1/2}`` of it, which is all of its noise, and the frames turn by the rest:

.. math:: U' = U (1 + E^U) A, \quad V' = V (1 + E^V) B, \quad \Lambda + N^{-1/2} K = A \Lambda' B^*, \qquad
    (E^U \pm E^V)_{kl} = \frac{q^{\pm 1/2} - N^{-1/2}}{\lambda_l \mp \lambda_k} (K_{kl} \pm \bar K_{lk}) .

At ``k = l`` that is ``q = 1/N``: λ moves by ``N^{−1/2} Re K_kk``, and the phase by ``N^{1/2} Im K_kk/λ_k``, N times as
far as that of the flat matrix. For 1×1 matrices ``X = Y^N`` with Y in a plane, or at real N on a cone. Directions
outside of the frames have the noise ``√(2h/β) ξ/λ_l`` and the force ``λ_l^{N−2} (1 − UU*) E′V``; their noise is that of
the ``c − r`` further columns of the flat matrix, of which only the Gram matrix matters. No determinant has a sign to
keep.

The ξ of K is the mean of that of this step and of the last, as there in the flat matrix alone. That it may be in the
turns too, without a drift of its own, is because their size depends on λ, which noise of other entries moves; and it is
what keeps the bias small where a force turns phases.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo._linalg import adjoint, gaussian, haar_from
from dlngeo.geomstats.gradients import fills
from dlngeo.sampling.charts import DepthChart
from dlngeo.sampling.factors import Factors, factored
from dlngeo.sampling.potentials import SpectralPotential, gradients, refuse_failed, slopes, watch
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.noise import GradientNoise

__all__ = ["ComplexFrames", "advance"]

Array = np.ndarray

_CLOSE = 1e-4  # depth times relative gap below which the leading term of √q − N^{−1/2} is exact to 1e-9


def _pairs(lam: Array, depth: float) -> tuple[Array, Array, Array]:
    """Coefficients of pairs, shape=[chains, r, r]: of the turns of ``+`` and of ``−``, and ``φ_N(σ_k, σ_l)^{1/2}``."""
    one, two = lam[:, :, None], lam[:, None, :]
    big, gap, total, root = np.maximum(one, two), two - one, one + two, 1 / math.sqrt(depth)
    x = np.log1p(np.abs(gap) / np.minimum(one, two))
    same, near = x == 0, depth * np.abs(gap) < _CLOSE * big
    # (1 − ρ^N)/(1 − ρ) and (1 + ρ^N)/(1 + ρ) of the ratio ρ = e^{−x}, of quotient q and product φ/λ^{2N−2}.
    terms = np.where(same, depth, np.expm1(-depth * x) / np.where(same, 1.0, np.expm1(-x)))
    sums = (1 + np.exp(-depth * x)) / (1 + np.exp(-x))
    tangent, series = np.sqrt(sums / terms), root * (depth**2 - 1) * gap / (6 * total**2)
    plus = np.where(near, series, (tangent - root) / np.where(near, 1.0, gap))
    return plus, (1 / tangent - root) / total, big ** (depth - 1) * np.sqrt(sums * terms)


def _outside(rest: Array, columns: int) -> Array:
    """Factor of the Gram matrix ``rest rest*`` with so many columns, the least of its sides."""
    if not columns:
        return rest[..., :0]
    a, s, _ = np.linalg.svd(rest, full_matrices=False)
    return a[..., :columns] * s[..., None, :columns]


def advance(
    state: State, gradient: Array, radial: Array, noise: Array, depth: float, h: float, temperature: float
) -> tuple[State, Array]:
    """Move chains by one step.

    Parameters
    ----------
    state : dict of array
        ``u``, shape=[chains, m, r], ``lam``, [chains, r], ``v``, [chains, n, r], and where the noise is to be averaged
        with that of the last step, ``kick``, [chains, r, min(2r, c)].
    gradient : array, shape=[chains, m, n]
        ``E′``, or empty.
    radial : array, shape=[chains, r]
        A further force on λ.
    noise : array, shape=[chains, r, c]
        Noise of the flat matrix: of the core, the side of U, and that of V.

    Returns
    -------
    state : dict of array
        The next.
    failed : array of bool, shape=[chains]
        Chains whose step is not finite, or lost rank.
    """
    u, lam, v = state["u"], state["lam"], state["v"]
    (m, r), n = u.shape[1:], v.shape[1]
    amplitude, root, pair = math.sqrt(2 * h * temperature), 1 / math.sqrt(depth), np.arange(r)
    kick, mean = state.get("kick"), noise
    if kick is not None:
        mean = noise / 2
        mean[..., : kick.shape[2]] += kick / 2
    left, right, core = adjoint(noise[..., r:m]), adjoint(noise[..., m:]), amplitude * mean[..., :r]
    turn_plus, turn_minus, stretch = _pairs(lam, depth)
    if gradient.size:
        sides = gradient @ v, adjoint(gradient) @ u
        inner = adjoint(u) @ sides[0]
        core = core - h * stretch * inner
    flat = amplitude * root * mean
    flat[..., :r] = root * core
    flat[:, pair, pair] += lam - h * radial
    plus, minus = turn_plus * (core + adjoint(core)), turn_minus * (core - adjoint(core))
    turned_u, turned_v = (q + q @ turn / 2 for q, turn in ((u, plus + minus), (v, plus - minus)))
    if gradient.size:
        pull = h * lam[:, None] ** (depth - 2)
        turned_u = turned_u - pull * (sides[0] - u @ inner)
        turned_v = turned_v - pull * (sides[1] - v @ adjoint(inner))
    if m > r:
        turned_u = turned_u + amplitude / lam[:, None] * (np.linalg.qr(u, mode="complete")[0][..., r:] @ left)
    if n > r:
        turned_v = turned_v + amplitude / lam[:, None] * (np.linalg.qr(v, mode="complete")[0][..., r:] @ right)
    finite = np.isfinite(flat).all(axis=(1, 2))
    finite &= np.isfinite(turned_u).all(axis=(1, 2)) & np.isfinite(turned_v).all(axis=(1, 2))
    if not finite.all():
        return state, ~finite
    a, s, rows = np.linalg.svd(flat, full_matrices=False)
    b = adjoint(rows[..., :r])
    if flat.shape[2] > r:  # the nearest unitary matrix, which does not mind how equal singular values are ordered
        one, _, other = np.linalg.svd(b)
        b = one @ other
    new = {**state, "u": haar_from(turned_u) @ a, "lam": s, "v": haar_from(turned_v) @ b}
    if kick is not None:
        remembered = adjoint(a) @ noise
        core = remembered @ adjoint(rows)
        rest = _outside(remembered - core @ rows, kick.shape[2] - r)
        new["kick"] = np.concatenate([core, rest], axis=2)
    with np.errstate(over="ignore"):
        return new, ~((s[:, -1] > 0) & (s[:, 0] ** depth < math.inf))


class ComplexFrames:
    """Complex matrices of rank r with the metric of depth N: the state (U, λ, V), and the noise of the last step.

    The virial is that of real matrices, with ``Re tr X*E′`` and the dimension ``2r(m + n − r)``.
    """

    def __init__(self, sampler: Any, temperature: float) -> None:
        space, metric, noise = sampler.space, sampler.space.metric, sampler.noise
        if isinstance(noise, GradientNoise):
            raise NotImplementedError(
                "noise of gradients moves real matrices; on complex ones take that of the metric."
            )
        if not fills(space):
            raise NotImplementedError(
                f"{type(space).__name__} is complex and a part of the matrices of its rank, where nothing samples; "
                "take ComplexMatrices, whose points are all of them."
            )
        if metric.depth in (None, math.inf):
            raise NotImplementedError(
                f"complex chains step in λ = σ^(1/N), which {metric.kernel!r} has not; give the space a DLNMetric of "
                "finite depth, or sample real matrices."
            )
        self.sampler, self.temperature = sampler, temperature
        (self.m, self.n), self.rank = space.shape, metric.rank
        self.columns = self.m + self.n - self.rank
        self.dim, self.chart = 2 * self.rank * self.columns, DepthChart(metric.kernel)
        self.h, self.depth = sampler.step_size / self.chart.slowness, self.chart.depth
        self.entropy = SpectralEntropy(self.m, self.n, self.depth, self.rank, sampler.widths, field="complex")
        degrees = noise.kappa * self.dim + noise.vertical * self.depth * self.entropy.degree
        self.factor = sampler.beta * self.depth / degrees if degrees else math.nan

    def start(self, points: Array | Factors) -> State:
        u, lam, v = factored(points, (self.m, self.n), self.rank, self.depth)
        # A kick of zeros is drawn at the first step.
        kick = np.zeros((len(lam), self.rank, min(2 * self.rank, self.columns)), dtype=complex)
        state = {"u": u.astype(complex), "lam": lam, "v": v.astype(complex), "kick": kick}
        return {**state, "virial": np.full(len(lam), math.nan)}

    def points(self, state: State) -> Array:
        return (state["u"] * self.chart.sigma(state["lam"])[:, None]) @ adjoint(state["v"])

    def step(self, state: State, rng: np.random.Generator) -> State:
        state, lam, beta = dict(state), state["lam"], self.sampler.beta
        noise = gaussian(rng, (len(lam), self.rank, self.columns), "complex")
        fresh = ~state["kick"].any(axis=(1, 2))
        if fresh.any():
            # √3 times white noise: the flat matrix has the variance of k steps after k steps.
            first = math.sqrt(3) * gaussian(rng, (int(fresh.sum()), self.rank, self.columns), "complex")
            rest = _outside(first[..., self.rank :], state["kick"].shape[2] - self.rank)
            state["kick"] = state["kick"].copy()
            state["kick"][fresh] = np.concatenate([first[..., : self.rank], rest], axis=2)
        gradient, radial = self._forces(state)
        along = math.sqrt(self.depth) * radial
        if gradient.size:
            along = np.sum(state["u"].conj() * (gradient @ state["v"]), axis=1).real * self.chart.tables(lam)[1]
        if self.sampler.noise.vertical:
            radial = radial - self.entropy.slope(self.depth * np.log(lam)) / (lam * beta)
        variance = 2 * self.h * self.temperature * self.dim
        slope = watch(state, np.sum(along**2, axis=1) ** 0.5, self.h, variance, self.sampler.step_size)
        new, failed = advance(state, gradient, radial, noise, self.depth, self.h, self.temperature)
        refuse_failed(failed, self.sampler.step_size)
        return {**new, "slope": slope}

    def _forces(self, state: State) -> tuple[Array, Array]:
        """``E′``, empty of a potential of λ, and ``∂E/∂λ`` over N of that, else zero; the virial goes to the state."""
        potential, lam = self.sampler.potential_gradient, state["lam"]
        if isinstance(potential, SpectralPotential):
            radial = slopes(potential, lam) / self.depth
            state["virial"] = self.factor * np.sum(lam * radial, axis=1)
            return np.empty((len(lam), 0, 0)), radial
        points = self.points(state)
        gradient = gradients(potential, points)
        state["virial"] = self.factor * np.sum((points.conj() * gradient).real, axis=(1, 2))
        return gradient, np.zeros_like(lam)
