"""Kernels as users write them: by φ alone, or with some of its differences."""

import numpy as np

from dlngeo import Kernel


class Quadratic(Kernel):
    """``φ = s² + t²``, ``ψ = 1``; the divided differences of second derivatives are left to their defaults."""

    def __call__(self, s, t):
        return s**2 + t**2

    def divided_difference(self, r, s, t):
        return 1.0 + 0 * (r + s + t)


class Product(Kernel):
    """``φ = 1 + st``, ``ψ_r = r/(s + t)``: no depth kernel, not homogeneous, positive and not smooth at zero."""

    def __call__(self, s, t):
        return 1 + s * t

    def divided_difference(self, r, s, t):
        return r / (s + t)


class Offset(Kernel):
    """``φ = √(s² + c) + √(t² + c)``, positive at (0, 0): two layers whose imbalance is a multiple of the identity."""

    def __init__(self, c=0.1):
        self.c = c

    def __call__(self, s, t):
        return np.sqrt(s**2 + self.c) + np.sqrt(t**2 + self.c)


class Constant(Kernel):
    """``φ = c``, ``ψ = 0``, a multiple of the Frobenius metric that has no depth."""

    def __init__(self, c=1.0):
        self.c = c

    def __call__(self, s, t):
        return self.c * np.ones(np.broadcast_shapes(np.shape(s), np.shape(t)))

    def divided_difference(self, r, s, t):
        return np.zeros(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)))


def disguised(kernel, *names):
    """A kernel known by its functions of these names alone, as one that a user writes."""

    def of(name):
        return lambda self, *values: getattr(kernel, name)(*values)

    return type("Disguised", (Kernel,), {name: of(name) for name in names})()
