"""Table and picture of what ``data.py`` has run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from data import COMPONENTS, METRICS, PERSONS, TASKS

from dlngeo.jobs.output import replace

# Okabe and Ito's colours, told apart by the colour-blind, and a marker each.
ACCURACIES = {
    ("mean", "accuracy"): ("discriminant at the mean", "#0072B2", "o"),
    ("neighbours", "accuracy"): ("five neighbours", "#009E73", "s"),
    ("neighbours", "across"): ("five neighbours, other session", "#E69F00", "^"),
    ("nearest mean", "accuracy"): ("nearest mean, other session", "#D55E00", "D"),
}
SECONDS = {
    "mean": ("mean of 120", "#0072B2", "o"),
    "nearest mean": ("ten means of 12", "#D55E00", "D"),
    "neighbours": ("1,770 distances", "#009E73", "s"),
    "clusters": ("K-means of 60", "#CC79A7", "X"),
}
_RESAMPLES = 10_000


class Results:
    """Finished cells, by task and metric, of both persons."""

    def __init__(self, cells: list[dict[str, Any]]) -> None:
        self._cells = {(c["task"], c["metric"], c["person"]): c for c in cells}
        self.metrics = [m for m in METRICS if all((t, m, p) in self._cells for t in TASKS for p in PERSONS)]

    def all(self, task: str, metric: str, column: str) -> np.ndarray:
        """Values of a column, one after the other where there are many."""
        return np.concatenate([np.ravel(self._cells[task, metric, person][column]) for person in PERSONS])

    def explained(self, metric: str) -> np.ndarray:
        """Fractions of the variance in the first principal geodesics, the mean over persons."""
        return np.mean([self._cells["mean", metric, person]["explained"] for person in PERSONS], axis=0)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the middle 95 % of those of resampled recordings."""
    draws = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def table(results: Results) -> str:
    """Markdown: a row for each metric."""
    columns = [
        "metric",
        *(label for label, *_ in ACCURACIES.values()),
        "K-means, Rand index",
        f"explained by {', '.join(map(str, COMPONENTS))} geodesics",
        "drift, ratio",
        *(f"{label}, s" for label, *_ in SECONDS.values()),
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for metric in results.metrics:
        shown = [
            "{:.2f} ({:.2f}–{:.2f})".format(*interval(results.all(task, metric, column))) for task, column in ACCURACIES
        ]
        agreement = results.all("clusters", metric, "agreement")
        ratios = results.all("drift", metric, "ratios")
        left = f" ({np.sum(np.isinf(ratios))} of {len(ratios)} leave)" if np.isinf(ratios).any() else ""
        lines.append(
            "| "
            + " | ".join(
                [
                    metric,
                    *shown,
                    f"{agreement.mean():.2f} ({agreement.min():.2f}–{agreement.max():.2f})",
                    " / ".join(f"{value:.2f}" for value in results.explained(metric)),
                    f"{np.median(ratios):.2f}{left}" if math.isfinite(np.median(ratios)) else f"∞{left}",
                    *(f"{results.all(task, metric, 'seconds').mean():.2g}" for task in SECONDS),
                ]
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def draw(results: Results) -> Any:
    """Accuracies, variance explained and agreement, and seconds, of every metric."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    metrics = results.metrics
    x = np.arange(len(metrics))
    for k, ((task, column), (label, color, marker)) in enumerate(ACCURACIES.items()):
        mid, low, high = np.array([interval(results.all(task, metric, column)) for metric in metrics]).T
        axes[0].errorbar(
            x + 0.13 * (k - 1.5), mid, [mid - low, high - mid], color=color, marker=marker, linestyle="none",
            capsize=2, elinewidth=1, label=label,
        )  # fmt: skip
    axes[0].axhline(0.2, color="grey", linestyle=":", linewidth=1)
    axes[0].text(x[-1] + 0.4, 0.205, "chance", ha="right", va="bottom", color="grey", fontsize=8)
    axes[0].set(title="Signs of the hand told right", ylabel="fraction (95 % over recordings)", ylim=(0.15, 1))
    explained = np.array([results.explained(metric) for metric in metrics])
    for color, marker, count, values in zip(
        ("#56B4E9", "#0072B2", "#000000"), "ovs", COMPONENTS, explained.T, strict=True
    ):
        label = f"explained by {count} principal geodesic{'s' if count > 1 else ''}"
        axes[1].plot(x, values, color=color, marker=marker, linestyle="none", label=label)
    agreement = np.array([results.all("clusters", metric, "agreement") for metric in metrics])
    mid = agreement.mean(axis=1)
    axes[1].errorbar(
        x, mid, [mid - agreement.min(axis=1), agreement.max(axis=1) - mid], color="#CC79A7", marker="X",
        linestyle="none", capsize=2, label="K-means, adjusted Rand index (range of starts)",
    )  # fmt: skip
    axes[1].set(title="Variance explained, and clusters found", ylim=(0, 1))
    for task, (label, color, marker) in SECONDS.items():
        seconds = [results.all(task, metric, "seconds").mean() for metric in metrics]
        axes[2].plot(x, seconds, color=color, marker=marker, linestyle="none", label=label)
    axes[2].set(title="Seconds of processor time", yscale="log")
    for axis in axes:
        axis.set_xticks(x, metrics, rotation=35, ha="right")
        axis.axvline(3.5, color="black", linewidth=0.6)
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, frameon=False)
    return figure


def write(cells: list[dict[str, Any]], folder: Path) -> None:
    """Write ``geodesics.json``, ``geodesics-table.md`` and ``geodesics.png``."""
    order = list(TASKS), list(METRICS), list(PERSONS)
    names = ("task", "metric", "person")
    cells = sorted(cells, key=lambda c: [o.index(c[k]) for o, k in zip(order, names, strict=True)])
    text = "[\n" + ",\n".join(json.dumps(_rounded(cell), ensure_ascii=False) for cell in cells) + "\n]\n"
    replace(folder / "geodesics.json", lambda path: path.write_text(text, encoding="utf-8"))
    results = Results(cells)
    if results.metrics:
        replace(folder / "geodesics-table.md", lambda path: path.write_text(table(results), encoding="utf-8"))
        replace(folder / "geodesics.png", lambda path: draw(results).savefig(path, dpi=110))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
