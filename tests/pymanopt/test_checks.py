"""The checks pass what is right, on manifolds of every kind, and fail what is wrong."""

import math
import re

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from matplotlib.figure import Figure
from pymanopt.manifolds import (
    Euclidean,
    FixedRankEmbedded,
    Grassmann,
    Product,
    Sphere,
    Stiefel,
    SymmetricPositiveDefinite,
)

from dlngeo.errors import GeodesicError
from dlngeo.geomstats import DLNMetric
from dlngeo.matrices.retraction import _by_projection
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, check_gradient, check_hessian, check_retraction, from_geomstats

DEPTHS = [1, 3.5, 8, math.inf]


def of_depth(depth, rng):
    return FixedRank(4, 4, 4, depth, rng=rng) if math.isinf(depth) else FixedRank(7, 5, 2, depth, rng=rng)


def matrices(depth):
    return from_geomstats(GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=depth))


def smooth(manifold, rng):
    """A cost of arrays with neither symmetry nor vanishing derivatives, differentiated by autograd."""
    layout = manifold.point_layout
    factored = layout == 3 or layout == (3, 1)

    @pymanopt.function.autograd(manifold)
    def cost(*arrays):
        arrays = ((arrays[0] * arrays[1]) @ arrays[2], *arrays[3:]) if factored else arrays
        return sum(anp.sum(c * anp.sin(a + 0.3) + 0.5 * d * a**2) for a, (c, d) in zip(arrays, terms, strict=True))

    point = manifold.random_point()
    flat = list(point) if layout == 3 else [*point[0], point[1]] if layout == (3, 1) else [point]
    shapes = [(len(flat[0]), flat[2].shape[1]), *(a.shape for a in flat[3:])] if factored else [a.shape for a in flat]
    terms = [rng.standard_normal((2, *shape)) for shape in shapes]
    return pymanopt.Problem(manifold, cost)


def replaced(problem, gradient=None, hessian=None):
    """The problem with another Riemannian gradient or Hessian."""
    other = pymanopt.Problem(problem.manifold, problem._original_cost)
    other._riemannian_gradient = gradient or problem.riemannian_gradient
    other._riemannian_hessian = hessian or problem.riemannian_hessian
    return other


MANIFOLDS = {
    **{f"depth {d}": lambda rng, d=d: of_depth(d, rng) for d in DEPTHS},
    "sphere": lambda rng: Sphere(6),
    "Stiefel": lambda rng: Stiefel(5, 2),
    "SPD": lambda rng: SymmetricPositiveDefinite(3),
    "FixedRankEmbedded": lambda rng: FixedRankEmbedded(6, 5, 2),
    "product": lambda rng: Product([FixedRank(5, 4, 2, 3, rng=rng), Euclidean(3)]),
    "geomstats sphere": lambda rng: from_geomstats(Hypersphere(3)),
    "geomstats depth 3": lambda rng: matrices(3),
}


@pytest.mark.parametrize("name", MANIFOLDS)
def test_right_gradients_pass_and_wrong_ones_fail(name, rng):
    gs.random.seed(3)
    manifold = MANIFOLDS[name](rng)
    problem = smooth(manifold, rng)
    check = check_gradient(problem, rng=1)
    assert check.ok, check
    assert check.slope == pytest.approx(2, abs=0.15)
    assert check.residuals["tangency"] < 1e-10
    for factor in (1 + 1e-4,) if "geomstats" in name else (2, 1 + 1e-4, -1):
        wrong = check_gradient(
            replaced(problem, lambda p, factor=factor: factor * problem.riemannian_gradient(p)), rng=1
        )
        assert not wrong.ok
        assert wrong.slope == pytest.approx(1, abs=0.15)
        assert "slope" in wrong.failures[0]


SECOND_ORDER = [*(f"depth {d}" for d in DEPTHS), "sphere", "Stiefel", "SPD"]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_right_hessians_pass_and_wrong_ones_fail(name, rng):
    gs.random.seed(3)
    manifold = MANIFOLDS[name](rng)
    problem = smooth(manifold, rng)
    curve = "retraction" if "depth" in name else None  # second order; the exponential is tried below
    check = check_hessian(problem, rng=1, curve=curve)
    assert check.ok, check
    assert check.slope == pytest.approx(3, abs=0.2)
    assert set(check.residuals) == {"tangency", "linearity", "symmetry"}

    right = problem.riemannian_hessian
    point = manifold.random_point()
    constant = manifold.random_tangent_vector(point)
    wrong = {
        "slope": lambda p, v: 1.01 * right(p, v),
        "symmetry": lambda p, v: right(p, v) + 0.1 * manifold.inner_product(p, constant, v) * other,
        "linearity": lambda p, v: right(p, v) + 0.1 * manifold.norm(p, v) * constant,
    }
    other = manifold.random_tangent_vector(point)
    for reason, hessian in wrong.items():
        failed = check_hessian(replaced(problem, hessian=hessian), point, rng=1, curve=curve)
        assert not failed.ok
        assert any(reason in failure for failure in failed.failures), failed


@pytest.mark.parametrize("name", ["depth 3.5", "geomstats depth 3"])
def test_a_hessian_without_the_connection_fails(name, rng):
    """``A D²E[Z]`` alone is linear, self-adjoint and tangent: only the order betrays it."""
    gs.random.seed(3)
    manifold = MANIFOLDS[name](rng)
    problem = smooth(manifold, rng)

    def flat(point, vector):
        zero = [0 * a for a in problem.euclidean_gradient(point)] if name != "geomstats depth 3" else np.zeros((3, 3))
        product = problem.euclidean_hessian(point, vector)
        return manifold.euclidean_to_riemannian_hessian(point, zero, product, vector)

    if name == "geomstats depth 3":
        assert check_hessian(problem, rng=1)
        check = check_hessian(replaced(problem, hessian=flat), rng=1)
        assert len(check.failures) == 1
    else:
        check = check_hessian(replaced(problem, hessian=flat), rng=1, curve="retraction")
    assert check.slope == pytest.approx(2, abs=0.2)
    assert not check


def test_the_completion_problem_passes(rng):
    problem = MatrixCompletion.from_matrix(rng.standard_normal((12, 9)), rng.random((12, 9)) < 0.5)
    for depth in (1, 3):
        posed = problem.problem(FixedRank(12, 9, 3, depth, rng=rng))
        assert check_gradient(posed)
        assert check_hessian(posed, curve="retraction")


@pytest.mark.parametrize("name", ["depth 1", "depth 3.5", "depth inf", "sphere", "Stiefel", "SPD", "geomstats sphere"])
def test_retractions_have_their_order(name, rng):
    gs.random.seed(3)
    manifold = MANIFOLDS[name](rng)
    check = check_retraction(manifold, rng=2)
    order = 1 if name == "Stiefel" else 2
    assert check.ok == (order == 2), check
    if name == "geomstats sphere":  # its retraction is the exponential map
        assert math.isinf(check.slope)
        assert "exact to roundoff" in str(check)
    else:
        assert check.slope == pytest.approx(order + 1, abs=0.15)
    assert "depth" in name or check_retraction(manifold, rng=2, order=1)


def test_the_retraction_of_fixed_rank_embedded_against_our_exponential(rng):
    manifold = FixedRankEmbedded(6, 5, 2)
    with pytest.raises(ValueError, match="no exponential map"):
        check_retraction(manifold)
    assert check_retraction(manifold, exponential=FixedRank(6, 5, 2, depth=1).exp, rng=0)


def test_points_of_many_arrays_are_compared_by_their_distance():
    manifold = Grassmann(6, 2)
    check = check_retraction(manifold, rng=0)
    assert check.ok, check
    assert check.slope > 2.9


class FirstOrder(FixedRank):
    """The truncated SVD, which is of first order only at depths above 1."""

    def retraction(self, point, tangent_vector):
        frame = self._frame(point)
        flat = type("Flat", (), {"kernel": FixedRank(2, 2, 1, 1).kernel})()
        for name in ("u", "s", "vt", "rank"):
            setattr(flat, name, getattr(frame, name))
        return _by_projection(flat, self._blocks(tangent_vector))


class Displaced(Sphere):
    def retraction(self, point, tangent_vector):
        moved = point + tangent_vector + 1e-6 * np.roll(point, 1)
        return moved / np.linalg.norm(moved)


class Wrong(Sphere):
    def retraction(self, point, tangent_vector):
        return super().retraction(point, 1.001 * tangent_vector)


def test_wrong_retractions_fail(rng):
    first = check_retraction(FirstOrder(4, 3, 1, 3, rng=rng))
    assert first.slope == pytest.approx(2, abs=0.1)
    assert first.failures == (f"slope {first.slope:.2f} instead of 3",)
    # And a right Hessian seems wrong along it.
    problem = smooth(FirstOrder(4, 3, 1, 3, rng=rng), rng)
    assert check_hessian(problem, rng=1, curve="exp")
    assert check_hessian(problem, curve="retraction").slope == pytest.approx(2, abs=0.1)

    displaced = check_retraction(Displaced(5), rng=0, order=1)
    assert any("residual of start" in failure for failure in displaced.failures)
    assert check_retraction(Wrong(5), rng=0, order=1).slope == pytest.approx(1, abs=0.05)


# The result.


def test_what_is_not_tangent_is_found(rng):
    manifold = Sphere(4)
    problem = smooth(manifold, rng)
    check = check_gradient(replaced(problem, lambda p: problem.riemannian_gradient(p) + 1e-3 * p), rng=0)
    assert check.slope == pytest.approx(2, abs=0.1)  # a normal part pairs with no tangent vector
    assert check.failures == (f"residual of tangency {check.residuals['tangency']:.1e} above 1e-08",)
    assert re.fullmatch(r"gradient: FAILED, residual of tangency .*: slope 2\.0\d for steps .*", str(check))


def test_exact_models_pass(rng):
    """A quadratic along straight lines has no remainder: there is no slope to measure."""
    manifold = Euclidean(4)
    a = rng.standard_normal((4, 4))
    cost = pymanopt.function.autograd(manifold)(lambda x: x @ a @ x)
    check = check_hessian(pymanopt.Problem(manifold, cost), rng=0)
    assert check.ok, check
    assert math.isinf(check.slope)
    assert str(check).startswith("Hessian: ok: exact to roundoff (order 3)")


def test_noise_of_the_cost_is_not_taken_for_a_remainder(rng):
    manifold = Sphere(4)
    exact = smooth(manifold, rng)
    noise = np.random.default_rng(0)
    cost = pymanopt.function.numpy(manifold)(lambda x: exact.cost(x) + 1e-9 * noise.standard_normal())
    gradient = pymanopt.function.numpy(manifold)(lambda x: exact.euclidean_gradient(x))
    check = check_gradient(pymanopt.Problem(manifold, cost, euclidean_gradient=gradient), rng=0)
    assert check.ok, check
    assert 2e-10 < check.noise < 5e-9
    assert np.interp(check.window[0], check.steps[::-1], check.errors[::-1]) > 10 * check.noise


def test_seeds_repeat_and_leave_the_global_generator_alone():
    problem = smooth(Sphere(4), np.random.default_rng(0))
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    checks = [check_gradient(problem, rng=s) for s in (1, np.random.default_rng(1), 2)]
    assert np.random.random() == expected  # noqa: NPY002
    np.testing.assert_array_equal(checks[0].errors, checks[1].errors)
    assert not np.array_equal(checks[0].errors, checks[2].errors)


def test_a_check_draws_itself(tmp_path, rng):
    figure = Figure()
    axes = figure.subplots(1, 2)
    problem = smooth(Sphere(4), rng)
    check = check_gradient(problem, rng=0, axes=axes[0])
    check_retraction(Sphere(4), rng=0, axes=axes[1])
    figure.savefig(tmp_path / "checks.png")
    assert axes[0].get_title() == "gradient: ok"
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["error", "noise", f"slope {check.slope:.2f}", "slope 2"]
    assert len(axes[1].lines) == 4


class Short(Sphere):
    """Geodesics longer than 0.15 do not exist."""

    def exp(self, point, tangent_vector):
        if np.linalg.norm(tangent_vector) > 0.15:
            raise GeodesicError("the geodesic ends", status="singular")
        return super().exp(point, tangent_vector)


def test_a_curve_that_ends_is_measured_as_far_as_it_goes(rng):
    manifold = Short(4)
    check = check_retraction(manifold, rng=0)
    assert check.ok, check
    np.testing.assert_array_equal(np.isnan(check.errors), check.steps > 0.15)
    assert check_hessian(smooth(manifold, rng), rng=0)


def test_a_level_error_is_not_taken_for_a_remainder(rng):
    """Such as an exponential map to a tolerance has: it has an order too, which is zero."""
    manifold = Sphere(4)

    def away(a, b):
        return np.linalg.norm(a - b)

    check = check_retraction(manifold, exponential=lambda p, v: manifold.exp(p, v) + 1e-9, distance=away, rng=0)
    assert check.ok, check
    assert check.slope == pytest.approx(3, abs=0.1)


def test_bad_arguments_are_refused(rng):
    manifold = Sphere(4)
    problem = smooth(manifold, rng)
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    for check in (lambda: check_gradient(problem, None, vector), lambda: check_retraction(manifold, None, vector)):
        with pytest.raises(ValueError, match="without the point"):
            check()
    with pytest.raises(ValueError, match="curve must be"):
        check_hessian(problem, curve="geodesic")
    cost = pymanopt.function.autograd(manifold)(lambda x: anp.log(x[0] - 2))
    with pytest.raises(ValueError, match="the cost is nan"), np.errstate(invalid="ignore"):
        check_gradient(pymanopt.Problem(manifold, cost), point, vector)


@pytest.mark.parametrize("depth", [5, 8])
def test_a_retraction_that_is_exact_passes_where_geodesics_are_integrated(depth):
    """On 1×1 matrices both are the straight line in ``σ^{1/N}``."""
    for seed in range(4):
        assert check_retraction(FixedRank(1, 1, 1, depth, rng=seed)).slope == math.inf
