"""The cost that the tests of flows share."""

import numpy as np


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
