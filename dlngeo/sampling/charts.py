r"""Coordinates of singular values in which Brownian motion is that of flat matrices, of any kernel.

Where ``dy/dσ = φ(σ, σ)^{−1/2}`` the invariant Laplacian is ``Σ_k ∂²/∂y_k²`` and a drift, ``∂ log J/∂y_k``, by the
volume

.. math:: J = \prod_{k<l} \frac{\sigma_k^2 - \sigma_l^2}{\varphi(\sigma_k, \sigma_l)}
    \prod_k \Big[\frac{\sigma_k}{\varphi(\sigma_k, 0)^{1/2}}\Big]^{m+n-2r} .

At depth N, integer or not, ``y = √N λ`` and J is ``∏ (y_k² − y_l²) ∏ y_k^{m+n−2r}``, of flat r×(m + n − r) matrices,
whose Brownian motion has an exact step. At infinite depth ``y = log σ`` and J is ``∏ (y_k − y_l)``, that of symmetric
ones.
Of any other kernel J differs by a factor: its logarithm ω, smooth where singular values coincide, acts as
a potential ``−ω/β`` of the singular values does. The flat matrices are those that have the same end at ``σ = 0``: where
it is at a finite distance, rectangular ones, ``y = ∫_0^σ φ(s, s)^{−1/2} ds``, whose singular values pass zero as the
reflection there; where it is infinitely far, symmetric ones, ``y = ∫_1^σ``, whose eigenvalues have no end.

Sign of ``det X``, of square matrices of full rank. Where ``φ(0, 0) > 0`` the metric is regular at singular matrices,
and chains pass them. Otherwise the boundary is reflected, but for layers that have the determinants of their product:
where an odd number of them vanishes together, as at odd depth, the product changes sign with them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from scipy.interpolate import make_interp_spline

from dlngeo.kernels import Kernel, RelaxedDepthKernel
from dlngeo.sampling.compiled.steps import Flat, Tables

__all__ = ["Chart", "chart_of"]

Array = np.ndarray

# Logarithms of σ in a table: to 1e±60, and as dense as an error of 1e-11 of σ asks for.
_LOGS = np.linspace(-60, 60, 12_001) * math.log(10)
_CLOSE = 1e-5  # relative gap below which the limits of pairs are as good as their quotients
_SMALL = 1e-2  # log σ_k/σ_l below which a series takes over


class Chart(ABC):
    """Flat coordinates of r singular values of m×n matrices, shape=[chains, r].

    Attributes
    ----------
    key : str
        Their name in the state of chains.
    flat : Flat
        The flat matrices.
    depth : float
        Depth of the ``λ = σ^{1/N}`` that chains start from: 1 where they start from σ.
    slowness : float
        Time of the metric over that of the flat matrices.
    """

    key, depth, slowness = "flat", 1.0, 1.0
    flat: Flat

    def start(self, lam: Array) -> Array:
        """Coordinates at λ of the depth."""
        return lam

    @abstractmethod
    def sigma(self, y: Array) -> Array:
        """Singular values."""

    @abstractmethod
    def tables(self, y: Array) -> tuple[Tables | None, Array, Array]:
        """Coefficients of the step, where the depth does not tell them, ``√φ_kk``, and ``∂ω/∂y_k``."""


class DepthChart(Chart):
    """``y = λ`` at depth N, in units in which ``Y`` has the noise of 1/N."""

    key = "lam"

    def __init__(self, kernel: Kernel) -> None:
        assert kernel.depth is not None
        self.depth = kernel.depth
        self.slowness = self.depth / kernel.at_one  # a normalised metric runs N times slower
        self.flat = Flat(self.depth, False, self.depth % 2 != 1)

    def sigma(self, y: Array) -> Array:
        return y**self.depth

    def tables(self, y: Array) -> tuple[Tables | None, Array, Array]:
        return None, math.sqrt(self.depth) * y ** (self.depth - 1), np.zeros_like(y)


class LogarithmicChart(Chart):
    """``y = log σ`` at infinite depth, where ``φ/(σ_k ∓ σ_l)² = coth^{±1}(x/2)/2x``, ``x = y_k − y_l``."""

    def __init__(self, kernel: Kernel) -> None:
        self.slowness = 1 / kernel.at_one
        self.flat = Flat(0, True, False, math.log(np.finfo(float).tiny), math.log(np.finfo(float).max))

    def start(self, lam: Array) -> Array:
        return np.log(lam)

    def sigma(self, y: Array) -> Array:
        return np.exp(y)

    def tables(self, y: Array) -> tuple[Tables | None, Array, Array]:
        s, upper = np.exp(y), np.triu(np.ones((y.shape[1],) * 2, dtype=bool), 1)
        x = y[:, :, None] - y[:, None, :]  # those of k < l are not negative
        near = np.abs(x) < _SMALL
        half = np.where(near, 1.0, x / 2)
        tanh = np.tanh(half)
        excess = np.where(near, x**2 / 12 * (1 - x**2 / 60), half / tanh - 1)  # (x/2) coth(x/2) − 1
        plus = -excess / (1 + np.sqrt(1 + excess)) / np.where(x == 0, 1.0, x)
        quotient = np.where(near, 1 - excess / (1 + excess), tanh / half)  # tanh(x/2)/(x/2)
        sums = s[:, :, None] + s[:, None, :]
        turn = np.where(upper, plus, np.sqrt(quotient) / 2)
        return Tables(turn, sums / 2 * np.sqrt(quotient), np.zeros((len(y), 2, y.shape[1]))), s, np.zeros_like(y)


class KernelChart(Chart):
    """``y = ∫ φ(s, s)^{−1/2} ds`` of any kernel, by a table of ``log σ``, ``log √φ`` and ``log a``.

    Where φ is a divided difference, ``φ = (σ_k² − σ_l²)/(a_k − a_l)`` with ``da/dσ = 2σ/φ(σ, σ)``, and σ = 0 is at a
    finite distance, it is not evaluated again, and ``J = ∏ (a_k − a_l) ∏ a_k^{(m+n−2r)/2}`` with ``a(0) = 0``.
    """

    def __init__(self, kernel: Kernel, codimension: int) -> None:
        self.kernel, self.codimension = kernel, codimension
        s, one = np.exp(_LOGS), np.ones(1)
        phi = kernel(s, s)
        bad, middle = np.flatnonzero(~(np.isfinite(phi) & (phi > 0))), len(s) // 2
        part = slice(max(bad[bad < middle], default=-1) + 1, min(bad[bad >= middle], default=len(s)))
        logs, s, phi = _LOGS[part], s[part], phi[part]
        tail = 1 - math.log(phi[1] / phi[0]) / (logs[1] - logs[0]) / 2  # of small σ, y is this power
        self.far = tail < 1e-3
        y = _integral(logs, s / np.sqrt(phi), None if self.far else tail)
        self.one = not self.far and kernel.third_divided_difference(one, one, one, one) is not None
        columns = [logs, np.log(phi) / 2]
        if self.one:
            columns.append(np.log(_integral(logs, 2 * s**2 / phi, 2 * tail)))
        self._nodes = y if self.far else np.log(y)
        self._table = make_interp_spline(self._nodes, np.stack(columns, axis=1), k=5)
        self.flat = Flat(0, self.far, not self.far and not _passes(kernel), y[0], y[-1])

    def _at(self, y: Array) -> Array:
        return y if self.far else np.log(y)

    def start(self, lam: Array) -> Array:
        logs, target = self._table(self._nodes[[0, -1]])[:, 0], np.log(lam)
        if not np.all((target > logs[0]) & (target < logs[-1])):
            low, high = np.exp(logs)
            raise ValueError(
                f"chains of {self.kernel!r} need singular values between {low:.0e} and {high:.0e}, got {lam.min():g} "
                f"to {lam.max():g}; measure matrices in other units."
            )
        found = np.interp(target, self._table(self._nodes)[:, 0], self._nodes)
        for _ in range(4):
            found = found - (self._table(found)[..., 0] - target) / self._table(found, 1)[..., 0]
        return found if self.far else np.exp(found)

    def sigma(self, y: Array) -> Array:
        return np.exp(self._table(self._at(y))[..., 0])

    def tables(self, y: Array) -> tuple[Tables | None, Array, Array]:
        kernel, far, at = self.kernel, self.far, self._at(y)
        s, stretch, *a = np.moveaxis(np.exp(self._table(at)), -1, 0)
        inverse = 0.0 if far else 1 / y
        bend = self._table(at, 1)[..., 1] * (1.0 if far else inverse)  # d log √φ/dy
        row, column = s[:, :, None], s[:, None, :]
        own, total = stretch[:, :, None], row + column
        one, two = y[:, :, None], y[:, None, :]
        gap, wide = two - one, 1.0 if far else one + two
        near = (np.abs(gap) <= _CLOSE * wide) | (np.abs(row - column) <= _CLOSE * total)
        gap, difference = np.where(near, 1.0, gap), np.where(near, 1.0, column - row)
        # ∂/∂y_k of the logarithm of the factor of a pair in J, without that of flat matrices, and its limit.
        flat = (1.0 if far else 2 * one) / (gap * wide)
        if self.one:
            rate, apart = 2 * s / stretch, np.where(near, 1.0, a[0][:, None, :] - a[0][:, :, None])
            root = np.sqrt(np.where(near, own * stretch[:, None, :], difference * total / apart))
            limit, repulsion = stretch / s - bend - inverse, flat - rate[:, :, None] / apart
        else:
            row, column = np.broadcast_arrays(row, column)
            root = np.sqrt(kernel(row, column))
            slope = 2 * row * kernel.divided_difference(column, row, row) * own / root**2
            limit, repulsion = stretch / s + bend - inverse, flat - 2 * row * own / (difference * total)
        limit = (limit[:, :, None] + limit[:, None, :]) / 4
        repulsion = np.where(near, limit, repulsion) - (0.0 if self.one else slope)
        upper, diagonal = np.triu(np.ones(root.shape[1:], dtype=bool), 1), np.eye(y.shape[1], dtype=bool)
        turn_plus, turn_minus = root / difference - 1 / gap, root / total - (0.0 if far else 1 / wide)
        turn = np.where(upper, np.where(near, 0.0, turn_plus), turn_minus)
        drift, normal = np.sum(np.where(diagonal, 0.0, repulsion), axis=2), np.zeros((len(y), 2, y.shape[1]))
        if self.codimension:
            null = s**2 / a[0] if self.one else kernel(s, np.zeros_like(s))
            normal = np.stack([np.sqrt(null) / s - inverse, np.sqrt(null)], axis=1)
            if self.one:
                edge = s / (stretch * a[0])
            else:
                edge = stretch / s - stretch * s * kernel.divided_difference(np.zeros_like(s), s, s) / null
            drift += self.codimension * (edge - inverse)
        return Tables(turn, root, normal), stretch, drift


def _integral(logs: Array, density: Array, tail: float | None) -> Array:
    """``∫ density d log σ`` from σ = 0, where it is a power of σ, the tail; without that from σ = 1."""
    values = make_interp_spline(logs, density, k=5).antiderivative()(logs)
    return values - (values[np.searchsorted(logs, 0.0)] if tail is None else values[0] - density[0] / tail)


def _passes(kernel: Kernel) -> bool:
    """Whether chains pass singular matrices."""
    if isinstance(kernel, RelaxedDepthKernel):
        return int(np.sum(kernel.offsets == 0)) % 2 == 1
    return bool(np.all(kernel(np.zeros(1), np.zeros(1)) > 0))


def chart_of(kernel: Kernel, codimension: int) -> Chart:
    """Chart of a kernel, on matrices of which ``m + n − 2r`` is given."""
    if kernel.depth is None:
        return KernelChart(kernel, codimension)
    return LogarithmicChart(kernel) if math.isinf(kernel.depth) else DepthChart(kernel)
