"""
Where does noise drive the singular values?
===========================================

To the minimisers of the free energy. Entropy repels singular values from zero, and makes those of the minimisers
equal, unless the energy favours low rank too much: then their symmetry breaks, in a jump.
Run ``python examples/free_energy.py [figure.png]``.
"""

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

from dlngeo import gradient_flow
from dlngeo.geomstats import DLNMetric
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.equilibria import equal_equilibria, minimisers, relaxation
from dlngeo.thermodynamics.free_energy import free_energy_gradient

D, DEPTHS, BETAS, TIMES = 3, (2, 4, np.inf), np.geomspace(0.1, 10, 7), np.linspace(0, 3, 61)
START = np.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, 0.0, 0.1]])
EXPONENTS = np.linspace(0.45, 0.75, 21)


def schatten_minimiser(q, depth, beta):
    """Singular values of least ``Σ σ_k^q/q − S/β``."""
    entropy = SpectralEntropy(D, D, depth)
    return minimisers(lambda s: np.sum(s**q) / q, lambda s: s ** (q - 1), entropy, beta, n_starts=4, rng=0)[0].s


def main():
    """Minimise free energies over β, N and the exponent of the energy, and follow the gradient flow of one."""
    sizes = {depth: np.array([schatten_minimiser(2, depth, beta) for beta in BETAS]) for depth in DEPTHS}
    flows = {}
    for depth in (2, 4):
        space, entropy = GeneralLinear(D, equip=False), SpectralEntropy(D, D, depth)
        space.equip_with_metric(DLNMetric, depth=depth)
        flow = gradient_flow(space, lambda x, n=depth: free_energy_gradient(x, x, n, 1.0), START, TIMES[::5])
        theory = relaxation(lambda s: s, entropy, 1.0, np.linalg.svd(START)[1], TIMES)
        flows[depth] = {"flow": np.linalg.svd(flow.points)[1], "theory": theory}
    entropy = SpectralEntropy(D, D, 8)
    return {
        "sizes": sizes,
        "flows": flows,
        "least": np.array([schatten_minimiser(q, 8, 1.0) for q in EXPONENTS]),
        "equal": np.array([equal_equilibria(lambda s, q=q: s ** (q - 1), entropy, 1.0)[0] for q in EXPONENTS]),
        "threshold": D * (1 + 1 / 8) / (3 * (D - 1)),  # equal singular values are unstable below this exponent
    }


def plot(result, path):
    """Draw the minimisers over β, the singular values along the flow, and the minimisers over the exponent."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for color, (depth, size) in zip(("C0", "C1", "C2"), result["sizes"].items(), strict=True):
        left.loglog(BETAS, np.sqrt((D - 1) * (1 - 1 / depth) / (2 * BETAS)), color, label=f"N = {depth:g}")
        left.loglog(BETAS, size, color + "o", ms=5)
    left.set(xlabel="inverse temperature β", ylabel="singular values", title="minimisers of ½‖X‖² − S/β")
    for color, (depth, found) in zip(("C0", "C1"), result["flows"].items(), strict=True):
        middle.plot(TIMES, found["theory"], color, label=[f"N = {depth}", None, None])
        middle.plot(TIMES[::5], found["flow"], color + "o", ms=4)
        middle.axhline(result["sizes"][depth][BETAS == 1].mean(), color=color, lw=0.8, ls=":")
    middle.set(xlabel="time", ylim=0, title="gradient flow of matrices (dots), theory (lines)")
    stable = result["threshold"] < EXPONENTS
    right.semilogy(EXPONENTS[stable], result["equal"][stable], "k", lw=1, label="equal, stable")
    right.semilogy(EXPONENTS[~stable], result["equal"][~stable], "k--", lw=1, label="equal, unstable")
    right.semilogy(EXPONENTS, result["least"], "C3o", ms=4, label=["least free energy", None, None])
    right.set(xlabel="exponent q", title=r"equilibria of $\Sigma\,\sigma_k^q/q - S/\beta$, N = 8, β = 1")
    for axes in (left, middle, right):
        axes.legend()
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, size in outcome["sizes"].items():
        print(f"depth {depth:g}: s* √β =", *(f"{s:.6f}" for s in size[:, 0] * np.sqrt(BETAS)))
    print(f"equal singular values are unstable below q = {outcome['threshold']:.4f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "free_energy.png")
