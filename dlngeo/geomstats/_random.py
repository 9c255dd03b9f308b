"""Random draws for the spaces of weights, from a generator or seed or from ``gs.random``."""

from __future__ import annotations

import math
from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo import _check

__all__ = ["batch", "draw"]


def batch(n_samples: int) -> tuple[int, ...]:
    """Batch shape of samples, empty for one, as geomstats has it."""
    n_samples = _check.positive_integer(n_samples, "n_samples")
    return () if n_samples == 1 else (n_samples,)


def draw(shape: tuple[int, ...], rng: Any = None) -> Any:
    """Sample independent standard normal entries, by a generator or seed or by ``gs.random``."""
    if math.prod(shape) == 0:
        return gs.zeros(shape)
    if rng is None:
        return gs.random.normal(size=shape)
    return gs.from_numpy(np.random.default_rng(rng).standard_normal(shape))
