"""Complete a table: by the method that held-out entries prefer, and only where data determine an entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse
from rich.console import Group
from rich.text import Text
from scipy.sparse.csgraph import connected_components

from dlngeo import _check
from dlngeo.jobs.load import Data
from dlngeo.jobs.output import Figures
from dlngeo.plotting import complete_figure, error_text
from dlngeo.problems import FittedTable, MatrixCompletion, fit_table
from dlngeo.problems.tables import METHODS, held_out_errors

__all__ = ["Settings", "complete", "figure", "table"]

Array = np.ndarray
figure = complete_figure

_FEW, _FOLDS = 20_000, 5  # entries of which all are held out in turn, in so many parts; of more a tenth is
_NAMED = 5
_PICTURE_SIDE = 256


@dataclass(frozen=True)
class Settings:
    """What ``dlngeo complete`` may be told; ``method`` is one of those of :func:`~dlngeo.problems.fit_table`."""

    method: str = "auto"
    depth: float = 4.0
    rank: int | None = None
    undetermined: str = "empty"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, "auto"):
            raise ValueError(f"the method must be one of auto, {', '.join(METHODS)}, got {self.method!r}.")
        if self.undetermined not in ("empty", "offsets"):
            raise ValueError(f"undetermined entries are left empty or filled by offsets, got {self.undetermined!r}.")
        if self.method == "flow" and math.isinf(self.depth):
            raise ValueError("a flow has no infinite depth; take a finite one.")
        if not self.depth >= 2:
            raise ValueError(f"the depth must be at least 2, got {self.depth}; below there is no bias to low rank.")
        if self.rank is not None:
            _check.positive_integer(self.rank, "rank")
        _check.integer(self.seed, "seed", 0)


def complete(
    data: Data, settings: Settings, tick: Callable[[str], None] = lambda name: None
) -> tuple[Array, dict[str, Any]]:
    """Complete the table.

    Entries are held out to choose the method and to tell the error: those of one part are predicted by the method that
    is best on the other parts, so that no error is reported that chose its own method.

    Parameters
    ----------
    data : Data
        The table.
    settings : Settings
        Options.
    tick : callable
        Told what is being done.

    Returns
    -------
    filled : array, shape=[m, n]
        The completed table: known entries are as they were, and those that no data determine NaN, or filled by
        offsets.
    result : dict
        What JSON can hold: method, rank, errors of all methods with intervals, notes, and the picture.

    Raises
    ------
    ValueError
        If the known entries do not suffice to hold some out.
    """
    known = ~np.isnan(data.matrix)
    rows, columns = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
    problem = MatrixCompletion.from_matrix(data.matrix[np.ix_(rows, columns)])
    options: dict[str, Any] = {"depth": settings.depth, "rank": settings.rank}
    rng = np.random.default_rng(settings.seed)
    tick("entries held out")
    folds, methods = (
        _FOLDS if len(problem) <= _FEW else None,
        METHODS if settings.method == "auto" else (settings.method,),
    )
    places, errors = held_out_errors(problem, folds, methods, rng=rng, **options)
    groups = np.repeat(np.arange(len(places)), places.shape[1])
    if len(places) == 1:
        groups = np.arange(places.size) % 2  # two halves, of which each judges for the other
    places = places.ravel()
    chosen, held = _chosen(errors, groups)
    tick(chosen)
    fitted = fit_table(problem, chosen, rng=rng, **options)

    undetermined, parts = _undetermined(known)
    filled = _filled(fitted, known, rows, columns, undetermined, settings.undetermined == "offsets")
    filled[known] = data.matrix[known]
    by_row = problem.rows[places]
    result = {
        "schema": 1,
        "status": "done",
        "data": {"name": data.name, "shape": list(known.shape), "n_known": len(problem)},
        "settings": {**asdict(settings), "depth": "inf" if math.isinf(settings.depth) else settings.depth},
        "method": chosen,
        "rank": fitted.rank,
        "n_filled": int(np.sum(~known & ~np.isnan(filled))),
        "n_empty": int(np.isnan(filled).sum()),
        "rmse": interval(held, by_row),
        "spread": float(np.std(problem.values)),
        "rows": [{"name": name, "rmse": interval(error, by_row)} for name, error in errors.items()],
        "notes": _notes(data, known, parts, undetermined, settings.undetermined == "offsets"),
        "pictures": {"known": _picture(data.matrix), "filled": _picture(filled)},
    }
    return filled, result


def _chosen(errors: dict[str, Array], groups: Array) -> tuple[str, Array]:
    """Return the best method, and the errors in each group of that which is best on the other groups."""
    sums = {name: np.bincount(groups, error**2) for name, error in errors.items()}
    best = [min(errors, key=lambda name: float(sums[name].sum() - sums[name][g])) for g in range(int(groups.max()) + 1)]
    held = np.select([groups == g for g in range(len(best))], [errors[name] for name in best])
    return min(errors, key=lambda name: float(sums[name].sum())), held


def interval(errors: Array, rows: Array) -> list[float]:
    """Root mean square and its 95 % interval, by the spread of the squares from row to row.

    Errors of a row hang together: with ``S_i`` the sum of the squares in a row, ``c_i`` their number and M the mean
    square, the standard error of M is ``(Σ_i (S_i − M c_i)²)^{1/2} / Σ_i c_i``, and the interval symmetric in log M.
    """
    _, group = np.unique(rows, return_inverse=True)
    sums, counts = np.bincount(group, errors**2), np.bincount(group)
    mean, freedom = float(sums.sum() / counts.sum()), max(len(sums) - 1, 1)
    if mean == 0:
        return [0.0, 0.0, 0.0]
    width = math.sqrt(float(np.sum((sums - mean * counts) ** 2)) * len(sums) / freedom) / counts.sum() / mean
    return [math.sqrt(mean), math.sqrt(mean) * math.exp(-0.98 * width), math.sqrt(mean) * math.exp(0.98 * width)]


def _undetermined(known: Array) -> tuple[Array, int]:
    """Entries whose row and column no chain of known entries joins, and the number of parts with entries."""
    m, n = known.shape
    i, j = np.nonzero(known)
    graph = scipy.sparse.coo_array((np.ones(len(i)), (i, m + j)), (m + n, m + n))
    _, part = connected_components(graph, directed=False)
    return part[:m, None] != part[None, m:], len(np.unique(part[:m][i]))


def _filled(
    fitted: FittedTable, known: Array, rows: Array, columns: Array, undetermined: Array, offsets: bool
) -> Array:
    places = [np.full(size, -1) for size in known.shape]  # rows and columns of which nothing is known
    places[0][rows], places[1][columns] = np.arange(len(rows)), np.arange(len(columns))
    i, j = places
    out = fitted.mean + fitted.row_offsets[i, None] + fitted.column_offsets[None, j]
    out[undetermined] = out[undetermined] if offsets else np.nan
    low = fitted.left[i] @ fitted.right[j].T
    return np.where(undetermined, out, out + low)


def _notes(data: Data, known: Array, parts: int, undetermined: Array, offsets: bool) -> list[str]:
    notes = []
    if data.form and data.form.unused:
        unused = ", ".join(map(str, data.form.unused[:_NAMED])) + ", …" * (len(data.form.unused) > _NAMED)
        notes.append(f"columns not used: {unused}; a long table is row, column and value.")
    names = (data.form.rows, data.form.columns) if data.form else (None, None)
    done = "filled by the offsets that are known" if offsets else "left empty"
    for axis, word in ((1, "row"), (0, "column")):
        if (empty := np.flatnonzero(~known.any(axis=axis))).size:
            labels = names[1 - axis]
            shown = [str(labels[k] if labels else k + 1) for k in empty[:_NAMED]]
            more = ", …" if len(empty) > _NAMED else ""
            notes.append(f"{_counted(len(empty), word)} without entries ({', '.join(shown)}{more}): {done}.")
    if parts > 1:
        inside = np.ix_(known.any(axis=1), known.any(axis=0))
        count = int(undetermined[inside].sum())
        notes.append(
            f"the table falls into {parts} parts that share no row and no column with entries; {count} entries between "
            f"them are determined by none: {done}."
        )
    return notes


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}"


def _picture(matrix: Array) -> list[list[float | None]]:
    step = [math.ceil(size / _PICTURE_SIDE) for size in matrix.shape]
    return [
        [None if math.isnan(x) else float(f"{x:.5g}") for x in row] for row in matrix[:: step[0], :: step[1]].tolist()
    ]


def table(result: dict[str, Any]) -> Group:
    """Make the table of a result: errors of all methods on held-out entries, and what was done."""
    data, (mid, low, high) = result["data"], result["rmse"]
    cells: Sequence[Sequence[str]] = [
        [("→ " if row["name"] == result["method"] else "  ") + row["name"], *map(error_text, row["rmse"])]
        for row in sorted(result["rows"], key=lambda row: row["rmse"][0])
    ]
    m, n = data["shape"]
    rank = f" of rank {result['rank']}" if result["rank"] else ""
    return Group(
        Text(f"{data['name']}: {m}×{n}, {data['n_known']} entries known ({100 * data['n_known'] / (m * n):.3g} %)"),
        Figures(["", "held-out\nRMSE", "from", "to"], cells),
        Text(
            f"{result['n_filled']} entries filled by {result['method']}{rank}; RMSE {error_text(mid)} "
            f"({error_text(low)} to {error_text(high)}, 95 %), the values vary by {error_text(result['spread'])}."
        ),
        *map(Text, result["notes"]),
    )
