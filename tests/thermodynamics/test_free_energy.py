"""The entropy against volumes from Gram determinants and from Monte Carlo, its derivatives, and its theorems."""

import math
from itertools import combinations, pairwise

import autograd
import autograd.numpy as anp
import mpmath
import numpy as np
import oracles
import pytest
from scipy.integrate import quad
from scipy.spatial import KDTree

import dlngeo
from dlngeo.kernels import of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.entropy import SpectralEntropy, log_orthogonal_volume, log_stiefel_volume
from dlngeo.thermodynamics.free_energy import (
    entropy,
    entropy_gradient,
    entropy_hessian,
    free_energy,
    free_energy_gradient,
    orbit_volume,
)
from dlngeo.weights.balanced import BalancedFrame, inner
from dlngeo.weights.bases import vertical_basis
from dlngeo.weights.network import differential

# m, n, depth, inner widths or None, singular values
CASES = {
    "full": (3, 3, 3, None, (1.7, 0.9, 0.2)),
    "deep": (4, 4, 9, None, (2.0, 1.1, 0.6, 0.1)),
    "equal": (3, 3, 4, None, (0.8, 0.8, 0.8)),
    "two equal": (3, 3, 2, None, (0.8, 0.8, 2.1)),
    "close": (4, 4, 3, None, (1.1, 1.1 + 1e-9, 1.1 - 1e-5, 0.3)),
    "wide": (5, 3, 3, (4, 6), (1.4, 0.8, 0.5)),
    "low rank": (4, 5, 3, (3, 6), (1.1, 0.4)),
    "low rank, equal": (4, 4, 2, (4,), (1.1, 1.1)),
    "low rank, default widths": (4, 3, 5, None, (0.7, 0.5)),
    "narrow": (4, 4, 2, (2,), (1.5, 0.6)),
    "rank 1": (3, 4, 4, (2, 3, 1), (0.9,)),
    "one layer": (3, 4, 1, None, (1.4, 0.7)),
    "real depth": (3, 3, 2.5, None, (1.4, 0.7, 0.3)),
    "near depth 1": (3, 3, 1.001, None, (1.4, 0.7, 0.7)),
    "infinite": (3, 3, math.inf, None, (1.4, 0.7, 0.7)),
    "infinite, low rank": (4, 3, math.inf, None, (1.4, 0.7)),
}
WEIGHTED = [name for name, case in CASES.items() if float(case[2]).is_integer()]
FULL_RANK = [name for name, case in CASES.items() if len(case[4]) == min(case[:2])]


class Point:
    def __init__(self, rng, name):
        self.m, self.n, self.depth, inner_widths, s = CASES[name]
        self.u, self.s, self.vt = oracles.factors(rng, self.m, self.n, s)
        self.x, self.r = oracles.dense(self.u, self.s, self.vt), len(s)
        widths = None if inner_widths is None else (self.n, *inner_widths, self.m)
        self.at = {"depth": self.depth, "rank": self.r, "widths": widths}
        if name in WEIGHTED:
            self.inner_widths = inner_widths or (min(self.m, self.n),) * (self.depth - 1)
            self.weights = oracles.balanced_factors(rng, self.u, self.s, self.vt, self.inner_widths)

    def curve(self, z):
        return oracles.curve(self.u, self.s, self.vt, z)

    def frame(self):
        return Frame(self.u, self.s, self.vt, of_depth(self.depth))


@pytest.fixture(params=CASES)
def point(request, rng):
    return Point(rng, request.param)


@pytest.fixture(params=WEIGHTED)
def weighted(request, rng):
    return Point(rng, request.param)


# Volumes.


def log_volume_by_qr(d):
    """Volume of O(d) from a Gaussian matrix A = QR, whose measure is ``∏ r_ii^{d−i} dR`` times that of Q."""
    radial = sum(math.log(quad(lambda t, i=i: t ** (d - i) * math.exp(-t * t / 2), 0, 40)[0]) for i in range(1, d + 1))
    upper = d * (d - 1) / 2 * math.log(2 * math.pi) / 2
    # Entries below the diagonal measure a skew matrix by its Frobenius norm over √2.
    return d * d * math.log(2 * math.pi) / 2 - radial - upper + d * (d - 1) / 4 * math.log(2)


@pytest.mark.parametrize("d", range(9))
def test_volume_of_the_orthogonal_group(d):
    assert log_orthogonal_volume(d) == pytest.approx(log_volume_by_qr(d), abs=1e-9)


def test_volume_of_the_orthogonal_group_in_low_dimensions():
    volumes = [math.exp(log_orthogonal_volume(d)) for d in range(4)]
    # One point; two points; two circles of radius √2; two projective spaces, 8π² where turning by θ has length θ.
    assert volumes == pytest.approx([1, 2, 2 * 2 * math.pi * 2**0.5, 2 * 8 * math.pi**2 * 2**1.5], rel=1e-14)
    assert math.exp(log_stiefel_volume(3, 1)) == pytest.approx(4 * math.pi * 2)  # a sphere of radius √2


def skew_generators(weights, rank):
    """Skew matrices ``B_0, …, B_N`` that turn one inner frame each, of norm 1, outside the stabiliser."""
    out = []
    for p, w in enumerate(weights[:-1]):
        q = np.linalg.svd(w)[0]  # its first columns span the range of W_p
        for i, k in combinations(range(len(q)), 2):
            if i < rank:
                skews = [np.zeros((w.shape[1], w.shape[1])) for w in weights] + [np.zeros((weights[-1].shape[0],) * 2)]
                skews[p + 1] = (np.outer(q[:, i], q[:, k]) - np.outer(q[:, k], q[:, i])) / 2**0.5
                out.append(skews)
    return out


def turning(weights, rank):
    """Velocities ``B_p W_p − W_p B_{p−1}`` under these rotations of the inner frames, as rows."""
    vectors = [
        np.concatenate([(b[p + 1] @ w - w @ b[p]).ravel() for p, w in enumerate(weights)])
        for b in skew_generators(weights, rank)
    ]
    return np.array(vectors).reshape(-1, sum(w.size for w in weights))


def test_entropy_is_the_volume_of_the_orbit_by_gram_determinants(weighted):
    vectors = turning(weighted.weights, weighted.r)
    group = sum(log_volume_by_qr(d) - log_volume_by_qr(d - weighted.r) for d in weighted.inner_widths)
    expected = group + np.linalg.slogdet(vectors @ vectors.T)[1] / 2
    assert entropy(weighted.x, **weighted.at) == pytest.approx(expected, abs=1e-8)
    assert orbit_volume(weighted.x, **weighted.at) == pytest.approx(math.exp(expected), rel=1e-8)


@pytest.mark.parametrize(
    ("widths", "s", "radius"),
    [
        pytest.param((2, 2, 2, 2), (1.3, 0.6), 0.5, id="depth 3"),
        pytest.param((3, 3, 3), (1.2, 0.9, 0.5), 0.7, id="d = 3", marks=pytest.mark.slow),
        pytest.param((2, 3, 2), (1.2, 0.7), 0.7, id="wide", marks=pytest.mark.slow),
    ],
)
def test_volume_by_counting(rng, widths, s, radius):
    """The share of pairs of uniform points of the orbit within ε is ``ω_k ε^k/vol (1 + O(ε²))``."""
    n, depth, r = 6000, len(widths) - 1, len(s)
    lam = np.array(s) ** (1 / depth)
    u, _, vt = oracles.factors(rng, widths[-1], widths[0], s)

    def draw():
        frames = [vt.T, *(np.linalg.qr(rng.standard_normal((n, d, r)))[0] for d in widths[1:-1]), u]
        signs = [1, *(rng.choice([-1, 1], (n, 1, r)) for _ in widths[1:-1]), 1]
        frames = [q * sign for q, sign in zip(frames, signs, strict=True)]
        layers = [(b * lam) @ a.swapaxes(-1, -2) for a, b in pairwise(frames)]
        return KDTree(np.concatenate([w.reshape(n, -1) for w in layers], axis=1))

    # The orbit is homogeneous, so that two pairs with a common point are as good as independent.
    k = sum(d * r - r * (r + 1) // 2 for d in widths[1:-1])
    unit = math.pi ** (k / 2) / math.gamma(k / 2 + 1) * n**2
    estimates = []
    for eps in (radius, radius / 2**0.5):
        count = draw().count_neighbors(draw(), eps)
        estimates.append((count / (unit * eps**k), count**0.5 / (unit * eps**k)))
    (coarse, se_coarse), (fine, se_fine) = estimates
    density, error = 2 * fine - coarse, math.hypot(2 * se_fine, se_coarse)
    assert error < 0.03 * density
    volume = orbit_volume(oracles.dense(u, np.array(s), vt), depth, widths=widths)
    assert abs(density - 1 / volume) < 3 * error


def test_entropy_of_full_rank_by_its_formula(rng):
    x = rng.standard_normal((2, 5, 3, 3))
    s = np.linalg.svd(x)[1]
    for depth in (1, 2, 4.5, 7):
        phi = [oracles.naive(depth)] if depth > 1 else [lambda s, t: 1.0]
        pairs = [(a, b) for a, b in combinations(range(3), 2)]
        expected = [sum(math.log(phi[0](v[a], v[b])) for a, b in pairs) / 2 for v in s.reshape(-1, 3)]
        expected = (depth - 1) * log_orthogonal_volume(3) + np.reshape(expected, (2, 5))
        np.testing.assert_allclose(dlngeo.entropy(x, depth), expected, rtol=1e-13)
    np.testing.assert_array_equal(entropy(x, 1), 0)


# Derivatives.


def test_gradient_is_the_derivative(point, rng):
    gradient = entropy_gradient(point.x, **point.at)
    directions = [oracles.tangent(rng, point.u, point.vt) for _ in range(8)]
    directions = [z * point.s[-1] / np.linalg.norm(z) for z in directions]
    curves = [point.curve(z) for z in directions]
    exact = np.array([np.sum(gradient * z) for z in directions])

    def along(h):
        return entropy(np.stack([x(h) for x in curves]), **point.at)

    np.testing.assert_allclose(oracles.derivative(along), exact, rtol=1e-9, atol=1e-11)
    if point.depth > 1 and point.r > 1:
        np.testing.assert_allclose(oracles.central_orders(along, exact, step=0.1), 2, atol=0.1)


def test_hessian_is_the_derivative_of_the_gradient(point, rng):
    for _ in range(3):
        z = oracles.tangent(rng, point.u, point.vt)
        z *= point.s[-1] / np.linalg.norm(z)
        at = point.curve(z)
        exact = entropy_hessian(z, point.x, **point.at)
        change = oracles.derivative(lambda h, at=at: entropy_gradient(at(h), **point.at))
        np.testing.assert_allclose(change, exact, atol=1e-8 * np.max(np.abs(exact)) + 1e-10)


def test_hessian_is_symmetric(point, rng):
    y, z = rng.standard_normal((2, point.m, point.n))
    pairings = [np.sum(a * entropy_hessian(b, point.x, **point.at)) for a, b in ((y, z), (z, y))]
    assert pairings[0] == pytest.approx(pairings[1], rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", FULL_RANK)
def test_second_derivative_along_straight_lines(name, rng):
    point = Point(rng, name)
    z = rng.standard_normal((point.m, point.n))
    z *= point.s[-1] / np.linalg.norm(z)
    second = oracles.second_derivative(lambda h: entropy(point.x + h * z, **point.at))
    exact = np.sum(z * entropy_hessian(z, point.x, **point.at))
    assert second == pytest.approx(exact, rel=1e-6, abs=1e-7)


def test_hessian_ignores_the_normal_part_below_full_rank(rng):
    point = Point(rng, "low rank")
    z = rng.standard_normal(point.x.shape)
    expected = entropy_hessian(oracles.project(point.u, point.vt, z), point.x, **point.at)
    np.testing.assert_allclose(entropy_hessian(z, point.x, **point.at), expected, atol=1e-12)


def mp_gradient(s, depth):
    """``∂S/∂σ`` at full rank by its quotients, in multiple precision; equal values are set 1e-40 apart."""
    s = [mpmath.mpf(v) * (1 + i * mpmath.mpf(10) ** -40) for i, v in enumerate(s)]
    log = [mpmath.log(v) for v in s]
    a = [v if math.isinf(depth) else mpmath.exp(2 * v / depth) for v in log]

    def term(k, j):
        share = 1 / (2 * (log[k] - log[j])) if math.isinf(depth) else a[k] / (depth * (a[k] - a[j]))
        return s[k] / (s[k] ** 2 - s[j] ** 2) - share / s[k]

    return [mpmath.fsum(term(k, j) for j in range(len(s)) if j != k) for k in range(len(s))]


@pytest.mark.parametrize("depth", [1.0001, 1.5, 2, 3, 64, math.inf])
@pytest.mark.parametrize(
    "s", [(1.0, 1 + 1e-12, 1 - 1e-7), (1e8, 1.0, 1e-8), (3e-20, 1e-20, 1e-20), (1.0, 0.8, 0.1), (2e5, 1.6e5, 1e-3)]
)
def test_derivatives_are_accurate_at_close_and_at_distant_singular_values(s, depth):
    spectral, r = SpectralEntropy(3, 3, depth), range(3)
    gradient, hessian = spectral.gradient(np.array(s)), spectral.hessian(np.array(s))
    minus, plus = spectral.quotients(np.array(s))
    # Near depth 1 the entropy is N − 1 times a function, of which the Hessian keeps absolute accuracy only.
    tolerance = 1e-13 / (1 - 1 / depth)
    with mpmath.workdps(150):
        f, h = mp_gradient(s, depth), mpmath.mpf(10) ** -15
        for k in r:
            assert oracles.relative_error(gradient[k], f[k]) < 1e-13
        for j in r:
            up, down = (
                mp_gradient([v * (1 + sign * h) if i == j else v for i, v in enumerate(s)], depth) for sign in (1, -1)
            )
            for k in r:
                exact = (up[k] - down[k]) / (2 * h * s[j])
                # At N = 2 the diagonal vanishes next to f_k/σ_k, in units of which it is accurate.
                size = max(abs(exact), abs(f[k]) / s[k] * (k == j))
                assert abs(hessian[k, j] - exact) < 10 * tolerance * size
        # Where the singular values coincide, the quotient is the difference of second derivatives.
        for k, j in combinations(r, 2):
            gap = mpmath.mpf(s[k]) - s[j]
            shift = mpmath.mpf(10) ** -20 * s[k] if gap == 0 else 0
            g = mp_gradient([v + shift if i == k else v for i, v in enumerate(s)], depth)
            size = (abs(f[k]) + abs(f[j])) / max(s[k], s[j])
            assert abs(minus[k, j] - (g[k] - g[j]) / (gap + shift)) < 10 * tolerance * size
            assert oracles.relative_error(plus[k, j], (f[k] + f[j]) / (mpmath.mpf(s[k]) + s[j])) < 1e-13
    np.testing.assert_array_equal(plus, plus.T)
    np.testing.assert_allclose(minus, minus.T, rtol=1e-9)


@pytest.mark.parametrize("depth", [1.5, 2, 10, 200, math.inf])
@pytest.mark.parametrize(
    "s",
    [(2e-180, 1e-180, 1e-180), (2e180, 2e180, 1e180), (1e100, 1.0, 1e-100), (1.0, 3e-200, 1e-200), (2e-3, 9e-153, 0)],
)
def test_the_range_of_doubles_is_that_of_singular_values(s, depth):
    """Also where φ, of degree 2 − 2/N, leaves it: in a network of 64 layers, where λ = 10⁻³."""
    spectral, some = SpectralEntropy(3, 3, depth), [v for v in s if v > 0]
    with mpmath.workdps(450):
        values = [mpmath.mpf(v) * (1 + i * mpmath.mpf(10) ** -60) for i, v in enumerate(some)]

        def log_phi(a, b):
            if math.isinf(depth):
                return mpmath.log((a**2 - b**2) / mpmath.log(a**2 / b**2))
            return mpmath.log((a**2 - b**2) / (a ** (2 / mpmath.mpf(depth)) - b ** (2 / mpmath.mpf(depth))))

        exact = mpmath.fsum(log_phi(a, b) for a, b in combinations(values, 2)) / 2
        if len(some) < len(s):
            exact += mpmath.fsum((1 - 1 / mpmath.mpf(depth)) * mpmath.log(a) for a in values)
            if math.isinf(depth):
                exact = -math.inf
        gradient = mp_gradient(some, depth)
    assert spectral(np.array(s)) - spectral.constant == pytest.approx(float(exact), rel=1e-13)
    if len(some) == len(s):
        found = spectral.gradient(np.array(s))
        assert max(oracles.relative_error(a, b) for a, b in zip(found, gradient, strict=True)) < 1e-13


def mp_pair(gap, depth):
    """``log φ_N`` less its part ``2(1 − 1/N) max u``, its half's slope in the smaller u, and ``½H″``, by definition."""
    y, eps = 2 * mpmath.mpf(gap), 0 if math.isinf(depth) else 1 / mpmath.mpf(depth)
    if y == 0:
        return mpmath.log(1 / eps) if eps else mpmath.mpf(0), (1 - eps) / 2, (1 - eps**2) / 6
    inverse = eps / mpmath.expm1(eps * y) if eps else 1 / y
    share = -mpmath.expm1(-y) / (-mpmath.expm1(-eps * y) if eps else y)
    csch = (eps / mpmath.sinh(eps * y / 2) if eps else 2 / y) ** 2
    return mpmath.log(share), inverse - 1 / mpmath.expm1(y), (csch - mpmath.csch(y / 2) ** 2) / 2


@pytest.mark.parametrize(
    "depth", [1.0000001, 3, math.inf, *(pytest.param(n, marks=pytest.mark.slow) for n in (1.5, 2, 7, 64, 1e6))]
)
def test_value_slope_and_bend_in_logarithms_to_round_off(rng, depth):
    """On spectra that coincide, nearly coincide, and are farther apart than the σ of doubles can be."""
    u = rng.choice([-1, 1], (150, 3)) * 10 ** rng.uniform(-300, 3.5, (150, 3))
    u[::2] = rng.uniform(-300, 300, (75, 1)) + rng.choice([0, 1], (75, 3)) * 10 ** rng.uniform(-14, 2, (75, 3))
    spectral = SpectralEntropy(3, 3, depth)
    spectral.constant = 0.0  # it grows like N, and would hide the digits of the rest
    values, slopes, bends = spectral.value(u), spectral.slope(u), spectral.bend(u)
    for row, value, slope, bend in zip(u.tolist(), values, slopes, bends, strict=True):
        gaps = [abs(mpmath.fsub(a, b, exact=True)) for a, b in combinations(row, 2)]
        with mpmath.workdps(60 - 4 * min(0, int(mpmath.log10(min((g for g in gaps if g), default=1))))):
            rest = 1 - (0 if math.isinf(depth) else 1 / mpmath.mpf(depth))
            total, exact, curvature = mpmath.mpf(0), [mpmath.mpf(0)] * 3, mpmath.zeros(3)
            for (k, j), gap in zip(combinations(range(3), 2), gaps, strict=True):
                log_share, f, half = mp_pair(gap, depth)
                total += rest * max(row[k], row[j]) + log_share / 2
                small, large = (k, j) if row[k] < row[j] else (j, k)
                exact[small], exact[large] = exact[small] + f, exact[large] + rest - f
                for a, b in ((k, k), (j, j), (k, j), (j, k)):
                    curvature[a, b] += half if a == b else -half
            assert abs(value - total) < 3e-14 * abs(total) + 1e-15 * float(rest)
            for k in range(3):
                assert abs(slope[k] - exact[k]) < 1e-15 * float(rest)
                assert abs(slope[k] - exact[k]) <= 1e-12 * exact[k] + 1e-300
                assert max(abs(bend[k, j] - curvature[k, j]) for j in range(3)) < 1e-15


# Symmetries.


def test_invariance_and_homogeneity(point, rng):
    q, o = oracles.orthogonal(rng, point.m), oracles.orthogonal(rng, point.n)
    assert entropy(q @ point.x @ o, **point.at) == pytest.approx(entropy(point.x, **point.at), abs=1e-12)
    moved = entropy_gradient(q @ point.x @ o, **point.at)
    np.testing.assert_allclose(moved, q @ entropy_gradient(point.x, **point.at) @ o, atol=1e-10)
    # S(tX) = S(X) + w log t, hence ⟨S′, X⟩ = w and D²S[X] = −S′.
    part = 1 - 1 / point.depth
    if point.at["widths"] is None:
        excess = part * (min(point.m, point.n) - point.r)
    else:
        excess = sum(d - point.r for d in point.at["widths"][1:-1]) / point.depth
    weight = part * point.r * (point.r - 1) / 2 + excess * point.r
    gain = entropy(3 * point.x, **point.at) - entropy(point.x, **point.at)
    assert gain == pytest.approx(weight * math.log(3), abs=1e-12)
    assert np.sum(entropy_gradient(point.x, **point.at) * point.x) == pytest.approx(weight, abs=1e-12)
    opposite = -entropy_gradient(point.x, **point.at)
    np.testing.assert_allclose(entropy_hessian(point.x, point.x, **point.at), opposite, atol=1e-9)


def test_batches(rng):
    x, z = rng.standard_normal((2, 2, 4, 3, 4))
    x[0, 1], x[1, 3] = (oracles.dense(*oracles.factors(rng, 3, 4, s)) for s in ((0.8, 0.8), (0.81, 0.8)))
    at = {"depth": 3, "rank": 2, "widths": (4, 5, 2, 3)}
    for function in (
        lambda x, z: entropy(x, **at),
        lambda x, z: entropy_gradient(x, **at),
        lambda x, z: entropy_hessian(z, x, **at),
    ):
        together = function(x, z)
        for i, j in np.ndindex(2, 4):
            np.testing.assert_allclose(together[i, j], function(x[i, j], z[i, j]), rtol=1e-12)


# Depth to infinity.


def test_the_renormalised_entropy_converges_as_one_over_depth(rng):
    point = Point(rng, "infinite, low rank")
    width, r = 3, 2
    limits = [entropy(point.x, math.inf, r), entropy_gradient(point.x, math.inf, r)]
    limits.append(entropy_hessian(point.x**2, point.x, math.inf, r))
    errors = []
    for depth in (64, 128, 256, 512):
        shift = (depth - 1) * (log_orthogonal_volume(width) - log_orthogonal_volume(width - r))
        shift += r * (r - 1) / 4 * math.log(depth)
        values = [entropy(point.x, depth, r) - shift, entropy_gradient(point.x, depth, r)]
        values.append(entropy_hessian(point.x**2, point.x, depth, r))
        errors.append([np.max(np.abs(value - limit)) for value, limit in zip(values, limits, strict=True)])
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.05)


def test_the_volume_of_the_orbit_and_the_free_energy_at_great_depth(rng):
    point = Point(rng, "infinite, low rank")
    width, r, beta = 3, 2, 1.7
    limit, free, errors = entropy(point.x, math.inf, r), free_energy(np.trace, point.x[:3], math.inf, beta, r), []
    for depth in (20, 40, 80):
        growth = math.exp((depth - 1) * log_stiefel_volume(width, r)) * depth ** (r * (r - 1) / 4)
        volume = orbit_volume(point.x, depth, r) / growth / math.exp(limit)
        shifted = free_energy(np.trace, point.x[:3], depth, beta, r) + math.log(growth) / beta
        errors.append([abs(volume - 1), abs(shifted - free)])
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.06)


def test_real_depth_interpolates_and_is_smooth(rng):
    point = Point(rng, "real depth")
    steps = [entropy(point.x, depth) for depth in np.linspace(2, 4, 9)]
    assert np.max(np.abs(np.diff(steps, 4))) < 1e-3  # at depths 2, 2¼, … 4: no jump at integers


# Theorems.


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "one layer"])
def test_mean_curvature_of_the_orbit_is_minus_the_gradient(name, rng):
    """The trace of the second fundamental form of the orbit maps to ``−grad S``, so noise along it drifts by grad S."""
    weighted = Point(rng, name)
    frame = BalancedFrame(weighted.weights, weighted.r)
    basis = vertical_basis(frame)
    count = basis[0].shape[0]
    mean, second = [np.zeros_like(w) for w in weighted.weights], np.zeros_like(weighted.x)
    turns = turning(weighted.weights, weighted.r)
    skews = skew_generators(weighted.weights, weighted.r)
    for a in range(count):
        v = [layer[a] for layer in basis]
        flat = np.concatenate([layer.ravel() for layer in v])
        coefficients = np.linalg.lstsq(turns.T, flat, rcond=None)[0]
        b = [sum(c * g[p] for c, g in zip(coefficients, skews, strict=True)) for p in range(weighted.depth + 1)]
        np.testing.assert_allclose(inner(v, v), 1, rtol=1e-9)
        # The acceleration of exp(tB_p) W_p exp(−tB_{p−1}); its part normal to the orbit is II(V, V).
        bend = [
            b[p + 1] @ b[p + 1] @ w + w @ b[p] @ b[p] - 2 * b[p + 1] @ w @ b[p] for p, w in enumerate(weighted.weights)
        ]
        along = frame.vertical(bend)
        mean = [h + c - d for h, c, d in zip(mean, bend, along, strict=True)]
        second += oracles.second_derivative(
            lambda t, v=v: oracles.multiply([w + t * d for w, d in zip(weighted.weights, v, strict=True)])
        )
    gradient = weighted.frame().cometric(entropy_gradient(weighted.x, **weighted.at))
    np.testing.assert_allclose(differential(mean, weighted.weights), -gradient, atol=1e-8 * np.max(np.abs(gradient)))
    np.testing.assert_allclose(second, gradient, atol=1e-6 * np.max(np.abs(gradient)))


# Free energy.


def test_free_energy_and_its_gradient(rng):
    cost, x = oracles.Cost(rng, 3, 4), rng.standard_normal((3, 4))
    at = {"depth": 3, "beta": 2.5, "widths": (4, 3, 5, 3)}
    value = free_energy(cost, x, **at)
    assert value == pytest.approx(cost(x) - entropy(x, 3, widths=(4, 3, 5, 3)) / 2.5, rel=1e-14)
    assert value == free_energy(cost(x), x, **at)
    gradient = free_energy_gradient(cost.gradient, x, **at)
    np.testing.assert_array_equal(gradient, free_energy_gradient(cost.gradient(x), x, **at))
    for z in rng.standard_normal((3, 3, 4)):
        change = oracles.derivative(lambda h, z=z: free_energy(cost, x + h * z, **at))
        assert change == pytest.approx(np.sum(gradient * z), rel=1e-9)


# Automatic differentiation.


@pytest.mark.parametrize("name", ["equal", "two equal", "wide", "low rank, equal", "infinite", "one layer"])
def test_autograd_and_torch_differentiate_twice(rng, name):
    torch = pytest.importorskip("torch")
    point = Point(rng, name)
    z = rng.standard_normal(point.x.shape)
    gradient, hessian = entropy_gradient(point.x, **point.at), entropy_hessian(z, point.x, **point.at)

    def value(x):
        return entropy(x, **point.at)

    np.testing.assert_allclose(autograd.grad(value)(point.x), gradient, atol=1e-13)
    product = autograd.grad(lambda x: anp.sum(autograd.grad(value)(x) * z))(point.x)
    np.testing.assert_allclose(product, hessian, atol=1e-12)

    x = torch.tensor(point.x, requires_grad=True)
    (first,) = torch.autograd.grad(value(x), x, create_graph=True)
    np.testing.assert_allclose(first.detach(), gradient, atol=1e-13)
    (second,) = torch.autograd.grad(torch.sum(first * torch.tensor(z)), x)
    np.testing.assert_allclose(second, hessian, atol=1e-12)


def test_torch_differentiates_the_free_energy_of_a_batch(rng):
    torch = pytest.importorskip("torch")
    x = torch.tensor(rng.standard_normal((4, 3, 3)), requires_grad=True)
    free_energy(lambda x: torch.sum(x**2, dim=(-2, -1)) / 2, x, 3, 1.5).sum().backward()
    exact = free_energy_gradient(lambda x: x, x.detach(), 3, 1.5)
    assert isinstance(exact, torch.Tensor)
    np.testing.assert_allclose(x.grad, exact, atol=1e-12)


def test_the_volume_of_the_orbit_is_differentiated_too(rng):
    torch = pytest.importorskip("torch")
    point = Point(rng, "two equal")
    volume, s1 = orbit_volume(point.x, **point.at), entropy_gradient(point.x, **point.at)
    np.testing.assert_allclose(autograd.grad(lambda x: orbit_volume(x, **point.at))(point.x), volume * s1, rtol=1e-12)
    x = torch.tensor(np.stack([point.x, 0.7 * point.x]), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: orbit_volume(x / 3, **point.at), x)
    assert torch.autograd.gradgradcheck(lambda x: orbit_volume(x / 3, **point.at), x)


def test_third_derivatives_are_refused(rng):
    torch = pytest.importorskip("torch")
    x, z = torch.tensor(rng.standard_normal((2, 3, 3)))
    hessian = entropy_hessian(z, x.requires_grad_(), 3)
    with pytest.raises(NotImplementedError, match="third derivative"):
        hessian.sum().backward()


# Limits and refusals.


def test_entropy_where_the_orbit_collapses():
    one, two = (np.array(s) for s in ([2.0, 1.0, 0.0], [2.0, 0.0, 0.0]))
    spectral = SpectralEntropy(3, 3, 3)
    nearby = spectral(np.array([2.0, 1.0, 1e-12]))
    assert spectral(one) == pytest.approx(nearby, abs=1e-6)  # the volume is continuous, and positive there
    assert spectral(two) == -math.inf
    assert SpectralEntropy(3, 3, math.inf)(one) == -math.inf
    assert SpectralEntropy(3, 3, 2, widths=(3, 4, 3))(one) == -math.inf
    zero = np.zeros((3, 3))
    assert orbit_volume(zero, 3) == 0
    assert entropy(zero, 1) == 0
    assert free_energy(lambda x: 0.0, zero, 3, 1.0) == math.inf
    for function in (lambda x: entropy_gradient(x, 3), lambda x: entropy_hessian(x, x, 3)):
        with pytest.raises(ValueError, match="not differentiable at a singular matrix"):
            function(zero)
    np.testing.assert_array_equal(entropy_gradient(zero, 1), zero)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"depth": 0.5}, ValueError, "at least 1"),
        ({"depth": "3"}, TypeError, "real number"),
        ({"depth": 3, "rank": 4}, ValueError, "rank 4 exceeds"),
        ({"depth": 2, "widths": (3, 2, 3), "rank": 3}, ValueError, "rank 3 exceeds"),
        ({"depth": 3, "widths": (3, 3, 3)}, ValueError, "are those of depth 2, not 3"),
        ({"depth": math.inf, "widths": (3, 3, 3)}, ValueError, "not inf"),
        ({"depth": 2, "widths": (4, 3, 3)}, ValueError, "do not fit"),
    ],
)
def test_refusals(rng, arguments, error, message):
    for function in (entropy, entropy_gradient):
        with pytest.raises(error, match=message):
            function(rng.standard_normal((3, 3)), **arguments)


def test_more_refusals(rng):
    x = rng.standard_normal((3, 3))
    for beta, error in ((0, ValueError), (-1.0, ValueError), (math.inf, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="beta must be"):
            free_energy(lambda x: 0.0, x, 3, beta)
    for depth, error in ((2.5, TypeError), (math.inf, TypeError)):
        with pytest.raises(error, match="depth must be an integer"):
            orbit_volume(x, depth)
    with pytest.raises(ValueError, match="NaN"):
        entropy(x * np.nan, 3)
    for function in (entropy, entropy_gradient, orbit_volume):
        with pytest.raises(ValueError, match=r"shape \(\.\.\., m, n\) are expected, got shape \(3,\)"):
            function(x[0], 3)
    with pytest.raises(ValueError, match=r"direction has shape \(2, 2\)"):
        entropy_hessian(np.ones((2, 2)), x, 3)
    with pytest.raises(ValueError, match="the direction holds NaN"):
        entropy_hessian(x * np.nan, x, 3)


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (lambda x: np.sum(x**2), ValueError, r"cost has shape \(\) at x, where \(2,\) is expected"),
        (lambda x: x, ValueError, r"cost has shape \(2, 3, 3\)"),
        (np.ones(3), ValueError, r"cost has shape \(3,\)"),
        (np.ones((2, 2)), ValueError, r"cost has shape \(2, 2\)"),
        (np.array([1.0, np.nan]), ValueError, "cost is NaN"),
        (None, TypeError, "a function of matrices or its value"),
    ],
    ids=["sum over the batch", "matrices", "other batch", "more axes", "NaN", "None"],
)
def test_energies_that_are_not_one_for_each_matrix_are_refused(rng, cost, error, message):
    with pytest.raises(error, match=message):
        free_energy(cost, rng.standard_normal((2, 3, 3)), 3, 1.0)


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (lambda x: np.ones(3), ValueError, r"euclidean_gradient has shape \(3,\) at x, where \(2, 3, 3\)"),
        (np.ones((3, 3, 3)), ValueError, r"euclidean_gradient has shape \(3, 3, 3\)"),
        (np.full((3, 3), np.inf), ValueError, "euclidean_gradient holds NaN or infinite"),
        (None, TypeError, "a function of matrices or its value"),
    ],
    ids=["vector", "other batch", "infinite", "None"],
)
def test_gradients_that_are_not_matrices_of_the_shape_are_refused(rng, gradient, error, message):
    with pytest.raises(error, match=message):
        free_energy_gradient(gradient, rng.standard_normal((2, 3, 3)), 3, 1.0)


def test_constants_and_lists_are_energies_and_gradients(rng):
    x, g = rng.standard_normal((2, 3, 3)), rng.standard_normal((3, 3))
    np.testing.assert_array_equal(free_energy(1, x, 3, 2.0), free_energy([1.0, 1.0], x, 3, 2.0))
    expected = np.stack([free_energy_gradient(g, one, 3, 2.0) for one in x])
    np.testing.assert_allclose(free_energy_gradient(lambda x: g, x, 3, 2.0), expected, rtol=1e-12)
    np.testing.assert_allclose(free_energy_gradient(g.tolist(), x, 3, 2.0), expected, rtol=1e-12)
    torch = pytest.importorskip("torch")
    assert free_energy(1, torch.tensor(x), 3, 2.0).tolist() == pytest.approx(free_energy(1, x, 3, 2.0).tolist())


def log_sphere(d):
    """Logarithm of the area of the unit sphere in d dimensions, by Stirling's formula."""
    return math.log(2) + d / 2 * math.log(math.pi) - ((d - 1) / 2 * math.log(d / 2) - d / 2 + math.log(2 * math.pi) / 2)


def test_volumes_and_spectra_of_wrong_sizes_are_refused():
    assert (log_orthogonal_volume(0), log_stiefel_volume(3, 0)) == (0, 0)
    huge = log_stiefel_volume(10**11, 1)  # a sphere of radius √2, in no time
    assert huge == pytest.approx((10**11 - 1) / 2 * math.log(2) + log_sphere(10**11), rel=1e-12)
    with pytest.raises(ValueError, match="d must not be negative"):
        log_orthogonal_volume(-1)
    with pytest.raises(TypeError, match="d must be an integer"):
        log_orthogonal_volume(2.5)
    for r in (-1, 3):
        with pytest.raises(ValueError, match=f"r must be between 0 and d = 2, got {r}"):
            log_stiefel_volume(2, r)
    with pytest.raises(TypeError, match="a side of the matrices must be an integer"):
        SpectralEntropy(2.5, 2, 2)
    with pytest.raises(ValueError, match="a side of the matrices must be at least 1"):
        SpectralEntropy(2, 0, 2)
    spectral = SpectralEntropy(3, 3, 2)
    for s in (1.0, [1.0, 2.0], np.ones((3, 2))):
        for function in (spectral, spectral.gradient, spectral.hessian, spectral.quotients):
            with pytest.raises(ValueError, match="3 singular values are expected, got shape"):
                function(s)
