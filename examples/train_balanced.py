"""
Which solver trains a deep linear network to full precision?
============================================================

Trust regions, on its balanced weights. The hidden layers are wider than the rank, so many weights give one matrix and
the Hessian is singular along them; trust regions converge quadratically all the same, to the reduced-rank regression
that an SVD gives. From a small start, the singular values of the product are learnt one after another.
Run ``python examples/train_balanced.py [figure.png]``.
"""

import sys

import autograd.numpy as anp
import numpy as np
import pymanopt
from matplotlib.figure import Figure
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions

from dlngeo import balanced_weights, end_to_end, imbalance
from dlngeo.problems import solve
from dlngeo.pymanopt import Balanced

WIDTHS, RANK, SAMPLES, START = (10, 16, 16, 8), 3, 200, 1e-3


def main(seed=0):
    """Fit one data set with each solver from one small start; return costs, gradient norms and singular values."""
    rng = np.random.default_rng(seed)
    inputs = np.linalg.qr(rng.standard_normal((SAMPLES, WIDTHS[0])))[0].T * np.sqrt(SAMPLES)
    left, right = (np.linalg.qr(rng.standard_normal((width, RANK)))[0] for width in (WIDTHS[-1], WIDTHS[0]))
    outputs = left @ np.diag([4.0, 2.0, 1.0]) @ right.T @ inputs + 0.3 * rng.standard_normal((WIDTHS[-1], SAMPLES))
    fitted = outputs @ inputs.T / SAMPLES  # the least-squares solution, as the inputs are white
    tail = np.linalg.svd(fitted, compute_uv=False)[RANK:]
    best = (np.sum((outputs - fitted @ inputs) ** 2) / SAMPLES + np.sum(tail**2)) / 2  # Eckart–Young

    manifold = Balanced(WIDTHS, RANK)

    @pymanopt.function.autograd(manifold)
    def cost(first, second, third):
        return anp.sum((third @ (second @ (first @ inputs)) - outputs) ** 2) / (2 * SAMPLES)

    start = balanced_weights(START * rng.standard_normal((WIDTHS[-1], WIDTHS[0])), WIDTHS, RANK, rng=rng)
    results = {"best": best}
    for solver in (SteepestDescent, ConjugateGradient, TrustRegions):
        spectra = []
        solution = solve(
            pymanopt.Problem(manifold, cost),
            solver(verbosity=0, max_iterations=300, min_gradient_norm=1e-8),
            initial_point=start,
            callback=lambda _, w, kept=spectra: kept.append(np.linalg.svd(end_to_end(w), compute_uv=False)[:RANK]),
        )
        results[solver.__name__] = {
            "cost": solution.history[-1].cost,
            "gradient_norms": np.array([record.gradient_norm for record in solution.history]),
            "singular_values": np.array(spectra),
            "imbalance": max(float(np.abs(g).max()) for g in imbalance(solution.point)),
        }
    return results


def plot(results, path):
    """Draw the gradient norms of each solver, and the singular values along steepest descent."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, found in results.items():
        if name != "best":
            left.loglog(1 + np.arange(len(found["gradient_norms"])), found["gradient_norms"], ".-", label=name)
    left.set(xlabel="iteration", ylabel="norm of the Riemannian gradient")
    left.legend()
    right.semilogx(
        1 + np.arange(len(results["SteepestDescent"]["singular_values"])),
        results["SteepestDescent"]["singular_values"],
        ".-",
    )
    right.set(xlabel="iteration of steepest descent", ylabel="singular values of the product")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for name, found in outcome.items():
        if name != "best":
            excess = found["cost"] / outcome["best"] - 1
            print(f"{name:18s} {len(found['gradient_norms']) - 1:4d} iterations, cost above the best: {excess:.1e}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "train_balanced.png")
