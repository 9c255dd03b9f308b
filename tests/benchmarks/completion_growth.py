"""What an iteration of conjugate gradient on matrix completion costs, and what its raw parts cost at the same time.

Shared by the benchmark and the picture. Times of one run only are compared with each other.
"""

import time
from typing import NamedTuple

import numpy as np
from pymanopt.optimizers import ConjugateGradient
from threadpoolctl import threadpool_limits

from dlngeo.problems import MatrixCompletion, QuadraticLineSearcher
from dlngeo.problems._pattern import padded
from dlngeo.pymanopt import FixedRank

RANK, DEPTH = 10, 3
TRUE_RANK = 5


def observations(m, n, entries, rng, block=2**22):
    """Entries of a noisy matrix of low rank at distinct random places, as (rows, cols, values): 16 bytes each."""
    left, right = rng.standard_normal((m, TRUE_RANK)), rng.standard_normal((n, TRUE_RANK))
    places = np.unique(rng.integers(0, m * n, entries))
    rows, cols = (places // n).astype(np.int32), (places % n).astype(np.int32)
    del places
    values = 0.1 * rng.standard_normal(rows.size)
    for k in range(0, rows.size, block):
        part = slice(k, k + block)
        values[part] += np.einsum("kc,kc->k", left[rows[part]], right[cols[part]])
    return rows, cols, values


def problem(m, n, entries, rng, **options):
    return MatrixCompletion(*observations(m, n, entries, rng), (m, n), **options)


def iterations(problem, rank=RANK, depth=DEPTH, steps=6, between=lambda point: None):
    """Seconds of each iteration; ``between`` runs after each, not counted."""
    m, n = problem.shape
    seconds = []

    def callback(record, point):
        seconds.append(record.seconds)
        between(point)

    searcher = QuadraticLineSearcher(problem)
    optimizer = ConjugateGradient(verbosity=0, max_iterations=steps + 1, min_step_size=0, line_searcher=searcher)
    start = problem.initial_point(rank, np.sqrt(m * n), rng=0)
    with threadpool_limits(1, "blas"):
        problem.solve(FixedRank(m, n, rank, depth), optimizer, initial_point=start, callback=callback)
    # The first step has no direction to transport.
    return np.diff(seconds)[1:]


def raw_parts(problem, point):
    """Seconds of one sampled product, the two sparse products, and the QR factors and small SVD of a retraction."""
    u, s, vt = point
    pattern = problem.pattern
    entries = problem.residual(point)
    left, right = padded(u, entries.dtype, s), padded(vt.T, entries.dtype)
    u, v = np.ascontiguousarray(u), np.ascontiguousarray(vt.T)
    parts = {
        "sampled product": lambda: pattern.sample(left, right, problem.values),
        "E v": lambda: pattern.times(entries, v),
        "Eᵀ u": lambda: pattern.transposed_times(entries, u),
        "QR and SVD": lambda: np.linalg.svd(np.linalg.qr(u)[1] @ np.linalg.qr(v)[1].T),
    }
    return {name: best_time(part, 2) for name, part in parts.items()}


def iterations_and_parts(problem, steps=6):
    """Seconds of each iteration, and of the raw parts measured before and after it, the mean of the two."""
    parts = []
    seconds = iterations(problem, steps=steps, between=lambda point: parts.append(raw_parts(problem, point)))
    around = {name: np.array([p[name] for p in parts[1:]]) for name in parts[0]}
    return seconds, {name: (times[1:] + times[:-1]) / 2 for name, times in around.items()}


def best_time(operation, repeats=5):
    """The shortest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Growth(NamedTuple):
    """One quantity varies, the others stay; log–log slopes of the time of an iteration lie in ``slopes``."""

    sizes: tuple[int, ...]
    fixed: dict[str, int]
    slopes: tuple[float, float]


GROWTHS = {
    # The slope tends to 1 as the entries outweigh the factors; here it is 0.4 to 0.8, the more, the busier the machine.
    "entries": Growth(
        (1_000_000, 2_000_000, 4_000_000, 8_000_000), {"size": 4000, "rank": 10, "depth": 3}, (0.35, 1.25)
    ),
    # The factors leave the caches within this range, which alone raises the slope; an m×n array would take from 3 to
    # 50 GB, of slope 2.
    "size": Growth((20_000, 40_000, 80_000), {"entries": 1_000_000, "rank": 10, "depth": 3}, (0.2, 1.6)),
    "rank": Growth((4, 8, 16, 32), {"entries": 1_000_000, "size": 10_000, "depth": 3}, (0.4, 2.0)),
    "depth": Growth((2, 8, 64, 1024), {"entries": 1_000_000, "size": 10_000, "rank": 10}, (-0.1, 0.1)),
}


def growth(name, steps=4, rounds=2):
    """Sizes, and the shortest iteration at each, in rounds so that a busy moment strikes every size alike."""
    sizes, fixed, _ = GROWTHS[name]
    rng = np.random.default_rng(0)
    cases = []
    for size in sizes:
        all_of = {**fixed, name: size}
        completion = problem(all_of["size"], all_of["size"], all_of["entries"], rng)
        cases.append((completion, {k: all_of[k] for k in ("rank", "depth")}))
    if name == "entries":
        sizes = [len(completion) for completion, _ in cases]  # fewer than were drawn, since places are distinct
    seconds = [[min(iterations(c, steps=steps, **options)) for c, options in cases] for _ in range(rounds)]
    return np.array(sizes), np.min(seconds, axis=0)
