"""Equilibria of the free energy against their equations, and relaxation against the flow on matrices."""

import math

import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp

from dlngeo.equilibria import equal_equilibria, minimisers, relaxation, relaxation_rates
from dlngeo.frame import Frame
from dlngeo.spectral_entropy import SpectralEntropy
from dlngeo.thermodynamics import entropy_hessian, free_energy_gradient

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"s": [1.0, 0.0]}, "2 positive singular values"),
        ({"s": [1.0, 1.0, 1.0]}, "2 positive singular values"),
        ({"t": [0.5, 0.2]}, "increasing order from 0"),
        ({"t": [-0.5, 0.2]}, "increasing order from 0"),
        ({"t": 1.0}, "one array"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        relaxation(lambda s: s, SpectralEntropy(2, 2, 2), **{"beta": 1.0, "s": [1.0, 2.0], "t": [1.0], **arguments})


def test_more_refusals():
    entropy = SpectralEntropy(2, 2, 2)
    with pytest.raises(ValueError, match="an end of the interval must be positive"):
        equal_equilibria(lambda s: s, entropy, 1.0, interval=(0.0, 1.0))
    with pytest.raises(ValueError, match="beta must be positive"):
        relaxation_rates(np.eye(2), entropy, -1.0, np.ones(2))
    with pytest.raises(ValueError, match="scale must be positive"):
        minimisers(np.sum, np.ones_like, entropy, 1.0, scale=0.0)
