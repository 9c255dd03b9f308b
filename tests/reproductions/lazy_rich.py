"""From lazy to rich: one completion problem under layers with offsets between them, over six decades.

Run it as ``python tests/reproductions/lazy_rich.py [--out DIR]``; finished cells are kept in ``DIR/relaxed.jsonl``, so
that an interrupted run goes on. At its end it writes ``relaxed.json``, ``relaxed-tables.md`` and ``relaxed.png``. It
takes ten minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cells import parser, run
from cells import table as lines
from matplotlib.figure import Figure

from dlngeo.flows.report import effective_rank
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow

SIDE, RANK, START, SEEDS = 40, 2, 1e-3, range(5)
OFFSETS = (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 100.0)
# Offsets of three layers and the rank of the model: where one layer alone has the least, matrices of low rank are left.
FAMILIES: dict[str, tuple[Callable[[float], list[float]], int]] = {
    "depth 3 to 2": (lambda c: [0.0, 0.0, c], 8),
    "depth 3 to 1": (lambda c: [0.0, c, c], SIDE),
}
COLUMNS = {
    "error": "error of entries not shown",
    "rank": "effective rank",
    "half": "time to half the loss",
    "iterations": "steps of the flow",
}


def instance(seed: int, per_parameter: float = 3.0) -> tuple[np.ndarray, MatrixCompletion]:
    """A matrix of condition 5, and some of its entries."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((SIDE, RANK)))[0] for _ in range(2))
    truth = (u * np.linspace(5, 1, RANK)) @ v.T
    shown = rng.permutation(SIDE**2)[: round(per_parameter * RANK * (2 * SIDE - RANK))]
    return truth, MatrixCompletion(*np.unravel_index(shown, truth.shape), truth.ravel()[shown], truth.shape)


def compute(family: str, offset: float, seed: int) -> dict[str, Any]:
    """Follow the flow from a small start to its limit; time is that of the metric with ``φ(1, 1) = 1``."""
    (offsets, rank), (truth, data) = FAMILIES[family], instance(seed)
    kernel = RelaxedDepthKernel(offsets(offset), normalized=True)
    problem = data.problem(FixedRank(SIDE, SIDE, rank, kernel=kernel))
    start = data.initial_point(rank=rank, size=START, rng=seed)
    half = problem.cost(start) / 2
    found = GradientFlow(events={"half": lambda _, x: problem.cost(x) - half}).run(problem, initial_point=start)
    u, s, vt = found.point
    gap = (u * s) @ vt - truth
    gap[data.rows, data.cols] = truth[data.rows, data.cols] = 0
    return {
        "family": family,
        "offset": offset,
        "seed": seed,
        "error": float(np.linalg.norm(gap) / np.linalg.norm(truth)),
        "rank": effective_rank(s),
        "half": found.events["half"][0],
        "iterations": found.iterations,
    }


def key(cell: dict[str, Any]) -> tuple[str, float, int]:
    """Tell cells apart."""
    return cell["family"], cell["offset"], cell["seed"]


def values(cells: list[dict[str, Any]], family: str, column: str) -> np.ndarray:
    """Values of all offsets, shape=[offsets, seeds]."""
    found = {key(cell): cell[column] for cell in cells}
    return np.array([[found[family, offset, seed] for seed in SEEDS] for offset in OFFSETS])


def table(cells: list[dict[str, Any]]) -> str:
    """Medians and ranges, a row for each offset."""
    rows = []
    for family in FAMILIES:
        for k, offset in enumerate(OFFSETS):
            row = [values(cells, family, column)[k] for column in COLUMNS]
            rows.append([family, f"{offset:g}", *(f"{np.median(v):.2g} ({v.min():.2g}–{v.max():.2g})" for v in row)])
    return lines(("layers", "offset c", *COLUMNS.values()), rows)


def draw(cells: list[dict[str, Any]]) -> Figure:
    """Error, effective rank and time of the plateau over the offset."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    styles = {"depth 3 to 2": ("#0072B2", "o"), "depth 3 to 1": ("#D55E00", "s")}
    places = np.arange(len(OFFSETS))
    for axes, column in zip(figure.subplots(1, 3), ("error", "rank", "half"), strict=True):
        for family, (color, marker) in styles.items():
            found = values(cells, family, column)
            middle = np.median(found, axis=1)
            spread = [middle - found.min(axis=1), found.max(axis=1) - middle]
            axes.errorbar(places, middle, spread, color=color, marker=marker, capsize=2, label=family)
        axes.set(title=COLUMNS[column].capitalize(), xlabel="offset c", yscale="log")
        axes.set_xticks(places, [f"{offset:g}" for offset in OFFSETS], rotation=45)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(title="as c grows")
    return figure


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    out = parser(__doc__, "lazy-rich").parse_args().out
    wanted = ((family, offset, seed) for family in FAMILIES for offset in OFFSETS for seed in SEEDS)
    run("relaxed", key, wanted, compute, [table], draw, out)


if __name__ == "__main__":
    main()
