"""Deep factorisation beside the nuclear norm: the page, and its facts on a smaller matrix."""

import deep_factorization as script
import numpy as np
import pytest
from cells import published

from dlngeo.flows.report import effective_rank
from dlngeo.problems import MatrixCompletion
from dlngeo.weights.network import balanced_weights, end_to_end


@pytest.fixture(scope="module")
def small():
    """A matrix of 30×30 and rank 2, with 2.6 entries for each parameter."""
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 30))
    truth *= 30 / np.linalg.norm(truth)
    rows, cols = np.unravel_index(rng.permutation(900)[:300], truth.shape)
    return truth, MatrixCompletion(rows, cols, truth[rows, cols], truth.shape)


def test_depth_3_recovers_what_the_least_nuclear_norm_does_not(small):
    truth, data = small
    least, bound = script.nuclear_norm(data, tolerance=1e-3)
    norm = np.linalg.norm(least, "nuc")
    assert bound <= norm <= 1.0011 * bound
    ends = {}
    for depth in (2, 3):
        u, s, vt = data.follow(depth, 1e-3).point
        ends[depth] = float(np.mean(((u * s) @ vt - truth) ** 2)), effective_rank(s), float(s.sum())
    assert ends[3][0] < 1e-8 < 1e-3 < min(ends[2][0], np.mean((least - truth) ** 2))
    assert ends[3][1] < ends[2][1]
    assert ends[3][2] > norm + 0.1


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_singular_values_of_layers_move_by_the_law(small, depth):
    rng = np.random.default_rng(depth)
    u, v = (np.linalg.qr(rng.standard_normal((30, 4)))[0] for _ in range(2))
    assert script.law(small[1], (u, np.array([9.0, 5.0, 3.0, 0.5]), v.T), depth) < 1e-6


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_normal_layers_have_the_size_asked_for_and_are_not_balanced(depth):
    layers = script.normal_layers(0, depth, 1e-3)
    values = np.linalg.svd(end_to_end(layers), compute_uv=False)
    assert np.sqrt(np.mean(values**2)) == pytest.approx(1e-3, rel=0.1)
    assert script.unbalanced(layers) == pytest.approx(0.5, abs=0.02)  # of Gram matrices that are independent


def test_descent_from_balanced_layers_ends_where_the_flow_passes_the_same_training_error(small):
    truth, data = small
    start = end_to_end(script.normal_layers(1, 2, 1e-2, 30))
    layers, _ = script.descend(data, balanced_weights(start, 2), step=3e-3)
    x, flow = end_to_end(layers), script.balanced(data, start, 2, script.STOP)
    shown = [np.mean((y[data.rows, data.cols] - data.values) ** 2) for y in (x, flow)]
    np.testing.assert_allclose(shown, script.STOP, rtol=0.02)
    assert np.linalg.norm(x - flow) < 0.02 * np.linalg.norm(flow - truth)
    assert script.unbalanced(layers) < 1e-4


def test_the_page_says_what_was_found():
    cells = published("literature/deep_factorization", script.TABLES)
    few, enough = (
        {m: script.of(cells, "error", entries=n, method=m, start=start) for m, start in
         ((2, "grown"), (3, "grown"), ("nuclear", ""))}
        for n in (2000, 5000)
    )  # fmt: skip
    assert script.of(cells, "law").max() < 1e-7
    assert few[3].max() < 1e-8
    assert few[2].min() > 1e-4
    assert few["nuclear"].min() > 1e-2
    assert max(v.max() for v in enough.values()) < 1e-8
    ranks = [np.median(script.of(cells, "rank", entries=2000, method=2, size=z, start="grown")) for z in script.SIZES]
    assert ranks == sorted(ranks, reverse=True)
    fewer = script.of(cells, "error", entries=script.FEWER, method="nuclear")
    assert fewer.mean() == pytest.approx(0.1, abs=0.02)
    failed, right = (script.of(cells, "error", method=4, size=1e-5, start=start)[0] for start in ("grown", "0"))
    assert right < 1e-8 < 1 < failed


def test_the_page_says_what_of_start_and_stop_makes_a_difference():
    cells = published("literature/deep_factorization", script.TABLES)
    errors = {script.key(c): c["error"] for c in cells}
    layers = [where for where in errors if where[-1] == "layers"]
    assert {(n, seed) for n, seed, *_ in layers} >= {(2000, 0), (script.FEWER, 0), (5000, 0), (script.REDRAWN, 0)}
    for *where, _ in layers:
        trained, stopped, end, full, grown = (errors[*where, start] for start in script.STARTED)
        entries, _, depth, size = where
        many, few = entries in (5000, script.REDRAWN), depth == 2 and entries in (2000, script.FEWER)
        assert trained == pytest.approx(stopped, rel=0.3 if many and size == 1e-3 else 1 / 6)
        if few:
            assert end > 0.9 * stopped
        elif depth > 2 or size == 1e-6:
            assert end < stopped / 5
        if few and size == 1e-6:
            assert 3 < full / grown < 12
    for c in cells:
        if "imbalance" in c:
            assert c["training"] <= script.STOP
            assert 0.48 < c["imbalance"][0] < 0.52
            assert c["imbalance"][1] < 0.02


@pytest.mark.slow
def test_a_flow_of_full_rank_recovers_100_by_100():
    cell = script.compute(2000, 3, 3, 1e-3, "0")
    assert cell["error"] < 1e-4
    assert cell["law"] < 1e-6
    assert script.compute(2000, 3, 2, 1e-3, "0")["error"] > 1e-2
