"""Stiff flows: exponential steps under gradient_flow, and the default, which changes its method and says so."""

import copy
import math
import pickle

import numpy as np
import oracles
import pytest
from costs import Convex, equipped, square
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from numpy.testing import assert_allclose
from user_kernels import Offset

import dlngeo
from dlngeo.flows import stiff
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric

MASK, TARGET = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
START = 1e-2 * np.array([[1.0, 0.3], [0.1, 1.0]])


def gradient(x):
    """Razin and Cohen's completion: from a positive determinant the entry not seen goes to infinity, ever slower."""
    return MASK * (x - TARGET)


def hessian(x, z):
    return MASK * z


def cost(x):
    return 0.5 * np.sum(MASK * (x - TARGET) ** 2)


@pytest.mark.slow
def test_the_default_notices_a_stiff_flow_and_says_so():
    space = square(2, depth=2)
    short, long = (dlngeo.gradient_flow(space, gradient, START, t) for t in (1e2, 3e3))
    assert "stiff from t = " in long.message
    assert "BDF" in long.message
    assert long.status == "complete"
    assert long.n_evaluations < 2 * short.n_evaluations  # in 30 times the time
    want = dlngeo.gradient_flow(space, gradient, START, 3e3, method="LSODA", rtol=1e-10)
    assert_allclose(long.points[-1], want.points[-1], rtol=1e-5)
    assert_allclose(long(90.0), want(90.0), rtol=1e-5)


def test_the_default_stays_with_the_explicit_method_where_the_flow_is_not_stiff(rng):
    target = Convex(rng, 3, 3)
    x = rng.standard_normal((3, 3))
    flows = [dlngeo.gradient_flow(square(3, depth=3), target.gradient, x, 2.0, **o) for o in ({}, {"method": "DOP853"})]
    np.testing.assert_array_equal(flows[0].points, flows[1].points)
    assert flows[0].message == flows[1].message


@pytest.mark.slow
def test_a_large_state_goes_on_by_exponential_steps_unless_a_tolerance_was_asked_for(monkeypatch):
    monkeypatch.setattr(stiff, "_SMALL", 1)
    monkeypatch.setattr(stiff, "_FEW", 200)
    space = square(2, depth=2)
    flow = dlngeo.gradient_flow(space, gradient, START, 120.0, euclidean_hessian=hessian, cost=cost)
    assert "exponential steps" in flow.message
    want = dlngeo.gradient_flow(space, gradient, START, 120.0, method="LSODA", rtol=1e-10)
    assert_allclose(flow.points[-1], want.points[-1], rtol=1e-3)
    flow = dlngeo.gradient_flow(space, gradient, START, 110.0, rtol=1e-11)
    assert 'method="implicit"' in flow.message
    assert_allclose(flow.points[-1], want(110.0), rtol=1e-6)


def spectral(m, n, rank, kernel):
    return equipped(FixedRankMatrices(m, n, rank, equip=False), SpectralMetric, kernel=kernel)


def cases(rng):
    """Spaces with coordinates of every kind, and a start in each."""
    for depth, (m, n, s) in [(2, (3, 3, [1.1, 0.6, 0.2])), (3, (4, 3, [1.0, 0.3])), (1.5, (3, 4, [1.0, 0.3])),
                             (math.inf, (3, 3, [1.1, 0.6, 0.2])), (8, (3, 3, [1.1, 0.6, 0.2]))]:  # fmt: skip
        u, s, vt = oracles.factors(rng, m, n, s)
        yield spectral(m, n, len(s), dlngeo.kernels.of_depth(depth)), (u * s) @ vt, Convex(rng, m, n).gradient
    u, s, vt = oracles.factors(rng, 3, 3, [1.1, 0.6, 0.2])
    yield spectral(3, 3, 3, Offset()), (u * s) @ vt, Convex(rng, 3, 3).gradient
    a = rng.standard_normal((3, 3))
    spd = equipped(SPDMatrices(3, equip=False), SPDBuresWassersteinMetric)
    yield spd, a @ a.T + np.eye(3), lambda x: x - np.diag([1.0, 2.0, 3.0])
    start = np.array([0.6, 0.0, 0.8])
    yield Hypersphere(2), start, lambda x: np.array([1.0, 2.0, 4.0]) * x


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case not in (1, 3, 7) else case for case in range(8)]
)
def test_exponential_steps_follow_the_path_of_an_explicit_method(rng, case):
    space, start, slope = list(cases(rng))[case]
    times = [0.0, 0.3, 1.0]
    want = dlngeo.gradient_flow(space, slope, start, times, method="DOP853", rtol=1e-10).points
    errors = []
    for rtol in (1e-2, 1e-5):
        flow = dlngeo.gradient_flow(space, slope, start, times, method="implicit", rtol=rtol)
        assert flow.status == "complete"
        np.testing.assert_array_equal(flow.t, times)
        errors.append(np.abs(flow.points - want).max())
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 15  # a hundred times where the order is two


def test_events_outputs_and_resumption_are_those_of_every_method(rng):
    space = square(2, depth=2)
    options = {"method": "implicit", "euclidean_hessian": hessian, "cost": cost}
    flow = dlngeo.gradient_flow(space, gradient, START, 20.0, loss_below=0.1, **options)
    want = dlngeo.gradient_flow(space, gradient, START, 20.0, loss_below=0.1, cost=cost)
    assert flow.status == "event"
    assert_allclose(flow.t[-1], want.t[-1], rtol=1e-3)
    assert_allclose(cost(flow.points[-1]), 0.1, rtol=1e-9)
    assert np.all(np.diff(flow.losses) <= 0)
    middle = flow.t[-1] / 2
    assert_allclose(flow(middle), want(middle), atol=1e-3)
    rest = flow.resume(flow.t[-1] + 1)
    assert rest.status == "event"  # the loss is below the threshold from the start
    whole = dlngeo.gradient_flow(space, gradient, START, [0.0, 2.0, 4.0], **options)
    part = dlngeo.gradient_flow(space, gradient, START, [0.0, 2.0], **options).resume(4.0)
    assert_allclose(part.points[-1], whole.points[-1], rtol=1e-3)
    assert_allclose(copy.deepcopy(flow)(middle), flow(middle), rtol=0)
    kept = pickle.loads(pickle.dumps(flow))
    np.testing.assert_array_equal(kept.points, flow.points)
    with pytest.raises(ValueError, match="when it is pickled"):
        kept(middle)


def test_a_point_of_rest_stays():
    flow = dlngeo.gradient_flow(square(2, depth=2), lambda x: 0 * x, np.eye(2), 5.0, method="implicit")
    assert flow.status == "complete"
    assert flow.t[-1] == 5.0
    np.testing.assert_allclose(flow.points[-1], np.eye(2))
    np.testing.assert_allclose(flow(2.0), np.eye(2))


def test_many_starts_take_exponential_steps_one_by_one():
    starts = np.stack([START, 2 * START.T])
    space = square(2, depth=2)
    options = {"method": "implicit", "euclidean_hessian": hessian}
    flows = dlngeo.gradient_flow(space, gradient, starts, 3.0, **options)
    for start, end in zip(starts, flows.ends, strict=True):
        np.testing.assert_array_equal(end, dlngeo.gradient_flow(space, gradient, start, 3.0, **options).points[-1])


def test_flows_of_weights_refuse_what_they_do_not_have(rng):
    weights = [rng.standard_normal((2, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match="for gradient_flow alone"):
        dlngeo.training_flow(weights, gradient, 1.0, method="implicit")
    with pytest.raises(ValueError, match="unknown method"):
        dlngeo.gradient_flow(square(2, depth=2), gradient, START, 1.0, method="Euler")


def test_a_cost_that_ends_in_nan_fails_where_it_does():
    def broken(x):
        return gradient(x) if x[0, 0] < 0.5 else np.full((2, 2), np.nan)

    flow = dlngeo.gradient_flow(square(2, depth=2), broken, START, 1e3, method="implicit")
    assert flow.status == "failed"
    assert 0.4 < flow.points[-1][0, 0] <= 0.5


def test_a_hessian_that_cannot_be_pickled_is_left_behind_and_one_of_a_wrong_shape_is_told():
    options = {"method": "implicit", "dense_output": False}
    flow = dlngeo.gradient_flow(
        square(2, depth=2), gradient, START, 1.0, euclidean_hessian=lambda x, z: MASK * z, **options
    )
    kept = pickle.loads(pickle.dumps(flow))
    with pytest.raises(ValueError, match="the Hessian was lost"):
        kept.resume(2.0)
    with pytest.raises(ValueError, match=r"the Hessian has shape \(1,\)"):
        dlngeo.gradient_flow(
            square(2, depth=2), gradient, START, 1.0, euclidean_hessian=lambda x, z: np.ones(1), **options
        )


@pytest.mark.parametrize("depth", [1, 1.5, 3])
def test_a_hessian_that_is_given_is_that_of_the_differences(rng, depth):
    u, s, vt = oracles.factors(rng, 4, 3, [1.0, 0.3])
    cost = Convex(rng, 4, 3)
    space = spectral(4, 3, 2, dlngeo.kernels.of_depth(depth))

    def second(x, z):
        return z + z / (1 + (x - cost.target) ** 2) ** 1.5

    ends = [
        dlngeo.gradient_flow(space, cost.gradient, (u * s) @ vt, 1.0, method="implicit", rtol=1e-2, **options).points[
            -1
        ]
        for options in ({}, {"euclidean_hessian": second})
    ]
    assert_allclose(ends[1], ends[0], atol=1e-6)
