"""Is the limit of rank one exactly where the dynamics is coupled? Shin and Yun, from starts with equal entries.

Run it as ``python tests/reproductions/coupled_dynamics.py [--size 2] [--couplings 1.5 4 100 inf] [--out DIR]``: half a
minute on one core. An interrupted run goes on. At its end it writes ``coupled_dynamics.json``, a table and a picture.

B. Shin, C. Yun, "Implicit bias and loss of plasticity in matrix completion: depth promotes low-rankness", ICLR 2026,
arXiv:2603.04703.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure
from scipy.optimize import brentq

import dlngeo
from dlngeo.flows import FlowStatus
from dlngeo.geomstats import DLNMetric

DEPTHS: tuple[float | str, ...] = (2, 3, 4, 8, "∞")
SCALES = (0.3, 0.1, 0.03, 0.01, 0.001)  # of X, the same at each depth
LOSS = 1e-20


def number(depth: float | str) -> float:
    """Depth as a number."""
    return math.inf if depth == "∞" else float(depth)


def start(size: int, depth: float | str, scale: float, coupling: float) -> np.ndarray:
    """Product of layers with α on the diagonal and α/m beside it; the diagonal ones have ``m = ∞``.

    At infinite depth, where there are no layers, X itself has such entries.
    """
    layer = np.full((size, size), 1 / coupling) + (1 - 1 / coupling) * np.eye(size)
    x = layer if depth == "∞" else np.linalg.matrix_power(layer, int(depth))
    return np.asarray(scale * x / x[0, 0])


def conserved(mu: Any, depth: float) -> Any:
    """``μ^{−(1 − 2/N)}``, at depth 2 ``−log μ``: its differences between eigenvalues do not change in time."""
    p = 1 - 2 / depth
    return -np.log(mu) if p == 0 else mu**-p


def limit(x0: np.ndarray, depth: float) -> np.ndarray:
    """Eigenvalues of the limit of the flow, from the conserved difference and ``tr X = d``.

    X keeps the eigenvector ``(1, …, 1)`` of its first eigenvalue μ, and all others are one number ν. With the gradient
    ``(x − 1) I``, ``x = tr X/d``, each flows by ``μ̇ = −N μ^{2−2/N} (x − 1)``.
    """
    size = len(x0)
    values = np.linalg.eigvalsh(x0)
    low, high = values[0], values[-1]
    difference = conserved(low, depth) - conserved(high, depth)

    def excess(log_nu: float) -> float:
        mu = size - (size - 1) * math.exp(log_nu)
        return float(conserved(math.exp(log_nu), depth) - conserved(mu, depth) - difference)

    nu = math.exp(brentq(excess, -300.0, -1e-15, xtol=1e-15, rtol=1e-15)) if difference else 1.0
    return np.array([size - (size - 1) * nu, *[nu] * (size - 1)])


def compute(size: int, depth: float | str, scale: float, coupling: float) -> Cell:
    """Follow the flow of ``½ Σ (X_ii − 1)²``, and compare its end with the closed form."""
    space = GeneralLinear(size, equip=False)
    space.equip_with_metric(DLNMetric, depth=number(depth), normalized=True)
    eye, x0 = np.eye(size), start(size, depth, scale, coupling)
    flow = dlngeo.gradient_flow(
        space, lambda x: eye * (x - eye), x0, 1e7, cost=lambda x: 0.5 * np.sum((eye * (x - eye)) ** 2), loss_below=LOSS
    )
    assert flow.status is FlowStatus.EVENT
    s, expected = flow.singular_values[-1], limit(x0, number(depth))
    return {
        "size": size,
        "depth": depth,
        "scale": scale,
        "coupling": coupling,
        "ratio": float(s[1] / s[0]),
        "expected": float(expected[1] / expected[0]),
        "error": float(np.max(np.abs(s - expected) / expected)),
    }


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("size", "depth", "scale", "coupling"))


def ratios(cells: list[Cell]) -> str:
    """Second singular value of the limit, relative to the first."""
    rows = []
    for coupling in sorted({c["coupling"] for c in cells}):
        for depth in DEPTHS:
            found = [c for c in cells if (c["depth"], c["coupling"]) == (depth, coupling)]
            values = [f"{c['ratio']:.2g}" for c in sorted(found, key=lambda c: -c["scale"])]
            name = "∞ (diagonal)" if math.isinf(coupling) else f"{coupling:g}"
            rows.append([name, str(depth), *values, f"{max(c['error'] for c in found):.0e}"])
    head = ("m", "depth", *(f"start {scale:g}" for scale in SCALES), "largest relative error")
    return table(head, rows)


def draw(cells: list[Cell]) -> Figure:
    """Draw the ratio of singular values of the limit over the size of the start."""
    couplings = sorted({c["coupling"] for c in cells})
    figure = Figure(figsize=(3.2 * len(couplings), 3.4), layout="constrained")
    for ax, coupling in zip(figure.subplots(1, len(couplings), sharey=True), couplings, strict=True):
        for depth, color in zip(DEPTHS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"), strict=True):
            found = [c for c in cells if (c["depth"], c["coupling"]) == (depth, coupling)]
            scales = np.array([c["scale"] for c in found])
            style = {"color": color, "label": f"depth {depth}"}
            ax.loglog(scales, [c["expected"] for c in found], "-", **style)
            ax.loglog(scales, [c["ratio"] for c in found], "o", color=color, markersize=4)
        title = "diagonal start" if math.isinf(coupling) else f"m = {coupling:g}"
        ax.set(title=title, xlabel="entries of the start", ylim=(1e-9, 3))
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("σ₂/σ₁ of the limit")
    figure.axes[-1].legend(fontsize=8, loc="lower left")
    return figure


TABLES = (ratios,)


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    choice = parser(__doc__, "coupled-dynamics", size=2, couplings=(1.5, 4.0, 100.0, math.inf)).parse_args()
    wanted = [(choice.size, depth, scale, m) for m in choice.couplings for depth in DEPTHS for scale in SCALES]
    run("coupled_dynamics", key, wanted, compute, TABLES, draw, choice.out)


if __name__ == "__main__":
    main()
