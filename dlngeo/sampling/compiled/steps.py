r"""One step of many chains of a spectral metric, through the flat matrix ``Y = U Λ Vᵀ``, compiled.

In polar coordinates an invariant Laplacian has no first derivatives along the frames, and for ``X = U Λ^N Vᵀ`` its part
in Λ is 1/N of that of the flat r×(m + n − r) matrices, at every N [1]_. Along the frames, ``Ω_U ± Ω_V`` of the pair
(k, l) has the variances ``φ_N(σ_k, σ_l)/(σ_k ∓ σ_l)²`` for each unit of time, no less than those of the flat
metric, ``1/N(λ_k ∓ λ_l)²``. So Brownian motion of X is flat Brownian motion of Y, which has an exact step, and besides
turns of the frames, whose size is smooth also where ``λ_k = λ_l``. In the orthonormal frame of the metric a step is

.. math:: K = \sqrt{2h/\beta}\,\xi - h \varphi_N^{1/2}(\sigma_k, \sigma_l)\, C_{kl}, \qquad C = U^\top E' V,

of which the flat matrix takes the part ``N^{−1/2}``. The rest turns the frames: with ``q = tanh(x/2)/tanh(Nx/2)``,
``x = log λ_k/λ_l``,

.. math:: U' = U (1 + E^U) A, \quad V' = V (1 + E^V) B, \quad \Lambda + N^{-1/2} K = A \Lambda' B^\top, \qquad
    (E^U \pm E^V)_{kl} = \frac{q^{\pm 1/2} - N^{-1/2}}{\lambda_l \mp \lambda_k} (K_{kl} \pm K_{lk}),

with ``1 + E`` made orthonormal. Singular values of ``Λ + √(2h/βN) ξ`` have the exact law after a time h, also
where they coincide or pass zero, which leaves the force as the source of bias in Λ. Frames that are not square also
leave themselves, by ``K = √(2h/β) ξ − h λ^{N−1} (1 − UUᵀ) E′ V``: the columns of ``V (Λ + N^{−1/2} K)ᵀ + N^{−1/2} K``
and then those of U, as flat matrices do, and beyond that they turn by ``(1 − N^{−1/2}) K/λ``. But for odd N, ``det X``
keeps its sign where a λ passes zero.

All this holds at real N. Of any other kernel, ``φ/(σ_k ∓ σ_l)²`` and flat coordinates of the singular values take the
place of ``φ_N/(σ_k ∓ σ_l)²`` and ``√N λ``, by tables (:mod:`dlngeo.sampling.charts`); where singular matrices are
infinitely far, the flat matrix is symmetric and turns both frames at once, and the skew parts of noise and force are
turns alone.

No power of Λ occurs but in the force, and nothing costs more at larger N.

The ξ of K is the mean of that of this step and of the last, the *kick* [2]_. In this form Euler's method for Langevin
dynamics in flat space has a bias of second order only, and for a quadratic potential none; so has this one, at every
rank and for every potential, also for those whose force turns frames. For that the kick is carried along: it stays in
frames that turn by ``1 + E``, it is constant where a flat matrix moves, and what is outside of the frames stays so,
turned as little as the frames. Kept in turns alone, or in the flat matrix alone, it leaves a bias of first order.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
.. [2] B. Leimkuhler, C. Matthews, "Rational construction of stochastic numerical methods for molecular sampling",
   Appl. Math. Res. Express 2013.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dlngeo.compiled import in_threads, jit
from dlngeo.compiled.dense import copy, divide
from dlngeo.compiled.svd import dot, orthonormalize_rows, svd
from dlngeo.sampling.compiled.slopes import raised

__all__ = ["Flat", "Tables", "advance", "coefficients"]

# Below this depth times gap the leading term of √q − N^{−1/2} is exact to 1e-9, and above it cancels less.
_CLOSE = 1e-4


@jit
def _advance(  # type: ignore[no-untyped-def]
    u, lam, v, kick, gradient, radial, core_noise, left_noise, right_noise, turns, stretches, normals,
    whole, part, symmetric, mirror, low, high, h, temperature, failed,
):  # fmt: skip
    chains, m, r = u.shape
    n = v.shape[1]
    amplitude = math.sqrt(2.0 * h * temperature)
    scale = 1.0 / math.sqrt(whole + part) if whole > 0 else 1.0
    above, beside, middle = m > r, n > r, r + (m if m > r else 0)
    forced, kicked = gradient.size > 0, kick.size > 0
    left, right, old_left, old_right = np.empty((r, m)), np.empty((r, n)), np.empty((r, m)), np.empty((r, n))
    turn, stretch, normal = np.empty((r, r)), np.empty((r, r)), np.empty((2, r))
    # The noise of this step, and the step in an orthonormal frame of the metric: in the frames, and out of each.
    noise, noise_left, noise_right = np.empty((r, r)), np.empty((r, m)), np.empty((r, n))
    step, step_left, step_right = np.empty((r, r)), np.empty((r, m)), np.empty((r, n))
    flat, a, s, b = np.empty((r, r)), np.empty((r, r)), np.empty(r), np.empty((r, r))
    for c in range(chains):
        copy(u[c].T, old_left)
        copy(v[c].T, old_right)
        copy(core_noise[c], noise)
        _mean(step, noise, kick[c, :, :r], amplitude)
        if above:
            _outside(old_left, left_noise[c].T, noise_left)
            _mean(step_left, noise_left, kick[c, :, r:middle], amplitude)
        if beside:
            _outside(old_right, right_noise[c].T, noise_right)
            _mean(step_right, noise_right, kick[c, :, middle:], amplitude)
        if whole > 0:
            _coefficients(lam[c], whole, part, turn, stretch, normal)
        else:
            copy(turns[c], turn)
            copy(stretches[c], stretch)
            copy(normals[c], normal)
        if forced:
            pulled = _product(old_left, gradient[c])
            core = _product(pulled, v[c])
            for k in range(r):
                for q in range(r):
                    step[k, q] -= h * stretch[k, q] * core[k, q]
            if above:
                _outside(old_left, _product(old_right, gradient[c].T), left)
                for k in range(r):
                    _subtract_row(step_left[k], h * normal[1, k], left[k])
            if beside:
                _outside(old_right, pulled, right)
                for k in range(r):
                    _subtract_row(step_right[k], h * normal[1, k], right[k])
        # Turns beyond those of the flat matrix.
        _turned(old_left, turn, step, 1.0, left)
        _turned(old_right, turn, step, -1.0, right)
        for k in range(r):
            if above:
                _subtract_row(left[k], -normal[0, k], step_left[k])
            if beside:
                _subtract_row(right[k], -normal[0, k], step_right[k])
        fine = orthonormalize_rows(left, flat) > 0.0 and orthonormalize_rows(right, flat) > 0.0
        if fine and above:
            _carry(old_left, left, noise_left, step_left)
        if fine and beside:
            _carry(old_right, right, noise_right, step_right)
        for k in range(r):
            for q in range(r):
                flat[k, q] = scale * step[k, q]
            flat[k, k] += lam[c, k] - h * radial[c, k]
        shift = 0.0
        if symmetric:  # whose eigenvectors are the singular vectors where all eigenvalues are positive
            shift = _symmetrise(flat)
        elif fine:
            if beside:
                fine = _leave(flat, right, scale, step_right, noise, noise_right)
            if fine and above:
                flat, noise = flat.T.copy(), noise.T.copy()
                fine = _leave(flat, left, scale, step_left, noise, noise_left)
                flat, noise = flat.T.copy(), noise.T.copy()
        fine = fine and svd(flat, a, s, b, False)
        for k in range(r if symmetric else 0):
            s[k] -= shift
        if not (fine and low < s[r - 1] and (raised(s[0], whole, part) if whole > 0 else s[0]) < high):
            failed[c] = True
            continue
        if kicked:  # before a reflection, as of X at even N, which reflects the noise too
            copy(_overlaps(_product(a, noise), b), kick[c, :, :r])
            if above:
                copy(_product(b, noise_left), kick[c, :, r:middle])
            if beside:
                copy(_product(a, noise_right), kick[c, :, middle:])
        if mirror and not (above or beside) and np.linalg.slogdet(flat)[0] < 0.0:
            for i in range(r):
                a[r - 1, i] = -a[r - 1, i]
        copy(_product(a, left), u[c].T)
        copy(_product(b, right), v[c].T)
        for k in range(r):
            lam[c, k] = s[k]


@jit
def _symmetrise(a):  # type: ignore[no-untyped-def]
    """Make a matrix symmetric and add a multiple of the identity that makes it positive, in place; return that."""
    r, square = a.shape[0], 0.0
    for i in range(r):
        for j in range(i + 1):
            a[i, j] = a[j, i] = (a[i, j] + a[j, i]) / 2
            square += a[i, j] ** 2
    shift = 2.0 * math.sqrt(square) + 1.0
    for i in range(r):
        a[i, i] += shift
    return shift


@jit
def _coefficients(lam, whole, part, turn, stretch, normal):  # type: ignore[no-untyped-def]
    """Write those of :class:`Tables` at depth N, a whole number and a part of 1; of pairs (k, k), those of ``−``."""
    r, depth = lam.size, whole + part
    root = 1.0 / math.sqrt(depth)
    for k in range(r):
        power = raised(lam[k], whole - 1, part)
        turn[k, k], stretch[k, k] = (1.0 / root - root) / (2.0 * lam[k]), power / root
        normal[0, k], normal[1, k] = (1.0 - root) / lam[k], power
        for q in range(k + 1, r):
            big, small = max(lam[k], lam[q]), min(lam[k], lam[q])
            ratio = small / big
            # S = (1 − ρ^N)/(1 − ρ), and ρ^N, by doubling: sums of positive terms.
            terms, power, bit = 1.0, ratio, 1
            while 2 * bit <= whole:
                bit *= 2
            bit //= 2
            while bit > 0:
                terms, power = terms * (1.0 + power), power * power
                if whole & bit:
                    terms, power = terms + power, power * ratio
                bit //= 2
            if part > 0.0:
                terms += power * (math.expm1(part * math.log(ratio)) / (ratio - 1.0) if ratio < 1.0 else part)
                power *= ratio**part
            sums = (1.0 + power) / (1.0 + ratio)
            tangent, gap, total = math.sqrt(sums / terms), lam[q] - lam[k], lam[q] + lam[k]
            if depth * abs(gap) < _CLOSE * big:
                turn[k, q] = root * (depth * depth - 1) * gap / (6.0 * total**2)
            else:
                turn[k, q] = (tangent - root) / gap
            turn[q, k] = (1.0 / tangent - root) / total
            stretch[k, q] = stretch[q, k] = raised(big, whole - 1, part) * math.sqrt(sums * terms)


@jit
def _turned(rows, turn, step, sign, out):  # type: ignore[no-untyped-def]
    """Rows of ``Q(1 + E)``, with the sign of ``E^U − E^V``."""
    r, m = rows.shape
    copy(rows, out)
    for k in range(r):
        for q in range(k + 1, r):
            plus, minus = turn[k, q] * (step[k, q] + step[q, k]), turn[q, k] * (step[k, q] - step[q, k])
            angle = (plus + sign * minus) / 2
            for i in range(m):
                out[k, i] -= angle * rows[q, i]
                out[q, i] += angle * rows[k, i]


@jit
def _outside(rows, vectors, out):  # type: ignore[no-untyped-def]
    """Write what vectors are without their parts along orthonormal rows."""
    copy(vectors, out)
    _subtract(out, 1.0, _product(_overlaps(out, rows), rows))


@jit
def _mean(out, noise, last, amplitude):  # type: ignore[no-untyped-def]
    """Scale noise, averaged with that of the last step where there is some."""
    for k in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[k, i] = amplitude * ((noise[k, i] + last[k, i]) / 2 if last.size > 0 else noise[k, i])


@jit
def _carry(old, new, one, two):  # type: ignore[no-untyped-def]
    """Carry rows of two matrices from the complement of one frame into that of another close to it, in place.

    ``Q = 1 − (U + U′)(1 + U′ᵀU)⁻¹(U + U′)ᵀ`` is orthogonal, takes −U to U′, and changes little orthogonal to U.
    """
    factor, among = old.copy(), _overlaps(old, new)
    _subtract(factor, -1.0, new)
    for k in range(among.shape[0]):
        among[k, k] += 1.0
    divide(among, factor)
    _subtract(one, 1.0, _product(_overlaps(one, new), factor))
    _subtract(two, 1.0, _product(_overlaps(two, new), factor))


@jit
def _subtract_row(a, factor, b):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        a[i] -= factor * b[i]


@jit
def _subtract(a, factor, b):  # type: ignore[no-untyped-def]
    for k in range(a.shape[0]):
        _subtract_row(a[k], factor, b[k])


@jit
def _leave(flat, rows, scale, step, core, noise):  # type: ignore[no-untyped-def]
    """Let a flat matrix leave its frame by a step, and noise stay what it is, in place: ``F Q + step = F′Q′``."""
    wide, white = _product(flat, rows), _product(core, rows)
    _subtract(wide, -scale, step)
    _subtract(white, -1.0, noise)
    fine = orthonormalize_rows(wide, flat) > 0.0
    copy(wide, rows)
    copy(_overlaps(white, rows), core)
    copy(white, noise)
    _subtract(noise, 1.0, _product(core, rows))
    return fine


@jit
def _overlaps(a, b):  # type: ignore[no-untyped-def]
    """Compute ``a bᵀ``."""
    out = np.empty((a.shape[0], b.shape[0]))
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i, j] = dot(a[i], b[j])
    return out


@jit
def _product(a, b):  # type: ignore[no-untyped-def]
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += factor * b[k, j]
    return out


_CHAINS = 200  # with fewer, starting threads costs more than it saves


class Tables(NamedTuple):
    """Coefficients of the step of a metric that has no depth, in flat coordinates y; see :func:`advance`.

    Turns, shape=[chains, r, r], are ``√φ/(σ_l ∓ σ_k) − 1/(y_l ∓ y_k)`` for the pairs k < l: of ``+`` at (k, l) and of
    ``−`` at (l, k), each without the second term where the flat matrix has no such turn. Stretches of the same shape
    are ``√φ_kl``. The normal ones, shape=[chains, 2, r], are ``√φ_k0/σ_k − 1/y_k``, without the second term where the
    flat matrix does not leave its frames, and ``√φ_k0``.
    """

    turn: np.ndarray
    stretch: np.ndarray
    normal: np.ndarray


class Flat(NamedTuple):
    """The flat matrices that move, and where their singular values may go.

    Depth N, or 0 where tables take its place; whether they are symmetric, with any eigenvalues; whether chains of
    square matrices keep the sign of ``det X``; and the range of the flat coordinates, above which σ is none of doubles.
    """

    depth: float
    symmetric: bool
    mirror: bool
    low: float = -math.inf
    high: float = math.inf


@jit
def coefficients(lam, depth):  # type: ignore[no-untyped-def]
    """Return the arrays of :class:`Tables` at depth N, with ``y = √N λ``; turns (k, k) are those of ``−``."""
    chains, r = lam.shape
    turn, stretch, normal = np.empty((chains, r, r)), np.empty((chains, r, r)), np.empty((chains, 2, r))
    whole = math.floor(depth)
    for c in range(chains):
        _coefficients(lam[c], whole, depth - whole, turn[c], stretch[c], normal[c])
    return turn, stretch, normal


def advance(
    state: dict[str, np.ndarray],
    gradient: np.ndarray,
    radial: np.ndarray,
    noise: tuple[np.ndarray, np.ndarray, np.ndarray],
    flat: Flat,
    step_size: float,
    temperature: float,
    tables: Tables | None = None,
) -> np.ndarray:
    """Advance all chains by one step, in place; return which failed and stay as they were, shape=[chains].

    Parameters
    ----------
    state : dict
        ``u``, ``lam`` and ``v``, of which ``lam`` are the flat coordinates, λ at finite depth; and ``kick``, shape=
        [chains, r, r + (m) + (n)], the noise of the last step in the frames and, of frames that are not square, out of
        them; where it is empty or missing, the noise is that of the step alone.
    gradient : array, shape=[chains, m, n] or [chains, 0, 0]
        Euclidean gradient of the potential, if it has one besides ``radial``.
    radial : array, shape=[chains, r]
        ``λ_k^{N−1} ∂/∂σ_k = (1/N) ∂/∂λ_k`` of a potential of the singular values, which adds to it; without depth
        its derivative in the flat coordinate.
    noise : tuple of array, shape=[chains, r, r], [chains, m, r], [chains, n, r]
        Standard normal; the second and third are not read where u and v are square.
    """
    chains = len(gradient)
    failed, none = np.zeros(chains, dtype=bool), np.empty((chains, 0, 0))
    # Other layouts would be compiled anew.
    given = (np.ascontiguousarray(a) for a in (gradient, radial, *noise, *(tables or (none, none, none))))
    arrays = (state["u"], state["lam"], state["v"], state.get("kick", none), *given)

    whole = math.floor(flat.depth)
    numbers = whole, flat.depth - whole, flat.symmetric, flat.mirror, flat.low, flat.high, step_size, temperature
    in_threads(lambda s: _advance(*[*[a[s] for a in arrays], *numbers, failed[s]]), chains, _CHAINS)
    return failed
