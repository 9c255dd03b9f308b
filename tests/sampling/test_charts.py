"""Langevin dynamics of every kernel: flat coordinates, exact laws by quadrature, and the sheets of matrices."""

import numpy as np
import pytest
import scipy.integrate
from exact import Law, space_of
from networks import relative

from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo._linalg import haar
from dlngeo.kernels import RegularizedKernel, RelaxedDepthKernel
from dlngeo.sampling import Langevin
from dlngeo.sampling.charts import chart_of


class Mean(Kernel):
    """At an infinite distance from singular matrices, at every rank."""

    def __call__(self, s, t):
        return (s**2 + t**2) / 2


class Sum(Kernel):
    """Of two layers, of which nothing is declared."""

    def __call__(self, s, t):
        return s + t


RELAXED = RelaxedDepthKernel([0.0, 0.7, 0.2])
CONSERVED = RelaxedDepthKernel([0.0, 0.7, 0.0])
REGULARIZED = RegularizedKernel(InfiniteDepthKernel(), 0.3)


@pytest.mark.parametrize("kernel", [RELAXED, CONSERVED, REGULARIZED, RegularizedKernel(DepthKernel(3), 2.0), Sum()])
def test_flat_coordinates_are_the_integral_from_zero(kernel):
    s, chart = np.array([[3.0, 1.0, 0.2, 1e-3, 1e-9]]), chart_of(kernel, 0)
    y = chart.start(s)
    np.testing.assert_allclose(chart.sigma(y), s, rtol=1e-13)
    for value, found in zip(s[0], y[0], strict=True):  # t = x² takes away the root that φ may have at zero
        exact = scipy.integrate.quad(
            lambda x: 2 * x / np.sqrt(kernel(np.array([x * x]), np.array([x * x]))[0]), 0, value**0.5, epsrel=1e-12
        )[0]
        assert found == pytest.approx(exact, rel=1e-10)


def test_flat_coordinates_are_logarithms_where_singular_matrices_are_far():
    s, chart = np.array([[3.0, 1.0, 0.2, 1e-30]]), chart_of(Mean(), 1)
    np.testing.assert_allclose(chart.start(s), np.log(s), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(chart.sigma(np.log(s)), s, rtol=1e-10)


def test_a_kernel_of_two_layers_moves_as_that_of_depth_two(rng):
    x = rng.standard_normal((6, 3, 3))
    one = Langevin(space_of(Sum(), 3, 3, 3), lambda x: x, 1.0, 0.02).sample(x, 20, rng=1).points
    two = Langevin(space_of(DepthKernel(2), 3, 3, 3), lambda x: x, 1.0, 0.02).sample(x, 20, rng=1).points
    np.testing.assert_allclose(one, two, atol=1e-7)  # of the table, through singular vectors that nearly coincide


@pytest.mark.parametrize("depth", [2, 3])
def test_real_depths_are_continuous_at_integers(depth, rng):
    x = rng.standard_normal((6, 4, 3))
    one, two = (
        Langevin(space_of(DepthKernel(n), 4, 3, 3), lambda x: x, 1.0, 0.02, noise="isotropic").sample(x, 20, rng=1)
        for n in (depth, depth + 1e-9)
    )
    np.testing.assert_allclose(one.points, two.points, atol=1e-6)


def test_large_depths_tend_to_infinite_depth():
    # Of the normalised metric: means after a short time from one point, of the same kernel in the limit.
    x = np.broadcast_to(np.diag([1.3, 0.6]) @ np.array([[0.8, 0.6], [-0.6, 0.8]]), (20_000, 2, 2))
    means = []
    for kernel in (DepthKernel(400.0, normalized=True), InfiniteDepthKernel()):
        sampler = Langevin(space_of(kernel, 2, 2, 2), lambda x: x, 2.0, 0.02)
        points = sampler.sample(x, 10, burn_in=9, rng=0).points[:, 0]
        means.append((points.mean(axis=0), points.std(axis=0) / len(x) ** 0.5))
    (one, a), (two, b) = means
    assert (np.abs(one - two) < 4 * np.hypot(a, b) + 0.005).all()
    assert np.abs(one - x[0]).max() > 0.05


def squares(s):
    return s**2 / 2


def barrier(s):
    return s**2 / 2 - np.log(s)


def forced(x):
    return x - np.swapaxes(np.linalg.inv(x), 1, 2)


def named(value):
    return getattr(value, "__name__", str(value))


# Kernel, shape and rank, step, energy, thousands of chains to a per cent: quick ones first.
LONGEST = (0, 6, 7)
CASES = [
    (DepthKernel(2.5), (4, 3, 2), 0.02, squares, 12),
    (RELAXED, (2, 2, 2), 0.05, squares, 12),
    (InfiniteDepthKernel(), (2, 2, 2), 0.02, barrier, 30),
    (REGULARIZED, (3, 2, 2), 0.04, squares, 14),
    (DepthKernel(1.5), (3, 3, 3), 0.05, squares, 8),
    (DepthKernel(2.5), (2, 2, 2), 0.03, squares, 16),
    (DepthKernel(3.7), (2, 2, 2), 0.01, squares, 50),
    (InfiniteDepthKernel(), (3, 3, 3), 0.02, barrier, 34),
    (RELAXED, (4, 3, 3), 0.03, squares, 6),
    (CONSERVED, (4, 3, 2), 0.02, squares, 6),
    (RegularizedKernel(DepthKernel(3), 0.4), (3, 3, 3), 0.02, squares, 6),
    (Sum(), (3, 3, 2), 0.05, squares, 8),
]


def deviations(kernel, shape, h, energy, chains, batches, duration, seed):
    # At the cut-off σ, to the power of the depth in λ, the law has lost less than 1e-5; see the test below.
    law = Law(kernel, *shape, energy, 1.0, low=low_of(kernel), count=80)
    gradient = forced if energy is barrier else lambda x: x
    sampler = Langevin(space_of(kernel, *shape), gradient, 1.0, h)
    u, s, vt = law.draw(np.random.default_rng(0), chains, batches)
    start = u, s ** (1 / chart_of(kernel, 0).depth), vt
    samples = sampler.sample(start, int(duration / h), burn_in=int(1 / h), thin=max(1, int(0.1 / h)), rng=seed)
    s = np.linalg.svd(samples.points, compute_uv=False)[..., : shape[2]]
    for observable in OBSERVABLES:
        yield relative(observable(s).reshape(batches, -1), law.mean(observable))


def low_of(kernel):
    return -32.0 if kernel.depth is None else -14 * min(kernel.depth, 4)


OBSERVABLES = (lambda s: np.sum(s**2, -1), lambda s: np.min(s, -1) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "shape", "h", "energy", "chains"),
    [pytest.param(*case, marks=pytest.mark.thorough if case[1] == (4, 3, 3) else ()) for case in CASES],
    ids=named,
)
def test_the_quadratures_have_converged(kernel, shape, h, energy, chains):
    one = Law(kernel, *shape, energy, 1.0, low=low_of(kernel), count=80)
    two = Law(kernel, *shape, energy, 1.0, low=1.5 * low_of(kernel), count=100)
    for observable in OBSERVABLES:
        assert one.mean(observable) == pytest.approx(two.mean(observable), rel=3e-4)


@pytest.mark.parametrize(("kernel", "shape", "h", "energy", "chains"), CASES[:4], ids=named)
def test_the_law_of_every_kernel(kernel, shape, h, energy, chains):
    for deviation, error in deviations(kernel, shape, h, energy, 1500, 30, 2.5, 2):
        assert error < 0.016
        assert abs(deviation) < 3.5 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "shape", "h", "energy", "chains"),
    [pytest.param(*case, marks=pytest.mark.thorough if i in LONGEST else ()) for i, case in enumerate(CASES)],
    ids=named,
)
def test_the_law_of_every_kernel_to_a_per_cent(kernel, shape, h, energy, chains):
    for deviation, error in deviations(kernel, shape, h, energy, 1000 * chains, 50, 3, 1):
        assert error < 0.0033
        assert abs(deviation) < 0.004 + 1.8 * error


@pytest.mark.parametrize(
    ("kernel", "passes"),
    [
        (DepthKernel(1), True),
        (DepthKernel(2.5), False),
        (DepthKernel(3.5), False),
        (InfiniteDepthKernel(), False),
        (RELAXED, True),
        (CONSERVED, False),
        (RelaxedDepthKernel([0.0, 0.0, 0.0, 1.0]), True),
        (REGULARIZED, True),
    ],
    ids=str,
)
def test_chains_pass_singular_matrices_where_the_metric_or_the_layers_do(kernel, passes):
    chains, rng = 500, np.random.default_rng(0)
    x = (haar(rng, (chains, 2, 2)) * [0.5, 0.1]) @ haar(rng, (chains, 2, 2)).mT
    points = Langevin(space_of(kernel, 2, 2, 2), lambda x: x, 1.0, 0.02).sample(x, 25, rng=1).points
    changed = np.sign(np.linalg.det(points)) != np.sign(np.linalg.det(x))[:, None]
    assert changed.any() == passes
    if passes:  # and the two sheets of a symmetric law have half of the chains each, in the end
        assert 0.02 < changed[:, -1].mean() < 0.6


def test_real_depth_holds_small_values():
    sampler = Langevin(space_of(DepthKernel(64.5), 2, 2, 2), np.zeros_like, 1e8, 1e-6)
    state = sampler.sample((np.eye(2), [1.0, 1e-6], np.eye(2)), 1, rng=0).state
    assert state["lam"][0, 1] < 1e-3
    np.testing.assert_allclose(state["lam"][0, 0], 1, rtol=1e-3)


def test_singular_values_out_of_the_range_of_a_table_are_refused():
    with pytest.raises(ValueError, match=r"need singular values between 1e-60 and 1e\+60, got 1e-70"):
        Langevin(space_of(RELAXED, 2, 2, 2), np.copy, 1.0, 0.1).sample((np.eye(2), [1.0, 1e-70], np.eye(2)), 1)
