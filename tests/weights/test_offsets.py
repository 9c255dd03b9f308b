"""Weights with offsets: which there are, their volume and lifts, and how well fitted offsets predict other weights."""

import math
from itertools import pairwise

import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize

import dlngeo
from dlngeo.geomstats import UnbalancedMatrices
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.entropy import log_orthogonal_volume
from dlngeo.weights import offsets as fitting
from dlngeo.weights.balanced import inner, norm
from dlngeo.weights.network import balanced_weights, differential, horizontal_lift, layer_gradient, rebalance
from dlngeo.weights.offsets import fit_offsets
from dlngeo.weights.projections import nearest
from dlngeo.weights.unbalanced import LeafFrame


def matrix(rng, m, n, rank):
    return oracles.dense(*oracles.factors(rng, m, n, np.geomspace(1.5, 0.3, rank)))


def require_offsets(weights, offsets):
    for (lower, upper), (c, e) in zip(pairwise(weights), pairwise(offsets), strict=True):
        np.testing.assert_allclose(upper.T @ upper - lower @ lower.T, (e - c) * np.eye(len(lower)), atol=1e-13)


@pytest.mark.parametrize(
    ("widths", "rank", "offsets", "ranks"),
    [
        ((4, 4, 4, 4), 4, [2.0, 1.0, 3.0], (4, 4, 4)),
        ((4, 4, 4, 4), 2, [0.0, 1.0, 0.0], (2, 4, 2)),  # layers of the least offset have the rank of X
        ((4, 4, 4, 4), 2, [1.0, 0.0, 2.0], (4, 2, 4)),  # also where it is taken once, and the flow leaves the rank
        ((4, 4, 4, 5), 2, [0.0, 0.0, 1.0], (2, 2, 4)),
        ((4, 4, 4, 4, 5), 3, [0.0, 0.5, 0.0, 1.3], (3, 4, 3, 4)),
        ((2, 2, 3, 3), 2, [0.0, 1.0, 2.0], (2, 2, 3)),
        ((3, 4, 4, 3), 3, [0.0, 1.0, 0.0], (3, 4, 3)),  # a wide layer between two of the least offset
        ((3, 6, 5, 3), 2, [0.0, 0.0, 0.0], (2, 2, 2)),
    ],
)
def test_a_layer_has_the_rank_of_the_matrix_if_its_offset_is_the_least(rng, widths, rank, offsets, ranks):
    x = matrix(rng, widths[-1], widths[0], rank)
    for seed in (None, 1):
        w = balanced_weights(x, widths, rank, seed, offsets=offsets)
        assert [a.shape for a in w] == [(d, c) for c, d in pairwise(widths)]
        np.testing.assert_allclose(oracles.multiply(w), x, atol=1e-13)
        require_offsets(w, offsets)
        assert tuple(int(np.linalg.matrix_rank(a)) for a in w) == ranks
    require_offsets(rebalance(w, rank, offsets=offsets[::-1]), offsets[::-1]) if widths == widths[::-1] else None


def test_there_are_weights_exactly_where_the_directions_can_be_counted_out():
    """Against an integer programme over all runs of one direction from a width to another."""
    rng, found = np.random.default_rng(0), [0, 0]
    for _ in range(300):
        depth = int(rng.integers(1, 5))
        offsets = rng.integers(0, 3, depth).astype(float)
        offsets -= offsets.min()
        widths = rng.integers(1, 5, depth + 1)
        rank = int(rng.integers(1, widths.min() + 1))
        runs = []
        for a in range(depth + 1):
            for b in range(a, depth + 1):
                ends = {offsets[p - 1] for p in (a, b + 1) if 1 <= p <= depth}
                if len(ends) == 1 and all(c >= min(ends) for c in offsets[a:b]):
                    runs.append([float(a <= p <= b) for p in range(depth + 1)])
        spare = widths - rank
        cover = scipy.optimize.LinearConstraint(np.array(runs).T, spare, spare)
        possible = scipy.optimize.milp(np.zeros(len(runs)), constraints=cover, integrality=1).success
        x = matrix(rng, widths[-1], widths[0], rank)
        found[possible] += 1
        if possible:
            w = balanced_weights(x, list(map(int, widths)), rank, rng, offsets=offsets)
            np.testing.assert_allclose(oracles.multiply(w), x, atol=1e-12)
            require_offsets(w, offsets)
        else:
            with pytest.raises(ValueError, match=r"no weights of widths .* have the offsets"):
                balanced_weights(x, list(map(int, widths)), rank, offsets=offsets)
    assert min(found) > 60


@pytest.mark.parametrize(
    ("widths", "offsets", "match"),
    [
        ((3, 5, 3), [0.0, 1.0], "width 2, which is 3, would have to be at least width 1, 5"),
        ((3, 3, 3), [0.0], "offsets must be 2 finite numbers"),
        ((3, 3, 3), [0.0, math.inf], "offsets must be 2 finite numbers"),
    ],
)
def test_offsets_that_no_weights_have_are_refused(widths, offsets, match):
    with pytest.raises(ValueError, match=match):
        balanced_weights(np.eye(3), widths, offsets=offsets)


def test_many_layers_of_different_offsets(rng):
    x, offsets = matrix(rng, 3, 2, 2), 1e-3 * np.arange(1500)
    w = balanced_weights(x, 1500, rng=rng, offsets=offsets)
    require_offsets(w, offsets)
    np.testing.assert_allclose(oracles.multiply(w), x, atol=1e-10)


def test_offsets_take_batches_and_tensors(rng):
    torch = pytest.importorskip("torch")
    x, c = rng.standard_normal((5, 3, 4)), [0.5, 0.0, 0.2]
    many = balanced_weights(x, 3, rng=0, offsets=c)
    for i in range(5):
        require_offsets([w[i] for w in many], c)
    np.testing.assert_allclose(oracles.multiply(many), x, atol=1e-13)
    tensors = balanced_weights(torch.from_numpy(x), 3, rng=0, offsets=c)
    assert all(torch.is_tensor(w) for w in tensors)
    np.testing.assert_allclose(dlngeo.end_to_end(tensors).numpy(), x, atol=1e-13)
    with pytest.raises(TypeError, match="detached"):
        balanced_weights(torch.from_numpy(x).requires_grad_(), 3, offsets=c)


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("offsets", [[0.0, 1.5], [0.3, 0.0, 2.0], [0.0, 0.7, 0.2, 1.3], [1.0, 0.0, 0.0, 0.4, 2.0]])
def test_the_volume_of_their_orbit_is_the_entropy(rng, d, offsets):
    x = matrix(rng, d, d, d)
    w, depth = balanced_weights(x, len(offsets), rng=rng, offsets=offsets), len(offsets)
    velocities = []
    for p in range(depth - 1):
        for k in range(d):
            for j in range(k):
                unit = np.zeros((d, d))
                unit[k, j], unit[j, k] = 0.5**0.5, -(0.5**0.5)

                def orbit(h, p=p, unit=unit):
                    turned, q = list(w), scipy.linalg.expm(h * unit)
                    turned[p], turned[p + 1] = q @ w[p], w[p + 1] @ q.T
                    return np.concatenate([a.ravel() for a in turned])

                velocities.append(oracles.derivative(orbit, levels=4))
    gram = np.array(velocities) @ np.array(velocities).T
    expected = (depth - 1) * log_orthogonal_volume(d) + np.linalg.slogdet(gram)[1] / 2
    assert dlngeo.entropy(x, kernel=RelaxedDepthKernel(offsets)) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("shape", "rank", "offsets"),
    [
        ((3, 3), 3, [0.4, 0.0, 1.3]),
        ((4, 3), 3, [0.7, 1.3, 0.0]),
        ((3, 4), 3, [0.0, 1.3, 0.7, 0.2]),
        ((5, 4), 2, [0.0, 0.5, 1.3, 0.0]),
    ],
)
def test_the_product_is_a_riemannian_submersion(rng, shape, rank, offsets):
    """Lifts have the length of the vector, project to it, and are orthogonal to the fibre and tangent to the leaf."""
    x = matrix(rng, *shape, rank)
    w = balanced_weights(x, len(offsets), rank, rng, offsets=offsets)
    frame = Frame.at(x, RelaxedDepthKernel(offsets), rank)
    z = frame.project(rng.standard_normal(shape))
    lift = horizontal_lift(frame.metric(z), w)
    np.testing.assert_allclose(differential(lift, w), z, atol=1e-12)
    assert inner(lift, lift) == pytest.approx(frame.inner(z, z), rel=1e-12)
    skew = [rng.standard_normal((len(a), len(a))) for a in w[:-1]]
    skew = [np.zeros((shape[1],) * 2), *(a - a.T for a in skew), np.zeros((shape[0],) * 2)]
    vertical = [upper @ a - a @ lower for a, (lower, upper) in zip(w, pairwise(skew), strict=True)]
    assert norm(vertical) > 0.1
    assert inner(lift, vertical) == pytest.approx(0, abs=1e-12)
    for (a, b), (u, v) in zip(pairwise(w), pairwise(lift), strict=True):
        half = b.T @ v - u @ a.T
        np.testing.assert_allclose(half, -half.T, atol=1e-12)


def test_the_nearest_weights_with_offsets(rng):
    offsets = [0.5, 0.0, 1.0]
    on = balanced_weights(matrix(rng, 3, 3, 3), 3, rng=rng, offsets=offsets)
    off = [w + 0.03 * rng.standard_normal(w.shape) for w in on]
    found = nearest(off, offsets=offsets)
    require_offsets(found, offsets)
    gap = [a - b for a, b in zip(off, found, strict=True)]
    assert norm(LeafFrame(found).tangent(gap)) < 1e-12
    assert norm(gap) < norm([a - b for a, b in zip(off, on, strict=True)])
    again = nearest(found, offsets=offsets)
    assert max(np.abs(a - b).max() for a, b in zip(again, found, strict=True)) < 1e-13
    with pytest.raises(ValueError, match="offsets leave the rank free"):
        nearest(off, 2, offsets=offsets)


def test_the_leaf_is_a_space_of_geomstats():
    offsets = [0.5, 0.0, 1.0]
    space = UnbalancedMatrices.of_offsets(3, offsets)
    points = space.random_point(4, rng=0)
    for w in points:
        require_offsets(w, offsets)
    assert space.dim == 9 + 2 * 3
    lifted = np.stack(balanced_weights(np.diag([1.0, 2.0, 0.5]), 3, offsets=offsets))
    assert space.belongs(lifted)
    with pytest.raises(ValueError, match="One layer"):
        UnbalancedMatrices.of_offsets(3, [1.0])


# Fitted offsets.


def true_error(weights, offsets):
    """Largest relative error of the kernel's velocity in its own norm, from literal products, at full rank."""
    x = oracles.multiply(weights)
    m, n = x.shape
    u, s, vt = np.linalg.svd(x)
    rows, columns = (np.concatenate([s, np.zeros(size - s.size)]) for size in (m, n))
    phi = RelaxedDepthKernel(offsets)(rows[:, None], columns[None, :])
    units = np.eye(m * n).reshape(-1, m, n)
    images = [sum(differential_of(g, weights)) for g in ([u @ e @ vt] for e in units)]
    a = np.array([(u.T @ image @ vt.T).ravel() for image in images])
    scale = phi.ravel() ** -0.5
    return np.abs(np.linalg.eigvalsh(scale[:, None] * (a + a.T) / 2 * scale) - 1).max()


def differential_of(momentum, weights):
    """The terms by which layers that move by the lift of a covector move their product."""
    lift = oracles.lift(weights, momentum[0])
    for p, velocity in enumerate(lift):
        moved = [*weights[:p], velocity, *weights[p + 1 :]]
        yield oracles.multiply(moved)


def perturbed(rng, shape, depth, size):
    """Weights near those of random offsets, all of which or two of which are sometimes equal."""
    offsets = rng.uniform(0, 1, depth) * rng.choice([0.0, 1.0], depth, p=[0.3, 0.7])
    x = oracles.dense(*oracles.factors(rng, *shape, np.exp(rng.uniform(-1, 1, min(shape)))))
    w = balanced_weights(x, depth, rng=rng, offsets=offsets)
    return [a + size * rng.standard_normal(a.shape) for a in w], offsets


@pytest.mark.parametrize("offsets", [[0.4, 0.0, 1.3], [0.0, 1.0, 0.0], [1.0, 1.0]])
def test_offsets_are_found_again(rng, offsets):
    fit = fit_offsets(balanced_weights(matrix(rng, 3, 3, 3), len(offsets), rng=rng, offsets=offsets))
    np.testing.assert_allclose(fit.offsets, np.array(offsets) - min(offsets), atol=1e-14)
    assert np.sum(fit.offsets == 0) == offsets.count(min(offsets))  # equal to the last digit, so that rank is conserved
    assert fit.imbalance < 1e-14
    assert fit.error < 1e-12
    assert fit.bound(matrix(rng, 3, 3, 3)) < 1e-12


def test_the_fitted_offsets_leave_the_least_rest(rng):
    widths = (3, 5, 4, 2)
    w = [rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    fit = fit_offsets(w)
    for p, g in enumerate(dlngeo.imbalance(w)):
        best = scipy.optimize.minimize_scalar(lambda c, g=g: np.linalg.norm(g - c * np.eye(len(g))))
        assert fit.offsets[p + 1] - fit.offsets[p] == pytest.approx(best.x, abs=1e-6)
        assert fit.rest[p] == pytest.approx(best.fun, rel=1e-10)


def test_the_error_is_the_largest_and_its_bounds_hold(rng):
    """Hundreds of networks: the error at the start is exact, the bounds are above it, and not far."""
    ratios = {}
    for draw in range(120):
        depth, size = 2 + draw % 3, (1e-4, 1e-2)[draw // 3 % 2]
        shape = [(2, 2), (3, 3), (4, 2), (2, 3)][draw % 4]
        w, _ = perturbed(rng, shape, depth, size)
        fit = fit_offsets(w)
        exact = true_error(w, fit.offsets)
        assert fit.exact
        assert fit.error == pytest.approx(exact, rel=1e-8, abs=1e-11)
        p = rng.standard_normal(shape)
        predicted = Frame.at(oracles.multiply(w), fit.kernel).cometric(p)
        frame = Frame.at(oracles.multiply(w), fit.kernel)
        gap = sum(differential_of([p], w)) - predicted
        assert frame.inner(gap, gap) <= (fit.error * (1 + 1e-8)) ** 2 * frame.inner(predicted, predicted) + 1e-24
        bound = float(fit.bound(oracles.multiply(w)))
        assert exact <= bound * (1 + 1e-9)
        ratios.setdefault((size, shape[0] == shape[1]), []).append(bound / exact)
    assert all(np.isfinite(ratios[1e-4, square]).all() for square in (True, False))
    assert np.median(ratios[1e-4, True]) < 10
    assert np.median(ratios[1e-2, True]) < 15


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_bound_is_that_of_the_theorem(rng, depth):
    w, _ = perturbed(rng, (3, 3), depth, 1e-3)
    fit, x = fit_offsets(w), oracles.multiply(w)
    c = fit.offsets + fit.kernel.shared(np.linalg.svd(x)[1][-1])
    steps = np.diff(np.eye(depth + 1)[:, 1:-1], axis=0)  # v_p − v_{p−1}
    inverse = np.linalg.inv(steps.T @ (c[:, None] * steps))
    sums = np.abs(steps)  # e_p
    kappa = max(
        (e @ inverse @ fit.rest + math.sqrt(e @ inverse @ e * (fit.rest @ inverse @ fit.rest))) / 2 for e in sums
    )
    assert fit.bound(x) == pytest.approx(kappa / (1 - kappa), rel=1e-9)


def test_wider_layers_have_no_bound(rng):
    fit = fit_offsets(balanced_weights(matrix(rng, 3, 3, 3), (3, 4, 3), rng=rng, offsets=[0.0, 0.0]))
    assert fit.error < 1e-12
    assert fit.bound(matrix(rng, 3, 3, 3)) == math.inf


def test_large_networks_have_a_bound(rng, monkeypatch):
    for draw in range(40):
        w, _ = perturbed(rng, (3, 3), 2 + draw % 3, (1e-4, 0.05)[draw % 2])
        exact = fit_offsets(w)
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "_DENSE", 0)
            bound = fit_offsets(w)
        assert (exact.exact, bound.exact) == (True, False)
        assert exact.error <= bound.error * (1 + 1e-9)
        assert bound.error < 6 * exact.error


def test_both_sides_of_a_layer_count_in_the_bound_of_large_networks(monkeypatch):
    monkeypatch.setattr(fitting, "_DENSE", 0)
    fit = fit_offsets([np.diag([3.0, 0.7]), np.diag([3.0, 1.0]), np.diag([3.0, 0.7])])
    (x,) = fit.kernel.shared(np.array([0.7**2]))  # what the kernel has in place of the 0.7² of the outer layers
    assert fit.error == pytest.approx(1 - (0.7**2 / x) ** 2)


def test_the_bound_holds_along_the_flow(rng):
    """The layers are integrated; the imbalance at the start bounds the error of the kernel at each later product."""
    finite = 0
    for draw in range(12):
        w, _ = perturbed(rng, [(2, 2), (3, 3)][draw % 2], 2 + draw // 2 % 3, 1e-2)
        shapes, target = [a.shape for a in w], 2 * rng.standard_normal(w[-1].shape)
        ends = np.cumsum([0, *(a * b for a, b in shapes)])

        def layers(flat, ends=ends, shapes=shapes):
            return [flat[a:b].reshape(s) for (a, b), s in zip(pairwise(ends), shapes, strict=True)]

        def velocity(_, flat, layers=layers, target=target):
            now = layers(flat)
            return -np.concatenate([g.ravel() for g in oracles.lift(now, oracles.multiply(now) - target)])

        start = np.concatenate([a.ravel() for a in w])
        path = scipy.integrate.solve_ivp(velocity, (0, 1), start, rtol=1e-9, atol=1e-11, t_eval=np.linspace(0, 1, 6))
        fit, states = fit_offsets(w), [layers(y) for y in path.y.T]
        bounds = fit.bound(np.stack([oracles.multiply(s) for s in states]))
        for state, bound in zip(states, bounds, strict=True):
            assert true_error(state, fit.offsets) <= bound * (1 + 1e-7)
        finite += np.isfinite(bounds).sum()
    assert finite > 40


@pytest.mark.parametrize("widths", [(4, 4, 4), (3, 3, 3, 3), (3, 3, 3, 3, 3), (5, 4, 4, 3), (3, 8, 3)])
def test_initialisations_of_pytorch_are_far_from_offsets_and_the_fit_says_so(widths):
    torch = pytest.importorskip("torch")
    errors = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()
        w = [layer.weight.detach().numpy() for layer in model]
        fit = fit_offsets(model)
        if min(widths) == min(widths[0], widths[-1]):
            assert fit.error == pytest.approx(true_error(w, fit.offsets), rel=1e-6)
        assert true_error(w, fit.offsets) <= fit.bound(oracles.multiply(w)) * (1 + 1e-9)
        assert math.isinf(fit.bound(oracles.multiply(w)))
        assert fit.imbalance > 0.1
        errors.append(fit.error)
    assert np.median(errors) > 0.3  # the kernel of the best offsets is of no use there, whatever one hopes


def test_singular_products_and_one_layer(rng):
    fit = fit_offsets([np.diag([1.0, 0.0]), np.diag([1.0, 0.0])])
    assert (fit.error, float(fit.bound(np.diag([1.0, 0.0])))) == (pytest.approx(0, abs=1e-14), math.inf)
    none = fit_offsets(np.zeros((2, 3, 3)))  # of which no flow moves anything, as the kernel says
    assert (none.error, none.imbalance, none.exact) == (0.0, 0.0, True)
    one = fit_offsets([rng.standard_normal((3, 2))])
    assert one.error < 1e-12
    assert one.bound(rng.standard_normal((3, 2))) == 0
    with pytest.raises(ValueError, match=r"expected \(..., 3, 2\)"):
        one.bound(np.eye(3))
    with pytest.raises(ValueError, match="without batch axes"):
        fit_offsets(np.zeros((2, 3, 4, 4)))
    with pytest.raises(ValueError, match="layer 1 holds NaN"):
        fit_offsets([np.full((2, 2), np.nan)])


def test_the_lift_is_the_gradient_of_the_layers(rng):
    w = balanced_weights(matrix(rng, 3, 3, 3), 3, rng=rng, offsets=[0.0, 1.0, 0.3])
    p = rng.standard_normal((3, 3))
    for a, b in zip(layer_gradient(p, w), oracles.lift(w, p), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
