"""Print what ``dlngeo compare`` gives at its defaults over five seeds, as the tables in the README.

Run it as ``python tests/reproductions/compare_seeds.py [--optimizer cg]``; it takes some minutes. A seed chooses the
entries, the initial point and the matrix of low rank.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from dlngeo.jobs.compare import Settings, compare
from dlngeo.jobs.load import photograph
from dlngeo.jobs.low_rank import example
from dlngeo.jobs.methods import OPTIMIZERS
from dlngeo.plotting import error_text

SEEDS = range(5)


def columns(results: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """For each method, its columns over the seeds."""
    out: dict[str, dict[str, list[Any]]] = {}
    for row in (row for result in results for row in result["rows"]):
        for name, value in row.items():
            out.setdefault(row["name"], {}).setdefault(name, []).append(value)
    return out


def markdown(table: dict[str, dict[str, list[Any]]]) -> str:
    """Median and smallest–largest value over the seeds."""
    lines = [
        "| method | held-out error | error at the end | effective rank | best iteration | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in table.items():
        error, last = (
            f"{error_text(np.median(values[c]))} ({error_text(min(values[c]))}–{error_text(max(values[c]))})"
            for c in ("error", "last_error")
        )
        iterations = f"{min(values['best_iteration'])}–{max(values['best_iteration'])}"
        if not values["history"][0]:
            last = iterations = ""
        rank, seconds = (f"{np.median(values[c]):.1f}" for c in ("effective_rank", "seconds"))
        lines.append("| " + " | ".join([name, error, last, rank, iterations, seconds]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=Settings().optimizer)
    optimizer = parser.parse_args().optimizer
    results = [compare(photograph(), Settings(seed=s, optimizer=optimizer), example(s)) for s in SEEDS]
    for part in (results, [result["beside"] for result in results]):
        sys.stdout.write(f"{part[0]['data']['name']}\n\n{markdown(columns(part))}\n\n")
