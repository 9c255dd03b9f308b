"""What crosses the border: every class of geomstats' refuses or converts the same arrays, in one place; and pickles."""

import copy
import os
import pickle
import subprocess
import sys

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import npa
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.learning.frechet_mean import FrechetMean

import dlngeo
from dlngeo.geomstats import (
    BalancedMatrices,
    DLNMetric,
    EndToEndBundle,
    FixedRankMatrices,
    FlatChart,
    GaugeAction,
    UnbalancedMatrices,
)
from dlngeo.matrices.differentiable import DifferentiableFrame
from dlngeo.matrices.frame import Frame
from dlngeo.weights.geodesics import balanced
from dlngeo.weights.network import effective_cometric, layer_gradient


def gl():
    return GeneralLinear(2, positive_det=True, equip=False).equip_with_metric(DLNMetric, depth=3)


SPACES = {
    "GeneralLinear": gl,
    "FixedRankMatrices": lambda: FixedRankMatrices(3, 2, 1),
    "BalancedMatrices": lambda: BalancedMatrices(2, 3),
    "UnbalancedMatrices": lambda: UnbalancedMatrices([[[0.3, 0.1], [0.1, -0.2]]]),
    "FlatChart": lambda: FlatChart(gl()),
}
over_spaces = pytest.mark.parametrize("space", [make() for make in SPACES.values()], ids=list(SPACES))


def data(space, seed=0):
    """A point, and a short tangent vector there."""
    noise = np.random.default_rng(seed).standard_normal((2, *space.shape))
    near = np.broadcast_to(np.eye(*space.shape[-2:]), space.shape) if len(space.shape) > 1 else np.array([1.0, 0, 0, 1])
    point = space.projection(gs.from_numpy(near + 0.1 * noise[0]))
    return point, space.to_tangent(gs.from_numpy(0.1 * noise[1]), point)


def calls(space):
    """Name → function of a point and a vector, of which the last two make a vector a point."""
    metric = space.metric
    found = {
        "inner_product": lambda x, v: metric.inner_product(v, v, x),
        "norm": lambda x, v: metric.norm(v, x),
        "geodesic_equation": lambda x, v: metric.geodesic_equation(
            np.stack([np.asarray(x), np.asarray(v)], -1 - len(space.shape))
        ),
        "exp": lambda x, v: metric.exp(v, x),
        "geodesic": lambda x, v: metric.geodesic(x, initial_tangent_vec=v)(0.5),
        "to_tangent": lambda x, v: space.to_tangent(v, x),
    }
    if hasattr(metric, "gradient"):
        found["gradient"] = lambda x, v: metric.gradient(v, x)
        found["hessian"] = lambda x, v: metric.hessian(v, v, v, x)
        found["curvature"] = lambda x, v: metric.curvature(v, v, v, x)
    if isinstance(space, GeneralLinear):
        del found["to_tangent"]  # of geomstats
    return found


@over_spaces
def test_no_mask_imaginary_part_shape_or_nan_is_lost(space):
    point, vector = data(space)
    x, v = npa(point), npa(vector)
    ndim = len(space.shape)
    bad = {
        "masked": (np.ma.masked_array(v, mask=v > 0), TypeError, "masked array"),
        "masked rows": ([np.ma.masked_array(row) for row in v], TypeError, "masked array"),
        "complex": (v + 1j, TypeError, "got an array of complex"),
        "objects": (v.astype(object), TypeError, "got an array of object"),
        "short": (v[0], ValueError, r"has shape .*; expected \(\.\.\., "),
        "thin": (v[..., :1], ValueError, r"has shape .*; expected \(\.\.\., "),
        "NaN": (v * np.nan, ValueError, "holds NaN or infinite"),
    }
    for name, f in calls(space).items():
        for kind, (value, error, match) in bad.items():
            if name == "geodesic_equation" and kind not in ("complex", "objects", "NaN"):
                continue  # the stack of both is an array already
            with pytest.raises(error, match=match):
                f(point, value)
            if kind not in ("short", "thin"):
                with pytest.raises(error, match=match):
                    f(value, vector)
    for f in (space.belongs, lambda a: space.is_tangent(a, point)):
        if isinstance(space, GeneralLinear):
            break
        with pytest.raises(TypeError, match="masked array"):
            f(np.ma.masked_array(x))
        assert not np.any(npa(f(gs.from_numpy(np.ones((*space.shape[:-1], space.shape[-1] + 1))))))
    with pytest.raises(ValueError, match="has shape"):
        space.metric.log(point, gs.ones(space.shape[1:] if ndim > 1 else (1,)))


@over_spaces
def test_lists_integers_and_matrices_are_plain_arrays(space):
    """``*`` of ``np.matrix`` is the matrix product, which gave −9.2 for −16.7."""
    point, vector = data(space)
    x, v = npa(point), npa(vector)
    for name, f in calls(space).items():
        exact = npa(f(point, vector))
        np.testing.assert_array_equal(npa(f(x.tolist(), v.tolist())), exact, err_msg=name)
        np.testing.assert_array_equal(npa(f(x, v)), exact, err_msg=name)
        if x.ndim == 2:
            found = npa(f(np.matrix(x), np.matrix(v)))
            assert type(found) is not np.matrix
            np.testing.assert_array_equal(found, exact, err_msg=name)
    ones = np.ones(space.shape, int)
    np.testing.assert_array_equal(
        npa(space.metric.inner_product(ones, ones, point)),
        npa(space.metric.inner_product(1.0 * ones, 1.0 * ones, point)),
    )


def test_the_bundle_and_the_gauge_group_are_checked_too(rng):
    space = BalancedMatrices(2, 3)
    action, bundle = GaugeAction(2, 3), EndToEndBundle(space)
    w, _ = data(space)
    x = bundle.riemannian_submersion(w)
    masked = np.ma.masked_array(npa(w))
    for f in (
        lambda: action(action.random_element(rng=1), masked),
        lambda: bundle.riemannian_submersion(masked),
        lambda: bundle.lift(np.ma.masked_array(npa(x))),
        lambda: bundle.horizontal_lift(np.ma.masked_array(npa(x)), fiber_point=w),
        lambda: bundle.horizontal_projection(masked, w),
        lambda: bundle.align(masked, w),
        lambda: UnbalancedMatrices(masked[:2]),
    ):
        with pytest.raises(TypeError, match="masked array"):
            f()
    for f in (
        lambda: bundle.lift(w[..., :1]),
        lambda: bundle.horizontal_lift(x[0], fiber_point=w),
        lambda: bundle.vertical_projection(x, w),
        lambda: bundle.align(x, w),
    ):
        with pytest.raises(ValueError, match="has shape"):
            f()
    matrix = np.matrix(npa(x))
    np.testing.assert_array_equal(npa(bundle.lift(matrix)), npa(bundle.lift(x)))


def test_the_mathematics_below_refuses_masks_and_takes_matrices(rng):
    x, p = rng.uniform(0.1, 1, (2, 3, 3))
    weights = [np.eye(3), x]
    functions = {
        "entropy": lambda a: dlngeo.entropy(a, 3),
        "end_to_end": lambda a: dlngeo.end_to_end([a, a]),
        "imbalance": lambda a: dlngeo.imbalance([a, a])[0],
        "balanced_weights": lambda a: dlngeo.balanced_weights(a, 3)[1],
        "layer_gradient": lambda a: layer_gradient(a, weights)[0],
        "effective_cometric": lambda a: effective_cometric(a, weights),
        "kernel": lambda a: dlngeo.DepthKernel(3)(a, 1.0),
        "Frame.at": lambda a: Frame.at(a, dlngeo.DepthKernel(3)).point,
        "cometric": lambda a: Frame.at(x, dlngeo.DepthKernel(3)).cometric(a),
        "inner": lambda a: Frame.at(x, dlngeo.DepthKernel(3)).inner(a, a),
        "project": lambda a: Frame.at(x, dlngeo.DepthKernel(1)).project(a),
    }
    for name, f in functions.items():
        found = f(np.matrix(p))
        assert not isinstance(found, np.matrix), name
        np.testing.assert_array_equal(found, f(p), err_msg=name)
        with pytest.raises(TypeError, match="masked array"):
            f(np.ma.masked_array(p, mask=p > 0))
        if name in ("kernel", "layer_gradient", "effective_cometric", "cometric", "inner", "project"):
            # Of singular values, or at real weights or a real point.
            with pytest.raises(TypeError, match="got an array of complex"):
                f(p + 1j)
        else:
            assert not np.allclose(f(p + 1j), f(p)), name


# Single precision.


@over_spaces
def test_single_precision_stays_single_and_mixed_types_promote(space):
    point, vector = data(space)
    x, v = gs.cast(point, gs.float32), gs.cast(vector, gs.float32)
    metric = space.metric
    end = metric.exp(v, x)
    log = metric.log(end, x)
    assert end.dtype == log.dtype == metric.dist(x, end).dtype == x.dtype
    assert metric.geodesic(x, end_point=end)(0.5).dtype == metric.inner_product(v, v, x).dtype == x.dtype
    np.testing.assert_allclose(npa(log), npa(vector), atol=1e-5)
    np.testing.assert_allclose(npa(metric.dist(x, end)), npa(metric.norm(vector, point)), rtol=1e-4)
    for mixed in (metric.exp(v, point), metric.log(end, point), metric.inner_product(v, vector, x)):
        assert mixed.dtype == point.dtype
    np.testing.assert_allclose(npa(metric.exp(v, point)), npa(metric.exp(vector, point)), atol=1e-6)
    if hasattr(metric, "random_gaussian_tangent_vec"):
        assert metric.random_gaussian_tangent_vec(x).dtype == metric.gradient(v, x).dtype == x.dtype
        mean = FrechetMean(space).set(max_iter=32, epsilon=1e-8).fit(gs.stack([x, end])).estimate_
        middle = metric.geodesic(x, end_point=end)(0.5)[0]
        np.testing.assert_allclose(npa(mean), npa(middle), atol=1e-3)


@pytest.mark.skipif(gs.__name__.endswith("pytorch"), reason="the tests above do it")
def test_the_border_is_the_same_on_pytorch():
    """These tests in another process: the backend of geomstats is chosen once."""
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__],
        env={**os.environ, "GEOMSTATS_BACKEND": "pytorch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


# Pickling.


@over_spaces
@pytest.mark.parametrize("again", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deepcopy", "pickle"])
def test_spaces_and_frames_pickle_before_and_after_use(space, again):
    point, vector = data(space)
    space.metric.log(space.metric.exp(vector, point), point)
    exact = npa(space.metric.exp(vector, point))
    fresh = SPACES[type(space).__name__]()
    for other in (again(space), again(fresh)):
        np.testing.assert_array_equal(npa(other.metric.exp(vector, point)), exact)
    np.testing.assert_array_equal(npa(again(space.metric).exp(vector, point)), exact)
    owner = space if hasattr(space, "frame") else space.metric
    if hasattr(owner, "frame"):
        frame = owner.frame(point)
        part = (lambda f: f.tangent(vector)) if hasattr(frame, "tangent") else (lambda f: f.cometric(vector))
        np.testing.assert_array_equal(npa(part(again(frame))), npa(part(frame)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deepcopy", "pickle"])
def test_bundles_surfaces_and_differentiable_frames_pickle(rng, again):
    space = BalancedMatrices(2, 3)
    space.equip_with_group_action(GaugeAction(2, 3)).equip_with_quotient()
    w, v = data(space)
    bundle = again(space).fiber_bundle
    exact = npa(space.fiber_bundle.horizontal_projection(v, w))
    np.testing.assert_array_equal(npa(bundle.horizontal_projection(v, w)), exact)
    surface = balanced(2)
    np.testing.assert_array_equal(again(surface).basis(npa(w)), surface.basis(npa(w)))
    x, p = rng.standard_normal((2, 3, 2))
    frame = DifferentiableFrame(x, dlngeo.DepthKernel(3))
    exact = frame.christoffel(p, p)
    np.testing.assert_array_equal(again(frame).christoffel(p, p), exact)


def test_points_that_are_traced_stay_so(rng):
    torch = pytest.importorskip("torch")
    metric = gl().metric
    x, v = np.eye(2) + 0.1 * rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    y = torch.tensor(x, requires_grad=True)
    vector = torch.tensor(v, dtype=torch.float32)
    metric.inner_product(vector, vector, y).backward()
    single = np.asarray(vector, float)
    exact = [
        oracles.derivative(
            lambda h, e=e: float(npa(metric.inner_product(*map(gs.from_numpy, (single, single, x + h * e)))))
        )
        for e in np.eye(4).reshape(4, 2, 2)
    ]
    np.testing.assert_allclose(y.grad.numpy().ravel(), exact, rtol=1e-7, atol=1e-9)
