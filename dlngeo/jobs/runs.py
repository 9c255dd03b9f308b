"""One run of an optimizer on a manifold, as JSON holds it, and what tells it from others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pymanopt
from pymanopt.autodiff import Function
from pymanopt.manifolds import FixedRankEmbedded

from dlngeo.flows.report import effective_rank
from dlngeo.jobs.output import History
from dlngeo.problems import MatrixCost, Record, solve
from dlngeo.problems.monitor import error_on
from dlngeo.pymanopt import Balanced, small_start
from dlngeo.pymanopt.ambient import tangent_part_of_autodiff
from dlngeo.weights.network import end_to_end

__all__ = ["COLUMNS", "UNFINISHED", "Task", "measure", "posed"]

UNFINISHED = ("failed", "interrupted")
COLUMNS = (  # of a run, besides its names and its history
    "status", "message", "iterations", "seconds", "cost", "last_cost", "best_iteration",
    "heldout_error", "last_heldout_error", "test_error", "effective_rank",
)  # fmt: skip
_FAILURES = (ArithmeticError, ValueError, NotImplementedError, RuntimeError, np.linalg.LinAlgError)


class Task:
    """One run: what is to be done, and what tells it from others."""

    def __init__(
        self, space: str, solver: str, seed: int, problem: Any, optimizer: Any, start: Any, patience: int | None
    ) -> None:
        self.key = space, solver, seed
        self.problem, self.optimizer, self.start, self.patience = problem, optimizer, start, patience
        self.heldout: Callable[[Any], float] | None = None
        self.test: Callable[[Any], float] | None = None

    def run(self) -> dict[str, Any]:
        path = History("iteration", "cost", "gradient_norm", "heldout_error", "seconds")
        run: dict[str, Any] = dict.fromkeys(("manifold", "optimizer", "seed", "signature", *COLUMNS))
        run |= zip(("manifold", "optimizer", "seed"), self.key, strict=True)
        run |= {"status": "failed", "history": path.columns}
        seen: list[Record] = []

        def watch(record: Record, point: Any) -> None:
            seen.append(record)
            path.add(record.iteration, lambda: _row(record))

        try:
            point = self.initial_point()
            run["signature"] = self.signature(point)
            found = solve(
                self.problem,
                copy.deepcopy(self.optimizer),
                initial_point=point,
                heldout_error=self.heldout,
                patience=self.patience,
                callback=watch,
            )
            run |= {
                "cost": _number(found.best.cost),
                "last_cost": _number(found.history[-1].cost),
                "heldout_error": _number(found.best.heldout_error),
                "last_heldout_error": _number(found.history[-1].heldout_error),
                "test_error": None if self.test is None else _number(self.test(found.best_point)),
                "effective_rank": _rank(self.problem.manifold, found.best_point),
                "best_iteration": found.best.iteration,
                "status": found.status,
                "message": found.message,
            }
        except _FAILURES as error:
            run["message"] = f"{type(error).__name__}: {error}"
        if seen:
            run |= {"iterations": seen[-1].iteration, "seconds": seen[-1].seconds}
            path.close(seen[-1].iteration, lambda: _row(seen[-1]))
        return run

    def initial_point(self) -> Any:
        manifold, seed = self.problem.manifold, self.key[2]
        if callable(self.start):
            return self.start(manifold, seed)
        try:
            return small_start(manifold, self.start, seed)
        except TypeError:
            pass
        import geomstats.backend as gs

        before = np.random.get_state()  # noqa: NPY002, the generator that pymanopt draws from
        np.random.seed(seed)  # noqa: NPY002
        gs.random.seed(seed)
        try:
            return manifold.random_point()
        finally:
            np.random.set_state(before)  # noqa: NPY002

    def signature(self, point: Any) -> list[Any]:
        """Return what another run of these names must share to be the same: settings, and what is seen at the start."""
        norm = self.problem.manifold.norm(point, self.problem.riemannian_gradient(point))
        seen = [self.problem.cost(point), norm, *(f(point) for f in (self.heldout, self.test) if f is not None)]
        return [f"{_settings(self.optimizer)}, patience {self.patience}", *(_number(value) for value in seen)]

    def require_same(self, run: Mapping[str, Any], file: Any) -> None:
        there = run["signature"]
        if there is None:  # it failed before there was one
            return
        here = self.signature(self.initial_point())
        same = len(here) == len(there) and here[0] == there[0]
        for a, b in zip(here[1:], there[1:], strict=False):
            same = same and (a == b or (None not in (a, b) and math.isclose(a, b, rel_tol=1e-6)))
        if not same:
            name = ", ".join(map(str, self.key))
            raise ValueError(
                f"{file} holds a run named {name} of other settings, or on another problem, metric or start "
                f"({there}, now {here}); give another file, or other names."
            )


def posed(problem: Any, manifold: Any) -> Any:
    """Pose a problem, in any of the forms that :func:`dlngeo.compare` takes, on a manifold."""
    if isinstance(problem, MatrixCost):
        return problem.problem(manifold)
    if isinstance(problem, Function):
        if problem._num_arguments != manifold.num_values:
            raise TypeError(
                f"the function takes {problem._num_arguments} arrays, points of {manifold} have {manifold.num_values}; "
                "pass a function manifold → pymanopt.Problem, which may decorate one for each."
            )
        if type(manifold) is not FixedRankEmbedded:  # not a subclass, whose metric may be another
            return pymanopt.Problem(manifold, problem)
        slope = problem.get_gradient_operator()

        @pymanopt.function.numpy(manifold)
        def gradient(*point: Any) -> Any:
            # Its own conversion divides by s_k² − s_l², which vanishes at small starts.
            return type(manifold.zero_vector(point))(*tangent_part_of_autodiff(point, slope(*point))[0])

        # The value alone, so that nobody asks autodiff for a Hessian, of which this manifold knows nothing.
        value = pymanopt.function.numpy(manifold)(lambda *point: problem(*point))
        return pymanopt.Problem(manifold, value, riemannian_gradient=gradient)
    if not callable(problem):
        raise TypeError(
            "the problem must be a cost of dlngeo.problems, a function decorated by pymanopt.function, or a function "
            f"manifold → pymanopt.Problem, got {type(problem).__name__}."
        )
    made = problem(manifold)
    if not isinstance(made, pymanopt.Problem) or made.manifold is not manifold:
        raise TypeError(f"the function must return a pymanopt.Problem on the manifold given, not {made!r}.")
    return made


def measure(data: Any, problem: Any, manifold: Any) -> Callable[[Any], float] | None:
    """Return the error of a point on held-out data, which know matrices alone."""
    if data is None or not hasattr(data, "relative_error"):
        if data is not None and not callable(data):
            raise TypeError(f"held-out data have relative_error(X), or are a function of a point; got {data!r}.")
        return data
    error = error_on(data, problem if isinstance(problem, MatrixCost) else data)
    return partial(_of_product, error) if isinstance(manifold, Balanced) else error


def _of_product(error: Any, point: Any) -> float:
    return error(end_to_end(list(point)))


def _rank(manifold: Any, point: Any) -> float | None:
    """Effective rank, of a point that is a matrix."""
    if isinstance(manifold, Balanced):
        point = end_to_end(list(point))
    if isinstance(point, list | tuple) and len(point) == 3 and np.ndim(point[1]) == 1:
        return effective_rank(np.asarray(point[1]))
    if isinstance(point, np.ndarray) and point.ndim == 2:
        return effective_rank(np.linalg.svd(point, compute_uv=False))
    return None


def _settings(thing: Any) -> str:
    """Name the class of an optimizer or line search, and its settings as far as they are plain values."""
    plain = {k.lstrip("_"): v for k, v in vars(thing).items() if isinstance(v, int | float | str)}
    inner = [_settings(v) for k, v in vars(thing).items() if "line_search" in k and hasattr(v, "search")]
    return ", ".join([f"{type(thing).__name__}({', '.join(f'{k}={v}' for k, v in sorted(plain.items()))})", *inner])


def _number(value: Any) -> float | None:
    """Return a number as JSON holds it."""
    return float(value) if math.isfinite(value) else None


def _row(record: Record) -> tuple[Any, ...]:
    values = record.cost, record.gradient_norm, record.heldout_error, record.seconds
    return (record.iteration, *map(_number, values))
