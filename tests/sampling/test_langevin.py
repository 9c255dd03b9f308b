"""Langevin dynamics against exact laws, with standard errors small enough that a bias of a per cent fails."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.integrate
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.poincare_half_space import PoincareHalfSpace
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDBuresWassersteinMetric, SPDMatrices
from geomstats.geometry.special_orthogonal import SpecialOrthogonal
from geomstats.geometry.stiefel import Stiefel
from networks import SQUARES, extrapolated, relative
from pymanopt.manifolds import SpecialOrthogonalGroup, Sphere
from scipy.stats import ks_2samp, kstest

from dlngeo import gradient_flow
from dlngeo._linalg import haar
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.sampling import (
    ConstrainedHMC,
    Langevin,
    Noise,
    SpectralPotential,
    StepSizeWarning,
    UpstairsLangevin,
    from_pymanopt,
)
from dlngeo.sampling.factors import Factors
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.free_energy import free_energy_gradient
from dlngeo.thermodynamics.laws import SpectralLaw
from dlngeo.weights.balanced import dimension

SHAPES = [(2, 2, 2), (4, 4, 4), (3, 2, 2), (5, 2, 2), (4, 4, 2), (5, 4, 3)]
QUICK_SHAPES = [(2, 2, 2), (4, 4, 2), (5, 4, 3)]
LAWS = [(3, 3, 3, 2), (3, 3, 3, 4), (2, 2, 2, 8), (6, 4, 2, 3), (3, 3, 2, 2.5)]


def deep(m, n, rank, depth, **options):
    if m == n == rank:
        space = GeneralLinear(m, equip=False)
        space.equip_with_metric(DLNMetric, depth=depth, **options)
        return space
    return FixedRankMatrices(m, n, rank, depth=depth)


def draw(rng, chains, m, n, rank, degrees=None):
    """Factors of exact draws at base noise: Haar frames, λ² the eigenvalues of Wishart matrices of many degrees."""
    u, _, _ = np.linalg.svd(rng.standard_normal((chains, m, rank)), full_matrices=False)
    _, _, vt = np.linalg.svd(rng.standard_normal((chains, rank, n)), full_matrices=False)
    lam = np.linalg.svd(rng.standard_normal((chains, rank, degrees or m + n - rank)), compute_uv=False)
    return u, lam, vt


def wishart_run(m, n, rank, depth, chains, duration, seed, burn_in=0):
    space = deep(m, n, rank, depth)
    start = draw(np.random.default_rng(seed), chains, m, n, rank)

    def run(h):
        steps = int(duration * depth / 2 / h)  # the relaxation time is N/2
        sampler = Langevin(space, SQUARES, 1.0, h)
        burn = int(burn_in * depth / 2 / h)
        samples = sampler.sample(start, steps, burn_in=burn, thin=max(1, int(0.2 * depth / h / 2)), rng=seed + 1)
        gaussian = np.random.default_rng(seed + 2).standard_normal((chains, rank, m + n - rank))
        for lam, exact in zip(samples.state["lam"].T, np.linalg.svd(gaussian, compute_uv=False).T, strict=True):
            assert ks_2samp(lam, exact).pvalue > 1e-4
        return relative(2 * samples.statistics["energy"], rank * (m + n - rank))

    return run


@pytest.mark.parametrize(
    ("m", "n", "rank", "depth"), [*(pytest.param(*law, marks=pytest.mark.slow) for law in LAWS[:3]), *LAWS[3:]]
)
def test_the_spectrum_is_that_of_wishart_matrices(m, n, rank, depth):
    deviation, error = extrapolated(wishart_run(m, n, rank, depth, 300, 6, 0), 0.1)
    assert error < 0.05
    assert abs(deviation) < 3.5 * error


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "rank", "depth"), LAWS)
def test_the_spectrum_is_that_of_wishart_matrices_to_a_per_cent(m, n, rank, depth):
    deviation, error = wishart_run(m, n, rank, depth, 20_000, 12, 0, burn_in=3)(0.05 * depth)
    assert error < 0.0025
    assert abs(deviation) < 2.5 * error


@pytest.mark.parametrize("depth", [3, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 8, 1.5))])
@pytest.mark.parametrize(
    ("m", "n", "rank"), [pytest.param(*s, marks=() if s in QUICK_SHAPES else pytest.mark.slow) for s in SHAPES]
)
def test_a_quadratic_potential_has_no_bias_at_any_step(m, n, rank, depth):
    # From the law of a point and its last noise R: with Y flat, Y = sR/2 + √(1 − s²/4) G, s² = 2h/N.
    chains, h, rng, columns = 60_000, depth / 2, np.random.default_rng(int(depth)), m + n - rank
    kick, flat = rng.standard_normal((2, chains, rank, columns))
    flat = (2 * h / depth) ** 0.5 / 2 * kick + (1 - h / (2 * depth)) ** 0.5 * flat
    u, lam, vt = np.linalg.svd(flat)
    core, *sides = np.split(np.swapaxes(u, 1, 2) @ kick @ np.swapaxes(vt, 1, 2), [rank, m], axis=2)
    kick = [core, *(np.pad(side, [(0, 0), (0, 0), (rank, 0)]) for side in sides if side.size)]
    frames = {name: np.broadcast_to(np.eye(d, rank), (chains, d, rank)) for name, d in (("u", m), ("v", n))}
    state = {**frames, "lam": lam, "kick": np.concatenate(kick, axis=2)}
    sampler, k = Langevin(deep(m, n, rank, depth), SQUARES, 1.0, h), rank * columns
    for _ in range(4):
        state = sampler.step(state, rng)
        for power, exact in ((2, k), (4, k * (rank + columns + 1))):
            values = np.sum(state["lam"] ** power, -1)
            assert abs(values.mean() - exact) < 3.5 * values.std() / chains**0.5
            assert values.std() / chains**0.5 < 0.007 * exact


@pytest.mark.parametrize(
    ("m", "n", "rank", "depth", "h"),
    [
        (2, 2, 2, 2, 0.08),
        pytest.param(2, 2, 2, 3, 0.04, marks=pytest.mark.slow),
        pytest.param(3, 2, 2, 3, 0.05, marks=pytest.mark.slow),
        pytest.param(4, 4, 2, 2, 0.08, marks=pytest.mark.slow),
    ],
)
def test_the_bias_is_small_where_that_of_the_method_of_euler_is_large(m, n, rank, depth, h):
    # E = ½‖X‖², of known mean. With the noise of one step alone the bias is 9, 6, 7 and 11 %.
    chains, rng = 3000, np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.standard_normal((chains, m, n)), full_matrices=False)
    start = (u[..., :rank] * rng.uniform(0.5, 0.9, (chains, 1, rank)) ** depth) @ vt[:, :rank]
    space = deep(m, n, rank, depth)
    sampler = Langevin(space, lambda x: x, 1.0, h, potential=lambda x: np.sum(x**2, axis=(1, 2)))
    samples = sampler.sample(start, int(14 / h), burn_in=int(4 / h), thin=4, rng=1)
    deviation, error = relative(samples.statistics["energy"], rank * (m + n - rank) / depth)
    assert error < 0.005
    assert abs(deviation) < 0.017


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, *(pytest.param(depth, marks=pytest.mark.thorough) for depth in (3, 4)), 8])
def test_the_bias_is_of_second_order_also_near_singular_matrices(depth):
    # E = ¼Σλ⁴, of which ⟨Σλ⁴⟩ = r(m + n − r): scale λ. The law does not avoid λ = 0.
    chains, (m, n, rank), rng = 3000, (4, 4, 2), np.random.default_rng(0)
    quartic = SpectralPotential(lambda lam: np.sum(lam**4, -1), lambda lam: lam**3)
    u, lam, vt = draw(rng, chains, m, n, rank)
    start = (u, lam / 2, vt)

    def bias(h):
        samples = Langevin(deep(m, n, rank, depth), quartic, 1.0, h).sample(start, 500, burn_in=50, rng=1)
        return relative(samples.statistics["energy"], rank * (m + n - rank))

    (coarse, _), (fine, error) = bias(0.14 * depth), bias(0.1 * depth)
    assert error < 0.0012
    assert coarse > 0.01
    assert np.log(coarse / (fine + 1.5 * error)) / np.log(1.4) > 1.5


@pytest.mark.slow
def test_the_bias_is_small_also_where_the_force_turns_the_frames():
    # Scaling λ shows that ⟨tr XᵀE′⟩ = d²/(Nβ) for every E. With the noise of one step alone the bias is 8 % here.
    chains, depth, target, beta, h = 10_000, 3, np.array([[1.0, 0.5], [-0.3, 0.4]]), 2.0, 0.05

    def virial(x):
        return np.sum(x * (x - target), axis=(1, 2))

    start = np.random.default_rng(0).uniform(-1, 1, (chains, 2, 2))
    sampler = Langevin(deep(2, 2, 2, depth), lambda x: x - target, beta, h, potential=virial)
    samples = sampler.sample(start, int(20 / h), burn_in=int(6 / h), thin=4, rng=1)
    deviation, error = relative(samples.statistics["energy"], 4 / (depth * beta))
    assert error < 0.003
    assert abs(deviation) < 0.02


@pytest.mark.parametrize(
    ("m", "n", "rank", "depth"),
    [pytest.param(3, 3, 3, 3, marks=pytest.mark.slow), pytest.param(2, 2, 2, 8, marks=pytest.mark.slow), (4, 3, 2, 2)],
)
def test_isotropic_noise_adds_the_entropy(m, n, rank, depth):
    # Equipartition upstairs: ⟨Σλ²⟩ β is the dimension of the balanced weights.
    sizes = (n, *[min(m, n)] * (depth - 1), m)
    exact = dimension(sizes, rank)
    space = deep(m, n, rank, depth)
    start = draw(np.random.default_rng(4), 300, m, n, rank, degrees=m + n)

    def run(h):
        burn, steps = int(2 * depth / h), int(5 * depth / h)
        sampler = Langevin(space, SQUARES, 1.0, h, noise="isotropic")
        samples = sampler.sample(start, steps, burn_in=burn, thin=int(0.1 * depth / h), rng=5)
        return relative(2 * samples.statistics["energy"], exact)

    deviation, error = extrapolated(run, 0.1)
    assert error < 0.06
    assert abs(deviation) < 3.5 * error


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_potentials_of_the_frames_by_importance_sampling(depth):
    # Both components of the invertible matrices at odd depth, det X > 0 at even depth.
    target = np.array([[0.8, 0.5], [-0.9, 0.6]])

    def gradient(x):
        u, s, vt = np.linalg.svd(x)
        s = np.maximum(s, np.finfo(float).eps * s[:, :1])  # below, dense matrices hold round-off, on some machines zero
        return (u * s[:, None] ** (2 / depth - 1) / depth) @ vt - target / np.cosh(x) ** 2

    u, lam, vt = np.linalg.svd(np.random.default_rng(0).standard_normal((400_000, 2, 2)))
    x = (u * lam[:, None] ** depth) @ vt
    if depth % 2 == 0:
        x = x[np.linalg.det(x) > 0]
    weight = np.exp(np.sum(target * np.tanh(x), axis=(1, 2)))
    observables = [lambda y: np.tanh(y[..., 0, 0]), lambda y: np.tanh(y[..., 1, 0])]
    start = x[np.linalg.det(x) > 0][:2000]
    found = []
    for h in (0.1, 0.05):
        sampler = Langevin(deep(2, 2, 2, depth), gradient, 1.0, h)
        points = sampler.sample(start, int(30 / h), burn_in=int(10 / h), thin=int(0.4 / h), rng=3).points
        found.append([relative(f(points), np.sum(weight * f(x)) / np.sum(weight)) for f in observables])
    for (coarse, a), (fine, b) in zip(*found, strict=True):
        error = (4 * b**2 + a**2) ** 0.5
        assert abs(2 * fine - coarse) < 3.2 * error
        assert error < 0.05


@pytest.mark.slow
def test_each_singular_value_has_its_law():
    m = n = rank = 2
    depth, beta = 3, 2.0
    law = SpectralLaw(lambda s: np.sum(s ** (2 / depth), -1) / 2, SpectralEntropy(m, n, depth), beta, noise="isotropic")
    space = deep(m, n, rank, depth)
    u, lam, vt = draw(np.random.default_rng(6), 2500, m, n, rank)
    start = (u, lam / beta**0.5, vt)
    sampler = Langevin(space, SQUARES, beta, 0.02, noise="isotropic")
    points = sampler.sample(start, 400, burn_in=399, rng=7).points[:, 0]
    lam = np.linalg.svd(points, compute_uv=False) ** (1 / depth)
    for k in range(2):
        exact = law.mean(lambda s, k=k: s[..., k] ** (1 / depth))
        error = lam[:, k].std() / len(lam) ** 0.5
        assert abs(lam[:, k].mean() - exact) < 3.5 * error + 0.01 * exact
    # Frames are Haar-distributed: the square of an entry has the arcsine law.
    u, _, vt = np.linalg.svd(points)
    for frame in (u, vt):
        assert kstest(frame[:, 0, 0] ** 2, "beta", args=(0.5, 0.5)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("m", "n", "rank"),
    [
        (3, 3, 3),
        pytest.param(4, 3, 2, marks=pytest.mark.slow),
        (3, 2, 2),
        pytest.param(5, 4, 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("depth", [2.5, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (1, 2, 5, 64))])
def test_brownian_motion_has_the_spectrum_of_gaussian_matrices(m, n, rank, depth):
    # With no potential and β = 2 the generator is ½Δ, and Λ_t has the law of the singular values of Λ_0 + √(t/N) G,
    # after any number of steps.
    chains, t, columns = 40_000, 0.6 * depth / 2, m + n - rank
    lam = np.array([1.3, 0.8, 0.5])[:rank]
    u, v = np.eye(m, rank), np.eye(n, rank)
    start = {"u": u, "lam": lam, "v": v, "kick": np.zeros((rank, 0))}
    flat = SpectralPotential(lambda lam: np.zeros(len(lam)), np.zeros_like)
    gaussian = np.eye(rank, columns) * lam[:, None] + (t / depth) ** 0.5 * np.random.default_rng(0).standard_normal(
        (chains, rank, columns)
    )
    expected = np.linalg.svd(gaussian, compute_uv=False)
    for steps in (1, 2, 5):
        state = {name: np.repeat(value[None], chains, axis=0) for name, value in start.items()}
        sampler = Langevin(deep(m, n, rank, depth), flat, 2.0, t / steps)
        found = sampler.sample(state, steps, thin=steps, rng=steps).state["lam"]
        for k in range(rank):
            assert ks_2samp(found[:, k], expected[:, k]).pvalue > 1e-4
        squares = np.sum(found**2, -1)
        exact, error = np.sum(lam**2) + rank * columns * t / depth, squares.std() / chains**0.5
        assert error < 0.0035 * exact
        assert abs(squares.mean() - exact) < 3.5 * error


def test_no_noise_is_the_gradient_flow_of_the_free_energy(rng):
    depth, beta, t = 3, 2.0, 0.4
    space = deep(3, 3, 3, depth)
    x, target = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))

    def slope(point):
        return np.asarray(free_energy_gradient(lambda y: y - target, np.asarray(point), depth, beta))

    flow = gradient_flow(space, slope, x, [0.0, t], rtol=1e-10, atol=1e-12)
    errors = []
    for steps in (20, 40, 80):
        sampler = Langevin(space, lambda y: y - target, beta, t / steps, noise="isotropic", kappa=0.0)
        end = sampler.sample(x, steps, rng=0).points[0, -1]
        errors.append(np.abs(end - np.asarray(flow.points[-1])).max())
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.15)


def test_kappa_scales_the_temperature_and_not_the_entropy():
    # The law is e^{−(β/κ)(E − S/β)} dvol: that of β/κ with the entropy divided by κ.
    depth, beta, kappa = 2, 1.0, 0.25
    law = SpectralLaw(lambda s: np.sum(s, -1) / 2, SpectralEntropy(2, 2, depth), beta / kappa)
    entropy = SpectralEntropy(2, 2, depth)

    def weight(s):
        return np.exp(entropy(s) / kappa)

    exact = law.mean(lambda s: np.sum(s, -1) * weight(s)) / law.mean(weight)
    start = draw(np.random.default_rng(9), 400, 2, 2, 2)

    def run(h):
        sampler = Langevin(deep(2, 2, 2, depth), SQUARES, beta, h, noise="isotropic", kappa=kappa)
        samples = sampler.sample(start, int(16 / h), burn_in=int(6 / h), thin=int(0.2 / h), rng=10)
        return relative(2 * samples.statistics["energy"], exact)

    deviation, error = extrapolated(run, 0.1)
    assert error < 0.03
    assert abs(deviation) < 3.5 * error


def test_noise_is_a_value_and_its_name_will_do(rng):
    x, space = rng.standard_normal((5, 3, 3)), deep(3, 3, 3, 3)
    one = Langevin(space, SQUARES, 1.0, 0.01, noise="isotropic", kappa=0.5).sample(x, 3, rng=1)
    two = Langevin(space, SQUARES, 1.0, 0.01, noise=Noise("isotropic", 0.5)).sample(x, 3, rng=1)
    np.testing.assert_array_equal(one.points, two.points)
    assert one.settings == two.settings
    assert (one.settings["noise"], one.settings["kappa"]) == ("isotropic", 0.5)
    with pytest.raises(ValueError, match=r"kappa = 0\.25 contradicts"):
        Langevin(space, SQUARES, 1.0, 0.01, noise=Noise("isotropic", 0.5), kappa=0.25)
    with pytest.raises(ValueError, match="the law of kappa = 1 only"):
        ConstrainedHMC(space, SQUARES, None, 1.0, 0.01, 1, noise=Noise("isotropic", 0.5))


def test_a_normalised_metric_runs_slower_by_the_depth(rng):
    x = rng.standard_normal((5, 3, 3))
    fast = Langevin(deep(3, 3, 3, 4), lambda y: y, 1.0, 0.01).sample(x, 3, rng=1).points
    slow = Langevin(deep(3, 3, 3, 4, normalized=True), lambda y: y, 1.0, 0.04).sample(x, 3, rng=1).points
    np.testing.assert_allclose(slow, fast, rtol=1e-12)


def spd_space(metric):
    space = SPDMatrices(2, equip=False)
    space.equip_with_metric(metric)
    return space


def spd_bures():
    # dvol = ∏_{i≤j}(x_i + x_j)^{−½} |x_1 − x_2| dx du, up to constants; E = tr X, in x = u².
    def integral(f):
        def weighted(v, u):
            x, y = u * u, v * v
            return abs(x - y) * (x + y) ** -0.5 * np.exp(-x - y) * f(x + y)

        return scipy.integrate.dblquad(weighted, 0, 6, 0, 6)[0]

    exact = integral(lambda s: s) / integral(lambda s: 1.0)
    start = np.broadcast_to(np.eye(2), (500, 2, 2)).copy()
    gradient = lambda x: np.broadcast_to(np.eye(2), x.shape)  # noqa: E731
    return spd_space(SPDBuresWassersteinMetric), gradient, start, lambda x: np.trace(x, axis1=-2, axis2=-1), exact


def spd_affine():
    # With log-eigenvalues a, b: dvol = sinh(|a − b|/2) da db; E = ½‖log X‖², of Euclidean gradient X^{−1} log X.
    def integral(f):
        def weighted(b, a):
            return np.sinh(abs(a - b) / 2) * np.exp(-(a * a + b * b) / 2) * f(a * a + b * b)

        return scipy.integrate.dblquad(weighted, -7, 7, -7, 7)[0]

    def gradient(x):
        w, q = np.linalg.eigh(x)
        return (q * (np.log(w) / w)[:, None, :]) @ np.swapaxes(q, 1, 2)

    exact = integral(lambda s: s) / integral(lambda s: 1.0)
    start = np.broadcast_to(np.eye(2), (500, 2, 2)).copy()
    return spd_space(SPDAffineMetric), gradient, start, lambda x: np.sum(np.log(np.linalg.eigvalsh(x)) ** 2, -1), exact


def hyperbolic():
    # Half-plane, E = cosh(distance to i) = 1 + (x² + (y − 1)²)/(2y): ⟨E⟩ by the radial law sinh r e^{−E}.
    def integral(power):
        return scipy.integrate.quad(lambda r: np.sinh(r) * np.exp(-np.cosh(r)) * np.cosh(r) ** power, 0, 8)[0]

    def gradient(p):
        x, y = p[:, 0], p[:, 1]
        return np.stack([x / y, (1 - (x**2 + 1) / y**2) / 2], axis=1)

    start = np.broadcast_to([0.0, 1.0], (500, 2)).copy()
    return (
        PoincareHalfSpace(2),
        gradient,
        start,
        lambda p: 1 + (p[:, 0] ** 2 + (p[:, 1] - 1) ** 2) / (2 * p[:, 1]),
        integral(1) / integral(0),
    )


def sphere():
    start = np.broadcast_to([0.0, 0.0, -1.0], (500, 3)).copy()
    gradient = lambda x: np.broadcast_to([0.0, 0.0, 1.0], x.shape)  # noqa: E731
    return Hypersphere(2), gradient, start, lambda x: x[:, 2], -(1 / np.tanh(1) - 1)


def stiefel():
    # E = −Σ_i x_i over the first column, which is uniform on the sphere: that of sphere(), of another height.
    direction = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    start = np.broadcast_to(np.eye(3, 2), (120, 3, 2)).copy()
    gradient = lambda x: np.broadcast_to(-direction, x.shape)  # noqa: E731
    return Stiefel(3, 2), gradient, start, lambda x: x[:, 0, 0], 1 / np.tanh(2) - 1 / 2


@pytest.mark.parametrize(
    "case",
    [*(pytest.param(case, marks=pytest.mark.slow) for case in (spd_bures, spd_affine, stiefel)), hyperbolic, sphere],
)
def test_the_law_on_other_spaces(case):
    space, gradient, start, observable, exact = case()

    def run(h):
        sampler = Langevin(space, gradient, 1.0, h)
        samples = sampler.sample(start, int(6 / h), burn_in=int(2 / h), thin=int(0.25 / h), rng=12)
        return relative(samples.observe(observable), exact)

    deviation, error = extrapolated(run, 0.05)
    assert error < 0.11
    assert abs(deviation) < 3.5 * error


WALL = SpectralPotential(lambda lam: np.sum(lam**2 / 2 + lam**-4.0, -1), lambda lam: lam - 4 * lam**-5.0)


def wall(x):
    u, s, vt = np.linalg.svd(x)
    return (u * (s - 4 * s**-5.0)[..., None, :]) @ vt


def inverses(x):
    """Gradient of tr X + tr X⁻¹, which overshoots near singular matrices: at h = 0.02 ⟨tr X⟩ is in thousands."""
    return np.eye(2) - np.linalg.matrix_power(x, -2)


@pytest.mark.parametrize(
    ("make", "healthy", "chains"),
    [
        pytest.param(
            lambda h: Langevin(spd_space(SPDBuresWassersteinMetric), inverses, 1.0, h),
            0.001,
            200,
            marks=pytest.mark.slow,
        ),
        (lambda h: Langevin(deep(2, 2, 2, 3), WALL, 1.0, h), 0.005, 200),
        pytest.param(lambda h: Langevin(deep(2, 2, 2, 2), wall, 1.0, h), 0.0005, 200, marks=pytest.mark.slow),
        pytest.param(lambda h: Langevin(deep(2, 2, 2, 1.5), wall, 1.0, h), 0.0005, 200, marks=pytest.mark.slow),
        pytest.param(lambda h: UpstairsLangevin((2, 2, 2), WALL, 1.0, h), 0.001, 200, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_steps_that_do_not_resolve_the_potential_warn_before_averages_are_wrong(make, healthy, chains):
    start = np.broadcast_to([[1.2, 0.1], [0.1, 1.0]], (chains, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepSizeWarning)
        make(healthy).sample(start, 100, rng=0)
    with pytest.warns(StepSizeWarning, match=f"a step of step_size {10 * healthy:g} went by its drift alone"):
        make(10 * healthy).sample(start, 400, rng=0)


def test_manifolds_of_pymanopt_move_as_those_of_geomstats():
    _, gradient, start, _, _ = sphere()
    start = start[:4]
    start = start + np.array([0.3, 0.1, 0.0])
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    # The bases of tangent spaces are free, so only the drift can be compared.
    ours = Langevin(from_pymanopt(Sphere(3), (3,)), gradient, 1e30, 0.05).sample(start, 3, rng=2).points
    theirs = Langevin(Hypersphere(2), gradient, 1e30, 0.05).sample(start, 3, rng=2).points
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.abs(ours[:, -1] - start).max() > 0.01
    # The noise has unit variance in both tangent directions.
    sampler = Langevin(from_pymanopt(Sphere(3), (3,)), np.zeros_like, 1.0, 1e-4)
    kicks = (sampler.sample(np.broadcast_to(start[0], (2000, 3)).copy(), 1, rng=3).points[:, 0] - start[0]) / 2e-4**0.5
    np.testing.assert_allclose(np.cov(kicks.T), np.eye(3) - np.outer(start[0], start[0]), atol=4 * (2 / 2000) ** 0.5)


def test_tangent_vectors_may_be_kept_in_another_form(rng):
    # pymanopt keeps those of rotations as skew matrices, geomstats as directions; both double the metric of the latter.
    start = np.linalg.qr(rng.standard_normal((4, 3, 3)))[0]
    start[:, :, 0] *= np.linalg.det(start)[:, None]
    gradient = lambda x: x @ np.diag([1.0, 2.0, 3.0])  # noqa: E731
    ours = Langevin(from_pymanopt(SpecialOrthogonalGroup(3), (3, 3)), gradient, 1e30, 1e-5).sample(start, 1, rng=0)
    force = gradient(start) - start @ np.swapaxes(gradient(start), 1, 2) @ start
    np.testing.assert_allclose((ours.points[:, 0] - start) / 1e-5, -force / 2, atol=1e-3)


def test_round_off_does_not_lead_off_a_space():
    # The exponential map of geomstats doubles it in every few steps here.
    sampler = Langevin(SpecialOrthogonal(3), np.zeros_like, 1.0, 0.02)
    points = sampler.sample(np.broadcast_to(np.eye(3), (3, 3, 3)).copy(), 120, rng=0).points
    np.testing.assert_allclose(points @ points.swapaxes(-1, -2), np.broadcast_to(np.eye(3), points.shape), atol=1e-7)


@pytest.mark.parametrize(
    ("m", "n", "rank", "depth", "options"),
    [
        (3, 2, 2, 3, {}),
        pytest.param(2, 2, 2, 2.5, {}, marks=pytest.mark.slow),
        pytest.param(3, 3, 2, 3, {"noise": "isotropic"}, marks=pytest.mark.slow),
        pytest.param(3, 3, 3, 4, {"noise": "isotropic", "kappa": 0.5}, marks=pytest.mark.slow),
        pytest.param(4, 3, 2, 3, {"noise": "isotropic", "kappa": 0.5, "widths": (3, 4, 2, 4)}, marks=pytest.mark.slow),
        (2, 2, 2, 2.5, {"noise": "isotropic", "kappa": 0.7}),
    ],
)
@pytest.mark.parametrize("spectral", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_virial_is_one_on_average(m, n, rank, depth, options, spectral):
    beta, target = 1.5, np.sin(np.arange(m * n)).reshape(m, n)
    energy = SpectralPotential(lambda lam: np.sum(lam**4, -1) / 4, lambda lam: lam**3)
    chains, steps, burn, h = 1500, 200, 80, 0.32 / depth**2
    u, _, vt = np.linalg.svd(np.random.default_rng(0).standard_normal((chains, m, n)), full_matrices=False)
    spread = np.random.default_rng(1).uniform(0.5, 0.9, (chains, 1, rank)) ** depth
    start = (u[..., :rank] * spread) @ vt[:, :rank]
    sampler = Langevin(deep(m, n, rank, depth), energy if spectral else lambda x: x - target, beta, h, **options)
    samples = sampler.sample(start, steps, burn_in=burn, rng=1)
    deviation, error = relative(samples.statistics["virial"], 1)
    assert error < 0.025
    assert abs(deviation) < 3.5 * error + 0.02  # bias of the step included
    # It is that of the points before.
    again = sampler.sample(samples.state, 1, rng=2)
    points, state = samples.points[:, -1], samples.state
    lam = np.linalg.svd(points, compute_uv=False)[:, :rank] ** (1 / depth)
    force = np.sum(lam**4, -1) if spectral else depth * np.sum(points * (points - target), axis=(1, 2))
    degrees = rank * (m + n - rank) * options.get("kappa", 1)
    if options:
        widths = options.get("widths", (min(m, n),) * (int(depth) + 1))
        degrees += (depth - 1) * rank * (rank - 1) / 2 + rank * sum(d - rank for d in widths[1:-1])
    np.testing.assert_allclose(again.statistics["virial"][:, 0], beta * force / degrees, rtol=1e-9)
    assert len(state["virial"]) == chains


@pytest.mark.parametrize("depth", [3, 2.5, np.inf, 1])
def test_factors_and_their_products_are_one_start(rng, depth):
    lam = rng.uniform(0.5, 1.5, (5, 2))  # in no order
    m, n = (2, 2) if np.isinf(depth) else (4, 3)
    u, vt = haar(rng, (5, m, 2)), haar(rng, (5, n, 2)).mT
    x = (u * lam[:, None] ** (1 if np.isinf(depth) else depth)) @ vt
    sampler = Langevin(deep(m, n, 2, depth), lambda x: x, 1.0, 0.01)
    for start in ((u, lam, vt), (u[0], lam[0], vt[0])):
        points = x if start[1].ndim == 2 else x[:1]
        np.testing.assert_allclose(sampler.points(sampler.sample(start, 1, rng=0).state).shape, points.shape)
        np.testing.assert_allclose(sampler.points(sampler.start(Factors(*start))), points, rtol=1e-12, atol=1e-14)
    far = sampler.sample((u, lam, vt), 3, rng=1)
    spectra = (np.linalg.svd(y, compute_uv=False)[..., :2] for y in (far.points, x[:, None]))
    assert 1e-3 < np.abs(np.subtract(*spectra)).max() < 5


@pytest.mark.parametrize("depth", [8, 64])
def test_factors_hold_what_a_dense_matrix_has_lost(rng, depth):
    u, vt, lam = haar(rng, (40, 3, 3)), haar(rng, (40, 3, 3)), rng.permuted(np.tile([1.0, 0.1, 1e-3], (40, 1)), axis=1)
    for sampler in (
        Langevin(deep(3, 3, 3, depth), SQUARES, 1e8, 1e-6),
        UpstairsLangevin((3,) * (depth + 1), SQUARES, 1e8, 1e-10),
        ConstrainedHMC((3,) * (depth + 1), SQUARES, None, 1.0, 1e-6, 1),
    ):
        samples = sampler.sample((u, lam, vt), 1, rng=rng)
        np.testing.assert_allclose(samples.state["lam"], np.tile([1.0, 0.1, 1e-3], (40, 1)), rtol=0.03)
        with pytest.raises(ValueError, match=r"has rank below 3: .* factors \(u, lam, vt\) any"):
            sampler.sample((u * lam[:, None] ** depth) @ vt, 1)
    again = sampler.factors(samples.state)
    np.testing.assert_array_equal(sampler.start(again)["lam"], samples.state["lam"])


@pytest.mark.parametrize(
    ("start", "error", "match"),
    [
        ((np.eye(3, 2), [1.0, 1.0], np.eye(3)), ValueError, r"shapes \(1, 3, 2\), \(1, 2\), \(1, 3, 3\); expected"),
        ((np.eye(3), [1.0, 0.0, 1.0], np.eye(3)), ValueError, "must be positive, got 0"),
        ((np.eye(3), [1.0, np.nan, 1.0], np.eye(3)), ValueError, "NaN or infinite"),
        (
            (np.eye(3), [1.0, 2.0, 1.0], np.eye(3) + 1e-6),
            ValueError,
            r"vt of the initial .* not orthonormal, by 2\.0e-06",
        ),
        ((2 * np.eye(3), [1.0, 2.0, 1.0], np.eye(3)), ValueError, "u of the initial factors is not orthonormal"),
    ],
)
def test_factors_that_are_none_are_refused(start, error, match):
    with pytest.raises(error, match=match):
        Langevin(deep(3, 3, 3, 2), SQUARES, 1.0, 0.1).sample(start, 1)


@pytest.mark.parametrize("bad", [np.eye(2) * (1 + 1j), np.ma.masked_array(np.eye(2), np.eye(2))])
@pytest.mark.parametrize(
    "sampler",
    [
        Langevin(deep(2, 2, 2, 2), SQUARES, 1.0, 0.1),
        Langevin(deep(2, 2, 2, 1.5), SQUARES, 1.0, 0.1),
        Langevin(spd_space(SPDAffineMetric), np.copy, 1.0, 0.1),
        UpstairsLangevin((2, 2, 2), SQUARES, 1.0, 0.1),
        ConstrainedHMC((2, 2, 2), SQUARES, None, 1.0, 0.1, 1),
    ],
    ids=range(5),
)
def test_starts_that_are_not_real_are_refused(sampler, bad):
    with pytest.raises(TypeError, match="the initial points must be real numbers"):
        sampler.sample(bad, 1)
    if hasattr(sampler, "state_at"):
        with pytest.raises(TypeError, match="real"):
            sampler.state_at([bad, np.eye(2)])
        with pytest.raises(TypeError, match="the initial lam must be real numbers"):
            sampler.sample((np.eye(2), [1.0 + 1j, 1.0], np.eye(2)), 1)


def half_squares(x):
    return np.sum(x**2, axis=(1, 2)) / 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_samplers_and_samples_are_copied_and_pickled(copied):
    start = np.array([[1.2, 0.1], [0.1, 1.0]])
    for sampler in (
        Langevin(deep(2, 2, 2, 2), np.negative, 1.0, 0.01),
        Langevin(deep(2, 2, 2, 1.5), np.negative, 1.0, 0.01),
        Langevin(spd_space(SPDAffineMetric), np.negative, 1.0, 0.01),
        Langevin(from_pymanopt(Sphere(2, 2), (2, 2)), np.negative, 1.0, 0.01),
        UpstairsLangevin((2, 2, 2), np.negative, 1.0, 0.01),
        ConstrainedHMC((2, 2, 2), half_squares, np.negative, 1.0, 0.01, 1),
    ):
        samples = sampler.sample(start / np.linalg.norm(start), 2, rng=0)
        again = copied(sampler).sample(copied(samples), 2, rng=1)
        np.testing.assert_array_equal(again.points, sampler.sample(samples, 2, rng=1).points)


def test_factors_belong_to_spectral_metrics_and_finite_numbers():
    with pytest.raises(TypeError, match="are of matrices with a spectral metric"):
        Langevin(SpecialOrthogonal(3), np.zeros_like, 1.0, 0.1).sample((np.eye(3), np.ones(3), np.eye(3)), 1)
    state = Langevin(deep(2, 2, 2, 2.5), SQUARES, 1.0, 0.1).start(
        Factors(np.eye(2), np.array([1.0, 1e-200]), np.eye(2))
    )
    assert state["lam"].tolist() == [[1.0, 1e-200]]  # of which σ is none of doubles


@pytest.mark.parametrize("shape", [(1, 3, 3), (4, 3, 3), (5, 1, 3), (5, 2, 3), (3, 3), (5, 9), ()])
def test_gradients_of_another_shape_are_refused(shape):
    start = np.broadcast_to(np.eye(3), (5, 3, 3))
    sampler = Langevin(deep(3, 3, 3, 2), lambda x: np.ones(shape), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"the gradient of the potential has shape .* expected \(5, 3, 3\)"):
        sampler.sample(start, 1)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda s: Langevin(s, None, 1.0, 0.1), TypeError, "potential_gradient must be callable"),
        (lambda s: Langevin(s, lambda x: 1j * x, 1.0, 0.1).sample(np.eye(3), 1), TypeError, "must be real numbers"),
        (
            lambda s: Langevin(s, SpectralPotential(np.sum, np.sum), 1.0, 0.1).sample(np.eye(3), 1),
            ValueError,
            "derivative of the potential has shape",
        ),
        (
            lambda s: Langevin(s, lambda x: x, 1.0, 0.1, potential=np.sum).sample(np.eye(3), 1),
            ValueError,
            r"the potential has shape \(\); expected \(1,\)",
        ),
        (lambda s: Langevin(s, SQUARES, 0.0, 0.1), ValueError, "beta must be positive"),
        (lambda s: Langevin(s, SQUARES, 1.0, -1), ValueError, "step_size must be positive"),
        (lambda s: Langevin(s, SQUARES, 1.0, 0.1, noise="white"), ValueError, "'base' or 'isotropic'"),
        (lambda s: Langevin(s, SQUARES, 1.0, 0.1, kappa=0.5), ValueError, "pass noise='isotropic'"),
        (lambda s: Langevin(GeneralLinear(3, equip=False), SQUARES, 1.0, 0.1), ValueError, "has no metric"),
        (lambda s: Langevin(Hypersphere(2), SQUARES, 1.0, 0.1), ValueError, "potential of λ"),
        (lambda s: Langevin(Hypersphere(2), SQUARES, 1.0, 0.1, noise="isotropic"), ValueError, "balanced weights"),
        (lambda s: Langevin(s, SQUARES, 1.0, 0.1).sample(np.ones((2, 3)), 1), ValueError, "initial points of shape"),
        (lambda s: Langevin(s, SQUARES, 1.0, 0.1).sample(np.diag([1.0, 1.0, 0.0]), 1), ValueError, "rank below 3"),
        (lambda s: Langevin(s, lambda x: x / 0, 1.0, 0.1).sample(np.eye(3), 1), ValueError, "NaN or infinite"),
        (lambda s: Langevin(Hypersphere(2), lambda x: x, 1.0, 0.1).sample(np.ones(3), 1), ValueError, "not in Hyper"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with np.errstate(all="ignore"), pytest.raises(error, match=match):
        call(deep(3, 3, 3, 2))
