"""Weights: products, their derivatives, imbalance, balanced factors and lifts, against literal sums."""

from functools import reduce
from itertools import pairwise

import numpy as np
import oracles
import pytest

import dlngeo.weights.network as network
from dlngeo import DepthKernel
from dlngeo.matrices.frame import Frame

SHAPES = [(3, 2), (2, 4, 3), (4, 3, 5, 2), (3, 3, 3, 3, 3)]


def random_weights(rng, widths, batch=()):
    return [rng.standard_normal((*batch, d, c)) for c, d in pairwise(widths)]


def chain(matrices, size):
    """Literal product ``M_k ⋯ M_1``; the identity if there are none."""
    return reduce(lambda a, b: b @ a, matrices, np.eye(size))


@pytest.mark.parametrize("widths", SHAPES)
def test_product_gradient_and_differential_are_literal_sums(rng, widths):
    w, v = random_weights(rng, widths), random_weights(rng, widths)
    x = chain(w, widths[0])
    p = rng.standard_normal(x.shape)
    np.testing.assert_allclose(network.end_to_end(w), x, rtol=1e-13)
    below = [chain(w[:k], widths[0]) for k in range(len(w))]
    above = [chain(w[k + 1 :], widths[k + 1]) for k in range(len(w))]
    for gradient, a, b in zip(network.layer_gradient(p, w), above, below, strict=True):
        np.testing.assert_allclose(gradient, a.T @ p @ b.T, rtol=1e-12, atol=1e-13)
    velocity = sum(a @ z @ b for a, z, b in zip(above, v, below, strict=True))
    np.testing.assert_allclose(network.differential(v, w), velocity, rtol=1e-12, atol=1e-12)
    effective = sum(a @ a.T @ p @ b.T @ b for a, b in zip(above, below, strict=True))
    np.testing.assert_allclose(network.effective_cometric(p, w), effective, rtol=1e-12, atol=1e-12)
    assert network.widths(w) == widths


@pytest.mark.parametrize("widths", SHAPES)
def test_hessian_product_is_the_derivative_of_the_gradient(rng, widths):
    w, v = random_weights(rng, widths), random_weights(rng, widths)
    cost = oracles.Cost(rng, widths[-1], widths[0])

    def gradient(t):
        moved = [a + t * b for a, b in zip(w, v, strict=True)]
        layers = network.layer_gradient(cost.gradient(network.end_to_end(moved)), moved)
        return np.concatenate([g.ravel() for g in layers])

    x = network.end_to_end(w)
    got = network.layer_hessian(cost.gradient(x), cost.hessian(x, network.differential(v, w)), v, w)
    expected = oracles.derivative(gradient)
    np.testing.assert_allclose(np.concatenate([g.ravel() for g in got]), expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("widths", SHAPES[1:])
def test_imbalance_is_its_definition_and_vanishes_on_balanced_weights_only(rng, widths):
    w = random_weights(rng, widths)
    for g, (lower, upper) in zip(network.imbalance(w), pairwise(w), strict=True):
        np.testing.assert_allclose(g, upper.T @ upper - lower @ lower.T, rtol=1e-13)
        assert np.abs(g).max() > 0.1
    x = rng.standard_normal((widths[-1], widths[0]))
    assert max(np.abs(g).max() for g in network.imbalance(network.balanced_weights(x, widths, rng=rng))) < 1e-14 * 100


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(("widths", "rank"), [((4, 4, 4), None), ((3, 5, 2, 4), None), ((5, 4, 6), 2), ((3, 2), 1)])
def test_balanced_weights_factor_the_matrix_with_least_norm(rng, widths, rank, seed):
    r = min(widths) if rank is None else rank
    x = oracles.dense(*oracles.factors(rng, widths[-1], widths[0], np.geomspace(2, 0.1, r)))
    w = network.balanced_weights(x, widths, rank, rng=seed)
    assert [a.shape for a in w] == [(d, c) for c, d in pairwise(widths)]
    np.testing.assert_allclose(network.end_to_end(w), x, atol=1e-13)
    depth = len(w)
    expected = depth * np.sum(np.geomspace(2, 0.1, r) ** (2 / depth))
    np.testing.assert_allclose(sum(np.sum(a**2) for a in w), expected, rtol=1e-13)


def test_balanced_weights_take_a_depth_a_batch_and_a_seed(rng):
    x = rng.standard_normal((6, 4, 3))
    w = network.balanced_weights(x, 3, rng=1)
    assert [a.shape for a in w] == [(6, 3, 3), (6, 3, 3), (6, 4, 3)]
    np.testing.assert_allclose(network.end_to_end(w), x, atol=1e-13)
    assert all((a == b).all() for a, b in zip(w, network.balanced_weights(x, 3, rng=1), strict=True))
    # The frames of the batch are independent.
    assert not np.allclose(w[1][0] @ w[1][0].T, w[1][1] @ w[1][1].T)


@pytest.mark.parametrize(("shape", "rank"), [((3, 3), 3), ((4, 3), 2), ((2, 5), 2)])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_lift_has_the_length_of_the_vector_and_projects_to_it(rng, shape, rank, depth):
    x = oracles.dense(*oracles.factors(rng, *shape, np.geomspace(1.5, 0.2, rank)))
    w = network.balanced_weights(x, depth, rank, rng=rng)
    frame = Frame.at(x, DepthKernel(depth), rank)
    z = frame.project(rng.standard_normal(shape))
    lift = network.horizontal_lift(frame.metric(z), w)
    np.testing.assert_allclose(network.differential(lift, w), z, atol=1e-12)
    np.testing.assert_allclose(sum(np.sum(h**2) for h in lift), frame.inner(z, z), rtol=1e-12)
    p = rng.standard_normal(shape)
    np.testing.assert_allclose(frame.project(network.effective_cometric(p, w)), frame.cometric(p), atol=1e-12)


def test_stacked_weights_give_stacked_results(rng):
    stack = rng.standard_normal((2, 4, 3, 3))
    listed = [stack[:, p] for p in range(4)]
    p = rng.standard_normal((2, 3, 3))
    np.testing.assert_array_equal(network.end_to_end(stack), network.end_to_end(listed))
    for function in (network.imbalance, network.rebalance, lambda w: network.layer_gradient(p, w)):
        np.testing.assert_array_equal(function(stack), np.stack(function(listed), axis=-3))


def test_torch_weights_stay_tensors(rng):
    torch = pytest.importorskip("torch")
    w = random_weights(rng, (3, 4, 2))
    tensors = [torch.from_numpy(a) for a in w]
    assert torch.is_tensor(network.end_to_end(tensors))
    np.testing.assert_allclose(network.end_to_end(tensors).numpy(), network.end_to_end(w))
    for a, b in zip(network.rebalance(tensors), network.rebalance(w), strict=True):
        np.testing.assert_allclose(a.numpy() @ a.numpy().T, b @ b.T, atol=1e-12)


def test_rebalancing_keeps_the_product_and_balances(rng):
    w = random_weights(rng, (3, 4, 3, 5))
    even = network.rebalance(w)
    np.testing.assert_allclose(network.end_to_end(even), network.end_to_end(w), atol=1e-13)
    assert max(np.abs(g).max() for g in network.imbalance(even)) < 1e-13 * 100
    assert network.widths(even) == (3, 4, 3, 5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: network.end_to_end([]), ValueError, "no weights"),
        (lambda: network.end_to_end([np.ones((2, 3)), np.ones((2, 3))]), ValueError, "layer 1 has 2 outputs"),
        (lambda: network.end_to_end(np.ones((2, 3))), ValueError, "stacked weights"),
        (lambda: network.end_to_end([np.ones(3)]), ValueError, "weights are matrices"),
        (lambda: network.balanced_weights(np.ones((2, 3)), (2, 4, 3)), ValueError, "begin with 3"),
        (lambda: network.balanced_weights(np.ones((2, 3)), 2.5), TypeError, "integer depth"),
        (lambda: network.balanced_weights(np.ones((2, 3)), 2, rank=3), ValueError, "rank 3 exceeds"),
        (lambda: network.balanced_weights(np.full((2, 2), np.nan), 2), ValueError, "NaN"),
        (
            lambda: network.layer_gradient(np.ones(2), [np.eye(2)] * 2),
            ValueError,
            r"gradient has shape \(2,\); expected",
        ),
        (lambda: network.effective_cometric(np.ones((3, 2)), [np.ones((2, 3))]), ValueError, r"expected \(..., 2, 3\)"),
        (lambda: network.layer_hessian(np.eye(2), 0.0, [np.eye(2)], [np.eye(2)]), ValueError, r"has shape \(\); expec"),
    ],
)
def test_bad_weights_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
