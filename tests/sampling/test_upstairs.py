"""Langevin dynamics upstairs against exact laws, against that downstairs, and against deterministic flows."""

from itertools import pairwise

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from networks import SQUARES, dense, extrapolated, flat, relative

from dlngeo import end_to_end, gradient_flow, imbalance
from dlngeo._linalg import haar
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.sampling import Langevin, SpectralPotential, UpstairsLangevin
from dlngeo.sampling.compiled import orthographic as _orthographic
from dlngeo.thermodynamics.free_energy import entropy_gradient, free_energy_gradient
from dlngeo.weights.balanced import BalancedFrame, dimension, inner, norm
from dlngeo.weights.geodesics import shoot_balanced
from dlngeo.weights.network import differential

# Repelled from low rank, where the bias of unadjusted steps is far from first order.
REPELLED = SpectralPotential(lambda lam: np.sum(lam**2 / 2 - 12 * np.log(lam), -1), lambda lam: lam - 12 / lam)
NONE = SpectralPotential(lambda lam: 0 * lam[:, 0], lambda lam: 0 * lam)
LAWS = [
    (3, 3, 3, 2),
    (6, 4, 2, 3),
    *(pytest.param(*law, marks=pytest.mark.thorough) for law in ((3, 3, 3, 4), (2, 2, 2, 8))),
]
NETWORKS = [((3, 3, 3), 3), ((4, 2, 2, 6), 2), ((3, 5, 4, 6), 3), ((4, 4, 4), 2), ((4, 3), 2), ((2, 3, 2, 4), 1)]
a_network = pytest.mark.parametrize(("widths", "rank"), NETWORKS, ids=str)
NOISES = {"base": ("base", 1.0), "isotropic": ("isotropic", 1.0), "anisotropic": ("isotropic", 0.5)}
a_noise = pytest.mark.parametrize(("noise", "kappa"), NOISES.values(), ids=NOISES)


def draw(rng, chains, widths, rank, degrees=None):
    """Balanced weights of Haar frames, with λ² the eigenvalues of a Wishart matrix."""
    frames = [haar(rng, (chains, d, rank)) for d in widths]
    lam = np.linalg.svd(rng.standard_normal((chains, rank, degrees or rank + 2)), compute_uv=False)
    return [(q * lam[:, None]) @ p.mT for p, q in pairwise(frames)]


@a_network
def test_noise_is_split_into_horizontal_and_vertical(rng, widths, rank):
    sampler = UpstairsLangevin(widths, SQUARES, 1.0, 0.1, rank=rank)
    weights = draw(rng, 20, widths, rank)
    state, frame = sampler.state_at(weights), BalancedFrame(weights, rank)
    noise = sampler._white(state["frames"], state["lam"], rng)
    vectors = dense(sampler, state["frames"], noise)
    horizontal, vertical = (dense(sampler, state["frames"], v) for v in sampler._split(state["lam"], noise))
    np.testing.assert_allclose(flat(horizontal), flat(frame.horizontal(vectors)), atol=1e-11)
    np.testing.assert_allclose(flat(vertical), flat(frame.vertical(vectors)), atol=1e-11)


@pytest.mark.parametrize(("widths", "rank"), [((3, 3, 3), 3), ((3, 5, 4, 6), 3), ((4, 2, 6), 2)], ids=str)
def test_steps_are_geodesics_to_second_order(rng, widths, rank):
    sampler = UpstairsLangevin(widths, SQUARES, 1.0, 0.1, rank=rank)
    weights = draw(rng, 1, widths, rank, 12)
    state, frame = sampler.state_at(weights), BalancedFrame([w[0] for w in weights], rank)
    noise = sampler._white(state["frames"], state["lam"], rng)
    vector = [v[0] for v in dense(sampler, state["frames"], noise)]

    def error(t):
        frames, lam = state["frames"].copy(), state["lam"].copy()
        _orthographic.retract(frames, lam, t * noise.cores, t * noise.sides, sampler._sizes)
        there = [w[0] for w in sampler.weights({"frames": frames, "lam": lam})]
        geodesic = shoot_balanced(frame, [t * v for v in vector])
        return float(norm([a - b for a, b in zip(there, geodesic, strict=True)]))

    assert np.log2(error(0.02) / error(0.01)) == pytest.approx(3, abs=0.15)


def test_a_step_of_the_drift_is_one_of_gradient_descent(rng):
    """Without noise, at κ = 0 and no temperature."""
    target = np.sin(np.arange(20.0)).reshape(5, 4)
    sampler = UpstairsLangevin((4, 3, 5), lambda x: x - target, 1e30, 1e-5, noise="isotropic", kappa=0)
    weights = draw(rng, 3, (4, 3, 5), 3)
    x = end_to_end(weights)
    after = sampler.step(sampler.state_at(weights), rng)
    gradient = [weights[1].mT @ (x - target), (x - target) @ weights[0].mT]
    expected = [w - 1e-5 * g for w, g in zip(weights, gradient, strict=True)]
    np.testing.assert_allclose(flat(sampler.weights(after)), flat(expected), atol=1e-8)


@pytest.mark.parametrize(("widths", "rank"), [case for case in NETWORKS if len(case[0]) > 2], ids=str)
def test_noise_along_the_orbits_moves_the_product_by_the_gradient_of_the_entropy(rng, widths, rank):
    """The mean of X after a step of vertical noise, in closed form from the curvature of the orbit."""
    depth = len(widths) - 1
    weights = [w[0] for w in draw(rng, 1, widths, rank, 8)]
    frame, x, chains = BalancedFrame(weights, rank), end_to_end(weights), 4000
    sampler = UpstairsLangevin(widths, NONE, 1.0, 1e-3, rank=rank, noise="isotropic", kappa=0)
    state = sampler.state_at([np.repeat(w[None], chains, axis=0) for w in weights])
    moved = (sampler.points(sampler.step(state, rng)) - x) / 1e-3
    lifted = frame.lift(frame_cometric(weights, entropy_gradient(x, depth, rank, widths)))
    for direction in (lifted, frame.lift(rng.standard_normal(x.shape))):
        p = differential(direction, weights)
        values = np.sum(p * moved, axis=(1, 2))
        exact = np.sum(p * frame_cometric(weights, entropy_gradient(x, depth, rank, widths)))
        error = values.std() / chains**0.5
        assert abs(values.mean() - exact) < 4 * error + 0.02 * abs(exact)
    assert inner(lifted, lifted) > 0


def frame_cometric(weights, p):
    """``Σ_p (W_N ⋯ W_{p+1}) (W_N ⋯ W_{p+1})ᵀ P (W_{p−1} ⋯ W_1)ᵀ (W_{p−1} ⋯ W_1)``."""
    total = 0
    for k in range(len(weights)):
        above, below = np.eye(weights[-1].shape[0]), np.eye(weights[0].shape[1])
        for w in weights[:k]:
            below = w @ below
        for w in weights[:k:-1]:
            above = above @ w
        total = total + above @ above.T @ p @ below.T @ below
    return total


@pytest.mark.slow
def test_without_horizontal_noise_the_product_follows_the_free_energy(rng):
    """At κ = 0, with fluctuations of order √h."""
    space = FixedRankMatrices(3, 3, 3, depth=3)
    x = np.array([[1.2, 0.3, -0.2], [0.1, 0.9, 0.4], [-0.5, 0.2, 1.1]])
    target, beta = np.diag([1.5, 1.0, 0.5]), 2.0

    def gradient(y):
        return free_energy_gradient(y - target, y, 3, beta)

    exact = gradient_flow(space, gradient, x, np.array([0.0, 1.0])).points[-1]
    assert np.linalg.norm(exact - x) > 0.2
    deviation = []
    for h in (0.02, 0.005):
        sampler = UpstairsLangevin((3,) * 4, lambda y: y - target, beta, h, noise="isotropic", kappa=0)
        end = sampler.sample(np.broadcast_to(x, (300, 3, 3)), round(1 / h), rng=rng).points[:, -1]
        assert np.linalg.norm(end.mean(axis=0) - exact) < 0.03
        deviation.append(np.mean(np.linalg.norm(end - exact, axis=(1, 2)) ** 2) ** 0.5)
    assert np.log2(deviation[0] / deviation[1]) / 2 == pytest.approx(0.5, abs=0.2)


# Laws.


def check_law(m, n, rank, depth, noise, kappa, chains, duration, h, potential=SQUARES, degrees=0):
    """Deviation of the mean of Σλ²; ``degrees`` is the power of each λ that the potential adds to the law."""
    widths = (n, *[rank] * (depth - 1), m)
    base, total = rank * (m + n - rank), dimension(widths, rank)
    # The law is e^{−βE/κ + S/κ} dvol_g, and e^S dvol_g homogeneous in λ of the dimension upstairs.
    exact = rank * degrees + (base if noise == "base" else kappa * base + (total - base))
    rng = np.random.default_rng(depth)
    start = draw(rng, chains, widths, rank, m + n - rank + degrees)
    if noise == "isotropic":
        # Of the right mean square to begin with.
        start = [w * (exact / (base + rank * degrees)) ** 0.5 for w in start]

    def run(h):
        sampler = UpstairsLangevin(widths, potential, 1.0, h, noise=noise, kappa=kappa)
        steps = int(duration * depth / 2 / h)
        burn_in = 0 if noise == "base" else steps // 3
        samples = sampler.sample(sampler.state_at(start), steps, burn_in=burn_in, thin=10, rng=rng)
        squares = np.sum(np.linalg.svd(samples.points, compute_uv=False)[..., :rank] ** (2 / depth), axis=-1)
        return relative(squares, exact)

    return extrapolated(run, h)


@a_noise
@pytest.mark.parametrize(("m", "n", "rank", "depth"), [(3, 3, 3, 2), pytest.param(4, 3, 2, 3, marks=pytest.mark.slow)])
def test_laws(m, n, rank, depth, noise, kappa):
    deviation, error = check_law(m, n, rank, depth, noise, kappa, 150, 4, 0.1)
    assert error < 0.06
    assert abs(deviation) < 3.2 * error


@pytest.mark.slow
@a_noise
@pytest.mark.parametrize(("m", "n", "rank", "depth"), LAWS)
def test_laws_to_a_per_cent(m, n, rank, depth, noise, kappa):
    deviation, error = check_law(m, n, rank, depth, noise, kappa, 2000, 4, 0.05, REPELLED, 12)
    assert error < 0.009
    assert abs(deviation) < 3.2 * error


@pytest.mark.slow
@a_noise
def test_laws_downstairs_and_upstairs_agree(noise, kappa):
    """For a potential that is not spectral, of which no exact law is known."""
    target = np.array([[1.0, 0.5, 0.0], [-0.5, 0.8, 0.3]])
    space = FixedRankMatrices(2, 3, 2, depth=3)
    assert isinstance(space.metric, DLNMetric)
    results = []
    for kind in (Langevin, UpstairsLangevin):

        def run(h, kind=kind):
            rng = np.random.default_rng(7)
            sampler = kind(space, lambda x: x - target, 2.0, h, noise=noise, kappa=kappa)
            start = np.broadcast_to(target, (1200, 2, 3))
            x = sampler.sample(start, int(6 / h), burn_in=int(2 / h), thin=5, rng=rng).points
            return relative(np.sum(target * x, axis=(2, 3)), 1.0)

        results.append(extrapolated(run, 0.04))
    (down, a), (up, b) = results
    assert np.hypot(a, b) < 0.04
    assert abs(down - up) < 3.2 * np.hypot(a, b)


def test_normalised_metrics_run_slower(rng):
    fast, slow = GeneralLinear(3, equip=False), GeneralLinear(3, equip=False)
    fast.equip_with_metric(DLNMetric, depth=4)
    slow.equip_with_metric(DLNMetric, depth=4, normalized=True)
    x = end_to_end(draw(rng, 5, (3,) * 5, 3))
    one = UpstairsLangevin(fast, SQUARES, 1.0, 0.01).sample(x, 3, rng=1)
    two = UpstairsLangevin(slow, SQUARES, 1.0, 0.04).sample(x, 3, rng=1)
    np.testing.assert_array_equal(one.points, two.points)


def test_runs_can_be_repeated_and_report(rng):
    x = end_to_end(draw(rng, 5, (3, 3, 3), 3))
    sampler = UpstairsLangevin((3, 3, 3), lambda y: y, 1.0, 1e-3, potential=lambda y: np.sum(y**2, axis=(1, 2)) / 2)
    samples = sampler.sample(x, 4, rng=1)
    np.testing.assert_array_equal(samples.points, sampler.sample(x, 4, rng=1).points)
    np.testing.assert_allclose(samples.statistics["energy"], np.sum(samples.points**2, axis=(2, 3)) / 2)
    assert samples.settings["sampler"] == "UpstairsLangevin"


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="is the anisotropy of isotropic noise"):
        UpstairsLangevin((3, 3, 3), SQUARES, 1.0, 0.1, kappa=0.5)
    with pytest.raises(TypeError, match="must be callable"):
        UpstairsLangevin((3, 3, 3), 3.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="gradient of the potential"):
        UpstairsLangevin((3, 3, 3), lambda x: x * np.nan, 1.0, 0.1).sample(np.eye(3), 1)
    with pytest.raises(ValueError, match="not finite or lost rank"):
        UpstairsLangevin((3, 3, 3), lambda x: 1e200 * x, 1.0, 0.1).sample(np.eye(3), 1)


def test_long_steps_stay_balanced(rng):
    sampler = UpstairsLangevin((2, 4, 3), NONE, 1.0, 3.0)
    samples = sampler.sample(end_to_end(draw(rng, 50, (2, 4, 3), 2)), 3, rng=rng)
    weights = sampler.weights(samples.state)
    scale = samples.state["lam"].max() ** 2
    assert max(abs(g).max() for g in imbalance(weights)) < 1e-13 * scale
