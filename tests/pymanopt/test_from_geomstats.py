"""Geomstats spaces as pymanopt manifolds: Taylor slopes, known solutions, and geomstats' own answers."""

import math
import os
import subprocess
import sys

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hpd_matrices import HPDMatrices
from geomstats.geometry.hyperboloid import Hyperboloid
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.matrices import Matrices, MatricesMetric
from geomstats.geometry.poincare_ball import PoincareBall
from geomstats.geometry.rank_k_psd_matrices import RankKPSDMatrices
from geomstats.geometry.spd_matrices import (
    SPDAffineMetric,
    SPDBuresWassersteinMetric,
    SPDLogEuclideanMetric,
    SPDMatrices,
)
from geomstats.geometry.stiefel import Stiefel
from geomstats.learning.frechet_mean import FrechetMean
from pymanopt.optimizers import ConjugateGradient, NelderMead, SteepestDescent, TrustRegions

from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.pymanopt import check_retraction, from_geomstats

SPACES = {
    "sphere": lambda: Hypersphere(3),
    "SPD affine": lambda: SPDMatrices(3, equip=False).equip_with_metric(SPDAffineMetric),
    "SPD Bures-Wasserstein": lambda: SPDMatrices(3, equip=False).equip_with_metric(SPDBuresWassersteinMetric),
    "SPD log-Euclidean": lambda: SPDMatrices(3, equip=False).equip_with_metric(SPDLogEuclideanMetric),
    "Stiefel": lambda: Stiefel(4, 2),
    "hyperboloid": lambda: Hyperboloid(3),
    "Poincaré ball": lambda: PoincareBall(3),
    "GL Frobenius": lambda: GeneralLinear(3, equip=False).equip_with_metric(MatricesMetric),
}
over_spaces = pytest.mark.parametrize("name", SPACES)
PARALLEL = {"sphere", "SPD affine", "SPD log-Euclidean", "hyperboloid", "GL Frobenius"}


@pytest.fixture(autouse=True)
def _seed():
    gs.random.seed(1)


def cost_on(manifold, rng):
    """A cost that knows nothing of the space, and its Euclidean gradient."""
    a, b = rng.standard_normal((2, *manifold.space.shape))
    return lambda x: np.sum(a * np.sin(x)) + np.sum(b * x) ** 2, lambda x: a * np.cos(x) + 2 * np.sum(b * x) * b


@over_spaces
def test_gradient_has_the_taylor_order(name, rng):
    manifold = from_geomstats(SPACES[name]())
    cost, euclidean_gradient = cost_on(manifold, rng)
    for _ in range(2):
        point = manifold.random_point()
        gradient = manifold.euclidean_to_riemannian_gradient(point, euclidean_gradient(point))
        np.testing.assert_allclose(manifold.projection(point, gradient), gradient, atol=1e-10)
        direction = manifold.random_tangent_vector(point)
        slope = manifold.inner_product(point, gradient, direction)
        steps = 0.02 / 2.0 ** np.arange(4)
        remainders = [abs(cost(manifold.retraction(point, t * direction)) - cost(point) - t * slope) for t in steps]
        orders = np.log2(np.array(remainders[:-1]) / remainders[1:])
        np.testing.assert_allclose(orders[-1], 2, atol=0.1)


@over_spaces
def test_operations_are_those_of_the_space_with_the_arguments_of_pymanopt(name):
    space = SPACES[name]()
    manifold, metric = from_geomstats(space), space.metric
    x = manifold.random_point()
    v, w = (manifold.random_tangent_vector(x) for _ in range(2))
    y = manifold.exp(x, 0.3 * v)
    gx, gv, gw = (gs.from_numpy(a) for a in (x, v, w))
    np.testing.assert_allclose(y, gs.to_numpy(metric.exp(0.3 * gv, gx)), atol=1e-12)
    np.testing.assert_allclose(manifold.retraction(x, 0.3 * v), y, atol=1e-12)
    np.testing.assert_allclose(manifold.log(x, y), 0.3 * v, atol=1e-7)
    assert manifold.dist(x, y) == pytest.approx(0.3, abs=1e-7)
    assert manifold.inner_product(x, v, w) == pytest.approx(
        float(gs.squeeze(metric.inner_product(gv, gw, gx))), abs=1e-14
    )
    assert manifold.norm(x, v) == pytest.approx(1, rel=1e-10)
    assert bool(gs.all(space.is_tangent(gv, gx, atol=1e-8)))
    assert bool(gs.all(space.belongs(gx, atol=1e-8)))
    middle = manifold.pair_mean(x, y)
    assert manifold.dist(x, middle) == pytest.approx(0.15, abs=1e-6)
    assert manifold.dist(middle, y) == pytest.approx(0.15, abs=1e-6)
    assert manifold.norm(x, manifold.zero_vector(x)) == 0
    assert manifold.dim == space.dim
    assert manifold.typical_dist == math.sqrt(space.dim)
    assert all(type(a) is np.ndarray for a in (x, v, y, middle, manifold.zero_vector(x)))


@over_spaces
def test_transport_is_parallel_where_a_closed_form_is_known(name):
    manifold = from_geomstats(SPACES[name]())
    x = manifold.random_point()
    v, w = (manifold.random_tangent_vector(x) for _ in range(2))
    y = manifold.exp(x, 0.5 * v)
    moved = manifold.transport(x, y, w)
    np.testing.assert_allclose(manifold.projection(y, moved), moved, atol=1e-10)
    np.testing.assert_allclose(manifold.transport(x, x, w), w, atol=1e-10)
    isometric = manifold.inner_product(y, moved, manifold.transport(x, y, v)) == pytest.approx(
        manifold.inner_product(x, w, v), abs=1e-9
    )
    assert isometric == (name in PARALLEL)
    if not isometric:
        np.testing.assert_array_equal(moved, manifold.projection(y, w))


def test_rayleigh_quotient_on_the_sphere(rng):
    manifold = from_geomstats(Hypersphere(5))
    a = rng.standard_normal((6, 6))
    a = a + a.T
    cost = pymanopt.function.autograd(manifold)(lambda x: x @ a @ x)
    eigenvalues, vectors = np.linalg.eigh(a)
    for optimizer in (ConjugateGradient, SteepestDescent):
        result = optimizer(verbosity=0, min_gradient_norm=1e-7).run(pymanopt.Problem(manifold, cost))
        assert result.cost == pytest.approx(eigenvalues[0], abs=1e-9)
        assert abs(result.point @ vectors[:, 0]) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("metric", [SPDAffineMetric, SPDBuresWassersteinMetric])
def test_karcher_mean_is_that_of_geomstats(metric):
    space = SPDMatrices(2, equip=False).equip_with_metric(metric)
    manifold = from_geomstats(space)
    data = [manifold.random_point() for _ in range(4)]
    cost = pymanopt.function.numpy(manifold)(lambda x: sum(manifold.dist(x, y) ** 2 for y in data) / 2)
    gradient = pymanopt.function.numpy(manifold)(lambda x: -sum(manifold.log(x, y) for y in data))
    problem = pymanopt.Problem(manifold, cost, riemannian_gradient=gradient)
    optimizer = ConjugateGradient(verbosity=0, min_gradient_norm=1e-8)
    mean = optimizer.run(problem, initial_point=np.eye(2)).point
    assert manifold.norm(mean, gradient(mean)) < 1e-6
    estimator = FrechetMean(space)
    estimator.optimizer.epsilon, estimator.optimizer.max_iter = 1e-12, 1000
    estimator.fit(gs.from_numpy(np.stack(data)))
    np.testing.assert_allclose(mean, gs.to_numpy(estimator.estimate_), atol=1e-6)


def test_solvers_that_need_distances_run():
    manifold = from_geomstats(Hypersphere(2))
    pole = np.array([0.0, 0.6, 0.8])
    cost = pymanopt.function.numpy(manifold)(lambda x: -float(x @ pole))
    result = NelderMead(verbosity=0, max_iterations=100).run(pymanopt.Problem(manifold, cost))
    np.testing.assert_allclose(result.point, pole, atol=1e-2)


SPECTRAL = {
    "SPD": lambda depth: SPDMatrices(3, equip=False).equip_with_metric(DLNMetric, depth=depth),
    "GL": lambda depth: GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=depth),
    "rank 2": lambda depth: FixedRankMatrices(4, 3, 2, depth=depth),
}
over_spectral = pytest.mark.parametrize(
    ("name", "depth"), [(n, d) for n in SPECTRAL for d in (1, 2, 2.5, 3, 4, math.inf) if (n, d) != ("rank 2", math.inf)]
)


@over_spectral
def test_spectral_metrics_retract_in_closed_form_to_second_order(name, depth, monkeypatch):
    manifold = from_geomstats(SPECTRAL[name](depth))
    x = manifold.random_point()
    v = manifold.random_tangent_vector(x)
    size = 0.3 * np.linalg.svd(x)[1][manifold.space.metric.rank - 1] / np.linalg.norm(v)
    steps = size / 2.0 ** np.arange(4)
    ends = [manifold.exp(x, t * v) for t in steps]
    monkeypatch.setattr(manifold.space.metric, "exp", None)
    errors = [np.linalg.norm(manifold.retraction(x, t * v) - end) for t, end in zip(steps, ends, strict=True)]
    if (depth == 1 and name != "rank 2") or (name, depth) == ("SPD", 2):
        np.testing.assert_allclose(errors, 0, atol=1e-12)  # W + Ẇ is the geodesic
    else:
        assert errors[-1] > 1e-13
        assert np.log2(errors[-2] / errors[-1]) > 2.8


@over_spectral
def test_long_steps_stay_on_the_space_and_its_component(name, depth):
    manifold = from_geomstats(SPECTRAL[name](depth))
    for _ in range(1):
        x = manifold.random_point()
        v = manifold.random_tangent_vector(x)
        for length in (3.0, 100.0, 1e4, 1e12):
            for sign in (-1, 1):
                y = manifold.retraction(x, sign * length * v)
                assert np.isfinite(y).all()
                if name == "SPD":
                    np.testing.assert_array_equal(y, y.T)
                    assert np.linalg.eigvalsh(y)[0] > 0
                elif name == "GL" and depth > 1:
                    assert np.linalg.slogdet(y)[0] == np.linalg.slogdet(x)[0]


def test_exp_and_your_own_function_are_preferred_to_the_closed_form_where_you_say_so():
    space = SPECTRAL["GL"](3)
    closed, exact = from_geomstats(space), from_geomstats(space, retraction="exp")
    yours = from_geomstats(space, retraction=lambda x, v: x + v)
    x = closed.random_point()
    v = 0.3 * closed.random_tangent_vector(x)
    np.testing.assert_array_equal(exact.retraction(x, v), exact.exp(x, v))
    np.testing.assert_array_equal(yours.retraction(x, v), x + v)
    assert np.linalg.norm(closed.retraction(x, v) - exact.exp(x, v)) > 1e-8
    assert check_retraction(closed, x).slope > 2.8


def test_solvers_minimise_with_the_closed_form(rng):
    """The nearest positive definite matrix to one of them, from which every trial step of a line search starts."""
    manifold = from_geomstats(SPECTRAL["SPD"](3))
    target = manifold.random_point()
    problem = pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(lambda x: float(np.sum((x - target) ** 2)) / 2),
        euclidean_gradient=pymanopt.function.numpy(manifold)(lambda x: x - target),
    )
    result = ConjugateGradient(verbosity=0, max_iterations=200).run(problem, initial_point=np.eye(3))
    np.testing.assert_allclose(result.point, target, atol=1e-5 * np.linalg.norm(target))


def test_a_retraction_of_your_own_takes_the_place_of_exp(rng):
    calls = []

    def normalize(point, tangent_vector):
        calls.append(1)
        y = point + tangent_vector
        return y / np.linalg.norm(y)

    manifold = from_geomstats(Hypersphere(3), retraction=normalize)
    x = manifold.random_point()
    v = manifold.random_tangent_vector(x)
    np.testing.assert_allclose(manifold.retraction(x, v), (x + v) / math.sqrt(2), atol=1e-14)
    assert len(calls) == 1
    assert not np.allclose(manifold.exp(x, v), manifold.retraction(x, v))


class SharpMetric(MatricesMetric):
    """A Frobenius metric that claims to be half as strong, to see who is asked."""

    def gradient(self, euclidean_gradient, base_point):
        return 2 * euclidean_gradient


def test_the_gradient_of_the_metric_is_preferred(rng):
    manifold = from_geomstats(Matrices(3, 2, equip=False).equip_with_metric(SharpMetric))
    e = rng.standard_normal((3, 2))
    np.testing.assert_array_equal(manifold.euclidean_to_riemannian_gradient(manifold.random_point(), e), 2 * e)


def test_gradient_follows_the_point(rng):
    """The basis of the last point is kept; it must not be taken for that of another, or of one written into."""
    space = SPACES["SPD affine"]()
    manifold = from_geomstats(space)
    e = rng.standard_normal((3, 3))
    x, y = manifold.random_point(), manifold.random_point()
    for p in (x, x, y, x):
        np.testing.assert_allclose(
            manifold.euclidean_to_riemannian_gradient(p, e), p @ (e + e.T) @ p / 2, atol=1e-10 * np.linalg.norm(p) ** 2
        )
    x *= 2
    np.testing.assert_allclose(manifold.euclidean_to_riemannian_gradient(x, e), x @ (e + e.T) @ x / 2, rtol=1e-9)


def test_the_metric_is_solved_once_at_a_point(rng):
    calls = []

    class Counting(MatricesMetric):
        def inner_product(self, tangent_vec_a, tangent_vec_b, base_point=None):
            calls.append(1)
            return super().inner_product(tangent_vec_a, tangent_vec_b, base_point)

    manifold = from_geomstats(Matrices(3, 2, equip=False).equip_with_metric(Counting))
    x, e = manifold.random_point(), rng.standard_normal((3, 2))
    first = manifold.euclidean_to_riemannian_gradient(x, e)
    n_calls = len(calls)
    np.testing.assert_array_equal(manifold.euclidean_to_riemannian_gradient(x.copy(), e), first)
    assert len(calls) == n_calls > 0


def test_read_only_arrays_are_accepted(rng):
    manifold = from_geomstats(Hypersphere(3))
    x, e = manifold.random_point(), rng.standard_normal(4)
    want = manifold.euclidean_to_riemannian_gradient(x, e)
    x.flags.writeable = e.flags.writeable = False
    np.testing.assert_array_equal(manifold.euclidean_to_riemannian_gradient(x, e), want)


def test_what_is_no_equipped_real_space_is_refused():
    with pytest.raises(ValueError, match="equip_with_metric"):
        from_geomstats(GeneralLinear(3, equip=False))
    with pytest.raises(ValueError, match="complex"):
        from_geomstats(HPDMatrices(2))
    with pytest.raises(TypeError, match="ndarray"):
        from_geomstats(np.eye(2))
    with pytest.raises(TypeError, match="retraction"):
        from_geomstats(Hypersphere(2), retraction="qr")


def test_a_space_whose_tangent_projection_has_another_dimension_is_refused(rng):
    """Geomstats 2.8: ``RankKPSDMatrices(3, 1).to_tangent`` does not map onto a space of its ``dim``."""
    space = RankKPSDMatrices(3, 1, equip=False).equip_with_metric(MatricesMetric)
    manifold = from_geomstats(space)
    with pytest.raises(ValueError, match="dimension"):
        manifold.euclidean_to_riemannian_gradient(manifold.random_point(), rng.standard_normal((3, 3)))


class QuadraticFormMetric(MatricesMetric):
    """``g(Y, Z) = ⟨Y, BZ⟩`` with a constant B, whose gradient and Hessian are those of Frobenius times ``B⁻¹``."""

    b = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])

    def inner_product(self, tangent_vec_a, tangent_vec_b, base_point=None):
        return gs.sum(tangent_vec_a * gs.matmul(gs.from_numpy(self.b), tangent_vec_b), axis=(-2, -1))

    def hessian(self, tangent_vec, euclidean_gradient, euclidean_hessian, base_point):
        assert tangent_vec.shape == euclidean_gradient.shape == base_point.shape
        return gs.linalg.solve(gs.from_numpy(self.b), euclidean_hessian)


def test_hessians_of_the_metric_reach_trust_regions(rng):
    manifold = from_geomstats(Matrices(3, 2, equip=False).equip_with_metric(QuadraticFormMetric))
    a = rng.standard_normal((3, 3))
    a, c = a @ a.T + np.eye(3), rng.standard_normal((3, 2))
    cost = pymanopt.function.autograd(manifold)(lambda x: anp.sum(x * (a @ x)) / 2 - anp.sum(c * x))
    result = TrustRegions(verbosity=0, min_gradient_norm=1e-10, max_iterations=30).run(pymanopt.Problem(manifold, cost))
    np.testing.assert_allclose(result.point, np.linalg.solve(a, c), atol=1e-8)
    assert result.iterations < 15  # it converges quadratically, or the Hessian is another


def test_hessians_need_a_metric_that_has_them():
    manifold = from_geomstats(Hypersphere(2))
    cost = pymanopt.function.autograd(manifold)(lambda x: x[0] ** 3)
    with pytest.raises(NotImplementedError, match="hessian"):
        TrustRegions(verbosity=0).run(pymanopt.Problem(manifold, cost))


PROGRAM = """
import numpy as np
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDMatrices
from dlngeo.geomstats import DLNMetric
from dlngeo.pymanopt import from_geomstats
spd, sphere = from_geomstats(SPDMatrices(2)), from_geomstats(Hypersphere(2))
x, v = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[0.1, 0.3], [0.3, -0.2]])
p, w = np.array([0.6, 0.0, 0.8]), np.array([0.0, 1.0, 0.0])
y = spd.exp(x, v)
results = [
    y,
    spd.log(x, y),
    spd.transport(x, y, v),
    spd.euclidean_to_riemannian_gradient(x, np.arange(4.0).reshape(2, 2)),
    sphere.pair_mean(p, sphere.exp(p, w)),
    sphere.euclidean_to_riemannian_gradient(p, np.arange(3.0)),
    0 * sphere.random_tangent_vector(sphere.random_point()),
    np.array([spd.dist(x, y), spd.norm(x, v)]),
]
assert all(type(a) is np.ndarray for a in results), [type(a) for a in results]
results = np.concatenate([a.ravel() for a in results])
"""


def test_pytorch_gives_the_same_numpy_arrays():
    """It needs its own interpreter: geomstats reads its choice of backend on import."""
    pytest.importorskip("torch")
    here = {}
    exec(PROGRAM, here)
    report = "import geomstats.backend as gs; print(gs.__name__, *results.tolist())"
    name, *values = subprocess.run(
        [sys.executable, "-c", PROGRAM + report],
        env={**os.environ, "GEOMSTATS_BACKEND": "pytorch"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "pytorch" in name
    np.testing.assert_allclose(np.array(values, dtype=float), here["results"], atol=1e-12)


def test_parallel_transport_of_a_spectral_metric_is_exact_and_its_transport_cheap():
    space = GeneralLinear(2, equip=False).equip_with_metric(DLNMetric, depth=3)
    manifold = from_geomstats(space)
    x, y, v = (
        np.array([[1.2, 0.3], [-0.2, 0.8]]),
        np.array([[1.0, 0.1], [0.3, 1.1]]),
        np.array([[0.1, -0.3], [0.2, 0.4]]),
    )
    moved = manifold.parallel_transport(x, y, v)
    assert manifold.norm(y, moved) == pytest.approx(manifold.norm(x, v), rel=1e-9)
    np.testing.assert_allclose(manifold.parallel_transport(y, x, moved), v, atol=1e-8)
    np.testing.assert_allclose(manifold.transport(x, y, v), v, atol=1e-15)
    np.testing.assert_allclose(manifold.parallel_transport(x, x, v), v, atol=1e-15)
