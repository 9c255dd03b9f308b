"""Leaves of given imbalance: projections, curvature, regular points, against dense linear algebra."""

from itertools import pairwise

import numpy as np
import oracles
import pytest

from dlngeo.weights import unbalanced as leaves
from dlngeo.weights.balanced import BalancedFrame
from dlngeo.weights.unbalanced import LeafFrame, nearby

# Widths; layers are not square in the second and third.
CASES = {"two": (3, 3, 3), "narrow": (3, 2, 4, 3), "wide": (2, 3, 3, 2), "deep": (2, 2, 2, 2, 2, 2), "one": (3, 2)}


@pytest.fixture(params=CASES.values(), ids=CASES)
def weights(request, rng):
    return [rng.standard_normal((d, c)) for c, d in pairwise(request.param)]


def flat(vectors):
    return np.concatenate([v.ravel() for v in vectors])


def like(weights, row):
    out, start = [], 0
    for w in weights:
        out.append(row[start : start + w.size].reshape(w.shape))
        start += w.size
    return out


def equations(weights):
    """The imbalances, entries on and below the diagonal."""
    blocks = [b.T @ b - a @ a.T for a, b in pairwise(weights)]
    return np.concatenate([g[np.tril_indices(len(g))] for g in blocks]) if blocks else np.zeros(0)


def jacobian(weights):
    units = np.eye(flat(weights).size)
    shifted = [[[w + s * e for w, e in zip(weights, like(weights, u), strict=True)] for s in (1, -1)] for u in units]
    return np.stack([(equations(a) - equations(b)) / 2 for a, b in shifted], axis=1)


def tangent_projector(weights):
    j = jacobian(weights)
    return np.eye(j.shape[1]) - (np.linalg.pinv(j) @ j if j.size else 0)


def bend(weights, v):
    """Normal vector a with ``DG(a) + D²G(v, v) = 0``."""
    j = jacobian(weights)
    return -(np.linalg.pinv(j) @ (2 * equations(v)) if j.size else np.zeros(j.shape[1]))


def random_tangent(rng, weights):
    return like(weights, tangent_projector(weights) @ rng.standard_normal(flat(weights).size))


def add(a, b, factor=1.0):
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def test_projections_are_those_of_the_equations(rng, weights):
    frame, v = LeafFrame(weights), like(weights, rng.standard_normal(flat(weights).size))
    projector = tangent_projector(weights)
    np.testing.assert_allclose(flat(frame.tangent(v)), projector @ flat(v), atol=1e-12)
    np.testing.assert_allclose(flat(frame.normal(v)), flat(v) - projector @ flat(v), atol=1e-12)
    basis = frame.tangent_basis()
    rows = np.concatenate([b.reshape(len(b), -1) for b in basis], axis=1)
    np.testing.assert_allclose(rows.T @ rows, projector, atol=1e-12)
    inner = [w.shape[0] for w in weights[:-1]]
    assert len(rows) == flat(weights).size - sum(d * (d + 1) // 2 for d in inner) == round(np.trace(projector))


def test_curvature_is_that_of_the_equations(rng, weights):
    frame = LeafFrame(weights)
    v, y = random_tangent(rng, weights), random_tangent(rng, weights)
    both = flat(frame.second_fundamental_form(v, y))
    polarised = (bend(weights, add(v, y)) - bend(weights, add(v, y, -1))) / 4
    np.testing.assert_allclose(both, polarised, atol=1e-11)
    normal = frame.normal(like(weights, rng.standard_normal(both.size)))
    shaped = frame.weingarten(v, normal)
    np.testing.assert_allclose(flat(shaped) @ flat(y), both @ flat(normal), atol=1e-11)
    np.testing.assert_allclose(tangent_projector(weights) @ flat(shaped), flat(shaped), atol=1e-11)


def test_it_takes_batches_and_both_forms(rng):
    w, v = rng.standard_normal((2, 5, 4, 3, 3))
    frame = LeafFrame(w)
    many, basis = frame.tangent(v), frame.tangent_basis()
    assert basis.shape == (5, 9 + 9, 4, 3, 3)
    bent = frame.second_fundamental_form(many, many)
    for i in range(5):
        one = LeafFrame(list(w[i]))
        np.testing.assert_allclose(np.stack(one.tangent(list(v[i]))), many[i], atol=1e-13)
        np.testing.assert_allclose(LeafFrame(w[i]).second_fundamental_form(many[i], many[i]), bent[i], atol=1e-12)
        np.testing.assert_allclose(one.regularity(), frame.regularity()[i], rtol=1e-10)


def test_on_balanced_weights_it_is_the_balanced_manifold(rng):
    w = np.stack(oracles.balanced_factors(rng, *oracles.factors(rng, 3, 3, [2.0, 0.5, 1e-6]), [3, 3, 3]))
    leaf, frame = LeafFrame(w), BalancedFrame(w)
    v, y = (frame.tangent(rng.standard_normal(w.shape)) for _ in range(2))
    z = rng.standard_normal(w.shape)
    np.testing.assert_allclose(leaf.tangent(z), frame.tangent(z), atol=1e-11)
    np.testing.assert_allclose(leaf.second_fundamental_form(v, y), frame.second_fundamental_form(v, y), atol=1e-9)
    np.testing.assert_allclose(leaf.weingarten(v, frame.normal(z)), frame.weingarten(v, frame.normal(z)), atol=1e-9)


def preconditioned_spectrum(frame):
    """Eigenvalues of ``D^{-1/2} T D^{-1/2}`` in an orthonormal basis of the generators, with D the diagonal blocks."""
    sizes = frame.widths[1:-1]
    basis = []
    for p, d in enumerate(sizes):
        for i in range(d):
            for j in range(i + 1):
                s = [np.zeros((e, e)) for e in sizes]
                s[p][i, j] = s[p][j, i] = 1.0 if i == j else np.sqrt(0.5)
                basis.append(s)
    t = np.array([[flat(a) @ flat(frame.adjoint(frame.generate(b))) for b in basis] for a in basis])
    inverse = np.array([[flat(a) @ flat(frame._precondition(b)) for b in basis] for a in basis])
    np.testing.assert_allclose(t, t.T, atol=1e-12)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12)
    return np.sort(np.linalg.eigvals(inverse @ t).real)


def test_the_preconditioned_equations_have_the_stated_spectrum(rng):
    """Between 0 and 2; from ``1 − cos(π/N)`` on balanced weights, whatever their singular values; 1 for two layers."""
    for widths in list(CASES.values())[:4]:
        weights = [rng.standard_normal((d, c)) for c, d in pairwise(widths)]
        spectrum = preconditioned_spectrum(LeafFrame(weights))
        assert np.all(spectrum > 0)
        assert np.all(spectrum <= 2 + 1e-12)
        if len(widths) == 3:
            np.testing.assert_allclose(spectrum, 1, atol=1e-12)
    for depth in (2, 3, 5):
        factors = oracles.factors(rng, 3, 3, np.array([2.0, 0.5, 0.01]) ** depth)
        balanced = oracles.balanced_factors(rng, *factors, [3] * (depth - 1))
        spectrum = preconditioned_spectrum(LeafFrame(balanced))
        np.testing.assert_allclose(spectrum[[0, -1]], [1 - np.cos(np.pi / depth), 1 + np.cos(np.pi / depth)], rtol=1e-8)


def test_two_layers_take_one_iteration(rng, monkeypatch):
    frame, calls = LeafFrame(rng.standard_normal((2, 4, 4))), []
    original = frame.generate
    monkeypatch.setattr(frame, "generate", lambda s: calls.append(1) or original(s))
    frame.solve(frame.adjoint(rng.standard_normal((2, 4, 4))))
    assert len(calls) <= 2  # the second for round-off


def test_points_with_one_singular_layer_are_regular(rng):
    w = rng.standard_normal((4, 3, 3))
    w[1] = np.outer(w[1, 0], w[1, 1])
    frame = LeafFrame(w)
    assert frame.regularity() > 0.05
    v = rng.standard_normal(w.shape)
    np.testing.assert_allclose(flat(frame.tangent(v)), tangent_projector(list(w)) @ v.ravel(), atol=1e-10)


def test_points_where_the_equations_depend_are_singular(rng):
    """Two layers that are singular in one common direction; with two layers in different ones, the leaf is smooth."""
    left, right = (oracles.orthogonal(rng, 3) for _ in range(2))
    lower = left @ np.diag([1.3, 0.6, 0.0]) @ right
    upper = right @ np.diag([0.9, 0.5, 0.0]) @ left.T
    singular = np.stack([lower, upper])
    assert LeafFrame(singular).regularity() < 1e-12
    assert np.linalg.matrix_rank(jacobian(list(singular))) < 6
    with pytest.raises(ValueError, match="singular on their leaf"):
        LeafFrame(singular).tangent_basis()
    smooth = np.stack([lower, right @ np.diag([0.0, 0.5, 0.9]) @ left.T])
    assert LeafFrame(smooth).regularity() > 0.05
    assert np.linalg.matrix_rank(jacobian(list(smooth))) == 6


def test_newton_moves_to_the_leaf(rng, weights):
    target = [b.T @ b - a @ a.T for a, b in pairwise(weights)]
    scale = flat(weights) @ flat(weights)
    moved = nearby(add(weights, like(weights, rng.standard_normal(flat(weights).size)), 0.02), target)
    if target:
        assert (
            max(np.abs(b.T @ b - a @ a.T - g).max() for (a, b), g in zip(pairwise(moved), target, strict=True))
            < 1e-13 * scale
        )
    else:
        assert len(moved) == 1
    for a, b in zip(nearby(weights, target), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_newton_agrees_with_the_nearest_point_to_second_order(rng):
    """The tangent part of the move vanishes like the square of the distance."""
    w, off = rng.standard_normal((3, 3, 3)), rng.standard_normal((3, 3, 3))
    target = imbalance(w)
    sizes, errors = np.array([0.04, 0.02, 0.01]), []
    for h in sizes:
        moved = nearby(w + h * off, target)
        errors.append(np.linalg.norm(LeafFrame(moved).tangent(w + h * off - moved)))
    np.testing.assert_allclose(np.diff(np.log(errors)) / np.diff(np.log(sizes)), 2, atol=0.2)


def test_newton_converges_quadratically(rng, monkeypatch):
    w, errors = rng.standard_normal((3, 3, 3)), []
    target, original = imbalance(w), leaves.LeafFrame

    def frame(point):
        errors.append(np.abs(imbalance(point) - target).max())
        return original(point)

    monkeypatch.setattr(leaves, "LeafFrame", frame)
    nearby(w + 0.03 * rng.standard_normal(w.shape), target)
    assert len(errors) <= 4
    assert errors[1] < errors[0] ** 2
    assert errors[2] < errors[1] ** 2 * 10


def imbalance(w):
    return np.stack([b.T @ b - a @ a.T for a, b in pairwise(w)])


def test_newton_says_where_it_fails(rng):
    w = 1e-3 * rng.standard_normal((2, 2, 2))
    w[0] = w[1] = 0
    with pytest.raises(ValueError, match=r"did not converge|singular on their leaf"):
        nearby(w, np.ones((1, 2, 2)))
