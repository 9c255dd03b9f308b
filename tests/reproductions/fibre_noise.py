"""Noise along the fibre of all layers with one product: what it does to their imbalance."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

CASES = ((1, 2), (2, 2), (2, 3), (3, 3))  # d, N
TIMES, STEP, CHAINS = (0.125, 0.25, 0.5), 1 / 256, 200
DECAYS = (1.0, 10.0)

Array = np.ndarray


def product(w: Array) -> Array:
    """``W_N ⋯ W_1`` of layers, shape=[..., N, d, d], the first first."""
    x = w[..., 0, :, :]
    for p in range(1, w.shape[-3]):
        x = w[..., p, :, :] @ x
    return x


def imbalance(w: Array) -> Array:
    """``G_p = W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ``, shape=[..., N − 1, d, d]."""
    a, b = w[..., 1:, :, :], w[..., :-1, :, :]
    return a.mT @ a - b @ b.mT


def squared(w: Array) -> Array:
    """``‖G‖²``."""
    return np.sum(imbalance(w) ** 2, axis=(-3, -2, -1))


def sides(w: Array) -> tuple[list[Array], list[Array]]:
    """``W_N ⋯ W_{p+1}`` and ``W_{p−1} ⋯ W_1`` for each p."""
    n, d = w.shape[-3], w.shape[-1]
    left, right = (
        [np.broadcast_to(np.eye(d), (*w.shape[:-3], d, d))],
        [np.broadcast_to(np.eye(d), (*w.shape[:-3], d, d))],
    )
    for p in range(n - 1):
        right.append(w[..., p, :, :] @ right[-1])
        left.append(left[-1] @ w[..., n - 1 - p, :, :])
    return left[::-1], right


def jacobian(w: Array) -> Array:
    """Derivative of the product by the entries of all layers, shape=[..., d², N d²]."""
    d = w.shape[-1]
    blocks = [np.einsum("...ia,...bj->...ijab", a, b) for a, b in zip(*sides(w), strict=True)]
    return np.concatenate([b.reshape(*w.shape[:-3], d * d, d * d) for b in blocks], axis=-1)


def solved(jac: Array, right: Array) -> Array:
    """Shortest change of the layers with a given change of the product, ``Jᵀ (J Jᵀ)⁻¹ b``."""
    return (jac.mT @ np.linalg.solve(jac @ jac.mT, right[..., None]))[..., 0]


def half_laplacian(w: Array) -> float:
    r"""``½ Δ ‖G‖²`` of the fibre through one point: what intrinsic Brownian motion adds to ``‖G‖²`` in unit time.

    .. math:: \tfrac12 \sum_i \big(D^2 f[e_i, e_i] + Df[II(e_i, e_i)]\big), \qquad
        II(e, e) = -J^\top (J J^\top)^{-1} D^2\mu[e, e]

    over an orthonormal basis of the kernel of J, the derivative of the product μ.
    """
    n, d = w.shape[0], w.shape[-1]
    jac, g = jacobian(w), imbalance(w)
    basis = np.linalg.svd(jac)[2][d * d :].reshape(-1, n, d, d)

    def slope(e: Array) -> Array:
        a, b = w[1:].mT @ e[..., 1:, :, :], e[..., :-1, :, :] @ w[:-1].mT
        return a + a.mT - b - b.mT

    second = np.zeros((len(basis), d, d))
    for p in range(n):
        for q in range(p):
            middle = np.eye(d)
            for k in range(q + 1, p):
                middle = w[k] @ middle
            left, right = sides(w)
            second += 2 * left[p] @ basis[:, p] @ middle @ basis[:, q] @ right[q]
    bent = -solved(jac, second.reshape(len(basis), -1)).reshape(-1, n, d, d)
    own = 2 * np.sum(slope(basis) ** 2, axis=(-3, -2, -1)) + 2 * np.sum(g * 2 * imbalance(basis), axis=(-3, -2, -1))
    return float(np.sum(own + 2 * np.sum(g * slope(bent), axis=(-3, -2, -1)))) / 2


def steps(w: Array, h: float, rng: np.random.Generator, *, decay: float = 0.0, returned: bool = True) -> Array:
    """One step of Brownian motion of each chain along its fibre, with balancing at a rate.

    Without the way back to the fibre it is the noise of Itô, ``dW = P(W) dB``.
    """
    shape, size = w.shape, w.shape[-3] * w.shape[-1] ** 2
    jac, x = jacobian(w), product(w)
    noise = rng.standard_normal((*shape[:-3], size))
    move = math.sqrt(h) * (noise - solved(jac, (jac @ noise[..., None])[..., 0]))
    w = w + move.reshape(shape)
    if returned:
        w = back(w, x, jac)
    if decay:
        # Ẇ_p = G_p W_p − W_p G_{p−1}: down the gradient of ‖W‖² on the fibre. Steps of its own stand the stiffness.
        count = max(1, math.ceil(4 * decay * h * float(np.max(np.sum(w**2, axis=(-3, -2, -1))))))
        for _ in range(count):
            g = imbalance(w)
            turn = np.zeros(shape)
            turn[..., :-1, :, :] += g @ w[..., :-1, :, :]
            turn[..., 1:, :, :] -= w[..., 1:, :, :] @ g
            w = w + decay * h / count * turn
        w = back(w, x, jacobian(w))
    return w


def back(w: Array, x: Array, jac: Array) -> Array:
    """Project onto the fibre over x along the normal space of another point of it: a retraction of second order."""
    for _ in range(8):
        gap = product(w) - x
        if np.max(np.abs(gap)) < 1e-11:
            break
        # Newton's steps with the derivative here and the directions of the point that was left.
        now = jacobian(w)
        change = np.linalg.solve(now @ jac.mT, gap.reshape(*gap.shape[:-2], -1, 1))
        w = w - (jac.mT @ change).reshape(w.shape)
    return w


def balanced(d: int, depth: int, rng: np.random.Generator) -> Array:
    """Balanced layers of a matrix with singular values between ½ and 1½."""
    s = np.linspace(1.5, 0.5, d) if d > 1 else np.ones(1)
    frames = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(depth + 1)]
    return np.stack([(b * s ** (1 / depth)) @ a.T for a, b in pairwise(frames)])


def moved(w: Array, size: float, rng: np.random.Generator) -> Array:
    """Layers of the same product, acted on by random invertible matrices."""
    d, out = w.shape[-1], w.copy()
    for p in range(len(w) - 1):
        a = np.eye(d) + size * rng.standard_normal((d, d)) / math.sqrt(d)
        out[p], out[p + 1] = a @ out[p], out[p + 1] @ np.linalg.inv(a)
    return out


def fibre_noise() -> list[dict[str, Any]]:
    """Rates at which ``‖G‖²`` grows, exact and simulated, and where it is after a time."""
    rows = []
    for number, (d, depth) in enumerate(CASES):
        rng = np.random.default_rng([number, 3])
        start = balanced(d, depth, rng)
        others = [moved(start, size, rng) for size in np.repeat([0.1, 0.3, 0.6], 60)]
        row: dict[str, Any] = {"d": d, "depth": depth, "at balance": half_laplacian(start)}
        row["least"] = min(half_laplacian(w) for w in others)
        far = others[70]
        row["exact"], row["there"] = half_laplacian(far), float(squared(far))
        h, count = 1e-4, 10000
        chains = np.broadcast_to(far, (count, *far.shape))
        # Each draw with its opposite, so that the odd orders cancel.
        seed = int(rng.integers(2**31))
        ends = [squared(steps(chains, h, np.random.default_rng(seed))), squared(_opposite(chains, h, seed))]
        rates = (np.mean(ends, axis=0) - squared(far)) / h
        row["simulated"], row["simulated_error"] = float(rates.mean()), float(rates.std() / math.sqrt(count))
        for name, options in [
            ("fibre", {}),
            ("Itô", {"returned": False}),
            *((f"decay {c:g}", {"decay": c}) for c in DECAYS),
        ]:
            w, now, means = np.broadcast_to(start, (CHAINS, *start.shape)).copy(), 0.0, []
            generator = np.random.default_rng([number, 4])
            while now < max(TIMES) - 1e-12:
                w = steps(w, STEP, generator, **options)
                now += STEP
                if any(abs(now - t) < STEP / 2 for t in TIMES):
                    value = squared(w)
                    means.append([now, *_median(value)])
            row[name] = means
        rows.append(row)
    return rows


def _median(value: Array) -> tuple[float, float]:
    """Median, and half the distance of the order statistics one standard error apart."""
    ordered, half = np.sort(value), math.sqrt(len(value)) / 2
    low, high = (ordered[round(len(value) / 2 + sign * half)] for sign in (-1, 1))
    return float(np.median(value)), float(high - low) / 2


def _opposite(chains: Array, h: float, seed: int) -> Array:
    class Negative:
        generator = np.random.default_rng(seed)

        def standard_normal(self, shape: Any) -> Array:
            return -self.generator.standard_normal(shape)

    return steps(chains, h, Negative())  # type: ignore[arg-type]
