"""Flows: their phase portrait in a plane of matrices, and the singular values along them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dlngeo import _check
from dlngeo.flows import FlowEnsemble
from dlngeo.plotting._parts import Plane, colors, label_curves, label_ends, level_curves, one_axes, window

__all__ = ["plot_flows", "plot_singular_values"]

_VALLEY, _SINGULAR, _PATH = "#D55E00", "0.45", "#0072B2"


def plot_flows(
    flows: Any,
    directions: Sequence[Any] = ((0, 0), (1, 1)),
    *,
    residual: Callable[[np.ndarray], Any] | None = None,
    origin: Any = None,
    limits: Sequence[float] | None = None,
    n_grid: int = 201,
    axes: Axes | None = None,
) -> Axes:
    r"""Draw flows of matrices from many starts in a plane ``X = O + a B + b C``.

    A circle is where each begins, a dot where it ends. Points off the plane are drawn at their projection on it; the
    valley of zero loss, the level sets of the loss ``½ Σ r(X)²`` in grey and the singular matrices are those of the
    plane. Where flows from the plane stay in it, as the diagonal matrices do if E′ is diagonal on them, it is the phase
    portrait: paths do not cross.

    Parameters
    ----------
    flows : FlowEnsemble, FlowResult or iterable of FlowResult
        What :func:`dlngeo.gradient_flow` or :func:`dlngeo.training_flow` return.
    directions : pair
        B and C, orthogonal to one another: each the place ``(i, j)`` of an entry, or a matrix, shape=[m, n].
    residual : callable, optional
        ``X → r(X)``, shape=[…, m, n] to [...] or [..., k]: what vanishes in the valley.
    origin : array, shape=[m, n], optional
        O, zero by default.
    limits : sequence of four floats, optional
        ``(left, right, low, high)``, by default what the flows need.
    n_grid : int
        Points of the grid in each direction, from which curves are found before they are made exact.
    axes : matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure, ``axes.figure``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If they are no flows, or of complex matrices, or the residual is no function.
    ValueError
        If there is no flow, they are not of matrices of one shape, that of the origin, the directions are no plane, the
        limits enclose nothing, or the residual is not a number or k of them for each matrix.

    See Also
    --------
    plot_singular_values : Their singular values over time.
    dlngeo.gradient_flow : Many flows by one call.

    Examples
    --------
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from dlngeo import DLNMetric, gradient_flow
    >>> space = GeneralLinear(2, equip=False)
    >>> _ = space.equip_with_metric(DLNMetric, depth=3)
    >>> starts = [np.diag([0.1, b]) for b in (0.05, 0.1, 0.2)]
    >>> flows = [gradient_flow(space, lambda x: np.eye(2) * (np.trace(x) - 1), start, 20.0) for start in starts]
    >>> axes = plot_flows(flows, residual=lambda x: np.trace(x, axis1=-2, axis2=-1) - 1)
    >>> sorted({line.get_label() for line in axes.lines} - {"flow"})
    ['singular', 'zero loss']
    """
    points = [_check.real(flow.points, "the points of a flow") for flow in _flows(flows)]
    if len({x.shape[1:] for x in points if x.ndim == 3}) != 1 or any(x.ndim != 3 for x in points):
        raise ValueError(
            "there are no flows of matrices of one shape to draw; give what gradient_flow or training_flow return."
        )
    plane = Plane(np.zeros(points[0].shape[1:]) if origin is None else origin, directions)
    if plane.origin.shape != points[0].shape[1:]:
        raise ValueError(f"the origin has shape {plane.origin.shape}, but the matrices {points[0].shape[1:]}.")
    if not (residual is None or callable(residual)):
        raise TypeError(f"residual must be a function of matrices, got {type(residual).__name__}.")
    paths = [plane.coordinates(x) for x in points]
    if limits is None:
        low, high = np.min([p.min(axis=0) for p in paths], axis=0), np.max([p.max(axis=0) for p in paths], axis=0)
        margin = 0.08 * np.max(high - low) or 1.0
        limits = np.stack([low - margin, high + margin], axis=1).ravel().tolist()
    axes, limits, n_grid = one_axes(axes), window(limits), _check.integer(n_grid, "n_grid", 2)
    axes.set(xlim=limits[:2], ylim=limits[2:], xlabel=plane.names[0], ylabel=plane.names[1], aspect="equal")
    singular = plane.singular(limits, n_grid)
    for curve in singular:
        axes.plot(*curve.T, color=_SINGULAR, linestyle=(0, (5, 3)), linewidth=1.2, label="singular", zorder=1)
    label_curves(axes, "singular" if len(plane.origin) > 2 else "rank one", singular, _SINGULAR, 0.12)
    if residual is not None:
        _draw_valley(axes, plane, residual, limits, n_grid)
    for path in paths:
        axes.plot(*path.T, color=_PATH, linewidth=1.1, label="flow", zorder=2)
        axes.plot(*path[0], "o", color=_PATH, markerfacecolor="white", markersize=3.5, label="flow", zorder=3)
        axes.plot(*path[-1], "o", color=_PATH, markersize=3.5, label="flow", zorder=4)
    return axes


def _flows(flows: Any) -> list[Any]:
    if isinstance(flows, FlowEnsemble):
        return [flows[i] for i in range(len(flows))]
    found = [flows] if hasattr(flows, "points") else list(flows) if isinstance(flows, Iterable) else [flows]
    if not all(hasattr(flow, "points") for flow in found):
        raise TypeError(f"flows must be what gradient_flow or training_flow return, or many, got {flows!r}.")
    return found


def _draw_valley(axes: Axes, plane: Plane, residual: Any, limits: Sequence[float], n_grid: int) -> None:
    def values(coordinates: np.ndarray) -> np.ndarray:
        found = np.asarray(residual(plane.matrices(coordinates)), dtype=float)
        grid = coordinates.shape[:-1]
        if found.shape[: len(grid)] != grid or found.ndim > len(grid) + 1:
            raise ValueError(f"the residual has shape {found.shape} at {grid} matrices; give one number each, or k.")
        return found.reshape(*grid, -1)

    def component(k: int, coordinates: np.ndarray) -> np.ndarray:
        return np.asarray(values(coordinates)[..., k])

    a, b, _ = plane.grid(limits, n_grid)
    found = values(np.stack(np.meshgrid(a, b), axis=-1))
    loss = np.sum(found**2, axis=-1) / 2
    top = loss.max()
    if top > 0:
        axes.contour(a, b, loss, top * np.linspace(0.02, 0.9, 7) ** 2, colors="0.85", linewidths=0.7, zorder=0)
    valley: list[np.ndarray] = []
    for k in range(found.shape[-1]):
        for curve in level_curves(a, b, found[..., k], partial(component, k)):
            others = np.sqrt(np.sum(values(curve) ** 2, axis=-1))
            kept = np.where(others[:, None] < 1e-6 * np.sqrt(2 * top), curve, np.nan)
            if np.isfinite(kept).any():
                axes.plot(*kept.T, color=_VALLEY, linewidth=2.0, label="zero loss", zorder=1.5)
                valley.append(kept)
        if valley:  # where another component vanishes too, it is the same valley
            break
    label_curves(axes, "zero loss", valley, _VALLEY, 0.1)


def plot_singular_values(flow: Any, *, targets: Any = None, log: bool = False, axes: Axes | None = None) -> Axes:
    r"""Draw the singular values along a flow, a training or a run of an optimiser, one curve for each.

    Each curve is labelled at its right end, ``σ_1`` the largest.

    Parameters
    ----------
    flow : FlowResult, Descent, Solution or mapping
        What :func:`dlngeo.gradient_flow`, :func:`dlngeo.training_flow`, :func:`dlngeo.gradient_descent` or
        :func:`dlngeo.problems.solve` return, or the ``"history"`` of a row of ``dlngeo compare``. Where it has singular
        values these are drawn, which of factored flows are relatively exact, else those of its points.
    targets : array, shape=[k], optional
        Singular values to mark by horizontal lines, such as those of the matrix that is learnt.
    log : bool
        Whether the singular values are drawn in their logarithm; those that are zero are left out.
    axes : matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure, ``axes.figure``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If it is none of these.

    See Also
    --------
    plot_flows : Their paths in a plane.

    Examples
    --------
    >>> from dlngeo import balanced_weights, training_flow
    >>> weights = balanced_weights(0.01 * np.eye(2), 3, rng=0)
    >>> flow = training_flow(weights, lambda x: x - np.diag([2.0, 1.0]), 100.0)
    >>> axes = plot_singular_values(flow, targets=[2, 1])
    >>> [round(float(line.get_ydata()[-1]), 6) for line in axes.lines[-2:]]
    [2.0, 1.0]
    """
    t, values, label = _spectra(flow)
    axes, shades = one_axes(axes), colors(values.shape[1])
    for target in () if targets is None else _check.real(targets, "targets").ravel():
        axes.axhline(target, color="0.8", linewidth=0.9, zorder=0)
    names = [rf"$\sigma_{{{k + 1}}}$" for k in range(values.shape[1])]
    for column, name, color in zip(values.T, names, shades, strict=True):
        axes.plot(t, np.ma.masked_equal(column, 0) if log else column, color=color, linewidth=1.6, label=name)
    axes.set(xlim=(t[0], t[-1]), xlabel=label, ylabel=r"singular values $\sigma_k$")
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    shown = [k for k in range(len(names)) if values[-1, k] > 0 or not log]
    label_ends(axes, [names[k] for k in shown], [(t[-1], values[-1, k]) for k in shown], [shades[k] for k in shown])
    return axes


def _spectra(flow: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Return times, singular values, shape=[k, r], and what the times are."""
    history = getattr(flow, "history", None)
    if history is not None:
        rows = [record for record in history if record.singular_values is not None]
        flow = {"iteration": [r.iteration for r in rows], "singular_values": [r.singular_values for r in rows]}
    kind = Mapping if isinstance(flow, Mapping) else type(flow)
    read: Callable[[str], Any] = flow.get if kind is Mapping else lambda name: getattr(flow, name, None)
    for name, label in (("t", "time"), ("steps", "steps"), ("iteration", "iterations")):
        if read(name) is not None:
            t = _check.real(read(name), label)
            values, points = read("singular_values"), read("points")
            if values is None and points is not None:
                values = np.linalg.svd(_check.numbers(points, "the points", "complex"), compute_uv=False)
            values = np.empty(0) if values is None else _check.real(values, "singular values")
            if values.ndim == 2 and len(values) == len(t) > 0:
                return t, values, label
    raise TypeError(
        f"{type(flow).__name__} has no times or iterations with singular values or points along them; give a flow, a "
        "training, a solution or a history."
    )
