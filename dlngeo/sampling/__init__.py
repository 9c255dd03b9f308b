"""Samplers: Riemannian Langevin dynamics on any space."""

from dlngeo.sampling.brownian import BrownianMotion
from dlngeo.sampling.chain import Sampler, Samples
from dlngeo.sampling.from_pymanopt import from_pymanopt
from dlngeo.sampling.hmc import ConstrainedHMC
from dlngeo.sampling.langevin import Langevin
from dlngeo.sampling.potentials import SpectralPotential, StepSizeWarning, UnconfinedWarning
from dlngeo.sampling.runs.store import CheckpointError
from dlngeo.sampling.runs.sweep import Cell, WorkerLostError, sweep
from dlngeo.sampling.upstairs import UpstairsLangevin
from dlngeo.thermodynamics.noise import LabelNoise, MinibatchNoise, Noise

__all__ = [
    "BrownianMotion",
    "Cell",
    "CheckpointError",
    "ConstrainedHMC",
    "LabelNoise",
    "Langevin",
    "MinibatchNoise",
    "Noise",
    "Sampler",
    "Samples",
    "SpectralPotential",
    "StepSizeWarning",
    "UnconfinedWarning",
    "UpstairsLangevin",
    "WorkerLostError",
    "from_pymanopt",
    "sweep",
]
