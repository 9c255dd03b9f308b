r"""One step of many chains through balanced factors, compiled.

With ``K = −h UᵀE′V + √(2h/β) ξ/√φ`` in the frame of ``X = U Λ^N Vᵀ``, the N balanced factors
``W_p = Λ + Λ^{N−p} K Λ^{p−1}`` are multiplied: the second-order retraction of :mod:`dlngeo.retraction`, in which λ
crosses zero smoothly. The state is (U, Λ, V), and no small λ may lose its digits to a large one as the frames turn.
Therefore the product is split in the middle, with ``a = ⌊N/2⌋``, ``F = W_N``, and a mirror image of G on the right:

.. math:: W_N \cdots W_1 = G\, \Lambda^{2a} M \Lambda^{2a}\, \tilde G^\top, \qquad
    G = (F \Lambda)^a \Lambda^{-2a} = \prod_{j=0}^{a-1} \Lambda^{2j} (F \Lambda^{-1}) \Lambda^{-2j},

with ``M = Λ^{−N}`` at even N and ``Λ^{2−N} + K`` at odd N. The entry (k, l) of the noise in F is at most
``√h min(1, λ_l/λ_k)^{N−1}``, so that every factor of G, though it is a similarity by powers of Λ, is the identity plus
terms of the order of the step. G is well-conditioned up to a scaling of its columns, the grading is all in the middle,
and the decomposition of :mod:`dlngeo.sampling._svd` keeps it. Powers go by squaring, in O(r³ log N). Where a step is
not small against some λ, the factors are multiplied one by one in graded form, in O(N r³).

The product gives the singular vectors. Its singular values would do too, but where two of them, or one below full rank,
are of the order of √h, their error costs the weak order a logarithm. With no potential the law of Λ after a time t is
known: it is that of the singular values of ``Λ + √(2t/βN) G`` with an r×(m + n − r) Gaussian matrix G [1]_. So Λ steps
by it, with G made of the same noise as K: to first order the two agree path by path, to second order in law, and where
singular values coincide path by path to both. This leaves the force, which is smooth, as the source of bias in Λ.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004, Section 10.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np

from dlngeo.sampling._svd import graded_svd, orthonormalize, orthonormalize_pivoted

__all__ = ["advance", "entropy_slope", "floor"]

# Where columns of G are closer to one another than this angle, or scaled by more than e to this power, too many digits
# may be lost, and the factors are multiplied one by one.
_FLAT, _GROWTH = 1e-3, 6.0

# The smallest λ^N that a state may hold; see :func:`floor`.
_TINY = 1e-290


def floor(depth: int) -> float:
    """Smallest λ that the chains represent, ``10^{−290/N}``: 6e-37 at N = 8 and 3e-5 at N = 64; none falls below it."""
    return _TINY ** (1 / depth)


def _advance(u, lam, v, gradient, radial, core_noise, left_noise, right_noise, depth, h, temperature, failed):  # type: ignore[no-untyped-def]
    chains, m, r = u.shape
    n = v.shape[1]
    amplitude = math.sqrt(2.0 * h * temperature)
    smallest = _TINY ** (1.0 / depth)
    for c in range(chains):
        uc, lc, vc, g = u[c], lam[c], v[c], gradient[c]
        ug, gv = np.zeros((r, n)), np.zeros((m, r))
        for i in range(m):
            for j in range(n):
                gij = g[i, j]
                for k in range(r):
                    ug[k, j] += uc[i, k] * gij
                    gv[i, k] += gij * vc[j, k]
        force = _product(ug, vc)
        # max(λ_k, λ_q)^{N−1} K, from it K Λ^{N−1} and its mirror Kᵀ Λ^{N−1}, and for the middle Λ^{N−1} K Λ^{N−1}.
        noise, upper, lower, middle = np.empty((r, r)), np.empty((r, r)), np.empty((r, r)), np.zeros((r, r))
        for k in range(r):
            for q in range(r):
                big, small = max(lc[k], lc[q]), min(lc[k], lc[q])
                ratio = math.log(small / big)
                # φ = big^{2N−2} Σ_p ρ^{2p}, ρ = small/big
                terms = float(depth) if ratio == 0.0 else math.expm1(2 * depth * ratio) / math.expm1(2 * ratio)
                unit = amplitude * core_noise[c, k, q] / math.sqrt(terms) - h * force[k, q] * big ** (depth - 1)
                if k == q:
                    unit -= h * radial[c, k]
                noise[k, q] = unit
                upper[k, q] = unit * (lc[q] / big) ** (depth - 1)
                lower[q, k] = unit * (lc[k] / big) ** (depth - 1)
                if depth % 2 == 1:
                    middle[k, q] = unit * small ** (depth - 1)
            middle[k, k] += lc[k] ** depth
        left = _side(uc, upper, lc)
        right = _side(vc, lower, lc)
        if m > r:
            _add_normal(left, uc, gv, left_noise[c], lc, depth, h, amplitude)
        if n > r:
            _add_normal(right, vc, ug.T, right_noise[c], lc, depth, h, amplitude)
        r_left, r_right = np.empty((r, r)), np.empty((r, r))
        graded = _is_tame(noise, lc, depth)
        if graded:
            left_end, right_end = left, right
            left = _product(left, _power(upper, lc, depth // 2 - 1))
            right = _product(right, _power(lower, lc, depth // 2 - 1))
            graded = orthonormalize(left, r_left) > _FLAT and orthonormalize(right, r_right) > _FLAT
            if graded:
                middle = _product(_product(r_left, middle), r_right.T)
            else:
                left, right = left_end, right_end
        if not graded:
            if not (orthonormalize(left, r_left) > 0.0 and orthonormalize(right, r_right) > 0.0):
                failed[c] = True
                continue
            middle = _one_by_one(noise, lc, depth, r_left, r_right)
            left = _product(left, r_left)
        a, s, b = np.empty((r, r)), np.empty(r), np.empty((r, r))
        if not graded_svd(middle, a, s, b):
            failed[c] = True
            continue
        if not _spectrum(core_noise[c], left_noise[c], right_noise[c], uc, vc, lc, noise, depth, amplitude, s):
            failed[c] = True
            continue
        u[c] = _product(left, a)
        v[c] = _product(right, b)
        for k in range(r):
            lam[c, k] = max(s[k], smallest)


@numba.njit(cache=True, error_model="numpy")
def _spectrum(core_noise, left_noise, right_noise, u, v, lam, noise, depth, amplitude, out):  # type: ignore[no-untyped-def]
    """Singular values of ``Λ + √(2h/βN) G`` with G the r×(m + n − r) noise, and the force on the diagonal."""
    m, r = u.shape
    n = v.shape[0]
    rows = np.zeros((r + (m if m > r else 0) + (n if n > r else 0), r))
    scale = amplitude / math.sqrt(depth)
    for k in range(r):
        for q in range(r):
            rows[q, k] = scale * core_noise[k, q]
        rows[k, k] = lam[k] + noise[k, k]
    done = r
    if m > r:
        _normal_rows(rows, done, u, left_noise, scale)
        done += m
    if n > r:
        _normal_rows(rows, done, v, right_noise, scale)
    triangle, a, b = np.empty((r, r)), np.empty((r, r)), np.empty((r, r))
    return orthonormalize(rows, triangle) > 0.0 and graded_svd(triangle, a, out, b)


@numba.njit(cache=True, error_model="numpy")
def _normal_rows(rows, start, frame, noise, scale):  # type: ignore[no-untyped-def]
    """Write the part of noise orthogonal to a frame into rows from ``start`` on."""
    m, r = frame.shape
    for q in range(r):
        for i in range(m):
            rows[start + i, q] = scale * noise[i, q]
        for k in range(r):
            total = 0.0
            for i in range(m):
                total += frame[i, k] * scale * noise[i, q]
            for i in range(m):
                rows[start + i, q] -= total * frame[i, k]


@numba.njit(cache=True, error_model="numpy")
def _is_tame(noise, lam, depth):  # type: ignore[no-untyped-def]
    """Whether the step is small against each λ, so that G is near the identity but for moderate scalings."""
    r = lam.size
    for k in range(r):
        if not abs((depth // 2) * math.log(abs(1.0 + noise[k, k] / lam[k]))) < _GROWTH:
            return False
        for q in range(r):
            if q != k and not abs(noise[k, q]) < 0.5 * max(lam[k], lam[q]):
                return False
    return True


@numba.njit(cache=True, error_model="numpy")
def _side(frame, noise, lam):  # type: ignore[no-untyped-def]
    """Outer factor ``U (Λ + K Λ^{N−1}) Λ^{−1}``."""
    m, r = frame.shape
    out = np.empty((m, r))
    for i in range(m):
        for q in range(r):
            total = frame[i, q] * lam[q]
            for k in range(r):
                total += frame[i, k] * noise[k, q]
            out[i, q] = total / lam[q]
    return out


@numba.njit(cache=True, error_model="numpy")
def _add_normal(factor, frame, gradient, noise, lam, depth, h, amplitude):  # type: ignore[no-untyped-def]
    """Add the part orthogonal to the frame of ``(√(2h/β) ξ − h E′ Λ^{N−1}) Λ^{−1}``."""
    m, r = factor.shape
    for q in range(r):
        column = np.empty(m)
        scale = h * lam[q] ** (depth - 1)
        for i in range(m):
            column[i] = amplitude * noise[i, q] - scale * gradient[i, q]
        for k in range(r):
            total = 0.0
            for i in range(m):
                total += frame[i, k] * column[i]
            for i in range(m):
                column[i] -= total * frame[i, k]
        for i in range(m):
            factor[i, q] += column[i] / lam[q]


@numba.njit(cache=True, error_model="numpy")
def _product(a, b):  # type: ignore[no-untyped-def]
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                out[i, j] += a[i, k] * b[k, j]
    return out


@numba.njit(cache=True, error_model="numpy")
def _one_by_one(noise, lam, depth, r_left, r_right):  # type: ignore[no-untyped-def]
    """``R_left Λ W_{N−1} ⋯ W_2 Λ R_rightᵀ`` as Q D T, factor by factor, by QR with column pivoting.

    T stays well-conditioned and D graded. Q overwrites ``r_left``, which the left frame absorbs; ``D T`` is returned.
    """
    r = lam.size
    factor, triangle, order = np.empty((r, r)), np.empty((r, r)), np.empty(r, dtype=np.int64)
    q, t, d = np.eye(r), np.empty((r, r)), np.ones(r)
    for k in range(r):
        for j in range(r):
            t[k, j] = lam[k] * r_right[j, k]
    for p in range(2, depth + 1):
        for k in range(r):
            for j in range(r):
                if p == depth:
                    factor[k, j] = r_left[k, j] * lam[j]
                else:  # W_p = Λ + Λ^{N−p} K Λ^{p−1}
                    big = max(lam[k], lam[j])
                    factor[k, j] = noise[k, j] * (lam[k] / big) ** (depth - p) * (lam[j] / big) ** (p - 1)
                    if k == j:
                        factor[k, j] += lam[k]
        q = _product(factor, q)
        for k in range(r):
            for j in range(r):
                q[j, k] *= d[k]
        orthonormalize_pivoted(q, triangle, order)
        old = t.copy()
        for k in range(r):
            # Below the smallest λ^N represented a value is raised to it, as in every state.
            d[k] = max(triangle[k, k], _TINY)
            for j in range(r):
                t[k, j] = 0.0
                for i in range(k, r):
                    t[k, j] += (triangle[k, i] / d[k] if i > k else 1.0) * old[order[i], j]
    r_left[:] = q
    for k in range(r):
        for j in range(r):
            t[k, j] *= d[k]
    return t


@numba.njit(cache=True, error_model="numpy")
def _power(noise, lam, count):  # type: ignore[no-untyped-def]
    """``Λ² (F Λ)^count Λ^{−2 count − 2}`` for ``F = Λ + noise``: the factors of G after its first."""
    r = lam.size
    square, power = np.empty((r, r)), 1
    for k in range(r):
        for q in range(r):
            square[k, q] = noise[k, q] / lam[q]
        square[k, k] += 1.0
    result, done = np.eye(r), 0
    while count > 0:
        if count % 2 == 1:
            result = _product(result, _conjugate(square, lam, done))
            done += power
        count //= 2
        if count > 0:
            square = _product(square, _conjugate(square, lam, power))
            power *= 2
    return _conjugate(result, lam, 1)


@numba.njit(cache=True, error_model="numpy")
def _conjugate(a, lam, power):  # type: ignore[no-untyped-def]
    """``Λ^{2 power} A Λ^{−2 power}``."""
    r = lam.size
    out = np.zeros((r, r))
    for k in range(r):
        for q in range(r):
            if a[k, q] != 0.0:
                out[k, q] = a[k, q] * (lam[k] / lam[q]) ** (2 * power)
    return out


@numba.njit(cache=True, error_model="numpy")
def entropy_slope(lam, depth, excess):  # type: ignore[no-untyped-def]
    """``(1/N) ∂S/∂λ_k`` of the entropy, shape=[chains, r]; ``excess`` is ``Σ_p (d_p − r)`` over the inner widths.

    It is :class:`~dlngeo.spectral_entropy.SpectralEntropy` in λ: samplers meet λ whose ``σ = λ^N`` underflows.

    ``∂S/∂λ_k = Σ_{q≠k} [N/(1 − ρ^{2N}) − 1/(1 − ρ²)]/λ_k + excess/λ_k`` with ``ρ = λ_q/λ_k``, whose bracket is
    ``(N−1)/2 − (N²−1) ε/12 + (N⁴−1) ε³/720 − …`` in ``ε = log ρ²``.
    """
    chains, r = lam.shape
    out = np.empty((chains, r))
    for c in range(chains):
        for k in range(r):
            total = float(excess)
            for q in range(r):
                if q != k:
                    x = 2.0 * math.log(lam[c, q] / lam[c, k])
                    if abs(depth * x) < 0.02:
                        total += (depth - 1) / 2 - (depth**2 - 1) * x / 12 + (float(depth) ** 4 - 1) * x**3 / 720
                    else:
                        total += 1.0 / math.expm1(x) - depth / math.expm1(depth * x)
            out[c, k] = total / (depth * lam[c, k])
    return out


# With fewer chains starting a thread costs more than it saves. Plain threads, as the compiled loop releases the GIL:
# Numba's parallel loops take three times as long to compile.
_CHAINS_PER_THREAD = 100

_compiled = numba.njit(cache=True, error_model="numpy", nogil=True)(_advance)


def advance(
    state: dict[str, np.ndarray],
    gradient: np.ndarray,
    radial: np.ndarray,
    noise: tuple[np.ndarray, np.ndarray, np.ndarray],
    depth: int,
    step_size: float,
    temperature: float,
) -> np.ndarray:
    """Advance all chains by one step, in place.

    Parameters
    ----------
    state : dict
        ``u``, shape=[chains, m, r]; ``lam``, shape=[chains, r]; ``v``, shape=[chains, n, r].
    gradient : array, shape=[chains, m, n]
        Euclidean gradient of the potential.
    radial : array, shape=[chains, r]
        ``λ_k^{N−1} ∂/∂σ_k = (1/N) ∂/∂λ_k`` of a potential of the singular values, which adds to it.
    noise : tuple of array, shape=[chains, r, r], [chains, m, r], [chains, n, r]
        Standard normal; the second and third are not read where u and v are square.
    depth : int
        Depth N, at least 2.
    step_size, temperature : float
        h and 1/β.

    Returns
    -------
    array, shape=[chains]
        Whether a step failed; the state of that chain is unchanged.
    """
    failed = np.zeros(len(gradient), dtype=bool)
    arrays = (state["u"], state["lam"], state["v"], gradient, radial, *noise)

    def run(part: slice) -> None:
        u, lam, v, force, slope, core, left, right = (a[part] for a in arrays)
        _compiled(u, lam, v, force, slope, core, left, right, depth, step_size, temperature, failed[part])

    threads = min(numba.get_num_threads(), len(gradient) // _CHAINS_PER_THREAD)
    if threads < 2:
        run(slice(None))
    else:
        bounds = np.linspace(0, len(gradient), threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, (slice(a, b) for a, b in pairwise(bounds))))
    return failed
