r"""Geodesics of the metrics of all depths, compiled: Hamilton's equations in the matrix and its momentum.

With ``H(X, P) = ½⟨P, A_X P⟩`` a geodesic is ``Ẋ = A_X P``, ``Ṗ = −∇_X H``, one SVD and one sweep over the triples of
singular values a stage. With ``x ≥ y ≥ z`` such a triple, ``ψ_r(s, t) = h[a_r, a_s, a_t]/φ(s, t)`` and

.. math:: \frac{h[a_x, a_y, a_z]}{N^2} = x^{2-4\varepsilon}\,
    \frac{p_{xy} - (y/x)^{2-2\varepsilon} (z/y)^{2\varepsilon} p_{yz}}{\gamma_{xz}}, \qquad \varepsilon = \frac1N,

see :mod:`dlngeo.kernels._divided`; the ``p`` and gaps ``γ`` are functions of pairs, so that a triple costs one
division. Below full rank P is kept tangent: the normal part of Ṗ is ``Z_l Σ⁻¹ P_rᵀ + P_l Σ⁻¹ Z_rᵀ``, Z = Ẋ.

Each geodesic takes its own steps, of the formula of order 8 of Dormand and Prince [1]_. The error of a step is measured
in the metric, of P in the cometric, relative to the length of the geodesic: small singular values are known as well as
the metric tells them apart.

References
----------
.. [1] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", Springer (1993), II.5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.integrate import DOP853

from dlngeo.compiled import in_threads, jit
from dlngeo.compiled.svd import svd
from dlngeo.kernels._divided import NEAR, TERMS

__all__ = ["geodesics"]

# The weights of the stages in each stage, and those of the end; and in two errors.
_FORMULA = np.vstack((DOP853.A[:12, :12], DOP853.B)), np.stack((DOP853.E5[:12], DOP853.E3[:12]))
_EPS = np.finfo(float).eps
_LAPACK = 49  # the least size at which LAPACK decomposes faster
_BLAS = 17  # the least size at which BLAS multiplies faster
_FIRST = 8.0  # the first step, in units of the time in which a singular value changes by itself, times tol^{1/8}
_DRIFT = 1e7  # of the energy, in units of the tolerance, on a geodesic that has stepped over a singular point


@jit
def _into(frame, z, out, work):  # type: ignore[no-untyped-def]
    """``Uᵀ Z V``."""
    ut, vt = frame[0], frame[1]
    size = z.shape[0]
    if size >= _BLAS:
        np.dot(ut, z, work)
        np.dot(work, vt.T, out)
        return
    for i in range(size):
        for j in range(size):
            work[i, j] = 0.0
        for k in range(size):
            for j in range(size):
                work[i, j] += ut[i, k] * z[k, j]
        for j in range(size):
            total = 0.0
            for k in range(size):
                total += work[i, k] * vt[j, k]
            out[i, j] = total


@jit
def _out_of(frame, core, out, work):  # type: ignore[no-untyped-def]
    """``U M Vᵀ``."""
    ut, vt = frame[0], frame[1]
    size = core.shape[0]
    if size >= _BLAS:
        np.dot(core, vt, work)
        np.dot(ut.T, work, out)
        return
    for k in range(size):
        for j in range(size):
            work[k, j] = out[k, j] = 0.0
    for k in range(size):
        for i in range(size):
            for j in range(size):
                work[k, j] += core[k, i] * vt[i, j]
        for i in range(size):
            for j in range(size):
                out[i, j] += ut[k, i] * work[k, j]


@jit
def _pairs(s, rank, eps, rest, table, top):  # type: ignore[no-untyped-def]
    """Fill the tables of pairs: φ/N, p, ``(t/s)^{2−2ε}``, ``(t/s)^{2ε}``, γ; and ``s^{2−4ε}`` of single ones."""
    phi, p, w, v, gap = table[0], table[1], table[2], table[3], table[4]
    for a in range(rank):
        log = math.log(s[a])
        power = math.exp(2.0 * rest * log)
        top[a] = math.exp(2.0 * (rest - eps) * log)
        phi[a, a], p[a, a], w[a, a], v[a, a], gap[a, a] = power, rest, 1.0, 1.0, 0.0
        for b in range(a + 1, rank):
            x = math.log(s[b]) - log
            g = -2.0 * x if eps == 0.0 else math.expm1(2.0 * eps * x) / -eps
            e = math.expm1(2.0 * rest * x)
            gap[a, b] = g
            p[a, b] = -e / g if g > 0.0 else rest
            w[a, b] = 1.0 + e
            v[a, b] = 1.0 - eps * g
            phi[a, b] = phi[b, a] = power * (p[a, b] + eps * w[a, b])


@jit
def _series(y, z, eps, coefficient):  # type: ignore[no-untyped-def]
    """``h[1, b, c]/N²`` of small gaps y and z, as in :mod:`dlngeo.kernels._divided`."""
    first, second, total = 1.0, 1.0, coefficient
    for k in range(3, 2 + TERMS):
        coefficient *= -(1.0 - (k - 1) * eps) / k
        first *= y
        second = z * second + first
        total += coefficient * second
    return total


@jit
def _force(m, s, rank, eps, rest, table, top, columns, rows):  # type: ignore[no-untyped-def]
    """Fill ``Σ_j m_jk m_jl h_jkl`` for k ≤ l, and ``Σ_j m_kj m_lj h_jkl``; null indices of j and of k included."""
    p, w, v, gap, size = table[1], table[2], table[3], table[4], m.shape[0]
    for a in range(size):
        for b in range(size):
            columns[a, b] = rows[a, b] = 0.0
    for a in range(rank):
        for b in range(a, rank):
            first, second = p[a, b], w[a, b]
            for c in range(b, rank):
                g = gap[a, c]
                h = _series(gap[a, b], g, eps, rest / 2.0) if g < NEAR else (first - second * v[b, c] * p[b, c]) / g
                h *= top[a]
                columns[b, c] += h * m[a, b] * m[a, c]
                rows[b, c] += h * m[b, a] * m[c, a]
                if b > a:
                    columns[a, c] += h * m[b, a] * m[b, c]
                    rows[a, c] += h * m[a, b] * m[c, b]
                if c > b:
                    columns[a, b] += h * m[c, a] * m[c, b]
                    rows[a, b] += h * m[a, c] * m[b, c]
            h = eps * first * top[a]
            for n in range(rank, size):
                columns[a, b] += h * m[n, a] * m[n, b]
                rows[a, b] += h * m[a, n] * m[b, n]
                rows[b, n] += h * m[n, a] * m[b, a]
                columns[b, n] += h * m[a, b] * m[a, n]
                if b > a:
                    rows[a, n] += h * m[n, b] * m[a, b]
                    columns[a, n] += h * m[b, a] * m[b, n]


@jit
def _factor(x, rank, frame, near):  # type: ignore[no-untyped-def]
    """Decompose a point; tell whether its singular values up to the rank are positive, and all finite."""
    size, ut, vt, s = x.shape[0], frame[0], frame[1], frame[2, 0]
    if rank == size and size < _LAPACK:
        return svd(x, ut, s, vt, near)
    for i in range(size):
        for j in range(size):
            if not abs(x[i, j]) < 1e150:
                return False
    u, values, right = np.linalg.svd(x)
    for i in range(size):
        s[i] = values[i]
        for j in range(size):
            ut[i, j], vt[i, j] = u[j, i], right[i, j]
    return s[rank - 1] > 0.0


@jit
def _slope(state, lift, near, rank, scale, eps, rest, table, top, frame, work, out):  # type: ignore[no-untyped-def]
    """Fill ``out = (Ẋ, Ṗ)`` and the frame; return ``2H``, or NaN at a singular point.

    To lift is to take the second half of the state for a velocity, and to put the momentum in its place.
    """
    core, half, columns, rows = work[0], work[1], work[2], work[3]
    size, phi, s = state.shape[1], table[0], frame[2, 0]
    if not _factor(state[0], rank, frame, near):
        return math.nan
    _pairs(s, rank, eps, rest, table, top)
    for k in range(rank):
        for a in range(rank, size):
            phi[a, k] = phi[k, a] = eps * phi[k, k]
    _into(frame, state[1], core, half)
    energy = 0.0
    for k in range(size):
        for n in range(size):
            if k >= rank and n >= rank:
                core[k, n] = 0.0
                continue
            if lift:
                core[k, n] /= scale * phi[k, n]
            energy += scale * phi[k, n] * core[k, n] ** 2
    for part in range(0 if lift else 1, 3):
        if part == 0:
            _out_of(frame, core, state[1], half)
            continue
        if part == 1:
            _force(core, s, rank, eps, rest, table, top, columns, rows)
            _coordinates(core, half, s, rank, scale, phi, columns, rows)
        _out_of(frame, work[part - 1], out[part - 1], columns)
    return energy


@jit
def _coordinates(core, half, s, rank, scale, phi, columns, rows):  # type: ignore[no-untyped-def]
    """Make ``half`` of ``Uᵀ Ṗ V``, and ``Uᵀ Ẋ V`` of the core."""
    size = core.shape[0]
    for k in range(size):
        for n in range(size):
            i, j = min(k, n), max(k, n)
            half[k, n] = 0.0
            if k < rank:
                half[k, n] -= scale * s[k] * columns[i, j] / phi[i, j]
            if n < rank:
                half[k, n] -= scale * s[n] * rows[i, j] / phi[i, j]
            if i >= rank:
                for j in range(rank):
                    half[k, n] += 2.0 * scale * phi[n, j] / s[j] * core[k, j] * core[j, n]
    for k in range(size):
        for n in range(size):
            core[k, n] *= scale * phi[k, n]


@jit
def _add(out, stages, weights, count, h):  # type: ignore[no-untyped-def]
    for j in range(count):
        factor = h * weights[j]
        if factor != 0.0:
            stage = stages[j]
            for i in range(out.size):
                out[i] += factor * stage[i]


@jit
def _copy(source, target):  # type: ignore[no-untyped-def]
    for i in range(source.size):
        target[i] = source[i]


@jit
def _error(stages, formulas, rank, scale, phi, frame, error, work):  # type: ignore[no-untyped-def]
    """Squared lengths of two combinations of slopes: of X in the metric, of P in the cometric, at a point."""
    fifth, third, flat = 0.0, 0.0, error.reshape(-1)
    for which in range(2):
        for i in range(flat.size):
            flat[i] = 0.0
        _add(flat, stages, formulas[which], 12, 1.0)
        total = 0.0
        for part in range(2):
            _into(frame, error[part], work[0], work[1])
            for k in range(phi.shape[0]):
                for n in range(phi.shape[0]):
                    if k < rank or n < rank:
                        weight = scale * phi[k, n]
                        total += work[0, k, n] ** 2 * (weight if part == 1 else 1.0 / weight)
        if which == 0:
            fifth = total
        else:
            third = total
    return fifth, third


@jit
def _follow(x, v, rank, scale, eps, rest, tolerance, times, most, formula, points, velocities, until):  # type: ignore[no-untyped-def]
    """Follow one geodesic to increasing times; return the steps taken, −1 − steps if it ends before the last one."""
    size, (weights, errors) = x.shape[0], formula
    table, top, work = np.zeros((5, size, size)), np.empty(size), np.empty((4, size, size))
    frame, here, phi = np.empty((3, size, size)), np.empty((3, size, size)), np.empty((size, size))
    stages, state, trial = np.empty((13, 2, size, size)), np.empty((2, size, size)), np.empty((2, size, size))
    error, flat_stages, flat_state, flat_trial = (
        np.empty((2, size, size)),
        stages.reshape(13, -1),
        state.reshape(-1),
        trial.reshape(-1),
    )
    _copy(x.reshape(-1), flat_state[: size * size])
    _copy(v.reshape(-1), flat_state[size * size :])
    h, time, energy, steps, done, first = 0.0, 0.0, 0.0, 0, 0, 0
    while done < times.size:
        last = time + h >= times[done]
        if last:
            h = times[done] - time
        new = 0.0
        for i in range(first, 13):
            _copy(flat_state, flat_trial)
            _add(flat_trial, flat_stages, weights[i], min(i, 12), h)
            new = _slope(trial, i == 0, 0 < i < 12, rank, scale, eps, rest, table, top, frame, work, stages[i])
            if not new < math.inf:
                break
            if i == 0:
                _copy(flat_trial, flat_state)
                _copy(frame.reshape(-1), here.reshape(-1))
                _copy(table[0].reshape(-1), phi.reshape(-1))
                energy, first = new, 1
                # A first step that changes singular values by little, in time.
                fastest = 0.0
                for k in range(rank):
                    fastest = max(fastest, math.sqrt(energy * scale * phi[k, k]) / frame[2, 0, k])
                h = _FIRST * tolerance**0.125 / fastest if fastest > 0.0 else times[-1]
                last = h >= times[0]
                if last:
                    h = times[0]
        if steps == most or first == 0:
            return -1 - steps
        steps += 1
        miss = math.inf
        # What rounding moves the point by counts as no error.
        rounding = 16.0 * _EPS * here[2, 0, 0] / math.sqrt(scale * phi[rank - 1, rank - 1])
        if new < math.inf:
            unit = tolerance * math.sqrt(energy) + rounding
            fifth, third = _error(flat_stages, errors, rank, scale, phi, here, error, work)
            miss = h * fifth / math.sqrt(fifth + 0.01 * third) / unit if fifth > 0.0 else 0.0
        if not miss < 1.0:
            h *= max(0.2, 0.9 * miss**-0.125) if miss < math.inf else 0.2
            if not time + h > time:
                return -1 - steps
            continue
        if not (eps == 1.0 and rank == size) and _turns(here, frame, rank):
            return -1 - steps
        if not abs(new - energy) <= max(_DRIFT * tolerance * energy, 1e3 * rounding * math.sqrt(energy)):
            return -1 - steps
        time = times[done] if last else time + h
        until[0] = time
        _copy(flat_trial, flat_state)
        _copy(flat_stages[12], flat_stages[0])
        _copy(frame.reshape(-1), here.reshape(-1))
        _copy(table[0].reshape(-1), phi.reshape(-1))
        while done < times.size and times[done] <= time:
            _copy(flat_state[: size * size], points[done].reshape(-1))
            _copy(flat_stages[0, : size * size], velocities[done].reshape(-1))
            done += 1
        h *= min(10.0, 0.9 * miss**-0.125) if miss > 0.0 else 10.0
    return steps


@jit
def _turns(before, after, rank):  # type: ignore[no-untyped-def]
    """Whether a singular value crosses zero between two points: this turns round one of its singular vectors."""
    sign = 1.0
    for side in range(2):
        sign *= np.linalg.det(np.dot(before[side, :rank], after[side, :rank].T))
    return sign < 0.0


@jit
def _follow_all(x, v, rank, scale, eps, rest, tolerance, times, most, formula, points, velocities, until, steps):  # type: ignore[no-untyped-def]
    for n in range(x.shape[0]):
        steps[n] = _follow(
            x[n], v[n], rank, scale, eps, rest, tolerance[n], times, most[n], formula, points[n], velocities[n],
            until[n : n + 1],
        )  # fmt: skip


def geodesics(
    x: np.ndarray, v: np.ndarray, rank: int, depth: float, scale: float, tolerance: Any, times: np.ndarray, most: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Follow geodesics of square matrices of a rank in the metric of a depth, each by its own steps.

    Parameters
    ----------
    x, v : array, shape=[b, d, d]
        Points, of size about 1, and velocities tangent to the matrices of that rank.
    rank, depth, scale : int, float, float
        Rank; depth N, which may be infinite at full rank; ``φ(1, 1)``.
    tolerance : array_like, shape=[b]
        Local error in the metric, relative to the length of each; at least 1e-13, below which rounding is more.
    times : array, shape=[t]
        Increasing positive times.
    most : array_like, shape=[b]
        Steps to take at most.

    Returns
    -------
    points, velocities : array, shape=[b, t, d, d]
        Where and how the geodesics go at these times, as far as they come.
    steps : array of int, shape=[b]
        Steps taken; ``−1 − steps`` of a geodesic that ends before the last time, or loses its energy.
    until : array, shape=[b]
        Times that they came to.
    """
    count, d = x.shape[:2]
    eps, rest = (0.0, 1.0) if math.isinf(depth) else (1 / depth, (depth - 1) / depth)
    points, velocities = np.empty((2, count, len(times), d, d))
    steps, until = np.zeros(count, dtype=np.int64), np.zeros(count)
    x, v = (np.ascontiguousarray(array, dtype=float) for array in (x, v))
    tolerance = np.array(np.broadcast_to(np.maximum(tolerance, 1e-13), count), dtype=float)
    most = np.array(np.broadcast_to(most, count), dtype=np.int64)

    def part(s: slice) -> None:
        _follow_all(
            x[s], v[s], rank, float(scale), eps, rest, tolerance[s], times, most[s], _FORMULA, points[s], velocities[s],
            until[s], steps[s],
        )  # fmt: skip

    in_threads(part, count)
    return points, velocities, steps, until
