"""Is the mixed dynamics of Tu, Aranguri and Jacot, lazy below a threshold and active above, one of our metrics?

Run it as ``python tests/reproductions/mixed_dynamics.py [--out DIR]``: a minute on one core. At its end it writes
``mixed_dynamics.json``, a table and a picture. What the offset does to completion is in ``lazy_rich.py``.

Z. Tu, S. Aranguri, A. Jacot, "Mixed dynamics in linear networks: unifying the lazy and active regimes", NeurIPS 2024,
arXiv:2405.17580.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import dlngeo
from dlngeo.kernels import RelaxedDepthKernel

OFFSETS = (0.0, 0.01, 0.1, 1.0, 10.0)
TARGET = np.array([[1.5, 0.4, 0.0], [-0.3, 0.8, 0.2], [0.1, 0.0, 0.3]])
LAST = 1.0


def root(a: np.ndarray, offset: float) -> np.ndarray:
    """``√(a + c²/4)`` of a symmetric matrix."""
    w, q = np.linalg.eigh(a)
    return np.asarray((q * np.sqrt(np.maximum(w, 0) + offset**2 / 4)) @ q.T)


def published(offset: float, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """``−√(XXᵀ + c²/4) E′ − E′ √(XᵀX + c²/4)``."""
    return -root(x @ x.T, offset) @ gradient - gradient @ root(x.T @ x, offset)


def compute(offset: float) -> Cell:
    """Hold the kernel, and the layers of imbalance ``c I``, against the published equation."""
    rng = np.random.default_rng(3)
    u, v, q = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(3))
    s = np.array([0.5, 0.1, 0.02])
    kernel = RelaxedDepthKernel([0.0, offset])
    grid = np.geomspace(1e-4, 1e4, 60)
    formula = np.sqrt(grid[:, None] ** 2 + offset**2 / 4) + np.sqrt(grid**2 + offset**2 / 4)
    x = (np.sqrt(offset**2 + 4 * s**2) - offset) / 2  # σ² = x (x + c)
    weights = [(q * np.sqrt(x)) @ v.T, (u * np.sqrt(x + offset)) @ q.T]
    assert np.allclose(dlngeo.imbalance(weights)[0], offset * np.eye(3))
    flow = dlngeo.training_flow(weights, lambda x: x - TARGET, [0.0, LAST])
    start = (u * s) @ v.T

    def velocity(_: float, y: np.ndarray) -> np.ndarray:
        x = y.reshape(3, 3)
        return published(offset, x, x - TARGET).ravel()

    end = solve_ivp(velocity, (0, LAST), start.ravel(), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1].reshape(3, 3)
    near = np.array([1e-3, 1e3]) * (offset or 1.0)
    speeds = kernel(near * 1.01, near * 1.01) / kernel(near / 1.01, near / 1.01)
    below, above = np.log(speeds) / (2 * np.log(1.01))
    return {
        "offset": offset,
        "kernel": float(np.max(np.abs(kernel(grid[:, None], grid) / formula - 1))),
        "flow": float(np.max(np.abs(flow.points[-1] - end))),
        "moved": float(np.linalg.norm(end - start)),
        "below": float(below),
        "above": float(above),
    }


def agreement(cells: list[Cell]) -> str:
    """Kernel, flow and the exponents on both sides of the threshold."""
    names = "kernel", "flow"
    rows = []
    for c in cells:
        gaps = (f"{c[name]:.0e}" for name in names)
        rows.append([f"{c['offset']:g}", *gaps, f"{c['moved']:.2f}", f"{c['below']:.3f}", f"{c['above']:.3f}"])
    head = "offset c", "kernel, relative gap", "end of the layers, gap", "way"
    return table((*head, "d log φ/d log σ at σ = c/1000", "at σ = 1000c"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Speed of a singular value over its size, from lazy to active."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes, s = figure.subplots(), np.geomspace(1e-3, 1e2, 200)
    shades = ["#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7"]
    for c, color in zip(cells, shades, strict=True):
        speed = np.asarray(RelaxedDepthKernel([0.0, c["offset"]])(s, s))
        axes.loglog(s, speed, color=color, linewidth=1.5)
        axes.text(s[0], speed[0] * 1.15, f" c = {c['offset']:g}", color=color, fontsize=9)
        if c["offset"]:
            axes.plot(c["offset"] / 2, RelaxedDepthKernel([0.0, c["offset"]])(*2 * [c["offset"] / 2]), "o", color=color)
    axes.set(xlabel="singular value σ (dot: threshold c/2)", ylabel="φ(σ, σ)")
    return figure


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return (cell["offset"],)


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    options = parser(__doc__, "mixed-dynamics").parse_args()
    run("mixed_dynamics", key, [(offset,) for offset in OFFSETS], compute, (agreement,), draw, options.out)


if __name__ == "__main__":
    main()
