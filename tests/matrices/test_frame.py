"""The calculus in the SVD frame against literal matrix functions, Gram determinants and finite differences.

The connection is not compared with a formula: it is characterised, as the one that is symmetric, tangent and
compatible with the metric. Hessians and drifts are compared with definitions that use no connection.
"""

import itertools
import math
from typing import NamedTuple

import mpmath
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_kernels import Constant, Product

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.matrices.frame import Blocks, Frame

KERNELS = {
    **{f"depth {depth}": (DepthKernel(depth), oracles.naive(depth)) for depth in (1, 1.5, 2, 3, 7)},
    "depth 3 normalized": (DepthKernel(3, normalized=True), lambda s, t: oracles.naive(3)(s, t) / 3),
    "infinite depth": (InfiniteDepthKernel(), oracles.naive(math.inf)),
    "1 + st": (Product(), lambda s, t: 1 + s * t),
}
SHAPES = {  # m, n and singular values, of which some are equal
    "square": (3, 3, [2.1, 0.8, 0.3]),
    "square, repeated": (3, 3, [1.4, 1.4, 0.5]),
    "orthogonal": (3, 3, [0.9, 0.9, 0.9]),
    "scalar": (1, 1, [0.7]),
    "tall": (4, 2, [1.7, 0.6]),
    "wide": (2, 4, [1.7, 0.6]),
    "rank 2": (4, 3, [1.5, 0.7]),
    "rank 2, repeated": (3, 4, [1.1, 1.1]),
    "rank 1": (3, 3, [0.8]),
}


class Case(NamedTuple):
    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    x: np.ndarray
    frame: Frame
    phi: object  # the kernel on pairs of floats, from its defining quotient

    def tangent(self, rng):
        return oracles.tangent(rng, self.u, self.vt)

    def cometric(self, x, p):
        """The cometric at any point of the same rank."""
        return oracles.schur_cometric(x, p, self.phi, self.s.size)

    def gram(self, x=None, u=None, vt=None):
        """A Frobenius-orthonormal tangent basis and the matrix of the cometric in it."""
        if x is None:
            x, u, vt = self.x, self.u, self.vt
        basis = oracles.tangent_basis(u, vt)
        return basis, oracles.matrix_of(lambda e: self.cometric(x, e), basis)

    def inner(self, x, y, z):
        """``g_X(Y, Z)`` by solving with the matrix of the cometric."""
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        r = self.s.size
        basis, a = self.gram(x, u[:, :r], vt[:r])
        y, z = (np.einsum("aij,ij->a", basis, v) for v in (y, z))
        return y @ np.linalg.solve(a, z)


def make(shape, kernel, rng):
    m, n, s = SHAPES[shape]
    kernel, phi = KERNELS[kernel]
    u, s, vt = oracles.factors(rng, m, n, s)
    x = oracles.dense(u, s, vt)
    return Case(u, s, vt, x, Frame.at(x, kernel, rank=s.size), phi)


def invertible(shape):
    m, n, s = SHAPES[shape]
    return m == n == len(s)


# Infinite depth has a metric on invertible matrices only; every other pair has one.
METRIC_CASES = [(s, k) for s, k in itertools.product(SHAPES, KERNELS) if k != "infinite depth" or invertible(s)]
every_case = pytest.mark.parametrize(("shape", "kernel"), list(itertools.product(SHAPES, KERNELS)))
every_metric = pytest.mark.parametrize(("shape", "kernel"), METRIC_CASES)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def close(actual, expected, rtol=1e-11):
    """Compare norm-wise: entries of a matrix share one rounding error."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * max(np.max(np.abs(expected)), 1e-3))


# Cometric, metric, half power, volume.


@every_shape
@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_cometric_is_the_literal_sum_of_matrix_powers(shape, depth, rng):
    case = make(shape, f"depth {depth}", rng)
    z = rng.standard_normal(case.x.shape)
    expected = oracles.literal_cometric(case.x, z, depth, case.s.size)
    if depth == 1:  # where the literal sum keeps the normal part
        expected = oracles.project(case.u, case.vt, expected)
    close(case.frame.cometric(z), expected)
    normalized = Frame.at(case.x, DepthKernel(depth, normalized=True), case.s.size)
    close(normalized.cometric(z), expected / depth)


@every_case
def test_cometric_is_the_schur_multiplier_in_full_singular_bases(shape, kernel, rng):
    case = make(shape, kernel, rng)
    z = rng.standard_normal(case.x.shape)
    close(case.frame.cometric(z), case.cometric(case.x, z))


@every_metric
def test_metric_inner_product_and_half_power_follow_from_the_matrix_of_the_cometric(shape, kernel, rng):
    case = make(shape, kernel, rng)
    y, z, ambient = case.tangent(rng), case.tangent(rng), rng.standard_normal(case.x.shape)
    basis, a = case.gram()
    assert basis.shape[0] == case.s.size * (sum(case.x.shape) - case.s.size)

    def applied(matrix, v):
        return np.einsum("aij,ab,bkl,kl->ij", basis, matrix, basis, v)

    inverse = np.linalg.inv(a)
    close(case.frame.metric(ambient), applied(inverse, ambient))
    close(case.frame.half_power(ambient), applied(oracles.symmetric_power(a, 0.5), ambient))
    close(case.frame.inner(y, z), np.sum(y * applied(inverse, z)))
    assert case.frame.inner(y, z) == pytest.approx(case.frame.inner(z, y), rel=1e-12)
    assert case.frame.inner(z, z) > 0
    close(case.frame.cometric(case.frame.metric(z)), z)
    close(case.frame.half_power(case.frame.half_power(z)), case.frame.cometric(z))


@every_metric
def test_volume_density_is_a_gram_determinant(shape, kernel, rng):
    case = make(shape, kernel, rng)
    sign, log_det = np.linalg.slogdet(case.gram()[1])
    assert sign == 1
    assert case.frame.log_volume_density() == pytest.approx(-log_det / 2, rel=1e-11, abs=1e-11)


@every_shape
def test_blocks_assemble_to_the_tangent_part_and_pair_like_matrices(shape, rng):
    case = make(shape, "depth 3", rng)
    frame, (m, n), r = case.frame, case.x.shape, case.s.size
    y, z = rng.standard_normal((2, m, n))
    expected = oracles.project(case.u, case.vt, z)
    close(frame.project(z), expected)
    close(frame.assemble(frame.split(z)), expected)
    blocks = frame.split(z)
    assert (blocks.left is None) == (m == r)
    assert (blocks.right is None) == (n == r)
    if m > r:
        close(frame.u.T @ blocks.left, np.zeros((r, r)))
    if n > r:
        close(frame.vt @ blocks.right, np.zeros((r, r)))
    close(frame.pair(frame.split(y), blocks), np.sum(y * expected))
    close(frame.point, case.x)


# Derivatives of the cometric.


@every_case
def test_derivative_of_the_cometric_along_curves(shape, kernel, rng):
    case = make(shape, kernel, rng)
    z, p = case.tangent(rng), case.tangent(rng)
    frame, curve = case.frame, oracles.curve(case.u, case.s, case.vt, z)
    zb, pb = frame.split(z), frame.split(p)
    closed = frame.assemble(frame.cometric_derivative(zb, pb)) + frame.normal(zb, pb)

    def along(h):
        return case.cometric(curve(h), p)

    close(closed, oracles.derivative(along), rtol=1e-8)
    quadratic = shape == "scalar" or (kernel == "depth 1" and "rank" not in shape)  # differences are exact there
    if not quadratic:
        np.testing.assert_allclose(oracles.central_orders(along, closed), 2, atol=0.1)


@every_case
def test_hamiltonian_gradient_is_the_derivative_of_the_kinetic_energy(shape, kernel, rng):
    case = make(shape, kernel, rng)
    frame = case.frame
    p, q = case.tangent(rng), case.tangent(rng)
    pb, qb = frame.split(p), frame.split(q)
    gradient = frame.assemble(frame.hamiltonian_gradient(pb))
    mixed = frame.assemble(frame.hamiltonian_gradient(pb, qb))
    close(frame.assemble(frame.hamiltonian_gradient(qb, pb)), mixed)
    close(oracles.project(case.u, case.vt, gradient), gradient)
    for w in (case.tangent(rng), case.tangent(rng)):
        curve = oracles.curve(case.u, case.s, case.vt, w)
        energy = oracles.derivative(lambda h, c=curve: np.array(0.5 * np.sum(p * case.cometric(c(h), p))))
        polarised = oracles.derivative(lambda h, c=curve: np.array(0.5 * np.sum(p * case.cometric(c(h), q))))
        close(np.sum(gradient * w), energy, rtol=1e-8)
        close(np.sum(mixed * w), polarised, rtol=1e-8)


# The connection.


def extend(case, v):
    """The tangent field ``X ↦ P_X(V)`` through V."""

    def field(x):
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        r = case.s.size
        return oracles.project(u[:, :r], vt[:r], v)

    return field


def covariant(case, w, field):
    """``∇_W Y`` of a tangent field at the point, from the closed-form Christoffel map."""
    curve = oracles.curve(case.u, case.s, case.vt, w)
    return oracles.derivative(lambda h: field(curve(h))) + case.frame.christoffel(w, field(case.x))


@every_metric
def test_connection_is_levi_civita(shape, kernel, rng):
    """Symmetric, tangent and metric: these three determine it, and no formula enters."""
    case = make(shape, kernel, rng)
    frame = case.frame
    w, y, z = (case.tangent(rng) for _ in range(3))
    gamma = frame.christoffel(y, z)
    close(frame.christoffel(z, y), gamma)
    close(frame.christoffel(y, 2 * y + 3 * z), 2 * frame.christoffel(y, y) + 3 * gamma)
    y_field, z_field = extend(case, y), extend(case, z)
    along_y, along_z = covariant(case, w, y_field), covariant(case, w, z_field)
    close(oracles.project(case.u, case.vt, along_y), along_y, rtol=1e-8)
    curve = oracles.curve(case.u, case.s, case.vt, w)

    def product(h):
        x = curve(h)
        return np.array(case.inner(x, y_field(x), z_field(x)))

    closed = case.inner(case.x, along_y, z) + case.inner(case.x, y, along_z)
    close(closed, oracles.derivative(product), rtol=1e-8)


@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, 8])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (5, 4)])
def test_geodesics_between_aligned_points_are_straight_in_the_layers(depth, m, n, rng):
    """``U((1−t)Λ_0 + tΛ_1)^N Vᵀ`` is a geodesic of squared length ``N‖Λ_1 − Λ_0‖²`` [C]."""
    lam, slope = np.array([1.2, 0.7, 0.4]), np.array([-0.3, 0.5, 0.2])
    u, s, vt = oracles.factors(rng, m, n, lam**depth)
    velocity = oracles.dense(u, depth * lam ** (depth - 1) * slope, vt)
    acceleration = oracles.dense(u, depth * (depth - 1) * lam ** (depth - 2) * slope**2, vt)
    frame = Frame.at(oracles.dense(u, s, vt), DepthKernel(depth), rank=3)
    close(-frame.christoffel(velocity, velocity), acceleration)
    close(frame.inner(velocity, velocity), depth * np.sum(slope**2))


def test_depth_one_at_full_rank_is_flat(rng):
    frame = Frame.at(rng.standard_normal((4, 3)), DepthKernel(1))
    y, z = rng.standard_normal((2, 4, 3))
    close(frame.christoffel(y, z), np.zeros((4, 3)))
    close(frame.cometric(z), z)
    close(frame.ito_drift(), np.zeros((4, 3)))
    assert frame.log_volume_density() == 0


# The Hessian.


@every_metric
def test_hessian_is_the_covariant_derivative_of_the_gradient_and_symmetric(shape, kernel, rng):
    case = make(shape, kernel, rng)
    cost = oracles.Cost(rng, *case.x.shape)
    y, z = case.tangent(rng), case.tangent(rng)

    def hessian(v):
        return case.frame.hessian(v, cost.gradient(case.x), cost.hessian(case.x, v))

    along_z = hessian(z)
    close(along_z, covariant(case, z, lambda x: case.cometric(x, cost.gradient(x))), rtol=1e-8)
    close(oracles.project(case.u, case.vt, along_z), along_z)
    close(case.inner(case.x, along_z, y), case.inner(case.x, z, hessian(y)), rtol=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
@every_shape
def test_hessian_is_the_second_derivative_along_lifted_lines(shape, depth, rng):
    """Upstairs: ``g(Hess E[Z], Z) = d²/dt² E(φ(W + tẆ))`` with Ẇ the horizontal lift, since normals of the balanced
    manifold lie in the kernel of dφ. No connection and no kernel enters.
    """
    case = make(shape, f"depth {depth}", rng)
    r = case.s.size
    cost = oracles.Cost(rng, *case.x.shape)
    z = case.tangent(rng)
    weights = oracles.balanced_factors(rng, case.u, case.s, case.vt, [r + i % 3 for i in range(depth - 1)])
    basis, a = case.gram()
    momentum = np.einsum("aij,a->ij", basis, np.linalg.solve(a, np.einsum("aij,ij->a", basis, z)))
    lifted = oracles.lift(weights, momentum)
    assert sum(np.sum(h**2) for h in lifted) == pytest.approx(case.frame.inner(z, z), rel=1e-11)

    def loss(t):
        return cost(oracles.multiply([w + t * h for w, h in zip(weights, lifted, strict=True)]))

    if depth == 1 and r < min(case.x.shape):  # a single layer has no room below full rank: the line leaves the manifold
        return
    hessian = case.frame.hessian(z, cost.gradient(case.x), cost.hessian(case.x, z))
    close(case.inner(case.x, hessian, z), oracles.second_derivative(loss), rtol=1e-7)


# Brownian motion.


@every_shape
@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, 64])
def test_ito_drift_at_finite_depth(shape, depth, rng):
    m, n, s = SHAPES[shape]
    u, s, vt = oracles.factors(rng, m, n, s)
    expected = oracles.dense(u, (depth - 1) * s ** (1 - 2 / depth), vt)
    frame = Frame.at(oracles.dense(u, s, vt), DepthKernel(depth), s.size)
    close(frame.ito_drift(), expected)
    normalized = Frame.at(frame.point, DepthKernel(depth, normalized=True), s.size)
    close(normalized.ito_drift(), expected / depth)


def test_ito_drift_at_infinite_depth_is_the_point(rng):
    x = rng.standard_normal((4, 4))
    close(Frame.at(x, InfiniteDepthKernel()).ito_drift(), x)


FULL_RANK = [(s, k) for s, k in METRIC_CASES if len(SHAPES[s][2]) == min(SHAPES[s][:2])]


QUICK = [("wide", "depth 3"), *(("square, repeated", kernel) for kernel in ("depth 1.5", "infinite depth", "1 + st"))]


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in FULL_RANK if case not in QUICK)],
)
def test_ito_drift_at_full_rank_is_that_of_the_laplacian_in_linear_coordinates(shape, kernel, rng):
    """``½Δ = ½ g^{ij}∂_i∂_j + ½ b^i∂_i`` with ``b^i = ∂_j g^{ij} + g^{ij} ∂_j log √g``: the entries are coordinates."""
    case = make(shape, kernel, rng)
    m, n = case.x.shape
    entries = np.eye(m * n).reshape(m * n, m, n)

    def inverse_metric(x):
        return oracles.matrix_of(lambda e: case.cometric(x, e), entries)

    def log_volume(x):
        return -np.linalg.slogdet(inverse_metric(x))[1] / 2

    g = inverse_metric(case.x)
    drift = np.zeros(m * n)
    for j, e in enumerate(entries):
        drift += oracles.derivative(lambda h, j=j, e=e: inverse_metric(case.x + h * e)[:, j], levels=5)
        drift += g[:, j] * oracles.derivative(lambda h, e=e: log_volume(case.x + h * e), levels=5)
    close(case.frame.ito_drift(), drift.reshape(m, n), rtol=1e-7)


LOW_RANK = [(shape, "1 + st") for shape in ("rank 2", "rank 2, repeated", "rank 1", "tall")]
LOW_RANK += [("rank 2", "depth 3"), ("rank 1", "depth 1")]


@pytest.mark.parametrize(("shape", "kernel"), LOW_RANK)
def test_ito_drift_below_full_rank_is_that_of_stepping_and_truncating(shape, kernel, rng):
    """``ΔX``, the Laplacian of the entries in a chart of the rank-r matrices, equals the drift b plus the bending of
    the truncation, ``Σ_a D²trunc(e_a, e_a)`` over the columns of ``A^{1/2}``. Neither side knows the frame.
    """
    m, n, s = SHAPES[shape]
    r, phi = len(s), KERNELS[kernel][1]
    u, s, vt = oracles.factors(rng, m, n, s)
    x = oracles.dense(u, s, vt)
    case = Case(u, s, vt, x, Frame.at(x, KERNELS[kernel][0], r), phi)

    # The chart: [[B, C], [D, D B⁻¹ C]] in fixed bases near the singular ones, so that B is far from singular.
    full_u, _, full_v = np.linalg.svd(x + 0.1 * rng.standard_normal((m, n)))
    turned = full_u.T @ x @ full_v.T
    coordinates = np.concatenate([turned[:r].ravel(), turned[r:, :r].ravel()])

    def point(c):
        top, bottom = c[: r * n].reshape(r, n), c[r * n :].reshape(m - r, r)
        return full_u @ np.vstack([top, bottom @ np.linalg.solve(top[:, :r], top)]) @ full_v

    def jacobian(c):
        top, bottom = c[: r * n].reshape(r, n), c[r * n :].reshape(m - r, r)
        b, columns = top[:, :r], []
        across = np.linalg.solve(b, top)
        for unit in np.eye(c.size):
            dtop, dbottom = unit[: r * n].reshape(r, n), unit[r * n :].reshape(m - r, r)
            low = dbottom @ across + bottom @ np.linalg.solve(b, dtop - dtop[:, :r] @ across)
            columns.append(full_u @ np.vstack([dtop, low]) @ full_v)
        return np.stack(columns)

    def flux(c):
        """``√g g^{ij} ∂_j X`` and ``√g``."""
        y, j = point(c), jacobian(c)
        uy, _, vy = np.linalg.svd(y, full_matrices=False)
        basis, a = case.gram(y, uy[:, :r], vy[:r])
        j_basis = np.einsum("iab,cab->ic", j, basis)
        g = j_basis @ np.linalg.solve(a, j_basis.T)
        root = math.sqrt(np.linalg.det(g))
        return root * np.einsum("ij,jab->iab", np.linalg.inv(g), j), root

    root = flux(coordinates)[1]
    laplacian = np.zeros((m, n))
    for i, e in enumerate(np.eye(coordinates.size)):
        laplacian += oracles.derivative(lambda h, i=i, e=e: flux(coordinates + h * e)[0][i], levels=5) / root

    def truncate(y):
        uy, sy, vy = np.linalg.svd(y, full_matrices=False)
        return oracles.dense(uy[:, :r], sy[:r], vy[:r])

    basis, a = case.gram()
    noise = np.einsum("ab,bij->aij", oracles.symmetric_power(a, 0.5), basis)
    bend = sum(oracles.second_derivative(lambda h, e=e: truncate(x + h * e), step=0.05) for e in noise)
    np.testing.assert_allclose(case.frame.ito_drift(), laplacian - bend, rtol=0, atol=1e-6)


# Symmetries.


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from(sorted(KERNELS)))
@settings(max_examples=60)
def test_everything_is_equivariant_under_rotations_and_transposition(m, n, seed, kernel):
    rng = np.random.default_rng(seed)
    kernel = KERNELS[kernel][0]
    if isinstance(kernel, InfiniteDepthKernel):
        n = m
    r = min(m, n) if isinstance(kernel, InfiniteDepthKernel) else int(rng.integers(1, min(m, n) + 1))
    u, s, vt = oracles.factors(rng, m, n, np.exp(rng.uniform(-1, 1, r)))
    x, y, z = oracles.dense(u, s, vt), oracles.tangent(rng, u, vt), oracles.tangent(rng, u, vt)
    q, t = oracles.orthogonal(rng, m), oracles.orthogonal(rng, n)
    g, h = rng.standard_normal((2, m, n))

    def everything(move):
        return results(Frame.at(move(x), kernel, r), *map(move, (y, z, g, h)))

    expected = everything(lambda a: a)
    for move in (lambda a: q @ a @ t, lambda a: a.T):
        for name, value in everything(move).items():
            if np.ndim(value):
                close(value, move(expected[name]), rtol=1e-9)
            else:
                np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9)


def test_scaling_the_point_scales_the_metric(rng):
    """``φ(cs, ct) = c^{2−2/N} φ(s, t)``, hence ``Γ(cX) = Γ(X)/c`` and ``b(cX) = c^{1−2/N} b(X)``."""
    x, y, z = rng.standard_normal((3, 4, 4))
    c, depth = 3.0, 5
    one, other = Frame.at(x, DepthKernel(depth)), Frame.at(c * x, DepthKernel(depth))
    close(other.cometric(z), c ** (2 - 2 / depth) * one.cometric(z))
    close(other.christoffel(y, z), one.christoffel(y, z) / c, rtol=1e-9)
    close(other.ito_drift(), c ** (1 - 2 / depth) * one.ito_drift())


# Hard points.

CONDITION = 1e8
EPS = np.finfo(float).eps
TOLERANCE = 1e-12


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    "singular_values",
    [
        [1.0, 3e-5, 1 / CONDITION],
        [1.0, 1.0, 1 / CONDITION],
        [1.0, 1 / CONDITION, 1 / CONDITION],
        [2.0, 2.0 - 1e-9, 2.0],
    ],
    ids=["spread", "repeated large", "repeated small", "nearly repeated"],
)
def test_ill_conditioned_and_nearly_repeated_points_in_multiple_precision(depth, singular_values, rng):
    """A double matrix determines σ to ``ε σ_1``, and so the derivative of order k of A to ``ε κ^{k+1−2/N}`` relative to
    ``σ_1``; the tolerances are a hundred times that, relative to what is compared.
    """
    u, s, vt = oracles.factors(rng, 3, 3, singular_values)
    x, z, p = oracles.dense(u, s, vt), *rng.standard_normal((2, 3, 3))
    kappa = s.max() / s.min()
    frame = Frame.at(x, DepthKernel(depth))
    with mpmath.workdps(90):
        xm, zm, pm = (mpmath.matrix(a.tolist()) for a in (x, z, p))
        step = mpmath.mpf(10) ** -28

        def double(a):
            return np.array(a.tolist(), dtype=float)

        cometric = double(oracles.mp_cometric(xm, pm, depth))
        plus, minus = (oracles.mp_cometric(xm + h * zm, pm, depth) for h in (step, -step))
        derivative = double((plus - minus) / (2 * step))
        force = float(mpmath.fdot(pm, plus - minus) / (4 * step))
    first, second = 100 * EPS * kappa ** (1 - 2 / depth), 100 * EPS * kappa ** (2 - 2 / depth)
    close(frame.cometric(p), cometric, rtol=max(first, 1e-13))
    zb, pb = frame.split(z), frame.split(p)
    scale = np.max(np.abs(derivative))
    np.testing.assert_allclose(frame.assemble(frame.cometric_derivative(zb, pb)), derivative, rtol=0, atol=second * 10)
    assert second * 10 < 0.01 * scale
    assert frame.pair(frame.hamiltonian_gradient(pb), zb) == pytest.approx(force, abs=second * 30)
    recovered = frame.metric(frame.cometric(p))
    close(recovered, p, rtol=100 * EPS * kappa ** (2 - 2 / depth))


def slow_christoffel_parts(depth, s, z, p):
    """``φ``, ``∇H(P)``, ``D_Z A(P)`` by loops over all m rows and n columns in full singular bases.

    Null rows and columns carry the singular value 0. Where both are null φ is 0 and the gradient is left out.
    """
    (m, n), r = z.shape, len(s)
    rows, cols = np.zeros(m), np.zeros(n)
    rows[:r], cols[:r] = s, s

    def psi(j, k, l):  # noqa: E741
        return float(oracles.psi(j, k, l, depth))

    phi, gradient, derivative = np.zeros((3, m, n))
    for k, l in itertools.product(range(m), range(n)):  # noqa: E741
        phi[k, l] = float(oracles.phi(rows[k], cols[l], depth))
        for j in range(m):
            if j < r or k < r:
                rotation = (z[k, j] * cols[j] if j < n else 0) + (rows[k] * z[j, k] if k < n else 0)
                derivative[k, l] += psi(cols[l], rows[k], rows[j]) * rotation * p[j, l]
            if k < r or l < r:
                other = p[j, k] if k < n else 0
                gradient[k, l] += rows[k] * other * p[j, l] * psi(rows[j], rows[k], cols[l]) if k < r else 0
        for j in range(n):
            if j < r or l < r:
                rotation = (rows[j] * z[j, l] if j < m else 0) + (z[l, j] * cols[l] if l < m else 0)
                derivative[k, l] += psi(rows[k], cols[j], cols[l]) * p[k, j] * rotation
            if k < r or l < r:
                other = p[l, j] if l < m else 0
                gradient[k, l] += p[k, j] * other * cols[l] * psi(cols[j], rows[k], cols[l]) if l < r else 0
    return phi, gradient, derivative


@pytest.mark.parametrize("depth", [1.5, 3, 64])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (5, 3), (3, 4), (5, 4)])
def test_factored_points_keep_the_relative_accuracy_of_their_singular_values(m, n, depth, rng):
    """At condition 1e8 in factored form every entry of every block is right to 1e-12, which no dense matrix allows."""
    s, r = np.array([1.0, 3e-5, 1e-8]), 3
    full_u, full_v = oracles.orthogonal(rng, m), oracles.orthogonal(rng, n)
    u, v = full_u[:, :r], full_v[:, :r]
    frame = Frame(u, s, v.T, DepthKernel(depth))

    def blocks(a):
        left = None if m == r else full_u[:, r:] @ a[r:, :r]
        return Blocks(a[:r, :r], left, None if n == r else full_v[:, r:] @ a[:r, r:].T)

    def entries(b):
        a = np.zeros((m, n))
        a[:r, :r] = b.core
        if b.left is not None:
            a[r:, :r] = full_u[:, r:].T @ b.left
        if b.right is not None:
            a[:r, r:] = (full_v[:, r:].T @ b.right).T
        return a

    z, p = rng.uniform(0.5, 1, (2, m, n))  # positive, so that no sum cancels
    z[r:, r:], p[r:, r:] = 0, 0
    phi, gradient, derivative = slow_christoffel_parts(depth, s, z, p)
    normal = derivative[r:, r:].copy()
    derivative[r:, r:], gradient[r:, r:] = 0, 0
    for power in (1, -1, 0.5):
        expected = np.where(p > 0, p * np.where(p > 0, phi, 1) ** power, 0)
        np.testing.assert_allclose(entries(frame.scale(blocks(p), power)), expected, rtol=TOLERANCE, atol=1e-15)
    # The null blocks are turned through dense orthogonal matrices, hence relative to their columns.
    for actual, expected in (
        (frame.hamiltonian_gradient(blocks(p)), gradient),
        (frame.cometric_derivative(blocks(z), blocks(p)), derivative),
    ):
        actual = entries(actual)
        np.testing.assert_allclose(actual[:r, :r], expected[:r, :r], rtol=TOLERANCE)
        np.testing.assert_allclose(actual[r:, :r], expected[r:, :r], rtol=10 * TOLERANCE)
        np.testing.assert_allclose(actual[:r, r:], expected[:r, r:], rtol=10 * TOLERANCE)
    if m > r and n > r:
        actual = full_u[:, r:].T @ frame.normal(blocks(z), blocks(p)) @ full_v[:, r:]
        np.testing.assert_allclose(actual, normal, rtol=TOLERANCE)
    weights = np.where(np.arange(m)[:, None] < r, 1, 0) + np.where(np.arange(n) < r, 1, 0) > 0
    assert frame.log_volume_density() == pytest.approx(-np.log(phi[weights]).sum() / 2, rel=TOLERANCE)
    drift = np.diag(u.T @ frame.ito_drift() @ v)
    rounding = 10 * EPS * (s.max() / s.min()) ** max(1 - 2 / depth, 0)
    np.testing.assert_allclose(drift, (depth - 1) * s ** (1 - 2 / depth), rtol=max(rounding, TOLERANCE))


# Batches and namespaces.


def results(frame, y, z, g, h):
    """Everything a frame computes, by name."""
    yb, zb = frame.split(y), frame.split(z)

    def broadcast(a):  # see test_leading_axes_are_those_of_point_and_vector
        return a + 0 * frame.cometric(g)

    return {
        "point": frame.point,
        "project": broadcast(frame.project(g)),
        "cometric": frame.cometric(g),
        "metric": frame.metric(z),
        "half_power": frame.half_power(g),
        "inner": frame.inner(y, z),
        "hamiltonian_gradient": frame.assemble(frame.hamiltonian_gradient(yb)),
        "polarised": frame.assemble(frame.hamiltonian_gradient(yb, zb)),
        "cometric_derivative": frame.assemble(frame.cometric_derivative(yb, zb)),
        "normal": broadcast(frame.normal(yb, zb)),
        "christoffel": frame.christoffel(y, z),
        "christoffel of one": frame.christoffel(z, z),
        "hessian": frame.hessian(z, g, h),
        "log_volume_density": frame.log_volume_density(),
        "ito_drift": frame.ito_drift(),
    }


POINTWISE = {"point", "log_volume_density", "ito_drift"}


def batch(rng, m, n, r, *leading):
    """Random points of rank r and tangent vectors with the given leading axes."""
    shape = (*leading, m, n)
    u, s, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    u, s, vt = u[..., :, :r], s[..., :r], vt[..., :r, :]
    left, right = u @ np.swapaxes(u, -1, -2), np.swapaxes(vt, -1, -2) @ vt
    vectors = [z - (z - left @ z) @ (np.eye(n) - right) for z in rng.standard_normal((2, *shape))]
    return oracles.dense(u, s, vt), *vectors, *rng.standard_normal((2, *shape))


@pytest.mark.parametrize("kernel", [DepthKernel(3), Product()], ids=["depth 3", "1 + st"])
@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 2, 2), (2, 4, 2), (4, 3, 2), (1, 1, 1)])
@pytest.mark.parametrize("leading", [(5,), (2, 3), (0,)])
def test_batches_are_loops(kernel, m, n, r, leading, rng):
    arrays = batch(rng, m, n, r, *leading)
    together = results(Frame.at(arrays[0], kernel, r), *arrays[1:])
    for name, value in together.items():
        assert value.shape[: len(leading)] == leading, name
    for index in np.ndindex(*leading):
        alone = results(Frame.at(arrays[0][index], kernel, r), *(a[index] for a in arrays[1:]))
        for name, value in together.items():
            close(value[index], alone[name], rtol=1e-10)


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 2, 2), (2, 4, 2), (4, 3, 2)])
def test_many_vectors_at_one_point_and_one_vector_at_many_points(m, n, r, rng):
    kernel = DepthKernel(3)
    xs, *vectors = batch(rng, m, n, r, 6)
    one, *many = xs[0], *(oracles.project(*_bases(xs[0], r), v) for v in vectors)
    together = results(Frame.at(one, kernel, r), *many)
    for i in range(6):
        alone = results(Frame.at(one, kernel, r), *(v[i] for v in many))
        for name, value in together.items():
            close(value if name in POINTWISE else value[i], alone[name], rtol=1e-10)
    single = [v[0] for v in vectors]
    together = results(Frame.at(xs, kernel, r), *single)
    for i in range(6):
        alone = results(Frame.at(xs[i], kernel, r), *single)
        for name, value in together.items():
            close(value[i], alone[name], rtol=1e-10)
    several = [np.stack([v, 2 * v[::-1]]) for v in vectors]  # two vectors at each of the six points
    together = results(Frame.at(xs, kernel, r), *several)
    for j, i in np.ndindex(2, 6):
        alone = results(Frame.at(xs[i], kernel, r), *(v[j, i] for v in several))
        for name, value in together.items():
            close(value[i] if name in POINTWISE else value[j, i], alone[name], rtol=1e-10)
    mixed = Frame.at(xs, kernel, r).christoffel(vectors[0], single[0])
    for i in range(6):
        close(mixed[i], Frame.at(xs[i], kernel, r).christoffel(vectors[0][i], single[0]), rtol=1e-10)


@pytest.mark.parametrize("compute", [lambda f, z: f.normal(f.split(z), f.split(z)), lambda f, z: f.project(z)])
def test_leading_axes_are_those_of_point_and_vector(compute, rng):
    points, vectors = rng.standard_normal((2, 6, 3, 3))
    assert compute(Frame.at(points[0], DepthKernel(3)), vectors).shape == (6, 3, 3)
    assert compute(Frame.at(points, DepthKernel(3)), vectors[0]).shape == (6, 3, 3)


def _bases(x, r):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u[:, :r], vt[:r]


@pytest.mark.parametrize("kernel", [DepthKernel(1), DepthKernel(3), Product()])
@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 2, 2), (4, 3, 2)])
def test_torch_agrees_with_numpy(kernel, m, n, r, rng):
    torch = pytest.importorskip("torch")
    x, *vectors = batch(rng, m, n, r, 2, 3)
    expected = results(Frame.at(x, kernel, r), *vectors)
    actual = results(Frame.at(torch.from_numpy(x), kernel, r), *map(torch.from_numpy, vectors))
    for name, value in expected.items():
        assert actual[name].dtype == torch.float64
        close(actual[name].numpy(), value, rtol=1e-10)


def test_single_precision_is_kept(rng):
    x, *vectors = (a.astype(np.float32) for a in batch(rng, 4, 3, 2, 2))
    wide = results(Frame.at(x.astype(float), DepthKernel(3), 2), *(v.astype(float) for v in vectors))
    for name, value in results(Frame.at(x, DepthKernel(3), 2), *vectors).items():
        assert value.dtype == np.float32, name
        close(value, wide[name].astype(np.float32), rtol=1e-3)


def test_the_arguments_are_left_alone(rng):
    x, *vectors = batch(rng, 4, 3, 2, 2)
    copies = [a.copy() for a in (x, *vectors)]
    results(Frame.at(x, DepthKernel(3), 2), *vectors)
    for a, b in zip((x, *vectors), copies, strict=True):
        np.testing.assert_array_equal(a, b)


# A user's kernel, and what goes wrong.


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 2, 2), (4, 3, 2)])
def test_a_kernel_from_the_docstring_is_depth_one(m, n, r, rng):
    x, *vectors = batch(rng, m, n, r, 2)
    expected = results(Frame.at(x, DepthKernel(1), r), *vectors)
    for name, value in results(Frame.at(x, Constant(), r), *vectors).items():
        close(value, expected[name])


def test_factors_may_come_in_any_order_and_must_fit(rng):
    u, s, vt = oracles.factors(rng, 4, 3, [0.5, 2.0])
    z = oracles.tangent(rng, u, vt)
    frame, ordered = Frame(u, s, vt, DepthKernel(3)), Frame.at(oracles.dense(u, s, vt), DepthKernel(3), 2)
    close(frame.christoffel(z, z), ordered.christoffel(z, z))
    close(frame.ito_drift(), ordered.ito_drift())
    with pytest.raises(ValueError, match="factors do not fit"):
        Frame(u, s[:1], vt, DepthKernel(3))
    with pytest.raises(ValueError, match="factors do not fit"):
        Frame(u, s, vt.T, DepthKernel(3))


def test_a_singular_point_has_a_cometric_but_no_metric(rng):
    u, s, vt = oracles.factors(rng, 3, 3, [1.0, 0.5, 0.0])
    z = rng.standard_normal((3, 3))
    for depth in (2, 3):
        frame = Frame(u, s, vt, DepthKernel(depth))
        expected = oracles.literal_cometric(oracles.dense(u, s, vt), z, depth, rank=2)
        close(frame.cometric(z), expected)
        close(frame.half_power(frame.half_power(z)), expected)
        for call in (
            lambda f=frame: f.metric(z),
            lambda f=frame: f.inner(z, z),
            lambda f=frame: f.christoffel(z, z),
            lambda f=frame: f.hessian(z, z, z),
            lambda f=frame: f.log_volume_density(),
        ):
            with pytest.raises(ValueError, match=r"singular matrix.*smallest singular value is 0.*lower rank"):
                call()
    with pytest.raises(ValueError, match="singular"):
        Frame.at(np.zeros((2, 2)), DepthKernel(2)).metric(np.eye(2))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kernel", [DepthKernel(1.5), DepthKernel(2), DepthKernel(3), InfiniteDepthKernel()])
@pytest.mark.parametrize("compute", [lambda f, z: f.ito_drift(), lambda f, z: f.cometric_derivative(z, z).core])
def test_a_singular_point_never_gives_nan(compute, kernel, rng):
    frame = Frame(*oracles.factors(rng, 3, 3, [1.0, 0.5, 0.0]), kernel)
    try:
        value = compute(frame, frame.split(rng.standard_normal((3, 3))))
    except ValueError as error:
        assert "singular" in str(error)  # noqa: PT017
    else:
        assert not np.any(np.isnan(value))


def test_infinite_depth_has_no_metric_below_full_rank(rng):
    for m, n, s in ((3, 3, [1.0, 0.5]), (4, 2, [1.0, 0.5]), (2, 4, [1.0, 0.5])):
        u, s, vt = oracles.factors(rng, m, n, s)
        z = oracles.tangent(rng, u, vt)
        frame = Frame(u, s, vt, InfiniteDepthKernel())
        for call in (
            lambda f=frame, z=z: f.metric(z),
            lambda f=frame, z=z: f.christoffel(z, z),
            lambda f=frame: f.log_volume_density(),
            lambda f=frame: f.ito_drift(),
        ):
            with pytest.raises(ValueError, match=r"InfiniteDepthKernel.*square invertible.*finite depth"):
                call()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_must_be_finite(bad):
    x = np.eye(3)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="point holds NaN or infinite"):
        Frame.at(x, DepthKernel(2))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 4), (5, 4)])
def test_vectors_must_have_the_shape_of_the_point(rng, shape):
    frame = Frame.at(rng.standard_normal((3, 3)), DepthKernel(2))
    for call in (frame.split, frame.project, frame.cometric, frame.metric):
        with pytest.raises(ValueError, match=r"has shape .*; expected \(..., 3, 3\)"):
            call(np.ones(shape))


def test_points_must_be_numbers():
    with pytest.raises(TypeError, match="real"):
        Frame.at(np.eye(2).astype(object), DepthKernel(2))


def test_points_of_integers_and_lists_are_taken():
    x = [[2, 1], [0, 3]]
    expected = Frame.at(np.array(x, dtype=float), DepthKernel(2)).cometric(np.eye(2))
    for point in (x, np.array(x)):
        close(Frame.at(point, DepthKernel(2)).cometric(np.eye(2)), expected)


@pytest.mark.parametrize("rank", [0, 3, -1])
def test_the_rank_must_fit(rank):
    with pytest.raises(ValueError, match="rank"):
        Frame.at(np.ones((3, 2)), DepthKernel(2), rank=rank)
