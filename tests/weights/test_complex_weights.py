"""Complex weights and their balanced manifold, against their real forms, differences and Gram matrices."""

from itertools import pairwise

import numpy as np
import pytest
from complex_numbers import adjoint, cometric, gaussian, haar, matrix, real_form

from dlngeo import DepthKernel, balanced_weights, end_to_end, imbalance
from dlngeo.matrices.complex_geodesics import complex_form
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame
from dlngeo.weights.alignment import act
from dlngeo.weights.balanced import BalancedFrame, dimension, inner, norm
from dlngeo.weights.bases import horizontal_basis, normal_basis, tangent_basis, vertical_basis
from dlngeo.weights.curvature import submersed_curvature
from dlngeo.weights.network import (
    differential,
    effective_cometric,
    horizontal_lift,
    layer_gradient,
    layer_hessian,
    rebalance,
)
from dlngeo.weights.projections import nearest, retract, snap
from dlngeo.weights.unbalanced import LeafFrame

# Widths and rank: equal, and any.
CASES = [((2, 2, 2, 2), 2), ((3, 4, 2, 3), 2), ((3, 2, 3), 1), ((2, 3), 2)]


def weights_of(rng, sizes):
    return [gaussian(rng, b, a) / 2 for a, b in pairwise(sizes)]


@pytest.fixture(params=CASES, ids=str)
def case(request, rng):
    sizes, rank = request.param
    x = matrix(rng, sizes[-1], sizes[0], [1.3, 0.8][:rank])
    weights = balanced_weights(x, sizes, rank, rng=1)
    return x, weights, rank, [weights_of(rng, sizes) for _ in range(3)]


def flat(vectors):
    """Real coordinates of many vectors of weights, shape=[n, size]."""
    parts = [v.reshape(len(v), v.shape[1] * v.shape[2]) for v in vectors]
    return np.concatenate([*(p.real for p in parts), *(p.imag for p in parts)], axis=1)


def realified(weights):
    return [real_form(w) for w in weights]


def assert_same(vectors, real_vectors, atol=1e-10):
    for v, w in zip(vectors, real_vectors, strict=True):
        np.testing.assert_allclose(real_form(v), w, atol=atol)


def test_balanced_weights_have_the_product_and_no_imbalance(case):
    x, weights, *_ = case
    np.testing.assert_allclose(end_to_end(weights), x, atol=1e-12)
    for g in imbalance(weights):
        np.testing.assert_allclose(g, 0, atol=1e-12)


def test_gradients_in_the_layers_are_derivatives(rng):
    """``E = Re Tr(C* X) + Re Tr(X* D X X*)``, differentiated by differences in the real and imaginary parts."""
    sizes = (3, 2, 4, 3)
    c, d, weights, dot = gaussian(rng, 3, 3), gaussian(rng, 3, 3), weights_of(rng, sizes), weights_of(rng, sizes)

    def cost(ws):
        x = ws[2] @ ws[1] @ ws[0]
        return np.trace(adjoint(c) @ x + x @ d @ x).real

    def gradient(x):
        return c + adjoint(d @ x) + adjoint(x @ d)

    x = end_to_end(weights)
    along = lambda t: [w + t * v for w, v in zip(weights, dot, strict=True)]  # noqa: E731
    h = 1e-4
    slope = (cost(along(h)) - cost(along(-h))) / (2 * h)
    np.testing.assert_allclose(inner(layer_gradient(gradient(x), weights), dot), slope, rtol=1e-7)
    velocity = differential(dot, weights)
    np.testing.assert_allclose(velocity, (end_to_end(along(h)) - end_to_end(along(-h))) / (2 * h), atol=1e-7)
    change = adjoint(d @ velocity) + adjoint(velocity @ d)
    found = layer_hessian(gradient(x), change, dot, weights)
    ahead, behind = (layer_gradient(gradient(end_to_end(along(t))), along(t)) for t in (h, -h))
    for value, a, b in zip(found, ahead, behind, strict=True):
        np.testing.assert_allclose(value, (a - b) / (2 * h), atol=1e-6)
    moved = differential(layer_gradient(c, weights), weights)
    np.testing.assert_allclose(effective_cometric(c, weights), moved, atol=1e-12)


def test_the_effective_cometric_of_balanced_weights_is_that_of_the_matrix(rng):
    x, p = gaussian(rng, 2, 3, 3)
    weights = balanced_weights(x, 4, rng=1)
    np.testing.assert_allclose(effective_cometric(p, weights), cometric(x, p, 4), atol=1e-10)
    frame = Frame.at(x, DepthKernel(4))
    z = frame.cometric(p)
    lift = horizontal_lift(p, weights)
    np.testing.assert_allclose(norm(lift) ** 2, frame.inner(z, z), rtol=1e-11)
    for a, b in zip(lift, BalancedFrame(weights).lift(z), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_bases_are_orthonormal_and_span_all_weights(case):
    _, weights, rank, _ = case
    frame, sizes = BalancedFrame(weights, rank), [weights[0].shape[1], *(w.shape[0] for w in weights)]
    bases = [flat(basis(frame)) for basis in (horizontal_basis, vertical_basis, normal_basis)]
    assert len(bases[0]) == 2 * rank * (sizes[0] + sizes[-1] - rank)
    assert len(bases[1]) == sum(2 * d * rank - rank**2 for d in sizes[1:-1])
    assert len(bases[0]) + len(bases[1]) == dimension(sizes, rank, "complex") == len(flat(tangent_basis(frame)))
    every = np.concatenate(bases)
    assert every.shape[0] == every.shape[1] == 2 * sum(w.size for w in weights)
    np.testing.assert_allclose(every @ every.T, np.eye(len(every)), atol=1e-12)


def test_vertical_vectors_leave_the_product_and_normal_ones_the_balance(case):
    _, weights, rank, _ = case
    frame = BalancedFrame(weights, rank)

    def moved(vectors, k, h):
        return [w + h * v[k] for w, v in zip(weights, vectors, strict=True)]

    vertical, tangent = vertical_basis(frame), tangent_basis(frame)
    for k in range(vertical[0].shape[0]):
        change = differential([v[k] for v in vertical], weights)
        np.testing.assert_allclose(change, 0, atol=1e-12)
    for k in range(tangent[0].shape[0]):
        for a, b in zip(imbalance(moved(tangent, k, 1e-5)), imbalance(moved(tangent, k, -1e-5)), strict=True):
            np.testing.assert_allclose(a - b, 0, atol=1e-12)


def test_projections_are_those_of_the_bases(case):
    _, weights, rank, (y, *_) = case
    frame = BalancedFrame(weights, rank)
    coordinates = flat([v[None] for v in y])[0]
    kinds = (("horizontal", horizontal_basis), ("vertical", vertical_basis), ("normal", normal_basis))
    for name, basis in (*kinds, ("tangent", tangent_basis)):
        rows = flat(basis(frame))
        found = flat([v[None] for v in getattr(frame, name)(y)])[0]
        np.testing.assert_allclose(found, rows.T @ (rows @ coordinates), atol=1e-11)


def test_bends_twists_and_shapes_are_those_of_the_real_form(case):
    _, weights, rank, vectors = case
    frame, real = BalancedFrame(weights, rank), BalancedFrame(realified(weights), 2 * rank)
    y, z, v = (frame.tangent(w) for w in vectors)
    bend = frame.second_fundamental_form(y, z)
    assert_same(bend, real.second_fundamental_form(realified(y), realified(z)))
    normal = frame.normal(vectors[0])
    assert_same(frame.weingarten(v, normal), real.weingarten(realified(v), realified(normal)))
    np.testing.assert_allclose(inner(frame.weingarten(y, normal), z), inner(bend, normal), atol=1e-10)
    y, z = (frame.horizontal(w) for w in (y, z))
    assert_same(frame.oneill(y, z), real.oneill(realified(y), realified(z)))


def test_ways_onto_the_manifold_are_those_of_the_real_form(case):
    _, weights, rank, (y, z, _) = case
    frame, real = BalancedFrame(weights, rank), BalancedFrame(realified(weights), 2 * rank)
    z = [0.1 * v for v in frame.tangent(z)]
    assert_same(retract(frame, z), retract(real, realified(z)))
    near = [w + 0.01 * v for w, v in zip(weights, y, strict=True)]
    assert_same(snap(near, rank), snap(realified(near), 2 * rank))
    assert_same(nearest(near, rank), nearest(realified(near), 2 * rank), 1e-9)


def test_curvature_downstairs_is_that_of_gauss_and_oneill(rng):
    x = matrix(rng, 3, 2, [1.3, 0.8])
    weights, frame = balanced_weights(x, (2, 3, 4, 3), rng=1), Frame.at(x, DepthKernel(3))
    balanced, (y, z) = BalancedFrame(weights), gaussian(rng, 2, 3, 2)
    expected = submersed_curvature(balanced, balanced.lift(y), balanced.lift(z))
    np.testing.assert_allclose(Curvature(frame).sectional(y, z), expected, rtol=1e-9)


def test_stacks_batches_and_tensors(rng):
    torch = pytest.importorskip("torch")
    x = gaussian(rng, 4, 2, 2)
    stacks = np.stack(balanced_weights(x, 3, rng=1), axis=-3)
    np.testing.assert_allclose(end_to_end(stacks), x, atol=1e-12)
    np.testing.assert_allclose(imbalance(stacks), 0, atol=1e-12)
    v = gaussian(rng, 4, 3, 2, 2)
    found = BalancedFrame(torch.from_numpy(stacks)).tangent(torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(found, BalancedFrame(stacks).tangent(v), atol=1e-11)
    for k in range(4):
        np.testing.assert_allclose(BalancedFrame(stacks[k]).tangent(v[k]), found[k], atol=1e-11)
    weights = [gaussian(rng, 3, 2), gaussian(rng, 2, 3)]
    again = rebalance(weights)
    np.testing.assert_allclose(end_to_end(again), end_to_end(weights), atol=1e-12)
    tensors = [torch.from_numpy(w).requires_grad_() for w in weights]
    np.testing.assert_allclose(end_to_end(tensors).detach().numpy(), end_to_end(weights), atol=1e-12)
    # PyTorch's gradient of a real cost is the one that layer_gradient makes of E′ with dE = Re Tr(E′* dX).
    (abs(end_to_end(tensors) - 1) ** 2).sum().backward()
    expected = layer_gradient(2 * (end_to_end(weights) - 1), weights)
    for w, g in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(w.grad.numpy(), g, atol=1e-12)


def test_what_has_no_complex_form_refuses_complex_weights(rng):
    weights = balanced_weights(gaussian(rng, 2, 2), 3)
    for refusing in (lambda: LeafFrame(weights), lambda: act(np.stack([np.eye(2)] * 2), weights)):
        with pytest.raises(TypeError, match="must be real numbers, got an array of complex128"):
            refusing()


def test_one_complex_layer_makes_all_complex(rng):
    lower, middle, upper = balanced_weights(rng.standard_normal((2, 2)), 3, rng=1)
    turn = haar(rng, 2, 2)
    mixed = [lower, turn @ middle, upper @ adjoint(turn)]  # balanced, the first real
    assert BalancedFrame(mixed).field == "complex"
    assert len(tangent_basis(BalancedFrame(mixed))[0]) == dimension((2, 2, 2, 2), 2, "complex")


@pytest.mark.parametrize("call", [layer_gradient, effective_cometric, lambda p, w: BalancedFrame(w).lift(p)])
def test_real_weights_have_real_covectors(call, rng):
    weights = balanced_weights(rng.standard_normal((2, 2)), 3, rng=1)
    with pytest.raises(TypeError, match="imaginary part would be lost"):
        call(1j * np.eye(2), weights)
    with pytest.raises(TypeError, match="imaginary part would be lost"):
        BalancedFrame(weights).tangent([1j * w for w in weights])


def test_matrices_have_sides():
    for x in (np.ones(3), np.zeros((0, 2))):
        for call in (lambda x: balanced_weights(x, 2), lambda x: Frame.at(x, DepthKernel(2))):
            with pytest.raises(ValueError, match=r"shape \(..., m, n\) are expected"):
                call(x)
    with pytest.raises(ValueError, match="weights are matrices"):
        end_to_end([np.zeros((0, 2)), np.zeros((2, 0))])
    with pytest.raises(ValueError, match="stacked weights"):
        end_to_end(np.zeros((2, 0, 0)))
    with pytest.raises(ValueError, match="rank 4 exceeds"):
        dimension((3, 3), 4, "complex")
    with pytest.raises(ValueError, match="field must be"):
        dimension((3, 3), 2, "quaternion")
    with pytest.raises(ValueError, match="even sides"):
        complex_form(np.ones((3, 2)))
