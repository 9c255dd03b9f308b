"""Samplers: Riemannian Langevin dynamics on any space."""

from dlngeo.sampling.adapter import from_pymanopt
from dlngeo.sampling.chain import Sampler, Samples
from dlngeo.sampling.langevin import Langevin, SpectralPotential

__all__ = ["Langevin", "Sampler", "Samples", "SpectralPotential", "from_pymanopt"]
