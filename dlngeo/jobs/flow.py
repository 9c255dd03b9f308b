"""The job of ``dlngeo flow``: training of one matrix at several depths, as one JSON-able result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text
from threadpoolctl import threadpool_limits

from dlngeo import _check
from dlngeo._linalg import haar
from dlngeo.flows.gradient import gradient_flow
from dlngeo.flows.limits import classify_limit
from dlngeo.flows.training import gradient_descent, training_flow
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.jobs.output import Figures, depth_name, json_depth
from dlngeo.plotting import flow_figure as figure
from dlngeo.problems import MatrixCompletion
from dlngeo.weights.network import balanced_weights, imbalance

__all__ = ["SCHEMA", "Settings", "figure", "random_target", "run", "table"]

SCHEMA = 1
MAX_SIDE, MAX_LAYERS, MAX_STEPS = 300, 1000, 10**8
_OUTPUTS = 200
_MAX_TANGENT = 150  # the Hessian at the limit is computed up to this dimension


@dataclass(frozen=True)
class Settings:
    """What to integrate, and how: the options of ``dlngeo flow``, which its help explains, each checked."""

    depths: tuple[float, ...] = (1, 2, 3, 8, math.inf)
    by: str = "metric"
    rank: int | None = None
    observed: float = 1.0
    start: float = 1e-2
    imbalance: float = 0.0
    time: float = 500.0
    step_size: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for depth in self.depths:
            _check.depth(depth, allow_infinite=True)
        if self.by not in ("metric", "layers", "descent"):
            raise ValueError(f"--by must be metric, layers or descent, got {self.by!r}.")
        if self.by != "metric" and not all(float(depth).is_integer() for depth in self.depths):
            raise ValueError(f"layers come in whole numbers; {self.by} cannot take the depths {self.depths}.")
        if self.by != "metric" and max(self.depths, default=1) > MAX_LAYERS:
            raise ValueError(f"at most {MAX_LAYERS} layers are trained, got depth {max(self.depths):g}; lower it.")
        if self.by == "metric" and self.imbalance:
            raise ValueError("the metric is that of balanced layers; an imbalance needs --by layers or --by descent.")
        if not 0 < self.observed <= 1:
            raise ValueError(f"the observed fraction must lie in (0, 1], got {self.observed:g}.")
        for name, low, high in (("start", 1e-100, 1e100), ("time", 0.0, math.inf), ("step_size", 0.0, math.inf)):
            value, words = getattr(self, name), name.replace("_", " ")
            if not low < value < high:
                raise ValueError(f"the {words} must be positive, and between {low:g} and {high:g}, got {value:g}.")
        if self.by == "descent" and self.time / self.step_size > MAX_STEPS:
            raise ValueError(
                f"time {self.time:g} takes {self.time / self.step_size:.3g} steps of {self.step_size:g}, above "
                f"{MAX_STEPS:g}; lower the time, or take longer steps."
            )
        if not 0 <= self.imbalance <= 1:
            raise ValueError(f"the imbalance must lie in [0, 1], got {self.imbalance:g}.")
        if self.rank is not None:
            _check.positive_integer(self.rank, "rank")
        _check.integer(self.seed, "seed", 0)


def random_target(size: int, rank: int, seed: int) -> np.ndarray:
    """Random square matrix with the singular values ``1, (r − 1)/r, …, 1/r``."""
    if _check.positive_integer(size, "size") > MAX_SIDE:
        raise ValueError(f"the size must be at most {MAX_SIDE}, got {size}.")
    rank = _check.rank(rank, size, size)
    rng = np.random.default_rng(seed)
    u, v = haar(rng, (size, rank)), haar(rng, (size, rank))
    return (u * (np.arange(rank, 0, -1) / rank)) @ v.T


def run(
    target: np.ndarray,
    name: str,
    settings: Settings | None = None,
    *,
    tick: Callable[[str, float], None] = lambda name, part: None,
) -> dict[str, Any]:
    """Train at each depth from the same start; ``tick(name, part of the time done)`` is called as it goes on.

    Returns ``schema, status, data, settings, notes, rows`` as JSON can hold them. After Ctrl-C, ``status`` is
    ``"interrupted"`` and the rows hold what was done. A ValueError tells that the target is not a finite matrix of a
    moderate size, or the rank exceeds its shape.
    """
    settings = settings or Settings()
    target = np.asarray(target, dtype=float)
    if target.ndim != 2 or max(target.shape) > MAX_SIDE:
        raise ValueError(f"the target has shape {target.shape}; matrices of up to {MAX_SIDE} rows or columns fit.")
    _check.finite(np, target, "the target")
    m, n = target.shape
    rank = _check.rank(settings.rank or min(m, n), m, n)
    rng = np.random.default_rng([settings.seed, 1])
    seen = rng.random(target.shape) < settings.observed
    if not seen.any():
        raise ValueError("no entry is observed; raise the observed fraction.")
    problem = MatrixCompletion.from_matrix(target, seen)
    frames = haar(rng, (m, rank)), np.full(rank, settings.start), haar(rng, (n, rank)).T
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "complete",
        "data": {
            "name": name,
            "shape": [m, n],
            "n_observed": len(problem),
            "singular_values": np.linalg.svd(target, compute_uv=False).tolist(),
        },
        "settings": {**asdict(settings), "rank": rank, "depths": [json_depth(d) for d in settings.depths]},
        "notes": [],
        "rows": [],
    }
    try:
        for depth in settings.depths:
            if math.isinf(depth) and not m == n == rank:
                result["notes"].append("Depth ∞ was skipped: it exists on square matrices of full rank only.")
                continue
            with threadpool_limits(1, user_api="blas"):
                row = _row(problem, target, frames, depth, settings, tick, np.random.default_rng([settings.seed, 2]))
            result["rows"].append(row)
            if row["status"] == "interrupted":
                result["status"] = "interrupted"
                break
    except KeyboardInterrupt:
        result["status"] = "interrupted"
    return result


def _row(
    problem: MatrixCompletion,
    target: np.ndarray,
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
    depth: float,
    settings: Settings,
    tick: Callable[[str, float], None],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Train at one depth."""
    u, s, vt = frames
    name, rank = depth_name(depth), s.size
    start = (u * s) @ vt
    began = time.perf_counter()
    # The normalised time τ = N t; outputs are equally spaced in log τ, since small starts take long to leave.
    speed = 1.0 if math.isinf(depth) else depth
    times = np.concatenate(([0.0], np.geomspace(settings.time * 1e-4, settings.time, _OUTPUTS)))
    found: Any
    gaps = None
    precisely: dict[str, Any] = {"cost": problem.cost, "rtol": 1e-9, "atol": 1e-11, "dense_output": False}
    if settings.by == "metric":
        m, n = start.shape
        space = FixedRankMatrices(m, n, rank, equip=False).equip_with_metric(DLNMetric, depth=depth, normalized=True)
        precisely["progress"] = lambda t: tick(name, t / settings.time)
        found = gradient_flow(space, problem.euclidean_gradient, frames if depth >= 2 else start, times, **precisely)
        clock, singular = found.t, found.singular_values
    else:
        weights = _unbalanced(balanced_weights(start, int(depth), rank), settings.imbalance, rng)
        if settings.by == "layers":
            precisely["progress"] = lambda t: tick(name, t * speed / settings.time)
            found = training_flow(weights, problem.euclidean_gradient, times / speed, **precisely)
            clock = found.t * speed
        else:
            n_steps = max(1, round(settings.time / settings.step_size))
            done = 0

            def gradient(x: np.ndarray) -> np.ndarray:
                nonlocal done
                done += 1
                if done % 100 == 0:
                    tick(name, min(1.0, done / n_steps))
                return problem.euclidean_gradient(x)

            step, every = settings.step_size / speed, max(1, n_steps // 2000)
            found = gradient_descent(weights, gradient, step, n_steps, cost=problem.cost, every=every)
            clock = found.steps * settings.step_size
        singular = np.linalg.svd(found.points, compute_uv=False)[:, :rank]
        if depth > 1:
            gaps = [max(float(np.linalg.norm(g)) for g in imbalance(w)) for w in found.weights]
    limit = None
    if rank * (sum(start.shape) - rank) <= _MAX_TANGENT and np.any(found.points[-1]):
        at = classify_limit(problem, found.points[-1], depth, rank)
        limit = {"kind": str(at.kind), "rank": at.rank, "least_eigenvalue": at.least_eigenvalue}
    return {
        "name": name,
        "depth": json_depth(depth),
        "status": str(found.status),
        "message": getattr(found, "message", ""),
        "t": clock.tolist(),
        "losses": found.losses.tolist(),
        "singular_values": singular.tolist(),
        "imbalance": gaps,
        "relative_error": float(np.linalg.norm(found.points[-1] - target) / (np.linalg.norm(target) or 1.0)),
        "limit": limit,
        "seconds": time.perf_counter() - began,
    }


def _unbalanced(weights: list[np.ndarray], size: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Put factors ``e^S`` and ``e^{−S}``, S random and symmetric of this norm, between neighbouring layers."""
    for p in range(len(weights) - 1):
        a = rng.standard_normal((weights[p].shape[0],) * 2)
        values, vectors = np.linalg.eigh(a + a.T)
        values *= size / np.abs(values).max()
        weights[p] = (vectors * np.exp(values)) @ vectors.T @ weights[p]
        weights[p + 1] = weights[p + 1] @ (vectors * np.exp(-values)) @ vectors.T
    return weights


def table(result: dict[str, Any]) -> Group:
    """Make the table of a result, with its notes."""
    data = result["data"]
    headings = "", "loss at\nthe end", "relative\nerror", "limit", "rank", "imbalance", "seconds"
    rows = []
    for row in result["rows"]:
        limit = row["limit"] or {"kind": "", "rank": ""}
        gap = "" if row["imbalance"] is None else f"{row['imbalance'][-1]:.2g}"
        cells = [f"{row['losses'][-1]:.3g}", f"{row['relative_error']:.3g}", limit["kind"], str(limit["rank"]), gap]
        rows.append([row["name"], *cells, f"{row['seconds']:.1f}"])
    m, n = data["shape"]
    return Group(
        Text(f"{data['name']}: {m}×{n}, {data['n_observed']} of {m * n} entries in the cost"),
        Figures(headings, rows),
        *map(Text, result["notes"]),
        *(
            Text(f"{row['name']} ended: {row['status']}. {row['message']}")
            for row in result["rows"]
            if row["status"] != "complete" or "rose" in row["message"]
        ),
    )
