"""The job of ``dlngeo compare``: a matrix or two completed by each method, as one JSON-able result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text
from threadpoolctl import threadpool_limits

from dlngeo import _check
from dlngeo.flows.report import effective_rank
from dlngeo.jobs import baselines, methods
from dlngeo.jobs.load import Data
from dlngeo.jobs.output import Figures, depth_name, json_depth
from dlngeo.plotting import compare_figure as figure
from dlngeo.plotting import error_text
from dlngeo.problems import MatrixCompletion

__all__ = ["SCHEMA", "Settings", "compare", "figure", "table"]

SCHEMA = 1
_VALIDATION = 0.1
_PICTURE_SIDE = 256
_WHOLE, _HOLED = 0.1, 0.8  # fractions that are shown of matrices with no entry missing, and of others
_GROWN = 3  # the depth of the flow of full rank
_NOTES = (
    "Errors are relative, on the test entries: 1 is predicting the mean. The first is at the point with the smallest "
    "error on the validation entries.",
    "Effective rank: exp of the entropy of σ/Σσ.",
)


@dataclass(frozen=True)
class Settings:
    """What to compare, and how: the options of ``dlngeo compare``, which its help explains, each checked."""

    rank: int | None = None
    depths: tuple[float, ...] = (1, 2, 3, 8, math.inf)
    observed: float | None = None
    start: float = 1e-3
    iterations: int | None = None
    patience: int | None = None
    seed: int = 0
    optimizer: str = "flow"

    def __post_init__(self) -> None:
        for depth in self.depths:
            _check.depth(depth, allow_infinite=True)
        if self.observed is not None and not 0 < self.observed < 1:
            raise ValueError(f"the observed fraction must lie in (0, 1), got {self.observed:g}.")
        if not 1e-100 <= self.start <= 1e100:
            raise ValueError(
                f"the start size must lie in [1e-100, 1e100], got {self.start:g}; a zero start never moves."
            )
        for name in ("rank", "iterations", "patience"):
            if (value := getattr(self, name)) is not None:
                _check.positive_integer(value, name)
        _check.integer(self.seed, "seed", 0)
        if self.optimizer not in methods.OPTIMIZERS:
            raise ValueError(f"the optimizer must be one of {', '.join(methods.OPTIMIZERS)}, got {self.optimizer!r}.")


def compare(
    data: Data,
    settings: Settings | None = None,
    beside: Data | None = None,
    *,
    tick: Callable[[str, int], None] = lambda name, iteration: None,
) -> dict[str, Any]:
    """Complete a matrix by every method; ``tick(name, iteration)`` is called as the work goes on.

    The known entries are split at random into those that are shown and the *test* entries; a tenth of the shown ones
    are set apart as *validation* entries, which choose when to stop. Values are standardised by the mean and the
    standard deviation of the entries that are fitted. Errors are relative, ``‖X − a‖/‖a − mean‖`` over the test
    entries, so that 1 is the error of predicting the mean.

    Returns ``schema, status, data, settings, notes, rows, pictures`` as JSON can hold them, enough to draw the figure
    and print the table. After Ctrl-C, ``status`` is ``"interrupted"`` and ``rows`` holds what was done. A ValueError
    tells that the rank exceeds the shape, or too few entries would be left. A second matrix ``beside`` the first is
    completed after it, and ``beside`` of the result is the result for it.
    """
    settings = settings or Settings()
    result = _compare(data, settings, tick)
    if beside is not None and result["status"] == "complete":
        result["beside"] = _compare(beside, settings, lambda name, iteration: tick(f"beside, {name}", iteration))
        result["status"] = result["beside"]["status"]
    return result


def _compare(data: Data, settings: Settings, tick: Callable[[str, int], None]) -> dict[str, Any]:
    split = _Split(data, settings)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "complete",
        "data": split.description,
        "settings": {**asdict(settings), "rank": split.task.rank, "observed": split.observed},
        "notes": [],
        "rows": [],
        "pictures": {"original": _picture(data.matrix), "observed": _picture(split.shown)},
    }
    result["settings"]["depths"] = [json_depth(d) for d in settings.depths]
    try:
        for make in _plan(data, split, settings, tick, result["notes"]):
            try:
                # The matrices are small: two BLAS libraries (NumPy's and SciPy's) that spin for each other's cores made
                # the whole job four times slower on two cores.
                with threadpool_limits(1, user_api="blas"):
                    row = make()
            except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:  # one method must not cost the others
                result["notes"].append(f"{make.args[1]} failed: {error}")
                continue
            if row.best is not None:
                result["rows"].append(_described(row, split))
            if row.status == "interrupted":
                result["status"] = "interrupted"
                break
    except KeyboardInterrupt:
        result["status"] = "interrupted"
    return result


def _plan(
    data: Data, split: _Split, settings: Settings, tick: Callable[[str, int], None], notes: list[str]
) -> list[partial[methods.Row]]:
    """List what to run, in order; ``notes`` receives what a reader must know about it."""
    task = split.task
    plan: list[partial[methods.Row]] = []
    for depth in settings.depths:
        plan.append(partial(methods.manifold, task, depth_name(depth), depth, settings.optimizer, tick))
        if math.isinf(depth):
            notes.append("Depth ∞ lives on invertible matrices: here σ² + ε² stands for σ² in its metric, ε the start.")
    plan.append(partial(methods.embedded, task, "FixedRankEmbedded", tick))
    plan.append(partial(methods.grown, task, f"full rank, depth {_GROWN}", _GROWN, tick))
    plan.append(partial(baselines.additive, task, "additive"))
    plan.append(partial(baselines.alternating_least_squares, task, "ALS", tick))
    plan.append(partial(baselines.reweighted, task, "complete()", tick))
    notes += [
        f"Depths: by {methods.OPTIMIZERS[settings.optimizer][0]}. FixedRankEmbedded: by conjugate gradients.",
        f"Full rank, depth {_GROWN}: the gradient flow of full rank, whose rank grows as the flow has it.",
        "Additive: a value for each row and one for each column. complete(): reweighted least squares, rank not given.",
        f"Additive, ALS: ridge of {', '.join(f'{r:g}' for r in baselines.RIDGES)} chosen on the validation entries.",
    ]
    if np.isnan(data.matrix).any():
        notes.append("No SVD floor: the matrix itself has missing entries.")
    else:
        plan.append(partial(baselines.truncated_svd, task, "SVD (floor)", split.standardised))
        notes.append(f"SVD: the best matrix of rank {task.rank} when every entry is known. A floor, not a method.")
    return plan


class _Split:
    """The entries of a matrix, split into three parts and standardised."""

    def __init__(self, data: Data, settings: Settings) -> None:
        m, n = data.matrix.shape
        known = MatrixCompletion.from_matrix(data.matrix)
        complete = len(known) == m * n
        entries, start = np.random.SeedSequence(settings.seed).spawn(2)
        rng = np.random.default_rng(entries)
        if settings.observed is None and data.shown is not None:
            parts = data.shown, ~data.shown & ~np.isnan(data.matrix)
            shown, test = (MatrixCompletion.from_matrix(data.matrix, part) for part in parts)
        else:
            shown, test = known.split(1 - (settings.observed or (_WHOLE if complete else _HOLED)), rng)
        self.observed = len(shown) / len(known)
        train, validation = shown.split(_VALIDATION, rng)
        self.mean, self.scale = float(train.values.mean()), float(train.values.std())
        if self.scale == 0:
            raise ValueError(f"the {len(train)} entries to fit are all equal; show more of them.")
        fitted, choosing, reported = (
            MatrixCompletion(part.rows, part.cols, (part.values - self.mean) / self.scale, part.shape)
            for part in (train, validation, test)
        )
        self.task = methods.Task(
            fitted,
            choosing,
            reported,
            rank=_check.rank(settings.rank or min(20, m, n), m, n),
            start=settings.start,
            iterations=settings.iterations,
            patience=settings.patience,
            seed=int(start.generate_state(1)[0]),
        )
        self.standardised = (data.matrix - self.mean) / self.scale
        self.shown = np.full((m, n), np.nan)
        self.shown[shown.rows, shown.cols] = shown.values
        self.description = {
            "name": data.name,
            "shape": [m, n],
            "peak": data.peak,
            "complete": complete,
            "n_train": len(train),
            "n_validation": len(validation),
            "n_test": len(test),
            "mean": self.mean,
            "scale": self.scale,
        }


def _described(row: methods.Row, split: _Split) -> dict[str, Any]:
    """Return a row of the table as plain numbers."""
    assert row.best is not None
    test, peak = split.task.test, split.description["peak"]
    u, s, vt = row.best
    error = test.relative_error(row.best)
    rms = error * float(np.linalg.norm(test.values)) / math.sqrt(len(test)) * split.scale
    return {
        "name": row.name,
        "depth": None if row.depth is None else json_depth(row.depth),
        "optimizer": None if row.optimizer is None else methods.OPTIMIZERS[row.optimizer][0],
        "unit": row.unit,
        "floor": row.floor,
        "status": row.status,
        "message": row.message,
        "error": error,
        "last_error": test.relative_error(row.last),
        "psnr": None if peak is None or rms == 0 else 20 * math.log10(peak / rms),
        "effective_rank": effective_rank(s),
        "best_iteration": row.best_iteration,
        "iterations": row.iterations,
        "seconds": row.seconds,
        "history": row.history,
        "picture": _picture(split.mean + split.scale * ((u * s) @ vt)),
    }


def _picture(matrix: np.ndarray) -> list[list[float | None]]:
    """Return the matrix as drawn: at most 256 rows and columns (each k-th is kept), five digits, None if missing."""
    step = [math.ceil(d / _PICTURE_SIDE) for d in matrix.shape]
    return [
        [None if math.isnan(x) else float(f"{x:.5g}") for x in row] for row in matrix[:: step[0], :: step[1]].tolist()
    ]


def table(result: dict[str, Any], notes: Sequence[str] | None = None) -> Group:
    """Make the table of a result, with its notes except those given; the smallest error of a method is in bold."""
    data = result["data"]
    headings = ["", "held-out\nerror", "error at\nthe end", "effective\nrank", "iterations\nbest/all", "seconds"]
    cells = [
        [
            row["name"],
            error_text(row["error"]),
            error_text(row["last_error"]) if row["history"] else "",
            f"{row['effective_rank']:.1f}",
            f"{row['best_iteration']}/{row['iterations']}" if row["history"] else "",
            f"{row['seconds']:.1f}",
        ]
        for row in result["rows"]
    ]
    errors = [row["error"] for row in result["rows"] if not row["floor"]]
    for row, line in zip(result["rows"], cells, strict=True):
        if not row["floor"] and row["error"] == min(errors):
            line[1] = f"[bold]{line[1]}[/bold]"
        if data["peak"] is not None:
            line.insert(2, "" if row["psnr"] is None else f"{row['psnr']:.1f}")
    if data["peak"] is not None:
        headings.insert(2, "PSNR\n(dB)")
    # What two tables say alike is said once, below both.
    beside = result.get("beside")
    notes = [*_NOTES, *result["notes"]] if notes is None else [n for n in result["notes"] if n not in notes]
    return Group(
        Text(
            f"{data['name']}: {data['n_train']} entries fitted, {data['n_validation']} choose when to stop, "
            f"{data['n_test']} test"
        ),
        Figures(headings, cells),
        *(() if beside is None else (table(beside, notes),)),
        *map(Text, notes),
        *(Text(f"{row['name']} ended: interrupted.") for row in result["rows"] if row["status"] == "interrupted"),
    )
