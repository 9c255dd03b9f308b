"""The motion of the product: the position step and the integrator against their definitions."""

import numpy as np
import pytest
from networks import SQUARES, a_network, assert_symplectic, assert_white, cost, cost_gradient

from dlngeo._linalg import haar
from dlngeo.sampling import ConstrainedHMC, SpectralPotential
from dlngeo.sampling.movers import Point, Tangent, leap
from dlngeo.thermodynamics.entropy import SpectralEntropy

TINY = [((2, 2, 2), 2), ((2, 2, 2, 2), 2), ((2, 3, 2), 1), ((3, 2), 1)]
TINY += [((3, 2, 2, 4), 2), ((3, 2, 2), 2), ((2, 2, 3), 2)]
a_tiny_network = pytest.mark.parametrize(("widths", "rank"), TINY, ids=str)


def scattered(rng, chains, widths, rank, low=0.7, high=1.8):
    """Matrices ``Y = U Λ Vᵀ``."""
    lam = np.sort(rng.uniform(low, high, (chains, rank)))[:, ::-1]
    return Point(haar(rng, (chains, widths[-1], rank)), lam.copy(), haar(rng, (chains, widths[0], rank)))


def matrix(point, depth=1):
    return (point.u * point.lam[:, None] ** depth) @ point.v.mT


def dense(point, vector):
    """Tangent vectors as matrices."""
    out = point.u @ vector.core @ point.v.mT
    if vector.left.size:
        out = out + vector.left @ point.v.mT
    return out + point.u @ vector.right.mT if vector.right.size else out


def projected(point, z):
    """Tangent part of matrices: what of them is not outside both frames."""
    left, right = (np.eye(q.shape[1]) - q @ q.mT for q in (point.u, point.v))
    return z - left @ z @ right


def compressed(point, z):
    """Tangent vectors in the frames: the inverse of :func:`dense`."""
    u, _, v = point
    core = u.mT @ z @ v
    none = np.zeros((len(u), 0, u.shape[2]))
    left = z @ v - u @ core if u.shape[1] > u.shape[2] else none
    return Tangent(core, left, z.mT @ u - v @ core.mT if v.shape[1] > v.shape[2] else none)


def moved(point, momentum, step):
    """Position step, out of place."""
    there, after = Point(*(part.copy() for part in point)), Tangent(*(part.copy() for part in momentum))
    residuals = np.zeros(len(point.lam))
    leap(there, after, np.full(len(residuals), step), residuals)
    return there, after, residuals


def flat(z):
    return z.reshape(len(z), -1)


@a_network
def test_momenta_are_white_noise_on_the_tangent_space(rng, widths, rank):
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank)
    point = Point(*(np.repeat(part, 4000, axis=0) for part in scattered(rng, 1, widths, rank)))
    momentum = sampler.dynamics().momentum(point, rng)
    z = dense(point, momentum)
    kinetic = sampler.dynamics().hamiltonian(np.zeros(4000), point, momentum)
    np.testing.assert_allclose(2 * kinetic, np.sum(z**2, axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(projected(point, z), z, atol=1e-13)
    assert_white(flat(z), rank * (widths[0] + widths[-1] - rank))


@a_network
@pytest.mark.parametrize("step", [0.05, 0.5])
def test_position_steps_solve_their_equations_and_lead_back(rng, widths, rank, step):
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank)
    point = scattered(rng, 30, widths, rank)
    momentum = sampler.dynamics().momentum(point, rng)
    there, after, residuals = moved(point, momentum, step)
    assert residuals.max() < 1e-9
    for q in (there.u, there.v):
        np.testing.assert_allclose(q.mT @ q, np.broadcast_to(np.eye(rank), (30, rank, rank)), atol=1e-14)
    assert np.all(np.diff(there.lam) < 0)
    assert np.all(there.lam > 0)
    way = matrix(there) - matrix(point)
    scale = 1 + abs(way).max()
    np.testing.assert_allclose(projected(point, way), step * dense(point, momentum), atol=1e-13 * scale)
    np.testing.assert_allclose(dense(there, after), projected(there, way) / step, atol=1e-13 * scale / step)
    again, back, _ = moved(there, Tangent(*(-part for part in after)), step)
    np.testing.assert_allclose(matrix(again), matrix(point), atol=1e-9)
    np.testing.assert_allclose(dense(again, back), -dense(point, momentum), atol=1e-7)


def test_motion_in_full_rank_is_straight(rng):
    """Also where a singular value passes zero."""
    for widths in [(3, 3), (3, 4), (4, 3)]:
        sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1)
        point = scattered(rng, 100, widths, 3, 0.01, 0.5)
        momentum = sampler.dynamics().momentum(point, rng)
        there, after, _ = moved(point, momentum, 0.4)
        np.testing.assert_allclose(matrix(there), matrix(point) + 0.4 * dense(point, momentum), atol=1e-13)
        np.testing.assert_allclose(dense(there, after), dense(point, momentum), atol=1e-13)
        if widths == (3, 3):
            assert 20 < np.sum(np.linalg.det(matrix(there)) * np.linalg.det(matrix(point)) < 0) < 80


def test_steps_that_lose_their_way_do_not_count(rng):
    """Through the tip of the cone, or so near that round-off does not lead back."""
    sampler = ConstrainedHMC((4, 2, 5), SQUARES, None, 1.0, 0.1, 1)
    point = scattered(rng, 3, (4, 2, 5), 2)
    momentum = sampler.dynamics().momentum(point, rng)
    momentum.core[:2] = -point.lam[:2, :, None] * np.eye(2) / 0.1
    momentum.core[1, 1, 1] += 1e-10
    there, after, residuals = moved(point, momentum, 0.1)
    np.testing.assert_array_equal(residuals < np.inf, [False, False, True])
    for new, old in zip((*there, *after), (*point, *momentum), strict=True):
        np.testing.assert_array_equal(new[:2], old[:2])
        assert np.all(new[2] != old[2])


@a_tiny_network
def test_the_integrator_is_symplectic(rng, widths, rank):
    """Hence it preserves volume: ``Σ dY ∧ dp`` on the tangent bundle, by central differences."""
    sampler = ConstrainedHMC(widths, cost, cost_gradient, 0.7, 0.1, 2, rank=rank, noise="isotropic")
    zero = scattered(rng, 1, widths, rank)
    shape = (1, widths[-1], widths[0])
    p = projected(zero, rng.standard_normal(shape))
    pairs = [[projected(zero, rng.standard_normal(shape)) for _ in range(2)] for _ in range(4)]

    def at(direction, t):
        """A curve in the tangent bundle, and its image."""
        point, _, _ = moved(zero, compressed(zero, direction[0]), t)
        here, q = matrix(point), projected(point, p + t * direction[1])
        momentum = compressed(point, q)
        assert sampler.dynamics().integrate(point, momentum, np.array([0.2]), 2)[0] < 1e-9
        return [flat(z)[0] for z in (here, q, matrix(point), dense(point, momentum))]

    assert_symplectic(at, pairs)


@pytest.mark.parametrize("noise", ["base", "isotropic"])
@a_network
def test_forces_are_derivatives_of_the_potential(rng, widths, rank, noise):
    sampler = ConstrainedHMC(widths, cost, cost_gradient, 1.7, 0.1, 1, rank=rank, noise=noise)
    point = scattered(rng, 5, widths, rank)
    point.lam[0] = 1.1  # coincident
    vector = sampler.dynamics().momentum(point, rng)
    spectral = SpectralEntropy(widths[-1], widths[0], sampler.depth, rank, widths)

    def potential(t):
        there, _, _ = moved(point, vector, t)
        x = matrix(there, sampler.depth)
        direct = 1.7 * cost(x) - (spectral(there.lam**sampler.depth) if noise == "isotropic" else 0)
        np.testing.assert_allclose(sampler.dynamics().potential(cost(x), there.lam), direct, rtol=1e-11)
        return direct

    h = 1e-5
    slope = sum(np.sum(f * v, axis=(1, 2)) for f, v in zip(sampler.dynamics().force(point), vector, strict=True))
    np.testing.assert_allclose(slope, (potential(h) - potential(-h)) / (2 * h), rtol=1e-7, atol=1e-7)


def test_forces_of_spectral_potentials_are_those_of_the_same_matrix_functions(rng):
    frobenius = SpectralPotential(lambda lam: np.sum(lam**6, -1) / 2, lambda lam: 3 * lam**5)
    one = ConstrainedHMC((4, 3, 3, 5), frobenius, None, 1.7, 0.1, 1, rank=2)
    two = ConstrainedHMC((4, 3, 3, 5), lambda x: np.sum(x**2, (1, 2)) / 2, lambda x: x, 1.7, 0.1, 1, rank=2)
    point = scattered(rng, 5, (4, 3, 3, 5), 2)
    for a, b in zip(*(s.dynamics().force(point) for s in (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
