"""The calculus of complex matrices, against that of their real forms, sums of matrix powers and differences."""

import numpy as np
import pytest
from complex_numbers import adjoint, cometric, gaussian, matrix, of_real_form, real_form, tangent
from user_kernels import Product

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame

KERNELS = [DepthKernel(1), DepthKernel(2), DepthKernel(4), DepthKernel(2.5), RelaxedDepthKernel([0, 0.7, 0.2])]
SQUARE = [InfiniteDepthKernel(), Product()]
# m, n, and singular values: full rank, with two that coincide, and below full rank.
SHAPES = [(3, 3, [2.0, 1.0, 0.4]), (3, 3, [1.5, 1.5, 0.5]), (5, 4, [2.0, 1.0]), (4, 2, [1.2, 0.7])]
CASES = [(kernel, shape) for kernel in KERNELS for shape in SHAPES]
CASES = [case for case in CASES if case[0].depth is not None or case[1][0] == 3]
CASES += [(kernel, shape) for kernel in SQUARE for shape in SHAPES[:2]]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]!r}-{case[1][0]}x{case[1][1]}-{case[1][2]}")
def case(request, rng):
    kernel, (m, n, s) = request.param
    x = matrix(rng, m, n, s)
    real = Frame.at(real_form(x), kernel, 2 * len(s))
    return x, Frame.at(x, kernel, len(s)), real, [tangent(rng, x, len(s)) for _ in range(4)]


def agrees(value, real_value, tolerance=1e-10):
    size = max(1.0, np.abs(value).max())
    expected, off = of_real_form(real_value)
    assert off < tolerance * size
    np.testing.assert_allclose(value, expected, atol=tolerance * size)


def test_the_metric_is_that_of_the_real_form(case, rng):
    x, frame, real, (y, z, *_) = case
    p = gaussian(rng, *x.shape)
    for name in ("cometric", "project", "half_power"):
        agrees(getattr(frame, name)(p), getattr(real, name)(real_form(p)))
    agrees(frame.metric(z), real.metric(real_form(z)))
    np.testing.assert_allclose(2 * frame.inner(y, z), real.inner(real_form(y), real_form(z)), rtol=1e-11)
    np.testing.assert_allclose(frame.inner(1j * y, 1j * z), frame.inner(y, z), rtol=1e-11)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_cometric_is_a_sum_of_matrix_powers(depth, shape, rng):
    m, n, s = shape
    x, frame = (z := matrix(rng, m, n, s)), Frame.at(z, DepthKernel(depth), len(s))
    p = frame.project(gaussian(rng, m, n))
    expected = cometric(x, p, depth)
    if len(s) == min(m, n) or depth > 1:
        np.testing.assert_allclose(frame.cometric(p), expected, atol=1e-11)


def test_connection_and_hessian_are_those_of_the_real_form(case, rng):
    x, frame, real, (y, z, *_) = case
    agrees(frame.christoffel(y, z), real.christoffel(real_form(y), real_form(z)), 1e-9)
    agrees(frame.christoffel(y, y), real.christoffel(real_form(y), real_form(y)), 1e-9)
    g, h = gaussian(rng, *x.shape), gaussian(rng, *x.shape)
    agrees(frame.hessian(z, g, h), real.hessian(*map(real_form, (z, g, h))), 1e-9)


def test_curvature_is_that_of_the_real_form(case):
    _, frame, real, (x, y, z, w) = case
    curvature, of_real = Curvature(frame), Curvature(real)
    agrees(curvature.apply(x, y, z), of_real.apply(*map(real_form, (x, y, z))), 1e-8)
    expected = of_real.riemann(*map(real_form, (x, y, z, w))) / 2
    np.testing.assert_allclose(curvature.riemann(x, y, z, w), expected, rtol=1e-7, atol=1e-8)
    # One half of the product of two inner products is left in the quotient.
    expected = 2 * of_real.sectional(real_form(y), real_form(z))
    np.testing.assert_allclose(curvature.sectional(y, z), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [SHAPES[0], (3, 2, [1.3, 0.6])])
@pytest.mark.parametrize("kernel", [DepthKernel(3), pytest.param(DepthKernel(1), marks=pytest.mark.slow)])
def test_ricci_curvature_is_a_sum_of_sectional_ones(kernel, shape, rng):
    m, n, s = shape
    frame = Frame.at(matrix(rng, m, n, s), kernel, len(s))
    units = np.eye(m * n).reshape(-1, m, n)
    flat = frame.half_power(np.concatenate([units, 1j * units]))
    gram = frame.inner(flat[:, None], flat)
    w, q = np.linalg.eigh(gram)
    basis = np.tensordot((q / np.sqrt(np.where(w > 1e-9, w, np.inf))).T, flat, 1)[w > 1e-9]
    assert len(basis) == 2 * len(s) * (m + n - len(s))
    curvature = Curvature(frame)
    table = np.array([[0.0 if a is b else curvature.riemann(a, b, b, a) for a in basis] for b in basis])
    np.testing.assert_allclose(curvature.scalar(), table.sum(), rtol=1e-9, atol=1e-9)
    for k in (0, len(basis) - 1):
        np.testing.assert_allclose(curvature.ricci(basis[k], basis[k]), table[k].sum(), rtol=1e-9, atol=1e-9)
    lowered = curvature.ricci_lower(basis[0])
    np.testing.assert_allclose(np.vdot(basis[1], lowered).real, curvature.ricci(basis[0], basis[1]), atol=1e-9)


def test_the_volume_is_the_gram_determinant_of_all_real_coordinates(case):
    x, frame, _, _ = case
    units = np.eye(x.size).reshape(-1, *x.shape)
    basis = np.concatenate([units, 1j * units])
    flat = Frame(frame.u, frame.s, frame.vt, DepthKernel(1)).project(basis)
    w, q = np.linalg.eigh(np.einsum("aij,bij->ab", flat.conj(), flat).real)
    tangents = np.tensordot(q.T[w > 0.5], flat, 1)
    gram = frame.inner(tangents[:, None], tangents)
    np.testing.assert_allclose(frame.log_volume_density(), np.linalg.slogdet(gram)[1] / 2, rtol=1e-10, atol=1e-10)


def potential(x, depth):
    s = np.linalg.svd(x, compute_uv=False)
    return np.sum(np.log(s**2) ** 2) / 2 if np.isinf(depth) else depth * np.sum(s ** (2 / depth))


@pytest.mark.parametrize("depth", [1, 2, 3, 2.5, 7, np.inf])
def test_the_metric_has_a_kaehler_potential(depth, rng):
    """``g(Z, Z) = ∂∂̄ potential`` along the complex line of Z: the mean of four second differences, extrapolated."""
    x, z = matrix(rng, 3, 3, [1.4, 1.0, 0.6]), gaussian(rng, 3, 3)

    def mean(h):  # the potential is harmonic but for g: a mean over a circle of 8 points
        turns = np.exp(2j * np.pi * np.arange(8) / 8)
        return np.mean([potential(x + h * t * z, depth) - potential(x, depth) for t in turns]) / h**2

    value = (4 * mean(1e-2) - mean(2e-2)) / 3
    kernel = InfiniteDepthKernel() if np.isinf(depth) else DepthKernel(depth)
    np.testing.assert_allclose(value, Frame.at(x, kernel).inner(z, z), rtol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_on_kaehler_kernels_the_connection_is_complex_linear(kernel, rng):
    frame, (y, z) = Frame.at(matrix(rng, 3, 3, [1.4, 1.0, 0.6]), kernel), gaussian(rng, 2, 3, 3)
    np.testing.assert_allclose(frame.christoffel(1j * y, z), 1j * frame.christoffel(y, z), atol=1e-11)
    np.testing.assert_allclose(frame.ito_drift(), 0, atol=1e-12)


def test_another_kernel_is_not_kaehler(rng):
    frame, (y, z) = Frame.at(matrix(rng, 3, 3, [1.4, 1.0, 0.6]), Product()), gaussian(rng, 2, 3, 3)
    assert np.abs(frame.christoffel(1j * y, z) - 1j * frame.christoffel(y, z)).max() > 1e-3
    assert np.abs(frame.ito_drift()).max() > 1e-3


def test_the_drift_is_minus_the_trace_of_the_connection(case):
    """``b = −Σ_a Γ(E_a, E_a)`` over an orthonormal basis, its tangent part: the Itô drift of ``½Δ``."""
    x, frame, _, _ = case
    units = np.eye(x.size).reshape(-1, *x.shape)
    basis = frame.half_power(np.concatenate([units, 1j * units]))
    expected = -frame.project(sum(frame.christoffel(e, e) for e in basis))
    np.testing.assert_allclose(frame.ito_drift(), expected, atol=1e-9)


def test_a_real_point_takes_no_complex_vector(rng):
    frame = Frame.at(np.eye(3), DepthKernel(2))
    with pytest.raises(TypeError, match=r"the vector must be real.*field=\"complex\""):
        frame.cometric(1j * np.eye(3))
    # A complex point takes a real one, and gives what the real point gives.
    x, p = rng.standard_normal((2, 3, 3))
    one, other = Frame.at(x, DepthKernel(3)), Frame.at(x + 0j, DepthKernel(3))
    np.testing.assert_allclose(other.cometric(p), one.cometric(p), atol=1e-12)
    np.testing.assert_allclose(other.christoffel(p, p), one.christoffel(p, p), atol=1e-11)


def test_complex_tensors_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    x, y, z, g, h = gaussian(rng, 5, 3, 2)
    for kernel in (DepthKernel(3), DepthKernel(2.5)):
        frame, other = Frame.at(x, kernel), Frame.at(torch.from_numpy(x), kernel)
        y1, z1, g1, h1 = map(torch.from_numpy, (y, z, g, h))
        np.testing.assert_allclose(other.cometric(g1).numpy(), frame.cometric(g), atol=1e-12)
        np.testing.assert_allclose(other.inner(y1, z1).numpy(), frame.inner(y, z), atol=1e-12)
        np.testing.assert_allclose(other.christoffel(y1, z1).numpy(), frame.christoffel(y, z), atol=1e-11)
        np.testing.assert_allclose(other.hessian(z1, g1, h1).numpy(), frame.hessian(z, g, h), atol=1e-11)
        one, two = Curvature(frame), Curvature(other)
        np.testing.assert_allclose(two.sectional(y1, z1).numpy(), one.sectional(y, z), rtol=1e-9)
        np.testing.assert_allclose(two.scalar().numpy(), one.scalar(), rtol=1e-9)
    assert adjoint(x).shape == (2, 3)
