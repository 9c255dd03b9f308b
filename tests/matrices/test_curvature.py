"""Curvature against finite differences of the metric, Gauss and O'Neill upstairs, cones, and its own symmetries."""

import itertools
import math

import numpy as np
import oracles
import pytest
from user_kernels import Offset, disguised

from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo.kernels import of_depth
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Blocks, Frame

INF = math.inf


def name(value):
    """Test identifiers without addresses."""
    return str(value)


FUNCTIONS = ("__call__", "divided_difference", "second_divided_difference", "mixed_divided_difference")


class Polynomial(Kernel):
    """``φ = 1 + s² + t² + s⁴ + t⁴ + s²t²``: no divided difference of one function, and positive at (0, 0)."""

    def __call__(self, s, t):
        return 1 + s**2 + t**2 + s**4 + t**4 + (s * t) ** 2

    def divided_difference(self, r, s, t):
        return 1 + r**2 + s**2 + t**2

    def second_divided_difference(self, r, s, t, u):
        return np.ones(np.broadcast_shapes(*map(np.shape, (r, s, t, u))))

    mixed_divided_difference = second_divided_difference

    def __repr__(self):
        return "Polynomial"


def case(rng, m, n, r, depth, low=0.6, high=2.0, repeated=False):
    s = rng.uniform(low, high, r)
    if repeated:
        s[-1] = s[0]
    u, s, vt = oracles.factors(rng, m, n, s)
    kernel = depth if isinstance(depth, Kernel) else of_depth(depth)
    return Frame(u, s, vt, kernel)


def tangents(rng, frame, count):
    return np.stack([oracles.tangent(rng, frame.u, frame.vt) for _ in range(count)])


# Independent definitions.


def numerical_tensor(metric, dim, step=0.04, levels=3):
    """``R_abcd = g(R(∂_c, ∂_d)∂_b, ∂_a)`` at 0 from the matrix of a metric in a chart, by extrapolated differences."""
    eye = np.eye(dim)

    def first(k):
        return oracles.derivative(lambda h: metric(h * eye[k]), step, levels)

    def second(k, n):
        if k == n:
            return oracles.second_derivative(lambda h: metric(h * eye[k]), step, levels)
        plus, minus = (
            oracles.second_derivative(lambda h, v=v: metric(h * v), step, levels)
            for v in (eye[k] + eye[n], eye[k] - eye[n])
        )
        return (plus - minus) / 4

    g = metric(np.zeros(dim))
    slope = np.stack([first(k) for k in range(dim)])  # k, i, j
    bend = np.zeros((dim,) * 4)  # k, n, i, j
    for k, n in itertools.combinations_with_replacement(range(dim), 2):
        bend[k, n] = bend[n, k] = second(k, n)
    lower = (np.einsum("ijl->lij", slope) + np.einsum("jil->lij", slope) - slope) / 2
    product = np.einsum("lij,lm,mkn->ijkn", lower, np.linalg.inv(g), lower)
    bent = (
        np.einsum("bcad->abcd", bend)
        + np.einsum("adbc->abcd", bend)
        - np.einsum("acbd->abcd", bend)
        - np.einsum("bdac->abcd", bend)
    )
    return bent / 2 + np.einsum("bcad->abcd", product) - np.einsum("acbd->abcd", product)


def chart_metric(frame, depth, basis):
    """Metric matrix in the chart ``ξ ↦ (U + Z_l Σ⁻¹)(Σ + M)(V + Z_r Σ⁻¹)ᵀ``, ``Z = Σ ξ_a B_a``, as a function of ξ."""
    kernel = depth if isinstance(depth, Kernel) else oracles.naive(depth)
    u, s, v, r = frame.u, frame.s, frame.vt.T, frame.rank
    cores = u.T @ basis @ v
    lefts = (basis @ v - u @ cores) / s
    rights = np.swapaxes(u.T @ basis - cores @ v.T, -1, -2) / s

    def matrix(xi):
        left, core, right = (
            start + np.tensordot(xi, z, 1) for start, z in ((u, lefts), (np.diag(s), cores), (v, rights))
        )
        vectors = lefts @ (core @ right.T) + left @ cores @ right.T + (left @ core) @ np.swapaxes(rights, -1, -2)
        q, values, w = np.linalg.svd(left @ core @ right.T, full_matrices=True)
        rows, cols = np.zeros(u.shape[0]), np.zeros(v.shape[0])
        rows[:r], cols[:r] = values[:r], values[:r]
        inverse = [
            [1 / kernel(a, b) if i < r or j < r else 0.0 for j, b in enumerate(cols)] for i, a in enumerate(rows)
        ]
        moved = q.T @ vectors @ w.T
        return np.einsum("aij,bij,ij->ab", moved, moved, np.array(inverse))

    return matrix


def upstairs(weights, y, z):
    """``g(R(Y, Z)Z, Y)`` for horizontal Y, Z at balanced weights: Gauss, and O'Neill with the vertical bracket.

    The balanced weights are the zeros of ``G_p = W_{p+1}ᵀW_{p+1} − W_pW_pᵀ``, so ``DG(II(Y, Z)) = −D²G(Y, Z)`` with
    II normal; and ``⟨[Y, Z], ΩW − WΩ⟩ = −2⟨Z, ΩY − YΩ⟩`` for horizontal fields. Dense, with no use of any frame.
    """
    count = len(weights)
    inner = [w.shape[0] for w in weights[:-1]]

    def flat(parts):
        return np.concatenate([np.ravel(part) for part in parts])

    def bilinear(a, b):
        return flat(
            [a[p + 1].T @ b[p + 1] + b[p + 1].T @ a[p + 1] - a[p] @ b[p].T - b[p] @ a[p].T for p in range(count - 1)]
        )

    def unit(shape_of, p, i, j):
        out = [np.zeros(shape) for shape in shape_of]
        out[p][i, j] = 1
        return out

    shapes = [w.shape for w in weights]
    jacobian = np.stack(
        [
            bilinear(weights, unit(shapes, p, i, j))
            for p, s in enumerate(shapes)
            for i in range(s[0])
            for j in range(s[1])
        ],
        axis=1,
    )
    pseudo = np.linalg.pinv(jacobian, rcond=1e-10)

    def form(a, b):
        return -pseudo @ bilinear(a, b)

    gauss = form(y, y) @ form(z, z) - form(y, z) @ form(y, z)

    def generated(omega, a):
        ends = [np.zeros((a[0].shape[1],) * 2), *omega, np.zeros((a[-1].shape[0],) * 2)]
        return flat([ends[p + 1] @ a[p] - a[p] @ ends[p] for p in range(count)])

    skew = []
    for p, d in enumerate(inner):
        for i, j in itertools.combinations(range(d), 2):
            omega = unit([(e, e) for e in inner], p, i, j)
            omega[p][j, i] = -1
            skew.append(omega)
    if not skew:
        return gauss
    vertical = np.stack([generated(omega, weights) for omega in skew])
    bracket = np.array([-2 * flat(z) @ generated(omega, y) for omega in skew])
    return gauss + 0.75 * bracket @ np.linalg.solve(vertical @ vertical.T, bracket)


FULL = [(2, 2, 2), (3, 3, 3), (3, 2, 2), (2, 3, 2)]
LOWER = [(3, 2, 1), (3, 3, 2), (2, 4, 1)]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "r", "depth"),
    [
        *((2, 2, 2, depth) for depth in (1.5, 2, 2.5, 4, 5, INF)),
        *((3, 2, 2, depth) for depth in (1.5, 3)),
        (2, 3, 2, 2.5),
        *((3, 2, 1, depth) for depth in (1, 1.5, 3)),
        (2, 2, 2, Polynomial()),
        (3, 2, 2, Polynomial()),
        *(pytest.param(3, 3, 2, depth, marks=pytest.mark.slow) for depth in (1, 2.5, Polynomial())),
        (3, 3, 3, 2.5),
        *(pytest.param(3, 3, 3, depth, marks=pytest.mark.slow) for depth in (1.5, 3, 5, INF)),
    ],
    ids=name,
)
def test_the_riemann_tensor_is_that_of_the_metric_matrix(rng, m, n, r, depth, repeated):
    frame = case(rng, m, n, r, depth, repeated=repeated)
    basis = oracles.tangent_basis(frame.u, frame.vt)
    exact = numerical_tensor(chart_metric(frame, depth, basis), len(basis))
    e = basis
    value = Curvature(frame).riemann(e[:, None], e, e[:, None, None], e[:, None, None, None])  # W, Z, X, Y
    scale = np.max(np.abs(exact))
    np.testing.assert_allclose(value, exact, atol=1e-6 * max(scale, 1))
    assert scale > 1e-3


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize(("m", "n", "r"), [*FULL, *LOWER, (4, 4, 4), (4, 5, 3), (5, 4, 2)])
def test_sectional_curvature_is_that_of_gauss_and_oneill(rng, m, n, r, depth, repeated):
    frame = case(rng, m, n, r, depth, repeated=repeated and r > 1)
    y, z = tangents(rng, frame, 2)
    weights = oracles.balanced_factors(rng, frame.u, frame.s, frame.vt, [r] * (depth - 1))
    exact = upstairs(weights, *(oracles.lift(weights, frame.metric(v)) for v in (y, z)))
    yy, yz, zz = frame.inner(y, y), frame.inner(y, z), frame.inner(z, z)
    curvature = Curvature(frame)
    assert curvature.sectional(y, z) == pytest.approx(exact / (yy * zz - yz**2), abs=1e-11)
    assert curvature.riemann(y, z, z, y) == pytest.approx(exact, abs=1e-11 * yy * zz)


# Structure.


def over(depths, shapes):
    """All pairs, but infinite depth, whose metric lives on square matrices, on these only."""
    pairs = [(*shape, depth) for shape in shapes for depth in depths if depth != INF or len(set(shape)) == 1]
    return pytest.mark.parametrize(("m", "n", "r", "depth"), pairs, ids=name)


@over([1, 1.5, 2, 2.5, 7, INF, Polynomial()], [(3, 3, 3), (4, 3, 3), (5, 4, 2)])
def test_the_tensor_has_the_symmetries_of_curvature(rng, m, n, r, depth):
    frame = case(rng, m, n, r, depth)
    x, y, z, w = tangents(rng, frame, 4)
    curvature = Curvature(frame)
    value = curvature.riemann(x, y, z, w)
    scale = math.prod(math.sqrt(frame.inner(v, v)) for v in (x, y, z, w))
    assert curvature.riemann(y, x, z, w) == pytest.approx(-value, abs=1e-12 * scale)
    assert curvature.riemann(x, y, w, z) == pytest.approx(-value, abs=1e-12 * scale)
    assert curvature.riemann(z, w, x, y) == pytest.approx(value, abs=1e-12 * scale)
    bianchi = value + curvature.riemann(y, z, x, w) + curvature.riemann(z, x, y, w)
    assert bianchi == pytest.approx(0, abs=1e-12 * scale)
    assert (abs(value) > 1e-6 * scale) or (depth == 1 and r == min(m, n))


@over(
    [1, 1.5, 3, INF, Polynomial()],
    [(2, 2, 2), (4, 4, 4), (4, 3, 3), (3, 5, 3), (2, 1, 1), (3, 4, 1), (4, 4, 2), (4, 5, 3)],
)
def test_ricci_and_scalar_curvature_are_contractions(rng, m, n, r, depth):
    frame = case(rng, m, n, r, depth, repeated=r == 3)
    curvature = Curvature(frame)
    basis = oracles.tangent_basis(frame.u, frame.vt)
    e, gram = basis, frame.inner(basis, basis)
    np.testing.assert_allclose(frame.inner(e[:, None], e), np.diag(gram), atol=1e-12)
    full = curvature.riemann(e[:, None, None], e[:, None], e, e[:, None, None])  # X, Y, Z, X
    exact = np.sum(full / gram[:, None, None], axis=0)
    value = curvature.ricci(e[:, None], e)
    scale = 1 + np.max(np.abs(exact))
    np.testing.assert_allclose(value, exact, atol=1e-12 * scale)
    assert curvature.scalar() == pytest.approx(np.sum(np.diag(exact) / gram), abs=1e-11 * scale)
    normal = np.random.default_rng(1).standard_normal((m, n))
    normal -= oracles.project(frame.u, frame.vt, normal)
    np.testing.assert_allclose(curvature.ricci_lower(normal), 0, atol=1e-12 * scale)
    y = tangents(rng, frame, 1)[0]
    np.testing.assert_allclose(
        np.sum(curvature.ricci_lower(y) * e, axis=(-2, -1)), curvature.ricci(y, e), atol=1e-12 * scale
    )


@over([1, 1.5, 2, 3, INF], [(3, 3, 3), (4, 3, 2)])
def test_a_kernel_needs_no_more_than_its_four_functions(rng, m, n, r, depth):
    frame = case(rng, m, n, r, depth)
    x, y, z = tangents(rng, frame, 3)
    plain = Curvature(Frame(frame.u, frame.s, frame.vt, disguised(frame.kernel, *FUNCTIONS)))
    known = Curvature(frame)
    np.testing.assert_allclose(
        plain.apply(x, y, z), known.apply(x, y, z), atol=1e-12 * (1 + np.abs(known.apply(x, y, z)).max())
    )
    assert plain.scalar() == pytest.approx(known.scalar(), rel=1e-12, abs=1e-12)


class OffsetOfQuadratic(Offset):
    """As h[x_s, x_t] of a quadratic h with ``h(x_s) = s²``."""

    def third_divided_difference(self, q, r, s, t):
        return 0 * (q + r + s + t)


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 3, 2), (4, 4, 2)])
def test_the_third_difference_serves_kernels_that_are_positive_at_zero(rng, m, n, r):
    frame = case(rng, m, n, r, Offset())
    y, z = tangents(rng, frame, 2)
    plain = Curvature(frame)
    known = Curvature(Frame(frame.u, frame.s, frame.vt, OffsetOfQuadratic()))
    assert known.sectional(y, z) == pytest.approx(plain.sectional(y, z), rel=1e-8)
    assert known.scalar() == pytest.approx(plain.scalar(), rel=1e-8)


@pytest.mark.parametrize("depth", [1.5, 3, INF])
def test_curvature_does_not_see_rotations(rng, depth):
    frame = case(rng, 3, 3, 3, depth)
    x, y, z = tangents(rng, frame, 3)
    q, p = oracles.orthogonal(rng, 3), oracles.orthogonal(rng, 3)
    moved = Curvature(Frame.at(q @ frame.point @ p, frame.kernel))
    here = Curvature(frame)
    np.testing.assert_allclose(moved.apply(*(q @ v @ p for v in (x, y, z))), q @ here.apply(x, y, z) @ p, atol=1e-11)
    assert moved.scalar() == pytest.approx(here.scalar(), rel=1e-11)


@pytest.mark.parametrize("depth", [2.5, 50, INF])
def test_singular_values_may_come_in_any_order_and_lie_wide_apart(rng, depth):
    """Scalar curvature keeps its digits at condition numbers of 1e6, sectional ones relative to the largest."""
    s = 10.0 ** np.linspace(1, -5, 6)
    s[3] = s[2] * (1 - 1e-7)
    u, _, vt = oracles.factors(rng, 6, 6, s)
    order = rng.permutation(6)
    kernel = of_depth(depth, True)
    sorted_, mixed = (Curvature(Frame(u[:, i], s[i], vt[i], kernel)) for i in (np.arange(6), order))
    assert mixed.scalar() == pytest.approx(sorted_.scalar(), rel=1e-12)
    noise = rng.standard_normal((2, 6, 6))
    y, z = (sorted_.frame.scale(Blocks(core, None, None), 0.5) for core in noise)
    moved = [Blocks(v.core[order][:, order], None, None) for v in (y, z)]
    assert mixed.sectional(*moved) == pytest.approx(sorted_.sectional(y, z), abs=1e-9 * s[-1] ** (-2 / depth))
    for indices in ((5, 0, 2, 3), (0, 5, 5, 1), (3, 2, 4, 4)):
        value, again = (
            float(c._differences.second(*(np.array(where[list(indices)]))))
            for c, where in ((sorted_, np.arange(6)), (mixed, np.argsort(order)))
        )
        assert again == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_ill_conditioned_points_lose_little(rng, depth, condition):
    """Against Gauss and O'Neill, where only the roots of the singular values matter, relative to the largest value."""
    u, s, vt = oracles.factors(rng, 4, 4, np.geomspace(1, 1 / condition, 4))
    frame = Frame(u, s, vt, DepthKernel(depth))
    weights = oracles.balanced_factors(rng, u, s, vt, [4] * (depth - 1))
    for y, z in frame.half_power(rng.standard_normal((10, 2, 4, 4))):
        exact = upstairs(weights, *(oracles.lift(weights, frame.metric(v)) for v in (y, z)))
        exact = exact / (frame.inner(y, y) * frame.inner(z, z) - frame.inner(y, z) ** 2)
        assert Curvature(frame).sectional(y, z) == pytest.approx(exact, abs=1e-10 * s[-1] ** (-2 / depth))


class PowerOfMean(Kernel):
    """``φ = (s + t)^θ``, homogeneous, which nobody says: as of depth N in its scale for ``θ = 2 − 2/N``."""

    def __init__(self, theta):
        self.theta = theta

    def __call__(self, s, t):
        return (s + t) ** self.theta


@pytest.mark.parametrize("scale", [3.0, 1e-100, 1e100, 1e-150, 1e150])
@pytest.mark.parametrize("depth", [1.5, 2, 5, INF, PowerOfMean(1.5)], ids=name)
def test_curvature_scales_as_that_of_a_cone(rng, depth, scale):
    """Sectional curvature has the power ``−2/N`` of the singular values, and N times as large a metric a part of it."""
    frame = case(rng, 4, 4, 4, depth) if depth == INF else case(rng, 4, 3, 2, depth)
    kernel, (x, y, z) = frame.kernel, tangents(rng, frame, 3)
    depth = 4 if kernel.depth is None else depth
    factor, rtol = scale ** (-2 / depth), 1e-11 if kernel.depth else 1e-9
    here, scaled = Curvature(frame), Curvature(Frame(frame.u, scale * frame.s, frame.vt, kernel))
    value, scalar = here.sectional(y, z), here.scalar()
    for size in (1.0, scale):  # of the vectors, which do not matter
        assert scaled.sectional(size * y, y + z) == pytest.approx(factor * value, rel=rtol)
    assert scaled.scalar() == pytest.approx(factor * scalar, rel=rtol)
    assert scaled.ricci(scale * y, scale * z) == pytest.approx(here.ricci(y, z), rel=rtol)
    vectors = x, y, z
    np.testing.assert_allclose(
        scaled.apply(*(scale * v for v in vectors)) / scale, here.apply(*vectors), rtol=1e3 * rtol, atol=rtol
    )
    np.testing.assert_allclose(
        scaled.riemann(*(scale * v for v in (x, y, y, x))), here.riemann(x, y, y, x) / factor, rtol=1e2 * rtol
    )
    np.testing.assert_allclose(scaled.ricci_lower(scale * y) * scale, here.ricci_lower(y), rtol=1e3 * rtol, atol=rtol)
    if kernel.depth in (None, INF):
        return
    normalised = Curvature(Frame(frame.u, frame.s, frame.vt, of_depth(depth, True)))
    assert normalised.sectional(y, z) == pytest.approx(value / depth, rel=1e-11)
    assert normalised.scalar() == pytest.approx(scalar / depth, rel=1e-11)


@pytest.mark.parametrize("depth", [2, 3, 50, INF])
@pytest.mark.parametrize("gap", [1e-13, 1e-9, 1e-5, 1e-2])
def test_curvature_is_continuous_where_singular_values_meet(rng, depth, gap):
    u, _, vt = oracles.factors(rng, 4, 4, np.ones(4))
    y, z = rng.standard_normal((2, 4, 4))
    at, near = (
        Curvature(Frame(u, np.array([1.3, 0.8 + h, 0.8, 0.8 - 2 * h]), vt, of_depth(depth))) for h in (0.0, gap)
    )
    assert near.sectional(y, z) == pytest.approx(at.sectional(y, z), abs=20 * gap + 1e-12)
    assert near.scalar() == pytest.approx(at.scalar(), rel=20 * gap + 1e-11)


def test_normalised_depth_tends_to_infinite_depth_at_first_order(rng):
    frame = case(rng, 3, 3, 3, INF)
    y, z = tangents(rng, frame, 2)
    exact = Curvature(frame).sectional(y, z)
    errors = [
        abs(Curvature(Frame(frame.u, frame.s, frame.vt, of_depth(n, True))).sectional(y, z) - exact)
        for n in (1e3, 1e4, 1e5)
    ]
    np.testing.assert_allclose(np.log10(np.divide(errors[:-1], errors[1:])), 1, atol=0.05)


# Theorems.


@pytest.mark.parametrize(("m", "n"), [(2, 2), (4, 4), (4, 3), (2, 5)])
def test_depth_one_is_flat_at_full_rank(rng, m, n):
    frame = case(rng, m, n, min(m, n), 1)
    x, y, z = tangents(rng, frame, 3)
    curvature = Curvature(frame)
    np.testing.assert_array_equal(curvature.apply(x, y, z), 0)
    assert curvature.sectional(y, z) == 0
    assert curvature.scalar() == 0


@pytest.mark.parametrize("depth", [1, 1.5, 2, 3, 8, INF, Polynomial()], ids=name)
def test_the_diagonal_is_flat_and_so_are_planes_through_the_radius(rng, depth):
    frame = case(rng, 4, 4, 4, depth)
    curvature = Curvature(frame)
    a, b = (Blocks(np.diag(rng.standard_normal(4)), None, None) for _ in range(2))
    assert curvature.sectional(a, b) == pytest.approx(0, abs=1e-13)
    if not isinstance(depth, Kernel):
        y, z = tangents(rng, frame, 2)
        np.testing.assert_allclose(curvature.apply(frame.point, y, z), 0, atol=1e-12)
        np.testing.assert_allclose(curvature.ricci_lower(frame.point), 0, atol=1e-12)


@pytest.mark.parametrize("depth", [1.5, 2, 2.5, 3, 20, INF])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_at_multiples_of_orthogonal_matrices_curvature_is_that_of_commutators(rng, d, depth):
    """So sectional curvature has both signs at every N > 1 and d > 1."""
    o, s = oracles.orthogonal(rng, d), 1.7
    curvature = Curvature(Frame(o, np.full(d, s), np.eye(d), of_depth(depth, True)))
    kappa = (1 - 1 / depth**2) / 4
    power = s ** (2 / depth - 4)
    a, b = rng.standard_normal((2, d, d))
    vectors = {1: (a + a.T, b + b.T), -1: (a - a.T, b - b.T)}
    for first, last in itertools.product((1, -1), repeat=2):
        y, z = vectors[first][0], vectors[last][1]
        exact = power * (kappa if first == last else -kappa / 3) * np.sum((y @ z - z @ y) ** 2)
        assert curvature.riemann(o @ y, o @ z, o @ z, o @ y) == pytest.approx(exact, rel=1e-11, abs=1e-12)
    assert curvature.scalar() == pytest.approx(2 / 3 * kappa * d * (d - 1) ** 2 * s ** (-2 / depth), rel=1e-11)


@pytest.mark.parametrize("depth", [1, 1.5, 3, 10])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 3), (4, 2), (5, 4)])
def test_matrices_of_rank_one_are_a_cone_over_two_spheres(rng, m, n, depth):
    frame = case(rng, m, n, 1, depth)
    curvature = Curvature(frame)
    square = frame.s[0] ** (2 / depth)
    left, right = rng.standard_normal((2, m, 1)), rng.standard_normal((2, n, 1))
    left, right = left - frame.u @ (frame.u.T @ left), right - frame.vt.T @ (frame.vt @ right)
    zero = np.zeros((1, 1))
    lefts = [Blocks(zero, a, np.zeros((n, 1))) for a in left]
    rights = [Blocks(zero, np.zeros((m, 1)), b) for b in right]
    radial = Blocks(np.ones((1, 1)), np.zeros((m, 1)), np.zeros((n, 1)))
    assert curvature.sectional(lefts[0], rights[0]) == pytest.approx(-1 / (depth * square), rel=1e-12)
    assert curvature.sectional(lefts[0], radial) == pytest.approx(0, abs=1e-13)
    if m > 2:
        assert curvature.sectional(*lefts) == pytest.approx((1 - 1 / depth) / square, rel=1e-11, abs=1e-12)
    if n > 2:
        assert curvature.sectional(*rights) == pytest.approx((1 - 1 / depth) / square, rel=1e-11, abs=1e-12)
    exact = (m - 1) * (m - 2) + (n - 1) * (n - 2) - (m + n - 2) * (m + n - 3) / depth
    assert curvature.scalar() == pytest.approx(exact / square, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_depth_two_on_spd_matrices_is_half_the_curvature_of_bures_and_wasserstein(rng, d):
    """O'Neill's formula for ``A ↦ AAᵀ`` from flat space, as in Takatsu (2011), Theorem 1.1.

    With ``Y = SΣ + ΣS`` and ``Z = TΣ + ΣT`` the metric is tr(SΣT), and the numerator ``¾ tr(WᵀΣW)`` for the skew W of
    ``½(ΣW + WΣ) = Σ^{½}[T, S]Σ^{½}``. The metric of depth 2 is twice that.
    """
    q, s = oracles.orthogonal(rng, d), rng.uniform(0.5, 2, d)
    frame = Frame(q, s, q.T, DepthKernel(2))
    sigma, root = (q * s) @ q.T, (q * np.sqrt(s)) @ q.T

    def lyapunov(v):
        return q @ ((q.T @ v @ q) / (s[:, None] + s)) @ q.T

    def inner(a, b):
        return np.trace(a @ sigma @ b)

    for _ in range(5):
        a, b = rng.standard_normal((2, d, d))
        y, z = a + a.T, b + b.T
        left, right = lyapunov(y), lyapunov(z)
        w = lyapunov(2 * root @ (right @ left - left @ right) @ root)
        plane = inner(left, left) * inner(right, right) - inner(left, right) ** 2
        exact = 0.75 * np.trace(w.T @ sigma @ w) / plane
        assert frame.inner(y, z) == pytest.approx(2 * inner(left, right), rel=1e-11)
        value = Curvature(frame).sectional(y, z)
        assert value == pytest.approx(exact / 2, rel=1e-10, abs=1e-13)
        assert value >= -1e-13


# Use.


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (5, 4, 2)])
def test_a_batch_is_a_loop(rng, m, n, r):
    frames = [case(rng, m, n, r, 3) for _ in range(3)]
    batch = Curvature(
        Frame(*(np.stack([getattr(f, name) for f in frames]) for name in ("u", "s", "vt")), DepthKernel(3))
    )
    x, y, z = np.stack([tangents(rng, f, 3) for f in frames], axis=1)
    single = [Curvature(f) for f in frames]
    for name, vectors in (
        ("apply", (x, y, z)),
        ("sectional", (x, y)),
        ("ricci", (x, y)),
        ("ricci_lower", (x,)),
        ("scalar", ()),
    ):
        together = getattr(batch, name)(*vectors)
        apart = np.stack([getattr(c, name)(*(v[i] for v in vectors)) for i, c in enumerate(single)])
        np.testing.assert_allclose(together, apart, atol=1e-11)
    many = single[0].sectional(tangents(rng, frames[0], 4)[:, None], tangents(rng, frames[0], 2))
    assert many.shape == (4, 2)


def test_blocks_and_dense_vectors_agree(rng):
    frame = case(rng, 5, 4, 2, 2.5)
    curvature = Curvature(frame)
    x, y, z = tangents(rng, frame, 3)
    blocks = [frame.split(v) for v in (x, y, z)]
    np.testing.assert_allclose(frame.assemble(curvature.apply(*blocks)), curvature.apply(x, y, z), atol=1e-12)
    np.testing.assert_allclose(frame.assemble(curvature.ricci_lower(blocks[0])), curvature.ricci_lower(x), atol=1e-12)
    assert curvature.sectional(*blocks[:2]) == pytest.approx(curvature.sectional(x, y))


def test_few_vectors_of_low_rank_are_compressed(rng):
    """A tall point, where the null space is larger than the vectors span, against all of it in a fuller frame."""
    frame = case(rng, 30, 25, 2, 3)
    y, z = tangents(rng, frame, 2)
    weights = oracles.balanced_factors(rng, frame.u, frame.s, frame.vt, [2, 2])
    exact = upstairs(weights, *(oracles.lift(weights, frame.metric(v)) for v in (y, z)))
    assert Curvature(frame).riemann(y, z, z, y) == pytest.approx(exact, rel=1e-11)


def test_nearly_dependent_vectors_keep_their_digits_and_dependent_ones_are_refused(rng):
    frame = case(rng, 3, 3, 3, 3)
    curvature = Curvature(frame)
    y, z = tangents(rng, frame, 2)
    assert curvature.sectional(y, y + 1e-6 * z) == pytest.approx(curvature.sectional(y, z), rel=1e-8)
    zero = np.zeros((3, 3))
    for pair in ((y, y), (y, -3 * y), (y, zero), (zero, z), (zero, zero)):
        with pytest.raises(ValueError, match="linearly dependent; pass independent"):
            curvature.sectional(*pair)
    with pytest.raises(ValueError, match="dependent at 1 of 2 places"):
        curvature.sectional(np.stack([y, y]), np.stack([z, y]))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_what_leaves_the_range_of_doubles_is_refused(rng):
    frame = case(rng, 3, 3, 3, 1.5)
    y, z = tangents(rng, frame, 2)
    tiny = Curvature(Frame(frame.u, 1e-250 * frame.s, frame.vt, frame.kernel))  # 1e-250^{-4/3}
    for value in (tiny.scalar, lambda: tiny.sectional(y, z), lambda: tiny.apply(y, z, y), lambda: tiny.ricci(y, z)):
        with pytest.raises(ValueError, match="not finite in double precision"):
            value()
    with pytest.raises(ValueError, match="singular values down to 1e-30 of the largest, got 1e-40 beside 1;"):
        Curvature(Frame(frame.u, np.array([1.0, 0.5, 1e-40]), frame.vt, frame.kernel))


def test_points_and_shapes_of_infinite_metric_are_refused():
    with pytest.raises(ValueError, match="infinite at a singular matrix"):
        Curvature(Frame(np.eye(2), np.array([1.0, 0.0]), np.eye(2), DepthKernel(2)))
    with pytest.raises(ValueError, match="use a finite depth"):
        Curvature(Frame(np.eye(3)[:, :2], np.array([1.0, 0.5]), np.eye(2), InfiniteDepthKernel()))


def test_torch_agrees_with_numpy(rng):
    torch = pytest.importorskip("torch")
    for m, n, r in ((3, 3, 3), (4, 3, 2)):
        frame = case(rng, m, n, r, 3)
        x, y, z = tangents(rng, frame, 3)
        ours = Curvature(frame)
        theirs = Curvature(Frame(*map(torch.from_numpy, (frame.u, frame.s, frame.vt)), frame.kernel))
        tensors = [torch.from_numpy(v) for v in (x, y, z)]
        np.testing.assert_allclose(theirs.apply(*tensors).numpy(), ours.apply(x, y, z), atol=1e-12)
        np.testing.assert_allclose(theirs.sectional(*tensors[:2]).numpy(), ours.sectional(x, y), atol=1e-12)
        np.testing.assert_allclose(theirs.ricci_lower(tensors[0]).numpy(), ours.ricci_lower(x), atol=1e-12)
        assert float(theirs.scalar()) == pytest.approx(float(ours.scalar()), rel=1e-12)
        assert theirs.scalar().dtype == torch.float64
