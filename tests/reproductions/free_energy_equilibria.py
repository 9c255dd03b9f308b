"""Where does entropy take a network whose loss sees singular values alone, how fast, and is the entropy concave?

Run it as ``python tests/reproductions/free_energy_equilibria.py [--starts 32] [--points 2000] [--out DIR]``: a minute
on one core. At its end it writes ``free_energy_equilibria.json``, tables and picture.

A. Chen, T. Kotwal, G. Menon, "Entropic regularization in the deep linear network", arXiv:2512.06137.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

import dlngeo
from dlngeo.geomstats import DLNMetric
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.equilibria import minimisers, relaxation

CASES = [(2, 2), (3, 2), (3, 4), (5, 3)]  # of (d, N)
BETA = 1.5
POWERS = (0.2, 0.4, 0.6, 0.8, 1.0, 2.0)
SHOWN = (3, 4)  # of which relaxation and a geodesic are drawn


def observed_rate(entropy: SpectralEntropy, start: np.ndarray, size: float, rate: float) -> float:
    """Slope of the logarithm of a small deviation from equal singular values along the flow of the free energy."""
    times = np.array([0.0, 2.0, 4.0]) / rate
    path = relaxation(lambda s: s, entropy, BETA, start, times, tolerance=1e-12)
    deviation = np.linalg.norm(path - size, axis=1)
    return float(np.log(deviation[1] / deviation[2]) / (times[2] - times[1]))


def bends(entropy: SpectralEntropy, points: int) -> float:
    """Largest eigenvalue of the Hessian of S in σ, times ``‖σ‖²``, at random singular values over four decades."""
    s = np.exp(np.random.default_rng(0).uniform(-4.6, 4.6, (points, entropy.rank)))
    return float(np.max(np.linalg.eigvalsh(entropy.hessian(s))[:, -1] * np.sum(s**2, axis=1)))


def along_geodesic(d: int, depth: int, times: np.ndarray) -> np.ndarray:
    """Entropy along the geodesic from the identity by which one singular value grows and another falls."""
    space = GeneralLinear(d, equip=False)
    space.equip_with_metric(DLNMetric, depth=depth)
    velocity = np.diag([float(depth), *([0.0] * (d - 2)), -float(depth)])  # λ = 1 ± t
    points = space.metric.geodesic(np.eye(d), initial_tangent_vec=velocity)(times)
    return np.asarray(dlngeo.entropy(np.asarray(points), depth))


def compute(d: int, depth: int, starts: int, points: int) -> Cell:
    """Find the equilibria of ½‖X‖², how fast they are reached, and where the entropy bends."""
    entropy, eye = SpectralEntropy(d, d, depth), np.ones(d)
    size = float(np.sqrt((d - 1) * (depth - 1) / (2 * depth * BETA)))
    found = minimisers(lambda s: 0.5 * np.sum(s**2), lambda s: s, entropy, BETA, n_starts=starts, rng=0)
    common = 2 * depth * size ** (2 - 2 / depth)
    apart = depth * size ** (2 - 2 / depth) * (2 - d * (1 - depth**-2) / (6 * BETA * size**2))
    turn = np.linspace(-1, 1, d)
    rates = (
        observed_rate(entropy, size * (eye + 1e-4), size, common),
        observed_rate(entropy, size * (eye + 1e-4 * turn), size, apart),
    )
    step = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    values = along_geodesic(d, depth, step)
    second = float(values @ np.array([-1, 16, -30, 16, -1]) / (12 * 0.01**2))
    expected = (depth - 1) * (d * (depth + 1) / 3 - (d - 1))
    cell: Cell = {"d": d, "depth": depth, "size": size, "minimisers": len(found)}
    cell |= {"gap": float(np.max(np.abs(found[0].s / size - 1))), "dimension": found[0].dimension}
    cell |= {"common": rates[0], "common formula": common, "apart": rates[1], "apart formula": apart}
    cell |= {"euclidean": bends(entropy, points), "geodesic": second, "geodesic formula": expected}
    cell["powers"] = [
        least_ratio(lambda s, q=q: np.sum(s**q) / q, lambda s, q=q: s ** (q - 1), entropy, starts) for q in POWERS
    ]
    cell["threshold"] = d * (1 + 1 / depth) / (3 * (d - 1))
    if (d, depth) == SHOWN:
        times, t = np.linspace(0, 1.5, 61), np.linspace(-0.7, 0.7, 57)
        path = relaxation(lambda s: s, entropy, BETA, np.array([1.5, 0.7, 0.1]), times)
        cell |= {"times": times.tolist(), "path": path.tolist()}
        cell |= {"t": t.tolist(), "rise": (along_geodesic(d, depth, t) - values[2]).tolist()}
    return cell


def least_ratio(energy: Any, slope: Any, entropy: SpectralEntropy, starts: int) -> float | None:
    """Ratio of the largest to the smallest singular value at the least free energy; None where none has been found."""
    try:
        best = minimisers(energy, slope, entropy, BETA, n_starts=starts, rng=0)[0]
    except ValueError:
        return None
    return float(best.s[0] / best.s[-1])


def equilibria(cells: list[Cell]) -> str:
    """Minimisers of ½‖X‖² and the rates at which they are reached."""
    head = "d", "N", "s*", "minimisers found", "their gap to s*", "dimension", "rate, common", "formula", "rate, apart"
    rows = [
        [
            *(f"{c[name]}" for name in ("d", "depth")),
            f"{c['size']:.4f}",
            f"{c['minimisers']}",
            f"{c['gap']:.0e}",
            f"{c['dimension']}",
            *(f"{c[name]:.4f}" for name in ("common", "common formula", "apart", "apart formula")),
        ]
        for c in cells
    ]
    return table((*head, "formula"), rows)


def concavity(cells: list[Cell]) -> str:
    """Second derivatives of the entropy in the two geometries."""
    names = "euclidean", "geodesic", "geodesic formula"
    rows = [[f"{c['d']}", f"{c['depth']}", *(f"{c[name]:.3g}" for name in names)] for c in cells]
    head = "d", "N", "largest eigenvalue of ‖σ‖² ∂²S/∂σ∂σ", "S″ along the geodesic λ = 1 ± t at t = 0", "formula"
    return table(head, rows)


def repulsion(cells: list[Cell]) -> str:
    """Ratios of singular values at the least free energy of other powers."""
    rows = [
        [
            f"{c['d']}",
            f"{c['depth']}",
            f"{c['threshold']:.3f}",
            *("none" if r is None else f"{r:.4g}" for r in c["powers"]),
        ]
        for c in cells
    ]
    return table(("d", "N", "stable above q =", *(f"q = {q:g}" for q in POWERS)), rows)


def draw(cells: list[Cell]) -> Figure:
    """Relaxation to equal singular values, and the entropy along a geodesic on which it is convex."""
    (c,) = (c for c in cells if (c["d"], c["depth"]) == SHOWN)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(c["times"], c["path"], color="#0072B2")
    left.axhline(c["size"], color="0.5", linewidth=1, linestyle="--")
    left.text(c["times"][0], c["size"], " s*", color="0.4", va="bottom")
    left.set(xlabel="time", ylabel="singular values", title="flow of the free energy")
    right.plot(c["t"], c["rise"], color="#D55E00")
    right.set(xlabel="t", ylabel="S(t) − S(0)", title="geodesic $\\lambda = (1 + t, 1, 1 - t)$")
    for axes in (left, right):
        axes.title.set_fontsize(10)
    return figure


TABLES = equilibria, concavity, repulsion


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return cell["d"], cell["depth"]


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    options = parser(__doc__, "free-energy-equilibria", starts=32, points=2000).parse_args()

    def one(d: int, depth: int) -> Cell:
        return compute(d, depth, options.starts, options.points)

    run("free_energy_equilibria", key, CASES, one, TABLES, draw, options.out)


if __name__ == "__main__":
    main()
