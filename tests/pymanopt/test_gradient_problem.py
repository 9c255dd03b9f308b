"""Hessians by differences of gradients, against those in closed form, on spaces with and without parallel transport."""

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDBuresWassersteinMetric, SPDMatrices
from pymanopt.manifolds import Sphere, Stiefel
from pymanopt.optimizers import TrustRegions

from dlngeo.geomstats import DLNMetric
from dlngeo.pymanopt import FixedRank, GradientProblem, check_hessian, from_geomstats


def spd(metric):
    return from_geomstats(SPDMatrices(3, equip=False).equip_with_metric(metric))


def gl(depth):
    return from_geomstats(GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=depth))


def bent(x):
    """A cost that is neither convex nor invariant, on the symmetric part of which spaces of symmetric matrices read."""
    a = np.array([[0.3, -1.0, 0.2], [0.5, 0.1, 0.7], [-0.4, 0.9, 1.1]])
    return anp.sum(anp.sin(x * (a + a.T))) + anp.sum((x @ x) * a) / 4


MATRICES = {
    "affine": lambda: spd(SPDAffineMetric),
    "Bures-Wasserstein": lambda: spd(SPDBuresWassersteinMetric),
    "depth 1": lambda: gl(1),
    "depth 3": lambda: gl(3),
}
POINT = np.array([[1.4, 0.3, -0.2], [0.3, 0.8, 0.25], [-0.2, 0.25, 1.1]])


@pytest.mark.parametrize("name", MATRICES)
def test_the_difference_is_the_hessian(name, rng):
    manifold = MATRICES[name]()
    problem = GradientProblem(manifold, pymanopt.function.autograd(manifold)(bent))
    x = POINT if "depth" not in name else POINT + np.triu(0.3 * rng.standard_normal((3, 3)))
    v, w = (manifold.random_tangent_vector(x) for _ in range(2))
    hessian = problem.riemannian_hessian

    def along(u):
        """Second derivative of the cost along the geodesic, by central differences of fourth order."""
        h = 2e-2
        values = [problem.cost(manifold.exp(x, k * h * u)) for k in range(-2, 3)]
        return np.dot([-1, 16, -30, 16, -1], values) / (12 * h**2)

    size = abs(manifold.inner_product(x, hessian(x, v), v)) + 1
    assert manifold.inner_product(x, hessian(x, v), v) == pytest.approx(along(v), abs=2e-4 * size)
    polar = (along(v + w) - along(v - w)) / 4
    assert manifold.inner_product(x, hessian(x, v), w) == pytest.approx(polar, abs=2e-4 * size)
    # Symmetric, and linear, to the accuracy that the docstring states.
    assert manifold.inner_product(x, hessian(x, v), w) == pytest.approx(
        manifold.inner_product(x, v, hessian(x, w)), abs=2e-6 * size
    )
    np.testing.assert_allclose(hessian(x, 3 * v), 3 * hessian(x, v), atol=1e-5 * size)


@pytest.mark.parametrize("depth", [1, 2, 3, 3.5])
def test_it_agrees_with_the_closed_form_to_second_order_in_the_step(depth, rng):
    manifold = gl(depth)
    x = POINT + np.triu(0.3 * rng.standard_normal((3, 3)))
    v = manifold.random_tangent_vector(x)
    cost = pymanopt.function.autograd(manifold)(bent)
    closed = pymanopt.Problem(manifold, cost).riemannian_hessian(x, v)
    steps = {"step": 0.1}, {"step": 0.05}, {}
    found = [GradientProblem(manifold, cost, **step).riemannian_hessian(x, v) for step in steps]
    np.testing.assert_allclose(found[-1], closed, atol=1e-5 * np.abs(closed).max())
    errors = np.linalg.norm(found - closed, axis=(1, 2))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("manifold", [Sphere(4), Stiefel(4, 2), FixedRank(4, 3, 2, 1)], ids=lambda m: type(m).__name__)
def test_it_serves_manifolds_of_pymanopt(manifold, rng):
    a = rng.standard_normal((4, 4))
    if isinstance(manifold, FixedRank):
        cost = pymanopt.function.autograd(manifold)(lambda u, s, vt: anp.sum(anp.sin((u * s) @ vt) * a[:, :3]))
    else:
        cost = pymanopt.function.autograd(manifold)(lambda x: anp.sum(x * (a @ x)) + anp.sum(anp.sin(x)))
    check = check_hessian(GradientProblem(manifold, cost), rng=1)
    assert check.slope == pytest.approx(3, abs=0.1)  # a difference is linear and symmetric to its error alone


def test_trust_regions_finish_on_a_space_without_a_hessian():
    manifold = from_geomstats(Hypersphere(3))
    a = np.diag([4.0, 3.0, 2.0, 1.0])
    cost = pymanopt.function.autograd(manifold)(lambda x: x @ a @ x)
    result = TrustRegions(verbosity=0, min_gradient_norm=1e-7).run(
        GradientProblem(manifold, cost), initial_point=np.array([0.5, -0.5, 0.5, 0.5])
    )
    np.testing.assert_allclose(np.abs(result.point), [0, 0, 0, 1], atol=1e-6)
    with pytest.raises(NotImplementedError, match="GradientProblem"):
        TrustRegions(verbosity=0).run(pymanopt.Problem(manifold, cost))


def test_a_step_of_zero_is_refused():
    manifold = from_geomstats(Hypersphere(2))
    cost = pymanopt.function.autograd(manifold)(lambda x: x[0])
    with pytest.raises(ValueError, match="step must be positive"):
        GradientProblem(manifold, cost, step=0)


def test_a_manifold_whose_transport_is_not_that_of_its_metric_is_refused():
    manifold = FixedRank(4, 3, 2, 3)
    cost = pymanopt.function.autograd(manifold)(lambda u, s, vt: anp.sum(((u * s) @ vt) ** 4))
    with pytest.raises(ValueError, match="in closed form; pose the problem"):
        GradientProblem(manifold, cost)
