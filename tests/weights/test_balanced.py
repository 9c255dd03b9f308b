"""The balanced weights: projections, bases, curvature, retraction, against dense oracles from their parametrisation."""

from itertools import combinations, pairwise

import numpy as np
import oracles
import pytest

from dlngeo import DepthKernel, imbalance
from dlngeo.matrices.frame import Frame
from dlngeo.weights import bases
from dlngeo.weights import curvature as balanced_curvature
from dlngeo.weights import projections as balancing
from dlngeo.weights.balanced import BalancedFrame, dimension, inner, norm
from dlngeo.weights.network import differential, end_to_end
from dlngeo.weights.unbalanced import LeafFrame

# widths and singular values; the fourth has equal ones, the last a spread of 1e6
CASES = {
    "square": ((3, 3, 3), (1.7, 0.9, 0.2)),
    "deep": ((3, 3, 3, 3, 3, 3), (2.0, 0.6, 0.3)),
    "wide": ((3, 5, 4, 6), (1.4, 0.8, 0.5)),
    "equal": ((3, 3, 3, 3), (0.8, 0.8, 0.8)),
    "low rank": ((4, 3, 5, 4), (1.1, 0.4)),
    "low rank, equal widths": ((4, 4, 4), (1.1, 1.1)),
    "one layer": ((4, 3), (1.3, 0.7)),
    "rank 1": ((3, 2, 4), (0.9,)),
    "spread": ((3, 4, 3), (10.0, 1.0, 1e-5)),
}


class Point:
    """Balanced weights built from known frames, with vectors spanning their tangent and vertical spaces."""

    def __init__(self, rng, widths, singular_values):
        self.rng, self.widths, self.r, self.depth = rng, widths, len(singular_values), len(widths) - 1
        self.lam = np.array(singular_values) ** (1 / self.depth)
        self.q = [oracles.orthogonal(rng, d)[:, : self.r] for d in widths]
        self.weights = [(b * self.lam) @ a.T for a, b in pairwise(self.q)]
        self.frame = BalancedFrame(self.weights, self.r)
        self.size = sum(w.size for w in self.weights)

    def rotate(self, skews):
        """Velocity of turning the frames: ``B_p W_p − W_p B_{p−1}``."""
        return [b @ w - w @ a for (a, b), w in zip(pairwise(skews), self.weights, strict=True)]

    def dilate(self, s):
        """Velocity of Λ by a symmetric matrix, since equal singular values may split in any directions."""
        return [b @ s @ a.T for a, b in pairwise(self.q)]

    def skews(self, layers):
        for p in layers:
            for i, k in combinations(range(self.widths[p]), 2):
                skew = [np.zeros((d, d)) for d in self.widths]
                skew[p][i, k], skew[p][k, i] = 1, -1
                yield skew

    def spanning(self):
        turns = [self.rotate(skew) for skew in self.skews(range(self.depth + 1))]
        units = np.reshape(np.eye(self.r**2), (-1, self.r, self.r))
        return [*turns, *(self.dilate(unit + unit.T) for unit in units)]

    def vertical(self):
        return [self.rotate(skew) for skew in self.skews(range(1, self.depth))]

    def random(self):
        return [self.rng.standard_normal(w.shape) for w in self.weights]

    def random_tangent(self):
        return self.frame.tangent(self.random())


def flat(vectors):
    return np.concatenate([v.ravel() for v in vectors])


def rows(basis):
    return np.concatenate([v.reshape(v.shape[0], v.shape[-2] * v.shape[-1]) for v in basis], axis=1)


def projector(vectors, size):
    """Orthogonal projector onto the span of vectors, and its dimension."""
    if not vectors:
        return np.zeros((size, size)), 0
    matrix = np.stack([flat(v) / np.linalg.norm(flat(v)) for v in vectors if np.linalg.norm(flat(v)) > 0])
    _, s, vt = np.linalg.svd(matrix, full_matrices=False)
    count = int(np.sum(s > 1e-9 * s[0]))
    return vt[:count].T @ vt[:count], count


@pytest.fixture(params=CASES.values(), ids=CASES)
def point(request, rng):
    return Point(rng, *request.param)


def tolerance(point):
    return 1e-13 * (point.lam.max() / point.lam.min()) ** 2


def test_parts_put_a_vector_together_again(point):
    v = point.random()
    np.testing.assert_allclose(flat(point.frame.assemble(point.frame.split(v))), flat(v), atol=1e-14)


def test_projections_are_those_onto_the_spans(point):
    tangent, count = projector(point.spanning(), point.size)
    vertical, _ = projector(point.vertical(), point.size)
    v = point.random()
    assert count == dimension(point.widths, point.r)
    atol = 10 * tolerance(point)
    np.testing.assert_allclose(flat(point.frame.tangent(v)), tangent @ flat(v), atol=atol)
    np.testing.assert_allclose(flat(point.frame.normal(v)), flat(v) - tangent @ flat(v), atol=atol)
    np.testing.assert_allclose(flat(point.frame.vertical(v)), vertical @ flat(v), atol=atol)
    np.testing.assert_allclose(flat(point.frame.horizontal(v)), (tangent - vertical) @ flat(v), atol=atol)


def test_bases_are_orthonormal_and_span(point):
    horizontal, vertical, normal, tangent = (
        rows(basis(point.frame))
        for basis in (bases.horizontal_basis, bases.vertical_basis, bases.normal_basis, bases.tangent_basis)
    )
    everything = np.concatenate([tangent, normal])
    np.testing.assert_allclose(everything @ everything.T, np.eye(point.size), atol=1e-13)
    np.testing.assert_array_equal(tangent, np.concatenate([horizontal, vertical]))
    for basis, projection in ((horizontal, point.frame.horizontal), (vertical, point.frame.vertical)):
        v = point.random()
        np.testing.assert_allclose(flat(projection(v)), basis.T @ (basis @ flat(v)), atol=tolerance(point))


def test_the_lift_is_horizontal_isometric_and_projects_to_the_vector(point):
    x = end_to_end(point.weights)
    below = Frame.at(x, DepthKernel(point.depth), point.r)
    z = below.project(point.rng.standard_normal(x.shape))
    lift = point.frame.lift(z)
    np.testing.assert_allclose(differential(lift, point.weights), z, atol=tolerance(point))
    np.testing.assert_allclose(flat(point.frame.horizontal(lift)), flat(lift), rtol=1e-9, atol=tolerance(point))
    np.testing.assert_allclose(inner(lift, lift), below.inner(z, z), rtol=100 * tolerance(point))


def test_second_fundamental_form_is_the_normal_acceleration_of_curves(point):
    # W_p(t) = e^{tB_p} Q_p (Λ + tD) Q_{p−1}ᵀ e^{−tB_{p−1}}, differentiated twice by hand.
    normal = np.eye(point.size) - projector(point.spanning(), point.size)[0]
    skews = [b - b.T for b in (0.5 * point.rng.standard_normal((d, d)) for d in point.widths)]
    s = point.rng.standard_normal((point.r, point.r))
    dilation = point.dilate(s + s.T)
    velocity = [turn + grow for turn, grow in zip(point.rotate(skews), dilation, strict=True)]
    acceleration = [
        b @ b @ w + w @ a @ a - 2 * b @ w @ a + 2 * (b @ grow - grow @ a)
        for (a, b), w, grow in zip(pairwise(skews), point.weights, dilation, strict=True)
    ]
    bend = point.frame.second_fundamental_form(velocity, velocity)
    atol = 100 * tolerance(point) * max(1, np.abs(flat(bend)).max())
    np.testing.assert_allclose(flat(bend), normal @ flat(acceleration), atol=atol)


def test_second_fundamental_form_is_bilinear_symmetric_and_adjoint_to_the_shape_operator(point):
    form, (y, z) = point.frame.second_fundamental_form, (point.random_tangent(), point.random_tangent())
    both = [a + b for a, b in zip(y, z, strict=True)]
    polar = (flat(form(both, both)) - flat(form(y, y)) - flat(form(z, z))) / 2
    scale = np.abs(polar).max()
    np.testing.assert_allclose(flat(form(y, z)), polar, atol=100 * tolerance(point) * scale)
    np.testing.assert_allclose(flat(form(y, z)), flat(form(z, y)), atol=100 * tolerance(point) * scale)
    normal = point.frame.normal(point.random())
    shape = point.frame.weingarten(y, normal)
    np.testing.assert_allclose(flat(point.frame.tangent(shape)), flat(shape), atol=100 * tolerance(point) * scale)
    np.testing.assert_allclose(inner(shape, z), inner(form(y, z), normal), atol=100 * tolerance(point) * scale)


def test_oneill_tensor_is_half_the_vertical_bracket(point):
    # Lifts of constant momenta, P ↦ (W_N⋯W_{p+1})ᵀ P (W_{p−1}⋯W_1)ᵀ, are horizontal fields on the balanced weights.
    w = point.weights
    p, q = (point.rng.standard_normal((point.widths[-1], point.widths[0])) for _ in range(2))

    def along(v, momentum):
        return oracles.derivative(
            lambda h: flat(oracles.lift([a + h * b for a, b in zip(w, v, strict=True)], momentum))
        )

    y, z = oracles.lift(w, p), oracles.lift(w, q)
    bracket = along(y, q) - along(z, p)
    vertical, _ = projector(point.vertical(), point.size)
    # Off the manifold the fields are polynomial, so the extrapolated differences are exact but for round-off.
    scale = max(1.0, np.abs(bracket).max())
    np.testing.assert_allclose(
        flat(point.frame.oneill(y, z)), vertical @ bracket / 2, atol=1e-10 * scale + 100 * tolerance(point)
    )


def test_curvature_downstairs_is_that_of_bures_wasserstein_at_depth_2(rng):
    # Positive definite matrices are totally geodesic, and there g is twice Bures–Wasserstein.
    point = Point(rng, (3, 3, 3), (1.7, 0.9, 0.2))
    x = point.q[0] @ np.diag(point.lam**2) @ point.q[0].T
    w = oracles.balanced_factors(rng, point.q[0], point.lam**2, point.q[0].T, (3,))
    frame = BalancedFrame(w)
    y, z = (a + a.T for a in rng.standard_normal((2, 3, 3)))
    got = balanced_curvature.submersed_curvature(frame, frame.lift(y), frame.lift(z))
    np.testing.assert_allclose(got, bures_wasserstein_curvature(x, y, z) / 2, rtol=1e-11)


def bures_wasserstein_curvature(x, y, z):
    """Sectional curvature of Bures–Wasserstein, ``g(Y, Y) = Σ Y_ij²/(2(x_i + x_j))`` in eigenvectors of X.

    It is the quotient of flat matrices by ``A ↦ AAᵀ``: Y lifts to ``L_Y A`` with ``L_Y X + X L_Y = Y``, of squared
    length g(Y, Y), and vertical vectors are AΩ with Ω skew. The fields ``A ↦ L A`` with L symmetric are horizontal and
    have the bracket ``[L_Z, L_Y]A``, which at the root A of X pairs with AΩ to ``⟨A[L_Z, L_Y]A, Ω⟩``, while
    ``‖AΩ‖² = ½ Σ Ω_ij² (x_i + x_j)``. O'Neill's term is all, as the total space is flat.
    """
    values, vectors = np.linalg.eigh(x)
    y, z = (vectors.T @ a @ vectors for a in (y, z))
    plus, root = values[:, None] + values, np.sqrt(values)
    ly, lz = y / plus, z / plus
    half = root[:, None] * (lz @ ly - ly @ lz) * root / plus  # ½ vert [·, ·] = A half
    gyy, gzz, gyz = (np.sum(a * b / plus) / 2 for a, b in ((y, y), (z, z), (y, z)))
    return 3 * np.sum(half**2 * plus) / 2 / (gyy * gzz - gyz**2)


@pytest.mark.parametrize("widths", [(4, 3), (3, 2, 4), (3, 3, 3, 3)])
def test_curvature_at_rank_1_is_that_of_a_cone_over_spheres(rng, widths):
    # W_p = λ q_p q_{p−1}ᵀ: the metric is dρ² + ρ² Σ_p (c_p/N) dq_p², ρ² = Nλ², c_p = 1 at the ends and 2 inside.
    point = Point(rng, widths, (0.9,))
    n, rho2 = point.depth, point.depth * point.lam[0] ** 2
    weight = [1, *[2] * (n - 1), 1]

    def spin(p):
        out = [np.zeros((d, d)) for d in widths]
        b = rng.standard_normal((widths[p], widths[p]))
        out[p] = b - b.T
        return point.rotate(out)

    for p in range(n + 1):
        within = (n / weight[p] - 1) / rho2
        if widths[p] > 2:
            got = balanced_curvature.sectional_curvature(point.frame, spin(p), spin(p))
            np.testing.assert_allclose(got, within, atol=1e-11)
        other = spin((p + 1) % (n + 1))
        np.testing.assert_allclose(
            balanced_curvature.sectional_curvature(point.frame, spin(p), other), -1 / rho2, rtol=1e-11
        )
    sizes = [d - 1 for d in widths]
    spheres = sum(s * (s - 1) * n / c for s, c in zip(sizes, weight, strict=True))
    total = sum(sizes)
    scalar = (spheres - total * (total - 1)) / rho2
    np.testing.assert_allclose(scalar_curvature(point.frame), scalar, rtol=1e-11)


def scalar_curvature(frame):
    return balanced_curvature.scalar_curvature(frame, bases.tangent_basis(frame))


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150])
@pytest.mark.parametrize("frame_of", [BalancedFrame, LeafFrame])
def test_curvature_of_weights_scales_as_that_of_a_cone(rng, frame_of, scale):
    weights, vectors = np.stack(Point(rng, *CASES["square"]).weights), rng.standard_normal((2, 2, 3, 3))
    here, there = frame_of(weights), frame_of(scale * weights)
    value = balanced_curvature.sectional_curvature(here, *map(here.tangent, vectors))
    for size in (1.0, scale):  # of the vectors, which do not matter
        y, z = (size * there.tangent(v) for v in vectors)
        np.testing.assert_allclose(
            balanced_curvature.sectional_curvature(there, y, z) * scale * scale, value, rtol=1e-9
        )
        if frame_of is BalancedFrame:
            lifts = [[frame.horizontal(v) for v in vectors] for frame in (here, there)]
            values = [balanced_curvature.submersed_curvature(f, *v) for f, v in zip((here, there), lifts, strict=True)]
            np.testing.assert_allclose(values[1] * scale * scale, values[0], rtol=1e-9)


def test_curvature_tensor_ricci_and_scalar_hang_together(point):
    if point.lam.min() < 0.1:
        pytest.skip("curvatures of order 1/λ² drown the comparison")
    frame = point.frame
    x, y, z, v = (point.random_tangent() for _ in range(4))

    def tensor(a, b, c, d):
        return inner(balanced_curvature.curvature(frame, a, b, c), d)

    scale = abs(tensor(x, y, y, x)) + 1
    np.testing.assert_allclose(tensor(x, y, z, v), -tensor(y, x, z, v), atol=1e-11 * scale)
    np.testing.assert_allclose(tensor(x, y, z, v), -tensor(x, y, v, z), atol=1e-11 * scale)
    np.testing.assert_allclose(tensor(x, y, z, v) + tensor(y, z, x, v) + tensor(z, x, y, v), 0, atol=1e-11 * scale)
    area = inner(x, x) * inner(y, y) - inner(x, y) ** 2
    sectional = balanced_curvature.sectional_curvature(frame, x, y)
    np.testing.assert_allclose(sectional, tensor(x, y, y, x) / area, rtol=1e-10)
    orthonormal = bases.tangent_basis(frame)
    basis = rows(orthonormal)
    shapes = [w.shape for w in point.weights]
    cuts = np.cumsum([a * b for a, b in shapes])[:-1]
    vectors = [[part.reshape(s) for part, s in zip(np.split(row, cuts), shapes, strict=True)] for row in basis]
    ricci = sum(tensor(e, y, z, e) for e in vectors)
    np.testing.assert_allclose(balanced_curvature.ricci(frame, orthonormal, y, z), ricci, atol=1e-10 * scale)
    scalar = sum(balanced_curvature.ricci(frame, orthonormal, e, e) for e in vectors)
    np.testing.assert_allclose(scalar_curvature(frame), scalar, atol=1e-9 * scale)


def test_snap_and_nearest_land_and_leave_balanced_weights_alone(point):
    for land in (balancing.snap, balancing.nearest):
        same = land(point.weights, point.r)
        np.testing.assert_allclose(flat(same), flat(point.weights), atol=tolerance(point))
    v = [0.02 * point.lam.min() * a for a in point.random()]
    moved = [a + b for a, b in zip(point.weights, v, strict=True)]
    for land in (balancing.snap, balancing.nearest):
        end = land(moved, point.r)
        assert max((np.abs(g).max() for g in imbalance(end)), default=0) < 1e-13 * point.lam.max() ** 2
        assert np.linalg.matrix_rank(end_to_end(end), tol=1e-9) == point.r


def test_the_nearest_point_is_reached_along_a_normal(point):
    normal = point.frame.normal(point.random())
    step = 0.05 * point.lam.min() / norm(normal)
    moved = [w + step * n for w, n in zip(point.weights, normal, strict=True)]
    np.testing.assert_allclose(flat(balancing.nearest(moved, point.r)), flat(point.weights), atol=10 * tolerance(point))


def test_the_retraction_is_of_second_order(point):
    v = point.random_tangent()
    v = [point.lam.min() / norm(v) * a for a in v]

    def gap(t):
        """Distance to the metric projection of W + tV, itself a second-order retraction."""
        step = [t * a for a in v]
        straight = [w + a for w, a in zip(point.weights, step, strict=True)]
        pairs = zip(balancing.retract(point.frame, step), balancing.nearest(straight, point.r), strict=True)
        return norm([a - b for a, b in pairs])

    times = [0.1, 0.05, 0.025]
    gaps = np.array([gap(t) for t in times])
    if gaps[0] < 1e-10 * point.lam.min():  # straight lines in the manifold
        pytest.skip("this step bends too little to be measured")
    slopes = np.log2(gaps[:-1] / gaps[1:])
    assert slopes.min() > 2.8


def test_batches_and_stacks_give_what_single_points_give(rng):
    points = [Point(rng, (3, 3, 3, 3), s) for s in ((1.7, 0.9, 0.2), (0.8, 0.8, 0.5))]
    stack = np.stack([np.stack(p.weights) for p in points])
    v, y = rng.standard_normal((2, *stack.shape))
    frame = BalancedFrame(stack)
    v, y = frame.tangent(v), frame.tangent(y)
    n = stack - frame.tangent(stack) + rng.standard_normal(stack.shape)
    n = frame.normal(n)
    for i, p in enumerate(points):
        one = p.frame
        for name in ("tangent", "normal", "horizontal", "vertical"):
            np.testing.assert_allclose(getattr(frame, name)(n)[i], getattr(one, name)(list(n[i])), atol=1e-13)
        np.testing.assert_allclose(
            frame.second_fundamental_form(v, y)[i], one.second_fundamental_form(list(v[i]), list(y[i])), atol=1e-12
        )
        np.testing.assert_allclose(frame.weingarten(v, n)[i], one.weingarten(list(v[i]), list(n[i])), atol=1e-12)
        np.testing.assert_allclose(frame.oneill(v, y)[i], one.oneill(list(v[i]), list(y[i])), atol=1e-12)
        np.testing.assert_allclose(bases.tangent_basis(frame)[i], np.stack(bases.tangent_basis(one), 1), atol=1e-12)
        np.testing.assert_allclose(scalar_curvature(frame)[i], scalar_curvature(one), rtol=1e-11)
        small = 0.1 * v
        np.testing.assert_allclose(
            balancing.retract(frame, small)[i], balancing.retract(one, list(small[i])), atol=1e-13
        )
        moved = stack + 0.01 * n
        np.testing.assert_allclose(balancing.nearest(moved)[i], balancing.nearest(list(moved[i])), atol=1e-12)


def test_torch_gives_what_numpy_gives(rng):
    torch = pytest.importorskip("torch")
    point = Point(rng, (3, 4, 3), (1.1, 0.4))
    tensors = [torch.from_numpy(w) for w in point.weights]
    v, y = point.random_tangent(), point.random_tangent()
    tv, ty = ([torch.from_numpy(a) for a in u] for u in (v, y))
    frame = BalancedFrame(tensors, 2)
    for got, expected in (
        (frame.tangent(tv), point.frame.tangent(v)),
        (frame.second_fundamental_form(tv, ty), point.frame.second_fundamental_form(v, y)),
        (balancing.retract(frame, tv), balancing.retract(point.frame, v)),
    ):
        np.testing.assert_allclose(flat([a.numpy() for a in got]), flat(expected), atol=1e-12)
    np.testing.assert_allclose(float(scalar_curvature(frame)), scalar_curvature(point.frame), rtol=1e-11)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda w: BalancedFrame(w, 4), "rank 4 exceeds"),
        (lambda w: BalancedFrame([0 * a for a in w]), "rank below 3"),
        (
            lambda w: balancing.nearest([p + a for p, a in enumerate(w)], max_iterations=2),
            "did not conv",
        ),
        (lambda w: balanced_curvature.sectional_curvature(BalancedFrame(w), w, w), "span no plane"),
    ],
)
def test_bad_input_is_refused(rng, call, match):
    with pytest.raises(ValueError, match=match):
        call(Point(rng, (3, 4, 3), (1.2, 0.5, 0.3)).weights)
