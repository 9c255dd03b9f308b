"""The submersion onto the products: gauge group, fibres, alignment, and the quotient of geomstats against ours."""

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import gsa, npa
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.quotient_metric import QuotientMetric
from geomstats.numerics.geodesic import ExpODESolver
from geomstats.numerics.ivp import GSIVPIntegrator

from dlngeo.errors import GeodesicError
from dlngeo.geomstats import BalancedMatrices, DLNMetric, EndToEndBundle, GaugeAction
from dlngeo.weights.alignment import act, align, procrustes

CASES = [(3, 3), (2, 5), (3, 2), (2, 1)]
over_cases = pytest.mark.parametrize(("d", "depth"), CASES)


def total(d, depth):
    space = BalancedMatrices(d, depth)
    space.equip_with_group_action(GaugeAction(d, depth))
    space.equip_with_quotient()
    return space


def quotient(d, depth):
    return GeneralLinear(d, equip=False).equip_with_metric(QuotientMetric, total_space=total(d, depth))


def closed(d, depth):
    return GeneralLinear(d, equip=False).equip_with_metric(DLNMetric, depth=depth)


def matrix(rng, d):
    """A matrix with two equal singular values, if it has more than two."""
    return oracles.dense(*oracles.factors(rng, d, d, [1.4, 0.8, 0.8][:d]))


def weights(rng, d, depth, x=None):
    u, s, vt = np.linalg.svd(matrix(rng, d) if x is None else x)
    return np.stack(oracles.balanced_factors(rng, u, s, vt, [d] * (depth - 1)))


def orbit_directions(w):
    """Velocities of one-parameter groups of gauge transformations, an unnormalised basis of the vertical space."""
    out = []
    for p in range(len(w) - 1):
        for i in range(w.shape[-1]):
            for j in range(i):
                skew, v = np.zeros(w.shape[1:]), np.zeros_like(w)
                skew[i, j], skew[j, i] = 1, -1
                v[p], v[p + 1] = skew @ w[p], -w[p + 1] @ skew
                out.append(v.ravel())
    return np.array(out).reshape(-1, w.size)


def vertical_projector(w):
    basis = orbit_directions(w)
    return np.linalg.pinv(basis) @ basis if len(basis) else np.zeros((w.size, w.size))


# The gauge group.


@over_cases
def test_the_gauge_group_acts(rng, d, depth):
    action, w = GaugeAction(d, depth), weights(rng, d, depth)
    a, b = npa(action.random_element(2, rng=rng))
    assert a.shape == action.group_elem_shape == (depth - 1, d, d)
    q = [np.eye(d), *a, np.eye(d)]
    moved = npa(action(gsa(a), gsa(w)))
    np.testing.assert_allclose(moved, np.stack([q[p + 1] @ w[p] @ q[p].T for p in range(depth)]), atol=1e-14)
    np.testing.assert_allclose(oracles.multiply(moved), oracles.multiply(w), atol=1e-14)
    assert bool(total(d, depth).belongs(gsa(moved)))
    np.testing.assert_allclose(npa(action(gsa(b), gsa(moved))), npa(action(gsa(b @ a), gsa(w))), atol=1e-14)
    one = np.broadcast_to(np.eye(d), a.shape)
    np.testing.assert_allclose(npa(action(gsa(one), gsa(w))), w, atol=1e-15)
    if depth > 1:
        assert np.linalg.norm(moved - w) > 0.1


def test_the_gauge_group_takes_batches(rng):
    action = GaugeAction(2, 3)
    q, w = npa(action.random_element(4, rng=1)), np.stack([weights(rng, 2, 3) for _ in range(4)])
    np.testing.assert_allclose(np.einsum("npij,npkj->npik", q, q), np.broadcast_to(np.eye(2), q.shape), atol=1e-14)
    both = npa(action(gsa(q), gsa(w)))
    np.testing.assert_allclose(npa(action(gsa(q[1]), gsa(w)))[1], both[1], atol=1e-15)
    np.testing.assert_allclose(npa(action(gsa(q), gsa(w[2])))[2], both[2], atol=1e-15)


def test_the_gauge_group_refuses_other_shapes(rng):
    with pytest.raises(ValueError, match=r"group_elem has shape \(3, 2, 2\); expected \(\.\.\., 2, 2, 2\)"):
        GaugeAction(2, 3)(gsa(np.ones((3, 2, 2))), gsa(np.ones((3, 2, 2))))
    with pytest.raises(ValueError, match=r"point has shape \(2, 2, 2\); expected \(\.\.\., 3, 2, 2\)"):
        GaugeAction(2, 3)(gsa(np.ones((2, 2, 2))), gsa(np.ones((2, 2, 2))))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        GaugeAction(2, 0)


# The bundle.


@over_cases
def test_lift_and_submersion(rng, d, depth):
    space = total(d, depth)
    bundle = space.fiber_bundle
    assert isinstance(bundle, EndToEndBundle)
    x = np.stack([matrix(rng, d) for _ in range(2)])
    lifted = bundle.lift(gsa(x))
    assert lifted.shape == (2, depth, d, d)
    assert npa(space.belongs(lifted)).all()
    np.testing.assert_allclose(npa(bundle.riemannian_submersion(lifted)), x, atol=1e-14)
    w, v = weights(rng, d, depth), rng.standard_normal((depth, d, d))
    exact = oracles.derivative(lambda h: oracles.multiply(w + h * v), levels=4)
    np.testing.assert_allclose(npa(bundle.tangent_riemannian_submersion(gsa(v), gsa(w))), exact, atol=1e-10)


@over_cases
def test_horizontal_and_vertical_parts(rng, d, depth):
    space = total(d, depth)
    bundle = space.fiber_bundle
    w = weights(rng, d, depth)
    v = npa(space.to_tangent(gsa(rng.standard_normal(w.shape)), gsa(w)))
    up, along = npa(bundle.horizontal_projection(gsa(v), gsa(w))), npa(bundle.vertical_projection(gsa(v), gsa(w)))
    np.testing.assert_allclose(along.ravel(), vertical_projector(w) @ v.ravel(), atol=1e-12)
    np.testing.assert_allclose(up + along, v, atol=1e-12)
    batch = gsa(np.stack([up, along, v, up]))
    trivial = depth == 1
    assert npa(bundle.is_horizontal(batch, gsa(w), atol=1e-9)).tolist() == [True, trivial, trivial, True]
    assert npa(bundle.is_vertical(batch, gsa(w), atol=1e-9)).tolist() == [False, True, False, False]
    assert npa(bundle.is_horizontal(gsa(up), gsa(np.stack([w, w])), atol=1e-9)).shape == (2,)
    # A normal vector is neither, though it has neither part.
    if depth > 1:
        normal = rng.standard_normal(w.shape)
        normal = normal - npa(space.to_tangent(gsa(normal), gsa(w)))
        assert not bool(bundle.is_horizontal(gsa(normal), gsa(w)))
        assert not bool(bundle.is_vertical(gsa(normal), gsa(w)))


@over_cases
def test_horizontal_lifts_are_isometric(rng, d, depth):
    bundle, metric = total(d, depth).fiber_bundle, closed(d, depth).metric
    x = matrix(rng, d)
    w, z = weights(rng, d, depth, x), rng.standard_normal((d, d))
    for lifted, point in (
        (bundle.horizontal_lift(gsa(z), fiber_point=gsa(w)), w),
        (bundle.horizontal_lift(gsa(z), base_point=gsa(x)), npa(bundle.lift(gsa(x)))),
    ):
        assert bool(bundle.is_horizontal(lifted, gsa(point), atol=1e-12))
        np.testing.assert_allclose(npa(bundle.tangent_riemannian_submersion(lifted, gsa(point))), z, atol=1e-12)
        np.testing.assert_allclose(np.sum(npa(lifted) ** 2), npa(metric.squared_norm(gsa(z), gsa(x))), rtol=1e-12)
    with pytest.raises(ValueError, match="give base_point"):
        bundle.horizontal_lift(gsa(z))


# Alignment.


def near(rng, w, size):
    """Weights at a distance along a horizontal geodesic, and its velocity."""
    space = total(w.shape[-1], len(w))
    v = npa(space.fiber_bundle.horizontal_projection(gsa(rng.standard_normal(w.shape)), gsa(w)))
    v = size * v / np.linalg.norm(v)
    return npa(space.metric.exp(gsa(v), gsa(w))), v


@pytest.mark.parametrize(("d", "depth"), [(3, 3), (2, 5), (3, 2)])
def test_alignment_undoes_a_gauge_transformation(rng, d, depth):
    space = total(d, depth)
    bundle, action = space.fiber_bundle, space.group_action
    w = weights(rng, d, depth)
    end, v = near(rng, w, 0.4)
    moved = npa(action(action.random_element(rng=rng), gsa(end)))
    aligned = bundle.align(gsa(moved), gsa(w))
    np.testing.assert_allclose(npa(aligned), end, atol=1e-9)
    log = space.metric.log(aligned, gsa(w))
    assert bool(bundle.is_horizontal(log, gsa(w), atol=1e-8))
    np.testing.assert_allclose(npa(log), v, atol=1e-8)
    found = align(moved, w)
    np.testing.assert_allclose(act(found.gauge, moved), npa(aligned), atol=1e-14)
    np.testing.assert_allclose(found.gauge @ found.gauge.swapaxes(1, 2) - np.eye(d), 0, atol=1e-13)
    np.testing.assert_allclose(found.velocity, v, atol=1e-9)


def test_no_other_point_of_the_fibre_is_closer(rng):
    space = total(2, 3)
    w, moved = weights(rng, 2, 3), weights(rng, 2, 3)
    if np.linalg.det(oracles.multiply(w)) * np.linalg.det(oracles.multiply(moved)) < 0:
        moved[2] = np.diag([1.0, -1.0]) @ moved[2]
    aligned = npa(space.fiber_bundle.align(gsa(moved), gsa(w)))
    np.testing.assert_allclose(oracles.multiply(aligned), oracles.multiply(moved), atol=1e-13)
    least = float(npa(space.metric.dist(gsa(w), gsa(aligned))))
    for angle in (0.05, -0.2):
        c, s = np.cos(angle), np.sin(angle)
        gauge = np.stack([np.array([[c, -s], [s, c]]), np.eye(2)][:: 1 if angle > 0 else -1])
        assert float(npa(space.metric.dist(gsa(w), gsa(act(gauge, aligned))))) > least


def test_the_best_chord_is_off_the_best_geodesic_by_the_third_order(rng):
    """Chords are aligned exactly orthogonal to the fibre at their end, and not at their start."""
    w = weights(rng, 3, 3)
    _, v = near(rng, w, 1.0)
    space = total(3, 3)
    one = np.broadcast_to(np.eye(3), (2, 3, 3))
    sizes, errors = np.array([0.4, 0.2, 0.1]), []
    for h in sizes:
        end = npa(space.metric.exp(gsa(h * v), gsa(w)))
        turned = act(procrustes(end, w, one), end)
        assert np.linalg.norm(orbit_directions(turned) @ (turned - w).ravel()) < 1e-11
        errors.append(np.linalg.norm(turned - end))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(sizes))
    np.testing.assert_allclose(slopes, 3, atol=0.35)
    assert errors[0] > 1e-5


def test_procrustes_never_lengthens_the_chord_and_keeps_determinants(rng):
    w, base = weights(rng, 3, 4), weights(rng, 3, 4)
    start = np.stack([[oracles.orthogonal(rng, 3) for _ in range(3)] for _ in range(5)])
    found = procrustes(w, base, start)
    np.testing.assert_allclose(np.linalg.det(found), np.linalg.det(start), atol=1e-12)
    before, after = (np.linalg.norm((act(q, w) - base).reshape(5, -1), axis=1) for q in (start, found))
    assert np.all(after < before)


def test_alignment_says_what_is_wrong(rng):
    space = total(2, 3)
    w = weights(rng, 2, 3)
    flipped = np.stack([w[0], w[1], np.diag([1.0, -1.0]) @ w[2]])
    with pytest.raises(GeodesicError, match="pair 1: the determinants of the two products have opposite signs"):
        space.fiber_bundle.align(gsa(np.stack([w, flipped])), gsa(w))


# The quotient of geomstats.


@over_cases
def test_the_generic_quotient_is_the_closed_form(rng, d, depth):
    ours, generic = closed(d, depth).metric, quotient(d, depth).metric
    x = np.stack([matrix(rng, d) for _ in range(2)])
    y, z = rng.standard_normal((2, 2, d, d))
    np.testing.assert_allclose(
        npa(generic.inner_product(gsa(y), gsa(z), gsa(x))), npa(ours.inner_product(gsa(y), gsa(z), gsa(x))), rtol=1e-12
    )
    np.testing.assert_allclose(npa(generic.norm(gsa(z), gsa(x))), npa(ours.norm(gsa(z), gsa(x))), rtol=1e-12)
    z = gsa(0.35 * z / npa(ours.norm(gsa(z), gsa(x)))[:, None, None])
    ends = ours.exp(z, gsa(x))
    np.testing.assert_allclose(npa(generic.exp(z, gsa(x))), npa(ends), atol=1e-8)
    log = npa(generic.log(ends[0], gsa(x[0])))
    np.testing.assert_allclose(log, npa(z)[0], atol=1e-7)
    np.testing.assert_allclose(log, npa(ours.log(ends[0], gsa(x[0]))), atol=1e-7)
    times = gs.linspace(0.0, 1.0, 3)
    shot = [npa(m.geodesic(gsa(x[0]), initial_tangent_vec=z[0])(times)) for m in (generic, ours)]
    np.testing.assert_allclose(shot[0], shot[1], atol=1e-8)


def test_distances_and_geodesics_of_the_generic_quotient(rng):
    ours, generic = closed(2, 3).metric, quotient(2, 3).metric
    x, z = np.stack([matrix(rng, 2) for _ in range(2)]), rng.standard_normal((2, 2, 2))
    ends = ours.exp(gsa(0.35 * z / npa(ours.norm(gsa(z), gsa(x)))[:, None, None]), gsa(x))
    np.testing.assert_allclose(npa(generic.dist(gsa(x), ends)), [0.35, 0.35], rtol=1e-7)
    np.testing.assert_allclose(npa(ours.dist(gsa(x), ends)), [0.35, 0.35], rtol=1e-7)
    times = gs.linspace(0.0, 1.0, 3)
    paths = [npa(m.geodesic(gsa(x[0]), end_point=ends[0])(times)) for m in (generic, ours)]
    np.testing.assert_allclose(paths[0], paths[1], atol=1e-7)


def test_the_generic_quotient_between_far_points(rng):
    ours, generic = closed(2, 3).metric, quotient(2, 3).metric
    x = np.array([[1.2, 0.3], [-0.4, 0.9]])
    y = np.array([[-0.2, 1.0], [-1.1, 0.5]])
    np.testing.assert_allclose(npa(generic.log(gsa(y), gsa(x))), npa(ours.log(gsa(y), gsa(x))), atol=1e-7)


@pytest.mark.parametrize(("d", "depth"), [(3, 3), (2, 5), (3, 2)])
def test_horizontal_geodesics_stay_horizontal_and_project_to_geodesics(rng, d, depth):
    space, base = total(d, depth), closed(d, depth)
    bundle = space.fiber_bundle
    x = matrix(rng, d)
    w, z = gsa(weights(rng, d, depth, x)), rng.standard_normal((d, d))
    z = gsa(0.7 * z / npa(base.metric.norm(gsa(z), gsa(x))))
    times = np.array([0.3, 0.6, 1.0])
    above = space.metric.geodesic(w, initial_tangent_vec=bundle.horizontal_lift(z, fiber_point=w))(gsa(times))
    below = base.metric.geodesic(gsa(x), initial_tangent_vec=z)(gsa(times))
    np.testing.assert_allclose(npa(bundle.riemannian_submersion(above)), npa(below), atol=1e-9)
    for i, end in enumerate(npa(above)):
        back = -npa(space.metric.log(w, gsa(end))) / times[i]
        assert np.linalg.norm(vertical_projector(end) @ back.ravel()) < 1e-8


def test_fixed_steps_near_singular_matrices_fail_downstairs_only(rng):
    """Where λ is small, X = U Λ^N Vᵀ is a bad coordinate: Runge–Kutta steps of one size are far worse in it.

    What parts upstairs from downstairs there is the error of these steps, of fourth order; it is none of the geometry.
    """
    space, base = total(2, 3), closed(2, 3)
    bundle = space.fiber_bundle
    x, z = gsa([[1.0, 0.2], [0.3, 0.16]]), gsa([[0.1, 0.6], [-0.5, -0.1]])
    lifted, w = bundle.horizontal_lift(z, base_point=x), bundle.lift(x)
    exact = npa(base.metric.exp(z, x))
    np.testing.assert_allclose(npa(bundle.riemannian_submersion(space.metric.exp(lifted, w))), exact, atol=1e-9)
    errors = []
    for geometry, vector, point in ((space, lifted, w), (base, z, x)):
        for steps in (40, 80):
            end = ExpODESolver(geometry, GSIVPIntegrator(steps, "rk4")).exp(vector, point)
            end = bundle.riemannian_submersion(end) if geometry is space else end
            errors.append(np.abs(npa(end) - exact).max())
    above, below = np.reshape(errors, (2, 2))
    assert 3.4 < np.log2(above[0] / above[1]) < 4.6
    assert 3.4 < np.log2(below[0] / below[1]) < 4.6
    assert below[1] > 30 * above[1]


# O'Neill's tensor.


@pytest.mark.parametrize(("d", "depth"), [(3, 3), (2, 5)])
def test_the_integrability_tensor_is_the_definition(rng, d, depth):
    """Covariant derivatives are tangent parts of derivatives, of fields that are horizontal or vertical all along."""
    space = total(d, depth)
    bundle = space.fiber_bundle
    w = weights(rng, d, depth)
    x, y = (npa(bundle.horizontal_projection(gsa(rng.standard_normal(w.shape)), gsa(w))) for _ in range(2))
    skews = rng.standard_normal((depth - 1, d, d))
    omega = np.concatenate([np.zeros((1, d, d)), skews - skews.swapaxes(1, 2), np.zeros((1, d, d))])
    z = npa(bundle.tangent_riemannian_submersion(gsa(y), gsa(w)))

    def vertical(point):
        return omega[1:] @ point - point @ omega[:-1]

    def along(field, h):
        return field(npa(space.metric.exp(h * gsa(x), gsa(w))) if h else w)

    def tensor(a, b):
        return npa(bundle.integrability_tensor(gsa(a), gsa(b), gsa(w)))

    def lifted(point):
        return npa(bundle.horizontal_lift(gsa(z), fiber_point=gsa(point)))

    ver = vertical_projector(w)
    of_lift = oracles.derivative(lambda h: along(lifted, h), step=0.05, levels=3)
    np.testing.assert_allclose(tensor(x, y).ravel(), ver @ of_lift.ravel(), atol=1e-6)
    of_turn = oracles.derivative(lambda h: along(vertical, h), step=0.05, levels=3)
    v = vertical(w)
    expected = npa(bundle.horizontal_projection(gsa(of_turn), gsa(w)))
    np.testing.assert_allclose(tensor(x, v), expected, atol=1e-7)
    assert np.linalg.norm(expected) > 0.1
    # Linear in both, blind to the vertical part of the first, skew.
    np.testing.assert_allclose(tensor(x + v, y + v), tensor(x, y) + tensor(x, v), atol=1e-12)
    np.testing.assert_allclose(tensor(x, y), -tensor(y, x), atol=1e-12)
    np.testing.assert_allclose(np.sum(tensor(x, y) * v), -np.sum(y * tensor(x, v)), rtol=1e-10)
    many = npa(bundle.integrability_tensor(gsa(np.stack([x, y])), gsa(np.stack([v, x])), gsa(w)))
    np.testing.assert_allclose(many, np.stack([tensor(x, v), tensor(y, x)]), atol=1e-13)


def test_curvature_of_the_base(rng):
    """O'Neill adds ``3‖A_Y Z‖²``. ``QuotientMetric`` of geomstats 2.8.0 subtracts it, whose sign of R is another's."""
    space, generic = total(3, 3), quotient(3, 3).metric
    bundle = space.fiber_bundle
    x = matrix(rng, 3)
    w = bundle.lift(gsa(x))
    y, z = (bundle.horizontal_lift(gsa(v), base_point=gsa(x)) for v in rng.standard_normal((2, 3, 3)))
    area = np.sum(npa(y) ** 2) * np.sum(npa(z) ** 2) - np.sum(npa(y) * npa(z)) ** 2
    twist = 3 * np.sum(npa(bundle.integrability_tensor(y, z, w)) ** 2) / area
    above = npa(space.metric.sectional_curvature(y, z, w))
    below = [bundle.tangent_riemannian_submersion(v, w) for v in (y, z)]
    np.testing.assert_allclose(npa(closed(3, 3).metric.sectional_curvature(*below, gsa(x))), above + twist, rtol=1e-10)
    np.testing.assert_allclose(npa(generic.sectional_curvature(*below, gsa(x))), above - twist, rtol=1e-10)
    assert twist > 1e-3
