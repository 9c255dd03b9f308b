"""Fit the time of an iteration to measurements, and extrapolate: ``python tests/benchmarks/cost_model.py``.

One thread does everything, and its own seconds are counted, so that the coefficients are seconds of one core, and other
work on the machine costs cache only. Least squares of relative residuals.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import numpy as np
from completion_growth import iterations, problem

SIZES, ENTRIES, RANKS = (4_000, 20_000, 100_000), (1_000_000, 3_000_000, 8_000_000), (5, 10, 20, 40)
CACHE = 2.0**20  # bytes: an L2 cache. Only the place where the growth of the entries' part begins depends on it.
# Rows of v and of the result of Eᵀu are met at random, entry by entry: what it costs grows with the array's size.
TERMS = {
    "1": lambda entries, size, rank: 1.0,
    "|Ω|": lambda entries, size, rank: entries,
    "|Ω| r": lambda entries, size, rank: entries * rank,
    "|Ω| r log₂(1 + 8 n r / 1 MB)": lambda entries, size, rank: entries * rank * np.log2(1 + 8 * size * rank / CACHE),
    "(m + n) r": lambda entries, size, rank: 2 * size * rank,
    "(m + n) r²": lambda entries, size, rank: 2 * size * rank**2,
}
EXTRAPOLATED = ((10**9, 10**6, 10, 16), (10**11, 10**7, 10, 1024))


def measure(rounds=2, steps=4):
    """Rows of (entries, size, rank, seconds), the shortest iterations, in rounds that visit every case."""
    rng = np.random.default_rng(0)
    problems = {key: problem(key[0], key[0], key[1], rng, threads=1) for key in itertools.product(SIZES, ENTRIES)}
    cases = list(itertools.product(problems, RANKS))
    best = np.full(len(cases), np.inf)
    for _ in range(rounds):
        for k, (key, rank) in enumerate(cases):
            clock: list[float] = []
            iterations(
                problems[key], rank=rank, steps=steps, between=lambda _, clock=clock: clock.append(time.process_time())
            )
            best[k] = min(best[k], *np.diff(clock)[1:])
    return [(len(problems[key]), key[0], rank, t) for (key, rank), t in zip(cases, best, strict=True)]


def design(names, rows):
    return np.array([[TERMS[name](*row[:3]) for name in names] for row in rows])


def fit(rows, names):
    """Coefficients, their covariance, and relative residuals."""
    seconds = np.array([row[3] for row in rows])
    weighted = design(names, rows) / seconds[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    coefficients = np.linalg.lstsq(weighted / scale, np.ones(len(rows)))[0] / scale
    residuals = weighted @ coefficients - 1
    variance = residuals @ residuals / (len(rows) - len(names))
    inverse = np.linalg.inv((weighted / scale).T @ (weighted / scale)) / np.outer(scale, scale)
    return coefficients, variance * inverse, residuals


def supported(rows, least=3.0):
    """Names of the terms, the least significant dropped until all coefficients exceed three standard errors."""
    names = list(TERMS)
    while True:
        coefficients, covariance, residuals = fit(rows, names)
        z = coefficients / np.sqrt(np.diagonal(covariance))
        if z.min() >= least or len(names) == 1:
            return names, coefficients, covariance, residuals
        print(f"dropped: {names[z.argmin()]}, z = {z.min():.1f}")
        del names[z.argmin()]


def report(rows):
    print("| entries | m = n | rank | ms |\n| --- | --- | --- | --- |")
    for entries, size, rank, seconds in rows:
        print(f"| {entries:,} | {size:,} | {rank} | {1e3 * seconds:.1f} |")
    names, coefficients, covariance, residuals = supported(rows)
    print("\n| term | coefficient, s | standard error |\n| --- | --- | --- |")
    for name, value, error in zip(names, coefficients, np.sqrt(np.diagonal(covariance)), strict=True):
        print(f"| {name} | {value:.2e} | {error:.0e} |")
    rms, worst = np.sqrt(np.mean(residuals**2)), np.abs(residuals).max()
    print(f"\nrelative residuals: root mean square {rms:.1%}, largest {worst:.1%}\n")
    print("| entries | m = n | rank | cores | entries' part | factors' part |\n|" + " --- |" * 6)
    of_entries = np.array(["Ω" in name for name in names])
    for entries, size, rank, cores in EXTRAPOLATED:
        terms = design(names, [(entries, size, rank)])[0]
        cells = []
        for part, divisor in ((of_entries, cores), (~of_entries, 1)):
            some = np.where(part, terms, 0) / divisor
            cells.append(f"{some @ coefficients:.2g} ± {np.sqrt(some @ covariance @ some):.1g} s")
        print(f"| {entries:.0e} | {size:.0e} | {rank} | {cores} | {' | '.join(cells)} |")


if __name__ == "__main__":
    report(measure())
    sys.stdout.write(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
