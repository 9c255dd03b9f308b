"""Geodesics against closed forms, independent integrations, and the first variation of a literal energy."""

import math

import autograd
import autograd.numpy as anp
import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp
from user_kernels import Constant, Product

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.errors import GeodesicError
from dlngeo.kernels import of_depth
from dlngeo.matrices.factored import connect_factored
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.shooting import connect, shoot
from dlngeo.weights.alignment import align
from dlngeo.weights.network import balanced_weights

INF = math.inf


def squared_norm(x, z, depth, rank=None):
    """``g_X(Z, Z)``, the Schur multiplier being the reciprocal of the defining quotient."""
    kernel = oracles.naive(depth)
    return np.sum(z * oracles.schur_cometric(x, z, lambda s, t: 1 / kernel(s, t), rank))


def start(rng, m, n, r, depth, length, low=0.6, high=2.0):
    """A random point and a random velocity of the given length."""
    u, s, vt = oracles.factors(rng, m, n, np.sort(rng.uniform(low, high, r))[::-1])
    x, z = oracles.dense(u, s, vt), oracles.tangent(rng, u, vt)
    return x, z * length / np.sqrt(squared_norm(x, z, depth, r))


# Closed forms. Matrices ⊕ z_k of 2×2 blocks [[a, −b], [b, a]], z = a + ib, are fixed by the isometries
# X ↦ QXQᵀ with Q ⊕ of plane rotations, hence totally geodesic. In w = z^{1/N} the metric is flat, 2N|dw|² (2|d log z|²
# at N = ∞), so that geodesics are straight lines in w, on a cone of angle 2π/N. Nothing here commutes or is
# symmetric after the isometry X ↦ QXR, and every singular value is double.


def blocks(z, q, r):
    d = 2 * len(z)
    x = np.zeros((d, d))
    for k, value in enumerate(z):
        x[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[value.real, -value.imag], [value.imag, value.real]]
    return q @ x @ r


class Cones:
    """The geodesic ⊕ z_k(t) between two points given by moduli and angles, and its length."""

    def __init__(self, rng, depth, moduli0, moduli1, angles):
        self.q, self.r = (oracles.orthogonal(rng, 2 * len(angles)) for _ in range(2))
        self.depth = depth
        start_angles = rng.uniform(-math.pi, math.pi, len(angles))
        log0, log1 = np.log(moduli0) + 1j * start_angles, np.log(moduli1) + 1j * (start_angles + np.array(angles))
        self.w0, self.w1 = (log0, log1) if math.isinf(depth) else (np.exp(log0 / depth), np.exp(log1 / depth))
        scale = 2 if math.isinf(depth) else 2 * depth
        self.length = math.sqrt(scale) * np.linalg.norm(self.w1 - self.w0)

    def __call__(self, t):
        w = self.w0 + t * (self.w1 - self.w0)
        return blocks(np.exp(w) if math.isinf(self.depth) else w**self.depth, self.q, self.r)

    @property
    def velocity(self):
        w, dw = self.w0, self.w1 - self.w0
        dz = np.exp(w) * dw if math.isinf(self.depth) else self.depth * w ** (self.depth - 1) * dw
        return blocks(dz, self.q, self.r)


CONES = [
    (1.5, (1.0, 0.4), (0.7, 1.5), (1.2, -0.8)),
    (2, (1.3, 0.6), (0.5, 1.2), (2.0, -1.0)),
    (3, (1.0, 2.0), (3.0, 0.3), (-2.5, 1.5)),
    (8, (1.0, 5.0), (0.2, 0.7), (2.8, 1.0)),
    (INF, (1.0, 5.0), (0.4, 2.0), (1.0, -0.7)),
]
over_cones = pytest.mark.parametrize(("depth", "moduli0", "moduli1", "angles"), CONES, ids=lambda v: str(v))


@over_cones
def test_geodesics_on_double_singular_values_are_straight_lines_on_cones(rng, depth, moduli0, moduli1, angles):
    exact = Cones(rng, depth, moduli0, moduli1, angles)
    times = np.array([0.7, -0.3, 1.0, 0.0, 1.2, 0.1])
    points, velocities = shoot(exact(0), exact.velocity, KernelSurface(of_depth(depth), 4), times)
    for t, point, velocity in zip(times, points, velocities, strict=True):
        np.testing.assert_allclose(point, exact(t), rtol=0, atol=1e-8)
        np.testing.assert_allclose(velocity, oracles.derivative(lambda h, t=t: exact(t + h)), rtol=0, atol=3e-8)


@over_cones
def test_connect_finds_the_straight_line_on_cones(rng, depth, moduli0, moduli1, angles):
    exact = Cones(rng, depth, moduli0, moduli1, angles)
    found = connect(exact(0), exact(1), KernelSurface(of_depth(depth), 4))
    assert found.residual <= 1e-10
    assert found.length <= exact.length * (1 + 1e-8)
    np.testing.assert_allclose(found.velocity, exact.velocity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("depth", [1.5, 2, 3, pytest.param(8, marks=pytest.mark.slow), INF])
def test_half_turns_cost_the_chord_of_the_cone(rng, depth):
    """From I to −I at d = 2 two shortest geodesics exist, one for each sense of rotation.

    For N ≥ 2 their length is also the distance of the fibres upstairs, hence minimal: Σ_p ‖1 − R_p‖² with
    R_N ⋯ R_1 = −1 is least for equal rotations.
    """
    q, r = oracles.orthogonal(rng, 2), oracles.orthogonal(rng, 2)
    exact = math.sqrt(2) * math.pi if math.isinf(depth) else math.sqrt(8 * depth) * math.sin(math.pi / (2 * depth))
    for x0, x1 in ((np.eye(2), -np.eye(2)), (q @ r, -q @ r)):
        found = connect(x0, x1, KernelSurface(of_depth(depth), 2))
        assert found.length == pytest.approx(exact, rel=1e-8)
        middle = shoot(x0, found.velocity, KernelSurface(of_depth(depth), 2), [0.5])[0][0]
        modulus = 1.0 if math.isinf(depth) else math.cos(math.pi / (2 * depth)) ** depth
        np.testing.assert_allclose(np.linalg.svd(middle)[1], modulus, atol=1e-8)
        [end], _ = shoot(x0, found.velocity, KernelSurface(of_depth(depth), 2))
        np.testing.assert_allclose(end, x1, atol=1e-9)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 8, INF])
def test_aligned_frames_move_their_spectra_straight(rng, depth):
    u, _, vt = oracles.factors(rng, 5, 4, np.ones(3))
    if math.isinf(depth):
        u, _, vt = oracles.factors(rng, 3, 3, np.ones(3))
    s0, s1 = np.array([2.0, 1.0, 0.5]), np.array([0.7, 1.5, 1.1])
    if math.isinf(depth):
        root, back, factor = np.log, np.exp, 1.0
    else:
        root, back, factor = (lambda s: s ** (1 / depth)), (lambda w: w**depth), depth
    x0, x1 = oracles.dense(u, s0, vt), oracles.dense(u, s1, vt)
    found = connect(x0, x1, KernelSurface(of_depth(depth), 3))
    assert found.length == pytest.approx(math.sqrt(factor) * np.linalg.norm(root(s1) - root(s0)), rel=1e-9)
    times = np.array([0.25, 0.5, 0.9])
    points, _ = shoot(x0, found.velocity, KernelSurface(of_depth(depth), 3), times)
    exact = oracles.dense(u, back(root(s0) + times[:, None] * (root(s1) - root(s0))), vt)
    np.testing.assert_allclose(points, exact, atol=1e-8)


# Independent integration: Hamilton's equations of a literally written Hamiltonian, differentiated by autograd.


def literal_hamiltonian(depth):
    def power(a, exponent):
        w, q = anp.linalg.eigh(a)
        return (q * w**exponent) @ q.T

    def integer(x, p):
        left, right = x @ x.T, x.T @ x
        eye = anp.eye(len(x))
        total = 0.0
        for i in range(1, depth + 1):
            a = power(left, (depth - i) / depth) if i < depth else eye
            b = power(right, (i - 1) / depth) if i > 1 else eye
            total = total + anp.sum(p * (a @ p @ b))
        return total / 2

    def real(x, p):
        u, s, vt = anp.linalg.svd(x, full_matrices=False)
        eye = anp.eye(len(x))
        gap = (lambda v: 2 * anp.log(v)) if math.isinf(depth) else (lambda v: v ** (2 / depth))
        diagonal = s**2 if math.isinf(depth) else depth * s ** (2 - 2 / depth)
        above = s[:, None] ** 2 - s[None, :] ** 2
        below = gap(s)[:, None] - gap(s)[None, :]
        phi = above / (below + eye) + anp.diag(diagonal)
        return anp.sum((u.T @ p @ vt.T) ** 2 * phi) / 2

    return integer if float(depth).is_integer() else real


@pytest.mark.parametrize(
    ("depth", "d"), [(1.5, 3), (2, 4), (3, 3), pytest.param(8, 3, marks=pytest.mark.slow), (INF, 3)]
)
def test_geodesics_solve_the_literal_hamiltonian_equations(rng, depth, d):
    x, v = start(rng, d, d, d, depth, length=1.5)
    hamiltonian = literal_hamiltonian(depth)
    by_x, by_p = autograd.grad(hamiltonian, 0), autograd.grad(hamiltonian, 1)
    cometric = oracles.matrix_of(lambda e: by_p(x, e), np.eye(d * d).reshape(-1, d, d))
    p = np.linalg.solve(cometric, v.ravel()).reshape(d, d)

    def rate(_, y):
        position, momentum = y.reshape(2, d, d)
        return np.stack([by_p(position, momentum), -by_x(position, momentum)]).ravel()

    exact = solve_ivp(
        rate, (0, 1), np.stack([x, p]).ravel(), method="DOP853", rtol=1e-12, atol=1e-13, t_eval=[0.5, 1.0]
    ).y.T.reshape(2, 2, d, d)
    points, velocities = shoot(x, v, KernelSurface(of_depth(depth), d), [0.5, 1.0])
    np.testing.assert_allclose(points, exact[:, 0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(velocities[-1], by_p(*exact[-1]), rtol=0, atol=1e-8)


# The first variation of the energy, by quadrature of the literal metric, where no chart is at hand.


def chebyshev(count):
    """Nodes on [0, 1], weights of the integral and the differentiation matrix of polynomials on them."""
    theta = np.pi * np.arange(count) / (count - 1)
    nodes = (1 - np.cos(theta)) / 2
    values = np.polynomial.chebyshev.chebvander(2 * nodes - 1, count - 1)
    inverse = np.linalg.inv(values)
    slopes = np.polynomial.chebyshev.chebder(np.eye(count))
    differentiation = 2 * values[:, : count - 1] @ slopes @ inverse
    integrals = np.array([0.0 if k % 2 else 1 / (1 - k**2) for k in range(count)])
    return nodes, integrals @ inverse, differentiation


@pytest.mark.parametrize(
    ("m", "n", "r", "depth"), [(5, 4, 2, 1), (5, 4, 2, 1.5), (5, 4, 2, 3), (4, 3, 3, 2), (3, 4, 3, 8), (4, 5, 1, 4)]
)
def test_geodesics_below_full_rank_make_the_energy_stationary(rng, m, n, r, depth):
    """No chart, connection or projection of the package enters: only points of the path."""
    x, v = start(rng, m, n, r, depth, length=1.0)
    nodes, weights, differentiation = chebyshev(26)
    points, _ = shoot(x, v, KernelSurface(of_depth(depth), r), nodes)
    direction = rng.standard_normal((m, n)) * np.linalg.norm(x)

    def energy(eps):
        # Both ends stay; every other point moves and is truncated to rank r.
        u, s, vt = np.linalg.svd(points + eps * (nodes * (1 - nodes))[:, None, None] * direction)
        moved = (u[:, :, :r] * s[:, None, :r]) @ vt[:, :r]
        rates = np.einsum("st,tij->sij", differentiation, moved)
        return weights @ [squared_norm(y, z, depth, r) for y, z in zip(moved, rates, strict=True)]

    assert energy(0.0) == pytest.approx(1.0, rel=1e-9)
    assert abs(oracles.derivative(energy, step=0.01, levels=4)) < 2e-8
    assert oracles.second_derivative(energy, step=0.02, levels=4) > 1e-2


@pytest.mark.parametrize(
    ("m", "n", "r", "depth"), [(3, 3, 3, 1.5), (4, 4, 4, 3), (3, 3, 3, INF), (5, 4, 2, 2), (4, 3, 3, 3), (5, 4, 2, 8)]
)
def test_energy_and_rank_are_conserved(rng, m, n, r, depth):
    x, v = start(rng, m, n, r, depth, length=2.0)
    points, velocities = shoot(x, v, KernelSurface(of_depth(depth), r), np.linspace(-0.4, 1, 8))
    energies = [squared_norm(y, z, depth, r) for y, z in zip(points, velocities, strict=True)]
    np.testing.assert_allclose(energies, 4.0, rtol=1e-9)
    if r < min(m, n):
        s = np.linalg.svd(points)[1]
        assert np.all(s[:, r] < 1e-10 * s[:, 0])


def test_the_shape_and_order_of_times_and_batches_do_not_matter(rng):
    starts = [start(rng, 4, 3, 2, 3, length) for length in (0.1, 1.0, 2.0)]
    x, v = (np.stack(a).reshape(3, 1, 4, 3) for a in zip(*starts, strict=True))
    times = np.array([1.0, -0.5, 0.0, 0.5])
    points, velocities = shoot(x, v, KernelSurface(DepthKernel(3), 2), times)
    assert points.shape == velocities.shape == (4, 3, 1, 4, 3)
    for i, (xi, vi) in enumerate(starts):
        for t, point, velocity in zip(times, points[:, i, 0], velocities[:, i, 0], strict=True):
            [alone], [rate] = shoot(xi, t * vi, KernelSurface(DepthKernel(3), 2))
            np.testing.assert_allclose(point, alone, rtol=0, atol=1e-9)
            np.testing.assert_allclose(t * velocity, rate, rtol=0, atol=3e-9)
    # Following a geodesic from its own middle goes on along it.
    [ahead], _ = shoot(points[3], velocities[3], KernelSurface(DepthKernel(3), 2), [0.5])
    np.testing.assert_allclose(ahead, points[0], rtol=0, atol=1e-9)


def test_a_kernel_of_the_user_has_geodesics():
    """The constant kernel c has straight lines at unit speed ‖Z‖/√c; it has no depth to guess a path from."""
    x0, x1 = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 2.0]])
    found = connect(x0, x1, KernelSurface(Constant(4.0), 2))
    np.testing.assert_allclose(found.velocity, x1 - x0, atol=1e-9)
    assert found.length == pytest.approx(np.linalg.norm(x1 - x0) / 2)


# Between two points.


@pytest.mark.parametrize(
    ("m", "n", "r", "depth", "length"),
    [
        (3, 3, 3, 1.5, 2.0),
        (3, 3, 3, 2, 3.0),
        (4, 4, 4, 3, 3.0),
        (6, 6, 6, 8, 1.5),
        (3, 3, 3, INF, 3.0),
        (5, 4, 2, 2, 2.0),
        (5, 4, 2, 8, 2.0),
        (4, 3, 3, 3, 2.0),
    ],
)
def test_connect_arrives_and_is_no_longer_than_a_geodesic_known_to_arrive(rng, m, n, r, depth, length):
    kernel = of_depth(depth)
    # Where the longest ones start farther from det X = 0, they do not run into it.
    x0, v = start(rng, m, n, r, depth, length, *((1.5, 3.0) if length == 3 else ()))
    [x1], _ = shoot(x0, v, KernelSurface(kernel, r))
    found = connect(x0, x1, KernelSurface(kernel, r))
    assert found.length <= length * (1 + 1e-7)
    assert found.length == pytest.approx(np.sqrt(squared_norm(x0, found.velocity, depth, r)), rel=1e-9)
    [end], _ = shoot(x0, found.velocity, KernelSurface(kernel, r), tolerance=1e-13)
    assert np.linalg.norm(end - x1) <= 1e-6 * np.linalg.norm(x1)


@pytest.mark.parametrize(("shape", "depth"), [((3, 3, 3), 2), ((3, 3, 3), 3), ((3, 3, 3), 2.5), ((4, 3, 2), 3)])
def test_the_end_is_reached_where_singular_values_are_far_apart(rng, shape, depth):
    """In Frobenius norm the smallest singular value, of 1e-8 of the largest, could be missed by 1 %."""
    r = shape[-1]
    u, s, vt = oracles.factors(rng, *shape[:2], np.geomspace(1e4, 1e-4, r))
    frame = Frame(u, s, vt, of_depth(depth))
    length = 0.5 * np.sqrt(depth) * s[-1] ** (1 / depth)  # half of the way to the singular matrices
    v = frame.half_power(oracles.tangent(rng, u, vt))
    v *= length / np.sqrt(frame.inner(v, v))
    surface = KernelSurface(of_depth(depth), r)
    [x1], _ = shoot(frame.point, v, surface, tolerance=1e-14)
    if shape == (3, 3, 3) and depth != 2.5:
        exact = np.linalg.norm(align(*(np.stack(balanced_weights(x, depth)) for x in (x1, frame.point))).velocity)
        assert exact == pytest.approx(length, rel=1e-7)
    found = connect(frame.point, x1, surface)
    assert found.length == pytest.approx(length, rel=1e-6)
    miss = frame.split(found.velocity - v)
    assert np.sqrt(frame.pair(miss, frame.scale(miss, -1))) < 1e-5 * length
    end = np.linalg.svd(x1)
    ends = (u, s, vt), (end[0][:, :r], end[1][:r], end[2][:r])
    assert connect_factored(*ends, of_depth(depth))[1] == pytest.approx(length, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1 + 1e-12, 1e150])
@pytest.mark.parametrize("kernel", [DepthKernel(3), DepthKernel(2.5, normalized=True), InfiniteDepthKernel()], ids=str)
def test_multiples_of_a_matrix_are_joined_along_the_cone(rng, kernel, scale):
    """``√N ‖Λ_0 − Λ_1‖`` at once, however far: ``|1 − c^{1/N}|`` of the distance from zero, ``g(X, X)^{1/2} N``."""
    x = rng.standard_normal((3, 3))
    found = connect(x, scale * x, KernelSurface(kernel, 3))
    log = math.log1p(1e-12) if scale == 1 + 1e-12 else math.log(scale)
    size = math.sqrt(Frame.at(x, kernel).inner(x, x))
    move = log if math.isinf(kernel.depth) else kernel.depth * math.expm1(log / kernel.depth)
    assert found.length == pytest.approx(size * abs(move), rel=1e-12 if scale != 1 + 1e-12 else 1e-3)
    np.testing.assert_allclose(found.velocity, move * x, rtol=0, atol=1e-12 * np.abs(move * x).max() + 1e-15)


@pytest.mark.slow
def test_a_search_without_success_ends_and_says_so(rng):
    """Near zero geodesics between different frames are beyond double precision: the Λ have 1e-50 of their size."""
    x0, x1 = (oracles.dense(*oracles.factors(rng, 2, 2, (2.0, 1.0))) for _ in range(2))
    x1 *= 1e-150 * np.array([np.sign(np.linalg.det(x0 @ x1)), 1])
    calls = 0

    class Counted(KernelSurface):
        def acceleration(self, x, v):
            nonlocal calls
            calls += 1
            return super().acceleration(x, v)

    with pytest.raises(GeodesicError, match="no geodesic was found") as caught:
        connect(x0, x1, Counted(DepthKernel(2.5), 2))
    assert caught.value.status == "not converged"
    assert calls < 60_000  # of 3000 steps of integration, twelve each and as many that are refused


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(3, 3, 3, 3), (6, 6, 6, 2), (3, 3, 3, INF), (5, 4, 2, 1.5)])
def test_the_logarithm_of_a_short_vector_is_the_vector(rng, m, n, r, depth):
    x0, v = start(rng, m, n, r, depth, length=0.3)
    [x1], _ = shoot(x0, v, KernelSurface(of_depth(depth), r))
    found = connect(x0, x1, KernelSurface(of_depth(depth), r))
    np.testing.assert_allclose(found.velocity, v, rtol=0, atol=1e-7)


@pytest.mark.parametrize("depth", [2, 3])
def test_lengths_are_at_least_the_distance_of_the_fibres_upstairs(rng, depth):
    """A geodesic lifts to a path of the same length between balanced factors, in flat space. The straight distance
    of the two fibres, minimised over gauges by alternating Procrustes problems, is a lower bound from every start that
    reaches the minimum; the least of several is taken.
    """
    d = 3
    x0, _ = start(rng, d, d, d, depth, 1.0)
    x1, _ = start(rng, d, d, d, depth, 1.0)
    if np.linalg.det(x0 @ x1) < 0:
        x1 = x1[:, ::-1]
    found = connect(x0, x1, KernelSurface(of_depth(depth), d))
    below = []
    for _ in range(20):
        w0, w1 = ([*map(np.array, lifted(rng, x, depth))] for x in (x0, x1))
        gauges = [np.eye(d), *(oracles.orthogonal(rng, d) for _ in range(depth - 1)), np.eye(d)]
        for _ in range(300):
            for p in range(1, depth):
                # Q_p appears in Q_p W1_p Q_{p−1}ᵀ and Q_{p+1} W1_{p+1} Q_pᵀ.
                a = w0[p - 1] @ gauges[p - 1] @ w1[p - 1].T + w0[p].T @ gauges[p + 1] @ w1[p]
                u, _, vt = np.linalg.svd(a)
                gauges[p] = u @ vt
        moved = [gauges[p + 1] @ w @ gauges[p].T for p, w in enumerate(w1)]
        below.append(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(w0, moved, strict=True))))
    assert found.length >= min(below) * (1 - 1e-9)
    assert found.length <= 1.5 * min(below)


def lifted(rng, x, depth):
    u, s, vt = np.linalg.svd(x)
    return oracles.balanced_factors(rng, u, s, vt, [len(x)] * (depth - 1))


def test_orientations_below_full_rank_are_connected(rng):
    """Rank 1 in the plane: x ↦ −x is a turn of one side, of which the metric λ²-cone has a chord of π/2 at N = 2."""
    x = np.array([[1.0, 0.0], [0.0, 0.0]])
    found = connect(x, -x, KernelSurface(DepthKernel(2), 1))
    [end], _ = shoot(x, found.velocity, KernelSurface(DepthKernel(2), 1))
    np.testing.assert_allclose(end, -x, atol=1e-9)
    assert np.linalg.matrix_rank(shoot(x, found.velocity, KernelSurface(DepthKernel(2), 1), [0.5])[0][0], tol=1e-9) == 1


# Failures.


@pytest.mark.parametrize(
    ("depth", "normalized"), [(2, False), (3, True), pytest.param(4, False, marks=pytest.mark.slow)]
)
def test_every_attempt_of_the_search_finds_the_same_geodesic(rng, depth, normalized):
    """Collocation, balanced weights and continuation, along each of the paths; the weights at full rank alone."""
    for shape, count in (((3, 3, 3), 7), ((4, 3, 2), 6)):
        surface = KernelSurface(DepthKernel(depth, normalized), shape[-1])
        x0, v = start(rng, *shape, depth, 0.6)
        [x1], _ = shoot(x0, v, surface)
        length = 0.6 * np.sqrt(depth if normalized else 1)
        attempts = list(surface.attempts(x0, x1, 1e-10))
        assert len(attempts) == count
        for bound, attempt in attempts:
            found = attempt()
            np.testing.assert_allclose(found.velocity, v, atol=1e-8)
            np.testing.assert_allclose(found.length, length, rtol=1e-8)
            assert found.residual <= 1e-10
            assert length <= bound <= 1.5 * length
            np.testing.assert_allclose(shoot(x0, found.velocity, surface)[0][0], x1, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, INF])
def test_opposite_determinants_are_refused(rng, depth):
    x0 = oracles.orthogonal(rng, 3)
    x1 = x0 * np.array([1.0, 1.0, -1.0])
    with pytest.raises(GeodesicError, match=r"determinants .* opposite signs") as caught:
        connect(x0, x1, KernelSurface(of_depth(depth), 3))
    assert caught.value.status == "disconnected"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("which", [0, 1])
def test_singular_end_points_are_refused(rng, which):
    pair = [oracles.orthogonal(rng, 3), oracles.orthogonal(rng, 3)]
    pair[which] = pair[which] @ np.diag([1.0, 1.0, 0.0])
    with pytest.raises(GeodesicError, match=["the first point has rank below 3", "the second point"][which]) as caught:
        connect(*pair, KernelSurface(DepthKernel(2), 3))
    assert caught.value.status == "singular"


@pytest.mark.parametrize("depth", [2, 2.5, 3, 4, 5, 8])
@pytest.mark.parametrize("case", range(3))
def test_geodesics_end_where_they_meet_a_singular_matrix(rng, depth, case):
    """The smaller λ reaches zero at t = ½, so no geodesic goes on to 1; σ = λ^N touches zero or crosses it there."""
    lam0 = np.array([[1.4, 1.0], [1.5, 0.6], [1.1, 0.9]])[case]
    lam1 = np.array([[1.5, -1.0], [1.0, -0.6], [1.0, -0.9]])[case]
    u, _, vt = oracles.factors(rng, 2, 2, lam0)
    x = oracles.dense(u, lam0**depth, vt)
    v = oracles.dense(u, depth * lam0 ** (depth - 1) * (lam1 - lam0), vt)
    with pytest.raises(GeodesicError, match="runs into a singular matrix just after time 0") as caught:
        shoot(x, v, KernelSurface(DepthKernel(depth), 2))
    assert caught.value.status == "singular"
    [before], _ = shoot(x, v, KernelSurface(DepthKernel(depth), 2), [0.25])
    np.testing.assert_allclose(before, oracles.dense(u, (0.75 * lam0 + 0.25 * lam1) ** depth, vt), atol=1e-8)


def test_one_member_of_a_batch_that_ends_is_not_answered_for(rng):
    good = start(rng, 2, 2, 2, 3, 0.1)
    bad = (np.diag([2.0, 1.0]), np.diag([0.0, -6.0]))
    with pytest.raises(GeodesicError, match="singular"):
        shoot(np.stack([good[0], bad[0]]), np.stack([good[1], bad[1]]), KernelSurface(DepthKernel(3), 2))


def test_depth_one_passes_through_singular_matrices():
    """The Frobenius metric does not see them."""
    [end], _ = shoot(np.diag([2.0, 1.0]), np.diag([0.0, -2.0]), KernelSurface(DepthKernel(1), 2))
    np.testing.assert_allclose(end, np.diag([2.0, -1.0]), atol=1e-12)


def test_below_full_rank_depth_one_ends_at_lower_rank(rng):
    """The kernel is smooth at zero, but the matrices of rank 2 end there, on the way to a negative σ."""
    u, s, vt = oracles.factors(rng, 5, 4, (1.5, 0.5))
    x, v = oracles.dense(u, s, vt), oracles.dense(u, np.array([0.0, -1.0]), vt)
    [before], _ = shoot(x, v, KernelSurface(DepthKernel(1), 2), [0.4])
    np.testing.assert_allclose(before, x + 0.4 * v, atol=1e-12)
    with pytest.raises(GeodesicError, match=r"just after time 0\.5") as caught:
        shoot(x, v, KernelSurface(DepthKernel(1), 2))
    assert caught.value.status == "singular"


def test_a_kernel_that_is_not_smooth_at_zero_is_written_for_arrays(rng):
    """Diagonal matrices are fixed by reflections: there ``g`` is ``Σ dσ²/(1 + σ²)``, flat in ``arsinh σ``."""
    u, s, vt = oracles.factors(rng, 3, 3, (1.5, 0.8, 0.3))
    rates = np.array([0.4, -0.1, 0.2])
    x, v = oracles.dense(u, s, vt), oracles.dense(u, rates * np.sqrt(1 + s**2), vt)
    [end], _ = shoot(x, v, KernelSurface(Product(), 3))
    np.testing.assert_allclose(end, oracles.dense(u, np.sinh(np.arcsinh(s) + rates), vt), atol=1e-9)
    found = connect(x, end, KernelSurface(Product(), 3))
    assert found.length == pytest.approx(np.linalg.norm(rates), rel=1e-9)


@pytest.mark.parametrize("error", [ValueError("mine"), ZeroDivisionError("mine")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("method", ["__call__", "divided_difference"])
def test_what_a_kernel_raises_comes_through(error, method):
    class Broken(Product):
        """Whose author allows for σ up to 2."""

    def broken(self, *values):
        if any(np.any(a > 2) for a in values):
            raise error
        return getattr(Product, method)(self, *values)

    setattr(Broken, method, broken)
    surface = KernelSurface(Broken(), 2)
    x0, v = np.array([[1.0, 0.2], [0.0, 0.7]]), np.array([[3.0, 0.0], [1.0, 0.5]])
    shoot(x0, 0.1 * v, surface)
    with pytest.raises(type(error), match=r"^mine$"):
        shoot(x0, v, surface)
    with pytest.raises(type(error), match=r"^mine$"):
        connect(x0, x0 + v, surface)


def test_a_geodesic_that_overflows_ends():
    """At infinite depth σ grows exponentially."""
    with pytest.raises(GeodesicError, match="just after time") as caught:
        shoot(np.eye(2), np.diag([1000.0, 1.0]), KernelSurface(InfiniteDepthKernel(), 2))
    assert caught.value.status == "singular"


# A broader sweep.


def sweep():
    for m, n, r in [(2, 2, 2), (3, 3, 3), (4, 4, 4), (6, 6, 6), (5, 4, 2), (4, 3, 3)]:
        for depth in [1.5, 2, 3, 8, INF] if m == n == r else [1.5, 2, 3, 8]:
            for seed in range(6):
                yield m, n, r, depth, seed


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "r", "depth", "seed"), list(sweep()))
def test_connect_finds_geodesics_up_to_length_three(m, n, r, depth, seed):
    """Singular values from 0.3 to 3 at the start, anything but zero at the end."""
    rng = np.random.default_rng([seed, m, n, r, int(2 * min(depth, 50))])
    length = rng.uniform(0.5, 3.0)
    x0, v = start(rng, m, n, r, depth, length, 0.3, 3.0)
    try:
        [x1], _ = shoot(x0, v, KernelSurface(of_depth(depth), r))
    except GeodesicError as error:
        assert error.status == "singular"  # noqa: PT017
        return
    found = connect(x0, x1, KernelSurface(of_depth(depth), r))
    assert found.length <= length * (1 + 1e-6)
    [end], _ = shoot(x0, found.velocity, KernelSurface(of_depth(depth), r), tolerance=1e-13)
    assert np.linalg.norm(end - x1) <= 1e-6 * np.linalg.norm(x1)
