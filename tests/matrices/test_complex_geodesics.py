"""Geodesics and retractions of complex matrices, against the geodesic equation and the layers' straight lines."""

import math

import mpmath
import numpy as np
import pytest
from complex_numbers import adjoint, gaussian, haar, matrix, real_form, tangent
from scipy.integrate import solve_ivp
from user_kernels import Product

from dlngeo import DepthKernel, GeodesicError, InfiniteDepthKernel
from dlngeo.compiled.complex_svd import graded_svd
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.complex_geodesics import ComplexSurface, complex_form
from dlngeo.matrices.factored import connect_factored, shoot_factored
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.shooting import connect_all, shoot

KERNELS = [DepthKernel(1), DepthKernel(2), DepthKernel(3), DepthKernel(4), DepthKernel(2.5)]
SHAPES = [(3, 3, [1.5, 1.0, 0.6]), (5, 4, [1.4, 0.7]), (4, 2, [1.0, 1.0])]


def frame_at(rng, m, n, s, kernel):
    return Frame(haar(rng, m, len(s)), np.array(s), adjoint(haar(rng, n, len(s))), kernel)


def velocity(rng, frame, length):
    z = tangent(rng, frame.point, frame.rank)
    return z * (length / math.sqrt(frame.inner(z, z)))


def by_equation(frame, z, time=1.0):
    """The geodesic equation, integrated by SciPy as one of complex numbers."""
    shape = z.shape

    def slope(_, y):
        x, v = y.reshape(2, *shape)
        return np.stack([v, -Frame.at(x, frame.kernel, frame.rank).christoffel(v, v)]).ravel()

    start = np.stack([frame.point, z]).ravel()
    return solve_ivp(slope, (0, time), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(2, *shape)[0]


def dense(u, s, vt):
    return (u * s) @ vt


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", [*KERNELS, RelaxedDepthKernel([0, 0, 0.5])], ids=repr)
def test_geodesics_solve_the_equation(kernel, shape, rng):
    frame = frame_at(rng, *shape, kernel)
    z = velocity(rng, frame, 0.4)
    end = shoot_factored(frame, frame.split(z))
    np.testing.assert_allclose(dense(*end), by_equation(frame, z), atol=1e-8)
    for a in (end[0], adjoint(end[2])):
        np.testing.assert_allclose(adjoint(a) @ a, np.eye(frame.rank), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_logarithm_undoes_the_exponential(kernel, shape, rng):
    frame = frame_at(rng, *shape, kernel)
    z = velocity(rng, frame, 0.3)
    found, length = connect_factored((frame.u, frame.s, frame.vt), shoot_factored(frame, frame.split(z)), kernel)
    np.testing.assert_allclose(frame.assemble(found), z, atol=1e-7)
    np.testing.assert_allclose(length, 0.3, rtol=1e-8)


def test_far_pairs_are_joined_by_geodesics_of_complex_matrices(rng):
    for kernel in (DepthKernel(2), DepthKernel(4)):
        x, y = gaussian(rng, 2, 6, 3, 3)
        surface = ComplexSurface(kernel, 3)
        found = connect_all(x, y, surface)
        [ends], _ = shoot(x, found.velocity, surface)
        np.testing.assert_allclose(ends, y, atol=1e-6)
        np.testing.assert_allclose(surface.inner(x, found.velocity, found.velocity), found.length**2, rtol=1e-8)


def test_positive_hermitian_matrices_at_depth_two_are_those_of_bures(rng):
    """Twice the Bures distance, whose closed form is that of the square roots."""

    def root(a):
        w, q = np.linalg.eigh(a)
        return (q * np.sqrt(w)) @ adjoint(q)

    x, y = (a @ adjoint(a) + 0.3 * np.eye(3) for a in gaussian(rng, 2, 3, 3))
    cross = root(root(x) @ y @ root(x))
    bures = np.trace(x + y - 2 * cross).real
    u, s, vt = np.linalg.svd(x)
    length = connect_factored((u, s, vt), np.linalg.svd(y), DepthKernel(2))[1]
    np.testing.assert_allclose(length**2, 2 * bures, rtol=1e-9)


def test_a_geodesic_into_zero_ends_there(rng):
    frame = frame_at(rng, 3, 3, [1.0, 0.8, 0.5], DepthKernel(3))
    with pytest.raises(GeodesicError, match="singular"):
        shoot_factored(frame, frame.split(-3.1 * frame.point))
    surface = ComplexSurface(DepthKernel(3), 3)
    x = frame.point
    np.testing.assert_allclose(complex_form(real_form(x)), x)
    # Straight in the roots: X(t) = (1 − 0.9 t)³ X.
    points, _ = shoot(x, -3 * 0.9 * x, surface, np.array([0.5, 1.0]))
    np.testing.assert_allclose(points, [0.55**3 * x, 0.1**3 * x], atol=1e-10)


# Retractions.


def end(frame, z):
    return dense(*retract(frame, frame.split(z)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 7])
def test_the_retraction_is_the_product_of_straight_layers(depth, shape, rng):
    frame = frame_at(rng, *shape, DepthKernel(depth))
    z = velocity(rng, frame, 0.8)
    lam, r = np.diag(frame.s ** (1 / depth)), frame.rank
    q = [adjoint(frame.vt), *(haar(rng, r + 1, r) for _ in range(depth - 1)), frame.u]
    weights = [q[p + 1] @ lam @ adjoint(q[p]) for p in range(depth)]
    momentum = frame.metric(z)

    def product(layers, size):
        out = np.eye(size)
        for w in layers:
            out = w @ out
        return out

    moved = []
    for p, w in enumerate(weights):
        below, above = product(weights[:p], shape[1]), product(weights[p + 1 :], w.shape[0])
        moved.append(w + adjoint(above) @ momentum @ adjoint(below))
    np.testing.assert_allclose(end(frame, z), product(moved, shape[1]), atol=1e-11)
    u, s, vt = retract(frame, frame.split(z))
    assert np.all(np.diff(s) <= 0)
    assert s.dtype == float
    for a in (u, adjoint(vt)):
        np.testing.assert_allclose(adjoint(a) @ a, np.eye(r), atol=1e-13)


SECOND_ORDER = [*KERNELS, DepthKernel(1.5), DepthKernel(7), RelaxedDepthKernel([0, 0, 0.5])]
SECOND_ORDER = [(kernel, shape) for kernel in SECOND_ORDER for shape in SHAPES]
SECOND_ORDER += [
    (kernel, SHAPES[0]) for kernel in (InfiniteDepthKernel(), Product(), RelaxedDepthKernel([0, 0.3, 0.5]))
]


@pytest.mark.parametrize(("kernel", "shape"), SECOND_ORDER, ids=str)
def test_the_retraction_is_of_second_order(kernel, shape, rng):
    frame = frame_at(rng, *shape, kernel)
    z = velocity(rng, frame, 1.0)
    steps = 0.1 / 2.0 ** np.arange(3)
    errors = [np.linalg.norm(end(frame, h * z) - by_equation(frame, z, h)) for h in steps]
    assert max(errors) < 1e-9 or np.polyfit(np.log(steps), np.log(errors), 1)[0] > 2.7


def test_long_steps_do_not_jump_where_powers_do():
    frame = Frame.at(np.ones((1, 1), complex), DepthKernel(2.5))
    above, below = (end(frame, np.array([[-4 + side * 1e-9j]])) for side in (1, -1))  # the core is −0.6 ± 4e-10 i
    np.testing.assert_allclose(above, below, atol=1e-8)


def test_small_singular_values_keep_their_digits(rng):
    """Depth 12 from λ = 1, 0.1, 0.01: the product of the stepped factors, in multiple precision."""
    depth, lam = 12, np.array([1.0, 0.1, 0.01])
    frame = Frame(np.eye(3) + 0j, lam**depth, np.eye(3) + 0j, DepthKernel(depth))
    steps = 0.05 * gaussian(rng, 3, 3) * np.minimum(lam[:, None], lam)
    powers = lam[:, None] ** np.arange(depth - 1, -1, -1), lam[:, None] ** np.arange(depth)
    core = sum(np.outer(a, b) ** 2 for a, b in zip(*(p.T for p in powers), strict=True))
    k = steps / np.sqrt(core)
    s = retract(frame, frame.split(k * frame.phi))[1]
    mpmath.mp.dps, exact = 80, mpmath.eye(3)
    try:
        momentum = mpmath.matrix(k.tolist())
        root = [mpmath.mpf(value) ** (mpmath.mpf(1) / depth) for value in frame.s.tolist()]
        for p in range(1, depth + 1):
            left, right = (mpmath.diag([a**e for a in root]) for e in (depth - p, p - 1))
            exact = (mpmath.diag(root) + left * momentum * right) * exact
        expected = mpmath.svd_c(exact, compute_uv=False)
    finally:
        mpmath.mp.dps = 15
    np.testing.assert_allclose(s, [float(value) for value in expected], rtol=1e-12)


def test_graded_complex_matrices_are_decomposed_to_the_digits_of_each_value(rng):
    scale = 10.0 ** -np.array([0, 20, 40, 60])
    a = scale[:, None] * gaussian(rng, 4, 4) * np.sqrt(scale)
    u, s, vt = graded_svd(a)
    with mpmath.workdps(250):
        expected = mpmath.svd_c(mpmath.matrix(a.tolist()), compute_uv=False)
        np.testing.assert_allclose(s, [float(value) for value in expected], rtol=1e-14)
    for b in (u, vt):
        np.testing.assert_allclose(adjoint(b) @ b, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(dense(u, s, vt), a, atol=1e-14)
    singular = matrix(rng, 3, 3, [1.0, 0.5, 0.0])
    u, s, vt = graded_svd(singular * 1.0)
    np.testing.assert_allclose(dense(u, s, vt), singular, atol=1e-14)
