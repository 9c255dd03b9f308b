"""The explicit Runge–Kutta methods of SciPy for many initial values at once, each with steps of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.integrate import DenseOutput

__all__ = ["Batch", "Interpolant"]

# Those of SciPy, after E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", Sec. II.4.
_SAFETY, _SHORTEST, _LONGEST = 0.9, 0.2, 10.0


class Batch:
    """Initial value problems ``ẏ = velocity(t, y)`` under way, and the trial step that each makes.

    Parameters
    ----------
    solvers : sequence of scipy.integrate.OdeSolver
        Solvers of one explicit class and the same tolerances, at their starts, where each has chosen its first step.
    velocity : callable
        ``(t, y) → ẏ`` of many, shapes [k] and [k, size].

    Attributes
    ----------
    t, y, f, h : arrays, shape=[k] or [k, size]
        Times, states, velocities, and the lengths of the steps to be tried.
    lost : array, shape=[k]
        Last time in the present step at which the velocity was not finite.
    n_evaluations : array, shape=[k]
    """

    def __init__(self, solvers: Sequence[Any], velocity: Callable[..., np.ndarray]) -> None:
        self.velocity, self.method = velocity, solvers[0]
        self.t, self.h = (np.array([getattr(s, name) for s in solvers], dtype=float) for name in ("t", "h_abs"))
        self.y, self.f = (np.stack([getattr(s, name) for s in solvers]) for name in ("y", "f"))
        self.n_evaluations = np.array([s.nfev for s in solvers])
        self.lost, self.again = np.full(len(solvers), np.nan), np.zeros(len(solvers), dtype=bool)

    def step(self, last: float) -> tuple[np.ndarray, np.ndarray]:
        """Try a step of each; return which are made, and which cannot be made at any length."""
        method, shortest = self.method, 10 * np.spacing(np.abs(self.t))
        self.lost[~self.again] = np.nan
        self.t_old, self.y_old = self.t, self.y
        t = np.minimum(self.t + np.where(self.again, self.h, np.maximum(self.h, shortest)), last)
        self.taken = h = t - self.t
        self.stages = k = np.empty((method.n_stages + 1, *self.y.shape))
        k[0] = self.f
        for s, (a, c) in enumerate(zip(method.A[1:], method.C[1:], strict=True), start=1):
            k[s] = self._evaluate(self.t + c * h, self.y + h[:, None] * _combined(a[:s], k[:s]))
        y = self.y + h[:, None] * _combined(method.B, k[:-1])
        k[-1] = self._evaluate(t, y)
        with np.errstate(all="ignore"):
            error = self._error(method.atol + np.maximum(np.abs(self.y), np.abs(y)) * method.rtol)
            factor = _SAFETY * error**method.error_exponent
        made = error < 1
        longest = np.where(self.again, 1.0, _LONGEST)
        # fmax: a step whose error is not a number is shortened like one whose error is large.
        self.h = h * np.where(made, np.minimum(factor, longest), np.fmax(factor, _SHORTEST))
        self.t = np.where(made, t, self.t)
        self.y, self.f = (np.where(made[:, None], a, b) for a, b in ((y, self.y), (k[-1], self.f)))
        self.again = ~made
        return made, self.again & ~(self.h >= shortest)

    def _evaluate(self, t: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = self.velocity(t, y)
        self.n_evaluations += 1
        lost = ~np.isfinite(out).all(axis=-1) & np.isfinite(y).all(axis=-1)
        self.lost[lost] = t[lost]
        return out

    def _error(self, scale: np.ndarray) -> np.ndarray:
        """Estimated error of the steps, in units of what is allowed."""
        method, size = self.method, scale.shape[-1]
        if not hasattr(method, "E3"):
            return self.taken * np.linalg.norm(_combined(method.E, self.stages) / scale, axis=-1) / np.sqrt(size)
        # DOP853 has two estimates.
        fifth, third = (np.sum((_combined(e, self.stages) / scale) ** 2, axis=-1) for e in (method.E5, method.E3))
        return np.where(fifth == 0, 0.0, self.taken * fifth / np.sqrt((fifth + 0.01 * third) * size))

    def interpolants(self, rows: np.ndarray) -> list[Interpolant]:
        """States during the steps just made."""
        method, h, k = self.method, self.taken[rows, None], self.stages[:, rows]
        t_old, y_old, y = self.t_old[rows], self.y_old[rows], self.y[rows]
        alternates = hasattr(method, "A_EXTRA")  # DOP853
        if alternates:
            for a, c in zip(method.A_EXTRA, method.C_EXTRA, strict=True):
                stage = self.velocity(t_old + c * h[:, 0], y_old + h * _combined(a[: len(k)], k))
                k = np.concatenate((k, stage[None]))
            self.n_evaluations[rows] += len(method.A_EXTRA)
            delta = y - y_old
            first = [delta, h * k[0] - delta, 2 * delta - h * (self.f[rows] + k[0])]
            found = np.concatenate((first, h * np.tensordot(method.D, k, 1)))
        else:
            found = h * np.tensordot(method.P.T, k, 1)
        times = zip(t_old.tolist(), self.t[rows].tolist(), strict=True)
        return [Interpolant(a, b, y_old[i], found[:, i], alternates) for i, (a, b) in enumerate(times)]

    def keep(self, those: np.ndarray) -> None:
        """Leave the others behind."""
        for name in ("t", "y", "f", "h", "lost", "again", "n_evaluations"):
            setattr(self, name, getattr(self, name)[those])


def _combined(weights: np.ndarray, stages: np.ndarray) -> np.ndarray:
    return (weights @ stages.reshape(len(stages), -1)).reshape(stages.shape[1:])


class Interpolant(DenseOutput):
    """The polynomial ``y_0 + Σ_i c_i x ⋯`` of a step, in powers of x, or in products of x and 1 − x by turns."""

    def __init__(self, t_old: float, t: float, y_old: np.ndarray, coefficients: np.ndarray, alternates: bool) -> None:
        super().__init__(t_old, t)
        # Copies, for views would keep the arrays of the whole batch.
        self.y_old, self.coefficients, self.alternates = y_old.copy(), coefficients.copy(), alternates

    def _call_impl(self, t: np.ndarray) -> np.ndarray:
        x = (t - self.t_old) / (self.t - self.t_old)
        factors = [1 - x if self.alternates and i % 2 else x for i in range(len(self.coefficients))]
        return (np.cumprod(factors, axis=0).T @ self.coefficients + self.y_old).T
