r"""Chains on the balanced weights of a deep linear network: what its samplers upstairs share.

The state is frames ``Q_0, …, Q_N`` and λ, so that weights ``Q_p Λ Q_{p−1}ᵀ`` are balanced to round-off and ``λ^N`` is
never formed but for the points ``X = Q_N Λ^N Q_0ᵀ``. Vectors are those of :mod:`dlngeo.sampling.compiled.orthographic`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dlngeo import _check
from dlngeo.geomstats.gradients import fills
from dlngeo.geomstats.metrics import SpectralMetric
from dlngeo.sampling.chain import Sampler
from dlngeo.sampling.compiled import orthographic as _orthographic
from dlngeo.sampling.factors import Factors, factored
from dlngeo.sampling.movers import Point, Tangent
from dlngeo.sampling.potentials import Potential, SpectralPotential, energies, gradients, require_confined, slopes
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.noise import Noise
from dlngeo.weights.balanced import BalancedFrame, dimension
from dlngeo.weights.network import Weights, imbalance, layers_of, widths

__all__ = ["BalancedSampler", "Vector"]


class Vector(NamedTuple):
    """Tangent vectors: cores, shape=[chains, N, r, r], and sides, shape=[chains, N + 1, D, r]."""

    cores: np.ndarray
    sides: np.ndarray


class BalancedSampler(Sampler, ABC):
    """A sampler whose chains move on the balanced weights of rank r; its points are the products X.

    Attributes
    ----------
    widths : tuple of int
        Widths ``(d_0, …, d_N)``.
    rank, depth : int
        r and N.
    dim : int
        Dimension of the manifold of balanced weights.
    entropy : SpectralEntropy
        Entropy of the fibres.
    """

    def __init__(
        self,
        space: Any,
        potential: Potential | SpectralPotential | None,
        potential_gradient: Potential | SpectralPotential | None,
        beta: float,
        step_size: float,
        noise: Noise,
        rank: int | None,
    ) -> None:
        self.noise = noise
        self.widths, self.rank, self.slowness = _network(space, rank, noise)
        self.depth, self.dim = len(self.widths) - 1, dimension(self.widths, self.rank)
        n, *_, m = self.widths
        self.entropy = SpectralEntropy(m, n, self.depth, self.rank, self.widths)
        self.beta, self.step_size = _check.positive(beta, "beta"), _check.positive(step_size, "step_size")
        self.potential, self.potential_gradient = potential, potential_gradient
        self.spectral = next((f for f in (potential, potential_gradient) if isinstance(f, SpectralPotential)), None)
        self._sizes = np.array(self.widths)
        require_confined(potential_gradient, self.depth, self.rank, self.widths, noise)

    def start(self, points: np.ndarray | Factors) -> State:
        u, lam, v = factored(points, (self.widths[-1], self.widths[0]), self.rank, self.depth)
        inner = [np.broadcast_to(np.eye(d, self.rank), (len(lam), d, self.rank)) for d in self.widths[1:-1]]
        return self._state([v, *inner, u], lam)

    def state_at(self, weights: Weights) -> State:
        """State of chains at given balanced weights, to :meth:`sample` from.

        Unlike matrices X, the weights of deep networks hold the digits of every λ.

        Parameters
        ----------
        weights : sequence of array, shape=[n_chains, d_p, d_{p−1}], or array, shape=[n_chains, N, d, d]
            Balanced weights.

        Raises
        ------
        ValueError
            If the widths differ from those of the sampler, or the weights are not balanced to 1e-6, or their
            rank is below r.
        """
        layers = layers_of(weights)
        for layer in layers:
            _check.real(layer, "the weights")
        if widths(weights) != self.widths:
            raise ValueError(f"weights of widths {widths(weights)}; the sampler has {self.widths}.")
        frame = BalancedFrame(weights, self.rank)
        worst = max((float(np.max(np.abs(g))) for g in imbalance(layers)), default=0.0)
        if not worst <= 1e-6 * float(np.max(frame.lam)) ** 2:
            raise ValueError(
                f"the weights are not balanced, by {worst:.1e}; balance them (dlngeo.weights.network.rebalance)."
            )
        return self._state(frame.q, frame.lam)

    def _state(self, frames: Sequence[np.ndarray], lam: np.ndarray) -> State:
        stack = np.zeros((len(lam), self.depth + 1, max(self.widths), self.rank))
        for p, (q, d) in enumerate(zip(frames, self.widths, strict=True)):
            stack[:, p, :d] = q
        return {"frames": stack, "lam": np.array(lam), **self._blank(len(lam))}

    def _blank(self, chains: int) -> State:
        """Statistics before the first step."""
        return {}

    def points(self, state: State) -> np.ndarray:
        return self._product(self._ends(state["frames"], state["lam"]))

    def factors(self, state: State) -> Factors:
        """Factors of the points of a state, for other samplers to start from."""
        u, lam, v = self._ends(state["frames"], state["lam"])
        return Factors(u.copy(), lam.copy(), np.swapaxes(v, 1, 2).copy())

    def weights(self, state: State) -> list[np.ndarray]:
        """Weights of a state, first layer first, shape=[n_chains, d_p, d_{p−1}] each."""
        frames, lam = state["frames"], state["lam"]
        return [
            (frames[:, p + 1, :above] * lam[:, None, :]) @ np.swapaxes(frames[:, p, :below], 1, 2)
            for p, (below, above) in enumerate(pairwise(self.widths))
        ]

    def _ends(self, frames: np.ndarray, lam: np.ndarray) -> Point:
        """Return U, λ and V."""
        return Point(frames[:, -1, : self.widths[-1]], lam, frames[:, 0, : self.widths[0]])

    def _product(self, ends: Point) -> np.ndarray:
        return (ends.u * ends.lam[:, None, :] ** self.depth) @ np.swapaxes(ends.v, 1, 2)

    def _energy(self, ends: Point) -> np.ndarray:
        if self.spectral is not None:
            return energies(self.spectral, ends.lam)
        assert self.potential is not None
        return energies(self.potential, self._product(ends))

    def _euclidean(self, ends: Point) -> Tangent:
        """``UᵀE′V``, ``(1 − UUᵀ)E′V`` and ``(1 − VVᵀ)E′ᵀU`` of a potential that is not spectral."""
        assert callable(self.potential_gradient)
        assert not isinstance(self.potential_gradient, SpectralPotential)
        u, _, v = ends
        gradient = gradients(self.potential_gradient, self._product(ends), finite=False)
        left, right = gradient @ v, np.swapaxes(gradient, 1, 2) @ u
        core = np.swapaxes(u, 1, 2) @ left
        left = left - u @ core if u.shape[1] > self.rank else left[:, :0]
        return Tangent(core, left, right - v @ np.swapaxes(core, 1, 2) if v.shape[1] > self.rank else right[:, :0])

    def _gradient(self, frames: np.ndarray, lam: np.ndarray) -> Vector:
        """Gradient of E in the weights, which is horizontal."""
        out = Vector(np.zeros((len(lam), self.depth, self.rank, self.rank)), np.zeros_like(frames))
        if self.spectral is not None:
            index = np.arange(self.rank)
            slope = slopes(self.spectral, lam, finite=False) / self.depth
            out.cores[:, :, index, index] = slope[:, None, :]
            return out
        core, left, right = self._euclidean(self._ends(frames, lam))
        powers = lam[:, None, :] ** np.arange(self.depth)[:, None]
        out.cores[:] = powers[:, ::-1, :, None] * core[:, None] * powers[:, :, None, :]
        out.sides[:, -1, : left.shape[1]] = left * powers[:, -1:]
        out.sides[:, 0, : right.shape[1]] = right * powers[:, -1:]
        return out

    def _white(self, frames: np.ndarray, lam: np.ndarray, rng: np.random.Generator) -> Vector:
        """Draw standard normal tangent vectors."""
        out = Vector(rng.standard_normal((len(lam), self.depth, self.rank, self.rank)), np.zeros_like(frames))
        _orthographic.project(lam, out.cores)
        for p, d in enumerate(self.widths):
            if d > self.rank:
                q, noise = frames[:, p, :d], rng.standard_normal((len(lam), d, self.rank))
                # The mean of two independent sides, L_p and R_{p+1}, at inner layers.
                scale = 1.0 if p in (0, self.depth) else 0.5**0.5
                out.sides[:, p, :d] = scale * (noise - q @ (np.swapaxes(q, 1, 2) @ noise))
        return out

    def _split(self, lam: np.ndarray, vector: Vector) -> tuple[Vector, Vector]:
        """Horizontal and vertical part of tangent vectors."""
        larger = np.maximum(lam[:, :, None], lam[:, None, :])[:, None]
        p = np.arange(self.depth)[:, None, None]
        unit = (lam[:, None, :, None] / larger) ** (self.depth - 1 - p) * (lam[:, None, None, :] / larger) ** p
        unit /= np.sum(unit**2, axis=1, keepdims=True) ** 0.5
        along = np.sum(unit * vector.cores, axis=1, keepdims=True) * unit
        outer = np.zeros_like(vector.sides)
        outer[:, [0, -1]] = vector.sides[:, [0, -1]]
        return Vector(along, outer), Vector(vector.cores - along, vector.sides - outer)

    def _squared_norm(self, vector: Vector) -> np.ndarray:
        sides = np.sum(vector.sides**2, axis=(2, 3))
        return np.sum(vector.cores**2, axis=(1, 2, 3)) + 2 * np.sum(sides, axis=1) - sides[:, 0] - sides[:, -1]

    def settings(self) -> dict[str, Any]:
        return {
            "sampler": type(self).__name__,
            "widths": list(self.widths),
            "rank": self.rank,
            "beta": self.beta,
            "step_size": self.step_size,
            "noise": self.noise.name,
        }


def _network(space: Any, rank: int | None, noise: Noise) -> tuple[tuple[int, ...], int, float]:
    """Widths, rank, and how many times slower time runs than in the unnormalised metric."""
    metric = getattr(space, "metric", None)
    if metric is None:
        if isinstance(space, (str, int)) or not isinstance(space, Sequence):
            raise TypeError(f"space must be widths (d_0, …, d_N) or have a DLNMetric, got {type(space).__name__}.")
        sizes = tuple(_check.positive_integer(width, "a width") for width in space)
        if len(sizes) < 2:
            raise ValueError(f"widths {sizes} are too few; a network has at least two, (d_0, d_1).")
        return sizes, min(sizes) if rank is None else _check.rank(rank, min(sizes), min(sizes)), 1.0
    depth = metric.depth if isinstance(metric, SpectralMetric) and fills(space) else None
    if depth is None or not depth.is_integer():
        raise ValueError(
            f"{type(space).__name__} has no balanced weights: it needs a DLNMetric of integer depth, on all matrices "
            "of a rank. Langevin samples other spaces."
        )
    if rank not in (None, metric.rank):
        raise ValueError(f"rank {rank} contradicts the space, of rank {metric.rank}; leave it out.")
    m, n = space.shape
    inner = min(m, n) if noise.vertical else metric.rank
    return (n, *[inner] * (int(depth) - 1), m), metric.rank, depth / metric.kernel.at_one
