"""The energies of ``dlngeo sample``, and chains of their Gibbs laws on matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dlngeo import _check
from dlngeo._linalg import haar
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.problems.approximation import LowRankApproximation
from dlngeo.sampling.langevin import Langevin
from dlngeo.sampling.potentials import SpectralPotential
from dlngeo.sampling.runs.sweep import Cell
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

__all__ = ["ENERGIES", "Gibbs"]

ENERGIES = {"lambda": "½Σλ²", "norm": "½‖X‖²", "nuclear": "Σσ", "target": "½‖X − T‖²"}

MAX_LAYERS = 10_000
_NODES = {1: 200, 2: 120, 3: 60, 4: 30}  # of the exact law, by rank
_STEP, _STIFF = 0.02, 0.05  # the largest step, and the largest step times curvature
_SHARE = 0.1  # of the time of relaxation


@dataclass(frozen=True)
class Gibbs:
    """A Gibbs law ``e^{−βE} dvol_g`` or ``e^{−(β/κ)(E − S/β)} dvol_g`` on the m×n matrices of rank r.

    The energy is one of :data:`ENERGIES`, of which ``"target"`` has a target T; the depth N is finite. The rank of the
    matrices and the width of the inner layers are ``min(m, n)`` by default. The inverse temperature is β; the noise is
    ``"base"``, or ``"isotropic"`` with the anisotropy κ. A ValueError or TypeError refuses values out of range.
    """

    energy: str
    shape: tuple[int, int]
    depth: float
    rank: int | None = None
    width: int | None = None
    beta: float = 1.0
    noise: str = "base"
    kappa: float = 1.0
    target: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.energy not in ENERGIES:
            raise ValueError(f"the energy must be {', '.join(ENERGIES)}, got {self.energy!r}.")
        if (self.target is None) == (self.energy == "target"):
            raise ValueError("a target belongs to the energy target, and that to a target.")
        if math.isinf(_check.depth(self.depth, allow_infinite=True)):
            raise ValueError("no law is normalised at infinite depth, where det X = 0 is infinitely far; lower it.")
        for name in ("beta", "kappa"):
            if not 1e-100 <= _check.positive(getattr(self, name), name) <= 1e100:
                raise ValueError(f"{name} must lie in [1e-100, 1e100], got {getattr(self, name):g}.")
        self.sampler(1.0)  # which checks the rest

    @cached_property
    def entropy(self) -> SpectralEntropy:
        """Entropy of the layers."""
        return SpectralEntropy(*self.shape, self.depth, self.rank, self.widths)

    @property
    def widths(self) -> tuple[int, ...] | None:
        """Widths of the network, if the inner one was given."""
        if self.width is None:
            return None
        if not float(self.depth).is_integer():
            raise ValueError(f"layers come in whole numbers; depth {self.depth:g} has none of width {self.width}.")
        if self.depth > MAX_LAYERS:
            raise ValueError(
                f"at most {MAX_LAYERS} layers have a width, got depth {self.depth:g}; leave the width out."
            )
        return (self.shape[1], *[_check.positive_integer(self.width, "width")] * (int(self.depth) - 1), self.shape[0])

    def sampler(self, step_size: float) -> Langevin:
        """Langevin dynamics of the law, which reports λ and the energy."""
        m, n = self.shape
        space = FixedRankMatrices(m, n, self.entropy.rank, equip=False).equip_with_metric(DLNMetric, depth=self.depth)
        distance = None if self.target is None else LowRankApproximation(self.target)
        return _Reporting(
            space,
            distance.euclidean_gradient if distance else _spectral(self.energy, self.depth),
            self.beta,
            step_size,
            potential=distance.cost if distance else None,
            noise=self.noise,
            kappa=self.kappa,
            widths=self.widths,
        )

    def cell(self, rng: np.random.Generator, chains: int, step_size: float) -> Cell:
        """Chains that start at random frames, and singular values of the typical size and of four times the spread."""
        (m, n), r = self.shape, self.entropy.rank
        lam = self._size * np.exp(rng.uniform(-0.7, 0.7, (chains, r)))
        u, v = (np.stack([haar(rng, (size, r)) for _ in range(chains)]) for size in (m, n))
        return Cell(self.sampler(step_size), (u, lam, np.swapaxes(v, 1, 2)))

    @property
    def _size(self) -> float:
        """Size of a λ, by sharing the energy equally among the dimensions."""
        (m, n), r, depth = self.shape, self.entropy.rank, self.depth
        each = (m + n - r) * self.kappa / self.beta
        if self.energy == "lambda":
            return math.sqrt(each)
        if self.energy == "nuclear":
            return (each / depth) ** (1 / depth)
        size = 0.0 if self.target is None else float(np.linalg.norm(self.target)) / math.sqrt(r)
        return math.hypot(size, math.sqrt(each / depth)) ** (1 / depth)

    @cached_property
    def step_size(self) -> float:
        """A step that is short against the curvature of the energy in the metric, at twice the size expected of σ.

        For ``½Σλ²`` at integer depth, where steps have little bias or none, it is a tenth of the time of relaxation.
        """
        depth = self.depth
        lam = 2 ** (1 / depth) * self._size
        if self.target is not None:
            lam = max(lam, float(np.linalg.norm(self.target, 2)) ** (1 / depth))
        if self.energy == "lambda":
            if depth >= 2 and float(depth).is_integer():
                return float(f"{_SHARE * depth / 2:.2g}")
            curvature = 1.0
        elif self.energy == "nuclear":
            curvature = 2 * depth * lam ** (depth - 2)
        else:
            curvature = (2 * depth - 1) * lam ** (2 * depth - 2)
        return float(f"{min(_STEP, _STIFF / curvature):.2g}")

    @cached_property
    def law(self) -> SpectralLaw | None:
        """The exact law of the singular values, where the energy has one and the rank is small."""
        if self.target is not None or self.entropy.rank not in _NODES:
            return None
        nodes = _NODES[self.entropy.rank]
        return SpectralLaw(self.spectral_energy, self.entropy, self.beta, self.noise, nodes, kappa=self.kappa)

    def spectral_energy(self, s: np.ndarray) -> np.ndarray:
        """Energy as a function of the singular values σ, shape=[..., r]."""
        return _spectral(self.energy, self.depth).value(s ** (1 / self.depth))


class _Reporting(Langevin):
    """Reports λ, which a dense X of a deep network has lost."""

    def statistics(self, state: State) -> State:
        return {**super().statistics(state), "lam": -np.sort(-self.lam(state), axis=-1)}


def _spectral(energy: str, depth: float) -> SpectralPotential:
    """``c Σ λ^p``."""
    power, factor = {"lambda": (2.0, 0.5), "norm": (2 * depth, 0.5), "nuclear": (depth, 1.0)}[energy]
    return SpectralPotential(
        lambda lam: factor * np.sum(lam**power, axis=-1), lambda lam: factor * power * lam ** (power - 1)
    )
