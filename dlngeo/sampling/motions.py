"""Hamiltonian motion of a deep linear network: of its weights, or of a matrix that has the law of their product."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dlngeo.sampling import movers as _fixed_rank
from dlngeo.sampling.compiled import orthographic as _orthographic
from dlngeo.sampling.compiled.slopes import entropy_slope
from dlngeo.sampling.movers import Point, Tangent
from dlngeo.sampling.potentials import finite_or_raise, slopes
from dlngeo.sampling.weights import BalancedSampler, Vector

__all__ = ["MOTIONS", "Motion", "ProductMotion", "WeightsMotion"]


class Motion(ABC):
    """RATTLE on a manifold with the potential ``βE + cS``.

    Positions are named tuples of arrays, chains first, one of them ``lam``; so are momenta and forces.
    """

    base: ClassVar[float]  # c of base noise; that of isotropic noise is less by 1

    def __init__(self, sampler: BalancedSampler) -> None:
        self.sampler, self.weight = sampler, self.base - sampler.noise.vertical
        self.entropy = sampler.entropy

    @abstractmethod
    def position(self, frames: np.ndarray, lam: np.ndarray) -> Any:
        """Position at a state, copied."""

    @abstractmethod
    def frames(self, position: Any, rng: np.random.Generator) -> np.ndarray:
        """Frames of the state at a position."""

    @abstractmethod
    def ends(self, position: Any) -> Point:
        """U, λ and V of X, as views."""

    @abstractmethod
    def momentum(self, position: Any, rng: np.random.Generator) -> Any:
        """Draw a standard normal tangent vector."""

    @abstractmethod
    def squared_norm(self, momentum: Any) -> np.ndarray:
        """Squared norms, shape=[chains]."""

    @abstractmethod
    def force(self, position: Any) -> Any:
        """Gradient of the potential."""

    @abstractmethod
    def leap(self, position: Any, momentum: Any, steps: np.ndarray, residuals: np.ndarray) -> None:
        """Position step in place; see :func:`dlngeo.sampling.movers.leap` for the residuals."""

    def integrate(self, position: Any, momentum: Any, steps: np.ndarray, count: int) -> np.ndarray:
        """Follow the motion for ``count`` steps, in place; the residuals are infinite where they are to be rejected."""
        residuals, force = np.zeros(len(steps)), self.force(position)
        finite_or_raise(force[0], "the gradient of the potential")
        _kick(momentum, force, steps / 2)
        for k in range(count):
            self.leap(position, momentum, steps, residuals)
            force = self.force(position)
            # A trajectory that ran off to where the force overflows is rejected.
            lost = ~np.isfinite(sum(part.sum(axis=tuple(range(1, part.ndim))) for part in force))
            if lost.any():
                residuals[lost] = math.inf
                for part in force:
                    part[lost] = 0
            _kick(momentum, force, steps if k < count - 1 else steps / 2)
        return residuals

    def hamiltonian(self, energy: np.ndarray, position: Any, momentum: Any) -> np.ndarray:
        return self.potential(energy, position.lam) + self.squared_norm(momentum) / 2

    def potential(self, energy: np.ndarray, lam: np.ndarray) -> np.ndarray:
        """``βE + cS``."""
        total = self.sampler.beta * energy
        return total + self.weight * self.entropy.value(self.sampler.depth * np.log(lam)) if self.weight else total


class ProductMotion(Motion):
    """Motion of the matrix ``Y = UΛVᵀ`` of rank r, of the flat metric."""

    base: ClassVar = 0.0

    def position(self, frames: np.ndarray, lam: np.ndarray) -> Point:
        return Point(*(np.array(part, order="C") for part in self.sampler._ends(frames, lam)))

    def frames(self, position: Point, rng: np.random.Generator) -> np.ndarray:
        """Frames with the inner ones drawn anew, which are independent of X and of each other."""
        widths, rank = self.sampler.widths, self.sampler.rank
        frames = np.zeros((len(position.lam), len(widths), max(widths), rank))
        frames[:, 0, : widths[0]], frames[:, -1, : widths[-1]] = position.v, position.u
        for d in sorted(set(widths[1:-1])):
            places = [p for p in range(1, len(widths) - 1) if widths[p] == d]
            frames[:, places, :d] = _fixed_rank.draw_frames(rng, len(frames), len(places), d, rank)
        return frames

    def ends(self, position: Point) -> Point:
        return position

    def momentum(self, position: Point, rng: np.random.Generator) -> Tangent:
        chains, r = position.lam.shape
        sides = []
        for q in (position.u, position.v):
            noise = rng.standard_normal((chains, q.shape[1] if q.shape[1] > r else 0, r))
            sides.append(noise - q @ (np.swapaxes(q, 1, 2) @ noise) if noise.size else noise)
        return Tangent(rng.standard_normal((chains, r, r)), *sides)

    def squared_norm(self, momentum: Tangent) -> np.ndarray:
        core, left, right = (np.sum(part**2, axis=(1, 2)) for part in momentum)
        return core + left + right

    def force(self, position: Point) -> Tangent:
        """Gradient: what moves Y by K moves X by ``(λ_k^N ∓ λ_l^N)/(λ_k ∓ λ_l)`` times its symmetric and skew part."""
        sampler, (u, lam, v) = self.sampler, position
        index, depth = np.arange(sampler.rank), sampler.depth
        if sampler.spectral is not None:
            sides = (np.zeros((len(q), q.shape[1] if q.shape[1] > sampler.rank else 0, sampler.rank)) for q in (u, v))
            force = Tangent(np.zeros((len(lam), sampler.rank, sampler.rank)), *sides)
            force.core[:, index, index] = sampler.beta * slopes(sampler.spectral, lam, finite=False)
        else:
            core, left, right = sampler._euclidean(position)
            symmetric, skew = _quotients(lam, depth)
            across = np.swapaxes(core, 1, 2)
            core = (symmetric * (core + across) + skew * (core - across)) / 2
            powers = lam[:, None, :] ** (depth - 1)
            force = Tangent(sampler.beta * core, sampler.beta * left * powers, sampler.beta * right * powers)
        if self.weight:
            force.core[:, index, index] += self.weight * depth * entropy_slope(lam, self.entropy)
        return force

    def leap(self, position: Point, momentum: Tangent, steps: np.ndarray, residuals: np.ndarray) -> None:
        _fixed_rank.leap(position, momentum, steps, residuals)


class Framed(NamedTuple):
    """Balanced weights ``Q_p Λ Q_{p−1}ᵀ``."""

    frames: np.ndarray
    lam: np.ndarray


class WeightsMotion(Motion):
    """Motion of the balanced weights themselves."""

    base: ClassVar = 1.0

    def position(self, frames: np.ndarray, lam: np.ndarray) -> Framed:
        return Framed(frames.copy(), lam.copy())

    def frames(self, position: Framed, rng: np.random.Generator) -> np.ndarray:
        return position.frames

    def ends(self, position: Framed) -> Point:
        return self.sampler._ends(*position)

    def momentum(self, position: Framed, rng: np.random.Generator) -> Vector:
        return self.sampler._white(*position, rng)

    def squared_norm(self, momentum: Vector) -> np.ndarray:
        return self.sampler._squared_norm(momentum)

    def force(self, position: Framed) -> Vector:
        sampler, gradient = self.sampler, self.sampler._gradient(*position)
        force = Vector(sampler.beta * gradient.cores, sampler.beta * gradient.sides)
        if self.weight:
            index, slope = np.arange(sampler.rank), entropy_slope(position.lam, self.entropy)
            force.cores[:, :, index, index] += self.weight * slope[:, None, :]
        return force

    def leap(self, position: Framed, momentum: Vector, steps: np.ndarray, residuals: np.ndarray) -> None:
        _orthographic.leap(*position, *momentum, self.sampler._sizes, steps, residuals)


MOTIONS: dict[str, type[Motion]] = {"product": ProductMotion, "weights": WeightsMotion}


def _kick(momentum: Any, force: Any, steps: np.ndarray) -> None:
    for p, f in zip(momentum, force, strict=True):
        if p.size:
            p -= steps.reshape(-1, *[1] * (p.ndim - 1)) * f


def _quotients(lam: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """``(λ_k^N ∓ λ_l^N)/(λ_k ∓ λ_l)``, shape=[chains, r, r]."""
    larger = np.maximum(lam[:, :, None], lam[:, None, :])
    x = np.log(np.minimum(lam[:, :, None], lam[:, None, :]) / larger)
    top, equal = larger ** (depth - 1), x == 0
    terms = np.where(equal, depth, np.expm1(depth * x) / np.expm1(np.where(equal, -1.0, x)))
    return top * terms, top * (1 + np.exp(depth * x)) / (1 + np.exp(x))
