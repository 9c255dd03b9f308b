"""Tables and picture of what ``bias.py`` has run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from bias_methods import METHODS
from scipy.stats import binom

from dlngeo.jobs.output import replace

RECOVERED = 1e-3
# Medians below are those of recovered matrices; what is left there is the tolerance of each method.
LOWEST = 1e-7
DEPTHS = ("1", "2", "3", "4", "8", "∞")
# Okabe and Ito's colours, told apart by the colour-blind, and a marker each.
STYLES = {
    "rank unknown, depth 4": ("#000000", "*"),
    "flow of full rank, depth 3": ("#0072B2", "o"),
    "flow, depth 3": ("#56B4E9", "s"),
    "depth 3": ("#F0E442", "h"),
    "ALS": ("#CC79A7", "^"),
    "MatrixIRLS": ("#009E73", "X"),
    "R2RILS": ("#D55E00", "D"),
    "GNMR": ("#E69F00", "P"),
    "R2RILS, rank by validation": ("#999999", "v"),
}


class Results:
    """Finished cells, by scene, level, method and rank."""

    def __init__(self, cells: list[dict[str, Any]]) -> None:
        self._cells: dict[tuple[str, float], dict[str, dict[int, list[dict[str, Any]]]]] = {}
        for cell in cells:
            methods = self._cells.setdefault((cell["scene"], cell["level"]), {})
            methods.setdefault(cell["method"], {}).setdefault(cell["rank"], []).append(cell)

    def scenes(self, order: tuple[str, ...]) -> list[tuple[str, float]]:
        """Scenes and levels, in order."""
        return sorted(self._cells, key=lambda key: (order.index(key[0]), key[1]))

    def of(self, scene: str, level: float, method: str) -> dict[int, list[dict[str, Any]]]:
        """Cells by rank, ascending; one rank for a method that is told none."""
        found = self._cells.get((scene, level), {}).get(method, {})
        return {rank: found[rank] for rank in sorted(found)}

    def ranks(self, scene: str, level: float) -> list[int]:
        """Ranks of the models."""
        return sorted({rank for ranks in self._cells[scene, level].values() for rank in ranks})

    def errors(self, scene: str, level: float, method: str, rank: int) -> list[float]:
        """Errors of the seeds; the rank is of no account to a method that is told none."""
        by_rank = self.of(scene, level, method)
        if by_rank and not METHODS[method].told_rank:
            rank = max(by_rank)
        return [cell["error"] for cell in by_rank.get(rank, [])]


def interval(errors: list[float]) -> tuple[float, float, float]:
    """Median, and the k-th least and k-th largest error, between which the true median lies.

    Of n independent errors j fall below the median with a binomial law, so that the interval covers it with probability
    ``1 − 2 P(j < k)``. It is the narrowest with 97.5 % at least: k = 2 of ten (97.9 %), 5 of twenty (98.8 %). Fewer
    than nine errors give their range.
    """
    ordered = sorted(errors)
    k = 0
    while 1 - 2 * binom.cdf(k + 1, len(ordered), 0.5) >= 0.975:
        k += 1
    return float(np.median(ordered)), ordered[k], ordered[-1 - k]


def number(error: float) -> str:
    """Two digits, or that there is nothing to say."""
    return "<1e-6" if error < 1e-6 else f"{error:.2g}"


def tables(results: Results, scenes: dict[str, Any]) -> str:
    """Markdown: a table for each scene and level."""
    lines: list[str] = []
    for name, level in results.scenes(tuple(scenes)):
        ranks, exact = results.ranks(name, level), name in ("exact", "even", "tall")
        lines += [f"### {scenes[name].title.format(level)}", ""]
        columns = [
            "method",
            *(f"error, model rank {rank}" for rank in ranks),
            "error, rank not told",
            *(["recovered"] if exact else []),
            "iterations",
            "seconds",
        ]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += [
            "| " + " | ".join(row) + " |" for row in _rows(results, name, level, ranks, exact, scenes[name].seeds)
        ] + [""]
    return "\n".join(lines)


def _rows(results: Results, name: str, level: float, ranks: list[int], exact: bool, seeds: int) -> Iterator[list[str]]:
    for method, how in METHODS.items():
        by_rank = results.of(name, level, method)
        if not by_rank:
            continue
        shown = {
            rank: "{} ({}–{})".format(*map(number, interval([c["error"] for c in cells])))
            for rank, cells in by_rank.items()
        }
        errors = [shown.get(rank, "") for rank in ranks] + [""]
        if not how.told_rank:
            errors = [""] * len(ranks) + list(shown.values())
        recovered = " / ".join(f"{sum(c['error'] < RECOVERED for c in v)} of {len(v)}" for v in by_rank.values())
        largest = by_rank[max(by_rank)]
        count, seconds = (np.median([c[column] for c in largest]) for column in ("iterations", "seconds"))
        fewest = min(len(v) for v in by_rank.values())
        label = method if fewest == seeds else f"{method} ({fewest} seeds)"
        yield [label, *errors, *([recovered] if exact else []), f"{count:.0f}", f"{seconds:.2g}"]


def draw(results: Results) -> Any:
    """Error against depth, against the rank of the model, and against the number of entries."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained", sharey=True)
    levels = [level for scene, level in results.scenes(("exact", "even", "noise", "tall", "digits", "photograph"))
              if scene == "exact"]  # fmt: skip
    middle, ranks = levels[len(levels) // 2], results.ranks("exact", levels[len(levels) // 2])
    true, large = ranks[0], ranks[-1]

    def curve(axis: Any, x: Any, errors: list[list[float]], shift: float, **style: Any) -> None:
        points = [(a, *np.maximum(interval(e), LOWEST)) for a, e in zip(x, errors, strict=True) if e]
        if not points:
            return
        a, mid, low, high = np.array(points).T
        axis.errorbar(
            a * (1 + shift), mid, [mid - low, high - mid], capsize=2, elinewidth=0.8, markeredgecolor="black",
            markeredgewidth=0.4, **style,
        )  # fmt: skip

    shades = plt.get_cmap("cividis")(np.linspace(0, 0.9, len(levels)))
    for k, (color, level, marker) in enumerate(zip(shades, levels, "os^", strict=False)):
        for prefix, line, label in (("flow, ", "-", f"{level:g}"), ("", ":", f"{level:g}, conjugate gradients")):
            errors = [results.errors("exact", level, f"{prefix}depth {depth}", large) for depth in DEPTHS]
            style = {"color": color, "marker": marker, "linestyle": line, "label": label}
            curve(axes[0], np.arange(1, 7), errors, 0.015 * (k - 1), **style)
    axes[0].set_xticks(range(1, 7), DEPTHS)
    axes[0].set(
        xlabel="depth",
        ylabel=f"relative error on unseen entries (≥ {LOWEST:.0e})",
        title=f"Flows and conjugate gradients: rank {large} for {true}",
    )
    axes[0].legend(title="entries / parameters", fontsize=8, title_fontsize=8)
    for k, (method, (color, marker)) in enumerate(STYLES.items()):
        style = {"color": color, "marker": marker, "label": method, "markersize": 9 if marker == "*" else 6}
        shift = 0.012 * (k - 3.5)
        curve(axes[1], ranks, [results.errors("exact", middle, method, rank) for rank in ranks], shift, **style)
        curve(axes[2], levels, [results.errors("exact", level, method, large) for level in levels], shift / 3, **style)
    axes[1].set(xlabel=f"rank of the model (true rank {true})", title=f"{middle:g} entries for each parameter")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(ranks, [str(rank) for rank in ranks])
    axes[2].set(xlabel="entries / parameters of the true rank", title=f"Model rank {large}, true rank {true}")
    axes[2].set_xticks(levels, [f"{level:g}" for level in levels])
    axes[2].minorticks_off()
    for axis in axes:
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def write(cells: list[dict[str, Any]], folder: Path) -> None:
    """Write ``bias.json``, ``bias.md`` and ``bias.png``."""
    from bias import SCENES

    order = tuple(SCENES), tuple(METHODS)
    cells = sorted(
        cells,
        key=lambda c: (order[0].index(c["scene"]), c["level"], order[1].index(c["method"]), c["rank"], c["seed"]),
    )
    results = Results(cells)
    rounded = [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in cell.items()} for cell in cells]
    text = "[\n" + ",\n".join(json.dumps(cell, ensure_ascii=False) for cell in rounded) + "\n]\n"
    replace(folder / "bias.json", lambda path: path.write_text(text, encoding="utf-8"))
    replace(folder / "bias.md", lambda path: path.write_text(tables(results, SCENES), encoding="utf-8"))
    if any(cell["scene"] == "exact" for cell in cells):
        replace(folder / "bias.png", lambda path: draw(results).savefig(path, dpi=110))
