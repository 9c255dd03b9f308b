"""Slow definitions, written without the package, that its closed forms are tested against.

Nothing here imports ``dlngeo``. Kernels come from their defining quotients in multiple precision, cometrics from
literal matrix powers, volumes from Gram determinants, and derivatives from central differences extrapolated to zero
step.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import mpmath
import numpy as np

TINY, HUGE = np.finfo(float).tiny, np.finfo(float).max

# Kernels.


def _mp_phi(s, t, depth):
    """The defining quotient of the unnormalised kernel (normalised at infinite depth) at distinct or zero arguments."""
    if math.isinf(depth):
        return mpmath.mpf(0) if s == 0 or t == 0 else (s**2 - t**2) / (2 * mpmath.log(s / t))
    power = 2 / mpmath.mpf(depth)
    return (s**2 - t**2) / (s**power - t**power)


def _precision(*values):
    """Digits with which differences of powers of the values keep more than 30: the ratio enters squared."""
    positive = [v for v in values if v > 0]
    spread = math.log10(max(positive)) - math.log10(min(positive)) if positive else 0.0
    return 140 + math.ceil(2.2 * spread)


def _separate(values):
    """Values times 1, 1 + h, 1 + 2h with h = 1e-30: quotients at equal values become their limits, to order h."""
    step = mpmath.mpf(10) ** -30
    return [mpmath.mpf(float(v)) * (1 + i * step) for i, v in enumerate(values)]


def phi(s, t, depth, normalized=False):
    """``φ(s, t)`` of the depth kernel to at least 25 digits, as an mpmath number."""
    with mpmath.workdps(60):
        if depth == 1:
            return mpmath.mpf(1)
        if s == t == 0:
            return mpmath.mpf(0)
        value = _mp_phi(*_separate((s, t)), depth)
        return value / depth if normalized and not math.isinf(depth) else value


def psi(r, s, t, depth, normalized=False):
    """``ψ_r(s, t) = (φ(r, t) − φ(r, s))/(t² − s²)`` to at least 25 digits; infinite at ``s = t = 0`` for depth > 1."""
    with mpmath.workdps(_precision(r, s, t)):
        if depth == 1:
            return mpmath.mpf(0)
        if s == t == 0:
            return mpmath.inf
        r, s, t = _separate((r, s, t))
        at_s, at_t = ((mpmath.mpf(0) if r == v == 0 else _mp_phi(r, v, depth)) for v in (s, t))
        value = (at_t - at_s) / (t**2 - s**2)
        return value / depth if normalized and not math.isinf(depth) else value


def phi_monomials(s, t, depth):
    """``φ`` at integer depth as the sum of ``N`` positive monomials."""
    return sum(s ** (2 * (depth - p) / depth) * t ** (2 * (p - 1) / depth) for p in range(1, depth + 1))


def psi_monomials(r, s, t, depth):
    """``ψ`` at integer depth as a quotient of sums of positive monomials."""
    a, b, c = (v ** (2 / depth) for v in (r, s, t))
    powers = ((i, j, depth - 2 - i - j) for i in range(depth - 1) for j in range(depth - 1 - i))
    return sum(a**i * b**j * c**k for i, j, k in powers) / phi_monomials(s, t, depth)


def relative_error(value, exact):
    """Relative error of a double against an mpmath number.

    Below the smallest normal double the error is measured in units of its last digit, and above the largest one
    infinity is right.
    """
    if mpmath.isinf(exact) or exact > HUGE:
        return 0.0 if value == math.inf else math.inf
    if math.isinf(value) or math.isnan(value):
        return math.inf
    with mpmath.workdps(40):
        return float(abs(mpmath.mpf(float(value)) - exact) / max(abs(exact), mpmath.mpf(TINY)))


# Points.


def orthogonal(rng, d):
    """A Haar-distributed orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def factors(rng, m, n, singular_values):
    """Random ``u, s, vt`` with the given singular values."""
    s = np.asarray(singular_values, dtype=float)
    return orthogonal(rng, m)[:, : s.size], s, orthogonal(rng, n)[: s.size]


def dense(u, s, vt):
    """The matrix of its factors."""
    return (u * s[..., None, :]) @ vt


def tangent(rng, u, vt):
    """A random tangent vector at rank r: any matrix without the part orthogonal to both sides."""
    z = rng.standard_normal((u.shape[0], vt.shape[1]))
    return project(u, vt, z)


def project(u, vt, z):
    """Orthogonal projection onto the tangent space of the matrices of rank r."""
    left, right = u @ u.T, vt.T @ vt
    return left @ z + z @ right - left @ z @ right


def tangent_basis(u, vt):
    """Frobenius-orthonormal basis of the tangent space, shape=[dim, m, n]."""
    m, n, r = u.shape[0], vt.shape[1], vt.shape[0]
    full_u = np.linalg.svd(u, full_matrices=True)[0]
    full_v = np.linalg.svd(vt, full_matrices=True)[2].T
    full_u[:, :r], full_v[:, :r] = u, vt.T
    pairs = [(i, j) for i, j in product(range(m), range(n)) if i < r or j < r]
    return np.stack([np.outer(full_u[:, i], full_v[:, j]) for i, j in pairs])


def curve(u, s, vt, z):
    """A curve ``h ↦ X(h)`` of matrices of rank r with ``X(0) = X`` and ``X′(0) = Z``, ``Z`` tangent."""
    core = u.T @ z @ vt.T
    left, right = z @ vt.T - u @ core, (u.T @ z - core @ vt).T

    def at(h):
        a, b = u + h * left / s, vt.T + h * right / s
        return a @ (np.diag(s) + h * core) @ b.T

    return at


# The cometric.


def symmetric_power(a, power, rank=None):
    """Power of a symmetric positive semidefinite matrix of the given rank; the zeroth power is the identity."""
    if power == 0:
        return np.eye(a.shape[-1])
    w, q = np.linalg.eigh(a)
    w[: a.shape[-1] - (rank or a.shape[-1])] = 0
    return (q * np.maximum(w, 0) ** power) @ q.T


def literal_cometric(x, z, depth, rank=None):
    """``Σ_p (XXᵀ)^{(N−p)/N} Z (XᵀX)^{(p−1)/N}``, literally; integer depth.

    At depth 1 below full rank this is the identity, of which the tangent part has to be taken.
    """
    rank = rank or min(x.shape)
    left, right = x @ x.T, x.T @ x
    return sum(
        symmetric_power(left, (depth - p) / depth, rank) @ z @ symmetric_power(right, (p - 1) / depth, rank)
        for p in range(1, depth + 1)
    )


def schur_cometric(x, z, kernel, rank=None):
    """``U[φ ∘ (UᵀZV)]Vᵀ`` in full singular bases, the kernel of two vanishing singular values being zero.

    ``kernel(s, t)`` is called on pairs of floats, the simplest way to define any kernel.
    """
    m, n = x.shape
    rank = rank or min(m, n)
    u, s, vt = np.linalg.svd(x, full_matrices=True)
    rows, cols = np.zeros(m), np.zeros(n)
    rows[:rank], cols[:rank] = s[:rank], s[:rank]
    multiplier = np.array(
        [[kernel(rows[i], cols[j]) if i < rank or j < rank else 0.0 for j in range(n)] for i in range(m)]
    )
    return u @ (multiplier * (u.T @ z @ vt.T)) @ vt


def naive(depth):
    """The kernel of depth N on floats by its defining quotient, in multiple precision where that would cancel."""

    def kernel(s, t):
        if abs(s - t) < 0.01 * s:
            return float(phi(s, t, depth))
        if math.isinf(depth):
            return 0.0 if s * t == 0 else (s**2 - t**2) / math.log(s**2 / t**2)
        return (s**2 - t**2) / (s ** (2 / depth) - t ** (2 / depth))

    return kernel


def matrix_of(operator, basis):
    """Matrix of a linear operator on m×n matrices in an orthonormal basis, shape=[dim, dim]."""
    images = np.stack([operator(e) for e in basis])
    return np.einsum("aij,bij->ab", basis, images)


def mp_cometric(x, z, depth):
    """The literal sum at integer depth in the working precision of mpmath, for mpmath matrices of full rank."""

    def power(a, exponent):
        w, q = mpmath.eigsy(a)
        return q * mpmath.diag([v**exponent for v in w]) * q.T

    left, right = x * x.T, x.T * x
    total = mpmath.zeros(x.rows, x.cols)
    for p in range(1, depth + 1):
        a = power(left, mpmath.mpf(depth - p) / depth) if p < depth else mpmath.eye(x.rows)
        b = power(right, mpmath.mpf(p - 1) / depth) if p > 1 else mpmath.eye(x.cols)
        total += a * z * b
    return total


# Derivatives.


def derivative(f, step=0.02, levels=6):
    """``f′(0)`` by central differences extrapolated to zero step (Romberg)."""
    table = [(f(h) - f(-h)) / (2 * h) for h in (step / 2**i for i in range(levels))]
    return _extrapolate(table)


def second_derivative(f, step=0.1, levels=6):
    """``f″(0)`` by central differences extrapolated to zero step (Romberg)."""
    middle = f(0.0)
    return _extrapolate([(f(h) - 2 * middle + f(-h)) / h**2 for h in (step / 2**i for i in range(levels))])


def _extrapolate(table):
    factor = 4.0
    while len(table) > 1:
        table = [(factor * b - a) / (factor - 1) for a, b in pairwise(table)]
        factor *= 4
    return table[0]


def central_orders(f, exact, step=0.02, levels=4):
    """Observed orders at which central differences of ``f`` at 0 approach ``exact``: 2, unless it is wrong."""
    errors = [np.max(np.abs((f(h) - f(-h)) / (2 * h) - exact)) for h in (step / 2**i for i in range(levels))]
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


# A cost with known derivatives and no symmetry.


class Cost:
    """``E(X) = ½⟨X, BXC⟩ + ⟨D, sin X⟩``: neither convex nor invariant, with derivatives of every order."""

    def __init__(self, rng, m, n):
        self.b, self.c, self.d = (rng.standard_normal(shape) for shape in ((m, m), (n, n), (m, n)))

    def __call__(self, x):
        return 0.5 * np.sum(x * (self.b @ x @ self.c)) + np.sum(self.d * np.sin(x))

    def gradient(self, x):
        return 0.5 * (self.b @ x @ self.c + self.b.T @ x @ self.c.T) + self.d * np.cos(x)

    def hessian(self, x, z):
        return 0.5 * (self.b @ z @ self.c + self.b.T @ z @ self.c.T) - self.d * np.sin(x) * z


# Upstairs.


def balanced_factors(rng, u, s, vt, inner_widths):
    """Balanced ``W_1, …, W_N`` over ``X = u diag(s) vt``, first layer first, with the given inner widths."""
    depth, r = len(inner_widths) + 1, s.size
    frames = [vt.T, *(orthogonal(rng, d)[:, :r] for d in inner_widths), u]
    lam = s ** (1 / depth)
    return [(q * lam) @ p.T for p, q in pairwise(frames)]


def multiply(weights):
    """``W_N ⋯ W_1``."""
    x = weights[0]
    for w in weights[1:]:
        x = w @ x
    return x


def lift(weights, p):
    """Horizontal lift of the tangent vector of momentum ``P``: ``(W_N ⋯ W_{p+1})ᵀ P (W_{p−1} ⋯ W_1)ᵀ``."""
    n_layers, d_out, d_in = len(weights), p.shape[0], p.shape[1]
    lifted = []
    for i in range(n_layers):
        after = multiply(weights[i + 1 :]) if i + 1 < n_layers else np.eye(d_out)
        before = multiply(weights[:i]) if i else np.eye(d_in)
        lifted.append(after.T @ p @ before.T)
    return lifted
