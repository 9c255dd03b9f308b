"""Figures of jobs, drawn from JSON-able results alone: what was computed can be drawn again, and differently.

They take a result as a job returned it or as its JSON file holds it, and touch no global state of pyplot.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

__all__ = ["compare_figure", "comparison_figure", "complete_figure", "error_text", "flow_figure", "sample_figure"]

_COLUMN_INCHES = 1.9
_FLOOR = "0.45", "--"
_OTHERS = {
    "full rank, depth 3": ("tab:blue", "-"),
    "FixedRankEmbedded": ("tab:cyan", (0, (4, 3))),
    "additive": ("tab:brown", ":"),
    "ALS": ("tab:green", "-"),
    "complete()": ("black", "-"),
}
_SMALL_ERROR, _LEAST_ERROR = 0.05, 1e-4  # where errors are below, the axis is logarithmic; and its lower end


def compare_figure(result: dict[str, Any]) -> Figure:
    """Draw the result of :func:`dlngeo.jobs.compare.compare`.

    For each matrix, the first row shows it and what each method made of it, the second what was observed and the
    singular values along the path of each method. Below is the error on the test entries along the paths.
    """
    results = [result, *([result["beside"]] if "beside" in result else [])]
    columns = max(3, *(len(each["rows"]) for each in results))
    width, heights = _COLUMN_INCHES * (columns + 1) + 2, [5.2 * len(results), 4.3]
    figure = Figure(figsize=(width, sum(heights)))
    above, below = np.array(figure.subfigures(2, 1, height_ratios=heights, hspace=0)).tolist()
    # Fixed places: an automatic layout would give every column the margin that the first one needs for its labels.
    sides = {"left": 0.7 / width, "right": 1 - 0.2 / width}
    for part, each in zip(np.atleast_1d(above.subfigures(len(results), 1, hspace=0)), results, strict=True):
        _draw_matrix(part, each, columns, sides)
    axes = below.subplots(
        1, len(results), squeeze=False, gridspec_kw={"top": 0.8, "bottom": 0.16, "wspace": 0.1, **sides}
    )
    for ax, each in zip(axes[0], results, strict=True):
        _draw_errors(ax, each)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        below.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=10, frameon=False)
    return figure


def _draw_matrix(part: SubFigure, result: dict[str, Any], columns: int, sides: dict[str, float]) -> None:
    rows, styles = result["rows"], _styles(result["rows"])
    ratios = 1, 0.36, *(columns * (1,))
    grid = part.add_gridspec(2, columns + 2, width_ratios=ratios, top=0.79, bottom=0.1, hspace=0.2, wspace=0.1, **sides)
    low, high = _grey_range(result)
    # Five decades below the largest singular value: what lies further down is rank that was never used.
    top = max((max(s) for row in rows if row["history"] for s in row["history"]["singular_values"]), default=1.0)
    grey = matplotlib.colormaps["gray"].with_extremes(bad="#f4e3d0")  # missing entries in a colour of no grey value

    def show(axes: Axes, picture: list[list[float | None]], title: str, color: Any = "black") -> None:
        pixels = np.ma.masked_invalid(np.array(picture, dtype=float))
        axes.imshow(pixels, cmap=grey, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        axes.set_box_aspect(min(max(pixels.shape[0] / pixels.shape[1], 0.5), 1))
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=10, color=color)

    show(part.add_subplot(grid[0, 0]), result["pictures"]["original"], "original")
    counts = [result["data"][f"n_{name}"] for name in ("train", "validation", "test")]
    percent = 100 * sum(counts[:2]) / sum(counts)
    show(part.add_subplot(grid[1, 0]), result["pictures"]["observed"], f"observed: {percent:.3g} %")

    spectra: Axes | None = None
    for column, (row, style) in enumerate(zip(rows, styles, strict=True), start=2):
        caption = f"{row['name']}\nerror {error_text(row['error'])}\neffective rank {row['effective_rank']:.1f}"
        show(part.add_subplot(grid[0, column]), row["picture"], caption, style["color"])
        if not row["history"]:
            continue
        axes = part.add_subplot(grid[1, column], sharex=spectra, sharey=spectra)
        axes.set_box_aspect(1)
        _draw_spectrum(axes, row, style["color"], (1e-5 * top, 2 * top))
        if spectra is None:
            spectra = axes
            axes.set_ylabel("singular values\n(standardised data)", fontsize=10)
        else:
            axes.tick_params(labelleft=False)
    settings, name = result["settings"], result["data"]["name"]
    by = next((f", depths by {row['optimizer']}" for row in rows if row["depth"] is not None), "")
    title = f"{name}: model rank {settings['rank']}, start {settings['start']:g}, seed {settings['seed']}{by}"
    part.suptitle(_with_status(title, result), fontsize=12, parse_math=False, y=0.98)


def error_text(error: float) -> str:
    """Return an error as tables and captions show it: three decimals, and two digits of small ones."""
    return f"{error:.3f}" if error >= 0.1 else f"{error:#.2g}"


def comparison_figure(result: dict[str, Any]) -> Figure:
    """Draw the result of :func:`dlngeo.compare`.

    On the left the held-out error along each run, or the cost where nothing was held out, in one colour for each
    manifold and optimizer; on the right the value at the best point of each run.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    runs = [run for run in result["runs"] if run["history"]["iteration"]]
    names = list(dict.fromkeys(f"{run['manifold']}, {run['optimizer']}" for run in runs))
    colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, max(len(names), 1)))
    column = "heldout_error" if any(run["heldout_error"] is not None for run in runs) else "cost"
    for run in runs:
        k = names.index(f"{run['manifold']}, {run['optimizer']}")
        iterations = np.array(run["history"]["iteration"])
        values = np.array(run["history"][column], dtype=float)  # None becomes NaN, which is not drawn
        left.plot(np.maximum(iterations, 0.7), values, color=colors[k], alpha=0.7)
        if run[column] is not None:
            right.plot(run[column], k, "o", color=colors[k], alpha=0.7)
    drawn = np.array([x for run in runs for x in run["history"][column] if x is not None])
    if drawn.size and drawn.min() > 0:
        left.set_yscale("log")
        right.set_xscale("log")
    label = "held-out error" if column == "heldout_error" else "cost"
    left.set(xscale="log", xlabel="iterations or steps (the start at the left end)", ylabel=label)
    right.set(xlabel=f"{label} at the best point", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    for text, color in zip(right.set_yticklabels(names, parse_math=False, fontsize=9), colors, strict=False):
        text.set_color(0.8 * color[:3])  # which is the legend of both sides
    for axes in (left, right):
        axes.grid(alpha=0.25)
    seeds = len({run["seed"] for run in runs})
    figure.suptitle(_with_status(f"{len(runs)} runs, {seeds} seeds", result), fontsize=10)
    return figure


def complete_figure(result: dict[str, Any]) -> Figure:
    """Draw the result of :func:`dlngeo.jobs.complete.complete`: what is known, and the completed table.

    Both have the same colours; what is not known is white, and after completion what no data determine.
    """
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    pictures = [np.ma.masked_invalid(np.array(result["pictures"][k], dtype=float)) for k in ("known", "filled")]
    low, high = np.percentile(pictures[0].compressed(), (1, 99))
    colors = matplotlib.colormaps["viridis"].with_extremes(bad="white")
    data, axes = result["data"], figure.subplots(1, 2)
    percent = 100 * data["n_known"] / (data["shape"][0] * data["shape"][1])
    empty = f", {result['n_empty']} left empty" if result["n_empty"] else ""
    titles = f"known: {percent:.3g} %", f"completed by {result['method']}{empty}"
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        image = ax.imshow(picture, cmap=colors, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        ax.set(xticks=[], yticks=[], xlabel="columns", ylabel="rows")
        ax.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)
    rmse = "{} ({} to {})".format(*map(error_text, result["rmse"]))
    figure.suptitle(f"{data['name']}: held-out RMSE {rmse}", fontsize=11, parse_math=False)
    return figure


def flow_figure(result: dict[str, Any]) -> Figure:
    """Draw the result of :func:`dlngeo.jobs.flow.run`.

    The first row shows the singular values along the flow at each depth, over those of the target; below are the loss
    and, where layers were trained, their imbalance.
    """
    rows, settings = result["rows"], result["settings"]
    trained = [row for row in rows if row["imbalance"] is not None]
    columns = max(len(rows), 2)
    figure = Figure(figsize=(max(2.3 * columns + 1, 7), 6.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    top, bottom = parts
    axes = top.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    colors = matplotlib.colormaps["plasma"](np.linspace(0, 0.85, max(len(rows), 1)))
    targets = result["data"]["singular_values"][: settings["rank"]]
    for ax, row, color in zip(axes, rows, colors, strict=False):
        for value in targets:
            ax.axhline(value, color="0.8", linewidth=0.8, zorder=0)
        times, values = np.array(row["t"]), np.array(row["singular_values"])
        ax.plot(times[times > 0], values[times > 0], color=color, linewidth=1.4)
        end = "" if row["limit"] is None else f"\n{row['limit']['kind']}, rank {row['limit']['rank']}"
        ax.set_title(f"{row['name']}{end}", fontsize=9, color=color)
        ax.set(xscale="log", ylim=(0, None))
    for ax in axes[len(rows) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("singular values", fontsize=9)
    below = bottom.subplots(1, 2 if trained else 1, squeeze=False)[0]
    for row, color in zip(rows, colors, strict=True):
        for ax, column in zip(below, ("losses", "imbalance"), strict=False):
            if row[column] is not None:
                times, values = np.array(row["t"]), np.array(row[column])
                shown = (times > 0) & (values > 0)
                ax.loglog(times[shown], values[shown], color=color, linewidth=1.8, label=row["name"])
    losses = [loss for row in rows for loss in row["losses"]]
    if max(losses, default=0) > 0:
        below[0].set_ylim(bottom=max(1e-12 * max(losses), 0.5 * min(losses)))  # further down is round-off
    below[0].set(xlabel="time (N times that of the layers)", ylabel="loss")
    if rows:
        below[0].legend(frameon=False, fontsize=9)
    if trained:
        below[1].set(xlabel="time (N times that of the layers)", ylabel="largest imbalance ‖G‖")
    title = f"{result['data']['name']}: by {settings['by']}, start {settings['start']:g}, seed {settings['seed']}"
    figure.suptitle(_with_status(title, result), fontsize=10, parse_math=False)
    return figure


def sample_figure(result: dict[str, Any], title: str = "") -> Figure:
    """Draw the result of :func:`dlngeo.jobs.sample.run`.

    On the left the histogram of the singular values of the balanced layers, with the exact density where there is one;
    on the right energy, entropy and free energy of the chains, with their exact means.
    """
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.05, 1))
    _draw_histogram(figure.add_subplot(grid[:, 0]), result)
    names = {"energy": "energy E", "entropy": "entropy S", "free_energy": "E − S/β"}
    first: Axes | None = None
    for k, (name, label) in enumerate(names.items()):
        axes = figure.add_subplot(grid[k, 1], sharex=first)
        first = first or axes
        _draw_trace(axes, result, name)
        axes.set_ylabel(label, fontsize=9)
        axes.tick_params(labelbottom=k == 2, labelsize=8)
    axes.set_xlabel("steps (grey: burn-in)", fontsize=9)
    figure.suptitle(_with_status(title, result), fontsize=9.5, parse_math=False)
    return figure


def _draw_histogram(axes: Axes, result: dict[str, Any]) -> None:
    edges, counts = np.array(result["histogram"]["edges"]), np.array(result["histogram"]["counts"], dtype=float)
    density = counts / (counts.sum() * np.diff(edges))
    colors = matplotlib.colormaps["plasma"](np.linspace(0.1, 0.85, len(density)))
    below = np.zeros(density.shape[1])
    for k, (row, color) in enumerate(zip(density, colors, strict=True)):
        named = None if len(density) > 8 else f"$\\lambda_{{{k + 1}}}$"
        axes.stairs(below + row, edges, baseline=below, fill=True, color=color, alpha=0.75, label=named)
        below = below + row
    if result["exact"]:
        axes.plot(result["exact"]["lambda"], result["exact"]["density"], color="k", linewidth=1.4, label="exact law")
    if result["data"]:
        depth = result["settings"]["depth"]
        marks = [s ** (1 / depth) for s in result["data"]["singular_values"][: len(density)]]
        for k, mark in enumerate(marks):
            axes.axvline(mark, color="k", linewidth=0.9, linestyle=":", label=None if k else "those of the target")
    axes.set(xlabel=r"singular values of the balanced layers, $\lambda = \sigma^{1/N}$", ylabel="density")
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1.12 * float(below.max())))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _draw_trace(axes: Axes, result: dict[str, Any], name: str) -> None:
    steps, chains = np.array(result["traces"]["step"]), np.array(result["traces"][name])
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(chains)))
    axes.axvspan(0, result["burn_in"], color="0.92", linewidth=0)
    for chain, color in zip(chains, colors, strict=True):
        axes.plot(steps, chain, color=color, linewidth=0.5, alpha=0.7)
    estimate = result["estimates"][name]
    axes.axhline(estimate["mean"], color="tab:red", linewidth=1.2, label=f"mean {estimate['mean']:.4g}")
    if estimate["exact"] is not None:
        axes.axhline(estimate["exact"], color="k", linewidth=1.2, dashes=(4, 3), label=f"exact {estimate['exact']:.4g}")
    late = chains[:, steps > result["burn_in"]]
    low, high = np.quantile(late, (0.001, 0.999))
    if high > low:
        axes.set_ylim(low - 0.12 * (high - low), high + 0.3 * (high - low))
    axes.set_xlim(0, steps[-1])
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)


def _draw_spectrum(axes: Axes, row: dict[str, Any], color: Any, limits: tuple[float, float]) -> None:
    x, values = _after_start(row, "singular_values")
    if len(x):
        axes.plot(x, np.ma.masked_equal(values, 0), color=color, linewidth=0.8, alpha=0.8)
    axes.axvline(max(row["best_iteration"], 1), color="0.3", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", ylim=limits)
    axes.set_xlabel(row["unit"], fontsize=10)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)


def _draw_errors(axes: Axes, result: dict[str, Any]) -> None:
    rows, errors = result["rows"], [row["error"] for row in result["rows"] if not row["floor"]]
    for row, style in zip(rows, _styles(rows), strict=True):
        if row["history"]:
            x, path = _after_start(row, "test_error")
            axes.plot(x, path, label=row["name"], **style)
            axes.plot(max(row["best_iteration"], 1), row["error"], "o", color=style["color"], markersize=7)
        else:
            axes.axhline(row["error"], label=row["name"], **style)
    axes.axhline(1, color="0.8", linewidth=0.8, zorder=0)
    axes.text(0.995, 1.02, "predicting the mean", transform=axes.get_yaxis_transform(), ha="right", color="0.5")
    units = sorted({row["unit"] for row in rows if row["history"]})
    axes.set(xscale="log", xlabel=", ".join(units), ylabel="held-out relative error")
    top = max([1.3, *(1.2 * e for e in errors)])
    if min(errors, default=1.0) < _SMALL_ERROR:
        axes.set(yscale="log", ylim=(max(0.5 * min(errors), _LEAST_ERROR), 1.2 * top))
    else:
        axes.set_ylim(0, top)
    title = f"{result['data']['name']} (dots: the point chosen on the validation entries, which is what is reported)"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.grid(alpha=0.25)


def _after_start(row: dict[str, Any], column: str) -> tuple[np.ndarray, list[Any]]:
    """Return the path from iteration 1 on, since the axis is logarithmic."""
    iterations = np.array(row["history"]["iteration"])
    skip = int(np.count_nonzero(iterations < 1))
    return iterations[skip:], row["history"][column][skip:]


def _styles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One colour for each method: a dark-to-light scale for depths, set colours for the others."""
    depths = [row for row in rows if row["depth"] is not None]
    scale = matplotlib.colormaps["plasma"]
    styles = []
    for row in rows:
        if row["depth"] is not None:
            color: Any = scale(0.85 * depths.index(row) / max(len(depths) - 1, 1))
            styles.append({"color": color, "linewidth": 2.0})
        else:
            color, line = _OTHERS.get(row["name"], _FLOOR)
            styles.append({"color": color, "linewidth": 1.7, "linestyle": line})
    return styles


def _grey_range(result: dict[str, Any]) -> tuple[float, float]:
    if result["data"]["peak"] is not None:
        return 0.0, result["data"]["peak"]
    values = np.array(result["pictures"]["original"], dtype=float)
    low, high = np.nanpercentile(values, (1, 99)) if np.isfinite(values).any() else (0.0, 1.0)
    return float(low), float(high)


def _with_status(title: str, result: dict[str, Any]) -> str:
    return title if result["status"] == "complete" else f"{title} ({result['status']})"
