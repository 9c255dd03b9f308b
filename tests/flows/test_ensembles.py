"""Many flows at once: each is the single flow, has its own end, and takes no harm from the others."""

import os
import pickle
import signal

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from costs import Convex, equipped, square
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.poincare_half_space import PoincareHalfSpace
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDMatrices
from geomstats.geometry.stiefel import Stiefel
from numpy.testing import assert_allclose

import dlngeo
from dlngeo.flows.integrate import METHODS
from dlngeo.flows.result import Pointwise
from dlngeo.geomstats import DLNMetric, FixedRankMatrices

SEEN = np.diag([2.0, 1.0])  # on the diagonal, the rest is not observed


def completion(x):
    return np.eye(2) * (x - SEEN)


def loss(x):
    return np.sum((np.eye(2) * (x - SEEN)) ** 2, axis=(-2, -1)) / 2


def singles(space, gradient, starts, t, **options):
    return [dlngeo.gradient_flow(space, gradient, x, t, **{"dense_output": False, **options}) for x in starts]


def assert_each(ensemble, flows, atol=1e-10):
    """The status, time and point of every end, events, and what is measured there."""
    assert len(ensemble) == len(flows)
    assert ensemble.status.tolist() == [flow.status for flow in flows]
    assert_allclose(ensemble.t_end, [flow.t[-1] for flow in flows], rtol=1e-9)
    assert_allclose(ensemble.ends, [flow.points[-1] for flow in flows], atol=atol)
    for one, flow in zip(ensemble, flows, strict=True):
        assert type(one) is type(flow)
        assert one.message == flow.message
        assert one.events.keys() == flow.events.keys()
        for name, times in flow.events.items():
            assert_allclose(one.events[name], times, rtol=1e-9)
        assert_allclose(one.gradient_norms[-1], flow.gradient_norms[-1], atol=atol)


def of_rank(rng, count, m, n, r):
    return rng.standard_normal((count, m, r)) @ rng.standard_normal((count, r, n))


def stiefel(rng):
    a = rng.standard_normal((4, 2))
    starts = np.linalg.qr(rng.standard_normal((3, 4, 2)))[0]
    return Stiefel(4, 2), lambda x: np.diag([1.0, 2, 3, 4]) @ x - a, starts, {}


def sphere(rng):
    a = rng.standard_normal((4, 4))
    starts = rng.standard_normal((3, 4))
    return Hypersphere(3), lambda y: -(a + a.T) @ y, starts / np.linalg.norm(starts, axis=1)[:, None], {}


def covariances(rng):
    b = rng.standard_normal((3, 2, 2))
    return equipped(SPDMatrices(2, equip=False), SPDAffineMetric), lambda x: x - SEEN, b @ b.mT + 0.3 * np.eye(2), {}


def matrices(m, n, r, depth, normalized=False, **options):
    def setting(rng):
        space = FixedRankMatrices(m, n, r, equip=False) if r < min(m, n) or m != n else square(m, depth=depth)
        equipped(space, DLNMetric, depth=depth, normalized=normalized)
        return space, Convex(rng, m, n).gradient, 0.5 * of_rank(rng, 4, m, n, r), options

    return setting


SETTINGS = {
    "depth 2": matrices(2, 2, 2, 2),
    "depth 5": matrices(3, 3, 3, 5),
    "infinite depth": matrices(3, 3, 3, np.inf),
    "depth 1": matrices(2, 2, 2, 1),
    "rank 2": matrices(4, 3, 2, 3),
    "full rank, not square": matrices(3, 5, 3, 3, normalized=True),
    "rank 1, dense": matrices(3, 2, 1, 2, coordinates="dense"),
    "frames": stiefel,
    "sphere": sphere,
    "covariances": covariances,
}


DEAR = ("depth 5", "rank 1, dense", "frames", "covariances")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in SETTINGS]
)
def test_each_flow_is_the_single_flow(rng, name):
    space, gradient, starts, options = SETTINGS[name](rng)
    times = [0.0, 0.3, 0.31, 1.0]
    flows = singles(space, gradient, starts, times, **options)
    ensemble = dlngeo.gradient_flow(space, gradient, starts, times, **options)
    assert_each(ensemble, flows)
    assert_allclose(ensemble.t, times)
    assert_allclose(ensemble.points, [flow.points for flow in flows], atol=1e-10)
    assert np.ptp(ensemble.n_evaluations) > 0  # steps of their own
    assert_allclose(ensemble.n_evaluations, [flow.n_evaluations for flow in flows], rtol=0.05)
    to_the_end = dlngeo.gradient_flow(space, gradient, starts, 1.0, **options)
    assert (to_the_end.t, to_the_end.points) == (None, None)
    assert_allclose(to_the_end.ends, ensemble.ends, atol=1e-10)


def test_the_flows_on_the_half_plane_are_exact(rng):
    """``E = ½ y²``: ``ẏ = −y³``, in the coordinates of geomstats, whose metric has no gradient."""
    starts = np.stack([rng.standard_normal(7), rng.uniform(0.5, 2, 7)], axis=1)
    ensemble = dlngeo.gradient_flow(PoincareHalfSpace(2), lambda z: z * np.array([0.0, 1.0]), starts, [0.0, 1.0, 4.0])
    exact = starts[:, 1, None] / np.sqrt(1 + 2 * starts[:, 1, None] ** 2 * ensemble.t)
    assert_allclose(ensemble.points[..., 1], exact, atol=1e-10)
    assert_allclose(ensemble.points[..., 0], np.repeat(starts[:, :1], 3, axis=1), rtol=0)


def test_factored_starts_keep_singular_values_that_dense_ones_lose(rng):
    u, s, vt = zip(*(oracles.factors(rng, 3, 3, [1.0, 1e-12, 10.0**-k]) for k in (20, 30, 40)), strict=True)
    slope = np.diag([-0.1, -1.0, -1.0])
    ensemble = dlngeo.gradient_flow(square(3, depth=2), lambda x: slope + 0 * x, tuple(map(np.array, (u, s, vt))), 0.5)
    flows = singles(square(3, depth=2), lambda x: slope + 0 * x, zip(u, s, vt, strict=True), 0.5)
    assert_allclose([f.singular_values[-1] for f in ensemble], [f.singular_values[-1] for f in flows], rtol=1e-9)
    assert ensemble[2].singular_values[-1, -1] < 1e-35


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")  # SciPy's own, of LSODA
def test_every_method_makes_the_steps_that_it_makes_alone(rng, method):
    """At tolerances so loose that other steps would be seen; the interpolants are those of SciPy."""
    starts, options = rng.standard_normal((4, 2, 2)), {"method": method, "rtol": 1e-3, "atol": 1e-4}
    options["dense_output"] = True
    flows = singles(square(2, depth=3), completion, starts, 3.0, **options)
    ensemble = dlngeo.gradient_flow(square(2, depth=3), completion, starts, 3.0, **options)
    assert_each(ensemble, flows, atol=1e-9)
    within = np.linspace(0, 3, 11)
    for one, flow in zip(ensemble, flows, strict=True):
        assert_allclose(one.t, flow.t, rtol=1e-9)
        assert_allclose(one(within), flow(within), atol=1e-9)
        assert one.n_evaluations == flow.n_evaluations


def branching(x):
    """Of many, one branch for all once one has passed 1."""
    return x - SEEN if np.max(x) < 1 else 3 * (x - SEEN)


FUNCTIONS = {
    "refuses a batch": lambda x: np.diag(np.diag(x) - [2.0, 1.0]),
    "transposes": lambda x: x - SEEN + 0.1 * x.T,
    "takes other axes": lambda x: x - SEEN + 0.1 * x[0],
    "mixes all": lambda x: x / np.linalg.norm(x) - SEEN,
    "mixes later": branching,
    "knows the first count alone": lambda x: x - SEEN if x.ndim == 2 or len(x) > 3 else x[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [2, 5])
def test_functions_of_one_point_are_called_with_one_point(rng, name, count):
    gradient, starts = FUNCTIONS[name], np.eye(2) + 0.3 * rng.uniform(-1, 0, (count, 2, 2))
    space, options = square(2, depth=2), {"rtol": 1e-7, "atol": 1e-9}
    assert_each(dlngeo.gradient_flow(space, gradient, starts, 2.0, **options),
                singles(space, gradient, starts, 2.0, **options), atol=1e-6)  # fmt: skip


def test_a_cost_that_mixes_points_later_is_called_with_one_point(rng):
    """With many it is their least loss once one is below 1, and all would end with the first."""
    starts, space = SEEN + 2 * rng.uniform(1, 2, (4, 2, 2)), square(2, depth=2)
    mixes = lambda x: np.min(loss(x)) + 0 * loss(x) if np.any(loss(x) < 1) else loss(x)  # noqa: E731
    options = {"cost": mixes, "loss_below": 0.1, "rtol": 1e-7, "atol": 1e-9}
    ensemble = dlngeo.gradient_flow(space, completion, starts, 5.0, **options)
    assert_each(ensemble, singles(space, completion, starts, 5.0, **options), atol=1e-8)
    assert_allclose([loss(x) for x in ensemble.ends], 0.1, rtol=1e-6)


def test_a_function_that_takes_many_points_is_called_once_for_all(rng):
    points = rng.standard_normal((3, 3, 3))
    calls = []
    for function, shape, together in (
        (lambda x: calls.append(x.ndim) or 2 * x, (3, 3), True),
        (lambda x: np.sum(x**2, axis=(-2, -1)), (), True),
        (lambda x: np.sum(x**2), (), False),
        (lambda x: np.array(1.0), (), False),
        (lambda x: np.swapaxes(x, 0, 1), (3, 3), False),
    ):
        wrapped = Pointwise(function, "the function", shape)
        wrapped.take(points)
        assert wrapped.together == together
        assert_allclose(wrapped(points), [function(x) for x in points], rtol=1e-14)
    calls.clear()
    wrapped = Pointwise(lambda x: calls.append(x.ndim) or 2 * x, "the function", (3, 3))
    wrapped.take(points)
    calls.clear()
    wrapped(points)
    assert calls == [3]


# Ends of their own.


def test_each_ends_at_its_own_threshold_or_event(rng):
    starts, space = rng.standard_normal((8, 2, 2)), square(2, depth=3)
    starts[0] = SEEN  # there already

    def leaves(t, x):
        return x[0, 0] - 1.5

    leaves.terminal = True
    plain = singles(space, completion, starts, 3.0)
    least = np.median([flow.singular_values[-1, -1] for flow in plain if flow.status == "complete"])
    watch = {"leaves": leaves, "passes": lambda t, x: x[1, 1] - 0.9}
    for options in (
        {"cost": loss, "loss_below": 0.1},
        {"cost": lambda x: float(loss(x)), "loss_below": 0.1, "gradient_below": 1.0},
        {"singular_value_below": least},
        {"events": watch},
    ):
        ensemble = dlngeo.gradient_flow(space, completion, starts, [0.0, 0.2, 3.0], **options)
        assert_each(ensemble, singles(space, completion, starts, [0.0, 0.2, 3.0], **options))
        assert len(set(ensemble.t_end)) > 2
        assert (ensemble.t_end[ensemble.status == "complete"] == 3).all()
        assert np.array_equal(np.isnan(ensemble.points[..., 0, 0]), ensemble.t > ensemble.t_end[:, None])
    with pytest.raises(ValueError, match=r"start 0: the function of the event 'loss' is nan at t = 0, the start"):
        dlngeo.gradient_flow(space, completion, starts, 1.0, cost=lambda x: np.nan * loss(x), loss_below=1.0)


def test_each_ends_where_it_reaches_a_singular_matrix(rng):
    """In a common frame ``σ̇ = −N σ^{2−2/N}``, which is zero at ``σ^{2/N−1}/(2 − N)``; see the single flow."""
    depth, s = 1.2, np.array([1e-3, 2e-3, 5e-3])
    starts = np.stack([np.diag([1.0, one]) for one in s])
    options = {"coordinates": "dense", "t": 50.0}
    ensemble = dlngeo.gradient_flow(square(2, depth=depth), lambda x: np.diag([0.0, 1.0]) + 0 * x, starts, **options)
    assert_each(ensemble, singles(square(2, depth=depth), lambda x: np.diag([0.0, 1.0]), starts, **options))
    assert_allclose(ensemble.t_end, s ** (2 / depth - 1) / (2 - depth), rtol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_a_flow_that_fails_does_not_harm_the_others(rng, together):
    def one(x):
        return x - 2 * SEEN if x[0, 0] < 1.5 else np.full((2, 2), np.nan)

    def many(x):
        return np.where(x[..., :1, :1] < 1.5, x - 2 * SEEN, np.nan)

    starts = np.stack([np.diag([0.1, 0.3]), *(np.eye(2) + 0.1 * rng.standard_normal((3, 2, 2)))])
    starts[2, 0, 0] = 1e-3  # late
    gradient = many if together else one
    options = {"rtol": 1e-8, "atol": 1e-10, "events": {"mine": lambda t, x: np.nan if x[1, 1] > 1.9 else 1.0}}
    ensemble = dlngeo.gradient_flow(square(2, depth=2), gradient, starts, [0.0, 0.3, 0.6], **options)
    flows = singles(square(2, depth=2), one, starts, [0.0, 0.3, 0.6], **options)
    assert set(ensemble.status) == {"failed", "complete"}
    assert ensemble.status.tolist() == [flow.status for flow in flows]
    assert any("the velocity is not finite at t = 0." in flow.message for flow in ensemble)
    done = ensemble.status == "complete"
    assert_allclose(ensemble.ends[done], [f.points[-1] for f in flows if f.status == "complete"], atol=1e-8)
    with pytest.raises(ZeroDivisionError):  # what the user's function raises is no status
        dlngeo.gradient_flow(square(2, depth=2), lambda x: x if x[0, 0] in starts[:, 0, 0] else 1 / 0, starts, 1.0)


# Interruption, resumption, pickles.


@pytest.mark.parametrize("method", ["DOP853", "RK23", pytest.param("BDF", marks=pytest.mark.slow)])
def test_what_is_done_is_kept_and_resumed(rng, ctrl_c, method):
    starts, space = rng.standard_normal((6, 2, 2)), square(2, depth=3)
    options = {"method": method, "rtol": 1e-6, "atol": 1e-8, "cost": loss}
    options["loss_below"] = np.median(loss(dlngeo.gradient_flow(space, completion, starts, 2.0, **options).ends))
    whole = dlngeo.gradient_flow(space, completion, starts, 2.0, **options)
    assert set(whole.status) == {"complete", "event"}
    reached = []

    def interrupt(t):
        reached.append(t)
        if t > 1.0:
            os.kill(os.getpid(), signal.SIGINT)

    part = dlngeo.gradient_flow(space, completion, starts, 2.0, progress=interrupt, **options)
    assert reached == sorted(reached)
    assert "interrupted" in part.status
    done = np.isin(part.status, ["event", "complete"])
    assert (part.t_end[-1] > 0) == (method != "BDF")  # which goes flow by flow, and has not come to the last
    assert_allclose(part.ends[done], whole.ends[done], atol=1e-6)
    part._course.options["progress"] = False
    rest = part.resume([2.0 + 1e-9, 2.5])
    again = dlngeo.gradient_flow(space, completion, starts, [0.0, 2.0 + 1e-9, 2.5], **options)
    assert rest.status.tolist() == again.status.tolist()
    assert_allclose(rest.t_end, again.t_end, atol=1e-3)
    assert_allclose(rest.ends, again.ends, atol=1e-3)
    stays = part.status == "event"
    assert_allclose(rest.t_end[stays], part.t_end[stays], rtol=0)
    assert (rest.n_evaluations[stays] == 0).all()


def test_an_ensemble_resumed_is_the_uninterrupted_one(rng):
    starts, space = rng.standard_normal((5, 2, 2)), square(2, depth=5)
    whole = dlngeo.gradient_flow(space, completion, starts, [0.0, 0.5, 1.0, 2.0])
    half = dlngeo.gradient_flow(space, completion, starts, [0.0, 0.5])
    for flow in (half, pickle.loads(pickle.dumps(half))):
        rest = flow.resume([1.0, 2.0])
        assert_allclose(rest.t, [1.0, 2.0])
        assert_allclose(rest.points, whole.points[:, 2:], atol=1e-9)
        assert_allclose(rest[1].t, [0.5, 1.0, 2.0])
        assert_allclose(flow[1].resume(2.0).points[-1], whole.ends[1], atol=1e-9)
    for t in (0.5, [0.4, 1.0], np.nan):
        with pytest.raises(ValueError, match="later times"):
            half.resume(t)
    with pytest.raises(ValueError, match="must increase"):
        half.resume([2.0, 1.0])


def test_an_ensemble_is_pickled(rng):
    starts, space = rng.standard_normal((3, 2, 2)), square(2, depth=5)
    ensemble = dlngeo.gradient_flow(space, lambda x: x - SEEN, starts, 1.0, dense_output=True)
    again = pickle.loads(pickle.dumps(ensemble))
    assert_allclose(again.ends, ensemble.ends, rtol=0)
    assert_allclose(again._done[1].solution(0.3), ensemble._done[1].solution(0.3), rtol=0)
    with pytest.raises(ValueError, match="the gradient was lost when the flow was pickled"):
        again.resume(2.0)


def test_it_is_a_sequence_of_flows(rng):
    starts, space = rng.standard_normal((3, 2, 2)), square(2, depth=2)
    ensemble = dlngeo.gradient_flow(space, completion, starts, 1.0)
    assert_allclose(ensemble[-1].points[-1], ensemble.ends[2], rtol=0)
    assert_allclose([flow.t[-1] for flow in ensemble], 1.0)
    with pytest.raises(IndexError):
        ensemble[3]
    with pytest.raises(TypeError):
        ensemble[0.5]
    with pytest.raises(ValueError, match="dense_output=True"):
        ensemble[0](0.5)
    alone = dlngeo.gradient_flow(space, completion, starts[:1], 1.0)
    assert_allclose(alone.ends, ensemble.ends[:1], atol=1e-10)


def test_bad_input_is_refused(rng):
    x = np.stack([np.eye(2), 2 * np.eye(2), 3 * np.eye(2)])
    u, s, vt = np.linalg.svd(x)

    def refused(message, error=ValueError, **options):
        arguments = {"space": square(2, depth=2), "euclidean_gradient": completion, "point": x, "t": 1.0, **options}
        with pytest.raises(error, match=message):
            dlngeo.gradient_flow(**arguments)

    refused("there is no start", point=x[:0])
    refused(r"the start has shape \(1, 3, 2, 2\); expected \(2, 2\)", point=x[None])
    refused("start 0: the start has shape", point=np.ones((4, 3, 3)))
    refused("start 2: the start has rank below 2", point=x - 3 * np.diag([0.0, 1.0]))
    refused("start 1: .* NaN", point=np.where(x == 2, np.nan, x))
    refused("the start must be real numbers", TypeError, point=x + 0j)
    refused("start 1: .* NaN", euclidean_gradient=lambda y: y if y[0, 0] != 2 else y * np.nan)
    refused(r"start 0: the gradient has shape \(2,\); expected \(2, 2\)", euclidean_gradient=lambda y: y[0])
    refused("start 0: .* does not belong", space=Hypersphere(1), point=np.ones((2, 2)))
    refused("one first axis in all three", point=(u, s[:2], vt))
    refused("one first axis in all three", point=(u[0], s, vt))
    refused(r"\(u, s, vt\), got 2 arrays", point=(u, s))
    refused("start 0: .* needs factored", point=(u, s, vt), coordinates="dense")
    refused("loss_below needs", loss_below=1.0)
    refused("DOP853", method="Euler")
    refused("must be positive and rtol", rtol=2.0)
    refused("must be positive", t=-1.0)
    refused("needs a space of matrices", space=Hypersphere(1), point=np.eye(2), singular_value_below=1.0,
            euclidean_gradient=lambda y: y)  # fmt: skip


def test_a_space_that_takes_no_batch_is_integrated_flow_by_flow(rng):
    class OneByOne(Hypersphere):
        def projection(self, point):
            assert point.ndim == 1
            return super().projection(point)

    starts = rng.standard_normal((3, 3))
    starts /= np.linalg.norm(starts, axis=1)[:, None]
    pull = np.array([0.0, 0.0, 1.0])
    for options in ({}, {"gradient_below": 0.8}):
        ensemble = dlngeo.gradient_flow(OneByOne(2), lambda y: pull + 0 * y, starts, 1.0, **options)
        assert_each(ensemble, singles(Hypersphere(2), lambda y: pull, starts, 1.0, **options))
    assert gs.all(Hypersphere(2).belongs(gs.array(ensemble.ends)))
