"""The methods whose bias is compared: one line for each, in :data:`METHODS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import references
import references_packages as packages
from references import Factors

from dlngeo.jobs.methods import Row, Task, embedded, follow, manifold
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

START, ITERATIONS, PATIENCE = 1e-3, 800, 150
STEPS = 25  # of a flow, which grow as it slows down
SYNTHETIC = ("exact", "even", "noise", "tall")
EVERYWHERE = (*SYNTHETIC, "digits", "photograph")


@dataclass(frozen=True)
class Entries:
    """What a method is given: the observed entries, and their split into those to fit and those to choose by."""

    observed: MatrixCompletion
    train: MatrixCompletion
    validation: MatrixCompletion
    seed: int


@dataclass(frozen=True)
class Method:
    """How to complete: a function of the entries and the rank, to factors and a number of iterations.

    Slow methods take a later turn.
    """

    complete: Callable[[Entries, int], tuple[Factors, int]]
    validates: bool = True
    told_rank: bool = True
    turn: int = 0
    package: str = ""
    scenes: tuple[str, ...] = EVERYWHERE
    levels: tuple[float, ...] = ()  # all, if none is named


def _of_row(row: Row) -> tuple[Factors, int]:
    assert row.best is not None
    u, s, vt = row.best
    return (u * s, vt), row.iterations


def _task(entries: Entries, rank: int, patience: int = PATIENCE) -> Task:
    # The test entries of a task are only watched; they are not shown to it here.
    train, validation = entries.train, entries.validation
    return Task(train, validation, validation, rank, START, ITERATIONS, patience, entries.seed)


def _tick(*_: Any) -> None:
    pass


def _depth(depth: float, optimizer: str = "cg") -> Callable[[Entries, int], tuple[Factors, int]]:
    patience = STEPS if optimizer == "flow" else PATIENCE
    return lambda entries, rank: _of_row(manifold(_task(entries, rank, patience), "", depth, optimizer, _tick))


def _full_rank_flow(depth: float) -> Callable[[Entries, int], tuple[Factors, int]]:
    def complete(entries: Entries, _: int) -> tuple[Factors, int]:
        found = entries.train.follow(depth, START, heldout=entries.validation, patience=STEPS)
        u, s, vt = found.best_point
        return (u * s, vt), found.iterations

    return complete


def _infinite_depth(entries: Entries, _: int) -> tuple[Factors, int]:
    full = min(entries.train.shape)
    space = FixedRank(*entries.train.shape, full, depth=math.inf)  # of square matrices alone
    return _of_row(follow(_task(entries, full), Row("", math.inf, "cg"), space, _tick))


def _unknown_rank(depth: float) -> Callable[[Entries, int], tuple[Factors, int]]:
    def complete(entries: Entries, _: int) -> tuple[Factors, int]:
        found = entries.observed.complete(depth=depth, rng=entries.seed)
        u, s, vt = found.point
        return (u * s, vt), len(found.history)

    return complete


# Where LSQR fails to converge it costs most of the time; with these bounds, 1e-6 is reached where it was 1e-13.
_LSQR = {"iterations": 60, "patience": 20, "inner": 400}

METHODS = {
    "depth 1": Method(_depth(1)),
    "depth 2": Method(_depth(2)),
    "depth 3": Method(_depth(3)),
    "depth 4": Method(_depth(4)),
    "depth 8": Method(_depth(8)),
    "depth ∞": Method(
        _infinite_depth,
        told_rank=False,
        turn=2,
        scenes=("exact", "even", "noise", "photograph"),
    ),
    **{
        f"flow, depth {depth}": Method(
            _depth(depth, "flow"),
            scenes=EVERYWHERE if depth in (2, 3, 4) else ("exact",),
            levels=() if depth in (1, 2, 3, 4, 8) else (2.0,),
        )
        for depth in range(1, 9)
    },
    "flow, depth ∞": Method(_depth(math.inf, "flow"), scenes=("exact",)),
    **{
        f"flow of full rank, depth {depth}": Method(
            _full_rank_flow(depth), told_rank=False, scenes=EVERYWHERE if depth in (3, 4) else ("exact",)
        )
        for depth in (2, 3, 4, 8)
    },
    "rank unknown, depth 4": Method(_unknown_rank(4), validates=False, told_rank=False),
    "rank unknown, depth 8": Method(_unknown_rank(8), validates=False, told_rank=False),
    "FixedRankEmbedded": Method(lambda e, rank: _of_row(embedded(_task(e, rank), "", _tick))),
    "ALS": Method(lambda e, rank: references.als(e.train, e.validation, rank, e.seed)),
    "MatrixIRLS": Method(lambda e, rank: references.matrix_irls(e.observed, rank), validates=False),
    "cmfrec": Method(
        lambda e, rank: packages.cmfrec(e.train, e.validation, rank),
        turn=2,
        package="cmfrec",
        scenes=("exact", "digits"),
    ),
    "GNMR": Method(
        lambda e, rank: references.gnmr(e.observed, rank, **_LSQR), validates=False, turn=1, scenes=SYNTHETIC
    ),
    "R2RILS": Method(
        lambda e, rank: references.r2rils(e.observed, rank, **_LSQR), validates=False, turn=1, scenes=SYNTHETIC
    ),
    "R2RILS, rank by validation": Method(
        lambda e, rank: references.with_chosen_rank(
            references.r2rils, e.train, e.validation, e.observed, range(1, rank + 1), **_LSQR
        ),
        told_rank=False,
        turn=1,
        scenes=SYNTHETIC,
    ),
    "layers, depth 3": Method(
        lambda e, rank: packages.layers(e.train, e.validation, 3, START, e.seed),
        told_rank=False,
        turn=2,
        package="torch",
        scenes=("exact", "noise"),
    ),
    # Exact agreement with the data is no answer to noise.
    "nuclear norm": Method(
        lambda e, rank: packages.nuclear_norm(e.observed),
        validates=False,
        told_rank=False,
        turn=2,
        package="cvxpy",
        scenes=("exact", "even"),
    ),
}


def missing() -> list[str]:
    """Methods whose packages are not installed."""
    return [name for name, method in METHODS.items() if method.package and find_spec(method.package) is None]
