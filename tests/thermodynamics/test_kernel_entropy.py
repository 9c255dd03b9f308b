"""The entropy of a kernel: against orbits of layers with offsets, the formula of depths, and differences."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
from user_kernels import Offset, Product

import dlngeo
from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.kernels import RelaxedDepthKernel, of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.entropy import SpectralEntropy, log_orthogonal_volume
from dlngeo.thermodynamics.free_energy import entropy_gradient, entropy_hessian, free_energy, free_energy_gradient
from dlngeo.thermodynamics.kernel_entropy import KernelEntropy

KERNELS = {
    "offsets": RelaxedDepthKernel([0.0, 0.7, 0.2, 1.3]),
    "conserving": RelaxedDepthKernel([0.0, 0.4, 0.0]),
    "two layers": Offset(0.3),
    "product": Product(),
    "deep": DepthKernel(3),
}
VALUES = {"apart": (2.0, 1.1, 0.3), "equal": (1.2, 1.2, 0.3), "close": (1.2, 1.2 * (1 + 1e-9), 0.3)}


@pytest.mark.parametrize("offsets", [[0.0, 1.5], [0.0, 0.7, 0.2, 1.3], [0.0, 0.0, 2.0]])
@pytest.mark.parametrize("rows", [3, 4])
def test_it_is_the_volume_of_the_orbit_by_a_gram_determinant(offsets, rows):
    rng = np.random.default_rng(0)
    kernel, s = RelaxedDepthKernel(offsets), np.array([1.4, 0.8, 0.3])
    frames = [oracles.orthogonal(rng, 3) for _ in offsets] + [oracles.factors(rng, rows, 3, s)[0]]
    shared = kernel.shared(s)
    weights = [(frames[p + 1] * np.sqrt(shared + c)) @ frames[p].T for p, c in enumerate(offsets)]
    for p, (below, above) in enumerate(pairwise(weights)):
        np.testing.assert_allclose(
            above.T @ above - below @ below.T, (offsets[p + 1] - offsets[p]) * np.eye(3), atol=1e-14
        )
    velocities = []
    for p in range(1, len(offsets)):
        for k, l in ((0, 1), (0, 2), (1, 2)):  # noqa: E741
            skew = np.zeros((3, 3))
            skew[k, l], skew[l, k] = 0.5**0.5, -(0.5**0.5)
            changes = [np.zeros_like(w) for w in weights]
            changes[p - 1], changes[p] = skew @ weights[p - 1], -weights[p] @ skew
            velocities.append(np.concatenate([change.ravel() for change in changes]))
    gram = np.array(velocities) @ np.array(velocities).T
    expected = (len(offsets) - 1) * log_orthogonal_volume(3) + np.linalg.slogdet(gram)[1] / 2
    assert dlngeo.entropy(oracles.multiply(weights), kernel=kernel) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 2.5, 3, 8, np.inf])
@pytest.mark.parametrize("shape", [(3, 3, 3), (5, 4, 3), (4, 4, 2)])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_that_of_a_depth_is_the_formula(depth, shape, values):
    m, n, rank = shape
    if np.isinf(depth) and rank < min(m, n):
        with pytest.raises(ValueError, match="infinite in directions that leave"):
            KernelEntropy(m, n, InfiniteDepthKernel(), rank)
        return
    ours, formula = KernelEntropy(m, n, of_depth(depth), rank), SpectralEntropy(m, n, depth, rank)
    s = np.array(values[:rank])
    assert ours(2 * s) - ours(s) == pytest.approx(formula(2 * s) - formula(s), abs=1e-12)
    assert ours.flat == formula.flat
    for name in ("gradient", "hessian"):
        np.testing.assert_allclose(getattr(ours, name)(s), getattr(formula, name)(s), rtol=1e-12, atol=1e-13)
    off = ~np.eye(rank, dtype=bool)
    for one, other in zip(ours.quotients(s), formula.quotients(s), strict=True):
        np.testing.assert_allclose(one[off], other[off], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "values",
    [pytest.param(v, marks=() if name == "close" else pytest.mark.slow, id=name) for name, v in VALUES.items()],
)
@pytest.mark.parametrize("shape", [(3, 3), pytest.param((5, 4), marks=pytest.mark.slow)])
def test_derivatives_are_differences(name, values, shape):
    rng = np.random.default_rng(0)
    kernel, (u, s, vt) = KERNELS[name], oracles.factors(rng, *shape, np.array(values))
    x, rank = oracles.dense(u, s, vt), {"rank": 3, "kernel": kernel}
    if name == "offsets" and shape == (5, 4):
        with pytest.raises(ValueError, match="leaves the 4×4 matrices of rank 3"):
            dlngeo.entropy(x, **rank)
        return
    z = oracles.tangent(rng, u, vt)
    z *= 0.3 / np.linalg.norm(z)
    curve = oracles.curve(u, s, vt, z)

    def along(steps):
        return dlngeo.entropy(np.stack([curve(h) for h in np.atleast_1d(steps)]), **rank)

    slope = np.sum(entropy_gradient(x, **rank) * z)
    assert np.ravel(oracles.derivative(lambda h: along(h)[0]))[0] == pytest.approx(slope, rel=1e-9)
    found = entropy_hessian(z, x, **rank)
    exact = oracles.derivative(lambda h: entropy_gradient(curve(h), **rank))
    np.testing.assert_allclose(oracles.project(u, vt, found), oracles.project(u, vt, exact), atol=1e-8)


def test_zero_is_regular_where_one_offset_is_least():
    s = np.array([1.1, 0.4, 0.0])
    regular, singular = RelaxedDepthKernel([0.0, 1.0, 2.0]), RelaxedDepthKernel([0.0, 0.0, 2.0])
    assert KernelEntropy(3, 3, regular).gradient(s)[-1] == 0
    with pytest.raises(ValueError, match="singular matrix"):
        KernelEntropy(3, 3, singular).gradient(s)
    assert KernelEntropy(3, 3, singular)(np.array([1.0, 0.0, 0.0])) == -np.inf


def test_free_energy_of_a_kernel():
    x, kernel = np.diag([1.3, 0.6]), KERNELS["offsets"]
    target = np.array([[0.5, 0.1], [0.0, 0.2]])
    value = free_energy(lambda y: np.sum((y - target) ** 2) / 2, x, None, 4.0, kernel=kernel)
    assert value == pytest.approx(np.sum((x - target) ** 2) / 2 - dlngeo.entropy(x, kernel=kernel) / 4)
    slope = free_energy_gradient(lambda y: y - target, x, None, 4.0, kernel=kernel)
    np.testing.assert_allclose(slope, x - target - entropy_gradient(x, kernel=kernel) / 4, rtol=1e-14)


def test_noise_along_the_leaf_moves_the_product_by_the_gradient_of_the_entropy():
    """Itô's correction ``½ Σ D²(W ↦ X)`` over an orthonormal basis of its tangent space is ``½ grad S``."""
    rng = np.random.default_rng(0)
    kernel, offsets, s = KERNELS["offsets"], [0.0, 0.7, 0.2, 1.3], np.array([1.4, 0.8, 0.3])
    frames = [oracles.orthogonal(rng, 3) for _ in range(5)]
    weights = [(frames[p + 1] * np.sqrt(kernel.shared(s) + c)) @ frames[p].T for p, c in enumerate(offsets)]
    velocities = []
    for p in range(1, 4):
        for k, l in ((0, 1), (0, 2), (1, 2)):  # noqa: E741
            skew = np.zeros((3, 3))
            skew[k, l], skew[l, k] = 0.5**0.5, -(0.5**0.5)
            changes = [np.zeros((3, 3)) for _ in weights]
            changes[p - 1], changes[p] = skew @ weights[p - 1], -weights[p] @ skew
            velocities.append(np.concatenate([change.ravel() for change in changes]))
    basis = np.linalg.qr(np.array(velocities).T)[0].T  # an orthonormal one of the tangent space of the leaf
    drift = np.zeros((3, 3))
    for vector in basis:
        layers = vector.reshape(4, 3, 3)
        drift += second_order(weights, layers)
    x = oracles.multiply(weights)
    frame = Frame.at(x, kernel, 3)
    np.testing.assert_allclose(drift, frame.cometric(entropy_gradient(x, kernel=kernel)) / 2, atol=1e-12)


def second_order(weights, layers):
    """Half the second derivative of the product along a direction of the layers, as a coefficient of a polynomial."""
    nodes = np.arange(5) - 2.0
    products = [oracles.multiply([w + t * v for w, v in zip(weights, layers, strict=True)]).ravel() for t in nodes]
    return np.linalg.solve(np.vander(nodes, increasing=True), np.array(products))[2].reshape(3, 3)


def test_a_depth_or_a_kernel():
    for arguments in ({}, {"depth": 3, "kernel": DepthKernel(3)}, {"kernel": DepthKernel(2), "widths": (2, 2, 2)}):
        with pytest.raises(TypeError, match="either a depth, with widths or without, or a kernel"):
            dlngeo.entropy(np.eye(2), **arguments)
    with pytest.raises(TypeError, match=r"kernel must be a dlngeo\.Kernel"):
        dlngeo.entropy(np.eye(2), kernel=3)


def test_torch_differentiates_twice():
    torch = pytest.importorskip("torch")
    kernel = KERNELS["offsets"]
    x = torch.tensor(np.diag([1.2, 1.2, 0.4]) + 0.0, dtype=torch.float64, requires_grad=True)
    z = torch.tensor(np.random.default_rng(0).standard_normal((3, 3)))
    (slope,) = torch.autograd.grad(dlngeo.entropy(x, kernel=kernel), x, create_graph=True)
    np.testing.assert_allclose(
        slope.detach(), entropy_gradient(x.detach().numpy(), kernel=kernel), rtol=1e-13, atol=1e-14
    )
    (bend,) = torch.autograd.grad(torch.sum(slope * z), x)
    np.testing.assert_allclose(bend, entropy_hessian(z.numpy(), x.detach().numpy(), kernel=kernel), atol=1e-12)
