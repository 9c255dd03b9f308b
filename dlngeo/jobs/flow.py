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
# Where no time is given, flows go on from the first of these, ten times as long at a time, to the last: by steps that
# grow with the time, or by explicit ones, of which the state is too large for others.
_FIRST, _LAST, _LAST_EXPLICIT = 500.0, 1e12, 5e3
_SMALL = 400  # numbers in a state, up to which an automatic method may take BDF


@dataclass(frozen=True)
class Settings:
    """What to integrate, and how: the options of ``dlngeo flow``, which its help explains, each checked."""

    depths: tuple[float, ...] = (1, 2, 3, 8, math.inf)
    by: str = "metric"
    rank: int | None = None
    observed: float = 1.0
    start: float = 1e-2
    imbalance: float = 0.0
    time: float | None = None
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
            if value is not None and not low < value < high:
                raise ValueError(f"the {words} must be positive, and between {low:g} and {high:g}, got {value:g}.")
        first = self.time or _FIRST
        if self.by == "descent" and first / self.step_size > MAX_STEPS:
            raise ValueError(
                f"time {first:g} takes {first / self.step_size:.3g} steps of {self.step_size:g}, above "
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
    first, last = settings.time or _FIRST, settings.time or _LAST
    times = np.concatenate(([0.0], np.geomspace(first * 1e-4, first, _OUTPUTS)))
    found: Any
    precisely: dict[str, Any] = {"cost": problem.cost, "rtol": 1e-9, "atol": 1e-11, "dense_output": False}

    def done(t: float) -> None:
        tick(name, t / last if settings.time else max(0.0, 1 + math.log10(max(t, 1e-99) / last) / 16))

    if settings.by == "metric":
        m, n = start.shape
        space = FixedRankMatrices(m, n, rank, equip=False).equip_with_metric(DLNMetric, depth=depth, normalized=True)
        if rank * (m + n + 1) > _SMALL:  # the tolerance left open, it may go on by exponential steps
            precisely["rtol"] = None
        found = gradient_flow(
            space, problem.euclidean_gradient, frames if depth >= 2 else start, times, progress=done, **precisely
        )
        clock = 1.0
    else:
        weights = _unbalanced(balanced_weights(start, int(depth), rank), settings.imbalance, rng)
        clock = speed
        if settings.by == "layers":
            if sum(w.size for w in weights) > _SMALL:
                last = min(last, settings.time or _LAST_EXPLICIT)
            found = training_flow(
                weights,
                problem.euclidean_gradient,
                times / speed,
                progress=lambda t: done(t * speed),
                **precisely,
            )
        else:
            last, n_steps = first, max(1, round(first / settings.step_size))
            evaluated = 0

            def gradient(x: np.ndarray) -> np.ndarray:
                nonlocal evaluated
                evaluated += 1
                if evaluated % 100 == 0:
                    tick(name, min(1.0, evaluated / n_steps))
                return problem.euclidean_gradient(x)

            step, every = settings.step_size / speed, max(1, n_steps // 2000)
            found = gradient_descent(weights, gradient, step, n_steps, cost=problem.cost, every=every)
            clock = settings.step_size
    parts, limits = [found], [_limit(problem, found.points[-1], depth, rank)]
    while parts[-1].status == "complete" and first < last and not _at_rest(limits):
        parts.append(parts[-1].resume(np.geomspace(first, min(10 * first, last), _OUTPUTS // 4 + 1)[1:] / clock))
        limits.append(_limit(problem, parts[-1].points[-1], depth, rank))
        first *= 10
    found, limit = parts[-1], limits[-1]
    points = _joined([part.points for part in parts])
    gaps = None
    if settings.by == "metric":
        singular = _joined([part.singular_values for part in parts])
    else:
        singular = np.linalg.svd(points, compute_uv=False)[:, :rank]
        if depth > 1:
            layers = _joined([list(part.weights) for part in parts])
            gaps = [max(float(np.linalg.norm(g)) for g in imbalance(w)) for w in layers]
    counts = [part.steps if settings.by == "descent" else part.t for part in parts]
    return {
        "name": name,
        "depth": json_depth(depth),
        "status": str(found.status),
        "message": getattr(found, "message", ""),
        "t": (_joined(counts) * clock).tolist(),
        "losses": _joined([part.losses for part in parts]).tolist(),
        "singular_values": singular.tolist(),
        "imbalance": gaps,
        "relative_error": float(np.linalg.norm(points[-1] - target) / (np.linalg.norm(target) or 1.0)),
        "limit": limit,
        "seconds": time.perf_counter() - began,
    }


def _joined(parts: list[Any]) -> Any:
    """Join what was measured on the parts of a path, each of which begins where the one before ends."""
    if isinstance(parts[0], list):
        return [*parts[0], *(x for part in parts[1:] for x in part[1:])]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def _limit(problem: MatrixCompletion, x: np.ndarray, depth: float, rank: int) -> dict[str, Any] | None:
    """Say what a flow has come to, as JSON holds it; None at the zero matrix, which has no frame."""
    if not np.any(x):
        return None
    hessian = rank * (sum(x.shape) - rank) <= _MAX_TANGENT
    at = classify_limit(problem, x, depth, rank, hessian=hessian)
    return {"kind": str(at.kind), "rank": at.rank, "least_eigenvalue": at.least_eigenvalue}


def _at_rest(limits: list[dict[str, Any] | None]) -> bool:
    """Whether a flow need go no further: a saddle must have held it for nine tenths of the time."""
    found = [limit and (limit["kind"], limit["rank"]) for limit in limits[-2:]]
    kind = found[-1] and found[-1][0]
    return kind in ("minimiser", "critical") or (kind == "saddle" and found[-1] in found[:-1])


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
