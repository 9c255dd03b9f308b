"""The report on one network, against literal sums and exact cases, and PyTorch models as weights."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

import dlngeo
from dlngeo import describe
from dlngeo.flows.report import effective_rank
from dlngeo.weights.network import effective_cometric, rebalance


def literal_eigenvalues(weights):
    x = dlngeo.end_to_end(weights)
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.linalg.eigvalsh([effective_cometric(unit, weights).ravel() for unit in units])


@pytest.mark.parametrize("widths", [(4, 4), (3, 3, 3), (6, 5, 5, 4), (6, 2, 5, 4), (4, 3, 1, 2)])
def test_eigenvalues_are_those_of_the_map_that_moves_the_product(rng, widths):
    w = [rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    rank, size = min(widths), widths[0] + widths[-1]
    for weights in (w, rebalance(w)):
        report = describe(weights)
        values = literal_eigenvalues(weights)
        assert report.exact
        assert_allclose(report.least_eigenvalue, values[len(values) - rank * (size - rank)], rtol=1e-8)
        assert_allclose(report.largest_eigenvalue, values[-1], rtol=1e-10)
        assert report.singular_values.shape == (rank,)
    assert (describe(w).imbalance > 0.1) == (len(w) > 1)
    assert describe(rebalance(w)).imbalance < 1e-12


@pytest.mark.parametrize("widths", [(40, 40, 40), (40, 38, 36)])
def test_in_large_networks_out_of_balance_they_are_bounds(rng, widths):
    w = [rng.standard_normal((b, a)) + 8 * np.eye(b, a) for a, b in pairwise(widths)]
    report = describe(w)
    values = literal_eigenvalues(w)
    assert not report.exact
    assert 0 < report.least_eigenvalue <= values[0] * (1 + 1e-9)
    assert values[-1] <= report.largest_eigenvalue * (1 + 1e-9)


def test_a_large_network_with_a_bottleneck_has_no_lower_bound_but_zero(rng):
    report = describe([rng.standard_normal((33, 40)), rng.standard_normal((36, 33))])
    assert (report.exact, report.least_eigenvalue) == (False, pytest.approx(0, abs=1e-9))


def test_the_loss_falls_at_the_rate_told_and_no_slower_than_it_promises(rng):
    w = [np.eye(3) + 0.1 * rng.standard_normal((3, 3)) for _ in range(3)]
    target = dlngeo.end_to_end(w) + 0.1 * rng.standard_normal((3, 3))

    def cost(x):
        return np.sum((x - target) ** 2) / 2

    report = describe(w, lambda x: x - target)
    flow = dlngeo.training_flow(w, lambda x: x - target, 1e-4, cost=cost)
    fall = -(flow.losses[-1] - flow.losses[0]) / 1e-4
    assert_allclose(report.loss_rate, fall, rtol=1e-2)
    assert report.rate == 2 * report.least_eigenvalue
    assert report.loss_rate >= report.rate * flow.losses[0]
    assert describe(w, convexity=0.5).rate == report.least_eigenvalue


def test_other_depths_are_those_of_balanced_weights_in_normalised_time(rng):
    x = rng.standard_normal((3, 3))
    report = describe([x], depths=[1, 2, 4, 2.5, np.inf])
    for row in report.depths[:3]:
        above = describe(dlngeo.balanced_weights(x, int(row.depth)))
        assert_allclose(row.least_eigenvalue, above.least_eigenvalue / row.depth, rtol=1e-10)
        assert_allclose(row.largest_eigenvalue, above.largest_eigenvalue / row.depth, rtol=1e-10)
        assert_allclose(row.entropy, above.entropy, rtol=1e-10)
    least = [row.least_eigenvalue for row in sorted(report.depths, key=lambda row: row.depth)]
    assert least[-1] == pytest.approx(report.singular_values[-1] ** 2)  # φ(σ, σ) at infinite depth
    for word in ("imbalance", "effective rank", "entropy", "rate", "∞"):
        assert word in str(report)


def test_offsets_and_what_their_kernel_predicts(rng):
    x = np.diag([2.0, 1.0, 0.5])
    report = describe(dlngeo.balanced_weights(x, 3, rng=rng, offsets=[0.5, 0.0, 1.0]))
    assert_allclose(report.offsets.offsets, [0.5, 0.0, 1.0], atol=1e-13)
    assert report.offset_bound < 1e-12
    assert "offsets           0.5, 0, 1, up to" in str(report)
    assert "while the least singular value is no less" in str(report)
    far = describe([rng.standard_normal((3, 3)) for _ in range(3)])
    assert (far.offset_bound, far.offsets.error > 0.1) == (np.inf, True)
    assert "is not bounded" in str(far)


def test_effective_rank_counts_equal_singular_values():
    assert effective_rank(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(np.array([1.0, 1e-9])) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.zeros(2)) == 0


def test_a_network_of_zeros_is_described():
    report = describe(np.zeros((2, 3, 3)))
    assert (report.imbalance, report.least_eigenvalue, report.rate, report.effective_rank) == (0, 0, 0, 0)
    assert "imbalance" in str(report)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([], ValueError, "there are no weights"),
        (3, TypeError, "got int; pass a list of matrices"),
        (np.eye(3), ValueError, r"layer 1 has shape \(3,\)"),
        (np.ones((2, 2, 3, 3)), ValueError, r"layer 1 has shape \(2, 3, 3\)"),
        ([np.ones((2, 3)), np.ones((2, 3))], ValueError, "layer 1 has 2 outputs and layer 2 has 3 inputs"),
        ([np.full((2, 2), np.nan)], ValueError, "layer 1"),
        ("ab", TypeError, "real numbers"),
    ],
)
def test_what_is_no_network_is_refused(weights, error, message):
    with pytest.raises(error, match=message):
        describe(weights)


def test_bad_options_are_refused():
    w = [np.eye(2)]
    with pytest.raises(ValueError, match="convexity"):
        describe(w, convexity=0)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        describe(w, depths=[0.5])
    with pytest.raises(ValueError, match="the gradient"):
        describe(w, np.ones(3))


# PyTorch.


@pytest.fixture
def nn():
    return pytest.importorskip("torch").nn


def test_a_model_is_the_list_of_its_weights(nn):
    layers = [nn.Linear(5, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)]
    model = nn.Sequential(layers[0], nn.Identity(), nn.Sequential(layers[1], layers[2])).double()
    arrays = [layer.weight.detach().numpy() for layer in layers]
    expected = describe(arrays)
    for given in (model, model.parameters(), list(model.parameters()), [layer.weight for layer in layers]):
        report = describe(given)
        assert report.widths == (5, 4, 4, 3)
        assert report.least_eigenvalue == expected.least_eigenvalue
        assert report.n_biases == (0 if given is not model and isinstance(given, list) and len(given) == 3 else 2)
    assert "biases            of 2 layers, left out" in str(describe(model))
    assert "biases" not in str(expected)
    assert describe(nn.Linear(3, 2)).widths == (3, 2)


def test_functions_of_weights_take_a_model_without_biases(nn):
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    arrays = [layer.weight.detach().numpy() for layer in model]
    product = dlngeo.end_to_end(model)
    product.square().sum().backward()  # the product is one of the parameters
    assert model[0].weight.grad.shape == (3, 4)
    assert_allclose(product.detach(), dlngeo.end_to_end(arrays))
    assert_allclose(dlngeo.imbalance(model)[0].detach(), dlngeo.imbalance(arrays)[0])
    flow = dlngeo.training_flow(model, lambda x: x - np.eye(3, 4), 1.0)
    assert_allclose(flow.points[-1], dlngeo.training_flow(arrays, lambda x: x - np.eye(3, 4), 1.0).points[-1])
    assert isinstance(flow.weights[-1], list)


def test_other_models_are_refused_with_the_remedy(nn):
    with pytest.raises(ValueError, match=r"1 of 2 layers have a bias.*bias=False"):
        dlngeo.end_to_end(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)))
    for function in (describe, dlngeo.end_to_end):
        with pytest.raises(TypeError, match=r"module 1\.0 is a ReLU.*as a list"):
            function(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())))
        with pytest.raises(ValueError, match="there are no weights"):
            function(nn.Sequential())
    with pytest.raises(TypeError, match="pass list"):
        dlngeo.end_to_end(nn.Linear(2, 2).parameters())
