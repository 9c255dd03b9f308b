"""The motion of the balanced weights: the solver and the integrator against their definitions."""

from itertools import pairwise

import numpy as np
import pytest
from networks import SQUARES, a_network, assert_symplectic, assert_white, balanced, cost, cost_gradient, dense, flat

from dlngeo import end_to_end, imbalance
from dlngeo._linalg import haar
from dlngeo.sampling import ConstrainedHMC
from dlngeo.sampling.compiled import orthographic as _orthographic
from dlngeo.sampling.motions import Framed
from dlngeo.sampling.weights import Vector
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.weights.balanced import BalancedFrame, dimension, inner, norm

TINY = [((2, 2, 2), 2), ((2, 2, 2, 2), 2), ((2, 3, 2), 1), ((3, 2), 1)]
a_tiny_network = pytest.mark.parametrize(("widths", "rank"), TINY, ids=str)


def compressed(sampler, frames, vectors):
    """Tangent vectors in the frames: the inverse of :func:`dense`."""
    q = [frames[:, p, :d] for p, d in enumerate(sampler.widths)]
    cores = np.stack([q[p + 1].mT @ v @ q[p] for p, v in enumerate(vectors)], axis=1)
    sides = np.zeros_like(frames)
    for p, d in enumerate(sampler.widths):
        side = vectors[0].mT @ q[1] if p == 0 else vectors[p - 1] @ q[p - 1]
        sides[:, p, :d] = side - q[p] @ (q[p].mT @ side)
    return Vector(cores, sides)


def leap(sampler, state, momentum, step):
    """Position step from a state, out of place."""
    frames, lam, moved = state["frames"].copy(), state["lam"].copy(), Vector(*(part.copy() for part in momentum))
    residuals = np.zeros(len(lam))
    _orthographic.leap(frames, lam, *moved, sampler._sizes, np.full(len(lam), step), residuals)
    return {"frames": frames, "lam": lam}, moved, residuals


@a_network
def test_momenta_are_white_noise_on_the_tangent_space(rng, widths, rank):
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank, motion="weights")
    state = sampler.state_at([np.repeat(w, 4000, axis=0) for w in balanced(rng, 1, widths, rank)])
    momentum = sampler._white(state["frames"], state["lam"], rng)
    vectors = dense(sampler, state["frames"], momentum)
    np.testing.assert_allclose(sampler._squared_norm(momentum), norm(vectors) ** 2, rtol=1e-12)
    some = [v[:5] for v in vectors]
    frame = BalancedFrame([w[:5] for w in sampler.weights(state)], rank)
    np.testing.assert_allclose(flat(frame.tangent(some)), flat(some), atol=1e-13)
    assert sampler.dim == dimension(widths, rank)
    assert_white(flat(vectors), sampler.dim)


@a_network
def test_position_steps_solve_their_equations(rng, widths, rank):
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank, motion="weights")
    weights = balanced(rng, 30, widths, rank)
    state = sampler.state_at(weights)
    momentum = sampler._white(state["frames"], state["lam"], rng)
    p, step = dense(sampler, state["frames"], momentum), 0.05
    moved, after, residuals = leap(sampler, state, momentum, step)
    there = sampler.weights(moved)
    assert residuals.max() < 1e-12
    assert max((abs(g).max() for g in imbalance(there)), default=0) < 1e-14 * 10
    force = [b - a - step * v for a, b, v in zip(weights, there, p, strict=True)]
    np.testing.assert_allclose(flat(BalancedFrame(weights, rank).tangent(force)), 0, atol=1e-11)
    velocity = [(b - a) / step for a, b in zip(weights, there, strict=True)]
    expected = flat(BalancedFrame(there, rank).tangent(velocity))
    np.testing.assert_allclose(flat(dense(sampler, moved["frames"], after)), expected, atol=1e-12)
    # And back.
    again, back, residuals = leap(sampler, moved, Vector(-after.cores, -after.sides), step)
    assert residuals.max() < 1e-12
    np.testing.assert_allclose(flat(sampler.weights(again)), flat(weights), atol=1e-10)
    np.testing.assert_allclose(-flat(dense(sampler, again["frames"], back)), flat(p), atol=1e-9)


@a_network
def test_every_step_that_counts_leads_back(rng, widths, rank):
    """Also steps so long that the equations have other solutions, or none."""
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank, motion="weights")
    state = sampler.state_at(balanced(rng, 1000, widths, rank, 0.05, 1.5))
    momentum = sampler._white(state["frames"], state["lam"], rng)
    moved, after, residuals = leap(sampler, state, momentum, 0.5)
    counts = residuals < np.inf
    assert 10 < counts.sum() < 990
    stay = {name: moved[name][~counts] for name in moved}
    for name, value in stay.items():
        np.testing.assert_array_equal(value, state[name][~counts])
    moved = {name: moved[name][counts] for name in moved}
    again, _, residuals = leap(sampler, moved, Vector(-after.cores[counts], -after.sides[counts]), 0.5)
    assert residuals.max() < 1e-12
    there, back = (flat(sampler.weights(s)) for s in (state, again))
    np.testing.assert_allclose(back, there[counts], atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_singular_value_crosses_zero_smoothly(rng, depth):
    """Straight through in one branch: the determinant of every layer changes sign, that of X at odd depth."""
    sampler = ConstrainedHMC((3,) * (depth + 1), SQUARES, None, 1.0, 0.1, 1, motion="weights")
    frames = [haar(rng, (1, 3, 3)) for _ in range(depth + 1)]
    weights = [(q * [1.3, 0.8, 0.02]) @ p.mT for p, q in pairwise(frames)]
    state = sampler.state_at(weights)
    shrink = [-(q * [0.0, 0.0, 1.0]) @ p.mT for p, q in pairwise(frames)]
    moved, _, residuals = leap(sampler, state, compressed(sampler, state["frames"], shrink), 0.1)
    assert residuals[0] < 1e-12
    for w, before in zip(sampler.weights(moved), weights, strict=True):
        assert np.linalg.det(w) / np.linalg.det(before) == pytest.approx(-4, rel=1e-9)


@a_tiny_network
def test_the_integrator_is_symplectic(rng, widths, rank):
    """Hence it preserves volume: ``Σ dW ∧ dp`` on the tangent bundle, by central differences."""
    sampler = ConstrainedHMC(widths, cost, cost_gradient, 0.7, 0.1, 2, rank=rank, motion="weights")
    weights = balanced(rng, 1, widths, rank)
    frame = BalancedFrame(weights, rank)
    p = frame.tangent([rng.standard_normal(w.shape) for w in weights])
    pairs = [[frame.tangent([rng.standard_normal(w.shape) for w in weights]) for _ in range(2)] for _ in range(4)]

    def at(direction, t):
        """A curve in the tangent bundle, and its image."""
        zero = sampler.state_at(weights)
        vector = compressed(sampler, zero["frames"], [t * v for v in direction[0]])
        assert _orthographic.retract(zero["frames"], zero["lam"], *vector, sampler._sizes)[0] < 1e-12
        here = sampler.weights(zero)
        q = BalancedFrame(here, rank).tangent([a + t * b for a, b in zip(p, direction[1], strict=True)])
        momentum = compressed(sampler, zero["frames"], q)
        position = Framed(zero["frames"], zero["lam"])
        residuals = sampler.dynamics().integrate(position, momentum, np.array([0.2]), sampler.n_leapfrog)
        assert residuals[0] < 1e-12
        there, momenta = sampler.weights(zero), dense(sampler, zero["frames"], momentum)
        return [flat(x)[0] for x in (here, q, there, momenta)]

    assert_symplectic(at, pairs)


@pytest.mark.parametrize("noise", ["base", "isotropic"])
@a_network
def test_forces_are_derivatives_of_the_potential(rng, widths, rank, noise):
    sampler = ConstrainedHMC(widths, cost, cost_gradient, 1.7, 0.1, 1, rank=rank, noise=noise, motion="weights")
    weights = balanced(rng, 5, widths, rank)
    state = sampler.state_at(weights)
    vector = sampler._white(state["frames"], state["lam"], rng)
    m, n = widths[-1], widths[0]
    spectral = SpectralEntropy(m, n, sampler.depth, rank, widths)

    def potential(t):
        frames, lam = state["frames"].copy(), state["lam"].copy()
        _orthographic.retract(frames, lam, t * vector.cores, t * vector.sides, sampler._sizes)
        x = end_to_end(sampler.weights({"frames": frames, "lam": lam}))
        direct = 1.7 * cost(x) + (spectral(lam**sampler.depth) if noise == "base" else 0)
        np.testing.assert_allclose(sampler.dynamics().potential(cost(x), lam), direct, rtol=1e-11)
        return direct

    h = 1e-5
    force = dense(sampler, state["frames"], sampler.dynamics().force(Framed(state["frames"], state["lam"])))
    slope = inner(force, dense(sampler, state["frames"], vector))
    np.testing.assert_allclose(slope, (potential(h) - potential(-h)) / (2 * h), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("motion", ["product", "weights"])
@pytest.mark.parametrize(("widths", "rank"), [((3, 3, 3), 3), ((4, 2, 3, 5), 2)], ids=str)
def test_energy_errors_are_of_third_order_locally_and_second_globally(widths, rank, motion):
    def error(step, count):
        sampler = ConstrainedHMC(widths, cost, cost_gradient, 0.7, step, count, rank=rank, motion=motion)
        state = sampler.state_at(balanced(np.random.default_rng(4), 20, widths, rank, 1.2, 1.8))
        moving = sampler.dynamics()
        position = moving.position(state["frames"], state["lam"])
        momentum = moving.momentum(position, np.random.default_rng(3))
        total = []
        for _ in range(2):
            total.append(moving.hamiltonian(sampler._energy(moving.ends(position)), position, momentum))
            if len(total) == 1:
                assert np.isfinite(moving.integrate(position, momentum, np.full(20, step), count)).all()
        return np.sqrt(np.mean((total[1] - total[0]) ** 2))

    local = np.log2(error(0.01, 1) / error(0.005, 1))
    assert local == pytest.approx(3, abs=0.15)
    overall = np.log2(error(0.02, 20) / error(0.01, 40))
    assert overall == pytest.approx(2, abs=0.15)
