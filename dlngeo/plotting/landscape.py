"""Entropy and free energy over the completions of a 2×2 matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

from dlngeo import _check
from dlngeo.kernels import Kernel
from dlngeo.plotting._parts import Plane, label_curves, window
from dlngeo.thermodynamics.free_energy import entropy

__all__ = ["plot_landscape"]

_RING = 1e-3  # of the diagonal of the picture: F is higher on a circle of this radius around a minimum


def plot_landscape(
    matrix: Any,
    depth: float | Kernel,
    beta: float,
    *,
    cost: Callable[[np.ndarray], Any] | None = None,
    limits: Sequence[float] = (-3.0, 3.0, -3.0, 3.0),
    n_grid: int = 161,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    r"""Draw the entropy S and the free energy ``F_β = E − S/β`` over the two free entries of a 2×2 matrix.

    On the left S, on the right F_β, with its strict minima marked and the matrices of rank one dashed. Without a cost E
    is zero, as a loss is on all completions, and F_β has no minimum at depths above 1; weight decay
    ``(μ/2) Σ_p ‖W_p‖²``, whose least value over X is ``(μN/2) Σ_k σ_k^{2/N}`` [1]_, is a cost that gives it some. Where
    a singular value σ vanishes, S has terms of order ``σ^{2/N}``, as this cost has: F_β has an edge there, and the
    stronger one says whether minima are kept off rank one or are there.

    Parameters
    ----------
    matrix : array, shape=[2, 2]
        The matrix, with NaN in the two entries that are free.
    depth : float or Kernel
        Depth N of S, at least 1, or ``inf``; or a kernel.
    beta : float
        Inverse temperature β, positive.
    cost : callable, optional
        ``X → E(X)``, shape=[..., 2, 2] to [...].
    limits : sequence of four floats
        ``(left, right, low, high)`` of the two entries, counted row by row.
    n_grid : int
        Points of the grid in each direction.
    axes : pair of matplotlib.axes.Axes, optional
        Axes to draw into; by default those of a new figure, ``axes[0].figure``.

    Returns
    -------
    array of matplotlib.axes.Axes, shape=[2]

    Raises
    ------
    TypeError
        If something is no number, no function or no axes.
    ValueError
        If the matrix is not 2×2 with two entries NaN and two finite, the cost is not one number for each matrix, or the
        limits enclose nothing.

    See Also
    --------
    dlngeo.free_energy : What is drawn.
    dlngeo.thermodynamics.equilibria.minimisers : Minimisers of energies of the singular values.

    References
    ----------
    .. [1] K. Lindsey, G. Menon, "Regularization implies balancedness in the deep linear network", arXiv:2511.01137.

    Examples
    --------
    >>> def decay(x):  # of three layers
    ...     return 1.5 * (np.linalg.svd(x, compute_uv=False) ** (2 / 3)).sum(axis=-1)
    >>> left, right = plot_landscape([[1, np.nan], [np.nan, 1]], 3, beta=8, cost=decay)
    >>> minima = [line.get_xydata()[0] for line in right.lines if line.get_label() == "minimum"]
    >>> np.round([1 - a * b for a, b in minima], 6) + 0.0  # the determinants
    array([0., 0.])
    """
    x = _check.real(matrix, "the matrix").astype(float)
    free = [(int(i), int(j)) for i, j in np.argwhere(np.isnan(x))] if x.shape == (2, 2) else []
    if len(free) != 2 or np.isinf(x).any():
        raise ValueError(f"a finite 2×2 matrix with NaN in two entries is expected, got {x.tolist()}.")
    # From zero on, the coordinates of the plane are the free entries.
    plane, beta = Plane(np.where(np.isnan(x), 0.0, x), free), _check.positive(beta, "beta")
    limits, n_grid = window(limits), _check.integer(n_grid, "n_grid", 2)
    if not (cost is None or callable(cost)):
        raise TypeError(f"cost must be a function of matrices, got {type(cost).__name__}.")
    chosen = {"kernel": depth} if isinstance(depth, Kernel) else {"depth": depth}

    def energy(points: np.ndarray) -> np.ndarray:
        matrices = plane.matrices(points)
        value = np.zeros(points.shape[:-1]) if cost is None else np.asarray(cost(matrices), dtype=float)
        if value.shape != points.shape[:-1]:
            raise ValueError(f"cost has shape {value.shape} at matrices of shape {matrices.shape}; give one for each.")
        return np.asarray(value - entropy(matrices, **chosen) / beta)

    a, b, matrices = plane.grid(limits, n_grid)
    points = np.stack(np.meshgrid(a, b), axis=-1)
    singular = plane.singular(limits, n_grid)
    pair = Figure(figsize=(8.5, 4), layout="constrained").subplots(1, 2) if axes is None else np.asarray(axes)
    if pair.shape != (2,) or not all(isinstance(each, Axes) for each in pair):
        raise TypeError("axes must be a pair of matplotlib Axes, for S and for F.")
    values = np.asarray(entropy(matrices, **chosen)), energy(points)
    titles = "entropy $S$", rf"free energy $F_\beta$, $\beta = {beta:g}$"
    for each, value, title in zip(pair, values, titles, strict=True):
        shown = np.where(np.isfinite(value), value, np.nan)
        low, high = np.nanquantile(shown, (0.002, 0.99))
        levels = np.linspace(low, high if high > low else low + 1, 15)
        each.contourf(a, b, shown, levels=levels, cmap="cividis", extend="both")
        lines = each.contour(a, b, shown, levels=levels[::2], colors="white", linewidths=0.5)
        each.clabel(lines, fontsize=6, fmt="%.2g")
        for curve in singular:
            each.plot(*curve.T, color="black", linestyle=(0, (5, 3)), linewidth=1.1, label="rank one")
        label_curves(each, "rank one", singular, "black", 0.12)
        each.set(xlim=limits[:2], ylim=limits[2:], xlabel=plane.names[0], ylabel=plane.names[1], aspect="equal")
        each.set_title(title, fontsize=10)
    for point in _minima(energy, plane, points, values[1], singular):
        pair[1].plot(*point, "*", color="#D55E00", markeredgecolor="white", markersize=11, label="minimum")
    return pair


def _minima(energy: Any, plane: Plane, points: np.ndarray, values: np.ndarray, singular: list[np.ndarray]) -> list[Any]:
    """Strict local minima inside the grid: on the curves of rank one, where F may have an edge, and off them."""
    width = float(np.linalg.norm(points[-1, -1] - points[0, 0]))
    candidates = [p for curve in singular for p in _along(energy, plane, curve, width)]
    around = [np.roll(values, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    least = np.all([values < other for other in around], axis=0)
    least[[0, -1]], least[:, [0, -1]] = False, False
    ends = _descend(energy, points[least], points[1, 1] - points[0, 0])
    # Along an edge patterns may come to rest anywhere.
    candidates += list(ends[np.linalg.svd(plane.matrices(ends), compute_uv=False)[:, -1] > _RING * width])
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    ring = _RING * width * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    rise = 1e-9 * np.ptp(values[np.isfinite(values)])
    found: list[np.ndarray] = []
    for p in candidates:
        inside = np.all((points[0, 0] < p) & (p < points[-1, -1]))
        new = all(np.linalg.norm(p - q) > _RING * width for q in found)
        if inside and new and np.min(energy(p + ring)) > energy(p) + rise:
            found.append(p)
    return found


def _descend(energy: Any, points: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Move points to minima by patterns of nine points, which are halved where the middle one is the least."""
    pattern = np.stack(np.meshgrid(*2 * [(0, -1, 1)], indexing="ij"), axis=-1).reshape(9, 2)
    steps = np.tile(step, (len(points), 1))
    for _ in range(100 if len(points) else 0):
        around = points[:, None] + steps[:, None] * pattern
        best = np.argmin(energy(around), axis=1)
        points = around[np.arange(len(points)), best]
        steps = np.where(best[:, None] == 0, steps / 2, steps)
    return points


def _along(energy: Any, plane: Plane, curve: np.ndarray, width: float) -> list[np.ndarray]:
    """Minima along a curve of rank one."""

    def at(place: float) -> np.ndarray:
        k = min(int(place), len(curve) - 2)
        return plane.to_singular(curve[k] + (place - k) * (curve[k + 1] - curve[k]), width)

    found, values = [], energy(curve)
    for k in np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] < values[2:])) + 1:
        place = minimize_scalar(lambda p: float(energy(at(p))), bounds=(k - 1, k + 1), options={"xatol": 1e-10}).x
        found.append(at(place))
    return found
