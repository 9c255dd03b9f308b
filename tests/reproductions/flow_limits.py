"""Print where gradient flows of matrix completion end: beside their start, their depth, and where they are stopped.

Run it as ``python tests/reproductions/flow_limits.py [--seeds N]``; it takes some minutes. The matrices are those of
``bias.py``, 60×60 of rank 3 with two entries for each parameter, on seeds that it does not use; and those of Arora,
Cohen, Hu and Luo [1]_, 100×100 of rank 5 with 2,000 entries. Errors of these are squared, relative and over all
entries, as theirs are.

References
----------
.. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from bias import instance
from bias_report import interval, number

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow

FIRST_SEED = 20
SIZES = (1e-2, 1e-3, 1e-4, 1e-6)
STOPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of the gradient, relative to the largest on the way
PUBLISHED = {1: 0.82, 2: 0.099, 3: 0.0017}

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def unseen_error(truth: np.ndarray, observed: MatrixCompletion, point: Factors) -> float:
    """Error on the entries that were not observed, relative to them."""
    unseen = np.ones(truth.shape, bool)
    unseen[observed.rows, observed.cols] = False
    u, s, vt = point
    return float(np.linalg.norm(((u * s) @ vt - truth)[unseen]) / np.linalg.norm(truth[unseen]))


def limit(observed: MatrixCompletion, depth: float, size: float, rank: int | None, seed: int) -> Factors:
    """End of the flow of a rank, or of full rank by growth."""
    if rank is None:
        return observed.follow(depth, size).point
    manifold = FixedRank(*observed.shape, rank, depth=depth)
    return GradientFlow().run(observed.problem(manifold), initial_point=observed.initial_point(rank, size, seed)).point


def stops(truth: np.ndarray, observed: MatrixCompletion, rank: int, seed: int) -> list[float]:
    """Errors where the gradient first falls below each of :data:`STOPS`, after the last singular value has risen."""
    path: list[tuple[float, float]] = []
    problem = observed.problem(FixedRank(*observed.shape, rank, depth=3))

    def watch(t: float, point: Factors) -> float:
        norm = float(problem.manifold.norm(point, problem.riemannian_gradient(point)))
        path.append((norm, unseen_error(truth, observed, point)))
        return 1.0

    flow = GradientFlow(events={"path": watch})
    flow.run(problem, initial_point=observed.initial_point(rank, 1e-3, seed))
    largest = max(norm for norm, _ in path)
    flow = GradientFlow(events={"path": watch}, min_gradient_norm=STOPS[-1] * largest)
    path.clear()
    flow.run(problem, initial_point=observed.initial_point(rank, 1e-3, seed))
    norms, errors = np.array(path).T
    peak = np.maximum.accumulate(norms)
    # The last time above a bound, so that a plateau on the way is no end.
    return [float(errors[min(np.flatnonzero(norms > stop * peak)[-1] + 1, len(errors) - 1)]) for stop in STOPS]


def product_of_gaussians(seed: int, entries: int = 2000) -> tuple[np.ndarray, MatrixCompletion]:
    """The matrices of Arora, Cohen, Hu and Luo, of mean square 1."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((100, 5)) @ rng.standard_normal((5, 100))
    truth *= 100 / np.linalg.norm(truth)
    rows, cols = np.unravel_index(rng.permutation(truth.size)[:entries], truth.shape)
    return truth, MatrixCompletion(rows, cols, truth[rows, cols], truth.shape)


def row(name: str, cells: list[list[float]], width: int) -> str:
    """A line of a Markdown table, of errors of the seeds for each column; the last may be missing."""
    texts = ["{} ({}–{})".format(*map(number, interval(errors))) for errors in cells]
    return f"| {name} | " + " | ".join(texts + [""] * (width - len(texts))) + " |"


def table(
    corner: str, columns: list[str], rows: dict[str, Callable[[int], list[float]]], seeds: range
) -> Iterator[str]:
    """Markdown lines: a row is a function of the seed to errors."""
    yield f"| {corner} | " + " | ".join(columns) + " |"
    yield "|" + " --- |" * (len(columns) + 1)
    for name, errors in rows.items():
        yield row(name, [list(column) for column in zip(*map(errors, seeds), strict=True)], len(columns))


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (default: 10)")
    seeds = range(FIRST_SEED, FIRST_SEED + parser.parse_args().seeds)

    def ends(depth: float, rank: int | None) -> Callable[[int], list[float]]:
        def errors(seed: int) -> list[float]:
            truth, observed = instance("exact", 2.0, seed)
            return [unseen_error(truth, observed, limit(observed, depth, size, rank, seed)) for size in SIZES]

        return errors

    rows = {f"depth {depth}, full rank": ends(depth, None) for depth in (2, 3)}
    show(table("start", [f"{size:g}" for size in SIZES], rows, seeds))
    stopped = {
        f"rank {rank}": lambda seed, rank=rank: stops(*instance("exact", 2.0, seed), rank, seed) for rank in (12, 60)
    }
    show(table("stop", [f"{stop:g}" for stop in STOPS], stopped, seeds))

    def squared(depth: float) -> Callable[[int], list[float]]:
        def errors(seed: int) -> list[float]:
            truth, observed = product_of_gaussians(seed)
            ranks = [100, None] if depth > 1 else [100]
            found = [limit(observed, depth, 1e-3, rank, seed) for rank in ranks]
            return [float(np.sum(((u * s) @ vt - truth) ** 2) / truth.size) for u, s, vt in found]

        return errors

    published = {f"depth {depth} (published: {PUBLISHED[depth]:g})": squared(depth) for depth in PUBLISHED}
    show(table("100×100, rank 5", ["rank 100", "full rank, grown"], published, seeds[:5]))


def show(lines: Iterator[str]) -> None:
    """Print lines as they come."""
    for line in lines:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
