"""Completion without the rank: how many entries each depth needs.

Matrices of rank 2 are completed from ever more of their entries, with ``MatrixCompletion.complete`` at depths 2 (the
nuclear norm), 4 and infinity. A matrix has ``r(m + n − r)`` parameters; the picture shows how often it is found from so
many times as many entries. Nobody says that the rank is 2.

    python examples/unknown_rank.py
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from dlngeo.problems import MatrixCompletion

SHAPE, RANK = (30, 30), 2
OVERSAMPLING = (1.3, 2.5, 5.0)
DEPTHS = (2.0, 4.0, math.inf)
TRIALS = 3


def instance(oversampling: float, rng: np.random.Generator) -> tuple[np.ndarray, MatrixCompletion]:
    """Draw a matrix, and entries of it, at least 2 in each row and column."""
    (m, n), count = SHAPE, round(oversampling * RANK * (sum(SHAPE) - RANK))
    truth = rng.standard_normal((m, RANK)) @ rng.standard_normal((RANK, n))
    shown = np.zeros(SHAPE, bool)
    for shift in range(RANK):  # so many permutation matrices
        shown[np.arange(m), (rng.permutation(m) + shift) % n] = True
    while min(shown.sum(0).min(), shown.sum(1).min()) < RANK:
        shown[rng.permutation(m), np.arange(n)] = True
    rest = rng.permutation(np.flatnonzero(~shown.ravel()))
    shown.ravel()[rest[: max(0, count - shown.sum())]] = True
    return truth, MatrixCompletion(*np.nonzero(shown), truth[shown], SHAPE)


def main() -> dict[float, list[float]]:
    """Fraction of matrices found, for each depth and number of entries."""
    found: dict[float, list[float]] = {depth: [] for depth in DEPTHS}
    for oversampling in OVERSAMPLING:
        hits = dict.fromkeys(DEPTHS, 0)
        for seed in range(TRIALS):
            truth, problem = instance(oversampling, np.random.default_rng(seed))
            for depth in DEPTHS:
                # Held out from nothing: the sweep that fits the entries best, where no exact fit is found.
                u, s, vt = problem.complete(depth=depth, heldout=problem, max_iterations=200).point
                hits[depth] += bool(np.linalg.norm((u * s) @ vt - truth) < 1e-5 * np.linalg.norm(truth))
        for depth in DEPTHS:
            found[depth].append(hits[depth] / TRIALS)
    return found


def plot(found: dict[float, list[float]], path: Path) -> None:
    """Draw the fractions."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for (depth, fractions), marker in zip(found.items(), "os^", strict=True):
        axis.plot(OVERSAMPLING, fractions, marker=marker, label="depth ∞" if math.isinf(depth) else f"depth {depth:g}")
    axis.set(xlabel="entries / parameters", ylabel="fraction recovered", title="Rank 2, not told")
    axis.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    result = main()
    for depth, fractions in result.items():
        print(f"depth {depth:g}:", dict(zip(OVERSAMPLING, fractions, strict=True)))
    plot(result, Path("unknown_rank.png"))
