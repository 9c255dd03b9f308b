"""
What does depth do that other metrics on covariances do not?
============================================================

Symmetric positive definite matrices are totally geodesic for every depth, so geomstats' own metrics on them can be
compared with ours, and pymanopt can optimise on all of them. Depth 2 is twice Bures–Wasserstein; infinite depth
interpolates the determinant, as the log-Euclidean and affine-invariant metrics do.

Run ``python examples/other_manifolds.py [figure.png]``.
"""

import sys

import geomstats.backend as gs
import numpy as np
import pymanopt
from geomstats.geometry.spd_matrices import (
    SPDAffineMetric,
    SPDBuresWassersteinMetric,
    SPDLogEuclideanMetric,
    SPDMatrices,
)
from matplotlib.figure import Figure
from pymanopt.optimizers import SteepestDescent

from dlngeo.geomstats import DLNMetric
from dlngeo.pymanopt import from_geomstats

METRICS = {
    "depth 1 (Frobenius)": (DLNMetric, {"depth": 1}),
    "depth 2": (DLNMetric, {"depth": 2}),
    "Bures–Wasserstein": (SPDBuresWassersteinMetric, {}),
    "infinite depth": (DLNMetric, {"depth": float("inf")}),
    "log-Euclidean": (SPDLogEuclideanMetric, {}),
    "affine-invariant": (SPDAffineMetric, {}),
}


def main():
    """Follow the geodesic between two ellipses under each metric, and minimise one cost on each manifold."""
    long, turned = gs.array([[4.0, 0.0], [0.0, 0.25]]), gs.array([[0.6, 0.9], [0.9, 1.8]])
    target = np.array([[1.0, 0.4], [0.4, 0.5]])
    times = gs.linspace(0.0, 1.0, 61)
    results = {}
    for name, (metric, options) in METRICS.items():
        space = SPDMatrices(2, equip=False)
        space.equip_with_metric(metric, **options)
        path = space.metric.geodesic(long, end_point=turned)(times)

        manifold = from_geomstats(space)
        cost = pymanopt.function.numpy(manifold)(lambda x: 0.5 * np.sum((x - target) ** 2))
        gradient = pymanopt.function.numpy(manifold)(lambda x: x - target)
        problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
        # In the Frobenius metric the norm of the gradient is the error, so the tolerance bounds what is reported.
        solver = SteepestDescent(verbosity=0, max_iterations=30, min_gradient_norm=1e-9)
        fitted = solver.run(problem, initial_point=np.array(long))
        results[name] = {
            "distance": float(space.metric.dist(long, turned)),
            "determinant": np.array(gs.linalg.det(path)),
            "iterations": fitted.iterations,
            "error": float(np.linalg.norm(fitted.point - target)),
        }
    return results


def plot(results, path):
    """Draw the determinant along each geodesic: how much the metrics swell."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    ax = figure.subplots()
    for (name, found), style in zip(results.items(), ("-", "-", "--", "-", "--", ":"), strict=True):
        time = np.linspace(0, 1, len(found["determinant"]))
        width = 4 if style == "-" else 2
        ax.semilogy(
            time, found["determinant"], style, linewidth=width, label=f"{name}, distance {found['distance']:.2f}"
        )
    ax.set(xlabel="time", ylabel="determinant along the geodesic", xlim=(0, 1))
    ax.set_yticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    ax.minorticks_off()
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for name, found in outcome.items():
        print(f"{name:20s} distance {found['distance']:.6f}  steepest descent: {found['iterations']} iterations")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "other_manifolds.png")
