"""Flows of the weights: conservation, products, balancing and descent, against theorems and separate integrations."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
from costs import Convex
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

import dlngeo
from dlngeo.flows import FlowStatus, balancing, training
from dlngeo.flows.integrate import METHODS, integrate
from dlngeo.weights import network

WIDTHS = [(3, 2), (3, 4, 2), (2, 3, 5, 3), (3, 3, 3, 3)]
TIGHT = {"rtol": 1e-12, "atol": 1e-13}


def random_weights(rng, widths, scale=1.0):
    return [scale * rng.standard_normal((b, a)) for a, b in pairwise(widths)]


def setting(rng, widths, scale=0.7):
    """Weights, and a cost of their product."""
    return random_weights(rng, widths, scale), Convex(rng, widths[-1], widths[0])


# Training flows.


@pytest.mark.parametrize(("widths", "stacked"), [*((w, False) for w in WIDTHS), ((3, 3, 3, 3), True)])
def test_training_conserves_the_imbalance_and_lowers_the_loss(rng, widths, stacked):
    w, cost = setting(rng, widths)
    start = np.stack(w) if stacked else w
    times = np.linspace(0, 1, 9)
    flow = dlngeo.training_flow(start, cost.gradient, times, cost=cost)
    assert flow.status == "complete"
    assert flow.status is FlowStatus.COMPLETE
    assert_allclose(flow.t, times)
    assert flow.imbalance_drift.shape == (9, len(w) - 1)
    assert flow.imbalance_drift.max(initial=0) < 1e-9
    assert flow.loss_increase == 0
    assert np.all(np.diff(flow.losses) < 0)
    assert_allclose(flow.losses, [cost(x) for x in flow.points])
    for x, layers in zip(flow.points, flow.weights, strict=True):
        assert isinstance(layers, list) != stacked
        assert_allclose(network.end_to_end(layers), x, rtol=1e-14)
    # The loss falls at the squared norm of the gradient.
    rate = oracles.derivative(lambda h: cost(network.end_to_end(flow(0.5 + h))), levels=4)
    assert_allclose(rate, -(flow.gradient_norms[4] ** 2), rtol=1e-7)


def test_an_unbalanced_imbalance_is_far_from_zero_and_reported_relative_to_the_start(rng):
    w, cost = setting(rng, (3, 3, 3), 1.0)
    assert np.linalg.norm(dlngeo.imbalance(w)[0]) > 1
    loose = dlngeo.training_flow(w, cost.gradient, 1.0, rtol=1e-3, atol=1e-4, method="RK23")
    tight = dlngeo.training_flow(w, cost.gradient, 1.0)
    assert loose.imbalance_drift[0].max() == 0
    assert loose.imbalance_drift[-1].max() > 1e3 * tight.imbalance_drift[-1].max()


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_product_of_unbalanced_weights_moves_by_the_effective_cometric(rng, widths):
    w, cost = setting(rng, widths)
    flow = dlngeo.training_flow(w, cost.gradient, 1.0, **TIGHT)
    for t in (0.3, 0.7):
        velocity = oracles.derivative(lambda h, t=t: network.end_to_end(flow(t + h)), levels=4)
        layers = flow(t)
        expected = -network.effective_cometric(cost.gradient(network.end_to_end(layers)), layers)
        assert_allclose(velocity, expected, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 4, 3), (4, 2, 3)])
def test_two_layers_of_any_imbalance_are_a_closed_system_of_their_product(rng, widths):
    """``Ẋ = −(A E′ + E′ B)``, ``Ȧ = −(E′Xᵀ + X E′ᵀ)``, ``Ḃ = −(XᵀE′ + E′ᵀX)`` for ``A = W_2W_2ᵀ``, ``B = W_1ᵀW_1``."""
    w = random_weights(rng, widths, 0.8)
    m, n = widths[-1], widths[0]
    cost = Convex(rng, m, n)
    cuts = np.cumsum([m * n, m * m])

    def closed(t, y):
        x, a, b = (part.reshape(shape) for part, shape in zip(np.split(y, cuts), [(m, n), (m, m), (n, n)], strict=True))
        e = cost.gradient(x)
        parts = (a @ e + e @ b, e @ x.T + x @ e.T, x.T @ e + e.T @ x)
        return -np.concatenate([p.ravel() for p in parts])

    times = np.linspace(0, 2, 11)
    start = np.concatenate([p.ravel() for p in (w[1] @ w[0], w[1] @ w[1].T, w[0].T @ w[0])])
    reference = solve_ivp(closed, (0, 2), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13).y.T
    flow = dlngeo.training_flow(w, cost.gradient, times)
    assert_allclose(flow.points, reference[:, : m * n].reshape(-1, m, n), atol=1e-8)


def test_two_layers_of_scalar_imbalance_obey_an_equation_of_their_product_and_the_imbalance(rng):
    """If ``G = cI``, then ``W_2W_2ᵀ = c/2 + (XXᵀ + c²/4)^{1/2}`` and ``W_1ᵀW_1 = −c/2 + (XᵀX + c²/4)^{1/2}``."""
    c, d = 0.7, 3
    w1 = rng.standard_normal((d, d))
    w2 = oracles.orthogonal(rng, d) @ oracles.symmetric_power(w1 @ w1.T + c * np.eye(d), 0.5)
    assert_allclose(dlngeo.imbalance([w1, w2])[0], c * np.eye(d), atol=1e-13)
    cost = Convex(rng, d, d)

    def closed(t, y):
        x = y.reshape(d, d)
        e, shift = cost.gradient(x), c**2 / 4 * np.eye(d)
        a = c / 2 * e + oracles.symmetric_power(x @ x.T + shift, 0.5) @ e
        return -(a - c / 2 * e + e @ oracles.symmetric_power(x.T @ x + shift, 0.5)).ravel()

    times = np.linspace(0, 2, 11)
    reference = solve_ivp(closed, (0, 2), (w2 @ w1).ravel(), method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    flow = dlngeo.training_flow([w1, w2], cost.gradient, times)
    assert_allclose(flow.points, reference.y.T.reshape(-1, d, d), atol=1e-8)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "implicit"])
def test_every_method_ends_at_the_same_weights(rng, method):
    w, cost = setting(rng, (2, 3, 2))
    options = {"rtol": 1e-7, "atol": 1e-9, "method": method}
    flow = dlngeo.training_flow(w, cost.gradient, 0.5, **options)
    reference = dlngeo.training_flow(w, cost.gradient, 0.5)
    assert_allclose(flow.points[-1], reference.points[-1], atol=2e-5)
    assert_allclose(network.end_to_end(flow(0.25)), network.end_to_end(reference(0.25)), atol=2e-5)
    several = reference([0.25, 0.5])
    assert_allclose(network.end_to_end(several[0]), network.end_to_end(reference(0.25)), rtol=1e-14)
    assert_allclose(network.end_to_end(several[1]), reference.points[-1], rtol=1e-12)


def test_stopping_resuming_and_dense_output(rng):
    w, cost = setting(rng, (3, 3, 3))
    whole = dlngeo.training_flow(w, cost.gradient, [0, 1, 3, 5], cost=cost)
    level = float(np.sqrt(whole.losses[1] * whole.losses[2]))
    stopped = dlngeo.training_flow(w, cost.gradient, [0, 5], cost=cost, loss_below=level)
    assert stopped.status == "event"
    assert_allclose(stopped.losses[-1], level, rtol=1e-9)
    assert stopped.events["loss"] == stopped.t[-1]
    fine = dlngeo.training_flow(w, cost.gradient, np.linspace(0, 5, 5001), cost=cost, loss_below=level)
    assert np.all(np.diff(fine.t) > 0)  # no output after the event, though the solver's step goes on beyond it
    assert_allclose(fine.t[-1], stopped.t[-1], rtol=1e-8)
    rest = stopped.resume([3, 5])
    assert rest.t[0] == stopped.t[-1]
    assert rest.status == "event"  # the loss is still below: it says so at once
    small = dlngeo.training_flow(w, cost.gradient, 50.0, gradient_below=1e-3)
    assert_allclose(small.gradient_norms[-1], 1e-3, rtol=1e-6)
    half = dlngeo.training_flow(w, cost.gradient, [0, 1, 3], cost=cost)
    assert_allclose(half.resume([5]).points[-1], whole.points[-1], atol=1e-9)
    with pytest.raises(ValueError, match="later times"):
        half.resume([2])
    with pytest.raises(ValueError, match="covers times"):
        half(3.5)
    with pytest.raises(ValueError, match="dense_output"):
        dlngeo.training_flow(w, cost.gradient, [0, 1], dense_output=False)(0.5)


def test_the_progress_bar_writes_nothing_to_standard_output(rng, capsys):
    w, cost = setting(rng, (2, 2, 2))
    flow = dlngeo.training_flow(w, cost.gradient, 1.0, progress=True)
    assert flow.status == "complete"
    assert capsys.readouterr().out == ""


def test_a_rising_loss_is_reported(rng):
    """A gradient that is not that of the cost: the flow of ``−E`` climbs."""
    cost = Convex(rng, 2, 2)
    w = random_weights(rng, (2, 2, 2), 0.5)
    flow = dlngeo.training_flow(w, lambda x: -cost.gradient(x), [0, 0.05], cost=cost)
    assert flow.loss_increase == pytest.approx(flow.losses[1] - flow.losses[0])
    assert flow.loss_increase > 0
    assert "check the gradient" in flow.message


def test_training_from_balanced_weights_keeps_the_sign_of_the_determinant_or_says_so(rng):
    """And from others it need not: with ``G = c`` a scalar product moves at ``−2√(x² + c²/4) E′``, through 0 at 0."""
    target = np.diag([2.0, -1.0])
    flow = dlngeo.training_flow(dlngeo.balanced_weights(np.eye(2) / 2, 2, rng=0), lambda x: x - target, 300.0)
    assert (flow.status, flow.events["singular"].tolist()) == ("event", [flow.t[-1]])
    assert "changed sign" in flow.message
    assert all(np.linalg.det(x) >= 0 for x in flow.points)
    w = [np.array([[0.5]]), np.array([[1.0]])]
    flow = dlngeo.training_flow(w, lambda x: np.ones((1, 1)), 2.0)
    assert flow.status == "complete"
    assert_allclose(flow.points[-1], 0.375 * np.sinh(np.arcsinh(0.5 / 0.375) - 4.0), rtol=1e-8)
    # Deep ones resolve λ where σ = λ^N is long below what a dense matrix holds.
    flow = dlngeo.training_flow(dlngeo.balanced_weights(np.eye(2) / 2, 8), lambda x: x - target, 300.0)
    assert (flow.status, flow.points[-1][1, 1] > 0) == ("complete", True)


def test_a_velocity_that_blows_up_fails_with_a_message():
    done = integrate(lambda t, y: y**2, np.ones(1), 2.0)  # y = 1/(1 − t)
    assert done.status == "failed"
    assert "step size" in done.message
    assert 0.99 < done.t[-1] <= 1.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": -1.0}, "must be positive"),
        ({"t": [0.0]}, "two at least"),
        ({"t": [0.0, 1.0, 1.0]}, "must increase"),
        ({"t": np.nan}, "finite"),
        ({"method": "Euler"}, "DOP853"),
        ({"rtol": 0.0}, "tolerances"),
        ({"loss_below": 1.0}, "pass cost="),
        ({"weights": np.ones((2, 3, 2, 2))}, "batch"),
        ({"weights": [np.full((2, 2), np.nan), np.eye(2)]}, "NaN"),
        ({"weights": [np.ma.masked_array(np.eye(2)), np.eye(2)]}, "masked"),
        ({"t": np.array([0, 1j])}, "real numbers"),
        ({"euclidean_gradient": lambda x: x[0]}, "shape"),
        ({"euclidean_gradient": lambda x: x * np.nan}, "NaN"),
    ],
    ids=range(13),
)
def test_bad_input_is_refused(options, message):
    arguments = {"weights": [np.eye(2), np.eye(2)], "euclidean_gradient": lambda x: x, "t": 1.0, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        dlngeo.training_flow(**arguments)


# Balancing flows.


MOMENT, L2 = [(3, 3, 3), (3, 2, 4), (4, 2, 2, 3)], [(3, 3, 3), (2, 4, 3, 2), (3, 5, 3)]


@pytest.mark.parametrize(("kind", "widths"), [*(("moment", w) for w in MOMENT), *(("l2", w) for w in L2)])
def test_balancing_keeps_the_product_and_ends_at_the_least_norm(rng, kind, widths):
    w = random_weights(rng, widths)
    w[0] += 2 * np.eye(*w[0].shape)
    x = network.end_to_end(w)
    depth, s = len(w), np.linalg.svd(x, compute_uv=False)
    s = s[: min(widths)]
    rate = 2 if kind == "l2" else 4 * s[-1] ** (2 / depth) * (1 - np.cos(np.pi / depth))
    last = 24 / rate
    flow = dlngeo.balancing_flow(w, np.linspace(0, last, 25), kind=kind)
    assert_allclose(flow.points, np.broadcast_to(x, flow.points.shape), atol=1e-9)
    assert np.all(np.diff(flow.squared_norms) < 1e-9)
    end, closed = flow.weights[-1], network.rebalance(w)
    assert flow.imbalance_norms[-1].max() < 1e-7
    assert_allclose(flow.squared_norms[-1], depth * np.sum(s ** (2 / depth)), rtol=1e-9)
    # The same orbit: the Grams that the orthogonal groups cannot change agree.
    assert_allclose(network.end_to_end(end), network.end_to_end(closed), atol=1e-9)
    for p in range(1, depth):
        head, head_closed = network.end_to_end(end[:p]), network.end_to_end(closed[:p])
        assert_allclose(head.T @ head, head_closed.T @ head_closed, atol=1e-7)


# The last two have more unknowns than are factorised: they are found by iterations.
@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 4, 3, 2), (3, 2, 4), (2, 6, 6, 2), (3, 21, 2), (2, 15, 15, 3)])
def test_the_l2_flow_shrinks_every_imbalance_by_the_same_exponential(rng, widths):
    w = random_weights(rng, widths)
    flow = dlngeo.balancing_flow(w, [0, 0.2, 0.5], kind="l2", rtol=1e-9, atol=1e-11)
    for t, layers in zip(flow.t, flow.weights, strict=True):
        for g, g0 in zip(dlngeo.imbalance(layers), dlngeo.imbalance(w), strict=True):
            assert_allclose(g, np.exp(-2 * t) * g0, atol=2e-7)


def test_the_l2_velocity_is_the_projection_of_the_weights_and_its_system_is_block_tridiagonal(rng):
    w = random_weights(rng, (2, 3, 2, 3))
    inner = [3, 2]
    units = []
    for p, d in enumerate(inner):
        for unit in np.eye(d * d).reshape(-1, d, d):
            generators = [unit if q == p else np.zeros((e, e)) for q, e in enumerate(inner)]
            units.append(np.concatenate([v.ravel() for v in balancing.vertical(generators, w)]))
    basis = np.stack(units, axis=1)
    # v is vertical: it keeps the product.
    moved = [basis @ rng.standard_normal(basis.shape[1])]
    layers = training.Layout(w).layers(moved[0])
    assert_allclose(network.differential(layers, w), 0, atol=1e-13)
    flat = np.concatenate([a.ravel() for a in w])
    projected = basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
    found = balancing.vertical(balancing._projection(w), w)
    assert_allclose(np.concatenate([a.ravel() for a in found]), -projected, atol=1e-12)
    # v*v in closed form, block by block.
    (w1, w2, w3), gram = w, basis.T @ basis
    first = np.kron(np.eye(3), w1 @ w1.T) + np.kron(w2.T @ w2, np.eye(3))
    second = np.kron(np.eye(2), w2 @ w2.T) + np.kron(w3.T @ w3, np.eye(2))
    assert_allclose(gram, np.block([[first, -np.kron(w2.T, w2.T)], [-np.kron(w2, w2), second]]), atol=1e-13)


def test_the_moment_map_flow_is_the_gradient_flow_of_the_squared_imbalance(rng):
    w = random_weights(rng, (2, 3, 4, 2))
    layout = training.Layout(w)
    velocity = np.concatenate([a.ravel() for a in balancing.vertical(network.imbalance(w), w)])
    y, direction = layout.pack(w), rng.standard_normal(velocity.size)

    def energy(h):
        return sum(np.sum(g**2) for g in network.imbalance(layout.layers(y + h * direction))) / 4

    assert_allclose(oracles.derivative(energy), -velocity @ direction, rtol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_rate_of_the_moment_map_flow_is_that_of_the_jacobi_matrix(rng, depth):
    x = oracles.dense(*oracles.factors(rng, 3, 3, [1.5, 0.9, 0.5]))
    w = network.balanced_weights(x, depth, rng=1)
    generators = [np.eye(3) + 0.2 * rng.standard_normal((3, 3)) for _ in range(depth - 1)]
    for p, t in enumerate(generators):
        w[p], w[p + 1] = t @ w[p], w[p + 1] @ np.linalg.inv(t)
    predicted = 4 * 0.5 ** (2 / depth) * (1 - np.cos(np.pi / depth))
    times = np.array([0, 13, 15]) / predicted
    norms = np.linalg.norm(dlngeo.balancing_flow(w, times, rtol=1e-13, atol=1e-16).imbalance_norms, axis=1)
    observed = -np.log(norms[2] / norms[1]) / (times[2] - times[1])
    assert_allclose(observed, predicted, rtol=3e-3)


def test_beyond_the_rank_the_moment_map_flow_decays_like_the_inverse_of_time(rng):
    w = random_weights(rng, (2, 4, 4, 2))
    flow = dlngeo.balancing_flow(w, [0, 400, 800, 1600], rtol=1e-9)
    slopes = np.diff(np.log2(np.linalg.norm(flow.imbalance_norms, axis=1)[1:]))
    assert_allclose(slopes, -1, atol=0.02)


def test_balancing_refuses_bad_input_and_resumes(rng):
    w = random_weights(rng, (2, 2, 2))
    with pytest.raises(ValueError, match="moment"):
        dlngeo.balancing_flow(w, 1.0, kind="L2")
    with pytest.raises(ValueError, match="two layers"):
        dlngeo.balancing_flow(w[:1], 1.0)
    flow = dlngeo.balancing_flow(np.stack(w), 1.0)
    assert flow.weights[0].shape == (2, 2, 2)
    whole = dlngeo.balancing_flow(w, 2.0)
    assert_allclose(flow.resume(2.0).weights[-1], np.stack(whole.weights[-1]), atol=1e-9)
    assert_allclose(flow(0.5), np.stack(whole(0.5)), atol=1e-9)


# Gradient descent.


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 5, 3)])
def test_a_step_changes_the_imbalance_by_the_squares_of_the_gradients(rng, widths):
    w, cost = setting(rng, widths, 1.0)
    eta = 0.05
    new = dlngeo.gradient_descent(w, cost.gradient, eta, 1).weights[-1]
    gradient = network.layer_gradient(cost.gradient(network.end_to_end(w)), w)
    before, after = dlngeo.imbalance(w), dlngeo.imbalance(new)
    for p, (g, h) in enumerate(zip(before, after, strict=True)):
        lower, upper = gradient[p], gradient[p + 1]
        expected = eta**2 * (upper.T @ upper - lower @ lower.T)
        assert np.abs(expected).max() > 1e-4
        assert_allclose(h - g, expected, atol=1e-13 * max(np.abs(g).max(), 1 + np.abs(expected).max()))


def test_in_a_given_time_iterates_and_imbalance_are_off_by_the_first_order_of_the_step(rng):
    w, cost = setting(rng, (3, 3, 2, 3))
    exact = dlngeo.training_flow(w, cost.gradient, [0, 0.5]).points[-1]
    errors, drifts = [], []
    for n in (200, 400, 800, 1600):
        descent = dlngeo.gradient_descent(w, cost.gradient, 0.5 / n, n, every=n, cost=cost)
        assert descent.steps.tolist() == [0, n]
        errors.append(np.linalg.norm(descent.points[-1] - exact))
        drifts.append(descent.imbalance_drift[-1].max())
    for values in (errors, drifts):
        slopes = -np.diff(np.log2(values))
        assert_allclose(slopes, 1, atol=0.12)
        assert abs(slopes[-1] - 1) < abs(slopes[0] - 1)


def test_descent_is_training_by_torch_step_by_step(rng):
    torch = pytest.importorskip("torch")
    widths = (3, 4, 2, 3)
    w = random_weights(rng, widths, 0.7)
    target = rng.standard_normal((3, 3))
    layers = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    layers.double()
    with torch.no_grad():
        for layer, matrix in zip(layers, w, strict=True):
            layer.weight.copy_(torch.from_numpy(matrix))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.02)
    descent = dlngeo.gradient_descent(w, lambda x: x - target, 0.02, 30)
    for weights in descent.weights[1:]:
        optimizer.zero_grad()
        loss = 0.5 * ((layers(torch.eye(3, dtype=torch.float64)).mT - torch.from_numpy(target)) ** 2).sum()
        loss.backward()
        optimizer.step()
        for layer, matrix in zip(layers, weights, strict=True):
            assert_allclose(layer.weight.detach().numpy(), matrix, atol=1e-13)


def test_descent_records_as_told_and_stops_where_it_diverges(rng):
    w = random_weights(rng, (2, 2, 2))
    descent = dlngeo.gradient_descent(
        np.stack(w), lambda x: x - 1, 0.01, 7, every=3, cost=lambda x: np.sum((x - 1) ** 2)
    )
    assert descent.steps.tolist() == [0, 3, 6, 7]
    assert len(descent.losses) == len(descent.gradient_norms) == len(descent.weights) == 4
    assert descent.weights[0].shape == (2, 2, 2)
    wild = dlngeo.gradient_descent(w, lambda x: x**3, 100.0, 50)
    assert wild.status == "failed"
    assert np.isfinite(wild.points).all()
    for bad in ({"step_size": 0.0}, {"step_size": np.inf}, {"n_steps": 0}, {"every": 0}):
        arguments = {"step_size": 0.1, "n_steps": 3, **bad}
        with pytest.raises(ValueError, match="must be"):
            dlngeo.gradient_descent(w, lambda x: x, **arguments)
