"""What the tests of FixedRank share: a kernel of no depth, points, dense matrices, their other forms, and autodiff."""

import autograd.numpy as anp
import numpy as np
import oracles
import pymanopt
import pytest
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


def of_metric(m, n, rank, metric, rng):
    """The manifold of a depth or kernel."""
    return FixedRank(m, n, rank, rng=rng, **{"kernel" if isinstance(metric, Kernel) else "depth": metric})


def setup(rng, shape, metric):
    """The manifold of a depth or kernel, and a point with given m, n and singular values."""
    m, n, s = shape
    return of_metric(m, n, len(s), metric, rng), oracles.factors(rng, m, n, s)


def assert_close(got, want, **tolerance):
    """Compare points or tangent vectors, array by array."""
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def autodiff_triple(point, e):
    """Derivatives of ``E((u * s) @ vt)`` with respect to the factors, by the chain rule."""
    u, s, vt = point
    return e @ vt.T * s, np.einsum("ik,ij,kj->k", u, e, vt), s[:, None] * (u.T @ e)


def library(name):
    """Sine, sum and array of an autodiff library, with the decorator of pymanopt for it."""
    if name == "autograd":
        return anp.sin, anp.sum, np.asarray, pymanopt.function.autograd
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "torch":
        return module.sin, module.sum, module.from_numpy, pymanopt.function.pytorch
    return module.numpy.sin, module.numpy.sum, module.numpy.asarray, pymanopt.function.jax


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
