"""
What does depth change about a low-rank matrix from few entries?
================================================================

Which solution is found. Depth is not a faster optimizer but a bias: with a model of far too high rank and a small
start, deeper metrics find the low-rank matrix behind the entries.
Run ``python examples/metric_in_pymanopt.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from pymanopt.optimizers import ConjugateGradient
from pymanopt.optimizers.line_search import AdaptiveLineSearcher

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

DEPTHS = (1, 2, 3)
SIZE, TRUE_RANK, RANK, OBSERVED, START = 100, 2, 10, 0.2, 1e-3


def main(seed=0, iterations=150):
    """Complete one matrix at each depth, and measure the error on the entries not shown."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((SIZE, TRUE_RANK)) @ rng.standard_normal((TRUE_RANK, SIZE))
    shown = rng.random(truth.shape) < OBSERVED
    problem = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape)

    # One start for all: a multiple of a random partial isometry.
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, RANK)))[0] for _ in range(2))
    start = (u, np.full(RANK, START), v.T)

    results = {}
    for depth in DEPTHS:
        manifold = FixedRank(SIZE, SIZE, RANK, depth=depth)
        # A short first trial step: one that jumps far from the small start forgets it, and the bias with it.
        search = AdaptiveLineSearcher(initial_step_size=0.01, max_iterations=40)
        optimizer = ConjugateGradient(verbosity=0, max_iterations=iterations, line_searcher=search)
        u, s, vt = optimizer.run(problem.problem(manifold), initial_point=start).point
        error = ((u * s) @ vt - truth)[~shown]
        results[depth] = {
            "held_out_error": float(np.linalg.norm(error) / np.linalg.norm(truth[~shown])),
            "singular_values": s,
        }
    return results


def plot(results, path):
    """Draw the singular values found at each depth, each line with its error."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for depth, found in results.items():
        values = np.sort(found["singular_values"])[::-1]
        (line,) = ax.semilogy(range(1, RANK + 1), values, "o-")
        label = f"depth {depth}: error {found['held_out_error']:.2g}"
        ax.text(RANK + 0.25, values[-1], label, color=line.get_color(), va="center")
    ax.axvline(TRUE_RANK + 0.5, color="0.7", linewidth=1)
    ax.set(xlabel="index", ylabel="singular value found", xlim=(0.5, RANK + 4.5), xticks=range(1, RANK + 1))
    ax.set_title(f"true rank {TRUE_RANK}, rank of the model {RANK}, a fifth of the entries")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, found in outcome.items():
        print(f"depth {depth}: held-out relative error {found['held_out_error']:.4f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "metric_in_pymanopt.png")
