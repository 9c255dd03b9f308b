"""Can every norm grow while the loss vanishes? Two by two matrices with three entries shown, of Razin and Cohen.

Run it as ``python tests/reproductions/norms_to_infinity.py [--seeds 0 1] [--loss 1e-4] [--out DIR]``: a minute on one
core. An interrupted run goes on. At its end it writes ``norms_to_infinity.json``, a table and a picture.

N. Razin, N. Cohen, "Implicit regularization in deep learning may not be explainable by norms", NeurIPS 2020,
arXiv:2005.06398.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows import FlowStatus
from dlngeo.flows.report import effective_rank
from dlngeo.geomstats import DLNMetric
from dlngeo.problems import MatrixCompletion

DEPTHS: tuple[float | str, ...] = (2, 3, 4, 8, "∞")
START, LAST = 0.1, 1e9
DATA = MatrixCompletion([0, 1, 1], [1, 0, 1], [1.0, 1.0, 0.0], (2, 2))


def number(depth: float | str) -> float:
    """Depth as a number."""
    return math.inf if depth == "∞" else float(depth)


def start(sign: int, seed: int) -> np.ndarray:
    """Small normal entries, with a determinant of this sign."""
    x = START * np.random.default_rng(seed).standard_normal((2, 2))
    return x if np.linalg.det(x) * sign > 0 else x[::-1]


def determinant(depth: float, x: float) -> float:
    """Leading term of the determinant where ``X_11 = x`` is large."""
    if depth == 2:
        return 0.0  # it falls exponentially
    if math.isinf(depth):
        return 1.0
    return float(((depth + 2) / (depth - 2)) ** (depth / (depth - 2)) * x ** (-4 / (depth - 2)))


def compute(depth: float | str, sign: int, seed: int, loss: float) -> Cell:
    """Follow the flow until the loss is small."""
    space = GeneralLinear(2, equip=False)
    space.equip_with_metric(DLNMetric, depth=number(depth), normalized=True)
    flow = dlngeo.gradient_flow(
        space,
        DATA.euclidean_gradient,
        start(sign, seed),
        np.concatenate(([0.0], np.geomspace(1, LAST, 200))),
        cost=DATA.cost,
        loss_below=loss,
        rtol=1e-7,
        dense_output=False,
    )
    assert flow.status is FlowStatus.EVENT
    x, losses = flow.points[:, 0, 0], flow.losses
    late = losses < 30 * losses[-1]
    s = flow.singular_values[-1]
    return {
        "depth": depth,
        "sign": sign,
        "seed": seed,
        "loss": loss,
        "entry": float(x[-1]),
        "product": float(x[-1] * np.sqrt(losses[-1])),
        "det": float(sign * s[0] * s[1]),
        "slope": float(np.polyfit(np.log(flow.t[late]), np.log(np.abs(x[late])), 1)[0]),
        "rank": effective_rank(s),
        "path": np.stack([losses, x], axis=1)[losses < 0.5].tolist(),
    }


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("depth", "sign", "seed", "loss"))


def ends(cells: list[Cell]) -> str:
    """What the flows have come to, beside what they should."""
    rows = []
    for c in (c for c in cells if c["sign"] > 0):
        n, law = number(c["depth"]), determinant(number(c["depth"]), c["entry"])
        slope = 0.5 if math.isinf(n) else n / (2 * n + 2)
        entry = [f"{c['entry']:.4g}", f"{c['product']:.4f}", f"{(1 + c['det']) / math.sqrt(2):.4f}"]
        dets = [f"{c['det']:.2g}", f"{law:.2g}", f"{c['slope']:.3f}", f"{slope:.3f}", f"{c['rank']:.3f}"]
        rows.append([str(c["depth"]), str(c["seed"]), f"{c['loss']:g}", *entry, *dets])
    head = (
        "depth",
        "start",
        "loss",
        "X₁₁",
        "X₁₁ √loss",
        "(1 + det)/√2",
        "det",
        "its leading term",
        "d log X₁₁/d log t",
    )
    return table((*head, "expected", "effective rank"), rows)


def negative(cells: list[Cell]) -> str:
    """Ends of flows with a negative determinant."""
    columns = ("entry", "det", "rank")
    rows = [[str(c["depth"]), str(c["seed"]), *(f"{c[q]:.3g}" for q in columns)] for c in cells if c["sign"] < 0]
    return table(("depth", "start", "X₁₁", "det", "effective rank"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Draw the entry that is not shown over the loss, and the product of the two."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = dict(zip(DEPTHS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"), strict=True))
    first = cells[0]["seed"]
    for c in (c for c in cells if c["seed"] == first and c is not cells[-1]):
        losses, x = np.array(c["path"]).T
        style = "-" if c["sign"] > 0 else "--"
        sign = "det > 0" if c["sign"] > 0 else "det < 0"
        left.loglog(losses, np.abs(x), style, color=colors[c["depth"]], label=f"depth {c['depth']}, {sign}")
        if c["sign"] > 0:
            right.semilogx(losses, x * np.sqrt(losses), color=colors[c["depth"]])
    for level, name in ((1 / math.sqrt(2), "1/√2"), (math.sqrt(2), "√2")):
        right.axhline(level, color="0.6", linestyle=":")
        right.annotate(name, (cells[0]["loss"] * 1.1, level), va="bottom", ha="right")
    left.set(xlabel="loss", ylabel="$|X_{11}|$", title="the entry that is not shown")
    right.set(xlabel="loss", ylabel=r"$X_{11}\sqrt{loss}$", title="det > 0: the product has a limit", ylim=(0, 1.6))
    for ax in (left, right):
        ax.invert_xaxis()
        ax.grid(alpha=0.3)
    left.legend(fontsize=7, ncol=2)
    return figure


TABLES = (ends, negative)


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    choice = parser(__doc__, "norms-to-infinity", seeds=(0, 1), loss=1e-4).parse_args()
    wanted = [(depth, sign, seed, choice.loss) for sign in (1, -1) for depth in DEPTHS for seed in choice.seeds]
    wanted.append(("∞", 1, choice.seeds[0], choice.loss / 100))  # as it is slow to arrive
    run("norms_to_infinity", key, wanted, compute, TABLES, draw, choice.out)


if __name__ == "__main__":
    main()
