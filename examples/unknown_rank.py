"""
How many entries does completion need if nobody knows the rank?
===============================================================

Fewer the deeper the metric. Matrices of rank 2 are completed from ever fewer of their entries by
``MatrixCompletion.complete`` at depths 2 (the nuclear norm), 4 and infinity, which are not told the rank. A matrix has
``r(m + n − r)`` parameters, and no method can do with fewer entries than that.
Run ``python examples/unknown_rank.py [figure.png]``.
"""

import math
import sys
from bisect import bisect_left
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from dlngeo.problems import MatrixCompletion

SHAPE, RANK = (30, 30), 2
DEPTHS, TRIALS = (2, 4, math.inf), 3
RATIOS = (1.2, 1.3, 1.5, 2, 3, 4, 5)  # entries for each parameter


def order_of_entries(rng):
    """Order in which entries are shown: first such that each row and column has as many as the rank, then any."""
    m, n = SHAPE
    first = [(i, (row + shift) % n) for shift in range(RANK) for i, row in enumerate(rng.permutation(n))]
    rest = [divmod(int(k), n) for k in rng.permutation(m * n)]
    return np.array(list(dict.fromkeys([*first, *rest])))


def is_found(truth, order, ratio, depth):
    """Whether the matrix is found from so many entries for each parameter."""
    rows, cols = order[: round(ratio * RANK * (sum(SHAPE) - RANK))].T
    problem = MatrixCompletion(rows, cols, truth[rows, cols], SHAPE)
    # Held out from nothing: the sweep that fits the entries best, where no exact fit is found.
    u, s, vt = problem.complete(depth=depth, heldout=problem, max_iterations=200).point
    return bool(np.linalg.norm((u * s) @ vt - truth) < 1e-5 * np.linalg.norm(truth))


def main():
    """Find by bisection how many entries for each parameter each depth needs, for each of a few matrices."""
    results = {depth: [] for depth in DEPTHS}
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        truth = rng.standard_normal((SHAPE[0], RANK)) @ rng.standard_normal((RANK, SHAPE[1]))
        order = order_of_entries(rng)
        for depth in DEPTHS:
            found = partial(is_found, truth, order, depth=depth)
            results[depth].append(RATIOS[bisect_left(RATIOS, True, key=found)])
    return results


def plot(results, path):
    """Draw how many entries each depth needs."""
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    ax = figure.subplots()
    names = [f"depth {depth:g}".replace("inf", "∞") for depth in DEPTHS]
    for place, ratios in enumerate(results.values()):
        ax.barh(place, max(ratios), color="tab:blue", alpha=0.4)
        ax.plot(ratios, place + np.linspace(-0.2, 0.2, TRIALS), "o", color="tab:blue")
        ax.text(max(ratios) + 0.15, place, f"all found from {max(ratios):g}", va="center")
    ax.axvline(1, color="0.5", linestyle=":")
    ax.text(1.1, len(DEPTHS) - 0.4, "no method can do with fewer", color="0.4")
    ax.set_yticks(range(len(DEPTHS)), names)
    ax.set(xlabel="entries / parameters", xlim=(0, 6.5), ylim=(-0.6, len(DEPTHS)))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for depth, ratios in outcome.items():
        print(f"depth {depth:g}: entries for each parameter that find each matrix:", *ratios)
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "unknown_rank.png")
