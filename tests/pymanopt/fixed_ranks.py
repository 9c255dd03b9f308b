"""What the tests of FixedRank share: a kernel of no depth, points, dense matrices, and their other forms."""

import numpy as np
import oracles
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from dlngeo import Kernel
from dlngeo.pymanopt import FixedRank


class Quadratic(Kernel):
    """``φ = 1 + (s² + t²)/2``: no depth kernel, and not a product."""

    def __call__(self, s, t):
        return 1 + (s**2 + t**2) / 2

    def divided_difference(self, r, s, t):
        return np.full(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)), 0.5)

    def __repr__(self):
        return "Quadratic()"


def setup(rng, shape, metric):
    """The manifold of a depth or kernel, and a point with given m, n and singular values."""
    m, n, s = shape
    how = {"kernel": metric} if isinstance(metric, Kernel) else {"depth": metric}
    return FixedRank(m, n, len(s), rng=rng, **how), oracles.factors(rng, m, n, s)


def matrix(point, tangent):
    """The dense matrix of a tangent triple."""
    (u, _, vt), (left, core, right) = point, tangent
    return u @ core @ vt + left @ vt + u @ right.T


def matrix_forms(e):
    """The matrix in every form in which FixedRank takes one."""
    m, n = e.shape
    left, middle, right = np.linalg.svd(e, full_matrices=False)
    return {
        "dense": e,
        "csr_array": scipy.sparse.csr_array(e),
        "coo_matrix": scipy.sparse.coo_matrix(e),
        "operator": aslinearoperator(e),
        "matvec operator": LinearOperator((m, n), matvec=lambda x: e @ x, rmatvec=lambda y: e.T @ y, dtype=float),
        "pair": (left * middle, right),
        "list": [left * middle, right],
        "triple": (left, np.diag(middle), right.T),
    }
