"""Chains of matrices of rank r with a spectral metric, real or complex: turns and flat Brownian motion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo._linalg import adjoint, gaussian
from dlngeo.geomstats.gradients import fills
from dlngeo.sampling.charts import chart_of
from dlngeo.sampling.compiled import steps as _steps
from dlngeo.sampling.compiled.slopes import entropy_slope
from dlngeo.sampling.complex_frames import advance
from dlngeo.sampling.factors import Factors, factored
from dlngeo.sampling.potentials import SpectralPotential, gradients, refuse_failed, slopes, watch
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.noise import GradientNoise, Noise

__all__ = ["Frames", "require_complex_steps"]

Array = np.ndarray


def require_complex_steps(space: Any, noise: Noise | GradientNoise) -> None:
    """Raise where complex matrices have no chains."""
    if isinstance(noise, GradientNoise):
        raise NotImplementedError("noise of gradients moves real matrices; on complex ones take that of the metric.")
    if not fills(space):
        raise NotImplementedError(
            f"{type(space).__name__} is complex and a part of the matrices of its rank, where nothing samples; "
            "take ComplexMatrices, whose points are all of them."
        )
    if space.metric.depth in (None, math.inf):
        raise NotImplementedError(
            f"complex chains step in λ = σ^(1/N), which {space.metric.kernel!r} has not; give the space a DLNMetric of "
            "finite depth, or sample real matrices."
        )


class Frames:
    r"""The mover of :class:`Langevin`, with the state (U, y, V) and the noise of the last step, the kick.

    The virial is ``Σ_k λ_k ∂E/∂λ_k = N Re tr X*E′`` over what it is on average under the law, of any energy. To scale λ
    by c multiplies ``dvol_g`` by ``c^D``, with D the dimension, and ``e^S`` by ``c^s`` with
    ``s = (N − 1) r(r − 1)/2 + r Σ_p (d_p − r)`` of real matrices. So the average is ``(κD + νs)/β``.
    """

    def __init__(self, sampler: Any, temperature: float) -> None:
        self.sampler, self.temperature, self.field = sampler, temperature, sampler.field
        metric, (self.m, self.n) = sampler.space.metric, sampler.space.shape
        self.rank, r = metric.rank, metric.rank
        self.dim = (2 if self.field == "complex" else 1) * r * (self.m + self.n - r)
        self.chart = chart_of(metric.kernel, self.m + self.n - 2 * r)
        self.h = sampler.step_size / self.chart.slowness
        self.columns = r + sum(size for size in (self.m, self.n) if size > r) if sampler.averages else 0
        self.finite = metric.depth not in (None, math.inf)
        if self.finite:
            self.entropy = SpectralEntropy(self.m, self.n, metric.depth, r, sampler.widths, field=self.field)
            degrees = sampler.noise.kappa * self.dim + sampler.noise.vertical * metric.depth * self.entropy.degree
            self.factor = sampler.beta * metric.depth / degrees if degrees else math.nan

    def start(self, points: Array | Factors) -> State:
        u, lam, v = factored(points, (self.m, self.n), self.rank, self.chart.depth)
        dtype = np.dtype(complex if self.field == "complex" else float)
        kick = np.zeros((len(lam), self.rank, self.columns), dtype)  # of zeros, drawn at the first step
        state = {"u": u.astype(dtype), self.chart.key: self.chart.start(lam), "v": v.astype(dtype), "kick": kick}
        return {**state, "virial": np.full(len(lam), math.nan)} if self.finite else state

    def points(self, state: State) -> Array:
        return (state["u"] * self.chart.sigma(state[self.chart.key])[:, None, :]) @ adjoint(state["v"])

    def step(self, state: State, rng: np.random.Generator) -> State:
        state = {name: value.copy() for name, value in state.items()}
        flat = state[self.chart.key]
        chains, r = flat.shape
        core, left, right = (
            np.empty((chains, 0, 0)) if side and size == r else gaussian(rng, (chains, size, r), self.field)
            for side, size in enumerate((r, self.m, self.n))
        )
        if state["kick"].shape[1:] != (r, self.columns):  # of chains that were saved by 0.1
            state["kick"] = np.zeros((chains, r, self.columns), state["u"].dtype)
        fresh = ~state["kick"].any(axis=(1, 2))
        if self.columns and fresh.any():
            state["kick"][fresh] = self._first_kick(rng, state["u"][fresh], state["v"][fresh])
        tables, stretch, drift = self.chart.tables(flat)
        gradient, radial = self._forces(state)
        along = math.sqrt(self.chart.depth) * radial
        if gradient.size:
            along = np.sum(state["u"].conj() * (gradient @ state["v"]), axis=1).real * stretch
        radial = radial - self.temperature * drift
        if self.sampler.noise.vertical:
            radial = radial - self._entropy_slope(flat) / self.sampler.beta
        variance = 2 * self.h * self.temperature * self.dim
        state["slope"] = watch(state, np.sum(along**2, axis=1) ** 0.5, self.h, variance, self.sampler.step_size)
        noise, size = (core, left, right), (self.h, self.temperature)
        if self.field == "complex":
            moved, failed = advance(state, gradient, radial, noise, self.chart.depth, *size)
            state.update(moved)
        else:
            failed = _steps.advance({**state, "lam": flat}, gradient, radial, noise, self.chart.flat, *size, tables)
        refuse_failed(failed, self.sampler.step_size)
        return state

    def _first_kick(self, rng: np.random.Generator, u: Array, v: Array) -> Array:
        """Draw what chains that start remember as the noise of their last step.

        It is √3 times white noise: then the noise of the flat matrix after k steps has the variance of k steps, as
        ``(3 + 1)/4 = 1`` and ``3/4 + (k − 1) + 1/4 = k``.
        """
        parts = [gaussian(rng, (len(u), self.rank, self.rank), self.field)]
        for frame in (u, v):
            if frame.shape[1] > self.rank:
                noise = gaussian(rng, frame.shape, self.field)
                parts.append(adjoint(noise - frame @ (adjoint(frame) @ noise)))
        return math.sqrt(3) * np.concatenate(parts, axis=2)

    def _entropy_slope(self, flat: Array) -> Array:
        if self.field == "complex":
            return self.entropy.slope(self.chart.depth * np.log(flat)) / flat
        return entropy_slope(flat, self.entropy)

    def _forces(self, state: State) -> tuple[Array, Array]:
        """``E′``, empty of a potential of λ, and ``∂E/∂λ`` over N of that, else zero; the virial goes to the state."""
        potential, flat = self.sampler.potential_gradient, state[self.chart.key]
        if isinstance(potential, SpectralPotential):
            radial = slopes(potential, flat) / self.chart.depth
            state["virial"] = self.factor * np.sum(flat * radial, axis=1)
            return np.empty((len(flat), 0, 0)), radial
        points = self.points(state)
        gradient = gradients(potential, points)
        if self.finite:
            state["virial"] = self.factor * np.sum((points.conj() * gradient).real, axis=(1, 2))
        return gradient, np.zeros_like(flat)
