"""FixedRank of complex matrices against dense definitions and Taylor slopes, and with the solvers of pymanopt."""

import numpy as np
import pymanopt
import pytest
import scipy.sparse
from complex_numbers import adjoint, cometric, gaussian
from pymanopt.manifolds import Product
from pymanopt.optimizers import ConjugateGradient, TrustRegions
from scipy.sparse.linalg import aslinearoperator

from dlngeo import DepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.pymanopt import FixedRank, GradientFlow, check_gradient, check_hessian, check_retraction

SHAPES = [(5, 4, 2), (3, 3, 3), (3, 5, 3), (4, 1, 1)]
CASES = [(SHAPES[0], 1), (SHAPES[0], 5), (SHAPES[0], 2.5), (SHAPES[1], 4), (SHAPES[2], 2), (SHAPES[3], 3)]


def dense(point):
    u, s, vt = point
    return (u * s) @ vt


def matrix(point, tangent):
    (u, _, vt), (left, core, right) = point, tangent
    return u @ core @ vt + left @ vt + u @ adjoint(right)


@pytest.fixture(params=CASES, ids=str)
def manifold(request):
    (m, n, r), depth = request.param
    return FixedRank(m, n, r, depth=depth, field="complex", rng=3)


def fit(manifold, target):
    """``E(X) = ½‖X − C‖² + Re Tr(D* X X* X)/3`` on dense matrices, with its derivatives in closed form."""
    d = target[::-1] / 4

    def cost(u, s, vt):
        x = (u * s) @ vt
        return 0.5 * np.linalg.norm(x - target) ** 2 + np.trace(adjoint(d) @ x @ adjoint(x) @ x).real / 3

    backend = pymanopt.function.numpy(manifold)

    @backend
    def gradient(u, s, vt):
        x = (u * s) @ vt
        return x - target + (d @ adjoint(x) @ x + x @ adjoint(d) @ x + x @ adjoint(x) @ d) / 3

    @backend
    def euclidean_hessian(u, s, vt, du, ds, dvt):
        x, z = (u * s) @ vt, (du * s + u * ds) @ vt + (u * s) @ dvt
        return z + _second(d, x, z)

    return pymanopt.Problem(manifold, backend(cost), euclidean_gradient=gradient, euclidean_hessian=euclidean_hessian)


def _second(d, x, z):
    """Derivative along Z of ``(D X* X + X D* X + X X* D)/3``."""
    terms = d @ adjoint(z) @ x + d @ adjoint(x) @ z
    terms = terms + z @ adjoint(d) @ x + x @ adjoint(d) @ z
    return (terms + z @ adjoint(x) @ d + x @ adjoint(z) @ d) / 3


def test_points_vectors_and_dimension(manifold):
    point, other = manifold.random_point(), manifold.random_point()
    m, n, r = *manifold_sides(point), len(point.s)
    assert manifold.dim == 2 * r * (m + n - r)
    for a in (point.u, adjoint(point.vt)):
        np.testing.assert_allclose(adjoint(a) @ a, np.eye(r), atol=1e-13)
    assert np.iscomplexobj(point.u)
    assert point.s.dtype == float
    v = manifold.random_tangent_vector(point)
    np.testing.assert_allclose(manifold.norm(point, v), 1)
    np.testing.assert_allclose(adjoint(point.u) @ v.Up, 0, atol=1e-13)
    np.testing.assert_allclose(point.vt @ v.Vp, 0, atol=1e-13)
    assert np.abs(v.M.imag).max() > 0
    moved = manifold.transport(point, other, v)
    frame = Frame(*other, DepthKernel(1))
    np.testing.assert_allclose(matrix(other, moved), frame.project(matrix(point, v)), atol=1e-12)
    du, ds, dvt = manifold.embedding(point, v)
    velocity = (du * point.s + point.u * ds) @ point.vt + (point.u * point.s) @ dvt
    np.testing.assert_allclose(velocity, matrix(point, v), atol=1e-12)
    assert ds.dtype == float


def manifold_sides(point):
    return point.u.shape[0], point.vt.shape[1]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_in_every_form_are_the_cometric_of_the_definition(depth, shape, rng):
    m, n, r = shape
    manifold = FixedRank(m, n, r, depth=depth, field="complex", rng=3)
    point = manifold.random_point()
    left, middle, right = gaussian(rng, m, 2), gaussian(rng, 2, 3), gaussian(rng, n, 3)
    e = left @ middle @ adjoint(right)
    frame = Frame(*point, DepthKernel(1))
    expected = frame.project(e) if depth == 1 else cometric(dense(point), e, depth)
    forms = [e, scipy.sparse.csr_array(e), aslinearoperator(e), (left, middle @ adjoint(right)), (left, middle, right)]
    for form in forms:
        found = matrix(point, manifold.euclidean_to_riemannian_gradient(point, form))
        np.testing.assert_allclose(found, expected, atol=1e-7 * np.linalg.norm(expected))


def test_gradient_hessian_and_retraction_pass_the_checks(manifold, rng):
    problem = fit(manifold, gaussian(rng, *manifold_sides(manifold.random_point())))
    for check in (check_gradient(problem), check_hessian(problem), check_hessian(problem, curve="retraction")):
        assert check, str(check)
    check = check_retraction(manifold)
    assert check, str(check)


def test_the_local_model_is_the_hessian(manifold, rng):
    problem = fit(manifold, gaussian(rng, *manifold_sides(manifold.random_point())))
    point = manifold.random_point()
    model, v, w = manifold.local(problem, point), *(manifold.random_tangent_vector(point) for _ in range(2))
    product = model.tangent(model.product(model.coordinates(v)))
    np.testing.assert_allclose(matrix(point, product), matrix(point, problem.riemannian_hessian(point, v)), atol=1e-10)
    pair = model.dot(model.coordinates(v), model.coordinates(w))
    np.testing.assert_allclose(pair, manifold.inner_product(point, v, w), atol=1e-12)


def test_geodesics_and_chords(manifold):
    point = manifold.random_point()
    v = 0.2 * manifold.random_tangent_vector(point)
    end = manifold.exp(point, v)
    back = manifold.log(point, end)
    np.testing.assert_allclose(matrix(point, back), matrix(point, v), atol=1e-6)
    np.testing.assert_allclose(manifold.dist(point, end), 0.2, rtol=1e-6)
    m, n, r = *manifold_sides(point), len(point.s)
    chords = FixedRank(m, n, r, field="complex", geodesics=False)
    difference = dense(end) - dense(point)
    np.testing.assert_allclose(chords.dist(point, end), np.linalg.norm(difference), rtol=1e-7)
    projected = Frame(*point, DepthKernel(1)).project(difference)
    np.testing.assert_allclose(matrix(point, chords.log(point, end)), projected, atol=1e-12)


@pytest.mark.parametrize("optimizer", [ConjugateGradient, TrustRegions, GradientFlow])
def test_solvers_find_the_matrix(optimizer, rng):
    manifold = FixedRank(6, 5, 2, depth=3, field="complex", rng=3)
    target = gaussian(rng, 6, 2) @ gaussian(rng, 2, 5)
    backend = pymanopt.function.numpy(manifold)

    @backend
    def cost(u, s, vt):
        return 0.5 * np.linalg.norm((u * s) @ vt - target) ** 2

    @backend
    def gradient(u, s, vt):
        return (u * s) @ vt - target

    @backend
    def hessian(u, s, vt, du, ds, dvt):
        return (du * s + u * ds) @ vt + (u * s) @ dvt

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)
    options = {} if optimizer is GradientFlow else {"verbosity": 0, "max_iterations": 500}
    result = optimizer(**options).run(problem, initial_point=manifold.random_point())
    np.testing.assert_allclose(dense(result.point), target, atol=1e-4)


def test_a_solver_on_a_product_with_real_matrices(rng):
    manifold = Product([FixedRank(3, 3, 1, field="complex", rng=0), FixedRank(3, 3, 1, rng=0)])
    (u, _, vt), (a, _, bt) = point = manifold.random_point()
    v = manifold.random_tangent_vector(point)
    end = manifold.retraction(point, 0.1 * v)
    assert [np.iscomplexobj(x) for x in (u, vt, a, bt, end[0].u, end[1].u)] == [True, True, False, False, True, False]


def test_a_real_manifold_refuses_complex_arrays_and_says_what_to_do(rng):
    manifold = FixedRank(3, 3, 2, rng=0)
    point = manifold.random_point()
    v = manifold.random_tangent_vector(point)
    turned = type(point)(point.u + 0j, point.s, point.vt)
    refusing = [
        lambda: manifold.inner_product(turned, v, v),
        lambda: manifold.retraction(point, 1j * v),
        lambda: manifold.inner_product(point, v, 1j * v),
        lambda: manifold.euclidean_to_riemannian_gradient(point, 1j * np.eye(3)),
        lambda: manifold.euclidean_to_riemannian_gradient(point, (1j * np.eye(3), np.eye(3))),
        lambda: manifold.euclidean_to_riemannian_gradient(point, scipy.sparse.csr_array(1j * np.eye(3))),
        lambda: manifold.euclidean_to_riemannian_gradient(point, aslinearoperator(1j * np.eye(3))),
        lambda: manifold.projection(point, 1j * np.eye(3)),
    ]
    for call in refusing:
        with pytest.raises(TypeError, match=r'must be real numbers.*field="complex"'):
            call()
    complex_ones = FixedRank(3, 3, 2, field="complex", rng=0)
    point = complex_ones.random_point()
    with pytest.raises(TypeError, match="with respect to u, s and vt"):
        complex_ones.euclidean_to_riemannian_gradient(point, (point.u, point.s, point.vt))
    with pytest.raises(TypeError, match=r"singular values.*must be real"):
        complex_ones.inner_product(type(point)(point.u.copy(), point.s + 0j, point.vt), v, v)
    with pytest.raises(ValueError, match='"real" or "complex"'):
        FixedRank(3, 3, 2, field="quaternion")
