"""
How many fewer entries complete a complex matrix than its two real parts?
=========================================================================

The channel between two arrays of 16 antennas with two paths is ``X = Σ_k g_k a(θ_k) a(φ_k)*``, of rank 2, with
``a(θ)_p = e^{iπp sin θ}``. The flow of depth N is followed from a small start at rank 3 over the complex numbers, and
at rank 6 for the real matrix ``[Re X; Im X]``, whose rank is 4. That knows nothing of phases, and has 176 parameters in
place of 120. The picture shows the error at the entries that were not measured. Run
``python examples/complex_completion.py [figure.png]``.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np

from dlngeo.problems import ComplexCompletion, MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow

SIDE, PATHS, RANK, START = 16, 2, 3, 1e-2
DEPTHS = (1, 2, 3)
FRACTIONS = (0.35, 0.5, 0.65)


def channel(rng: np.random.Generator) -> np.ndarray:
    """Draw gains and angles of the paths."""
    places = np.arange(SIDE)[:, None]
    a, b = (np.exp(1j * np.pi * places * np.sin(rng.uniform(-np.pi / 2, np.pi / 2, PATHS))) for _ in range(2))
    gains = rng.uniform(0.5, 1.0, PATHS) * np.exp(2j * np.pi * rng.random(PATHS))
    return (a * gains) @ b.conj().T


def followed(problem: ComplexCompletion | MatrixCompletion, depth: float, rank: int) -> np.ndarray:
    """Follow the flow of a depth to its end."""
    manifold = FixedRank(*problem.shape, rank, depth=depth, field=problem.field)
    flow = GradientFlow(tolerance=0.2, max_iterations=60)
    u, s, vt = flow.run(problem.problem(manifold), initial_point=problem.initial_point(rank, START, rng=0)).point
    return (u * s) @ vt


def main() -> dict[str, dict[int, list[float]]]:
    """Relative error at the entries that were not seen, for each field, depth and fraction that was."""
    errors: dict[str, dict[int, list[float]]] = {name: {n: [] for n in DEPTHS} for name in ("complex", "stacked")}
    rng = np.random.default_rng(3)
    truth, order = channel(rng), rng.random((SIDE, SIDE))
    for fraction in FRACTIONS:
        shown = order < fraction
        stacked, twice = np.vstack((truth.real, truth.imag)), np.vstack((shown, shown))
        for depth in DEPTHS:
            found = followed(ComplexCompletion.from_matrix(truth, shown), depth, RANK)
            parts = followed(MatrixCompletion.from_matrix(stacked, twice), depth, 2 * RANK)
            for name, x in (("complex", found), ("stacked", parts[:SIDE] + 1j * parts[SIDE:])):
                miss = np.linalg.norm((x - truth)[~shown]) / np.linalg.norm(truth[~shown])
                errors[name][depth].append(float(miss))
    return errors


def plot(errors: dict[str, dict[int, list[float]]], path: str) -> None:
    """Draw the errors."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
    titles = {"complex": "complex", "stacked": "real and imaginary parts"}
    for axis, (name, of_depth) in zip(axes, errors.items(), strict=True):
        for (depth, values), marker in zip(of_depth.items(), "ovs", strict=True):
            axis.semilogy(FRACTIONS, values, marker=marker, label=f"depth {depth}")
        axis.set(xlabel="fraction of entries measured", title=titles[name])
    axes[0].set_ylabel("relative error at the others")
    axes[0].legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    result = main()
    for name, of_depth in result.items():
        for depth, values in of_depth.items():
            print(f"{name}, depth {depth}:", dict(zip(FRACTIONS, (f"{v:.1e}" for v in values), strict=True)))
    plot(result, sys.argv[1] if len(sys.argv) > 1 else "complex_completion.png")
