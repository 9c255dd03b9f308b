"""Points and tangent vectors of any pymanopt manifold: drawn, and compared as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pymanopt.manifolds.manifold import Manifold

from dlngeo._linalg import adjoint

__all__ = ["Remembering", "apart", "draw", "relative", "seeded", "tangency"]


class Remembering(Manifold):
    """A manifold with a norm, which keeps the last frame, but not in copies: a frame holds a module, its namespace."""

    _frame_memo: Any = None

    def norm(self, point: Any, tangent_vector: Any) -> float:
        """Evaluate ``√g_X(Z, Z)``."""
        return math.sqrt(self.inner_product(point, tangent_vector, tangent_vector))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frame_memo": None}


def draw(manifold: Manifold, point: Any, direction: Any) -> tuple[Any, Any]:
    """Return the point and direction given, or random ones."""
    if point is None:
        if direction is not None:
            raise ValueError("a tangent vector was given without the point it is tangent at; pass both.")
        point = manifold.random_point()
    if direction is None:
        direction = manifold.random_tangent_vector(point)
    return point, direction


@contextmanager
def seeded(rng: Any) -> Iterator[None]:
    """Seed NumPy's global generator, which pymanopt and geomstats draw from, for the time being."""
    if rng is None:
        yield
        return
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.default_rng(rng).integers(2**32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def tangency(manifold: Manifold, point: Any, vector: Any) -> dict[str, float]:
    """Return the relative distance of a vector from its tangent part, if the manifold can tell."""
    try:
        tangent = manifold.to_tangent_space(point, vector)
    except NotImplementedError:
        return {}
    return {"tangency": relative(apart(vector, tangent), apart(tangent, None))}  # norms are of tangent vectors only


def relative(value: float, size: float) -> float:
    """Return the quotient of a value and its scale, 0 if the value vanishes."""
    return 0.0 if value == 0 else value / size if size > 0 else math.inf


def apart(a: Any, b: Any) -> float:
    """Return the norm of the difference of two points or vectors, as arrays, or of the first if the second is None."""
    if _is_factored(a):
        (u, s, vt), (p, t, qt) = a, (np.zeros_like(a[0]), 0 * a[1], np.zeros_like(a[2])) if b is None else b
        left, right = np.linalg.qr(np.hstack((u, p)))[1], np.linalg.qr(adjoint(np.vstack((vt, qt))))[1]
        return float(np.linalg.norm((left * np.concatenate((s, -t))) @ adjoint(right)))
    if isinstance(a, list | tuple):
        return math.hypot(*(apart(x, None if b is None else y) for x, y in zip(a, b or a, strict=True)))
    return float(np.linalg.norm(np.asarray(a) if b is None else np.asarray(a) - np.asarray(b)))


def _is_factored(point: Any) -> bool:
    """Whether a point is a triple ``(u, s, vt)`` by its shapes."""
    if not (isinstance(point, list | tuple) and len(point) == 3 and np.ndim(point[1]) == 1):
        return False
    u, s, vt = point
    return np.ndim(u) == np.ndim(vt) == 2 and np.shape(u)[1] == np.shape(vt)[0] == np.shape(s)[0]
