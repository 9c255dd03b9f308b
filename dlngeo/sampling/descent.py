"""Gradient descent with the noise of labels or of batches, as motion of the product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.matrices.retraction import retract
from dlngeo.sampling.factors import Factors, factored
from dlngeo.sampling.potentials import SpectralPotential, gradients
from dlngeo.sampling.state import State

__all__ = ["Descent"]


class Descent:
    """Steps along ``−A_X(hE′ + √(hη) ζ)`` by the retraction of the layers, chain by chain, with the state (U, Σ, V).

    At integer depth and ``h = η`` that is a step of the layers themselves, which are balanced again before the next.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.metric = sampler, sampler.space.metric
        if sampler.noise.atoms.shape[1:] != tuple(sampler.space.shape):
            raise ValueError(
                f"the atoms have shape {sampler.noise.atoms.shape[1:]}, points {tuple(sampler.space.shape)}."
            )
        if isinstance(sampler.potential_gradient, SpectralPotential):
            raise ValueError("noise of gradients needs the Euclidean gradient, not a potential of λ.")

    def start(self, points: np.ndarray | Factors) -> State:
        depth = self.metric.depth if self.metric.depth not in (None, math.inf) else 1
        u, lam, v = factored(points, tuple(self.sampler.space.shape), self.metric.rank, depth)
        return {"u": u, "s": lam**depth, "v": v}

    def step(self, state: State, rng: np.random.Generator) -> State:
        h, noise, new = self.sampler.step_size, self.sampler.noise, {k: a.copy() for k, a in state.items()}
        points = self.points(state)
        covectors = h * gradients(self.sampler.potential_gradient, points)
        covectors += math.sqrt(h * noise.learning_rate) * noise.draw(points, rng)
        for c, covector in enumerate(covectors):
            frame = Frame(state["u"][c], state["s"][c], state["v"][c].T, self.metric.kernel)
            z = Blocks(*(None if part is None else -part for part in frame.scale(frame.split(covector), 1)))
            try:
                new["u"][c], new["s"][c], vt = retract(frame, z)
            except OverflowError as error:
                raise ValueError(f"the step of chain {c} overflows; take a step_size below {h:g}.") from error
            if not new["s"][c].min() > 0:
                raise ValueError(f"the step of chain {c} lost rank; take a step_size below {h:g}.")
            new["v"][c] = vt.T
        return new

    def points(self, state: State) -> np.ndarray:
        return (state["u"] * state["s"][:, None, :]) @ np.swapaxes(state["v"], 1, 2)
