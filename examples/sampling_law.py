"""
Do the samplers have the right law?
===================================

The law of the singular values is known, so it can be seen. 3×3 matrices at depth 3 in the energy ``E = ½‖X‖²`` are
sampled under noise of the metric, which gives ``e^{−βE} dvol_g``, and under isotropic noise on the weights, which adds
the entropy and so repels the singular values from zero. ``Langevin`` has a bias of its step, ``ConstrainedHMC`` none.
Run ``python examples/sampling_law.py [figure.png]``.
"""

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

from dlngeo import DLNMetric
from dlngeo.sampling import ConstrainedHMC, Langevin
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

DEPTH, BETA, CHAINS = 3, 2.0, 200
NOISES = {"base": "noise of the metric", "isotropic": "isotropic noise on the weights"}


def squares(x):
    """Energy ½‖X‖²."""
    return np.sum(x**2, axis=(-2, -1)) / 2


def main(seed=0):
    """Sample both laws by both samplers; λ = σ^{1/N} of the draws, and their density, and mean energies."""
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=DEPTH)
    start, rng = np.broadcast_to(0.7 * np.eye(3), (CHAINS, 3, 3)), np.random.default_rng(seed)
    grid, results = np.linspace(0, 1.6, 81), {}
    for noise in NOISES:
        samplers = {
            "Langevin": Langevin(space, lambda x: x, BETA, 0.05, potential=squares, noise=noise),
            "ConstrainedHMC": ConstrainedHMC(space, squares, lambda x: x, BETA, 0.2, 5, noise=noise),
        }
        draws = {name: s.sample(start, 500, burn_in=100, thin=5, rng=rng) for name, s in samplers.items()}
        law = SpectralLaw(lambda s: np.sum(s**2, axis=-1) / 2, SpectralEntropy(3, 3, DEPTH), BETA, noise)
        results[noise] = {
            "lam": {name: np.linalg.svd(found.points)[1] ** (1 / DEPTH) for name, found in draws.items()},
            "energy": {name: squares(found.points).mean(axis=1) for name, found in draws.items()},
            "grid": grid,
            "density": law.density(grid),
            "exact energy": law.mean(lambda s: np.sum(s**2, axis=-1) / 2),
        }
    return results


def plot(results, path):
    """Draw histograms of the samples over the exact density."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for ax, (noise, found) in zip(figure.subplots(1, 2, sharey=True), results.items(), strict=True):
        for (name, lam), style in zip(found["lam"].items(), ({"alpha": 0.35}, {"histtype": "step"}), strict=True):
            ax.hist(lam.ravel(), found["grid"][::2], density=True, label=name, **style)
        ax.plot(found["grid"], found["density"], "k", linewidth=1.5, label="exact law")
        ax.set(xlabel=r"$\lambda = \sigma^{1/3}$", title=NOISES[noise], xlim=(0, 1.6))
    handles = ax.get_legend_handles_labels()
    figure.supylabel("density", fontsize="medium")
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for noise, found in outcome.items():
        for name, energy in found["energy"].items():
            mean, error = energy.mean(), energy.std(ddof=1) / np.sqrt(len(energy))
            print(f"{noise:9} {name:14} mean energy {mean:.4f} ± {error:.4f}, exact {found['exact energy']:.4f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "sampling_law.png")
