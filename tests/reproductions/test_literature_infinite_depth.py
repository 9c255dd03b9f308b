"""Ends of flows that are shown a diagonal: against the layers' own equation, and the page."""

import infinite_depth as script
import numpy as np
import pytest
from cells import published

from dlngeo.flows.report import effective_rank


def plain_ends(x, depth, steps, h):
    """Follow ``Ẋ = −(1/N) Σ_p (XXᵀ)^{(N−p)/N} E′ (XᵀX)^{(p−1)/N}`` for many matrices by steps of Runge and Kutta."""
    eye = np.eye(x.shape[-1])

    def power(a, q):
        values, vectors = np.linalg.eigh(a)
        return (vectors * np.maximum(values, 0)[:, None] ** q) @ vectors.mT

    def velocity(x):
        gradient, left, right = eye * (x - eye), x @ x.mT, x.mT @ x
        terms = (
            power(left, (depth - p) / depth) @ gradient @ power(right, (p - 1) / depth) for p in range(1, depth + 1)
        )
        return -sum(terms) / depth

    for _ in range(steps):
        a = velocity(x)
        b = velocity(x + h / 2 * a)
        c = velocity(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + velocity(x + h * c))
    return x


@pytest.mark.parametrize(("size", "depth", "steps"), [(2, 2, 500), (3, 3, 500)])
def test_ends_are_those_of_the_plain_equation(size, depth, steps):
    starts = 0.1 * np.random.default_rng(size).standard_normal((20, size, size))
    plain = plain_ends(starts, depth, steps, 0.05)
    done = np.max(np.abs(np.einsum("...ii->...i", plain) - 1), axis=-1) < 1e-5
    assert done.sum() > 10
    np.testing.assert_allclose(script.ends(size, depth, 0.1, 20)[done], plain[done], atol=1e-3)


def test_depth_2_from_a_small_start_ends_at_the_cosine_of_two_vectors():
    """Rows of the outer layer and columns of the inner one meet in pairs."""
    points = script.ends(2, 2, 1e-6, 60)
    np.testing.assert_allclose(points[:, 0, 1], points[:, 1, 0], atol=1e-3)
    assert np.abs(points[:, 0, 1]).max() < 1 + 1e-3
    negative = np.linalg.det(points) < 0
    np.testing.assert_allclose(np.abs(points[negative, 0, 1]), 1, atol=1e-3)
    assert np.abs(points[~negative, 0, 1]).min() < 0.5


def test_deep_flows_end_near_rank_one_where_the_volume_is_large():
    points = script.ends(2, 5, 1e-4, 60)
    ranks = np.array([effective_rank(s) for s in np.linalg.svd(points, compute_uv=False)])
    assert np.median(ranks) < 1.01
    assert np.median(script.percentile(5, points)) > 0.98


@pytest.mark.parametrize(("depth", "power"), [(1, 0), (2, 0.5), (5, 0.8), ("∞", 1.0)])
def test_the_density_has_the_power_of_the_page(depth, power):
    det = np.array([1e-6, 1e-8])
    values = script.volume(depth, 1 - det, np.ones(2))
    expected = -power * np.log(det) + (np.log(np.log(4 / det)) if depth == "∞" else 0)
    assert np.diff(values)[0] == pytest.approx(np.diff(expected)[0], abs=5e-3)  # to (σ₂/σ₁)^{2/N}


def test_the_page_says_what_was_found():
    cells = published("literature/infinite_depth", script.TABLES)
    for size in (2, 3):
        for c in script.ordered(cells, size):
            if c["depth"] == 2:
                assert c["rank 90"] > 1.9
            elif c["scale"] < 0.1:
                assert c["rank 50"] < 1.1
