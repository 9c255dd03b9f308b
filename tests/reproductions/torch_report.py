"""Tables and picture of what ``torch_depth.py`` has run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from bias_report import interval as middle
from scipy.stats import t as student
from torch_depth import MIDDLE, RATES, SCENES, key

from dlngeo.jobs.output import replace

# Okabe and Ito's colours, told apart by the colour-blind, and a marker each.
STYLES = {
    "adapter, depth 2": ("#56B4E9", "v"),
    "adapter, depth 3": ("#0072B2", "o"),
    "adapter, depth 3, second moment": ("#000000", "o"),
    "adapter, depth 4": ("#332288", "*"),
    "full, depth 3": ("#009E73", "s"),
    "three factors, SGD": ("#CC79A7", "X"),
    "three factors, AdamW": ("#882255", "p"),
    "LoRA, SGD": ("#D55E00", "^"),
    "LoRA, AdamW": ("#E69F00", "D"),
    "LoRA, preconditioned": ("#F0E442", "P"),
    "full, AdamW": ("#999999", "h"),
    "head alone": ("#999999", "_"),
}


class Results:
    """Finished cells of the seeds that are reported."""

    def __init__(self, cells: list[dict[str, Any]]) -> None:
        self._cells: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
        for cell in cells:
            if cell["seed"] < 100:
                names = tuple(cell[name] for name in ("scene", "samples", "rank", "method", "lr"))
                for place in {names, (*names[:4], None)}:
                    self._cells.setdefault(place, {})[cell["seed"]] = cell

    def of(
        self, scene: str, samples: int, rank: int, method: str, lr: float | None = None
    ) -> dict[int, dict[str, Any]]:
        """Cells by seed, at any learning rate if none is given."""
        return self._cells.get((scene, samples, rank, method, lr), {})

    def values(self, *names: Any, column: str = "score") -> np.ndarray:
        """A column by seed."""
        cells = self.of(*names)
        return np.array([cells[seed].get(column, math.nan) for seed in sorted(cells)], float)

    def paired(self, first: tuple[Any, ...], second: tuple[Any, ...]) -> np.ndarray:
        """Differences of the scores, of the seeds that both have."""
        a, b = self.of(*first), self.of(*second)
        return np.array([a[seed]["score"] - b[seed]["score"] for seed in sorted(a.keys() & b.keys())])


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by Student's law."""
    x = np.asarray(values, float)
    half = float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def error(values: np.ndarray) -> str:
    """Median of errors, and its interval."""
    if not len(values):
        return ""
    mid, low, high = (_digits(x) for x in middle(np.where(np.isfinite(values), values, math.inf).tolist()))
    return f"{mid} ({low}–{high})"


def _digits(x: float) -> str:
    if x > 10:
        return "diverges"
    return f"{x:.2f}" if x >= 0.1 else f"{x:.3f}" if x >= 0.01 else f"{x:.4f}"


def accuracy(values: np.ndarray) -> str:
    """Mean of accuracies in per cent, and its interval."""
    if not len(values):
        return ""
    mid, low, high = (100 * x for x in interval(values))
    return f"{mid:.1f} ({low:.1f}–{high:.1f})"


def gap(values: np.ndarray) -> str:
    """Mean of paired differences in per cent, and its interval."""
    if not len(values):
        return ""
    mid, low, high = (100 * x for x in interval(values))
    return f"{mid:+.1f} ({low:+.1f} … {high:+.1f})"


def _mean(values: np.ndarray, form: str = "{:.2g}") -> str:
    if not len(values):
        return ""
    mean = float(np.nanmean(values))
    return f"{mean:,.0f}" if mean >= 100 else form.format(mean)


def _bytes(values: np.ndarray) -> str:
    return f"{np.nanmax(values) / 1024:,.0f}" if len(values) else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *(row for row in rows if any(row[1:]))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def shift_table(found: Results) -> str:
    """Error of the shift of rank two."""
    scene = SCENES["shift"]
    rows = []
    for method in scene.methods:
        last = ("shift", 80, MIDDLE, method)
        rows.append(
            [
                method,
                *(error(found.values("shift", n, MIDDLE, method)) for n in scene.samples),
                _mean(found.values(*last, column="effective rank"), "{:.1f}"),
                _mean(found.values(*last, column="lr")),
            ]
        )
    columns = [f"error, {n} samples" for n in scene.samples]
    return _table(["method", *columns, "effective rank", "lr"], rows)


def ranks_table(found: Results) -> str:
    """Error of the shift by the rank of the adapters."""
    rows = [
        [method]
        + [error(found.values("shift" if rank == MIDDLE else "ranks", 80, rank, method)) for rank in (2, 4, 16, 64)]
        for method in SCENES["ranks"].methods
    ]
    return _table(["method", *(f"rank {rank}" for rank in (2, 4, 16, 64))], rows)


def full_table(found: Results) -> str:
    """Error of a shift of full rank."""
    scene = SCENES["full shift"]
    rows = [[m, *(error(found.values("full shift", n, MIDDLE, m)) for n in scene.samples)] for m in scene.methods]
    return _table(["method", *(f"error, {n} samples" for n in scene.samples)], rows)


def digits_table(found: Results) -> str:
    """Accuracy on digits, from scratch."""
    rows, first = [], ("digits", 100, 64, "depth 1")
    for method in SCENES["digits"].methods:
        own = ("digits", 100, 64, method)
        rows.append(
            [
                method,
                accuracy(found.values(*own)),
                "" if method == "depth 1" else gap(found.paired(own, first)),
                _mean(found.values(*own, column="effective rank"), "{:.1f}"),
                _mean(found.values(*own, column="lr")),
                _mean(found.values(*own, column="seconds"), "{:.1f}"),
            ]
        )
    return _table(["hidden matrix", "accuracy, %", "less depth 1", "effective rank", "lr", "seconds"], rows)


def completion_table(found: Results) -> str:
    """Distance from the flow."""
    scene = SCENES["completion"]
    rows = [
        [
            f"depth {depth}, {method}",
            *(error(found.values("completion", 0, depth, method, lr)) for lr in RATES),
            error(found.values("completion", 0, depth, method, RATES[-1], column="error")),
        ]
        for depth in scene.ranks
        for method in scene.methods
    ]
    return _table(["steps", *(f"lr {lr:g}" for lr in RATES), "error of the matrix"], rows)


def sentences_table(found: Results) -> str:
    """Accuracy on reviews."""
    rows = []
    for method in SCENES["sentences"].methods:
        last, rival = ("sentences", 1024, MIDDLE, method), ("sentences", 1024, MIDDLE, "head alone")
        rows.append(
            [
                method,
                *(accuracy(found.values("sentences", n, MIDDLE, method)) for n in (16, 64, 256, 1024)),
                "" if last == rival else gap(found.paired(last, rival)),
                "" if method == "head alone" else _mean(found.values(*last, column="effective rank"), "{:.1f}"),
                _mean(found.values(*last, column="seconds")),
                _bytes(found.values(*last, column="bytes")),
            ]
        )
    columns = [f"{n} sentences" for n in (16, 64, 256, 1024)]
    return _table(["method", *columns, "less the head alone, 1,024", "effective rank", "seconds", "kB"], rows)


def sentence_ranks_table(found: Results) -> str:
    """Accuracy on reviews by the rank of the adapters."""
    rows = [
        [method]
        + [accuracy(found.values("sentences", 1024, rank, method)) for rank in (4, 16, 64)]
        + [_mean(found.values("sentences", 1024, 64, method, column="effective rank"), "{:.1f}")]
        for method in SCENES["sentences"].methods
        if len(found.values("sentences", 1024, 64, method))
    ]
    columns = [f"rank {rank}" for rank in (4, 16, 64)]
    return _table(["method", *columns, "effective rank of 64"], rows)


def cost_table(found: Results) -> str:
    """Time of a step and memory."""
    scene = SCENES["cost"]
    places = [[("cost", n, MIDDLE, method) for n in scene.samples] for method in scene.methods]
    rows = [
        [row[0][-1], *(_mean(found.values(*p)) for p in row), *(_bytes(found.values(*p, column="bytes")) for p in row)]
        for row in places
    ]
    columns = [f"{n}², {unit}" for unit in ("ms", "kB") for n in scene.samples]
    return _table(["method", *columns], rows)


TABLES = {
    "cost": cost_table,
    "shift": shift_table,
    "ranks": ranks_table,
    "full shift": full_table,
    "sentences": sentences_table,
    "sentences, ranks": sentence_ranks_table,
    "digits": digits_table,
    "completion": completion_table,
}


def draw(found: Results) -> Any:
    """Errors by samples and rank, accuracies by samples and rank, and distance from the flow."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")

    def line(axis: Any, x: list[Any], names: list[tuple[Any, ...]], label: str, log: bool, style: Any = None) -> None:
        of = middle if log else interval
        points = [(a, of(v.tolist())) for a, n in zip(x, names, strict=True) if len(v := found.values(*n)) > 1]
        points = [(a, i) for a, i in points if math.isfinite(i[0]) and i[0] < 1e3]
        if points:
            mid, low, high = np.array([i for _, i in points]).T
            color, marker = style or STYLES[label]
            shifted = 1.0 if style else 1.02 ** (list(STYLES).index(label) - 5)  # bars beside each other
            axis.errorbar(
                [a * shifted for a, _ in points], mid, [mid - low, high - mid], color=color, marker=marker,
                markersize=5, capsize=2, linewidth=1, label=label,
            )  # fmt: skip

    for label in STYLES:
        samples = list(SCENES["shift"].samples)
        line(axes[0, 0], samples, [("shift", n, MIDDLE, label) for n in samples], label, True)
        if label in SCENES["ranks"].methods:
            places = [("shift" if r == MIDDLE else "ranks", 80, r, label) for r in (2, 4, 16, 64)]
            line(axes[0, 1], [2, 4, 16, 64], places, label, True)
        samples = [16, 64, 256, 1024]
        line(axes[1, 0], samples, [("sentences", n, MIDDLE, label) for n in samples], label, False)
        if len(found.values("sentences", 1024, 64, label)):
            places = [("sentences", 1024, r, label) for r in (4, 16, 64)]
            line(axes[1, 1], [4, 16, 64], places, label, False)
    for depth, color in ((2, "#56B4E9"), (3, "#0072B2")):
        for method, marker in zip(SCENES["completion"].methods, "os", strict=True):
            names = [("completion", 0, depth, method, lr) for lr in RATES]
            line(axes[0, 2], list(RATES), names, f"depth {depth}, {method}", True, (color, marker))
    names = [("digits", 100, 64, method) for method in SCENES["digits"].methods]
    line(axes[1, 2], [1, 2, 3, 4], names, "hidden matrix, trained from scratch", False, ("#000000", "o"))
    titles = {
        (0, 0): ("Shift of rank two, adapters of rank 16", "samples", "relative error"),
        (0, 1): ("The same, 80 samples", "rank of the adapter", "relative error"),
        (0, 2): ("Steps against the flow, completion", "learning rate", "relative distance"),
        (1, 0): ("Reviews told by MiniLM, adapters of rank 16", "sentences", "accuracy"),
        (1, 1): ("The same, 1,024 sentences", "rank of the adapter", "accuracy"),
        (1, 2): ("A hundred digits, from scratch", "depth", "accuracy"),
    }
    for place, (title, x, y) in titles.items():
        axis = axes[place]
        axis.set(title=title, xlabel=x, ylabel=y, **({} if place == (1, 2) else {"xscale": "log"}))
        if place[0] == 0:
            axis.set_yscale("log")
            axis.set_ylim(top=1.5)
        if place == (1, 2):
            axis.set_xticks([1, 2, 3, 4])
        else:
            ticks = {
                (0, 2): RATES,
                (0, 0): SCENES["shift"].samples,
                (0, 1): (2, 4, 16, 64),
                (1, 0): (16, 64, 256, 1024),
            }
            chosen = ticks.get(place, (4, 16, 64))
            axis.set_xticks(chosen, [str(k) for k in chosen], minor=False)
            axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    for axis in axes[:, 2]:
        axis.legend(fontsize=7)
    methods = {
        label: handle
        for axis in axes[:, :2].flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(methods.values(), methods.keys(), loc="outside lower center", ncols=6, fontsize=8)
    return figure


def write(cells: list[dict[str, Any]], folder: Path) -> None:
    """Write ``torch.json``, ``torch-table.md`` and ``torch.png``."""
    cells = sorted(cells, key=lambda cell: [str(part).rjust(24) for part in key(cell)])
    text = "[\n" + ",\n".join(json.dumps(_rounded(cell), ensure_ascii=False) for cell in cells) + "\n]\n"
    replace(folder / "torch.json", lambda path: path.write_text(text, encoding="utf-8"))
    found = Results([_rounded(cell) for cell in cells])
    tables = "\n".join(make(found) for make in TABLES.values())
    replace(folder / "torch-table.md", lambda path: path.write_text(tables, encoding="utf-8"))
    replace(folder / "torch.png", lambda path: draw(found).savefig(path, dpi=100))


def _rounded(cell: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) and k != "lr" else v for k, v in cell.items()}
