"""Noise of labels and of batches against gradient steps of the layers: draw by draw, mean and covariance."""

import numpy as np
import oracles
import pytest
from exact import space_of
from geomstats.geometry.hypersphere import Hypersphere

from dlngeo import DepthKernel, balanced_weights
from dlngeo.matrices.frame import Frame
from dlngeo.sampling import LabelNoise, Langevin, MinibatchNoise, SpectralPotential

ETA, DEPTH = 0.02, 3
LABELS = LabelNoise(np.ones((1, 3, 2)), 1.0, 0.1)


@pytest.fixture
def problem(rng):
    atoms, targets = rng.standard_normal((5, 3, 2)), rng.standard_normal(5)

    def gradient(x):
        residuals = np.tensordot(x, atoms, axes=((-2, -1), (1, 2))) - targets
        return np.tensordot(residuals, atoms, axes=1) / len(atoms)

    return atoms, targets, gradient, oracles.dense(*oracles.factors(rng, 3, 2, [1.2, 0.7]))


def descend(x, covectors, eta):
    """Products of balanced layers after a step along each of the covectors."""
    weights = balanced_weights(x, DEPTH)
    total = np.eye(x.shape[1])
    for p, w in enumerate(weights):
        before, after = np.eye(x.shape[1]), np.eye(x.shape[0])
        for q in weights[:p]:
            before = q @ before
        for q in weights[:p:-1]:
            after = after @ q
        total = (w - eta * after.T @ covectors @ before.T) @ total
    return total


def noises(problem):
    atoms, targets, *_ = problem
    return [LabelNoise(atoms, 0.8, ETA), MinibatchNoise(atoms, targets, 2, ETA)]


@pytest.mark.parametrize("which", [0, 1])
def test_a_step_is_that_of_the_layers(problem, which):
    _, _, gradient, x = problem
    noise, start = noises(problem)[which], np.broadcast_to(problem[-1], (6, 3, 2))
    sampler = Langevin(space_of(DepthKernel(DEPTH), 3, 2, 2), gradient, 1.0, ETA, noise=noise)
    points = sampler.sample(start, 1, rng=3).points[:, 0]
    covectors = gradient(start) + noise.draw(start, np.random.default_rng(3))
    np.testing.assert_allclose(points, descend(x, covectors, ETA), atol=1e-12)
    assert sampler.settings()["noise"] == noise.name


@pytest.mark.parametrize("which", [0, 1])
def test_the_mean_and_the_covariance_of_descent_are_those_of_the_equation(problem, which, rng):
    atoms, targets, gradient, x = problem
    noise, draws = noises(problem)[which], 100_000
    frame = Frame(*np.linalg.svd(x, full_matrices=False), DepthKernel(DEPTH))
    force, flat = gradient(x), atoms.reshape(len(atoms), -1)
    if which == 0:
        covariance = 0.8**2 / len(atoms) ** 2 * flat.T @ flat
    else:
        residuals = np.sum(atoms * x, axis=(1, 2)) - targets
        covariance = ((flat.T * residuals**2 / len(atoms)) @ flat - np.outer(force, force)) / noise.batch_size
    u, s, _ = np.linalg.svd(covariance)
    columns = (u * s**0.5).T.reshape(-1, 3, 2)
    a = np.stack([frame.cometric(e.reshape(3, 2)).ravel() for e in np.eye(6)], axis=1)
    covectors = force + noise.draw(np.broadcast_to(x, (draws, 3, 2)), rng)
    first = covectors.reshape(draws, -1) @ a.T

    def second(eta):
        return ((descend(x, covectors, eta) - x).reshape(draws, -1) + eta * first) / eta**2

    # The mean of the second order, at no step; that of the first is −A(E′).
    order = 2 * second(0.01) - second(0.02)
    exact = -sum(frame.christoffel(z, z) for z in map(frame.cometric, [force, *columns])).ravel() / 2
    noisy = -sum(frame.christoffel(z, z) for z in map(frame.cometric, columns)).ravel() / 2
    error = order.std(axis=0) / draws**0.5
    assert (np.abs(order.mean(axis=0) - exact) < 4 * error + 0.005 * np.abs(noisy).max()).all()
    assert error.max() < 0.03 * np.abs(noisy).max()
    drift = -(a @ force.ravel())
    assert (np.abs(-first.mean(axis=0) - drift) < 4 * first.std(axis=0) / draws**0.5).all()
    moved = (descend(x, covectors, 1e-4) - x).reshape(draws, -1) / 1e-4
    np.testing.assert_allclose(np.cov(moved.T), a @ covariance @ a.T, atol=0.02 * np.abs(a @ covariance @ a.T).max())


def test_batches_of_no_residual_have_no_noise(problem, rng):
    atoms, _, _, x = problem
    noise = MinibatchNoise(atoms, np.sum(atoms * x, axis=(1, 2)), 2, ETA)
    np.testing.assert_allclose(noise.draw(x[None], rng), 0, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LabelNoise(np.ones((3, 2)), 1.0, 0.1), r"of shape \(k, m, n\)"),
        (lambda: LabelNoise(np.ones((1, 3, 2)), 0.0, 0.1), "scale must be positive"),
        (lambda: LabelNoise(np.ones((1, 3, 2)), 1.0, -1), "learning_rate must be positive"),
        (lambda: MinibatchNoise(np.ones((1, 3, 2)), [1.0, 2.0], 1, 0.1), "targets must be 1 finite"),
        (lambda: Langevin(Hypersphere(2), np.copy, 1.0, 0.1, noise=LABELS), "spectral"),
        (
            lambda: Langevin(
                space_of(DepthKernel(2), 3, 3, 3), np.copy, 1.0, 0.1, noise=LabelNoise(np.ones((1, 3, 2)), 1.0, 0.1)
            ),
            "the atoms have shape",
        ),
        (
            lambda: Langevin(
                space_of(DepthKernel(2), 3, 3, 3),
                SpectralPotential(np.sum, np.sum),
                1.0,
                0.1,
                noise=LabelNoise(np.ones((1, 3, 3)), 1.0, 0.1),
            ),
            "not a potential of λ",
        ),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
