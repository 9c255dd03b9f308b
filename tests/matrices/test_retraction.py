"""The retraction against explicit products of balanced factors, geodesics, and multiple precision."""

import math

import mpmath
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from user_kernels import disguised

from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo.kernels import RegularizedKernel
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.matrices.retraction import retract


class Quadratic(Kernel):
    """``φ = 1 + (s² + t²)/2``: no depth kernel, and not a product."""

    def __call__(self, s, t):
        return 1 + (s**2 + t**2) / 2

    def divided_difference(self, r, s, t):
        return np.full(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)), 0.5)


# m, n and singular values: generic, one side full, m < 2r with a repeated value, square, ill conditioned.
SHAPES = [
    (7, 5, (1.9, 0.7, 0.3)),
    (3, 5, (1.0, 1.0, 0.2)),
    (5, 4, (1.5, 1.5, 0.6)),
    (3, 3, (2.0, 1.0, 0.5)),
    (8, 6, (1.0, 0.1, 1e-3)),
    (3, 3, (1.0, 1e-2, 1e-2)),
]


def frame_at(rng, m, n, s, kernel):
    return Frame(*oracles.factors(rng, m, n, s), kernel)


def unit_tangent(rng, frame):
    z = oracles.tangent(rng, frame.u, frame.vt)
    return z / math.sqrt(frame.inner(z, z))


def momentum(x, z, depth, rank, u, vt):
    """``A⁻¹Z`` by solving with the literal sum in a basis of the tangent space."""
    basis = oracles.tangent_basis(u, vt)
    matrix = oracles.matrix_of(lambda e: oracles.literal_cometric(x, e, depth, rank), basis)
    components = np.linalg.solve(matrix, np.einsum("aij,ij->a", basis, z))
    return np.einsum("a,aij->ij", components, basis)


def end(frame, z):
    return oracles.dense(*retract(frame, frame.split(z)))


sides = st.integers(1, 6)


@given(st.integers(2, 6), sides, sides, st.floats(0, 1.5), st.floats(0.01, 3), st.integers(0, 2**32 - 1))
def test_it_is_the_product_of_straight_balanced_factors(depth, m, n, spread, length, seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, min(m, n) + 1))
    frame = frame_at(rng, m, n, 10 ** rng.uniform(-spread, 0.3, rank), DepthKernel(depth))
    x, z = frame.point, length * unit_tangent(rng, frame)
    weights = oracles.balanced_factors(rng, frame.u, frame.s, frame.vt, list(rng.integers(rank, rank + 3, depth - 1)))
    lifted = oracles.lift(weights, momentum(x, z, depth, rank, frame.u, frame.vt))
    expected = oracles.multiply([w + h for w, h in zip(weights, lifted, strict=True)])
    u, s, vt = retract(frame, frame.split(z))
    np.testing.assert_allclose(oracles.dense(u, s, vt), expected, atol=1e-8 * np.linalg.norm(expected))
    np.testing.assert_allclose(u.T @ u, np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(rank), atol=1e-13)
    assert np.all(np.diff(s) <= 0)


def geodesic(x, z, kernel, rank, times):
    def field(_, state):
        position, velocity = state.reshape(2, *x.shape)
        return np.stack((velocity, -Frame.at(position, kernel, rank).christoffel(velocity, velocity))).ravel()

    start = np.stack((x, z)).ravel()
    solution = solve_ivp(field, (0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-12, atol=1e-14 * np.abs(x).max())
    return solution.y.T.reshape(-1, 2, *x.shape)[:, 0]


KERNELS = [*map(DepthKernel, (1, 1.5, 2, 8)), DepthKernel(3.5, normalized=True), InfiniteDepthKernel(), Quadratic()]
KERNELS.append(disguised(DepthKernel(3.5), "__call__", "divided_difference"))
CASES = [
    (kernel, shape)
    for kernel in KERNELS
    for shape in SHAPES
    if shape[0] == shape[1] == len(shape[2]) or not isinstance(kernel, InfiniteDepthKernel)
    # Where one side is full, depth 1 is flat and the retraction is exact: see the next test.
    if len(shape[2]) < min(shape[:2]) or repr(kernel) != repr(DepthKernel(1))
]


@pytest.mark.parametrize(
    ("kernel", "shape"), CASES, ids=lambda v: type(v).__name__ if isinstance(v, Kernel) else str(v)
)
def test_it_leaves_geodesics_at_third_order(kernel, shape, rng):
    frame = frame_at(rng, *shape, kernel)
    z = unit_tangent(rng, frame)
    # Lengths over which the smallest singular value changes by little, for lengths are measured by the kernel.
    scale = 0.25 * np.min(frame.s / np.sqrt(np.diagonal(frame.phi)))
    times = scale * np.array([1 / 8, 1 / 4, 1 / 2, 1])
    exact = geodesic(frame.point, z, kernel, frame.rank, times)
    errors = np.array([np.linalg.norm(end(frame, t * z) - x) for t, x in zip(times, exact, strict=True)])
    orders = np.log2(errors[1:] / errors[:-1])
    assert errors[-1] > 1e-10  # or there would be nothing to measure
    resolved = errors[:-1] > 1e-13
    assert resolved[-1]
    assert np.all(orders[resolved] > 2.9), (orders, errors)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (3, 5), (6, 3)])
def test_depth_one_at_full_rank_is_addition(m, n, rng):
    frame = frame_at(rng, m, n, (2.0, 1.0, 1.0), DepthKernel(1))
    z = 5 * rng.standard_normal((m, n))
    np.testing.assert_allclose(end(frame, z), frame.point + z, atol=1e-13)


def test_depth_one_below_full_rank_is_the_nearest_matrix(rng):
    frame = frame_at(rng, 6, 5, (2.0, 0.3), DepthKernel(1))
    z = oracles.tangent(rng, frame.u, frame.vt)
    u, s, vt = np.linalg.svd(frame.point + z)
    np.testing.assert_allclose(end(frame, z), oracles.dense(u[:, :2], s[:2], vt[:2]), atol=1e-13)


@pytest.mark.parametrize("depth", [1, 1.5, 3, 4.25])
def test_scaling_the_metric_changes_nothing(depth, rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 0.1), DepthKernel(depth))
    scaled = Frame(frame.u, frame.s, frame.vt, DepthKernel(depth, normalized=True))
    z = 0.05 * unit_tangent(rng, frame)
    np.testing.assert_allclose(end(scaled, z), end(frame, z), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 7])
def test_real_depths_join_integer_ones(depth, rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 0.1), DepthKernel(depth))
    z = 0.1 * unit_tangent(rng, frame)
    for near in (depth - 1e-9, depth + 1e-9):
        neighbour = Frame(frame.u, frame.s, frame.vt, DepthKernel(near))
        np.testing.assert_allclose(end(neighbour, z), end(frame, z), atol=1e-8)
        assert not np.array_equal(end(neighbour, z), end(frame, z))


def test_infinite_depth_is_the_limit_of_normalised_depth(rng):
    frame = frame_at(rng, 3, 3, (2.0, 1.0, 0.1), InfiniteDepthKernel())
    z = 0.5 * unit_tangent(rng, frame)
    limit = end(frame, z)
    errors = []
    for depth in (64, 256, 1024):
        finite = Frame(frame.u, frame.s, frame.vt, DepthKernel(depth, normalized=True))
        errors.append(np.linalg.norm(end(finite, z) - limit))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2, atol=0.1)  # first order in 1/N, 4× apart


@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 8, 13])
def test_small_singular_values_keep_their_own_digits(depth, turning, rng):
    s = np.array([1e-13, 3.0, 1e-24, 1e-6])
    frame = frame_at(rng, 6, 5, s, DepthKernel(depth))
    left, right = (0.1 * rng.standard_normal((d, 4)) for d in (6, 5))
    left, right = left - frame.u @ (frame.u.T @ left), right - frame.vt.T @ (frame.vt @ right)
    core = 0.1 * rng.standard_normal((4, 4))
    if turning:
        # The balanced factors change by a tenth of the larger λ in each entry: large singular vectors turn by 0.1.
        core *= frame.phi / np.maximum(*np.broadcast_arrays(s[:, None], s)) ** (1 - 2 / depth)
    else:
        # A step that is small against each singular value: X + Z = √Σ (1 + G) √Σ in the frame, with G of order 0.1.
        core *= np.sqrt(np.outer(s, s))
    z = Blocks(core, left * s, right * s)
    got = retract(frame, z)[1]

    mp = mpmath.mp
    with mpmath.workdps(90):
        exact_s = [mpmath.mpf(v) for v in s]
        exact_lam = [mpmath.root(v, depth) for v in exact_s]

        def matrix(a):
            return mpmath.matrix(np.asarray(a).tolist())

        def layer(p):
            return matrix(np.zeros((4, 4))) + mpmath.diag(exact_lam) + power(depth - p) * kk * power(p - 1)

        def power(exponent):
            return mpmath.diag([v**exponent for v in exact_lam])

        kk = mpmath.matrix(4, 4)
        for i in range(4):
            for j in range(4):
                kk[i, j] = mpmath.mpf(z.core[i, j]) / oracles.phi(s[i], s[j], depth)
        inverse_null = mpmath.diag([1 / oracles.phi(v, 0.0, depth) for v in s])
        u, vt = matrix(frame.u), matrix(frame.vt)
        x = u * layer(depth) + matrix(z.left) * inverse_null * power(depth - 1)
        for p in range(depth - 1, 1, -1):
            x = x * layer(p)
        x = x * (layer(1) * vt + power(depth - 1) * inverse_null * matrix(z.right).T)
        # Those of x beyond the rank vanish, to 90 digits.
        _, r = mp.qr(x, mode="skinny")
        exact = sorted(mp.svd_r(r, compute_uv=False), reverse=True)[:4]
        errors = [float(abs(mpmath.mpf(a) - b) / b) for a, b in zip(got, exact, strict=True)]
    assert max(errors) < 1e-11, errors


def test_small_singular_values_keep_their_own_digits_at_larger_rank(rng):
    rank = 30  # beyond 25, LAPACK's default SVD divides and conquers, and loses small values altogether
    s = np.logspace(0, -24, rank)
    frame = frame_at(rng, rank, rank, s, DepthKernel(2))
    core = 0.1 * rng.standard_normal((rank, rank)) * np.sqrt(np.outer(s, s))
    got = retract(frame, Blocks(core, None, None))[1]
    with mpmath.workdps(40):
        b = mpmath.matrix((core / frame.phi).tolist()) + mpmath.eye(rank)
        product = b * mpmath.diag([mpmath.mpf(v) for v in s]) * b
        exact = sorted(mpmath.svd_r(product, compute_uv=False), reverse=True)
        errors = [float(abs(mpmath.mpf(a) - e) / e) for a, e in zip(got, exact, strict=True)]
    assert max(errors) < 1e-12, errors


def test_without_depth_small_singular_values_outlive_the_turning_of_large_ones(rng):
    """The normal term of the end point is 3e-3; singular values below it are those of the start, to the same order."""
    frame = frame_at(rng, 7, 6, (30.0, 1e-4, 1e-7), RegularizedKernel(InfiniteDepthKernel(), 1e-3))
    z = Blocks(np.zeros((3, 3)), *(np.zeros((size, 3)) for size in (7, 6)))
    for block, basis in ((z.left, frame.u), (z.right, frame.vt.T)):
        block[:, 0] = 0.3 * oracles.orthogonal(rng, len(basis))[:, 0]
        block -= basis @ (basis.T @ block)
    s = retract(frame, z)[1]
    np.testing.assert_allclose(s, frame.s, rtol=1e-3)


def test_a_singular_value_may_cross_zero_at_integer_depth(rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 0.4), DepthKernel(3))
    # K = −2Λ^{2−N} on the second singular value turns λ into −λ.
    core = np.diag([0.0, -2 * 3 * 1.0, 0.0])
    x = oracles.dense(*retract(frame, Blocks(core, np.zeros((5, 3)), np.zeros((4, 3)))))
    expected = (frame.u * frame.s * [1, -1, 1]) @ frame.vt
    np.testing.assert_allclose(x, expected, atol=1e-14)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_where_the_rank_drops_the_frames_stay_orthonormal(depth, rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 0.5), DepthKernel(depth))
    core = np.diag(-depth * frame.s * [0, 1, 1])
    u, s, vt = retract(frame, Blocks(core, np.zeros((5, 3)), np.zeros((4, 3))))
    np.testing.assert_allclose(s, [2, 0, 0], atol=1e-15)
    np.testing.assert_allclose(u.T @ u, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(3), atol=1e-13)


@pytest.mark.parametrize("depth", [1.5, 2.5, 6.75])
def test_a_step_too_long_for_a_real_power_is_projected(depth, rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 0.4), DepthKernel(depth))
    core = 0.1 * rng.standard_normal((3, 3)) - np.diag([0.0, 3 * depth, 0.0])
    z = Blocks(core, np.zeros((5, 3)), np.zeros((4, 3)))
    got = retract(frame, z)
    general = disguised(DepthKernel(depth), "__call__", "divided_difference")
    expected = oracles.dense(*retract(Frame(frame.u, frame.s, frame.vt, general), z))
    np.testing.assert_array_equal(oracles.dense(*got), expected)
    assert all(np.isrealobj(a) and np.isfinite(a).all() for a in got)


@pytest.mark.parametrize("kernel", [DepthKernel(2), DepthKernel(4.5), DepthKernel(40), Quadratic()])
def test_an_overflow_is_an_error(kernel, rng):
    frame = frame_at(rng, 5, 4, (2.0, 1.0, 1e-3), kernel)
    z = 1e307 * oracles.tangent(rng, frame.u, frame.vt)
    with pytest.raises(OverflowError, match="shorten the step"):
        retract(frame, frame.split(z))


def test_a_step_that_loses_a_singular_value_to_rounding_is_an_error(rng):
    """At great depth one σ may grow by 1e80: the others end as they are, or the step is refused, but none is 0."""
    refused = 0
    for depth in (8, 16, 16.5, 64):
        for _ in range(20):
            frame = frame_at(rng, 4, 4, np.sort(10 ** rng.uniform(-8, 0, 4))[::-1], DepthKernel(depth))
            try:
                s = retract(frame, frame.split(0.3 * rng.standard_normal((4, 4))))[1]
                assert np.all(s > 0)
            except OverflowError as error:
                assert "shorten the step" in str(error)  # noqa: PT017
                refused += depth == 64  # on every kernel of BLAS a fifth or more of them
    assert refused > 0


def test_an_overflow_is_an_error_at_infinite_depth(rng):
    frame = frame_at(rng, 3, 3, (2.0, 1.0, 1e-3), InfiniteDepthKernel())
    with pytest.raises(OverflowError):
        retract(frame, frame.split(np.diag([1e3, 1e4, 1e5]) + frame.point * 1e4))


@pytest.mark.parametrize("kernel", [DepthKernel(2), DepthKernel(3.5), DepthKernel(8), InfiniteDepthKernel()])
def test_it_commutes_with_scaling_over_the_whole_range_of_doubles(kernel, rng):
    """``g`` is homogeneous, so ``R_{cX}(cZ) = c R_X(Z)`` for any c; here c is a power of two."""
    frame = frame_at(rng, 3, 3, (2.0, 1.0, 0.5), kernel)
    z = frame.split(0.3 * unit_tangent(rng, frame))
    reference = retract(frame, z)[1]
    for c in (2.0**-460, 2.0**460):
        scaled = retract(Frame(frame.u, c * frame.s, frame.vt, kernel), Blocks(c * z.core, None, None))[1]
        np.testing.assert_allclose(scaled / c, reference, rtol=1e-11)
