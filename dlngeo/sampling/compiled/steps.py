r"""One step of many chains of a spectral metric, through the flat matrix ``Y = U Λ Vᵀ``, compiled.

In polar coordinates an invariant Laplacian has no first derivatives along the frames, and for ``X = U Λ^N Vᵀ`` its part
in Λ is 1/N of that of the flat r×(m + n − r) matrices, at every N [1]_. Along the frames, ``Ω_U ± Ω_V`` of the pair
(k, l) has the variances ``φ_N(σ_k, σ_l)/(σ_k ∓ σ_l)²`` for each unit of time, no less than those of the flat
metric, ``1/N(λ_k ∓ λ_l)²``. So Brownian motion of X is flat Brownian motion of Y, which has an exact step, and besides
turns of the frames, whose size is smooth also where ``λ_k = λ_l``. The turns take the same noise: with
``q = tanh(x/2)/tanh(Nx/2)``, ``x = log λ_k/λ_l``, a step of Gaussian entries ``√(2h/β) ξ`` is

.. math:: U' = U (1 + E^U) A, \quad V' = V (1 + E^V) B, \quad \Lambda + \sqrt{2h/\beta N}\,\xi - hF = A \Lambda' B^\top,

.. math:: (E^U \pm E^V)_{kl} = \sqrt{2h/\beta}\,\frac{q^{\pm 1/2} - N^{-1/2}}{\lambda_l \mp \lambda_k}
    (\xi_{kl} \pm \xi_{lk}),

with ``1 + E`` made orthonormal. Singular values of ``Λ + √(2h/βN) ξ`` have the exact law after a time h, also
where they coincide or pass zero, which leaves the force as the source of bias in Λ; it is

.. math:: F_{kl} \pm F_{lk} = \frac{\sigma_k \pm \sigma_l}{\lambda_k \pm \lambda_l} (C_{kl} \pm C_{lk}),
    \qquad C = U^\top E' V,

that ``F`` which moves frames and Λ by the gradient. Frames that are not square also turn out of themselves, by angles
``√(2h/β) ξ/λ_l − h λ_l^{N−2} (1 − UUᵀ) E′ V``. But for odd N, ``det X`` keeps its sign where a λ passes zero.

All this holds at real N. Of any other kernel, ``φ/(σ_k ∓ σ_l)²`` and flat coordinates of the singular values take the
place of ``φ_N/(σ_k ∓ σ_l)²`` and ``√N λ``, by tables (:mod:`dlngeo.sampling.charts`); where singular matrices are
infinitely far, the flat matrix is symmetric and turns both frames at once, and the skew parts of noise and force are
turns alone.

No power of Λ occurs but in the force, and nothing costs more at larger N.

The noise of the flat matrix is the mean of that of this step and of the last, the *kick* [2]_. In this form Euler's
method for Langevin dynamics in flat space has a bias of second order only, and for a quadratic potential none; so has
this one, for potentials of Λ. For others, whose force turns frames, the first order is left, five to ten times as small
as with the noise of one step. The kick is remembered in the frames. Of its columns outside the row space of Y no more
than their Gram matrix matters, as noise has no preferred directions there.

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
from dlngeo.compiled.svd import orthonormalize_rows, svd
from dlngeo.sampling.compiled.slopes import raised

__all__ = ["Flat", "Tables", "advance", "first_kick"]

# Below this depth times gap the leading term of √q − N^{−1/2} is exact to 1e-9, and above it cancels less.
_CLOSE = 1e-4


@jit
def _advance(  # type: ignore[no-untyped-def]
    u, lam, v, kick, gradient, radial, core_noise, left_noise, right_noise, turn, force, normal,
    whole, part, symmetric, mirror, low, high, h, temperature, failed,
):  # fmt: skip
    chains, m, r = u.shape
    n = v.shape[1]
    amplitude = math.sqrt(2.0 * h * temperature)
    scale = amplitude / math.sqrt(whole + part) if whole > 0 else amplitude
    columns = r + (m if m > r and not symmetric else 0) + (n if n > r and not symmetric else 0)
    ut, vt, flat, turned = np.empty((r, m)), np.empty((r, n)), np.empty((r, r)), np.empty((r, r))
    left, right, triangle = np.empty((r, m)), np.empty((r, n)), np.empty((r, r))
    a, s, b = np.empty((r, r)), np.empty(r), np.empty((r, r))
    left_turn, right_turn, core = np.empty((r, r)), np.empty((r, r)), np.zeros((r, r))
    left_force, right_force = np.zeros((r, m)), np.zeros((r, n))  # (E′V)ᵀ and (E′ᵀU)ᵀ
    forced, kicked = gradient.size > 0, kick.size > 0
    noise, wide = np.empty((r, columns)), np.empty((r, columns))
    outside = np.empty((r, m + n))  # the noise of columns that a symmetric flat matrix has not
    middle, in_left = r + (m if m > r else 0), min(kick.shape[2] - r, m - r)
    angle, pull = np.empty(r), np.empty(r)
    for c in range(chains):
        ut[:] = u[c].T
        vt[:] = v[c].T
        if forced:
            g = gradient[c]
            right_force[:] = _product(ut, g)
            core[:] = _product(right_force, v[c])
            if m > r:
                left_force[:] = _product(vt, g.T.copy())
        if whole > 0:
            _pairs(lam[c], core, core_noise[c], whole, part, amplitude, h, flat, left_turn, right_turn)
        else:
            _pairs_of(turn[c], force[c], core, core_noise[c], symmetric, amplitude, h, flat, left_turn, right_turn)
        for k in range(r):
            flat[k, k] += lam[c, k] - h * radial[c, k]
            if whole > 0:
                angle[k], pull[k] = amplitude / lam[c, k], h * raised(lam[c, k], whole - 2, part)
            else:
                angle[k], pull[k] = amplitude * normal[c, 0, k], h * normal[c, 1, k]
        _turn(ut, left_turn, left)
        _turn(vt, right_turn, right)
        # Noise of the whole flat matrix, whose columns outside the frames are those of the spaces around them.
        noise[:, :r] = core_noise[c]
        if m > r:
            _normal(
                ut, left_noise[c], left_force, angle, pull, left, outside[:, :m] if symmetric else noise[:, r:middle]
            )
        if n > r:
            _normal(
                vt, right_noise[c], right_force, angle, pull, right, outside[:, m:] if symmetric else noise[:, middle:]
            )
        weight = scale / 2 if kicked else scale
        for k in range(r):
            for i in range(columns):
                wide[k, i] = weight * noise[k, i]
            for i in range(r):
                wide[k, i] += flat[k, i] + (weight * kick[c, k, i] if kicked else 0.0)
        if kicked and columns > r:
            _outside(ut, kick[c, :, r : r + in_left], weight, wide[:, r:middle])
            _outside(vt, kick[c, :, r + in_left :], weight, wide[:, middle:])
        fine = True
        if columns > r:
            fine = orthonormalize_rows(wide, flat) > 0.0
            turned[:] = wide[:, :r]
            fine = fine and orthonormalize_rows(turned, triangle) > 0.0
        else:
            flat[:] = wide
        shift = 0.0
        if symmetric:  # whose eigenvectors are the singular vectors where all eigenvalues are positive
            shift = _symmetrise(flat)
        fine = fine and orthonormalize_rows(left, triangle) > 0.0 and orthonormalize_rows(right, triangle) > 0.0
        fine = fine and svd(flat, a, s, b, False)
        for k in range(r if symmetric else 0):
            s[k] -= shift
        if not (fine and low < s[r - 1] and (raised(s[0], whole, part) if whole > 0 else s[0]) < high):
            failed[c] = True
            continue
        if columns > r:
            right = _product(turned, right)
        if kicked:  # before a reflection, as of X at even N, which reflects the noise too
            _remember(_product(a, noise), _product(b, wide) if columns > r else b, kick[c])
        if mirror and columns == r and np.linalg.slogdet(flat)[0] < 0.0:
            for i in range(r):
                a[r - 1, i] = -a[r - 1, i]
        u[c] = _product(a, left).T
        lam[c] = s
        v[c] = _product(b, right).T


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
def _pairs_of(turn, force, core, noise, symmetric, amplitude, h, flat, left_turn, right_turn):  # type: ignore[no-untyped-def]
    """Drift and turns by the coefficients of pairs, those of ``+`` above the diagonal and of ``−`` below it."""
    r = turn.shape[0]
    for k in range(r):
        flat[k, k] = -h * core[k, k] * force[k, k]
        left_turn[k, k] = right_turn[k, k] = 0.0
        for q in range(k + 1, r):
            plus = h * force[k, q] * (core[k, q] + core[q, k]) / 2
            minus = h * force[q, k] * (core[k, q] - core[q, k]) / 2
            turn_plus = amplitude * turn[k, q] * (noise[k, q] + noise[q, k])
            turn_minus = amplitude * turn[q, k] * (noise[k, q] - noise[q, k])
            if symmetric:  # the skew part of a force turns the frames
                turn_minus, minus = turn_minus - 2 * minus, 0.0
            left_turn[k, q], right_turn[k, q] = (turn_plus + turn_minus) / 2, (turn_plus - turn_minus) / 2
            left_turn[q, k], right_turn[q, k] = -left_turn[k, q], -right_turn[k, q]
            flat[k, q], flat[q, k] = -plus - minus, -plus + minus


@jit
def _pairs(lam, core, noise, whole, part, amplitude, h, flat, left_turn, right_turn):  # type: ignore[no-untyped-def]
    """Drift ``−hF`` of the flat matrix, and the turns ``E^U``, ``E^V``, at depth N, a whole number and a part of 1."""
    r, depth = lam.size, whole + part
    root = 1.0 / math.sqrt(depth)
    for k in range(r):
        flat[k, k] = -h * core[k, k] * raised(lam[k], whole - 1, part)
        left_turn[k, k] = right_turn[k, k] = 0.0
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
            plus, minus = noise[k, q] + noise[q, k], noise[k, q] - noise[q, k]
            tanh = (1.0 + power) / ((1.0 + ratio) * terms)
            gap = lam[q] - lam[k]
            if depth * abs(gap) < _CLOSE * big:
                turn_plus = amplitude * plus * root * (depth * depth - 1) * gap / (6.0 * (lam[q] + lam[k]) ** 2)
            else:
                turn_plus = amplitude * plus * (math.sqrt(tanh) - root) / gap
            turn_minus = amplitude * minus * (1.0 / math.sqrt(tanh) - root) / (lam[q] + lam[k])
            left_turn[k, q], right_turn[k, q] = (turn_plus + turn_minus) / 2, (turn_plus - turn_minus) / 2
            left_turn[q, k], right_turn[q, k] = -left_turn[k, q], -right_turn[k, q]
            size = h * raised(big, whole - 1, part) / 2
            force_plus = size * (1.0 + power) / (1.0 + ratio) * (core[k, q] + core[q, k])
            force_minus = size * terms * (core[k, q] - core[q, k])
            flat[k, q] = -force_plus - force_minus
            flat[q, k] = -force_plus + force_minus


@jit
def _turn(rows, turn, out):  # type: ignore[no-untyped-def]
    """Rows of ``Q(1 + E)``."""
    r, m = rows.shape
    for k in range(r):
        for i in range(m):
            out[k, i] = rows[k, i]
        for q in range(r):
            factor = turn[q, k]
            for i in range(m):
                out[k, i] += factor * rows[q, i]


@jit
def _normal(rows, noise, force, angle, pull, out, wide):  # type: ignore[no-untyped-def]
    """Add to turned frames how they leave themselves, and write the noise in it into the flat matrix."""
    r, m = rows.shape
    column = np.empty(m)
    for k in range(r):
        for i in range(m):
            wide[k, i] = noise[i, k]
            column[i] = force[k, i]
        for q in range(r):
            total, along = 0.0, 0.0
            for i in range(m):
                total += rows[q, i] * wide[k, i]
                along += rows[q, i] * column[i]
            for i in range(m):
                wide[k, i] -= total * rows[q, i]
                column[i] -= along * rows[q, i]
        for i in range(m):
            out[k, i] += angle[k] * wide[k, i] - pull[k] * column[i]


@jit
def _outside(rows, parts, weight, out):  # type: ignore[no-untyped-def]
    """Add ``weight · parts · D`` with orthonormal rows D orthogonal to ``rows``, from the axes farthest from these."""
    r, m = rows.shape
    basis = np.empty((r + parts.shape[1], m))
    basis[:r] = rows
    distance = np.ones(m)
    for k in range(r):
        for i in range(m):
            distance[i] -= rows[k, i] ** 2
    for j in range(parts.shape[1]):
        axis, new = np.argmax(distance), basis[r + j]
        new[:] = 0.0
        new[axis] = 1.0
        for _ in range(2):
            for k in range(r + j):
                total = 0.0
                for i in range(m):
                    total += basis[k, i] * new[i]
                for i in range(m):
                    new[i] -= total * basis[k, i]
        size = math.sqrt(np.sum(new**2))
        for i in range(m):
            new[i] /= size
            distance[i] -= new[i] ** 2
            for k in range(r):
                out[k, i] += weight * parts[k, j] * new[i]


@jit
def _remember(noise, rows, kick):  # type: ignore[no-untyped-def]
    """Write noise into the kick: in the new right frame as it is, outside of it as a factor of its Gram matrix."""
    r = rows.shape[0]
    core = _product(noise, rows.T)
    kick[:, :r] = core
    if kick.shape[1] == r:
        return
    rest = noise - _product(core, rows)
    gram = _product(rest, rest.T)
    for j in range(r, kick.shape[1]):  # by Cholesky's method with pivots, as the rank may be less than r
        place = np.argmax(np.diag(gram))
        root = math.sqrt(max(gram[place, place], 0.0))
        for k in range(r):
            kick[k, j] = gram[k, place] / root if root > 0.0 else 0.0
        for k in range(r):
            for i in range(r):
                gram[k, i] -= kick[k, j] * kick[i, j]


@jit
def _product(a, b):  # type: ignore[no-untyped-def]
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += factor * b[k, j]
    return out


def first_kick(rng: np.random.Generator, chains: int, columns: int, r: int) -> np.ndarray:
    """Draw what chains that start remember as the noise of their last step, shape=[chains, r, min(2r, columns)].

    It is √3 times white noise: then the noise of the flat matrix after k steps has the variance of k steps, as
    ``(3 + 1)/4 = 1`` and ``3/4 + (k − 1) + 1/4 = k``.
    """
    kick = math.sqrt(3) * rng.standard_normal((chains, r, columns))
    if columns <= 2 * r:
        return kick
    triangle = np.linalg.qr(np.swapaxes(kick[:, :, r:], 1, 2), mode="r")
    return np.concatenate([kick[:, :, :r], np.swapaxes(triangle, 1, 2)], axis=2)


_CHAINS = 200  # with fewer, starting threads costs more than it saves


class Tables(NamedTuple):
    """Coefficients of the step of a metric that has no depth, in flat coordinates y; see :func:`advance`.

    Turns, shape=[chains, r, r], are ``√φ/(σ_l ∓ σ_k) − 1/(y_l ∓ y_k)`` for the pairs k < l: of ``+`` at (k, l) and of
    ``−`` at (l, k), each without the second term where the flat matrix has no such turn. Forces of the same shape
    are ``φ (y_l ∓ y_k)/(σ_l ∓ σ_k)`` at the same places and ``√φ_kk`` on the diagonal. The normal ones, shape=[chains,
    2, r], are ``√φ_k0/σ_k`` and ``φ_k0/σ_k``.
    """

    turn: np.ndarray
    force: np.ndarray
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
        ``u``, ``lam`` and ``v``, of which ``lam`` are the flat coordinates, λ at finite depth; and ``kick``, as by
        :func:`first_kick`; without it the noise is that of the step alone.
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
