"""Print what ``dlngeo compare`` gives at its defaults over five seeds, as the table in the README.

Run it as ``python tests/reproductions/compare_seeds.py [--quick]``; ``--quick`` leaves out infinite depth, which takes
most of the time. A seed chooses the entries and the initial point.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dlngeo.jobs.compare import Settings, compare
from dlngeo.jobs.load import photograph

SEEDS = range(5)


def rows(quick: bool = False) -> dict[str, dict[str, list[Any]]]:
    """Run every seed; return for each method its columns over the seeds."""
    out: dict[str, dict[str, list[Any]]] = {}
    for seed in SEEDS:
        settings = Settings(seed=seed, depths=(1, 2, 3, 8)) if quick else Settings(seed=seed)
        for row in compare(photograph(), settings)["rows"]:
            columns = out.setdefault(row["name"], {})
            for name in ("error", "last_error", "psnr", "effective_rank", "best_iteration", "seconds"):
                columns.setdefault(name, []).append(row[name])
    return out


def markdown(table: dict[str, dict[str, list[Any]]]) -> str:
    """Mean and smallest–largest value over the seeds."""
    lines = [
        "| method | held-out error | PSNR (dB) | error at the end | effective rank | best iteration | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, columns in table.items():
        error, last = (
            f"{np.mean(columns[c]):.3f} ({min(columns[c]):.3f}–{max(columns[c]):.3f})" for c in ("error", "last_error")
        )
        iterations = f"{min(columns['best_iteration'])}–{max(columns['best_iteration'])}"
        if "floor" in name:
            last = iterations = ""
        others = [f"{np.mean(columns[c]):.1f}" for c in ("psnr", "effective_rank")]
        cells = [name, error, others[0], last, others[1], iterations, f"{np.mean(columns['seconds']):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown(rows(quick="--quick" in sys.argv[1:])) + "\n")
