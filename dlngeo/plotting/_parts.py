"""What the artists share: axes to draw into, colours, labels beside curves, and planes of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import matplotlib
import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dlngeo import _check

__all__ = ["Plane", "colors", "label_curves", "label_ends", "level_curves", "one_axes", "window"]

Direction = Any  # a matrix, or the place (i, j) of an entry


def one_axes(axes: Axes | None) -> Axes:
    """Return the axes given, or those of a new figure."""
    if axes is None:
        return Figure(figsize=(5, 4), layout="constrained").subplots()
    if not isinstance(axes, Axes):
        raise TypeError(f"axes must be one matplotlib Axes, got {type(axes).__name__}.")
    return axes


def window(limits: Any) -> list[float]:
    """Return limits ``(left, right, low, high)`` after checking them."""
    values = _check.real(limits, "limits").astype(float)
    if values.shape != (4,) or not np.isfinite(values).all() or not (values[::2] < values[1::2]).all():
        raise ValueError(f"limits must be (left, right, low, high), left < right and low < high, got {limits!r}.")
    return list(values.tolist())


def colors(count: int) -> list[Any]:
    """Colours from dark to bright, of equal steps of lightness, that white paper still shows."""
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0, 0.82, max(count, 1))]


def label_ends(axes: Axes, names: Sequence[str], ends: Any, shades: Sequence[Any], **options: Any) -> None:
    """Write names at the ends (x, y) of curves, and move those apart that would lie on another."""
    ends = np.asarray(ends, dtype=float)
    to_screen = axes.transData
    size = options.setdefault("fontsize", 8)
    places = to_screen.transform(ends)
    order = np.argsort(places[:, 1], kind="stable")
    step = 1.15 * size * axes.figure.get_dpi() / 72
    heights = places[order, 1].copy()
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + step)
    heights += (places[order, 1] - heights).mean()  # as much down as up
    moved = to_screen.inverted().transform(np.column_stack([places[order, 0], heights]))
    for k, (_, height) in zip(order, moved, strict=True):
        axes.annotate(
            names[k],
            (ends[k, 0], height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=shades[k],
            annotation_clip=False,
            **options,
        )


def label_curves(axes: Axes, name: str, curves: Sequence[np.ndarray], color: Any, place: float) -> None:
    """Write a name on the longest of some curves, at a fraction of its length; nothing, if there is none."""
    if curves:
        longest = max(curves, key=len)
        at = longest[np.isfinite(longest).all(axis=1)]
        if len(at):
            x, y = at[int(place * (len(at) - 1))]
            text = axes.text(x, y, name, color=color, fontsize=8, ha="center", va="center")
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])


class Plane:
    """The matrices ``X = O + a B + b C`` of an origin and two orthogonal directions.

    Parameters
    ----------
    origin : array, shape=[m, n]
        O.
    directions : pair
        B and C, each a matrix or the place ``(i, j)`` of an entry, which is the matrix with one there.

    Raises
    ------
    ValueError
        If they are no such matrices, or not orthogonal.
    """

    def __init__(self, origin: Any, directions: Sequence[Direction]) -> None:
        self.origin = _check.real(origin, "the origin").astype(float)
        if self.origin.ndim != 2 or not np.isfinite(self.origin).all():
            raise ValueError(f"the origin must be one finite matrix, got shape {self.origin.shape}.")
        if not isinstance(directions, Sized) or len(directions) != 2:
            raise ValueError(f"a plane has two directions, got {directions!r}.")
        self.basis = np.stack([self._matrix(direction) for direction in directions])
        self.names = [
            f"$x_{{{d[0] + 1}{d[1] + 1}}}$" if np.shape(d) == (2,) else name
            for d, name in zip(directions, "ab", strict=True)
        ]
        self.squares = np.sum(self.basis**2, axis=(1, 2))
        inner = abs(float(np.sum(self.basis[0] * self.basis[1])))
        if not inner < 1e-12 * np.sqrt(np.prod(self.squares)):
            raise ValueError("the two directions must be orthogonal and not zero; take the places of two entries.")

    def _matrix(self, direction: Direction) -> np.ndarray:
        if np.shape(direction) != (2,):
            matrix = _check.real(direction, "a direction")
            if matrix.shape != self.origin.shape:
                raise ValueError(f"a direction has shape {matrix.shape}, but the matrices {self.origin.shape}.")
            return matrix
        i, j = (_check.integer(k, "the place of an entry", 0) for k in direction)
        unit = np.zeros(self.origin.shape)
        try:
            unit[i, j] = 1.0
        except IndexError:
            raise ValueError(f"there is no entry {(i, j)} in matrices of shape {unit.shape}.") from None
        return unit

    def matrices(self, points: Any) -> np.ndarray:
        """Matrices of coordinates, shape=[..., 2] to [..., m, n]."""
        return np.asarray(self.origin + np.tensordot(points, self.basis, axes=1))

    def coordinates(self, x: Any) -> np.ndarray:
        """Coordinates of the nearest matrices of the plane, shape=[..., m, n] to [..., 2]."""
        return np.asarray(np.tensordot(np.asarray(x) - self.origin, self.basis, axes=((-2, -1), (1, 2))) / self.squares)

    def grid(self, limits: Sequence[float], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Grid of coordinates, n in each, and its matrices, shape=[n, n, m, n]; the first coordinate along rows."""
        left, right, low, high = limits
        a, b = np.linspace(left, right, n), np.linspace(low, high, n)
        return a, b, self.matrices(np.stack(np.meshgrid(a, b), axis=-1))

    def singular(self, limits: Sequence[float], n: int) -> list[np.ndarray]:
        """Curves on which the determinant changes its sign, shape=[k, 2] each; none of matrices that are not square."""
        if self.origin.shape[0] != self.origin.shape[1]:
            return []
        a, b, x = self.grid(limits, n)
        return level_curves(a, b, np.linalg.det(x), self._determinant)

    def to_singular(self, points: np.ndarray, width: float) -> np.ndarray:
        """Coordinates of singular matrices close to others, shape=[..., 2]."""
        return to_level(self._determinant, points, width)

    def _determinant(self, points: np.ndarray) -> Any:
        return np.linalg.det(self.matrices(points))


def level_curves(a: np.ndarray, b: np.ndarray, values: np.ndarray, function: Callable[[np.ndarray], Any]) -> list[Any]:
    """Curves of ``function = 0``, shape=[k, 2] each, from its values on a grid; they are exact."""
    lines = contour_generator(a, b, values).lines(0.0)
    return [to_level(function, np.asarray(line), max(np.ptp(a), np.ptp(b))) for line in lines]


def to_level(function: Callable[[np.ndarray], Any], points: np.ndarray, width: float) -> np.ndarray:
    """Move points, shape=[..., 2], to ``function = 0`` by Newton's steps along the gradient, in a window of a width."""
    step = 1e-5 * width
    for _ in range(5):
        ahead, behind = ([np.asarray(function(points + sign * step * e)) for e in np.eye(2)] for sign in (1, -1))
        slope = (np.stack(ahead, axis=-1) - np.stack(behind, axis=-1)) / (2 * step)
        square = np.sum(slope**2, axis=-1, keepdims=True)
        move = np.asarray(function(points))[..., None] * slope / np.where(square > 0, square, 1.0)
        points = points - np.where(np.abs(move) < 0.01 * width, move, 0.0)  # none where the gradient vanishes
    return points
