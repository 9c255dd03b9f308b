"""How fast do balancing flows end at balanced weights, and are these the ones of least norm?

Run it as ``python tests/reproductions/balancing_rates.py [--out DIR]``: a minute on one core. At its end it writes
``balancing_rates.json``, a table and a picture.

K. Lindsey, G. Menon, "Regularization implies balancedness in the deep linear network", arXiv:2511.01137.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from matplotlib.figure import Figure

import dlngeo

# Widths and flow.
CASES = [((3, 3, 3), "l2"), ((3, 3, 3, 3), "l2"), ((2, 5, 4, 3), "l2")]
CASES += [((3, 3, 3), "moment"), ((3, 3, 3, 3), "moment"), ((2, 2, 2, 3), "moment"), ((2, 5, 4, 3), "moment")]
LAST = {"l2": 10.0, "moment": 600.0}


def start(widths: tuple[int, ...]) -> list[np.ndarray]:
    """Layers of normal entries of variance 1/2."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal((b, a)) / math.sqrt(2) for a, b in pairwise(widths)]


def compute(widths: tuple[int, ...], kind: str) -> Cell:
    """Follow a balancing flow, and fit the rate of the imbalance, or its power of t where widths exceed the rank."""
    weights, depth = start(widths), len(widths) - 1
    flow = dlngeo.balancing_flow(weights, np.linspace(0, LAST[kind], 121), kind=kind)
    size = np.linalg.norm(flow.imbalance_norms, axis=1)
    wide = kind == "moment" and max(widths[1:-1]) > min(widths)
    kept = flow.t[size > 1e-9 * size[0]]
    late = (flow.t >= kept[-1] / 2) & (flow.t <= kept[-1])
    slope = float(-np.polyfit(np.log(flow.t[late]) if wide else flow.t[late], np.log(size[late]), 1)[0])
    s = np.linalg.svd(dlngeo.end_to_end(weights), compute_uv=False)
    least, lam = depth * float(np.sum(s ** (2 / depth))), float(s[-1] ** (1 / depth))
    predicted = 2.0 if kind == "l2" else 4 * lam**2 * (1 - math.cos(math.pi / depth))
    moved = np.linalg.norm(flow.points[-1] - flow.points[0]) / np.linalg.norm(flow.points[0])
    return {
        "widths": list(widths),
        "kind": kind,
        "rate": slope,
        "predicted": None if wide else predicted,
        "exact": float(np.max(np.abs(size / size[0] - np.exp(-2 * flow.t)))) if kind == "l2" else None,
        "norm": float(flow.squared_norms[-1] / least - 1),
        "drift": float(moved),
        "t": flow.t.tolist(),
        "imbalance": (size / size[0]).tolist(),
    }


def rates(cells: list[Cell]) -> str:
    """Rates of the imbalance, and what is left of it and of the norm."""
    rows = []
    for c in cells:
        left = c["imbalance"][-1]
        wide = c["predicted"] is None
        rate = f"{c['rate']:.4f}" if not wide else f"t^−{c['rate']:.3f}"
        predicted = "t^−1" if wide else f"{c['predicted']:.4f}"
        exact = "" if c["exact"] is None else f"{c['exact']:.0e}"
        texts = rate, predicted, exact, f"{left:.0e}", f"{c['norm']:.0e}", f"{c['drift']:.0e}"
        rows.append(["–".join(map(str, c["widths"])), {"l2": "L²", "moment": "moment map"}[c["kind"]], *texts])
    head = "widths", "flow", "rate of ‖G‖", "predicted", "largest gap to e^{−2t}", "‖G‖ left"
    return table((*head, "norm above the least", "drift of X"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Imbalance over time."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    shades = {(3, 3, 3): "#0072B2", (3, 3, 3, 3): "#D55E00", (2, 2, 2, 3): "#CC79A7", (2, 5, 4, 3): "#009E73"}
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("l2", "moment"), strict=True):
        for c in (c for c in cells if c["kind"] == kind):
            t, size = np.array(c["t"]), np.array(c["imbalance"])
            color, shown = shades[tuple(c["widths"])], np.cumprod(size > 1e-9) > 0  # below is what the tolerance leaves
            axes.semilogy(t[shown], size[shown], color=color, linewidth=1.6)
            if kind == "moment":
                name = "–".join(map(str, c["widths"]))
                axes.text(t[shown][-1], 0.6 * size[shown][-1], name, color=color, fontsize=7, va="top", ha="center")
        axes.set(xlabel="time", title={"l2": "L²: all widths on one line", "moment": "moment map"}[kind])
        axes.title.set_fontsize(10)
        axes.set(xlim=(0, LAST[kind] * (1.08 if kind == "moment" else 1)), ylim=(1e-10, 3))
    figure.axes[0].set_ylabel("‖G‖, relative to the start")
    return figure


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell["widths"]), cell["kind"]


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    options = parser(__doc__, "balancing-rates").parse_args()
    run("balancing_rates", key, CASES, compute, (rates,), draw, options.out)


if __name__ == "__main__":
    main()
