"""The slope of the entropy in λ, and powers of λ, of many chains, compiled."""

from __future__ import annotations

import math

import numpy as np

from dlngeo.compiled import jit
from dlngeo.thermodynamics.entropy import CLOSE, SpectralEntropy, slope_apart, slope_close

__all__ = ["entropy_slope", "raised"]

_POWER = math.exp(-CLOSE)  # of ρ^{2N} = e^{−y}, above which a pair is close


@jit
def raised(x, whole, part):  # type: ignore[no-untyped-def]
    """Power of a whole exponent and a part of 1; without the part as by multiplications."""
    power = x**whole
    return power * x**part if part > 0.0 else power


_slope_apart, _slope_close = jit(slope_apart), jit(slope_close)


@jit
def _slopes(lam, whole, part, excess, series):  # type: ignore[no-untyped-def]
    chains, r = lam.shape
    depth = whole + part
    out, rest = np.full((chains, r), excess), (depth - 1.0) / depth
    for c in range(chains):
        for k in range(r):
            for q in range(k):
                big, small = (k, q) if lam[c, k] > lam[c, q] else (q, k)
                # Of λ, the exponentials are powers: e^{−εy} = ρ², and e^{−y} = ρ^{2N}.
                ratio = (lam[c, small] / lam[c, big]) ** 2
                power = raised(ratio, whole - 1, part)
                growth = (lam[c, big] - lam[c, small]) * (lam[c, big] + lam[c, small]) / lam[c, small] ** 2
                if ratio * power > _POWER:
                    share = _slope_close(depth * math.log1p(growth), rest, series)
                else:
                    share = _slope_apart(1.0 / (depth * growth), 1.0 - power, ratio * power, rest)
                out[c, small] += share
                out[c, big] += rest - share
        for k in range(r):
            out[c, k] /= lam[c, k]
    return out


def entropy_slope(lam: np.ndarray, entropy: SpectralEntropy) -> np.ndarray:
    """``(1/N) ∂S/∂λ_k = λ_k^{−1} ∂S/∂u_k`` of an entropy of finite depth, at many λ, shape=[chains, r]."""
    whole = math.floor(entropy.depth)
    return _slopes(lam, whole, entropy.depth - whole, entropy.excess, np.array(entropy.series))
