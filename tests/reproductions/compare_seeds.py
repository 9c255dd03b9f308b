"""Print what ``dlngeo compare`` gives at its defaults over five seeds, as the table in the README.

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


def over_seeds(results: list[dict[str, Any]], name: str, column: str) -> list[float]:
    """Values of a column of a method; one that failed at a seed is left out there."""
    return [row[column] for result in results for row in result["rows"] if row["name"] == name]


def spread(values: list[float]) -> str:
    """Median, and smallest to largest value."""
    return f"{error_text(float(np.median(values)))} ({error_text(min(values))}–{error_text(max(values))})"


def markdown(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> str:
    """One line for each method: what it makes of both matrices, and its time for both."""
    lines = [
        "| method | photograph: held-out error | at the end | rank | low rank: held-out error | rank | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in first[0]["rows"]:
        cells, seconds = [row["name"]], 0.0
        for part in (first, second):
            cells.append(spread(over_seeds(part, row["name"], "error")))
            if part is first:
                last = np.median(over_seeds(part, row["name"], "last_error"))
                cells.append(error_text(float(last)) if row["history"] else "")
            cells.append(f"{np.median(over_seeds(part, row['name'], 'effective_rank')):.1f}")
            seconds += float(np.median(over_seeds(part, row["name"], "seconds")))
        lines.append("| " + " | ".join([*cells, f"{seconds:.1f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=Settings().optimizer)
    optimizer = parser.parse_args().optimizer
    results = [compare(photograph(), Settings(seed=s, optimizer=optimizer), example(s)) for s in SEEDS]
    sys.stdout.write(markdown(results, [result["beside"] for result in results]) + "\n")
