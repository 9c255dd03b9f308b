"""Geodesics of several metrics between two matrices, in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.axes import Axes

from dlngeo import _check
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric
from dlngeo.kernels import Kernel, of_depth
from dlngeo.plotting._parts import colors, label_curves, one_axes

__all__ = ["plot_geodesics"]

_QUANTITIES: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "singular values": (lambda x: np.linalg.svd(x, compute_uv=False), r"singular values $\sigma_k$"),
    "determinant": (np.linalg.det, "determinant"),
}
_ELLIPSES = 9
_DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)), (0, (6, 1, 1, 1, 1, 1))]


def plot_geodesics(
    x: Any,
    y: Any,
    metrics: Mapping[str, Any] | Iterable[Any] = (1, 2, 3, 8, math.inf),
    *,
    show: str | Callable[[np.ndarray], Any] = "singular values",
    rank: int | None = None,
    n_points: int = 61,
    axes: Axes | None = None,
) -> Axes:
    """Draw what happens along the geodesics of several metrics from one matrix to another.

    The names stand on the curves, which have the same ends.

    Parameters
    ----------
    x, y : array, shape=[m, n]
        Where they begin, at t = 0, and end, at t = 1.
    metrics : mapping or iterable
        Metrics, by name or not. Each is a depth, of which ``inf`` is one, a :class:`~dlngeo.Kernel`, or has a method
        ``geodesic(initial_point, end_point=…)`` that returns a function of times, as the metrics of geomstats.
    show : "singular values", "determinant", "ellipses" or callable
        What to draw over t. Ellipses are the images of the unit circle under 2×2 matrices, with the image of one of
        its radii, a row for each metric. A callable takes matrices, shape=[k, m, n], to numbers, shape=[k] or [k, c].
    rank : int, optional
        Rank of the matrices, if it is less than full.
    n_points : int
        Number of points along each curve.
    axes : matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure, ``axes.figure``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If a metric is none of these.
    ValueError
        If the matrices have different shapes, there is no metric or two of one name, or what is shown is not known or
        not of their shape.
    GeodesicError
        If a metric has no geodesic between them, as those of depth above 1 between determinants of opposite sign.

    See Also
    --------
    dlngeo.geomstats.SpectralMetric : The metric of a kernel, with lengths and distances.

    Examples
    --------
    >>> axes = plot_geodesics(np.diag([2.0, 0.1]), np.array([[0.5, -1.0], [0.8, 0.6]]), [1, 3, np.inf])
    >>> [line.get_label() for line in axes.lines[::2]]  # a line for each singular value
    ['depth 1', 'depth 3', 'depth ∞']
    """
    x, y = (_check.real(z, "a matrix").astype(float) for z in (x, y))
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"two matrices of one shape are expected, got shapes {x.shape} and {y.shape}.")
    if show == "ellipses" and x.shape != (2, 2):
        raise ValueError(f"ellipses are images of the unit circle under 2×2 matrices, got {x.shape[0]}×{x.shape[1]}.")
    if not callable(show) and show not in (*_QUANTITIES, "ellipses"):
        raise ValueError(f"show must be one of {[*_QUANTITIES, 'ellipses']} or a function of matrices, got {show!r}.")
    named = _named(metrics)
    axes, shades = one_axes(axes), colors(len(named))
    t = np.linspace(0.0, 1.0, _ELLIPSES if show == "ellipses" else _check.integer(n_points, "n_points", 2))
    paths = [np.asarray(_metric(m, x, rank).geodesic(x, end_point=y)(t), dtype=float) for m in named.values()]
    if show == "ellipses":
        _draw_ellipses(axes, t, paths, list(named), shades)
    else:
        _draw_curves(axes, t, paths, list(named), shades, show)
    axes.set_xlabel("t")
    return axes


def _named(metrics: Any) -> dict[str, Any]:
    if isinstance(metrics, Mapping):
        named = dict(metrics)
    else:
        if isinstance(metrics, str) or not isinstance(metrics, Iterable):
            raise TypeError(f"metrics must be a mapping or a list of depths, kernels or metrics, got {metrics!r}.")
        many = list(metrics)
        named = {_name(metric): metric for metric in many}
        if len(named) < len(many):
            raise ValueError(f"of the metrics {many} some have one name; give a mapping of names to metrics.")
    if not named:
        raise ValueError("there is no metric to draw; give depths, kernels or metrics of geomstats.")
    return named


def _name(metric: Any) -> str:
    if isinstance(metric, Kernel):
        return type(metric).__name__
    if hasattr(metric, "geodesic"):
        return type(metric).__name__.removeprefix("SPD").removesuffix("Metric")
    depth = _check.depth(metric, allow_infinite=True)
    return "depth ∞" if depth == math.inf else f"depth {depth:g}"


def _metric(metric: Any, x: np.ndarray, rank: int | None) -> Any:
    if hasattr(metric, "geodesic"):
        return metric
    kernel = metric if isinstance(metric, Kernel) else of_depth(metric)
    m, n = x.shape
    if m == n and rank in (None, n):
        return SpectralMetric(GeneralLinear(n, equip=False), kernel)
    return SpectralMetric(FixedRankMatrices(m, n, min(m, n) if rank is None else rank, equip=False), kernel)


def _draw_curves(axes: Axes, t: np.ndarray, paths: Any, names: list[str], shades: list[Any], show: Any) -> None:
    function, label = (show, "") if callable(show) else _QUANTITIES[show]
    curves = []
    for path in paths:
        values = np.asarray(function(path), dtype=float)
        if values.shape[:1] != t.shape or values.ndim > 2:
            raise ValueError(f"what is shown has shape {values.shape} at {len(t)} matrices; give numbers for each.")
        curves.append(values.reshape(len(t), -1))
    for k, (columns, name, color) in enumerate(zip(curves, names, shades, strict=True)):
        for column in columns.T:
            axes.plot(t, column, color=color, linestyle=_DASHES[k % len(_DASHES)], linewidth=1.6, label=name)
    axes.set(xlim=(0, 1), ylabel=label)
    # The names stand on the curves that part most, one after another, for the ends of all are the same.
    most = int(np.argmax(np.ptp(curves, axis=0).max(axis=0)))
    for columns, name, color, place in zip(curves, names, shades, np.linspace(0.3, 0.75, len(names)), strict=True):
        label_curves(axes, name, [np.column_stack([t, columns[:, most]])], color, place)


def _draw_ellipses(axes: Axes, t: np.ndarray, paths: Any, names: list[str], shades: list[Any]) -> None:
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    size = 0.45 / max(float(np.linalg.norm(path, 2, axis=(1, 2)).max()) for path in paths)
    for row, (path, color) in enumerate(zip(paths, shades, strict=True)):
        for k, matrix in enumerate(path):
            image = size * matrix @ circle
            axes.plot(k + image[0], image[1] - row, color=color, linewidth=1.2, label=names[row])
            axes.plot([k, k + image[0, 0]], [-row, image[1, 0] - row], color=color, linewidth=0.8)
    axes.set_aspect("equal")
    axes.set(xlim=(-0.6, len(t) - 0.4), ylim=(-len(names) + 0.4, 0.6))
    axes.set_yticks(-np.arange(len(names)), names)
    for text, color in zip(axes.get_yticklabels(), shades, strict=True):
        text.set_color(color)
    axes.set_xticks([0, (len(t) - 1) / 2, len(t) - 1], ["0", "0.5", "1"])
