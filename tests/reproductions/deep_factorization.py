"""Does depth complete a matrix by its rank, where the nuclear norm does not? Figure 2 of Arora, Cohen, Hu and Luo.

Run it as ``python tests/reproductions/deep_factorization.py [--seeds 0 1 2] [--out DIR]``: a quarter of
an hour on one core. An interrupted run goes on. At its end it writes ``deep_factorization.json``, tables and picture.

S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019,
arXiv:1905.13655.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from flow_limits import Factors, limit, product_of_gaussians
from matplotlib.figure import Figure

from dlngeo.flows.report import effective_rank
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow
from dlngeo.weights.network import end_to_end, imbalance, layer_gradient

SIDE, STARTS, SIZES = 100, 3, (1e-3, 1e-4, 1e-6)
# Distinct entries among 2,000 and 5,000 drawn with replacement, on average.
FEWER, REDRAWN = (round(SIDE**2 * (1 - (1 - 1 / SIDE**2) ** drawn)) for drawn in (2000, 5000))
COUNTS = (2000, FEWER, 5000)
STOP = 1e-6  # mean squared error over the entries shown at which the authors stop
LAYERED = ((2, 1e-3), (2, 1e-6), (3, 1e-3), (4, 1e-3))  # depths and sizes of normal layers
STARTED = {
    "layers": "layers",
    "stopped": "balanced, stopped",
    "product": "balanced, limit",
    "0": "orthogonal, limit",
    "grown": "grown",
}
QUANTITIES = {
    "error": "mean squared error",
    "nuclear": "nuclear norm less that of the matrix",
    "rank": "effective rank",
}
NAMES = {"truth": "the matrix itself", "nuclear": "least nuclear norm"}
MINIMA = {1: 0.8195, 2: 0.0988, 3: 0.00167}  # printed in the authors' notebook for their Figure 3
# Error, nuclear norm less that of the matrix, and effective rank at 2,000 and 5,000 entries, read off the authors'
# Figure 2 to the digits given; least nuclear norms are printed beside it, 210.15 and 221.03.
READ = {
    (2000, "truth", 0): ("", "0", "≈ 4.9"),
    (2000, "nuclear", 0): ("≈ 0.1", "≈ −9.4", "≈ 9.5"),
    (2000, 2, 1e-3): ("≈ 0.1", "≈ −4", "≈ 10"),
    (2000, 2, 1e-6): ("≈ 0.02", "≈ −2.5", "≈ 6.6"),
    (2000, 3, 1e-3): ("≈ 4e-5", "≈ 0", "≈ 5"),
    (2000, 3, 1e-6): ("≈ 3e-5", "≈ 0", "≈ 4.9"),
    (2000, 4, 1e-3): ("≈ 2e-5", "≈ 0", "≈ 4.9"),
    (2000, 4, 1e-5): ("≈ 3e-5", "≈ 0", "≈ 4.9"),
    (5000, "truth", 0): ("", "0", "≈ 4.9"),
    (5000, "nuclear", 0): ("≈ 8e-7", "≈ 0", "≈ 4.9"),
    (5000, 2, 1e-3): ("≈ 9e-5", "≈ 1", "≈ 5.4"),
    (5000, 2, 1e-6): ("≈ 5e-6", "≈ 0", "≈ 5"),
    (5000, 3, 1e-3): ("≈ 4e-6", "≈ 0", "≈ 5"),
    (5000, 3, 1e-6): ("≈ 4e-6", "≈ 0", "≈ 4.9"),
    (5000, 4, 1e-3): ("≈ 4e-6", "≈ 0", "≈ 4.9"),
    (5000, 4, 1e-5): ("≈ 4e-6", "≈ 0", "≈ 4.9"),
}


def nuclear_norm(data: MatrixCompletion, tolerance: float = 1e-5, rho: float = 0.1) -> tuple[np.ndarray, float]:
    """Least nuclear norm with the entries observed, and a lower bound of it.

    Alternating directions for ``min ‖Y‖_*`` over ``Y = X``, ``X_Ω = a``. A multiplier D on Ω of spectral norm at most 1
    proves ``‖X‖_* ≥ ⟨D, a⟩``.
    """
    x, multiplier = np.zeros(data.shape), np.zeros(data.shape)
    x[data.rows, data.cols] = data.values
    while True:
        u, s, vt = np.linalg.svd(x - multiplier / rho, full_matrices=False)
        y = (u * np.maximum(s - 1 / rho, 0)) @ vt
        x = y + multiplier / rho
        x[data.rows, data.cols] = data.values
        multiplier += rho * (y - x)
        dual = np.zeros(data.shape)
        dual[data.rows, data.cols] = -multiplier[data.rows, data.cols]
        bound = float(np.sum(dual * x) / max(1.0, np.linalg.norm(dual, 2)))
        if (norm := float(np.linalg.norm(x, "nuc"))) - bound <= tolerance * norm:
            return x, bound


def law(data: MatrixCompletion, point: Factors, depth: int) -> float:
    """Error of ``σ̇_r = −N σ_r^{2−2/N} ⟨E′, u_r v_rᵀ⟩`` for the singular values that have risen.

    The other side are N layers with this product, moved a little by their own gradients there and back; the error is
    relative to the largest rate.
    """
    u, s, vt = point
    root = s ** (1 / depth)
    layers = [root[:, None] * vt, *[np.diag(root)] * (depth - 2), u * root]
    gradient = data.euclidean_gradient((u * s) @ vt)
    moves = layer_gradient(gradient, layers)
    risen = s > 0.1 * s[0]
    predicted = -depth * s ** (2 - 2 / depth) * np.einsum("ik,ij,kj->k", u, gradient, vt)

    def moved(h: float) -> np.ndarray:
        product = np.eye(data.shape[1])
        for w, g in zip(layers, moves, strict=True):
            product = (w - h * g) @ product
        return np.linalg.svd(product, compute_uv=False)[: risen.sum()]

    h = 1e-4 * s[0] / np.linalg.norm(predicted[risen])
    seen = (moved(h) - moved(-h)) / (2 * h)
    return float(np.max(np.abs(seen - predicted[risen])) / np.max(np.abs(seen)))


def normal_layers(seed: int, depth: int, size: float, side: int = SIDE) -> list[np.ndarray]:
    """Layers of normal entries; the root mean square of the singular values of their product is about the size.

    ``E ‖W_N ⋯ W_1‖² = n ε²`` for entries of variance ``ε^{2/N}/n``: the authors' ``init_model``.
    """
    return list(size ** (1 / depth) / side**0.5 * np.random.default_rng(seed).standard_normal((depth, side, side)))


def descend(
    data: MatrixCompletion, layers: list[np.ndarray], step: float = 1e-3, memory: float = 0.99, floor: float = 1e-4
) -> tuple[list[np.ndarray], int]:
    """Gradient descent on layers until the training error is :data:`STOP`, and the number of steps.

    The step is that of the authors' code: the gradient of the mean squared error, divided by its root mean square norm
    in the last steps, so that all layers move by ``step`` together, and less at the end.
    """
    mean, count = 0.0, 0
    while np.mean((residual := data.euclidean_gradient(end_to_end(layers)))[data.rows, data.cols] ** 2) > STOP:
        count += 1
        moves = layer_gradient(2 / len(data) * residual, layers)
        mean = memory * mean + (1 - memory) * sum(float(np.vdot(g, g)) for g in moves)
        rate = step / (np.sqrt(mean / (1 - memory**count)) + floor)
        layers = [w - rate * g for w, g in zip(layers, moves, strict=True)]
    return layers, count


def unbalanced(layers: list[np.ndarray]) -> float:
    """Largest ``‖W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ‖``, relative to the norms of both."""
    norms = [np.linalg.norm(w.T @ w) for w in layers]
    return max(float(np.linalg.norm(g)) / (a + b) for g, a, b in zip(imbalance(layers), norms, norms[1:], strict=False))


def balanced(data: MatrixCompletion, x: np.ndarray, depth: int, stop: float = 0.0) -> np.ndarray:
    """Product at the end of the flow of balanced layers that start at the product x, or where it has fitted so far."""
    problem = data.problem(FixedRank(*x.shape, min(x.shape), depth=depth))

    def seen(_: float, at: Factors) -> float:
        return float(problem.cost(at) - 0.5 * len(data) * stop)

    seen.terminal = True  # type: ignore[attr-defined]
    flow = GradientFlow(events={"seen": seen} if stop else {})
    u, s, vt = flow.run(problem, initial_point=np.linalg.svd(x, full_matrices=False)).point
    return np.asarray((u * s) @ vt)


def compute(entries: int, seed: int, method: Any, size: float, start: str) -> Cell:
    """Complete a matrix: by the nuclear norm, by the flow of a depth, or by descent on normal layers.

    The flow is grown, from random frames, or from the product of the normal layers: to its limit, or stopped.
    """
    truth, data = product_of_gaussians(seed, entries)
    cell: Cell = {"entries": entries, "seed": seed, "method": method, "size": size, "start": start}
    if method == "truth":
        x = truth
    elif method == "nuclear":
        x, cell["bound"] = nuclear_norm(data)
    elif start == "layers":
        layers = normal_layers(seed, method, size)
        ends, cell["steps"] = descend(data, layers)
        cell["imbalance"] = [unbalanced(layers), unbalanced(ends)]
        x = end_to_end(ends)
    elif start in ("stopped", "product"):
        x = balanced(data, end_to_end(normal_layers(seed, method, size)), method, STOP if start == "stopped" else 0.0)
    else:
        rank, frames = (None, seed) if start == "grown" else (SIDE, int(start))
        u, s, vt = limit(data, method, size, rank, frames)
        x = (u * s) @ vt
        if start == "0" and method > 1 and size == SIZES[0]:
            problem, marks = data.problem(FixedRank(SIDE, SIDE, SIDE, depth=method)), []
            for level in (0.9, 0.5, 0.1):
                seen = lambda _, at, level=level: problem.cost(at) - level * 0.5 * np.sum(data.values**2)  # noqa: E731
                seen.terminal = True
                initial = data.initial_point(SIDE, size, frames)
                marks.append(GradientFlow(events={"seen": seen}).run(problem, initial_point=initial).point)
            cell["law"] = max(law(data, point, method) for point in marks)
    s = np.linalg.svd(x, compute_uv=False)
    return cell | {
        "error": float(np.mean((x - truth) ** 2)),
        "training": float(np.mean((x[data.rows, data.cols] - data.values) ** 2)),
        "nuclear": float(s.sum() - np.linalg.norm(truth, "nuc")),
        "rank": effective_rank(s),
    }


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("entries", "seed", "method", "size", "start"))


def wanted(entries: tuple[int, ...], seeds: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """All cells; starts from random frames at the largest size alone, as they take the time."""
    for count in entries:
        for seed in seeds:
            yield from ((count, seed, method, 0.0, "") for method in ("truth", "nuclear"))
            for depth in (1, 2, 3, 4):
                if depth > 1:
                    yield from ((count, seed, depth, size, "grown") for size in SIZES[: 1 if depth == 4 else None])
                if count != 5000 and (depth < 4 or seed == seeds[0]):
                    starts = STARTS if depth in (2, 3) and (count, seed) == (2000, seeds[0]) else 1
                    yield from ((count, seed, depth, SIZES[0], str(start)) for start in range(starts))
    if 2000 in entries:
        yield from ((2000, seeds[0], 4, 1e-5, start) for start in ("grown", "0"))  # of which the first fails
    for count in (*entries, *([REDRAWN] if 5000 in entries else [])):
        for seed in seeds[: 2 if count in (2000, FEWER) else 1]:
            for depth, size in LAYERED:
                if depth == 2 or (depth == 3 and count != REDRAWN) or (count, seed) == (2000, seeds[0]):
                    yield from ((count, seed, depth, size, start) for start in STARTED)


def of(cells: list[Cell], column: str, **which: Any) -> np.ndarray:
    """Values of the cells that have these properties."""
    found = [c for c in cells if which.items() <= c.items()]
    return np.array([c[column] for c in found if column in c])


def span(values: np.ndarray) -> str:
    """Median and range."""
    if not values.size:
        return ""
    low, middle, high = (f"{v:.2g}" for v in np.quantile(values, [0, 0.5, 1]))
    return f"{middle} ({low} to {high})" if values.size > 1 else middle


def minima(cells: list[Cell]) -> str:
    """Errors of flows of rank 100 beside the minima that the authors' notebook prints for their Figure 3."""
    rows = []
    for depth, value in MINIMA.items():
        which = {"method": depth, "size": SIZES[0]}
        ours = [
            [c["error"] for c in cells if c["entries"] == n and c["start"].isdigit() and which.items() <= c.items()]
            for n in (2000, FEWER)
        ]
        rows.append([str(depth), f"{value:g}", *(span(np.array(v)) for v in ours)])
    return table(("depth", "published", "ours, 2,000", f"ours, {FEWER:,}"), rows)


def compared(cells: list[Cell], column: str) -> str:
    """One of the three quantities of the authors' Figure 2, beside ours."""
    rows = []
    for method, size in sorted({where[1:] for where in READ}, key=lambda where: (str(where[0])[::-1], -where[1])):
        if method == "truth" and column != "rank":
            continue
        for start in ("grown", "0") if (method, size) == (4, 1e-5) else ("grown" if size else "",):
            which = {"method": method, "size": size, "start": start}
            theirs = {n: READ[n, method, size][list(QUANTITIES).index(column)] for n in (2000, 5000)}
            ours = {n: span(of(cells, column, entries=n, **which)) for n in COUNTS}
            name = f"depth {method}, start {size:g}" if size else NAMES[method]
            name += " (rank 100)" if start == "0" else ""
            rows.append([name, theirs[2000], ours[2000], ours[FEWER], theirs[5000], ours[5000]])
    head = ("published, 2,000", "ours, 2,000", f"ours, {FEWER:,}", "published, 5,000", "ours, 5,000")
    return table((QUANTITIES[column], *head), rows)


def errors(cells: list[Cell]) -> str:
    """Mean squared errors beside those of Figure 2."""
    return compared(cells, "error")


def norms(cells: list[Cell]) -> str:
    """Nuclear norms beside those of Figure 2."""
    return compared(cells, "nuclear")


def ranks(cells: list[Cell]) -> str:
    """Effective ranks beside those of Figure 2."""
    return compared(cells, "rank")


def extent(values: np.ndarray) -> str:
    """Range of a few values."""
    return " to ".join(dict.fromkeys(f"{v:.2g}" for v in (values.min(), values.max())))


def layered(cells: list[Cell]) -> str:
    """Normal layers that are trained, and other starts for the same matrices, beside Figure 2."""
    rows = []
    for entries in (*COUNTS, REDRAWN):
        for depth, size in LAYERED:
            which = {"entries": entries, "method": depth, "size": size}
            seeds = of(cells, "seed", **which, start="layers")
            if seeds.size:
                error, nuclear, rank = READ[2000 if entries in (2000, FEWER) else 5000, depth, size]
                same = [c for c in cells if c["seed"] in seeds]
                found = [extent(of(same, "error", **which, start=start)) for start in STARTED]
                others = [extent(of(same, column, **which, start="layers")) for column in ("rank", "nuclear")]
                rows.append([f"{entries:,}", f"{depth}, {size:g}", error, *found, rank, others[0], nuclear, others[1]])
    head = ["entries", "depth, start", "error, published", *(f"error, {name}" for name in STARTED.values())]
    return table([*head, "rank, published", "rank, layers", "nuclear, published", "nuclear, layers"], rows)


def descents(cells: list[Cell]) -> str:
    """Steps and relative imbalance of the normal layers."""
    rows = []
    for depth, size in LAYERED:
        which = {"method": depth, "size": size, "start": "layers"}
        first, last = of(cells, "imbalance", **which).T
        steps = of(cells, "steps", **which)
        rows.append([f"{depth}, {size:g}", f"{steps.min():,} to {steps.max():,}", extent(first), extent(last)])
    return table(("depth, start", "steps", "imbalance at the start", "at the end"), rows)


def laws(cells: list[Cell]) -> str:
    """Error of the law of singular values along the path."""
    rows = [[str(depth), f"{of(cells, 'law', method=depth).max():.1e}"] for depth in (2, 3, 4)]
    return table(("depth", "largest relative error of σ̇"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Error, nuclear norm and effective rank over the size of the start, as in their Figure 2."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    counts = [n for n in COUNTS if of(cells, "error", entries=n).size]
    grid = figure.subplots(len(counts), 3, squeeze=False)
    for axes, entries in zip(grid, counts, strict=True):
        for ax, (column, title) in zip(axes, QUANTITIES.items(), strict=True):
            for depth, color, marker in ((2, "#0072B2", "x"), (3, "#E69F00", "o"), (4, "#009E73", "^")):
                sizes = SIZES[: 1 if depth == 4 else None]
                found = [of(cells, column, entries=entries, method=depth, size=z, start="grown") for z in sizes]
                middle = np.array([np.median(v) for v in found])
                low, high = (np.array([f(v) for v in found]) for f in (np.min, np.max))
                spread = [middle - low, high - middle]
                style = {"color": color, "marker": marker, "capsize": 3}
                ax.errorbar(sizes, middle, spread, label=f"depth {depth}", **style)
                found = [of(cells, column, entries=entries, method=depth, size=z, start="layers") for z in SIZES]
                known = [(z, np.median(v)) for z, v in zip(SIZES, found, strict=True) if v.size]
                name = "normal layers" if depth == 2 else None
                ax.plot(*np.array(known).reshape(-1, 2).T, "s", color=color, mfc="none", ms=9, label=name)
            for method, color, style in (("nuclear", "#CC3311", "--"), ("truth", "0.3", ":")):
                if column != "error" or method == "nuclear":
                    level = np.median(of(cells, column, entries=entries, method=method))
                    name = NAMES[method]
                    ax.axhline(level, color=color, linestyle=style, label=name)
            ax.set(xscale="log", title=f"{title},\n{entries:,} entries", xlabel="singular values of the start")
            if column == "error":
                ax.set_yscale("log")
            else:
                ax.set_ylim((-9, 2) if column == "nuclear" else (4, 11))
            ax.grid(alpha=0.3)
    grid[-1, 2].legend(fontsize=8)
    return figure


TABLES = (minima, errors, norms, ranks, layered, descents, laws)


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    choice = parser(__doc__, "deep-factorization", seeds=(0, 1, 2), entries=COUNTS).parse_args()
    cells = dict.fromkeys(wanted(tuple(choice.entries), tuple(choice.seeds)))
    run("deep_factorization", key, cells, compute, TABLES, draw, Path(choice.out))


if __name__ == "__main__":
    main()
