"""The cost and the spaces that the tests of flows share."""

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear

from dlngeo.geomstats import DLNMetric


def equipped(space, metric=DLNMetric, **options):
    space.equip_with_metric(metric, **options)
    return space


def square(d, **options):
    """Invertible matrices with the metric of a depth."""
    return equipped(GeneralLinear(d, equip=False), **options)


class Convex:
    """``Σ ½Y² + √(1 + Y²)`` over the entries of ``Y = X − T``: convex, neither quadratic nor invariant."""

    def __init__(self, rng, m, n):
        self.target = rng.standard_normal((m, n))

    def __call__(self, x):
        y = x - self.target
        return np.sum(y**2 / 2 + np.sqrt(1 + y**2))

    def gradient(self, x):
        y = x - self.target
        return y + y / np.sqrt(1 + y**2)
