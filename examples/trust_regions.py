"""
When is a second-order method worth its price?
==============================================

Where depth is, or accuracy is wanted. A matrix is completed by trust regions and by conjugate gradients: with Hessians
in closed form, trust regions converge quadratically at every depth, where conjugate gradients take the more iterations
the deeper the metric is. Run ``python examples/trust_regions.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, check_hessian

DEPTHS = (1, 2, 3, 8)
M, N, RANK, OBSERVED, NOISE = 80, 60, 3, 0.3, 0.1


def main(seed=0):
    """Complete one noisy matrix at each depth by both methods, from one start."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((M, RANK)) @ np.diag([1, 0.5, 0.2]) @ rng.standard_normal((RANK, N))
    shown = rng.random(truth.shape) < OBSERVED
    noisy = truth + NOISE * rng.standard_normal(truth.shape)
    problem = MatrixCompletion(*np.nonzero(shown), noisy[shown], truth.shape)
    u, s, vt = np.linalg.svd(np.where(shown, noisy, 0) / OBSERVED, full_matrices=False)
    start = (u[:, :RANK], s[:RANK], vt[:RANK])

    results = {}
    for depth in DEPTHS:
        manifold = FixedRank(M, N, RANK, depth=depth, rng=seed)
        results[depth] = {"hessian_slope": check_hessian(problem.problem(manifold), start, curve="retraction").slope}
        for method in (ConjugateGradient, TrustRegions):
            optimizer = method(verbosity=0, max_iterations=400, min_gradient_norm=1e-9)
            solution = problem.solve(manifold, optimizer, initial_point=start)
            results[depth][method.__name__] = {
                "gradient_norms": [record.gradient_norm for record in solution.history],
                "seconds": [record.seconds for record in solution.history],
                "cost": solution.best.cost,
            }
    return results


def plot(results, path):
    """Draw the gradient norms of both methods over iterations and over time, one colour to a depth."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, (depth, found) in enumerate(results.items()):
        for method, style in (("ConjugateGradient", ":"), ("TrustRegions", "-")):
            norms = found[method]["gradient_norms"]
            label = f"depth {depth}" if style == "-" else None
            left.semilogy(norms, style, color=f"C{i}", label=label)
            right.semilogy(found[method]["seconds"], norms, style, color=f"C{i}")
    left.set(
        xlabel="iteration", ylabel="norm of the gradient", title="dotted: conjugate gradients; solid: trust regions"
    )
    left.legend()
    right.set(xlabel="seconds", title="the same over time")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, found in outcome.items():
        counts = {name: len(run["seconds"]) - 1 for name, run in found.items() if name != "hessian_slope"}
        print(f"depth {depth}: iterations {counts}, slope of the Hessian check {found['hessian_slope']:.2f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "trust_regions.png")
