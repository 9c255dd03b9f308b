"""ε² added to the squares of the singular values: a kernel whose metric lives on matrices of every rank."""

import math

import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.linalg
from user_kernels import Offset

from dlngeo import DepthKernel, InfiniteDepthKernel, check_kernel
from dlngeo.kernels import RegularizedKernel, of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.pymanopt import FixedRank

EPSILON = 0.3


@pytest.mark.parametrize("base", [DepthKernel(1), DepthKernel(2.5), DepthKernel(8), InfiniteDepthKernel(), Offset(0.7)])
@pytest.mark.parametrize("epsilon", [1e-3, 2.0])
def test_it_is_a_kernel(base, epsilon):
    report = check_kernel(RegularizedKernel(base, epsilon))
    assert report, report


@pytest.mark.parametrize(("shape", "rank"), [((4, 4), 4), ((5, 3), 3), ((5, 4), 2)])
def test_infinite_depth_is_the_integral_of_powers(shape, rank):
    rng = np.random.default_rng(0)
    u, s, vt = oracles.factors(rng, *shape, np.array([1.5, 0.4, 0.01, 0.002])[:rank])
    z = oracles.tangent(rng, u, vt)
    x = oracles.dense(u, s, vt)
    left, right = (scipy.linalg.logm(a + EPSILON**2 * np.eye(len(a))) for a in (x @ x.T, x.T @ x))
    exact, _ = scipy.integrate.quad_vec(
        lambda q: scipy.linalg.expm((1 - q) * left) @ z @ scipy.linalg.expm(q * right), 0, 1, epsabs=1e-13
    )
    frame = Frame(u, s, vt, RegularizedKernel(InfiniteDepthKernel(), EPSILON))
    found = frame.cometric(z)
    np.testing.assert_allclose(found, oracles.project(u, vt, exact), atol=1e-12)


@pytest.mark.parametrize("depth", [3, math.inf])
def test_it_differs_from_its_kernel_by_the_square_of_epsilon(depth):
    kernel, (s, t) = of_depth(depth), (np.array([1.3, 0.8]), np.array([0.9, 0.8]))
    epsilons = np.array([4e-2, 2e-2, 1e-2])
    errors = [np.max(abs(RegularizedKernel(kernel, e)(s, t) - kernel(s, t))) for e in epsilons]
    slope, _ = np.polyfit(np.log(epsilons), np.log(errors), 1)
    assert slope == pytest.approx(2, abs=0.02)


def test_infinite_depth_lives_on_matrices_of_every_rank():
    with pytest.raises(ValueError, match="square invertible matrices only"):
        FixedRank(5, 4, 2, depth=math.inf)
    space = FixedRank(5, 4, 2, kernel=RegularizedKernel(InfiniteDepthKernel(), EPSILON), rng=0)
    point = space.random_point()
    vector = space.random_tangent_vector(point)
    assert space.norm(point, vector) == pytest.approx(1)


def test_what_is_no_kernel_or_no_size_is_refused():
    with pytest.raises(TypeError, match=r"must be a dlngeo\.Kernel, got float"):
        RegularizedKernel(3.0, 1.0)
    for epsilon in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="epsilon must be positive and finite"):
            RegularizedKernel(DepthKernel(3), epsilon)
