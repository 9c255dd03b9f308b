"""Equilibria of the free energy against their equations, and relaxation against the flow on matrices."""

import math

import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp

from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.equilibria import equal_equilibria, minimisers, relaxation, relaxation_rates
from dlngeo.thermodynamics.free_energy import entropy_gradient, entropy_hessian, free_energy_gradient

# d, depth, β
SQUARE = [(2, 2, 1.0), (3, 3, 2.0), (4, 8, 0.5), (3, math.inf, 2.0), (3, 1.5, 0.7), (5, 2, 10.0)]


def schatten(q):
    """``e = Σ σ_k^q/q`` with its derivatives."""
    return lambda s: np.sum(s**q) / q, lambda s: s ** (q - 1), lambda s: np.diag((q - 1) * s ** (q - 2))


def double_well(s):
    """``e = Σ f(σ_k)``, ``f′ = 8(s − 1)(s − 2)(s − 3)``, of least energy at 1 and 3."""
    return np.sum(2 * s**4 - 16 * s**3 + 44 * s**2 - 48 * s)


def double_well_derivative(s):
    return 8 * (s - 1) * (s - 2) * (s - 3)


def breathing(f2, s, entropy, beta, c):
    """Rate of the common value of equal singular values, by the formula of the module."""
    n, r = entropy.depth, entropy.rank
    speed = s**2 if math.isinf(n) else n * s ** (2 - 2 / n)
    rate = speed * (f2 + c / s**2)
    return rate, rate - speed * r * (1 - n**-2.0) / (6 * beta * s**2)


def skew_basis(d):
    units = np.eye(d)
    return [np.outer(units[i], units[k]) - np.outer(units[k], units[i]) for i in range(d) for k in range(i)]


@pytest.mark.parametrize(("d", "depth", "beta"), SQUARE)
def test_minimisers_of_the_quadratic_energy(d, depth, beta):
    """Theorem of Chen, Kotwal and Menon: ``s*² = (d − 1)(N − 1)/(2Nβ)``, and no others."""
    entropy = SpectralEntropy(d, d, depth)
    energy, slope, bend = schatten(2)
    expected = math.sqrt((d - 1) * (1 - 1 / depth) / (2 * beta))
    (found,) = minimisers(energy, slope, entropy, beta, n_starts=6, rng=1)
    np.testing.assert_allclose(found.s, expected, rtol=1e-12)
    assert found.residual < 1e-12
    assert found.dimension == d * (d - 1) // 2
    assert found.free_energy == pytest.approx(energy(found.s) - entropy(found.s) / beta, rel=1e-14)
    np.testing.assert_allclose(equal_equilibria(slope, entropy, beta), [expected], rtol=1e-14)
    rates = relaxation_rates(bend(found.s), entropy, beta, found.s)
    all_equal, differences = breathing(1.0, expected, entropy, beta, expected**2)
    np.testing.assert_allclose(rates, [*[differences] * (d - 1), all_equal], rtol=1e-11)
    assert rates[0] > 0


@pytest.mark.parametrize("at", [{"rank": 2}, {"widths": (4, 5, 2, 6, 3)}], ids=["rank", "widths"])
def test_equilibria_below_full_rank_and_for_general_widths(at, rng):
    entropy, beta = SpectralEntropy(3, 4, 4, **at), 1.7
    excess = 3 * 1 / 4 if "rank" in at else (3 + 0 + 4) / 4
    c = (3 / 8 + excess) / beta
    (found,) = minimisers(*schatten(2)[:2], entropy, beta, n_starts=4, rng=2)
    np.testing.assert_allclose(found.s, math.sqrt(c), rtol=1e-12)
    u, s, vt = oracles.factors(rng, 3, 4, found.s)
    turned = [a @ oracles.dense(u, s, vt) for a in skew_basis(3)] + [oracles.dense(u, s, vt) @ b for b in skew_basis(4)]
    assert found.dimension == np.linalg.matrix_rank(np.reshape(turned, (-1, 12)))
    gradient = free_energy_gradient(lambda x: x, oracles.dense(u, s, vt), 4, beta, **at)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    rates = relaxation_rates(np.eye(2), entropy, beta, found.s)
    np.testing.assert_allclose(rates, breathing(1.0, found.s[0], entropy, beta, c)[::-1], rtol=1e-12)


def test_all_minimisers_of_a_double_well():
    entropy, beta = SpectralEntropy(3, 3, 3), 20.0
    found = minimisers(double_well, double_well_derivative, entropy, beta, scale=2.0, n_starts=30, rng=0)
    wells = sorted(tuple(np.round(one.s).astype(int)) for one in found)
    assert wells == [(1, 1, 1), (3, 1, 1), (3, 3, 1), (3, 3, 3)]
    assert [one.free_energy for one in found] == sorted(one.free_energy for one in found)
    for one in found:
        force = double_well_derivative(one.s) - entropy.gradient(one.s) / beta
        np.testing.assert_allclose(force, 0, atol=1e-11)
        bend = np.diag(8 * (3 * one.s**2 - 12 * one.s + 11))
        assert np.all(relaxation_rates(bend, entropy, beta, one.s) > 0)
    # Rotations of either side, but for those that the singular values do not see.
    assert {one.dimension for one in found if np.ptp(one.s) < 1} == {3}
    assert {one.dimension for one in found if np.ptp(one.s) > 1} == {5}
    low, middle, high = equal_equilibria(double_well_derivative, entropy, beta)
    np.testing.assert_allclose([low] * 3, next(one.s for one in found if one.s[0] < 2), rtol=1e-12)
    np.testing.assert_allclose([high] * 3, next(one.s for one in found if one.s[-1] > 2), rtol=1e-12)
    assert 1.9 < middle < 2.1


@pytest.mark.parametrize(("d", "depth"), [(2, 3), (3, 2), (3, 8), (4, math.inf)])
def test_equal_singular_values_lose_stability_at_a_schatten_exponent(d, depth):
    """``q = d(1 + 1/N)/(3(d − 1))``, where the common value is as stable as ever."""
    entropy, beta, threshold = SpectralEntropy(d, d, depth), 1.3, d * (1 + 1 / depth) / (3 * (d - 1))
    for q, sign in ((threshold - 0.01, -1), (threshold, 0), (threshold + 0.01, 1)):
        _, slope, bend = schatten(q)
        (s,) = equal_equilibria(slope, entropy, beta)
        rates = relaxation_rates(bend(np.full(d, s)), entropy, beta, np.full(d, s))
        assert rates[-1] > 0
        assert np.all(np.sign(np.round(rates / rates[-1], 10)) == [*[sign] * (d - 1), 1])


def test_unequal_minimisers_below_that_exponent():
    entropy = SpectralEntropy(3, 3, 8)
    for q, equal in ((0.55, False), (0.6, True)):
        energy, slope, bend = schatten(q)
        (found,) = minimisers(energy, slope, entropy, 1.0, n_starts=8, rng=3)
        assert (found.s[0] / found.s[-1] < 1 + 1e-9) == equal
        assert np.all(relaxation_rates(bend(found.s), entropy, 1.0, found.s) > 0)


def test_minima_at_singular_matrices_and_unbounded_energies_are_refused():
    entropy = SpectralEntropy(3, 3, 2)
    with pytest.raises(ValueError, match="none of 5 descents converged"):
        minimisers(*schatten(0.6)[:2], entropy, 1.0, n_starts=5, rng=0)
    with pytest.raises(ValueError, match="none of 3 descents converged"):
        minimisers(lambda s: -np.sum(s), lambda s: -np.ones(3), entropy, 1.0, n_starts=3, rng=0)


# Relaxation.


def test_relaxation_of_equal_singular_values_in_closed_form():
    """At N = 2 and ``E = ½‖X‖²``, ``ṡ = −2(s² − s*²)``: a hyperbolic tangent."""
    d, beta, t = 4, 0.8, np.linspace(0, 2, 9)
    limit = math.sqrt((d - 1) / (4 * beta))
    s = relaxation(lambda s: s, SpectralEntropy(d, d, 2), beta, np.full(d, 0.2), t)
    expected = limit * np.tanh(2 * limit * t + np.arctanh(0.2 / limit))
    np.testing.assert_allclose(s, np.tile(expected, (d, 1)).T, rtol=1e-8)


@pytest.mark.parametrize(("d", "depth", "beta"), SQUARE)
def test_relaxation_solves_the_equation_of_one_variable(d, depth, beta):
    """``d s^{2/N}/dt = −2(s f′ − c)``, and ``d log s/dt = −(s f′ − c)`` at infinite depth."""
    c, t, finite = (d - 1) * (1 - 1 / depth) / (2 * beta), np.linspace(0, 1.5, 6), math.isfinite(depth)

    def rate(_, y):
        s = y ** (depth / 2) if finite else np.exp(y)
        return (-2 if finite else -1) * (s**3 - c)

    y = solve_ivp(rate, (0, 1.5), [0.3 ** (2 / depth) if finite else math.log(0.3)], "LSODA", t, rtol=1e-11, atol=1e-13)
    expected = y.y[0] ** (depth / 2) if finite else np.exp(y.y[0])
    s = relaxation(lambda s: s**2, SpectralEntropy(d, d, depth), beta, np.full(d, 0.3), t)
    np.testing.assert_allclose(s, np.tile(expected, (d, 1)).T, rtol=1e-7)


@pytest.mark.parametrize("depth", [2, 3.5, math.inf])
def test_relaxation_is_the_gradient_flow_on_matrices(rng, depth):
    entropy, beta, t = SpectralEntropy(3, 3, depth), 1.4, np.linspace(0, 0.8, 5)
    u, s, vt = oracles.factors(rng, 3, 3, (1.9, 0.8, 0.3))

    def rate(_, x):
        x = x.reshape(3, 3)
        gradient = free_energy_gradient(lambda x: x, x, depth, beta)
        return -Frame.at(x, entropy.kernel).cometric(gradient).ravel()

    flow = solve_ivp(rate, (0, 0.8), oracles.dense(u, s, vt).ravel(), "DOP853", t, rtol=1e-10, atol=1e-12)
    found = relaxation(lambda s: s, entropy, beta, s, t)
    expected = np.stack([oracles.dense(u, sigma, vt) for sigma in found])
    np.testing.assert_allclose(flow.y.T.reshape(-1, 3, 3), expected, atol=1e-7)


@pytest.mark.parametrize("depth", [2, 5, math.inf])
def test_relaxation_ends_at_the_linear_rates(depth):
    entropy, beta = SpectralEntropy(3, 3, depth), 2.0
    (equal,) = equal_equilibria(lambda s: s, entropy, beta)
    slow, _, fast = relaxation_rates(np.eye(3), entropy, beta, np.full(3, equal))
    # Deviations of 1e-3 leave terms of second order, relative to themselves of the size 1e-3.
    for deviation, rate in (((1, 1, 1), fast), ((1, 0, -1), slow)):
        t = np.linspace(0, 2 / rate, 5)
        path = relaxation(lambda s: s, entropy, beta, equal + 1e-3 * np.array(deviation), t) - equal
        np.testing.assert_allclose(np.log(path[:, 0] / path[0, 0]), -rate * t, atol=6e-3)


def test_rates_are_those_of_the_linearised_flow_on_matrices(rng):
    """The spectrum of ``A D²F`` at an equilibrium: each rate of differences as often as symmetric matrices split."""
    d, depth, beta = 3, 4, 1.2
    entropy = SpectralEntropy(d, d, depth)
    (s,) = equal_equilibria(lambda s: s, entropy, beta)
    x = s * oracles.orthogonal(rng, d)
    frame, basis = Frame.at(x, entropy.kernel), np.eye(d * d).reshape(-1, d, d)
    matrix = oracles.matrix_of(lambda z: frame.cometric(z - entropy_hessian(z, x, depth) / beta), basis)
    slow, _, fast = relaxation_rates(np.eye(d), entropy, beta, np.full(d, s))
    expected = [*[0] * 3, *[slow] * 5, fast]  # rotations, traceless symmetric, multiples of the identity
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(matrix).real), expected, atol=1e-9)


@pytest.mark.parametrize("depth", [3, math.inf])
def test_energies_that_couple_the_singular_values(rng, depth):
    """``e = ½Σσ² + ¼(Σσ)²``: equilibria by their equation, rates by the linearised flow on matrices."""
    d, beta, x = 3, 1.6, rng.standard_normal((3, 3))
    entropy = SpectralEntropy(d, d, depth)
    energy, slope = (lambda s: s @ s / 2 + np.sum(s) ** 2 / 4), (lambda s: s + np.sum(s) / 2)
    bend = np.eye(d) + np.ones((d, d)) / 2
    # s(s + ds/2) = c.
    expected = math.sqrt((d - 1) * (1 - 1 / depth) / (2 * beta) / (1 + d / 2))
    (found,) = minimisers(energy, slope, entropy, beta, n_starts=4, rng=4)
    np.testing.assert_allclose(found.s, expected, rtol=1e-12)
    (equal,) = equal_equilibria(lambda s: s + d * s / 2, entropy, beta)
    assert equal == pytest.approx(expected, rel=1e-13)

    def velocity(x):
        u, s, vt = np.linalg.svd(x)
        gradient = (u * slope(s)) @ vt - entropy_gradient(x, depth) / beta
        return -Frame.at(x, entropy.kernel).cometric(gradient)

    # At equal singular values the flow is not seen to be smooth by an SVD, but along X itself it is.
    rates = relaxation_rates(bend, entropy, beta, found.s)
    x = expected * oracles.orthogonal(rng, d)
    h = 1e-5
    along = (velocity((1 + h) * x) - velocity((1 - h) * x)) / (2 * h)
    np.testing.assert_allclose(along, -rates[-1] * x, atol=1e-7)
    path = relaxation(slope, entropy, beta, [1.3, 0.6, 0.2], np.array([0.0, 0.5, 40.0]))
    u, s, vt = oracles.factors(rng, d, d, (1.3, 0.6, 0.2))
    flow = solve_ivp(
        lambda _, y: velocity(y.reshape(d, d)).ravel(), (0, 0.5), oracles.dense(u, s, vt).ravel(), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(flow.y[:, -1].reshape(d, d), oracles.dense(u, path[1], vt), atol=1e-7)
    np.testing.assert_allclose(path[2], expected, rtol=1e-7)


def test_equilibria_and_rates_converge_as_one_over_depth():
    """To those of infinite depth, the rates divided by N: the normalised metric runs N times slower."""
    d, beta, depths = 3, 1.7, (64, 128, 256)
    energy, slope, bend = schatten(3)
    t, start = np.array([0.0, 0.4, 1.5]), [1.9, 0.8, 0.3]

    def at(depth):
        entropy, speed = SpectralEntropy(d, d, depth), depth if math.isfinite(depth) else 1
        (s,) = equal_equilibria(slope, entropy, beta)
        (found,) = minimisers(energy, slope, entropy, beta, n_starts=2, rng=5)
        np.testing.assert_allclose(found.s, s, rtol=1e-10)
        rates = relaxation_rates(bend(found.s), entropy, beta, found.s) / speed
        return np.concatenate([[s], rates, relaxation(slope, entropy, beta, start, t / speed).ravel()[d:]])

    limit = at(math.inf)
    errors = np.abs([at(depth) - limit for depth in depths])
    assert np.all(errors[0] > 1e-4)
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 1, atol=0.06)


def test_times_may_be_zero_or_repeated():
    entropy = SpectralEntropy(2, 2, 3)
    s = relaxation(lambda s: s, entropy, 1.0, [0.3, 1.0], [0.0, 0.0, 0.7, 0.7, 1.0])
    np.testing.assert_allclose(s[:2], [[0.3, 1.0]] * 2, rtol=1e-15)
    np.testing.assert_array_equal(s[2], s[3])
    np.testing.assert_allclose(s[[2, 4]], relaxation(lambda s: s, entropy, 1.0, [0.3, 1.0], [0.7, 1.0]), rtol=1e-8)
    np.testing.assert_array_equal(relaxation(lambda s: s, entropy, 1.0, [0.3, 1.0], [0.0]), [[0.3, 1.0]])


def test_a_singular_value_that_reaches_zero_is_an_error_and_no_endless_loop():
    """At depth 1 with ``E = Σσ`` it does so at t = s."""
    with pytest.raises(ValueError, match=r"beyond t = 0\.8: a singular value reaches zero"):
        relaxation(np.ones_like, SpectralEntropy(1, 1, 1), 1.0, [0.8], [0.5, 2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"s": [1.0, 0.0]}, "2 positive singular values"),
        ({"s": [1.0, 1.0, 1.0]}, "2 positive singular values"),
        ({"t": [0.5, 0.2]}, "increasing order from 0"),
        ({"t": [-0.5, 0.2]}, "increasing order from 0"),
        ({"t": 1.0}, "one array"),
        ({"t": [0.0, math.nan]}, "times must be finite"),
        ({"t": [0.0, math.inf]}, "times must be finite"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"energy_gradient": lambda s: s * np.nan}, "energy_gradient must be 2 finite numbers"),
        ({"energy_gradient": lambda s: np.ones(3)}, "energy_gradient must be 2 finite numbers"),
    ],
)
def test_refusals(arguments, message):
    given = {"energy_gradient": lambda s: s, "beta": 1.0, "s": [1.0, 2.0], "t": [1.0]}
    with pytest.raises(ValueError, match=message):
        relaxation(entropy=SpectralEntropy(2, 2, 2), **{**given, **arguments})


def test_more_refusals():
    entropy = SpectralEntropy(2, 2, 2)
    with pytest.raises(ValueError, match="an end of the interval must be positive"):
        equal_equilibria(lambda s: s, entropy, 1.0, interval=(0.0, 1.0))
    with pytest.raises(ValueError, match="beta must be positive"):
        relaxation_rates(np.eye(2), entropy, -1.0, np.ones(2))
    with pytest.raises(ValueError, match="scale must be positive"):
        minimisers(np.sum, np.ones_like, entropy, 1.0, scale=0.0)
    with pytest.raises(ValueError, match="the interval must increase"):
        equal_equilibria(lambda s: s, entropy, 1.0, interval=(2.0, 1.0))
    with pytest.raises(ValueError, match="n_intervals must be at least 1"):
        equal_equilibria(lambda s: s, entropy, 1.0, n_intervals=0)
    with pytest.raises(ValueError, match=r"energy_derivative is NaN at s = 0\.001"):
        equal_equilibria(lambda s: math.nan, entropy, 1.0, interval=(1e-3, 1.0))
    for energy, slope in ((lambda s: s, np.ones_like), (lambda s: math.nan, np.ones_like)):
        with pytest.raises(ValueError, match="energy must be one finite number"):
            minimisers(energy, slope, entropy, 1.0, rng=0)
    for slope in (lambda s: np.ones(3), lambda s: s * math.nan):
        with pytest.raises(ValueError, match="energy_gradient must be 2 finite numbers"):
            minimisers(np.sum, slope, entropy, 1.0, rng=0)


@pytest.mark.parametrize(
    "matrix",
    [np.ones(2), np.eye(3), np.full((2, 2), math.nan), np.diag([1.0, math.inf]), [[1.0, 0.5], [0.0, 1.0]]],
    ids=["vector", "larger", "NaN", "infinite", "not symmetric"],
)
def test_hessians_that_are_none_are_refused(matrix):
    """A vector would be broadcast to a matrix, and of others one half be read."""
    with pytest.raises(ValueError, match="energy_hessian must be a finite symmetric matrix of 2 rows"):
        relaxation_rates(matrix, SpectralEntropy(2, 2, 2), 1.0, np.ones(2))
    with pytest.raises(ValueError, match="2 positive singular values"):
        relaxation_rates(np.eye(2), SpectralEntropy(2, 2, 2), 1.0, np.ones(3))


def test_functions_in_place_of_the_entropy_are_refused():
    with pytest.raises(TypeError, match="entropy must be a SpectralEntropy"):
        equal_equilibria(lambda s: s, entropy_gradient, 1.0)
    with pytest.raises(TypeError, match="entropy must be a SpectralEntropy"):
        minimisers(np.sum, np.ones_like, entropy_gradient, 1.0)
    with pytest.raises(TypeError, match="entropy must be a SpectralEntropy"):
        relaxation(lambda s: s, entropy_gradient, 1.0, [1.0], [1.0])
    with pytest.raises(TypeError, match="entropy must be a SpectralEntropy"):
        relaxation_rates(np.eye(1), entropy_gradient, 1.0, [1.0])
