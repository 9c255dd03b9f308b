"""Gradient flows of layers with offsets, in factored coordinates: against layers that are integrated, and exact."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import scipy.integrate
from costs import Convex, equipped, square
from geomstats.geometry.full_rank_matrices import FullRankMatrices
from geomstats.geometry.general_linear import GeneralLinear
from numpy.testing import assert_allclose

import dlngeo
from dlngeo.flows.factored import FactoredState
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.frame import Frame


def space_of(m, n, rank, kernel):
    if rank < min(m, n):
        space = FixedRankMatrices(m, n, rank, equip=False)
    else:
        space = GeneralLinear(m, equip=False) if m == n else FullRankMatrices(m, n, equip=False)
    return equipped(space, SpectralMetric, kernel=kernel)


def layers_over(rng, u, s, vt, offsets):
    """Layers of inner widths ``min(m, n)``, with ``c_p^{1/2}`` where the product vanishes; the least offset is zero."""
    m, n, r = len(u), vt.shape[1], len(s)
    d, x = min(m, n), RelaxedDepthKernel(offsets).shared(s)
    spectrum = np.concatenate([x, np.zeros(d - r)])
    ends = (np.linalg.svd(a)[2].T for a in (vt, u.T))
    first, last = (np.hstack((a, q[:, r:d])) for a, q in zip((vt.T, u), ends, strict=True))
    frames = [first, *(oracles.orthogonal(rng, d) for _ in offsets[1:]), last]
    return [(q * np.sqrt(spectrum + c)) @ p.T for c, (p, q) in zip(offsets, pairwise(frames), strict=True)]


def trained(weights, gradient, times):
    shapes = [w.shape for w in weights]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def split(flat):
        return [flat[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), shapes, strict=True)]

    def velocity(_, flat):
        w = split(flat)
        return -np.concatenate([g.ravel() for g in oracles.lift(w, gradient(oracles.multiply(w)))])

    start = np.concatenate([w.ravel() for w in weights])
    path = scipy.integrate.solve_ivp(
        velocity, (0, times[-1]), start, method="DOP853", rtol=1e-12, atol=1e-13, t_eval=times
    )
    return np.stack([oracles.multiply(split(flat)) for flat in path.y.T])


@pytest.mark.parametrize(
    ("m", "n", "rank", "offsets"),
    [
        (3, 3, 3, [0.0, 1.3, 0.0]),
        (5, 4, 2, [0.0, 0.5, 1.3, 0.0]),
        (4, 3, 3, [0.7, 0.0, 0.4, 0.0]),
        (3, 5, 2, [0.0, 2.0, 0.0, 0.0]),
    ],
)
def test_it_is_the_flow_of_the_layers(rng, m, n, rank, offsets):
    u, s, vt = oracles.factors(rng, m, n, [0.8, 0.3, 0.3][:rank])
    cost, times, kernel = Convex(rng, m, n), np.linspace(0, 0.6, 5), RelaxedDepthKernel(offsets)
    points = trained(layers_over(rng, u, s, vt, offsets), cost.gradient, times)
    space, x = space_of(m, n, rank, kernel), oracles.dense(u, s, vt)
    flow = dlngeo.gradient_flow(space, cost.gradient, x, times)
    assert np.abs(points[-1] - points[0]).max() > 0.2
    assert_allclose(flow.points, points, atol=1e-9)


def test_dense_coordinates_and_the_normalised_metric_give_the_same(rng):
    u, s, vt = oracles.factors(rng, 4, 3, [0.8, 0.3])
    cost, offsets, x = Convex(rng, 4, 3), [0.0, 0.5, 0.0], oracles.dense(u, s, vt)
    kernel, times = RelaxedDepthKernel(offsets), np.array([0.0, 0.2, 0.4])
    flow = dlngeo.gradient_flow(space_of(4, 3, 2, kernel), cost.gradient, x, times)
    dense = dlngeo.gradient_flow(space_of(4, 3, 2, kernel), cost.gradient, x, times, coordinates="dense")
    assert_allclose(dense.points, flow.points, atol=1e-9)
    assert_allclose(dense.gradient_norms, flow.gradient_norms, rtol=1e-8)
    normalised = space_of(4, 3, 2, RelaxedDepthKernel(offsets, normalized=True))
    slow = dlngeo.gradient_flow(normalised, cost.gradient, x, times * kernel.at_one)
    assert_allclose(slow.points, flow.points, atol=1e-9)


@pytest.mark.parametrize("offsets", [[0.0, 0.0, 0.7], [0.4, 0.0, 2.0, 0.0, 0.0]])
@pytest.mark.parametrize(("m", "n", "s"), [(3, 3, [1.5, 1.5, 0.1]), (5, 4, [1.1, 0.2]), (3, 5, [1.2, 0.3, 0.3])])
def test_the_factored_velocity_is_the_cometric_of_the_gradient(rng, offsets, m, n, s):
    u, s, vt = oracles.factors(rng, m, n, s)
    kernel, cost, r = RelaxedDepthKernel(offsets), oracles.Cost(rng, m, n), len(s)
    state, turn = FactoredState((m, n), r, kernel, cost.gradient), oracles.orthogonal(rng, r)
    y = np.concatenate([(u @ turn).ravel(), (turn.T @ np.diag(np.log(s)) @ turn).ravel(), (vt.T @ turn).ravel()])
    velocity = state.velocity(0.0, y)

    def curve(h):
        a, eta, b, _ = state.frame(y + h * velocity)
        return (a * np.exp(eta)) @ b.T

    expected = Frame(u, s, vt, kernel).cometric(cost.gradient(oracles.dense(u, s, vt)))
    assert_allclose(oracles.derivative(curve, step=1e-3, levels=4), -expected, atol=1e-9 * np.abs(expected).max())
    assert_allclose(state.squared_gradient_norm(y), np.sum(expected * cost.gradient((u * s) @ vt)), rtol=1e-12)


def test_tiny_singular_values_keep_their_digits(rng):
    """In a common frame ``ẋ = 2 x √(x + c)`` with the offsets (0, 0, c) and the gradient −UVᵀ, in closed form."""
    c, s = 0.5, np.array([1e-3, 1e-12, 1e-40, 1e-310])
    u, s, vt = oracles.factors(rng, 4, 4, s)
    space = space_of(4, 4, 4, RelaxedDepthKernel([0.0, 0.0, c]))
    times = np.array([0.0, 1.0, 3.0])
    flow = dlngeo.gradient_flow(space, lambda x: -u @ vt, (u, s, vt), times)
    # σ² = x²(x + c) at the start, to the digits of the first of them by bisection, and x = σ/√c of the others.
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if middle**2 * (middle + c) < s[0] ** 2 else (low, middle)
    x = np.array([low, *(s[1:] / np.sqrt(c))])
    ratio = x / (np.sqrt(x + c) + np.sqrt(c)) ** 2 * np.exp(2 * np.sqrt(c) * times[:, None])
    later = 4 * c * ratio / (1 - ratio) ** 2
    assert_allclose(flow.singular_values[:, :3], (later * np.sqrt(later + c))[:, :3], rtol=1e-9)
    assert_allclose(flow.singular_values[:, 3], (later * np.sqrt(later + c))[:, 3], rtol=1e-3)  # of three digits itself


def test_where_the_rank_is_not_conserved_singular_values_pass_zero(rng):
    """The state is dense there, the flow that of the layers, and the determinant changes sign."""
    offsets, target = [0.0, 0.7, 1.3], -np.eye(3)
    u, s, vt = oracles.factors(rng, 3, 3, [1.1, 0.6, 0.2])
    u[:, 0] *= np.linalg.det(u) * np.linalg.det(vt)
    space = space_of(3, 3, 3, RelaxedDepthKernel(offsets))
    x, times = oracles.dense(u, s, vt), np.linspace(0, 0.5, 4)
    points = trained(layers_over(rng, u, s, vt, offsets), lambda y: y - target @ u @ vt, times)
    flow = dlngeo.gradient_flow(space, lambda y: y - target @ u @ vt, x, times)
    assert np.linalg.det(points[0]) * np.linalg.det(points[-1]) < 0
    assert_allclose(flow.points, points, atol=1e-9)
    for call in (
        lambda: dlngeo.gradient_flow(space, lambda y: y, x, 1.0, coordinates="factored"),
        lambda: dlngeo.gradient_flow(space, lambda y: y, (u, s, vt), 1.0),
    ):
        with pytest.raises(ValueError, match=r"factored coordinates.*two or more are the least"):
            call()


def test_equal_offsets_flow_as_a_depth(rng):
    cost, x = Convex(rng, 3, 3), rng.standard_normal((3, 3))
    one = dlngeo.gradient_flow(space_of(3, 3, 3, RelaxedDepthKernel([1.0, 1.0, 1.0])), cost.gradient, x, 0.3)
    other = dlngeo.gradient_flow(square(3, depth=3), cost.gradient, x, 0.3)
    assert_allclose(one.points[-1], other.points[-1], atol=1e-12)


def test_many_starts_share_their_evaluations(rng):
    cost, x = Convex(rng, 3, 3), 0.5 * rng.standard_normal((4, 3, 3))
    space = space_of(3, 3, 3, RelaxedDepthKernel([0.0, 0.3, 0.0]))
    ensemble = dlngeo.gradient_flow(space, cost.gradient, x, 0.3)
    for start, end in zip(x, ensemble.ends, strict=True):
        assert_allclose(end, dlngeo.gradient_flow(space, cost.gradient, start, 0.3).points[-1], atol=1e-9)
