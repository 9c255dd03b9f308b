"""Brownian motion against exact laws: moments, transitions, and the drift of singular values by finite differences."""

import numpy as np
import oracles
import pytest
from exact import space_of
from geomstats.geometry.hypersphere import Hypersphere
from scipy.stats import ks_2samp

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.kernels import RegularizedKernel, RelaxedDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.sampling import BrownianMotion
from dlngeo.thermodynamics.brownian import brownian_drift, brownian_moments, brownian_singular_values

RELAXED, REGULARIZED = RelaxedDepthKernel([0.0, 0.7, 0.2]), RegularizedKernel(DepthKernel(3), 0.4)


def half_laplacian(f, x, kernel, h=1e-3):
    """``½Δ_g f`` at full rank: second differences along the columns of ``A^{1/2}``, and the Itô drift."""
    frame = Frame(*np.linalg.svd(x, full_matrices=False), kernel)
    total = (f(x + h * frame.ito_drift()) - f(x - h * frame.ito_drift())) / (4 * h)
    for e in np.eye(x.size):
        z = frame.half_power(e.reshape(x.shape))
        total = total + (f(x + h * z) - 2 * f(x) + f(x - h * z)) / (2 * h * h)
    return total


@pytest.mark.parametrize("depth", [1, 2, 2.5, 4])
def test_the_laplacians_of_sums_of_powers_are_those_of_flat_matrices(depth, rng):
    x, r, c = oracles.dense(*oracles.factors(rng, 3, 4, [1.4, 0.9, 0.6])), 3, 4

    def sums(power):
        return lambda x: np.sum(np.linalg.svd(x, compute_uv=False) ** (power / depth))

    kernel = DepthKernel(depth)
    assert half_laplacian(sums(2), x, kernel) == pytest.approx(r * c / depth, rel=1e-5)
    exact = 2 * (r + c + 1) / depth * sums(2)(x)
    assert half_laplacian(sums(4), x, kernel) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("kernel", [DepthKernel(2.5), InfiniteDepthKernel(), RELAXED, REGULARIZED], ids=repr)
@pytest.mark.parametrize("n", [3, 4])
def test_the_drift_of_singular_values_is_half_their_laplacian(kernel, n, rng):
    if n == 4 and kernel.depth == np.inf:
        return
    s = np.array([1.4, 0.9, 0.5])
    x = oracles.dense(*oracles.factors(rng, 3, n, s))
    exact = half_laplacian(lambda x: np.linalg.svd(x, compute_uv=False), x, kernel)
    np.testing.assert_allclose(brownian_drift(s, kernel, (3, n)), exact, rtol=2e-5)


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(3, 3, 3, 2.5), (4, 3, 2, 3), (2, 2, 2, 1), (3, 3, 3, np.inf)])
@pytest.mark.parametrize("steps", [1, 4])
def test_paths_have_the_exact_moments_and_the_exact_law(m, n, r, depth, steps):
    chains, t, s = 8000, 0.4, np.array([1.3, 0.8, 0.5])[:r]
    kernel = InfiniteDepthKernel() if np.isinf(depth) else DepthKernel(depth)
    start = np.broadcast_to(np.eye(m, r) * s @ np.eye(r, n), (chains, m, n))
    samples = BrownianMotion(space_of(kernel, m, n, r), t / steps).sample(start, steps, thin=steps, rng=steps)
    found = np.linalg.svd(samples.points[:, 0], compute_uv=False)[:, :r]
    exact = brownian_singular_values(s, t, depth, (m, n), chains, rng=0)
    for k in range(r):
        assert ks_2samp(found[:, k], exact[:, k]).pvalue > 1e-4
    for values in (found, exact):
        y = np.log(values) if np.isinf(depth) else values ** (2 / depth)
        for sums, mean in zip((y, y**2), brownian_moments(s, t, depth, (m, n)), strict=True):
            total = np.sum(sums, axis=1)
            assert abs(total.mean() - mean) < 4 * total.std() / chains**0.5
            assert total.std() / chains**0.5 < 0.015 * max(abs(mean), 1)


def test_other_kernels_move_by_the_equation_of_dyson():
    # Short steps of Euler's method for σ, from far apart, beside two of the chains.
    chains, t, kernel, shape = 4000, 0.005, RELAXED, (3, 2)
    s = np.tile([2.5, 1.0], (chains, 1))
    start = np.broadcast_to(np.eye(3, 2) * s[0], (chains, 3, 2))
    samples = BrownianMotion(space_of(kernel, 3, 2, 2), t / 2).sample(start, 2, thin=2, rng=0)
    rng = np.random.default_rng(1)
    for _ in range(20):
        noise = rng.standard_normal(s.shape) * (t / 20 * kernel(s, s)) ** 0.5
        s = s + t / 20 * brownian_drift(s, kernel, shape) + noise
    found = np.linalg.svd(samples.points[:, 0], compute_uv=False)
    for a, b in zip(found.T, s.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-4
        assert abs(a.mean() - b.mean()) < 4 * (a.std() ** 2 + b.std() ** 2) ** 0.5 / chains**0.5


def test_on_other_spaces_it_has_the_generator_half_the_laplacian():
    # On the sphere ½Δ has the eigenfunction x with the eigenvalue −1.
    start = np.broadcast_to([0.0, 0.0, 1.0], (4000, 3)).copy()
    samples = BrownianMotion(Hypersphere(2), 0.02).sample(start, 25, thin=25, rng=0)
    height = samples.points[:, 0, 2]
    assert abs(height.mean() - np.exp(-0.5)) < 4 * height.std() / 4000**0.5 + 0.002
    assert samples.settings["sampler"] == "BrownianMotion"
    assert samples.statistics == {}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: brownian_drift([1.0, 1.0], DepthKernel(2), (2, 2)), ValueError, "coincide"),
        (lambda: brownian_drift([1.0, 0.0], DepthKernel(2), (2, 2)), ValueError, "smallest singular value"),
        (lambda: brownian_drift([1.0], "2", (2, 2)), TypeError, "must be a dlngeo.Kernel"),
        (lambda: brownian_moments([1.0, 0.5], -1.0, 2, (2, 2)), ValueError, "t must be positive"),
        (lambda: brownian_moments([1.0], 1.0, np.inf, (2, 2)), ValueError, "infinite depth lives on square"),
        (lambda: brownian_singular_values([[1.0]], 1.0, 2, (2, 2), 3), ValueError, "of one matrix"),
        (lambda: BrownianMotion(Hypersphere(2), 0.0), ValueError, "step_size must be positive"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
