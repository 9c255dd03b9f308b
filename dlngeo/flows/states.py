"""The state of a gradient flow on a space of geomstats: points as they are, or factored matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geomstats.geometry.base import ComplexVectorSpace, ComplexVectorSpaceOpenSet, OpenSet, VectorSpace

from dlngeo import _check
from dlngeo.errors import SingularError
from dlngeo.flows.factored import FactoredState, has_logarithms, never_singular, where_fits
from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.geomstats.gradients import GradientConverter, fills
from dlngeo.geomstats.metrics import SpectralMetric

__all__ = ["ComplexPoint", "DensePoint", "drops", "spectral_field", "starts_of", "state_of"]

_BELONGS = 1e-6  # how far off a space points may be


class DensePoint:
    """Points as they are. States are arrays of shape [..., size], where geomstats takes many points at once."""

    def __init__(self, space: Any, gradient: Callable[[np.ndarray], np.ndarray]) -> None:
        self.space, self.gradient = space, gradient
        self._convert = GradientConverter(space)
        # In an open set there is nothing to drift off; its boundary is no place to project to.
        self._projects = not isinstance(space, OpenSet | VectorSpace) and hasattr(space, "projection")
        self.spectral = isinstance(space.metric, SpectralMetric)
        self.rank, self.edge = None, f"The flow leaves {type(space).__name__} there."
        if self.spectral and fills(space):
            kernel, rank = space.metric.kernel, space.metric.rank
            self.rank = rank if rank < min(space.shape) or not kernel.smooth_at_zero else 0
            self.edge = f"The flow reaches a matrix of rank below {rank} there, to what the state resolves, and ends."
            if never_singular(kernel):
                self.edge = (
                    "A singular value fell below what dense coordinates resolve there, and changed sign, which it "
                    f'never does with {kernel!r}: take coordinates="factored".'
                )

    def unpacked(self, state: np.ndarray) -> np.ndarray:
        """Matrices or other arrays that a state holds, as they are."""
        return state.reshape(*state.shape[:-1], *self.space.shape)

    def packed(self, x: np.ndarray) -> np.ndarray:
        """States of points or vectors."""
        return x.reshape(*x.shape[: x.ndim - len(self.space.shape)], -1)

    def point(self, state: np.ndarray) -> np.ndarray:
        x = self.unpacked(state)
        return to_numpy(self.space.projection(to_gs(x, spectral_field(self.space.metric)))) if self._projects else x

    def factors(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the SVD of a matrix of the rank of the space."""
        u, s, vt = np.linalg.svd(self.unpacked(state), full_matrices=False)
        return u[:, : self.rank], s[: self.rank], vt[: self.rank]

    def pack(self, u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> np.ndarray:
        """State of ``u diag(s) vt``."""
        return self.packed((u * s) @ vt)

    def points(self, states: np.ndarray) -> np.ndarray:
        """Points of many states, one by one if they are projected: not every projection of geomstats takes many."""
        if not self._projects:
            return self.point(states)
        flat = states.reshape(-1, states.shape[-1])
        return np.reshape([self.point(y) for y in flat], (*states.shape[:-1], *self.space.shape))

    def velocity(self, t: Any, state: np.ndarray) -> np.ndarray:
        fits = np.isfinite(state).all(axis=-1)
        if not fits.all():
            return where_fits(self.velocity, t, state, fits)
        x = self.point(state)
        gradient = self.gradient(x)
        try:
            return -self.packed(self._convert(gradient, x)).reshape(state.shape)
        except (SingularError, np.linalg.LinAlgError):  # a trial step onto or over a singular point
            if state.ndim > 1:
                return np.stack([self.velocity(when, y) for when, y in zip(t, state, strict=True)])
            return np.full_like(state, np.nan)

    def crossed(self, before: np.ndarray, after: np.ndarray) -> Any:
        shape, many = self.space.shape, after.shape[:-1]
        if self.rank:
            return drops(before.reshape(*many, *shape), after.reshape(*many, *shape), self.rank)
        if self.rank is None and isinstance(self.space, OpenSet):
            return ~np.reshape(to_numpy(self.space.belongs(to_gs(self.point(after)), atol=_BELONGS)), many)
        return np.zeros(many, dtype=bool)

    def squared_gradient_norm(self, state: np.ndarray) -> Any:
        x = self.point(state)
        e = self.gradient(x)
        products = self.packed(e) * self.packed(self._convert(e, x))
        return np.maximum(products.sum(axis=-1), 0.0)  # g(ξ, ξ) = ⟨E′, ξ⟩, up to round-off of either sign

    def singular_values(self, state: np.ndarray) -> np.ndarray:
        if not self.spectral:
            raise ValueError("singular_value_below needs a space of matrices with a spectral metric.")
        s = np.linalg.svd(self.unpacked(state), compute_uv=False)
        return s[..., : self.space.metric.rank]


class ComplexPoint(DensePoint):
    """Complex matrices as they are, in a state of two doubles for each number."""

    def __init__(self, space: Any, gradient: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(space, gradient)
        self._projects = self._projects and not isinstance(space, ComplexVectorSpace | ComplexVectorSpaceOpenSet)

    def unpacked(self, state: np.ndarray) -> np.ndarray:
        return super().unpacked(np.ascontiguousarray(state).view(complex))

    def packed(self, x: np.ndarray) -> np.ndarray:
        return super().packed(np.ascontiguousarray(x.astype(complex, copy=False))).view(float)

    def crossed(self, before: np.ndarray, after: np.ndarray) -> Any:
        """Never: a singular matrix is passed round, and no orientation tells of one that is not."""
        return np.zeros(after.shape[:-1], dtype=bool)


def drops(before: np.ndarray, after: np.ndarray, rank: int) -> Any:
    """Whether a singular value passes zero from one matrix of a rank to the other, shape=[...].

    It turns round one singular vector there, and so the orientation of the frames.
    """
    if before.shape[-2:] == (rank, rank):
        return np.linalg.slogdet(before)[0] * np.linalg.slogdet(after)[0] <= 0
    (u0, _, v0), (u1, _, v1) = (np.linalg.svd(x, full_matrices=False) for x in (before, after))
    left = u0[..., :rank].swapaxes(-1, -2) @ u1[..., :rank]
    right = v0[..., :rank, :] @ v1[..., :rank, :].swapaxes(-1, -2)
    return np.linalg.det(left) * np.linalg.det(right) < 0


def starts_of(point: Any, shape: tuple[int, ...], field: _check.Field = "real") -> list[Any] | None:
    """Split starts along a first axis, dense or factored; None if it is one start."""
    if isinstance(point, tuple):
        if len(point) != 3:
            raise ValueError(f"a factored start is (u, s, vt), got {len(point)} arrays.")
        factors = [_check.numbers(a, "the start", field) for a in point]
        if factors[1].ndim < 2:
            return None
        if len({len(a) for a in factors if a.ndim}) > 1 or min(a.ndim for a in factors) < 2:
            raise ValueError(
                f"the starts have factors of shapes {', '.join(str(a.shape) for a in factors)}; many starts have one "
                "first axis in all three."
            )
        starts: list[Any] = list(zip(*factors, strict=True))
    else:
        x = _check.numbers(point, "the start", field)
        if x.ndim != len(shape) + 1:
            return None
        starts = list(x)
    if not starts:
        raise ValueError("there is no start: the first axis has length 0.")
    return starts


def state_of(space: Any, gradient: Any, point: Any, coordinates: str) -> tuple[Any, np.ndarray]:
    """Choose the state; return it with the start in it."""
    if coordinates not in ("auto", "factored", "dense"):
        raise ValueError(f'coordinates must be "auto", "factored" or "dense", got {coordinates!r}.')
    metric = space.metric
    spectral = isinstance(metric, SpectralMetric) and fills(space)
    kernel: Any = metric.kernel if spectral else None
    possible = spectral and has_logarithms(kernel)
    needed = "the DLN metric of depth > 1, or offsets of which two or more are the least"
    if coordinates == "factored" and not possible:
        of = f" of {kernel!r}" if spectral else ""
        raise ValueError(
            f"factored coordinates exist on all matrices of a rank, with {needed}, not for "
            f"{type(metric).__name__}{of} on {type(space).__name__}."
        )
    given = isinstance(point, tuple)
    if spectral_field(metric) == "complex":
        if given or coordinates == "factored":
            raise ValueError(
                'flows of complex matrices have dense coordinates alone; give the start as one array, and coordinates="'
                'dense" or none.'
            )
        x = _check.returned(point, space.shape, "the start", field="complex")
        s = np.linalg.svd(x, compute_uv=False)
        if not s[metric.rank - 1] > 0:
            raise ValueError(f"the start has rank below {metric.rank}; a zero singular value never moves. Perturb it.")
        if not bool(np.all(to_numpy(space.belongs(to_gs(x, "complex"), atol=_BELONGS)))):
            raise ValueError(f"the start does not belong to {type(space).__name__}; project it there first.")
        complex_state = ComplexPoint(space, gradient)
        return complex_state, complex_state.packed(x)
    factored = coordinates == "factored" or (coordinates == "auto" and possible and never_singular(kernel))
    if given and not factored:
        raise ValueError(f"a factored start (u, s, vt) needs factored coordinates: {needed}.")
    if not given:
        x = _check.returned(point, space.shape, "the start")
    if spectral:
        u, s, vt = point if given else np.linalg.svd(x, full_matrices=False)
        (m, n), r = space.shape, metric.rank
        u, s, vt = (_check.real(a, "the start").astype(float) for a in (u[:, :r], s[:r], vt[:r]))
        if (u.shape, s.shape, vt.shape) != ((m, r), (r,), (r, n)):
            raise ValueError(
                f"the start has factors of shapes {u.shape}, {s.shape}, {vt.shape}; expected "
                f"({m}, {r}), ({r},), ({r}, {n})."
            )
        if not (s.min() > 0 and np.isfinite(s).all()):
            raise ValueError(f"the start has rank below {r}; a zero singular value never moves. Perturb it.")
        if factored:
            state = FactoredState((m, n), r, kernel, gradient)
            return state, state.pack(u, s, vt)
    elif not bool(np.all(to_numpy(space.belongs(to_gs(x), atol=_BELONGS)))):
        raise ValueError(f"the start does not belong to {type(space).__name__}; project it there first.")
    return DensePoint(space, gradient), x.ravel()


def spectral_field(metric: Any) -> _check.Field:
    """Field of the points of a metric; complex ones have spectral metrics alone."""
    return metric.field if isinstance(metric, SpectralMetric) else "real"
