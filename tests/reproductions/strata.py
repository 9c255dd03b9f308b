"""Langevin dynamics at a rank: whether a singular value reaches zero, and what happens there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear

from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.sampling import Langevin, SpectralPotential

# m, n, r, N, noise; inner widths are min(m, n)
CASES = (
    (2, 2, 2, 2, "base"),
    (2, 2, 2, 3, "base"),
    (3, 3, 3, 2, "base"),
    (2, 2, 2, 2, "isotropic"),
    (2, 3, 2, 2, "base"),
    (2, 4, 2, 3, "base"),
    (3, 3, 2, 2, "base"),
    (3, 3, 2, 2, "isotropic"),
    (3, 3, 2, 3, "isotropic"),
)
CHAINS = 500, 1000, 4000, 10_000, 30_000  # by dimension: the higher it is, the fewer come near zero
STEPS, THIN, STEP = 1500, 50, 0.01
NEAR = 0.3  # values of λ_r below this tell the exponent


def dimension(m: int, n: int, r: int, depth: int, noise: str) -> float:
    """Dimension of the Bessel process that the least ``λ = σ^{1/N}`` is near zero.

    ``dvol_g`` has the density ``λ^{m+n−2r}`` in λ there, and ``e^S`` adds ``Σ_p (d_p − r)`` to the exponent; N dλ² is
    the metric. A process with the density ``λ^a`` and constant noise is that of Bessel of dimension a + 1.
    """
    spare = (depth - 1) * (min(m, n) - r) if noise == "isotropic" else 0
    return m + n - 2 * r + spare + 1


def strata() -> list[dict[str, Any]]:
    """Exponents of the law of the least singular value, and how often the determinant changes its sign."""
    rows = []
    potential = SpectralPotential(lambda lam: np.sum(lam**2, axis=-1) / 2, lambda lam: lam)
    for number, (m, n, r, depth, noise) in enumerate(CASES):
        square = m == n == r
        space = GeneralLinear(m, equip=False) if square else FixedRankMatrices(m, n, r, equip=False)
        space.equip_with_metric(DLNMetric, depth=depth)
        rng = np.random.default_rng([number, 2])
        chains = CHAINS[int(dimension(m, n, r, depth, noise)) - 1]
        u, v = (np.linalg.qr(rng.standard_normal((chains, k, r)))[0] for k in (m, n))
        start = (u, np.sort(0.5 + rng.random((chains, r)))[:, ::-1].copy(), v.mT.copy())
        sampler = Langevin(space, potential, 1.0, STEP, noise=noise)
        found = sampler.sample(start, STEPS, burn_in=500, thin=THIN, rng=rng)
        points = np.asarray(found.points)
        least = np.linalg.svd(points)[1][..., r - 1] ** (1 / depth)
        logs = np.where(least < NEAR, np.log(NEAR / np.maximum(least, 1e-300)), 0.0)
        count, total = np.sum(least < NEAR, axis=1), np.sum(logs, axis=1)
        # The maximum of the likelihood of P(λ < l) ∝ l^δ is 1/mean(log(l₀/λ)); its error is that over chains.
        estimate = float(count.sum() / total.sum())
        error = estimate * math.sqrt(float(np.sum((count - estimate * total) ** 2))) / float(count.sum())
        row = {"m": m, "n": n, "rank": r, "depth": depth, "noise": noise, "near": int(count.sum())}
        row |= {"derived": dimension(m, n, r, depth, noise), "measured": estimate, "error": error}
        signs = np.sign(np.linalg.det(points)) if square else None
        row["changes"] = None if signs is None else float(np.mean(np.diff(signs, axis=1) != 0))
        row["smallest"] = float(least.min())
        rows.append(row)
    return rows
