"""Constrained HMC: the integrator against its definition, and the laws against exact ones; 1 % of bias fails."""

from itertools import pairwise

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from networks import SQUARES, a_network, balanced, cost, cost_gradient
from scipy.stats import beta as beta_law
from scipy.stats import kstest

from dlngeo import end_to_end, imbalance
from dlngeo._linalg import haar
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.sampling import ConstrainedHMC


@a_network
def test_inner_frames_are_drawn_anew(rng, widths, rank):
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.0, 0.1, 1, rank=rank)
    state = sampler.state_at(balanced(rng, 4000, widths, rank))
    after = sampler.step(state, rng)
    for p, d in enumerate(widths[1:-1], start=1):
        q, old = after["frames"][:, p, :d], state["frames"][:, p, :d]
        np.testing.assert_allclose(q.mT @ q, np.broadcast_to(np.eye(rank), (4000, rank, rank)), atol=1e-14)
        assert not after["frames"][:, p, d:].any()
        for others in (old, after["frames"][:, p - 1], after["frames"][:, p + 1]):
            assert abs(np.mean(q[:, 0, 0] * others[:, 0, -1])) < 4 * np.std(q[:, 0, 0] * others[:, 0, -1]) / 4000**0.5
        assert kstest(q[:, -1, -1] ** 2, beta_law(0.5, (d - 1) / 2).cdf).pvalue > 1e-4
        if rank > 1:
            assert abs(np.mean(q[:, 0, 0] * q[:, 1, 1] * q[:, 0, 1] * q[:, 1, 0]) + 1 / (d * (d - 1) * (d + 2))) < 0.006


# Laws.


def draw(rng, chains, m, n, rank, depth, degrees=None):
    """Weights at an exact draw of base noise: Haar frames, λ² the eigenvalues of a Wishart matrix."""
    frames = [haar(rng, (chains, d, rank)) for d in (n, *[rank] * (depth - 1), m)]
    lam = np.linalg.svd(rng.standard_normal((chains, rank, degrees or m + n - rank)), compute_uv=False)
    return [(q * lam[:, None]) @ p.mT for p, q in pairwise(frames)]


def z_score(values, exact):
    """Deviation of the mean over independent chains (first axis) in standard errors, and the relative error."""
    means = values.reshape(len(values), -1).mean(axis=1)
    error = means.std(ddof=1) / len(means) ** 0.5
    return (means.mean() - exact) / error, error / exact if exact else np.inf


def sharpness(lam):
    return np.sum(lam**4, axis=-1) / np.sum(lam**2, axis=-1) ** 2


def mean_sharpness(m, n, rank, depth, noise):
    """Mean and its error under the density in λ, by importance sampling from a Wishart matrix."""
    lam = np.linalg.svd(np.random.default_rng(9).standard_normal((200_000, rank, m + n - rank)), compute_uv=False)
    weight = np.ones(len(lam))
    if noise == "isotropic":  # e^S = ∏ √φ, and Σλ² is independent of the ratios of the λ
        for k in range(rank):
            for j in range(k):
                phi = sum(lam[:, k] ** (2 * p) * lam[:, j] ** (2 * (depth - 1 - p)) for p in range(depth))
                weight *= np.sqrt(phi / np.sum(lam**2, axis=1) ** (depth - 1))
    values = sharpness(lam)
    mean = np.sum(weight * values) / np.sum(weight)
    return mean, np.linalg.norm(weight * (values - mean)) / np.sum(weight)


def check_law(m, n, rank, depth, noise, motion, chains, steps, step_size, leaps, seed=0):
    """Check moments of the singular values for ``E = ½Σλ²``; return how exactly, and the samples."""
    rng = np.random.default_rng([seed, depth])
    widths = (n, *[rank] * (depth - 1), m)
    sampler = ConstrainedHMC(widths, SQUARES, None, 1.5, step_size / 1.5**0.5, leaps, noise=noise, motion=motion)
    # From the quick motion, as the other is long held up by small λ; it forgets within a few trajectories.
    start = ConstrainedHMC(widths, SQUARES, None, 1.5, 0.3, 4, noise=noise)
    start = start.sample(start.state_at(draw(rng, chains, m, n, rank, depth)), 30, rng=rng)
    # βΣλ² is χ², of the dimension of the manifold on which the density is e^{−βE} times a homogeneous one.
    degrees = rank * (m + n - rank) if noise == "base" else sampler.dim
    samples = sampler.sample(start, steps, rng=rng)
    assert samples.statistics["accept_probability"].mean() > 0.8
    total = 2 * sampler.beta * samples.statistics["energy"]
    z, error = z_score(total, degrees)
    assert abs(z) < 3
    spread, _ = z_score(total**2, degrees * (degrees + 2))
    assert abs(spread) < 3.2
    return sampler, samples, z, error


def check_ends(sampler, samples, m, n, rank, depth, noise):
    """Check ratios of singular values, and the frames, at the end."""
    exact, uncertainty = mean_sharpness(m, n, rank, depth, noise)
    values = sharpness(samples.state["lam"])
    assert abs(values.mean() - exact) < 3.2 * np.hypot(uncertainty, values.std() / len(values) ** 0.5)
    x = sampler.points(samples.state)
    for u in (np.linalg.svd(x)[0][..., :rank], np.linalg.svd(x.mT)[0][..., :rank]):
        d = u.shape[1]
        z, _ = z_score(u[:, 0, 0] ** 2, 1 / d)
        assert abs(z) < 3.2
        z, _ = z_score(u[:, 0, 0] ** 2 * u[:, 1, 1] ** 2, (d + 1) / (d * (d - 1) * (d + 2)))
        assert abs(z) < 3.2


# Steps for each law, at which the error is about 0.12 %: 1 % of bias in β is eight errors, 3 of which are allowed.
STEPS = {
    (3, 3, 3, 2, "base"): 130,
    (3, 3, 3, 2, "isotropic"): 80,
    (3, 3, 3, 4, "base"): 130,
    (3, 3, 3, 4, "isotropic"): 60,
    (2, 2, 2, 8, "base"): 260,
    (2, 2, 2, 8, "isotropic"): 70,
    (6, 4, 2, 3, "base"): 90,
    (6, 4, 2, 3, "isotropic"): 80,
}


@pytest.mark.parametrize(
    ("m", "n", "rank", "depth", "noise"),
    [law if law == (3, 3, 3, 2, "isotropic") else pytest.param(*law, marks=pytest.mark.slow) for law in STEPS],
)
def test_the_laws_are_exact_to_a_per_cent(m, n, rank, depth, noise):
    step_size, leaps = (0.7, 3) if m == n else (0.4, 4)
    law = (m, n, rank, depth, noise)
    sampler, samples, _, error = check_law(*law, "product", 1500, STEPS[law], step_size, leaps)
    assert error < 0.0015
    check_ends(sampler, samples, *law)
    if noise == "base":
        reference = np.linalg.svd(np.random.default_rng(9).standard_normal((50_000, rank, m + n - rank)))[1]
        for k in range(rank):
            assert kstest(samples.state["lam"][:, k], reference[:, k] / sampler.beta**0.5).pvalue > 1e-3


# Steps of 400 chains, and their trajectories, at which the error is about 0.2 %. At (2, 2, 2, 8), and for base noise at
# full rank, small λ hold them up for too long.
WEIGHTS = {
    (3, 3, 3, 4, "isotropic"): (140, 0.3, 9),
    (6, 4, 2, 3, "base"): (125, 0.3, 12),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "n", "rank", "depth", "noise"),
    [pytest.param(*law, marks=pytest.mark.thorough if law[0] == law[2] else ()) for law in WEIGHTS],
)
def test_the_laws_of_moving_weights_are_exact_to_a_per_cent(m, n, rank, depth, noise):
    """Which proves the entropy: here it is in no formula for isotropic noise."""
    law = (m, n, rank, depth, noise)
    steps, step_size, leaps = WEIGHTS[law]
    sampler, samples, _, error = check_law(*law, "weights", 400, steps, step_size, leaps)
    assert error < 0.0025
    check_ends(sampler, samples, *law)


@pytest.mark.parametrize("noise", [pytest.param("base", marks=pytest.mark.slow), "isotropic"])
def test_the_laws_of_moving_weights_are_exact(noise):
    _, _, _, error = check_law(3, 3, 3, 2, noise, "weights", 80, 40, 0.3, 7)
    assert error < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "rank", "noise"),
    [
        ((2, 2, 2, 2), 2, "base"),
        ((3, 2, 4), 2, "isotropic"),
        pytest.param((2, 2, 2, 2), 2, "isotropic", marks=pytest.mark.thorough),
        pytest.param((3, 2, 4), 2, "base", marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_both_motions_have_one_law(widths, rank, noise):
    """Also of frames that the energy aligns. The weights start where the product has come to."""
    means, state = [], None
    for motion, chains, steps, step, leaps in (("product", 2000, 200, 0.3, 4), ("weights", 400, 40, 0.15, 12)):
        sampler = ConstrainedHMC(widths, cost, cost_gradient, 1.0, step, leaps, rank=rank, noise=noise, motion=motion)
        start = sampler.state_at(balanced(np.random.default_rng(5), chains, widths, rank))
        start = start if state is None else {name: value[:chains] for name, value in state.items()}
        samples = sampler.sample(start, steps, burn_in=steps // 2 if state is None else 0, rng=6)
        x, energy, state = samples.points, samples.statistics["energy"], samples.state
        observed = np.stack([energy, x[..., 0, 0], x[..., 1, 0] * x[..., 0, 1], np.tanh(x[..., 1, 1])])
        means.append(observed.mean(axis=2))
    for a, b in zip(*means, strict=True):
        error = np.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5)
        assert abs(a.mean() - b.mean()) < 3.2 * error
        assert error < 0.035


def test_chains_forget_where_they_start():
    """From one diagonal matrix, of one sign of the determinant, to the law of all."""
    sampler = ConstrainedHMC((2, 2, 2), SQUARES, None, 1.0, 0.4, 4)
    samples = sampler.sample(np.broadcast_to(np.diag([6.0, 3.0]), (400, 2, 2)), 40, burn_in=20, rng=1)
    assert abs(z_score(2 * samples.statistics["energy"], 4.0)[0]) < 3.2
    x = samples.points
    assert abs(z_score(np.sign(np.linalg.det(x)), 0.0)[0]) < 3.2
    assert abs(z_score(x[..., 0, 0] ** 2 - x[..., 1, 0] ** 2, 0.0)[0]) < 3.2
    assert abs(z_score(x[..., 0, 0] * x[..., 1, 0], 0.0)[0]) < 3.2


@pytest.mark.parametrize("depth", [2, 3])
def test_potentials_of_the_frames_by_importance_sampling(rng, depth):
    """``⟨X⟩``, from both components of the invertible matrices, though all chains start in one."""
    target = np.array([[0.8, 0.5], [-0.9, 0.6]])

    def potential(x):
        s = np.linalg.svd(x, compute_uv=False)
        return np.sum(s ** (2 / depth), -1) / 2 - np.sum(target * np.tanh(x), axis=(1, 2))

    def gradient(x):
        u, s, vt = np.linalg.svd(x)
        return (u * s[:, None] ** (2 / depth - 1) / depth) @ vt - target / np.cosh(x) ** 2

    weights = draw(rng, 200_000, 2, 2, 2, depth)
    x = end_to_end(weights)
    weight = np.exp(np.sum(target * np.tanh(x), axis=(1, 2)))
    start = x[np.linalg.det(x) > 0][:300]
    sampler = ConstrainedHMC((2,) * (depth + 1), potential, gradient, 1.0, 0.4, 4)
    samples = sampler.sample(start, 30, burn_in=10, rng=rng)
    for f in (lambda y: np.tanh(y[..., 0, 0]), lambda y: np.tanh(y[..., 1, 0]), lambda y: np.sign(np.linalg.det(y))):
        exact = np.sum(weight * f(x)) / np.sum(weight)
        z, _ = z_score(f(samples.points), exact)
        assert abs(exact) > 0.06
        assert abs(z) < 3.2


def test_deep_networks_keep_their_digits(rng):
    """At depth 64 a dense X would hold none of the small λ."""
    sampler = ConstrainedHMC((3,) * 65, SQUARES, None, 1.0, 0.1, 12)
    initial = sampler.state_at(draw(rng, 16, 3, 3, 3, 64))
    samples = sampler.sample(initial, 3, rng=rng)
    assert samples.statistics["accepted"].mean() > 0.3
    assert samples.statistics["residual"].max() < 1e-12
    weights = sampler.weights(samples.state)
    assert max(abs(g).max() for g in imbalance(weights)) < 1e-13
    for w in weights:
        np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), samples.state["lam"], rtol=1e-11)


@pytest.mark.parametrize("motion", ["product", "weights"])
def test_steps_too_long_are_rejected_and_said_to_be(rng, motion):
    sampler = ConstrainedHMC((3, 3, 3), SQUARES, None, 1.0, 50.0, 3, motion=motion)
    x = end_to_end(draw(rng, 20, 3, 3, 3, 2))
    samples = sampler.sample(x, 2, rng=rng)
    moved = samples.statistics["accepted"].any(axis=1)
    assert not moved.all()
    assert samples.statistics["converged"].all() == (motion == "product")  # straight motion leads back
    mirrored = np.abs(np.linalg.svd(samples.points[:, -1], compute_uv=False) - np.linalg.svd(x, compute_uv=False))
    assert mirrored[~moved].max() < 1e-12
    assert np.all(samples.statistics["accept_probability"][~samples.statistics["converged"]] == 0)


def test_walls_are_rejected(rng):
    """An infinite potential cuts the law off."""

    def potential(x):
        energy = np.sum(x**2, axis=(1, 2)) / 2
        return np.where(x[:, 0, 0] > 0, energy, np.inf)

    sampler = ConstrainedHMC((2, 2), potential, lambda x: x, 1.0, 0.5, 3)
    samples = sampler.sample(np.broadcast_to(np.eye(2), (300, 2, 2)), 20, burn_in=10, rng=rng)
    assert samples.points[..., 0, 0].min() > 0
    assert abs(z_score(samples.points[..., 0, 0], (2 / np.pi) ** 0.5)[0]) < 3.2


def test_tuning_reaches_the_acceptance(rng):
    x = end_to_end(draw(rng, 100, 3, 3, 3, 2))
    sampler, state = ConstrainedHMC((3, 3, 3), SQUARES, None, 1.0, 0.2, 30).tuned(x, 60, acceptance=0.8, rng=rng)
    assert sampler.step_size * sampler.n_leapfrog == pytest.approx(6, rel=0.2)
    samples = sampler.sample(state, 10, rng=rng)
    assert samples.statistics["accept_probability"].mean() == pytest.approx(0.8, abs=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        sampler.tuned(x, acceptance=1.0)


def test_spaces_give_the_network():
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=4)
    assert ConstrainedHMC(space, SQUARES, None, 1.0, 0.1, 1).widths == (3,) * 5
    space = FixedRankMatrices(5, 4, 2, depth=3)
    assert ConstrainedHMC(space, SQUARES, None, 1.0, 0.1, 1).widths == (4, 2, 2, 5)
    assert ConstrainedHMC(space, SQUARES, None, 1.0, 0.1, 1, noise="isotropic").widths == (4, 4, 4, 5)


def test_runs_can_be_repeated_and_continued(rng):
    x = end_to_end(draw(rng, 5, 3, 3, 3, 2))
    sampler = ConstrainedHMC((3, 3, 3), SQUARES, None, 1.0, 0.2, 3)
    whole = sampler.sample(x, 6, rng=4)
    generator = np.random.default_rng(4)
    first = sampler.sample(x, 2, rng=generator)
    second = sampler.sample(first, 4, rng=generator)
    np.testing.assert_array_equal(whole.points[:, 2:], second.points)
    assert whole.settings["n_leapfrog"] == 3
    assert set(whole.statistics) == {"energy", "accept_probability", "accepted", "converged", "residual"}


def test_what_is_wrong_is_said(rng):
    def make(space=(3, 3, 3), potential=SQUARES, gradient=None, **options):
        return ConstrainedHMC(space, potential, gradient, 1.0, 0.1, 2, **options)

    eye, weights, undefined = np.eye(3), draw(rng, 2, 3, 3, 3, 2), {"gradient": lambda x: x * np.nan}
    nowhere = {"potential": lambda x: x[:, 0, 0] * np.nan, "gradient": cost_gradient}
    for error, match, call in (
        (TypeError, "potential_gradient is missing", lambda: make(potential=cost)),
        (TypeError, "potential must be callable", lambda: make(potential=3.0)),
        (TypeError, "space must be widths", lambda: make(space=3)),
        (ValueError, "too few", lambda: make(space=(3,))),
        (ValueError, "rank 4 exceeds", lambda: make(rank=4)),
        (ValueError, "noise must be", lambda: make(noise="white")),
        (ValueError, "jitter must be", lambda: make(jitter=1)),
        (ValueError, "no balanced weights", lambda: make(space=Hypersphere(2))),
        (ValueError, "contradicts", lambda: make(space=FixedRankMatrices(5, 4, 2, depth=3), rank=3)),
        (ValueError, "expected", lambda: make().sample(np.zeros((2, 4, 3)), 1)),
        (ValueError, "rank below 3", lambda: make().sample(np.zeros((2, 3, 3)), 1)),
        (ValueError, "the sampler has", lambda: make().state_at(draw(rng, 2, 3, 3, 3, 3))),
        (ValueError, "not balanced", lambda: make().state_at([weights[0], 2 * weights[1]])),
        (ValueError, "gradient of the potential", lambda: make(potential=cost, **undefined).sample(eye, 1)),
        (ValueError, "the potential holds", lambda: make(**nowhere).sample(eye, 1)),
    ):
        with pytest.raises(error, match=match):
            call()
