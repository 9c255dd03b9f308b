"""Gradient flows on spaces of geomstats: exact solutions, training layer by layer, events and refusals."""

import copy
import os
import pickle
import signal

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
import scipy.linalg
from costs import Convex, equipped, square
from geomstats.geometry.full_rank_matrices import FullRankMatrices
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.poincare_half_space import PoincareHalfSpace
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDBuresWassersteinMetric, SPDEuclideanMetric, SPDMatrices
from geomstats.geometry.special_orthogonal import SpecialOrthogonal
from geomstats.geometry.stiefel import Stiefel
from numpy.testing import assert_allclose

import dlngeo
from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo.flows.factored import FactoredState
from dlngeo.flows.integrate import METHODS
from dlngeo.geomstats import DLNMetric, FixedRankMatrices, SpectralMetric
from dlngeo.matrices.frame import Frame

# The factored state.

KERNELS = [DepthKernel(2), DepthKernel(3), DepthKernel(7.5, normalized=True), DepthKernel(1.5), InfiniteDepthKernel()]
SPECTRA = [(3, 3, [1.5, 1.5, 0.1]), (4, 4, [2.0, 1.0, 1.0, 1e-3]), (5, 3, [1.0, 1.0, 0.4]), (3, 5, [1.2, 0.3, 0.3]),
           (5, 4, [1.1, 0.2])]  # fmt: skip
# Infinite depth lives on square invertible matrices only.
FACTORED = [(k, *x) for k in KERNELS for x in SPECTRA if k.depth < np.inf or x[0] == x[1] == len(x[2])]


@pytest.mark.parametrize(("kernel", "m", "n", "s"), FACTORED)
def test_the_factored_velocity_is_the_cometric_of_the_gradient(rng, kernel, m, n, s):
    u, s, vt = oracles.factors(rng, m, n, s)
    cost = oracles.Cost(rng, m, n)
    state = FactoredState((m, n), len(s), kernel, cost.gradient)
    turn = oracles.orthogonal(rng, len(s))  # so that H is not diagonal
    y = np.concatenate([(u @ turn).ravel(), (turn.T @ np.diag(np.log(s)) @ turn).ravel(), (vt.T @ turn).ravel()])
    velocity = state.velocity(0.0, y)

    def curve(h):
        a, eta, b, _ = state.frame(y + h * velocity)
        return (a * np.exp(eta)) @ b.T

    x = (u * s) @ vt
    expected = Frame(u, s, vt, kernel).cometric(cost.gradient(x))
    assert_allclose(oracles.derivative(curve, step=1e-3, levels=4), -expected, atol=1e-9 * np.abs(expected).max())
    assert_allclose(state.squared_gradient_norm(y), np.sum(expected * cost.gradient(x)), rtol=1e-12)
    # P and Q stay orthonormal: their velocities are tangent to the Stiefel manifolds.
    i, j = m * len(s), (m + len(s)) * len(s)
    for frame, dot in ((y[:i], velocity[:i]), (y[j:], velocity[j:])):
        a, b = frame.reshape(-1, len(s)), dot.reshape(-1, len(s))
        assert_allclose(a.T @ b + b.T @ a, 0, atol=1e-12 * max(1, np.abs(b).max()))


def test_tiny_singular_values_keep_their_digits_where_a_dense_state_has_none(rng):
    """A common diagonal frame, in which ``σ̇ = −N σ^{2−2/N} K`` is a scalar equation: at N = 2, ``K = −1``, a growth
    ``e^{2t}`` of a value that no dense matrix holds.
    """
    u, s, vt = oracles.factors(rng, 3, 3, [1.0, 1e-12, 1e-40])
    slope = np.array([-0.1, -1.0, -1.0])
    flow = dlngeo.gradient_flow(square(3, depth=2), lambda x: (u * slope) @ vt, (u, s, vt), [0, 5])
    assert_allclose(flow.singular_values[-1], s * np.exp(-2 * slope * 5), rtol=1e-8)
    assert_allclose(flow.singular_values[0], s, rtol=1e-12)


def test_singular_values_may_meet(rng):
    u, s, vt = oracles.factors(rng, 2, 2, [1.0, 0.5])
    slope = np.array([1.0, 0.25])  # they meet at 1.5 t = log 2
    flow = dlngeo.gradient_flow(
        square(2, depth=2), lambda x: (u * slope) @ vt, (u, s, vt), [0, 0.4, np.log(2) / 1.5, 1]
    )
    exact = np.sort(s * np.exp(-2 * slope * flow.t[:, None]), axis=1)[:, ::-1]
    assert_allclose(flow.singular_values, exact, rtol=1e-8)


def test_a_singular_value_may_decay_below_the_smallest_double(rng):
    u, s, vt = oracles.factors(rng, 2, 2, [1.0, 1e-300])
    slope = np.array([-0.1, 1.0])
    flow = dlngeo.gradient_flow(square(2, depth=2), lambda x: (u * slope) @ vt, (u, s, vt), [0, 8, 20, 30])
    assert flow.status == "complete"
    assert_allclose(flow.singular_values[:, 0], np.exp(0.2 * flow.t), rtol=1e-8)
    assert_allclose(flow.singular_values[1, 1], 1e-300 * np.exp(-16), rtol=1e-8)
    assert flow.singular_values[2, 1] < 1e-316
    assert flow.singular_values[3, 1] == 0


# Against training, layer by layer.


@pytest.mark.parametrize("depth", [3, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 5, 64))])
@pytest.mark.parametrize(("m", "n", "rank"), [(3, 3, 3), (4, 5, 2), (4, 3, 3)])
def test_balanced_training_is_the_gradient_flow_of_the_metric(rng, depth, m, n, rank):
    u, s, vt = oracles.factors(rng, m, n, [0.8, 0.3, 0.3][:rank])
    cost, start = Convex(rng, m, n), (u * s) @ vt
    space = FixedRankMatrices(m, n, rank, depth=depth) if rank < 3 else FullRankMatrices(m, n, equip=False)
    if rank == 3:
        equipped(space, depth=depth)
    widths = [n, *[max(m, n)] * (depth - 1), m]
    times = np.linspace(0, 3 / depth, 9)
    layered = dlngeo.training_flow(
        dlngeo.balanced_weights(start, widths, rank, rng=3), cost.gradient, times, cost=cost, rtol=1e-12
    )
    for coordinates in ("factored", "dense"):
        flow = dlngeo.gradient_flow(space, cost.gradient, start, times, cost=cost, coordinates=coordinates)
        assert_allclose(flow.points, layered.points, atol=1e-8)
        assert_allclose(flow.gradient_norms, layered.gradient_norms, rtol=1e-7)
        assert_allclose(flow.singular_values, np.linalg.svd(layered.points)[1][:, :rank], atol=1e-8)
    normalized = equipped(space, type(space.metric), depth=depth, normalized=True)
    slow = dlngeo.gradient_flow(normalized, cost.gradient, start, times * depth)
    assert_allclose(slow.points, layered.points, atol=1e-8)


def test_at_depth_64_the_factored_state_resolves_what_layers_do_and_a_dense_one_does_not(rng):
    """Singular values of 1, 1e-9 and 1e-18: those of the layers are 1, 0.72 and 0.52."""
    depth = 64
    u, s, vt = oracles.factors(rng, 3, 3, [1.0, 1e-9, 1e-18])
    cost = Convex(rng, 3, 3)
    times = np.linspace(0, 0.5, 5)
    weights = oracles.balanced_factors(rng, u, s, vt, [3] * (depth - 1))
    layered = dlngeo.training_flow(weights, cost.gradient, times, rtol=1e-12)
    lam = np.linalg.svd([w[5] for w in layered.weights], compute_uv=False)
    assert np.abs(layered.points[-1] - layered.points[0]).max() > 0.1
    space = square(3, depth=depth)
    flow = dlngeo.gradient_flow(space, cost.gradient, (u, s, vt), times)
    assert_allclose(flow.singular_values ** (1 / depth), lam, atol=1e-8)
    assert_allclose(flow.points, layered.points, atol=1e-8)
    seen = np.linalg.svd((u * s) @ vt, compute_uv=False)
    assert np.abs(seen ** (1 / depth) - lam[0]).max() > 1e-3  # a dense matrix has lost it before the first step


@pytest.mark.parametrize("normalized_depth", [1e3, 1e4])
def test_infinite_depth_is_the_limit_of_the_normalised_flow(rng, normalized_depth):
    u, s, vt = oracles.factors(rng, 3, 3, [0.8, 0.3, 0.1])
    cost, start, times = Convex(rng, 3, 3), (u * s) @ vt, np.linspace(0, 3, 5)
    infinite = square(3, depth=np.inf)
    flow = dlngeo.gradient_flow(infinite, cost.gradient, start, times)
    dense = dlngeo.gradient_flow(infinite, cost.gradient, start, times, coordinates="dense")
    assert_allclose(flow.points, dense.points, atol=1e-8)
    deep = dlngeo.gradient_flow(square(3, depth=normalized_depth, normalized=True), cost.gradient, start, times)
    gap = np.abs(deep.points - flow.points).max()
    assert 0.01 / normalized_depth < gap < 10 / normalized_depth


# Other spaces, with exact solutions.


def test_the_sphere(rng):
    """``E = −½ xᵀAx``: the flow is ``e^{At} x_0``, normalised."""
    a = rng.standard_normal((4, 4))
    a = a + a.T
    x = rng.standard_normal(4)
    x /= np.linalg.norm(x)
    times = np.linspace(0, 3, 7)
    flow = dlngeo.gradient_flow(Hypersphere(3), lambda y: -a @ y, x, times, cost=lambda y: -0.5 * y @ a @ y)
    exact = np.stack([scipy.linalg.expm(a * t) @ x for t in times])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert_allclose(flow.points, exact, atol=1e-9)
    assert_allclose(np.linalg.norm(flow.points, axis=1), 1, atol=1e-15)
    assert flow.singular_values is None
    assert flow.loss_increase == 0


def test_covariance_matrices_with_the_affine_invariant_metric(rng):
    """``E = tr(CP)``: ``Ṗ = −PCP``, so that ``P⁻¹`` grows linearly."""
    space = equipped(SPDMatrices(3, equip=False), SPDAffineMetric)
    c, p = (b @ b.T + 0.3 * np.eye(3) for b in rng.standard_normal((2, 3, 3)))
    times = np.linspace(0, 2, 5)
    flow = dlngeo.gradient_flow(space, lambda x: c, p, times)
    exact = np.linalg.inv(np.linalg.inv(p) + times[:, None, None] * c)
    assert_allclose(flow.points, exact, atol=1e-9)


def test_depth_2_on_covariance_matrices_is_bures_wasserstein_at_half_the_speed(rng):
    target, p = (b @ b.T + 0.3 * np.eye(3) for b in rng.standard_normal((2, 3, 3)))
    skew = rng.standard_normal((3, 3))
    skew = skew - skew.T  # a part of the gradient that no symmetric direction feels
    points = []
    for metric, options, speed in ((DLNMetric, {"depth": 2}, 2), (SPDBuresWassersteinMetric, {}, 1)):
        space = equipped(SPDMatrices(3, equip=False), metric, **options)
        flow = dlngeo.gradient_flow(space, lambda x: x - target + skew, p, speed * np.linspace(0, 1, 5))
        points.append(flow.points)
    assert_allclose(*points, atol=1e-8)
    assert_allclose(points[0], points[0].swapaxes(1, 2), atol=1e-12)


def test_the_half_plane_in_its_chart():
    """``E = ½ y²``: ``ẏ = −y³``."""
    flow = dlngeo.gradient_flow(
        PoincareHalfSpace(2), lambda z: np.array([0.0, z[1]]), np.array([0.4, 1.5]), np.linspace(0, 4, 5)
    )
    exact = 1.5 / np.sqrt(1 + 2 * 1.5**2 * flow.t)
    assert_allclose(flow.points, np.stack([np.full(5, 0.4), exact], axis=1), atol=1e-9)
    assert_allclose(flow.gradient_norms, exact**2, rtol=1e-8)


@pytest.mark.parametrize("name", ["rotations", "frames"])
def test_drift_is_projected_off_and_the_loss_falls_at_the_squared_norm(rng, name):
    space = SpecialOrthogonal(3) if name == "rotations" else Stiefel(4, 2)
    a = rng.standard_normal(space.shape)
    b = np.diag(np.arange(1.0, space.shape[0] + 1))

    def cost(x):
        return -np.sum(a * x) + 0.5 * np.sum(x * (b @ x))

    start = np.asarray(gs.to_numpy(space.random_point()))
    flow = dlngeo.gradient_flow(space, lambda x: b @ x - a, start, np.linspace(0, 2, 9), cost=cost)
    for x in flow.points:
        assert_allclose(x.T @ x, np.eye(space.shape[1]), atol=1e-12)
    assert flow.loss_increase == 0
    rate = oracles.derivative(lambda h: cost(flow(0.75 + h)), step=0.01, levels=3)
    assert_allclose(rate, -(flow.gradient_norms[3] ** 2), rtol=1e-6)


def test_a_kernel_of_the_user(rng):
    """``φ = s² + t²`` in dense coordinates; a common frame makes it ``σ̇ = −2σ²(σ − 1)``."""

    class Sum(Kernel):
        def __call__(self, s, t):
            return s**2 + t**2

        def divided_difference(self, r, s, t):
            return np.ones(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)))

    space = equipped(GeneralLinear(2, equip=False), SpectralMetric, kernel=Sum())
    u, s, vt = oracles.factors(rng, 2, 2, [0.8, 0.3])
    flow = dlngeo.gradient_flow(space, lambda x: x - u @ vt, (u * s) @ vt, 1.0)
    end = flow.singular_values[-1]
    primitive = lambda x: np.log(x / (1 - x)) - 1 / x  # noqa: E731  ∫ dx/(x²(1 − x))
    assert_allclose(primitive(end) - primitive(s), 2.0, rtol=1e-8)
    with pytest.raises(ValueError, match="factored coordinates exist"):
        dlngeo.gradient_flow(space, lambda x: x, s * u @ vt, 1.0, coordinates="factored")


# Events, interruption, resumption, refusals.


@pytest.fixture
def setting(rng):
    u, s, vt = oracles.factors(rng, 3, 3, [0.8, 0.3, 0.1])
    return square(3, depth=3), Convex(rng, 3, 3), (u * s) @ vt


@pytest.mark.parametrize("coordinates", ["factored", "dense"])
def test_thresholds_and_events_are_located(setting, coordinates):
    space, cost, x = setting
    options = {"cost": cost, "coordinates": coordinates}
    plain = dlngeo.gradient_flow(space, cost.gradient, x, [0, 1, 2], **options)
    level = (plain.losses[0] + plain.losses[1]) / 2
    flow = dlngeo.gradient_flow(space, cost.gradient, x, 2.0, loss_below=level, **options)
    assert (flow.status, "loss" in flow.message) == ("event", True)
    assert_allclose([flow.losses[-1], *flow.events["loss"]], [level, flow.t[-1]], rtol=1e-8)
    flow = dlngeo.gradient_flow(space, cost.gradient, x, 50.0, gradient_below=0.05, **options)
    assert_allclose(flow.gradient_norms[-1], 0.05, rtol=1e-6)

    def crossing(t, y):
        return y[0, 0] - (x[0, 0] + plain.points[1][0, 0]) / 2

    passing = dlngeo.gradient_flow(space, cost.gradient, x, [0, 2], events={"crossing": crossing}, **options)
    assert passing.status == "complete"
    (when,) = passing.events["crossing"]
    assert_allclose(crossing(when, passing(when)), 0, atol=1e-8)
    crossing.terminal = True
    ended = dlngeo.gradient_flow(space, cost.gradient, x, [0, 2], events={"crossing": crossing}, **options)
    assert ended.status == "event"
    assert_allclose(ended.t, [0, when], rtol=1e-8)


@pytest.mark.parametrize("coordinates", ["factored", "dense"])
def test_a_drop_of_rank_is_an_event(rng, coordinates):
    u, s, vt = oracles.factors(rng, 3, 3, [1.0, 0.5, 0.4])
    target = (u * [1.0, 1.0, -1.0]) @ vt  # on the other side of det = 0
    flow = dlngeo.gradient_flow(
        square(3, depth=2), lambda x: x - target, (u * s) @ vt, 20.0, singular_value_below=1e-3, coordinates=coordinates
    )
    assert flow.status == "event"
    assert_allclose(flow.singular_values[-1, -1], 1e-3, rtol=1e-6)
    at_once = dlngeo.gradient_flow(square(3, depth=2), lambda x: x, (u * s) @ vt, 1.0, singular_value_below=0.45)
    assert (at_once.status, at_once.t.tolist()) == ("event", [0.0])


@pytest.mark.parametrize(("depth", "rtol"), [(1.2, 1e-5), (1.5, 1e-3), (1.9, 0.3)])
def test_a_depth_below_2_runs_into_a_singular_matrix_in_the_exact_time_and_says_so(rng, depth, rtol):
    """In a common frame ``σ̇ = −N σ^{2−2/N}``, which is zero at ``σ^{2/N−1}/(2 − N)``."""
    u, _, vt = oracles.factors(rng, 2, 2, [1.0, 0.4])
    space, options = square(2, depth=depth), {"t": 50.0, "coordinates": "dense"}
    flow = dlngeo.gradient_flow(space, lambda x: (u * [0.0, 1.0]) @ vt, (u * [1.0, 1e-3]) @ vt, **options)
    assert (flow.status, flow.events["singular"].tolist()) == ("event", [flow.t[-1]])
    assert "reaches a matrix of rank below 2" in flow.message
    assert_allclose(flow.t[-1], 1e-3 ** (2 / depth - 1) / (2 - depth), rtol=rtol)
    options["coordinates"] = "factored"
    flow = dlngeo.gradient_flow(space, lambda x: (u * [0.0, 1.0]) @ vt, (u * [1.0, 1e-3]) @ vt, **options)
    assert flow.status == "failed"
    assert flow.singular_values[-1, -1] < 1e-20
    assert_allclose(flow.t[-1], 1e-3 ** (2 / depth - 1) / (2 - depth), rtol=1e-10)


def towards(target):
    return lambda x: x - target


SWAP = lambda x: np.array([[0.0, x[0, 1] - 1], [x[1, 0] - 1, x[1, 1]]])  # noqa: E731  ½(x01 − 1)² + ½(x10 − 1)² + ½x11²
EDGE = np.diag([1.0, -1.0])


@pytest.mark.parametrize(
    ("space", "gradient", "size", "dense", "says"),
    [
        (square(2, depth=1.5), SWAP, 0.01, False, "rank below 2"),
        (square(2, depth=2), SWAP, 0.01, True, "fell below what dense coordinates resolve"),
        (square(2, depth=2), towards(EDGE), 0.5, True, "fell below what dense coordinates resolve"),
        (FixedRankMatrices(3, 3, 2, depth=1.5), towards(np.diag([1.0, -1.0, 0.0])), 0.5, False, "rank below 2"),
        (FixedRankMatrices(3, 3, 2, depth=2), towards(np.diag([1.0, -1.0, 0.0])), 0.5, True, "fell below"),
        *(
            (equipped(SPDMatrices(2, equip=False), metric), towards(EDGE), 0.5, False, "leaves SPDMatrices")
            for metric in (SPDEuclideanMetric, SPDBuresWassersteinMetric, DLNMetric)
        ),
    ],
    ids=range(8),
)
def test_no_flow_passes_through_singular_matrices(space, gradient, size, dense, says):
    start = size * np.eye(*space.shape) * (np.arange(space.shape[0]) < 2)
    flow = dlngeo.gradient_flow(space, gradient, start, 300.0, coordinates="dense" if dense else "auto", rtol=1e-8)
    assert (flow.status, flow.events["singular"].tolist()) == ("event", [flow.t[-1]])
    assert says in flow.message
    s = np.linalg.svd(flow.points[-1], compute_uv=False)
    assert s[1] < 1e-6
    assert s[1] < 1e-14 or np.linalg.det(flow.points[-1]) >= 0


def test_at_depth_1_no_matrix_of_full_rank_is_singular():
    flow = dlngeo.gradient_flow(square(2, depth=1), SWAP, 0.01 * np.eye(2), 40.0)
    assert (flow.status, "singular" in flow.events) == ("complete", False)
    assert_allclose(np.linalg.det(flow.points[-1]), -1, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")  # SciPy's own, of LSODA
def test_a_gradient_that_is_nan_on_the_way_ends_every_method_with_a_status(method):
    def gradient(x):
        return x - 2 * np.eye(2) if x[0, 0] < 1 else np.full((2, 2), np.nan)

    flow = dlngeo.gradient_flow(
        square(2, depth=2), gradient, 0.1 * np.eye(2), 10.0, method=method, rtol=1e-6, atol=1e-8
    )
    assert flow.status == "failed"
    assert "finite" in flow.message
    assert " t = 0.7" in flow.message
    assert 0.7 < flow.t[-1] < 0.74
    assert np.isfinite(flow.points).all()
    with pytest.raises(ZeroDivisionError):  # what the user's function raises is no status
        dlngeo.gradient_flow(square(2, depth=2), lambda x: x if x[0, 0] == 1 else 1 / 0, np.eye(2), 1.0, method=method)


def test_a_cost_or_an_event_that_is_nan_on_the_way_is_named_with_its_time(setting):
    space, cost, x = setting
    times = [0.0, 0.1, 0.2]
    late = dlngeo.gradient_flow(space, cost.gradient, x, times).points[1]
    undefined = lambda y: cost(y) if np.abs(y - x).max() < np.abs(late - x).max() else np.nan  # noqa: E731
    flow = dlngeo.gradient_flow(space, cost.gradient, x, times, cost=undefined)
    assert (flow.status, "The cost is nan at t = 0.1" in flow.message) == ("complete", True)
    for options, name in (
        ({"cost": undefined, "loss_below": -1.0}, "loss"),
        ({"events": {"mine": lambda t, y: undefined(y)}}, "mine"),
    ):
        flow = dlngeo.gradient_flow(space, cost.gradient, x, times, **options)
        assert flow.status == "failed"
        assert f"the function of the event '{name}' is nan at t = 0." in flow.message
    with pytest.raises(ValueError, match=r"'loss' is nan at t = 0, the start"):
        dlngeo.gradient_flow(space, cost.gradient, x, times, cost=lambda y: np.nan, loss_below=1.0)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "implicit"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))], ids=["copy", "pickle"]
)
def test_results_are_copied_and_pickled(setting, copied, method):
    space, cost, x = setting
    options = {"method": method, "rtol": 1e-6, "atol": 1e-8, "cost": cost}
    one = dlngeo.gradient_flow(space, cost.gradient, x, 0.2, **options)
    weights = dlngeo.balanced_weights(x, 3)
    two = dlngeo.training_flow(weights, cost.gradient, 0.2, method=method, rtol=1e-6, atol=1e-8, cost=cost)
    three = dlngeo.balancing_flow([2 * weights[0], *weights[1:]], 0.2, method=method, rtol=1e-6, atol=1e-8)
    for flow in (one, two, three):
        again = copied(flow)
        assert_allclose(again(0.1), flow(0.1), rtol=0)
        assert_allclose(again.resume(0.3).points, flow.resume(0.3).points, rtol=0)
    descent = dlngeo.gradient_descent(weights, cost.gradient, 0.1, 2)
    assert_allclose(copied(descent).points, descent.points, rtol=0)


def test_what_cannot_be_pickled_is_named_where_it_is_missed(setting):
    space, cost, x = setting
    flow = dlngeo.gradient_flow(
        space, lambda y: cost.gradient(y), x, 0.2, events={"mine": lambda t, y: 1.0}, progress=lambda t: None
    )
    again = pickle.loads(pickle.dumps(flow))
    assert_allclose(again(0.1), flow(0.1), rtol=0)
    with pytest.raises(ValueError, match="the gradient was lost when the flow was pickled"):
        again.resume(0.3)
    assert copy.deepcopy(flow).resume(0.3).status == "complete"


@pytest.mark.parametrize("coordinates", ["factored", "dense"])
def test_interrupted_flows_are_kept_and_resumed(setting, coordinates, ctrl_c):
    space, cost, x = setting
    whole = dlngeo.gradient_flow(space, cost.gradient, x, [0, 0.3, 2], coordinates=coordinates)

    def interrupt(t):
        if t > 0.4:
            os.kill(os.getpid(), signal.SIGINT)

    flow = dlngeo.gradient_flow(
        space, cost.gradient, x, 2.0, cost=cost, coordinates=coordinates, progress=interrupt, method="DOP853"
    )
    assert (flow.status, "resume" in flow.message) == ("interrupted", True)
    assert len(flow.t) == len(flow.points) == len(flow.losses) == len(flow.gradient_norms)
    assert_allclose(flow(0.3), whole.points[1], atol=1e-9)
    restarted = dlngeo.gradient_flow(space, cost.gradient, flow.points[-1], [flow.t[-1], 2.0], coordinates=coordinates)
    assert_allclose(restarted.points[-1], whole.points[-1], atol=1e-9)
    half = dlngeo.gradient_flow(space, cost.gradient, x, [0, 0.3], coordinates=coordinates)
    assert_allclose(half.resume(2.0).points[-1], whole.points[-1], atol=1e-9)
    assert_allclose(half([0.1, 0.2]), np.stack([half(0.1), half(0.2)]))


def test_stiff_methods_take_few_steps_where_explicit_ones_cannot(rng):
    """A quadratic cost with a curvature of 2000 in one direction."""
    weight = np.array([[1.0, 2e3], [1.0, 1.0]])
    target, x = rng.standard_normal((2, 2)), np.eye(2)

    def run(method):
        return dlngeo.gradient_flow(
            square(2, depth=2), lambda y: weight * (y - target), x, [0, 2.0], method=method, rtol=1e-6, atol=1e-8
        )

    explicit = run("RK45")
    for method in ("Radau", "BDF", "LSODA"):
        stiff = run(method)
        assert stiff.status == "complete"
        assert_allclose(stiff.points[-1], explicit.points[-1], atol=1e-4)
        assert stiff.n_evaluations < explicit.n_evaluations / 5


def test_bad_input_is_refused(setting):
    space, cost, x = setting

    def refused(message, error=ValueError, **options):
        arguments = {"space": space, "euclidean_gradient": cost.gradient, "point": x, "t": 1.0, **options}
        with pytest.raises(error, match=message):
            dlngeo.gradient_flow(**arguments)

    refused("geomstats space", TypeError, space=3)
    refused("no metric", space=GeneralLinear(3, equip=False))
    refused("shape", point=np.eye(2))
    refused("NaN", point=np.full((3, 3), np.nan))
    refused("the start must be real numbers", TypeError, point=np.eye(3) + 0j)
    refused("the start must be real numbers", TypeError, point=np.ma.masked_array(np.eye(3)))
    refused("t must be real numbers", TypeError, t=np.array([0, 1j]))
    refused("t must be real numbers", TypeError, t=np.ma.masked_array([0.0, 1.0]))
    refused("rank below 3", point=np.diag([1.0, 1.0, 0.0]))
    refused("does not belong", space=Hypersphere(2), point=np.array([1.0, 1.0, 0.0]))
    refused(r"shape \(3,\); expected \(3, 3\)", euclidean_gradient=lambda y: y[0])
    refused("NaN", euclidean_gradient=lambda y: y * np.nan)
    refused("masked array", TypeError, euclidean_gradient=lambda y: np.ma.masked_array(y))
    refused("complex128", TypeError, euclidean_gradient=lambda y: y + 0j)
    refused(r"the cost has shape \(3,\); expected \(\)", cost=lambda y: y[0])
    refused("loss_below needs", loss_below=1.0)
    refused("coordinates must be", coordinates="polar")
    refused("needs factored", point=(np.eye(3), np.ones(3), np.eye(3)), coordinates="dense")
    refused("factors of shapes", point=(np.eye(3), np.ones(2), np.eye(3)))
    refused("is taken", events={"loss": lambda t, y: t})
    refused("needs a space of matrices", space=Hypersphere(2), point=np.array([1.0, 0, 0]), singular_value_below=1.0,
            euclidean_gradient=lambda y: y)  # fmt: skip
    refused("DOP853", method="Euler")
