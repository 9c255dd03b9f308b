"""Any cost on any manifolds by any optimizers, over seeds: one table, figure and file, which a later call completes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from geomstats.geometry.manifold import Manifold as GeomstatsManifold
from matplotlib.figure import Figure
from pymanopt.manifolds.manifold import Manifold
from pymanopt.optimizers.optimizer import Optimizer
from rich.console import Console
from rich.progress import track

from dlngeo import _check
from dlngeo.jobs.output import Figures, depth_name, replace, save
from dlngeo.jobs.runs import COLUMNS, UNFINISHED, Task, measure, posed
from dlngeo.plotting import comparison_figure, error_text
from dlngeo.pymanopt import FixedRank, GradientFlow, from_geomstats

__all__ = ["Comparison", "compare"]

SCHEMA = 1
_STEPS = 120  # of the flow, if no optimizer is given


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    status : str
        ``"complete"``, or ``"interrupted"`` after Ctrl-C.
    runs : list of dict
        One for each manifold, optimizer and seed that was run, as JSON holds them: the names, ``status`` and
        ``message`` as in :class:`dlngeo.problems.Solution`, or ``"failed"``; ``cost``, ``heldout_error``,
        ``test_error``, ``effective_rank`` and ``best_iteration`` of the best point, ``last_cost`` and
        ``last_heldout_error`` of the last; ``iterations``, ``seconds``, and ``history``, column → values.
    """

    status: str
    runs: list[dict[str, Any]]

    def to_frame(self) -> Any:
        """Return a pandas data frame with a line for each run."""
        import pandas as pd

        columns = ["manifold", "optimizer", "seed", *COLUMNS]
        return pd.DataFrame([[run[name] for name in columns] for run in self.runs], columns=columns)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON holds, and the figure is drawn from."""
        return {"schema": SCHEMA, "status": self.status, "runs": self.runs}

    def figure(self) -> Figure:
        """Draw the error, or the cost, along each run, and at its end."""
        return comparison_figure(self.to_json())

    def table(self) -> str:
        """Return a table in text: for each manifold and optimizer the median over the seeds, and the range."""
        headings, rows = ["", *(heading for heading, _, _ in _CELLS), "ended"], []
        groups: dict[str, list[dict[str, Any]]] = {}
        for run in self.runs:
            groups.setdefault(f"{run['manifold']}, {run['optimizer']}", []).append(run)
        for name, runs in groups.items():
            ends = [run["status"] for run in runs]
            counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
            rows.append([name, *(_spread([run[key] for run in runs], text) for _, key, text in _CELLS), counts])
        shown = [k for k in range(len(headings)) if k == 0 or any(row[k] for row in rows)]
        out = io.StringIO()
        table = Figures([headings[k] for k in shown], [[row[k] for k in shown] for row in rows])
        Console(file=out, width=200, markup=False).print(table)
        failed = {f"{run['manifold']}, {run['optimizer']}: {run['message']}" for run in self.runs if _failed(run)}
        return "\n".join(
            [*(line.rstrip() for line in out.getvalue().splitlines() if line.strip()), *sorted(failed)]
        )  # fmt: skip

    def save(self, folder: str | Path, figure: str = "figure.png") -> tuple[Path, Path]:
        """Write ``result.json`` and the figure, a .png, .pdf or .svg, into a folder; return their paths."""
        return save(self.to_json(), folder, comparison_figure, figure)

    def __str__(self) -> str:
        return self.table()


def compare(
    problem: Any,
    manifolds: Any,
    optimizers: Any = None,
    seeds: int | Sequence[int] = 5,
    heldout: Any = None,
    *,
    test: Any = None,
    start: float | Callable[[Any, int], Any] = 1e-3,
    patience: int | None = None,
    file: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Minimise one cost on several manifolds by several optimizers, from the same starts, and compare what comes out.

    Parameters
    ----------
    problem : MatrixCost, pymanopt function, or callable
        A cost of :mod:`dlngeo.problems`; a function decorated by ``pymanopt.function.autograd(manifold)``, or another
        backend, which serves all manifolds whose points have as many arrays; or a function ``manifold →``
        ``pymanopt.Problem``.
    manifolds : dict, sequence, or one
        Manifolds of pymanopt, of :mod:`dlngeo.pymanopt` and spaces of geomstats, by name if it is a dict.
    optimizers : dict, sequence, or one, optional
        Optimizers of pymanopt, :class:`dlngeo.pymanopt.GradientFlow` among them; by default that one, for 120 steps.
        From small starts ``ConjugateGradient`` needs :class:`dlngeo.pymanopt.SmallStartLineSearcher`.
    seeds : int or sequence of int
        Number of starts, or their seeds.
    heldout : object or callable, optional
        Data that choose the best point of each run: with ``relative_error(X)``, as least-squares costs have it, or a
        function ``point → error``. Without them it is the point of least cost.
    test : object or callable, optional
        Data that only measure the best point. What ``heldout`` says of it is a little too good, having chosen it.
    start : float or callable
        Singular values of the start, see :func:`dlngeo.pymanopt.small_start`: one seed gives one matrix on all
        manifolds of matrices of one shape and rank. Manifolds without such points start at random ones, drawn after
        seeding the global generators: the same on manifolds of one class. Or a function ``(manifold, seed) → point``.
    patience : int, optional
        Stop a run after so many iterations without improvement on ``heldout``.
    file : path, optional
        JSON file that is written after each run. Runs that it holds as finished are not run again.
    progress : bool
        Draw a bar on standard error.

    Returns
    -------
    Comparison
        With ``table()``, ``to_frame()``, ``figure()``, ``to_json()`` and ``save(folder)``. A run that fails costs
        none of the others. After Ctrl-C it holds the runs that were finished, and the one that was not.

    Raises
    ------
    TypeError
        If something is none of these, or a decorated function takes another number of arrays than points have.
    ValueError
        If nothing is to be run, ``heldout`` is of another matrix, or ``file`` is no file of :func:`compare`, or of
        runs of the same names on another problem, metric or start, or with other settings.

    See Also
    --------
    dlngeo.problems.solve
    dlngeo.pymanopt.GradientFlow

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion
    >>> from dlngeo.pymanopt import FixedRank
    >>> truth = np.outer([1.0, 2.0, -1.0, 0.5], [1.0, -2.0, 3.0, 1.0])
    >>> data, rest = MatrixCompletion.from_matrix(truth).split(0.3, 0)
    >>> found = compare(data, [FixedRank(4, 4, 3, depth) for depth in (1, 3)], seeds=2, heldout=rest)
    >>> list(found.to_frame().groupby("manifold").heldout_error.median() < 0.1)
    [False, True]
    """
    spaces = {
        name: from_geomstats(space) if isinstance(space, GeomstatsManifold) else space
        for name, space in _named(manifolds, (Manifold, GeomstatsManifold), "manifold").items()
    }
    if optimizers is None:
        optimizers = {"flow": GradientFlow(max_iterations=_STEPS)}
    solvers = _named(optimizers, (Optimizer,), "optimizer")
    numbers = range(_check.positive_integer(seeds, "seeds")) if isinstance(seeds, int) else seeds
    numbers = [_check.integer(seed, "a seed", 0) for seed in numbers]
    if not numbers:
        raise ValueError("there are no seeds; give one at least.")
    if not callable(start):
        _check.positive(start, "start")
    if patience is not None:
        _check.positive_integer(patience, "patience")
        if heldout is None:
            raise ValueError("patience needs something to watch; pass held-out data as well.")
    tasks = [
        Task(space, solver, seed, posed(problem, spaces[space]), solvers[solver], start, patience)
        for space in spaces
        for solver in solvers
        for seed in numbers
    ]
    for task in tasks:
        task.heldout, task.test = (measure(each, problem, task.problem.manifold) for each in (heldout, test))
    known = {} if file is None else _read(Path(file))
    wanted, done, status = [task.key for task in tasks], dict(known), "complete"
    try:
        for task in track(tasks, "runs", console=Console(stderr=True), transient=True, disable=not progress):
            finished = known.get(task.key)
            if finished is not None:
                task.require_same(finished, file)
                if finished["status"] not in UNFINISHED:
                    continue
            done[task.key] = run = task.run()
            status = "interrupted" if run["status"] == "interrupted" else status
            if file is not None:
                _write(Path(file), status, list(done.values()))
            if status == "interrupted":
                break
    except KeyboardInterrupt:
        status = "interrupted"
    return Comparison(status, [done[key] for key in wanted if key in done])


def _named(given: Any, kinds: tuple[type, ...], what: str) -> dict[str, Any]:
    """Return a mapping from names; where none are given, they say what it is."""
    if isinstance(given, kinds):
        given = [given]
    if not isinstance(given, Iterable):
        raise TypeError(f"a {what} is expected, or several, by name or in a sequence; got {type(given).__name__}.")
    found: dict[str, Any] = {}
    pairs = given.items() if isinstance(given, Mapping) else ((None, each) for each in given)
    for key, each in pairs:
        if not isinstance(each, kinds):
            raise TypeError(f"a {what} is expected, got {each!r} of type {type(each).__name__}.")
        name = stem = _name(each) if key is None else str(key)
        while name in found:
            name = f"{stem} ({1 + sum(other.startswith(stem) for other in found)})"
        found[name] = each
    if not found:
        raise ValueError(f"there is no {what}; give one at least.")
    return found


def _name(each: Any) -> str:
    depth = each.kernel.depth if isinstance(each, FixedRank) else None
    return type(getattr(each, "space", each)).__name__ if depth is None else depth_name(depth)


def _failed(run: Mapping[str, Any]) -> bool:
    return run["status"] == "failed"


def _spread(values: list[Any], text: Callable[[float], str]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    middle, low, high = (text(float(f(numbers))) for f in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} ({low}–{high})"


_CELLS: list[tuple[str, str, Callable[[float], str]]] = [
    ("held-out\nerror", "heldout_error", error_text),
    ("test\nerror", "test_error", error_text),
    ("cost", "cost", "{:.3g}".format),
    ("effective\nrank", "effective_rank", "{:.1f}".format),
    ("iterations", "iterations", "{:.0f}".format),
    ("seconds", "seconds", "{:.2g}".format),
]


def _read(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the runs that a file holds; none if it is not there yet."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for the file {path.name}; make it first.")
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise ValueError(f"its schema is {found['schema']}")
        known = {(run["manifold"], run["optimizer"], run["seed"]): run for run in found["runs"]}
        columns = {"signature", "history", *COLUMNS}
        if not all(columns <= set(run) for run in known.values()):
            raise ValueError("runs lack columns")
        return known
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of dlngeo.compare ({error!r}); give another, or remove it.") from None


def _write(path: Path, status: str, runs: list[dict[str, Any]]) -> None:
    text = json.dumps({"schema": SCHEMA, "status": status, "runs": runs}, allow_nan=False, ensure_ascii=False)
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
