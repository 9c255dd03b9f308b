"""
What does a metric of my own do?
================================

It has geodesics, solvers and chains from one line of mathematics. Two families of kernels: the powers of the arithmetic
mean, ``φ = (s + t)^θ`` (Hiai & Petz, "Riemannian metrics on positive definite matrices related to means", Linear
Algebra Appl. 430, 2009), hold the Frobenius metric at θ = 0 and depth 2, twice Bures–Wasserstein, at θ = 1; above,
small singular values move the less. ``φ = 1/(c + s + t)`` moves them the more. From a start near zero the same trust
regions, on the same matrix with holes and far too large a rank, end at solutions of all ranks.
Run ``python examples/own_metric.py [figure.png]``.

.. image:: /own_metric.png
   :width: 100%
"""

# sphinx_gallery_thumbnail_path = 'own_metric.png'

import sys

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure
from pymanopt.optimizers import TrustRegions

from dlngeo import Kernel, check_kernel
from dlngeo.geomstats import SpectralMetric
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank
from dlngeo.sampling import Langevin


class PowerOfMean(Kernel):
    """``φ(s, t) = (s + t)^θ``."""

    def __init__(self, theta):
        self.theta = theta

    def __call__(self, s, t):
        return (s + t) ** self.theta


class Lifting(Kernel):
    """``φ(s, t) = 1/(c + s + t)``."""

    def __init__(self, c):
        self.c = c

    def __call__(self, s, t):
        return 1 / (self.c + s + t)


KERNELS = {"lifting": Lifting(1.0), "θ = 0": PowerOfMean(0), "θ = 1": PowerOfMean(1), "θ = 1.5": PowerOfMean(1.5)}
SIZE, RANK, LARGER, BETA = 14, 2, 5, 10.0


def main(seed=0):
    """Complete a matrix under each metric; follow a geodesic, sample ``e^{−βE} dvol`` for ``E = |XᵀX − 1|²/4``.

    The last two are of 2×2 matrices; this E keeps chains from the singular ones, near which their bias is largest.
    """
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((SIZE, RANK)) @ rng.standard_normal((RANK, SIZE)) / np.sqrt(SIZE)
    shown = rng.random(truth.shape) < 0.5
    problem = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape)
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, LARGER)))[0] for _ in range(2))
    ends = np.array([[1.0, 0.3], [0.0, 0.5]]), np.array([[0.6, -0.3], [0.7, 0.5]])

    results = {}
    for name, kernel in KERNELS.items():
        report = check_kernel(kernel)

        manifold = FixedRank(SIZE, SIZE, LARGER, kernel=kernel)
        optimizer = TrustRegions(verbosity=0, max_iterations=100, min_gradient_norm=1e-6)
        u_end, s, vt_end = problem.solve(manifold, optimizer, initial_point=(u, np.full(LARGER, 1e-2), v.T)).point
        error = (u_end * s) @ vt_end - truth

        space = GeneralLinear(2, equip=False)
        metric = space.equip_with_metric(SpectralMetric, kernel=kernel).metric
        path = metric.geodesic(ends[0], end_point=ends[1])(np.linspace(0, 1, 41))
        start = np.tile(np.eye(2), (20, 1, 1))
        points = Langevin(space, lambda x: x @ x.mT @ x - x, BETA, 0.04).sample(start, 500, rng=seed).points[:, 125:]
        results[name] = {
            "report": report,
            "observed_error": np.linalg.norm(error[shown]) / np.linalg.norm(truth[shown]),
            "held_out_error": np.linalg.norm(error[~shown]) / np.linalg.norm(truth[~shown]),
            "singular_values": s / np.linalg.svd(truth)[1][0],
            "distance": float(metric.dist(*ends)),
            "path": np.linalg.svd(path)[1],
            "entropy": np.array([np.log(kernel(*values)) / 2 for values in np.linalg.svd(path)[1]]),
            "energies": np.mean(np.sum((points.mT @ points - np.eye(2)) ** 2, axis=(2, 3)) / 4, axis=1),
        }
    return results


def plot(results, path):
    """Draw the singular values of the completed matrices, and the smaller one along the geodesics."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, found in results.items():
        label = f"{name}: error {found['held_out_error']:.2g}"
        left.semilogy(range(1, LARGER + 1), found["singular_values"], "o-", label=label)
        right.plot(np.linspace(0, 1, len(found["path"])), found["path"][:, 1], label=name)
    left.set(xlabel="k", ylabel="$σ_k$, in units of the true $σ_1$", title=f"completed matrices, true rank {RANK}")
    left.set(xticks=range(1, LARGER + 1), ylim=(1e-5, None))
    left.legend(loc="lower left")
    right.set(xlabel="time", ylabel="$σ_2$", title="geodesics between two matrices")
    right.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    print(outcome["lifting"]["report"])
    for name, found in outcome.items():
        mean, spread = np.mean(found["energies"]), np.std(found["energies"]) / np.sqrt(len(found["energies"]))
        print(
            f"{name:8s} held-out error {found['held_out_error']:.3f}, distance {found['distance']:.3f}, "
            f"mean energy {mean:.3f} ± {spread:.3f}"
        )
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "own_metric.png")
