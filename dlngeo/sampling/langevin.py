r"""Riemannian Langevin dynamics on any space.

.. math:: dX = -\operatorname{grad} E\,dt + \sqrt{2/\beta}\,dB^g,

``B^g`` Brownian motion of the metric, has the stationary law ``e^{−βE} dvol_g``. A step draws a tangent vector
``V = −h grad E + √(2h/β) ξ``, ``ξ ~ N(0, g⁻¹)``, and moves along it by the exponential map or a retraction of second
order: weak order 1 in the step size, with no drift term to compute. How it moves depends on the space:

- matrices with a metric of integer depth: Brownian motion of flat matrices, which has an exact step, and turns of the
  singular vectors (:mod:`dlngeo.sampling._steps`), at the same cost at every depth; the singular values of the noise
  have their exact law, so that nothing is lost near singular matrices, and in a potential of theirs the
  bias is of second order;
- other spectral metrics: the retraction of :mod:`dlngeo.retraction`, chain by chain;
- anything else: the exponential map of the space.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
.. [2] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
.. [3] G. Menon, A. Stromme, F.-X. Vacher, "Langevin dynamics with projected noise", arXiv:2602.12257.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.frame import Blocks, Frame
from dlngeo.geomstats.gradients import fills, to_gs, to_numpy
from dlngeo.geomstats.metrics import DLNMetric, SpectralMetric
from dlngeo.retraction import retract
from dlngeo.sampling import _steps
from dlngeo.sampling.chain import Sampler, State
from dlngeo.spectral_entropy import SpectralEntropy

__all__ = ["Langevin", "SpectralPotential"]

Gradient = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SpectralPotential:
    """A potential ``E = f(λ_1, …, λ_r)`` of the singular values ``λ = σ^{1/N}`` of the balanced layers.

    In λ a force keeps its digits where ``σ = λ^N`` spans more orders of magnitude than a dense matrix resolves.

    Parameters
    ----------
    value : callable
        Maps λ, shape=[n_chains, r], to f, shape=[n_chains].
    derivative : callable
        Maps λ, shape=[n_chains, r], to ``∂f/∂λ_k``, shape=[n_chains, r].
    """

    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


class Langevin(Sampler):
    r"""Unadjusted Riemannian Langevin dynamics.

    Parameters
    ----------
    space : geomstats Manifold
        Space with a Riemannian metric.
    potential_gradient : callable or SpectralPotential
        Euclidean gradient ``E′`` of the potential: maps points, shape=[n_chains, *point_shape], to arrays of that
        shape. For metrics of the deep linear network also a potential of λ.
    beta : float
        Inverse temperature.
    step_size : float
        Step h in time. The bias of averages is of first order in it, but at integer depth in a potential of singular
        values of second; compare h with h/2 to see how large it is. Relaxation slows with depth: for ``E = ½Σλ²`` its
        time is N/2.
    potential : callable, optional
        The potential E itself, shape=[n_chains, *point_shape] to shape=[n_chains]: the statistic ``energy``.
    noise : {"base", "isotropic"}
        ``"base"``: noise of the metric, of law ``e^{−βE} dvol_g``. ``"isotropic"``: what isotropic noise on the
        balanced weights projects to, of law ``e^{−β(E − S/β)} dvol_g`` with the entropy S of the fibres [2]_.
    kappa : float
        Anisotropy κ of isotropic noise: strength along horizontal directions, that along the fibres being 1. The law is
        ``∝ e^{−(β/κ)(E − S/β)} dvol_g``, and κ → 0 the gradient flow of the free energy [3]_.
    widths : sequence of int, optional
        Widths ``(d_0, …, d_N)`` of the network, for the entropy; as in :func:`dlngeo.entropy`, which has the default.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or the noise is not defined on the space.

    Notes
    -----
    At integer depth the state is (U, Λ, V), which holds the digits of λ where a dense X has lost them, and the noise of
    the last step, without which the chain is not Markovian.
    """

    def __init__(
        self,
        space: Any,
        potential_gradient: Gradient | SpectralPotential,
        beta: float,
        step_size: float,
        *,
        potential: Callable[[np.ndarray], np.ndarray] | None = None,
        noise: str = "base",
        kappa: float = 1.0,
        widths: Sequence[int] | None = None,
    ) -> None:
        self.space = space
        self.beta = _check.positive(beta, "beta")
        self.step_size = _check.positive(step_size, "step_size")
        self.kappa = float(kappa) if kappa == 0 else _check.positive(kappa, "kappa")
        if noise not in ("base", "isotropic"):
            raise ValueError(f"noise must be 'base' or 'isotropic', got {noise!r}.")
        metric = getattr(space, "metric", None)
        if metric is None:
            raise ValueError(f"{type(space).__name__} has no metric; equip it with one (space.equip_with_metric).")
        deep = isinstance(metric, DLNMetric) and not math.isinf(metric.depth) and fills(space)
        if noise == "isotropic" and not deep:
            raise ValueError("isotropic noise lives on balanced weights: it needs a DLNMetric of finite depth.")
        if noise == "base" and kappa != 1:
            raise ValueError(f"kappa = {kappa:g} is the anisotropy of isotropic noise; pass noise='isotropic'.")
        if isinstance(potential_gradient, SpectralPotential) and not deep:
            raise ValueError("a potential of λ needs a DLNMetric of finite depth; give its Euclidean gradient instead.")
        self.potential_gradient, self.potential, self.noise = potential_gradient, potential, noise
        self.widths = widths
        temperature = self.kappa / self.beta
        if deep and metric.depth >= 2 and metric.depth.is_integer():
            self._mover: _Mover = _Factors(self, temperature, widths)
        elif isinstance(metric, SpectralMetric) and fills(space):
            self._mover = _Retraction(self, temperature, widths)
        else:
            self._mover = _Geodesic(self, temperature)

    def start(self, points: np.ndarray) -> State:
        shape = tuple(self.space.shape)
        if points.shape == shape:
            points = points[None]
        if points.shape[1:] != shape:
            raise ValueError(
                f"initial points of shape {points.shape}; expected (n_chains, {', '.join(map(str, shape))})."
            )
        return self._mover.start(points)

    def step(self, state: State, rng: np.random.Generator) -> State:
        return self._mover.step(state, rng)

    def points(self, state: State) -> np.ndarray:
        return self._mover.points(state)

    def statistics(self, state: State) -> State:
        out = {}
        if isinstance(self.potential_gradient, SpectralPotential):
            lam = state["lam"] if "lam" in state else state["s"] ** (1 / self.space.metric.depth)
            out["energy"] = self.potential_gradient.value(lam)
        elif self.potential is not None:
            out["energy"] = np.asarray(self.potential(self.points(state)))
        return out

    def settings(self) -> dict[str, Any]:
        metric = self.space.metric
        return {
            "sampler": "Langevin",
            "space": type(self.space).__name__,
            "shape": list(self.space.shape),
            "metric": repr(metric.kernel) if isinstance(metric, SpectralMetric) else type(metric).__name__,
            "beta": self.beta,
            "step_size": self.step_size,
            "noise": self.noise,
            "kappa": self.kappa,
            "widths": None if self.widths is None else list(self.widths),
        }


class _Mover(ABC):
    """How a chain moves on one kind of space."""

    @abstractmethod
    def start(self, points: np.ndarray) -> State: ...

    @abstractmethod
    def step(self, state: State, rng: np.random.Generator) -> State: ...

    @abstractmethod
    def points(self, state: State) -> np.ndarray: ...


class _Factors(_Mover):
    """Metrics of integer depth: turns and flat Brownian motion, with the state (U, Λ, V)."""

    def __init__(self, sampler: Langevin, temperature: float, widths: Sequence[int] | None) -> None:
        metric = sampler.space.metric
        self.sampler, self.temperature = sampler, temperature
        self.rank, self.depth = metric.rank, int(metric.depth)
        self.m, self.n = sampler.space.shape
        # A normalised metric runs N times slower.
        self.h = sampler.step_size / (metric.depth if metric.kernel.normalized else 1)
        self.excess = SpectralEntropy(self.m, self.n, self.depth, self.rank, widths).excess * self.depth

    def start(self, points: np.ndarray) -> State:
        u, s, vt = np.linalg.svd(points, full_matrices=False)
        s = s[:, : self.rank]
        _require_rank(s, self.rank)
        u, vt = u[..., : self.rank], vt[:, : self.rank]
        # A kick of zeros is drawn at the first step.
        kick = np.zeros((len(s), self.rank, min(2 * self.rank, self.m + self.n - self.rank)))
        return {"u": u.copy(), "lam": s ** (1 / self.depth), "v": np.swapaxes(vt, 1, 2).copy(), "kick": kick}

    def step(self, state: State, rng: np.random.Generator) -> State:
        state = {name: value.copy() for name, value in state.items()}
        chains = len(state["lam"])
        shapes = ((self.rank, self.rank), (self.m, self.rank), (self.n, self.rank))
        skip = (False, self.m == self.rank, self.n == self.rank)
        core, left, right = (
            np.empty((chains, 0, 0)) if none else rng.standard_normal((chains, *shape))
            for shape, none in zip(shapes, skip, strict=True)
        )
        fresh = ~state["kick"].any(axis=(1, 2))
        state["kick"][fresh] = _steps.first_kick(rng, int(fresh.sum()), self.m, self.n, self.rank)
        potential = self.sampler.potential_gradient
        if isinstance(potential, SpectralPotential):
            gradient = np.empty((chains, 0, 0))
            radial = _finite(potential.derivative(state["lam"])) / self.depth
        else:
            gradient = _finite(potential(self.points(state)))
            radial = np.zeros((chains, self.rank))
        if self.sampler.noise == "isotropic":
            radial = radial - _steps.entropy_slope(state["lam"], self.depth, self.excess) / self.sampler.beta
        failed = _steps.advance(state, gradient, radial, (core, left, right), self.depth, self.h, self.temperature)
        if failed.any():
            raise ValueError(
                f"the step of chain {int(np.argmax(failed))} is not finite or lost rank; take a step_size below "
                f"{self.sampler.step_size:g}."
            )
        return state

    def points(self, state: State) -> np.ndarray:
        sigma = state["lam"] ** self.depth
        return (state["u"] * sigma[:, None, :]) @ np.swapaxes(state["v"], 1, 2)


class _Retraction(_Mover):
    """Any other spectral metric: its second-order retraction, chain by chain, with the state (U, Σ, V)."""

    def __init__(self, sampler: Langevin, temperature: float, widths: Sequence[int] | None) -> None:
        self.sampler, self.temperature, self.metric = sampler, temperature, sampler.space.metric
        self.depth = getattr(self.metric, "depth", math.inf)
        self.entropy = None
        if sampler.noise == "isotropic":
            m, n = sampler.space.shape
            self.entropy = SpectralEntropy(m, n, self.depth, self.metric.rank, widths)

    def start(self, points: np.ndarray) -> State:
        u, s, vt = np.linalg.svd(points, full_matrices=False)
        r = self.metric.rank
        _require_rank(s[:, :r], r)
        return {"u": u[..., :r], "s": s[:, :r], "v": np.swapaxes(vt[:, :r], 1, 2)}

    def step(self, state: State, rng: np.random.Generator) -> State:
        h, gradient = self.sampler.step_size, self._gradient(state)
        noise = rng.standard_normal(gradient.shape)
        new = {name: np.empty_like(value) for name, value in state.items()}
        for c in range(len(gradient)):
            frame = Frame(state["u"][c], state["s"][c], state["v"][c].T, self.metric.kernel)
            drift = frame.scale(frame.split(gradient[c]), 1)
            kick = frame.scale(frame.split(noise[c]), 0.5)
            amplitude = math.sqrt(2 * h * self.temperature)
            z = Blocks(*(None if a is None else amplitude * b - h * a for a, b in zip(drift, kick, strict=True)))
            try:
                new["u"][c], new["s"][c], vt = retract(frame, z)
            except OverflowError as error:
                raise ValueError(f"the step of chain {c} overflows; take a step_size below {h:g}.") from error
            new["v"][c] = vt.T
        return new

    def _gradient(self, state: State) -> np.ndarray:
        potential = self.sampler.potential_gradient
        slope = np.zeros_like(state["s"])
        if isinstance(potential, SpectralPotential):
            lam = state["s"] ** (1 / self.depth)
            slope = slope + _finite(potential.derivative(lam)) / self.depth * lam ** (1 - self.depth)
        if self.entropy is not None:
            slope = slope - self.entropy.gradient(state["s"]) / self.sampler.beta
        dense = (state["u"] * slope[:, None, :]) @ np.swapaxes(state["v"], 1, 2)
        return dense if isinstance(potential, SpectralPotential) else dense + _finite(potential(self.points(state)))

    def points(self, state: State) -> np.ndarray:
        return (state["u"] * state["s"][:, None, :]) @ np.swapaxes(state["v"], 1, 2)


class _Geodesic(_Mover):
    """Any space of geomstats: its exponential map, and its metric in an orthonormal basis of each tangent space."""

    def __init__(self, sampler: Langevin, temperature: float) -> None:
        self.sampler, self.temperature, self.space = sampler, temperature, sampler.space

    def start(self, points: np.ndarray) -> State:
        if not np.all(to_numpy(self.space.belongs(to_gs(points), atol=1e-6))):
            raise ValueError(f"an initial point is not in {type(self.space).__name__}; project it (space.projection).")
        return {"points": points.copy()}

    def step(self, state: State, rng: np.random.Generator) -> State:
        h, points = self.sampler.step_size, state["points"]
        assert not isinstance(self.sampler.potential_gradient, SpectralPotential)
        gradient = _finite(self.sampler.potential_gradient(points)).reshape(len(points), -1)
        basis, gram = self._frames(points)
        # With the metric G = LLᵀ in the basis, the gradient is G⁻¹ times the partial derivatives, and noise of the
        # metric is L^{−T} times white noise: both are L^{−T} times something.
        lower = np.linalg.cholesky(gram)
        drift = np.linalg.solve(lower, basis @ gradient[..., None])
        kick = rng.standard_normal(drift.shape)
        amplitude = math.sqrt(2 * h * self.temperature)
        components = np.linalg.solve(np.swapaxes(lower, 1, 2), amplitude * kick - h * drift)
        vectors = np.reshape(np.swapaxes(components, 1, 2) @ basis, points.shape)
        moved = to_numpy(self.space.metric.exp(to_gs(vectors), to_gs(points)))
        if not np.isfinite(moved).all():
            raise ValueError(
                f"the exponential map of {type(self.space).__name__} left it; take a step_size below {h:g}."
            )
        return {"points": moved}

    def _frames(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frobenius-orthonormal bases of the tangent spaces, shape=[n_chains, dim, size], and the metric in them."""
        base, size, dim = to_gs(points), math.prod(self.space.shape), int(self.space.dim)
        units = np.eye(size).reshape(size, 1, *self.space.shape)
        images = [to_numpy(self.space.to_tangent(to_gs(np.broadcast_to(e, points.shape)), base)) for e in units]
        _, values, basis = np.linalg.svd(np.stack([image.reshape(len(points), size) for image in images], axis=1))
        if not np.all(np.sum(values > 1e-8 * values[:, :1], axis=1) == dim):
            raise ValueError(
                f"to_tangent of {type(self.space).__name__} does not map onto its {dim} dimensions; nothing can be "
                "sampled with it."
            )
        basis = np.ascontiguousarray(basis[:, :dim])
        vectors = basis.reshape(len(points), dim, *self.space.shape)
        gram = np.empty((len(points), dim, dim))
        for a in range(dim):
            for b in range(a + 1):
                products = self.space.metric.inner_product(to_gs(vectors[:, a]), to_gs(vectors[:, b]), base)
                gram[:, a, b] = gram[:, b, a] = to_numpy(products).reshape(len(points))
        return basis, gram

    def points(self, state: State) -> np.ndarray:
        return state["points"].copy()


def _require_rank(s: np.ndarray, rank: int) -> None:
    if not (s > 0).all():
        raise ValueError(f"an initial point has rank below {rank}; start from points of that rank.")


def _finite(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("the gradient of the potential holds NaN or infinite entries; check it at the initial points.")
    return values
