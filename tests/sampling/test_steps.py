"""The compiled step: its generator exactly, its parts against multiple precision, and what happens at coincidences."""

import mpmath
import numpy as np
import oracles
import pytest

from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo.compiled.svd import orthonormalize_rows, svd
from dlngeo.kernels import RegularizedKernel, RelaxedDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.sampling.charts import chart_of
from dlngeo.sampling.compiled import steps as _steps
from dlngeo.sampling.compiled.slopes import entropy_slope
from dlngeo.thermodynamics.entropy import SpectralEntropy


def decompose(a):
    r = len(a)
    ut, s, vt = np.empty((r, r)), np.empty(r), np.empty((r, r))
    return svd(a.copy(), ut, s, vt, False), ut, s, vt


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("r", [1, 2, 3, 5, 8, 12, 13, 20, 50])
def test_svd_of_a_matrix(r, repeated, rng):
    a = rng.standard_normal((r, r))
    if repeated:
        u, _, vt = np.linalg.svd(a)
        a = (u * np.sort(rng.integers(1, 4, r))[::-1]) @ vt
    positive, ut, s, vt = decompose(a)
    assert positive
    np.testing.assert_allclose((ut.T * s) @ vt, a, atol=1e-13 * r)
    np.testing.assert_allclose(ut @ ut.T, np.eye(r), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(r), atol=1e-13)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), rtol=1e-12)


@pytest.mark.parametrize("r", [3, 20])
def test_svd_of_a_matrix_with_tiny_singular_values(r, rng):
    # To the accuracy of any backward stable method: a few ε of the largest.
    u, v = (np.linalg.qr(rng.standard_normal((r, r)))[0] for _ in range(2))
    values = np.logspace(0, -14, r)
    positive, ut, s, vt = decompose((u * values) @ v.T)
    assert positive
    np.testing.assert_allclose(s, values, atol=1e-14)
    np.testing.assert_allclose(ut @ ut.T, np.eye(r), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(r), atol=1e-13)
    # Columns of different sizes keep their digits where no eigenvectors mix them.
    if r == 3:
        s = decompose(rng.standard_normal((r, r)) * [1.0, 1e-20, 1e-40])[2]
        assert s[1] > 1e-23
        assert s[2] > 1e-43


@pytest.mark.parametrize("r", [2, 13])
def test_svd_says_when_the_rank_is_not_full(r):
    assert not decompose(np.diag([1.0] * (r - 1) + [0.0]))[0]
    assert not decompose(np.full((r, r), np.nan))[0]
    assert not decompose(np.eye(r) * 1e160)[0]


def test_orthonormalisation(rng):
    a = rng.standard_normal((5, 3))
    a[:, 2] = a[:, 0] + 1e-6 * rng.standard_normal(5)
    q, r = a.copy(), np.empty((3, 3))
    sine = orthonormalize_rows(q.T, r.T)
    np.testing.assert_allclose(q @ r, a, atol=1e-14)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-14)
    expected = np.linalg.norm(a[:, 2] - q[:, :2] @ (q[:, :2].T @ a[:, 2])) / np.linalg.norm(a[:, 2])
    np.testing.assert_allclose(sine, expected, rtol=1e-8)
    assert orthonormalize_rows(np.zeros((3, 2)).T, np.empty((2, 2)).T) == 0
    rows, triangle = a.T.copy(), np.empty((3, 3))
    assert orthonormalize_rows(rows, triangle)
    np.testing.assert_allclose(triangle @ rows, a.T, atol=1e-14)
    np.testing.assert_allclose(triangle, r.T, atol=1e-12)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-14)
    assert not orthonormalize_rows(np.zeros((2, 3)), np.empty((2, 2)))
    assert not orthonormalize_rows(np.full((2, 3), np.inf), np.empty((2, 2)))


def repeat(u, lam, v, count):
    return {name: np.repeat(np.array(a)[None], count, axis=0) for name, a in (("u", u), ("lam", lam), ("v", v))}


def points(state, depth):
    return (state["u"] * state["lam"][:, None] ** depth) @ state["v"].mT


def flat_of(depth):
    return chart_of(DepthKernel(depth), 0).flat


POINTS = [
    (3, 3, [1.1, 0.8, 0.6]),
    (3, 3, [1.1, 0.8, 0.8]),
    (4, 4, [0.9, 0.9, 0.9, 0.5]),
    (4, 3, [1.1, 0.7]),
    (5, 2, [0.9, 0.9]),
    (2, 5, [1.1, 0.7]),
    (4, 4, [1.2]),
]


class Mean(Kernel):
    """At an infinite distance from singular matrices, at every rank."""

    def __call__(self, s, t):
        return (s**2 + t**2) / 2


KERNELS = [
    *map(DepthKernel, [1, 2, 3, 4, 8, 64, 1.5, 2.5, 3.7, 64.5]),
    DepthKernel(2.5, normalized=True),
    InfiniteDepthKernel(),
    RelaxedDepthKernel([0.0, 0.7, 0.2]),
    RelaxedDepthKernel([0.0, 0.7, 0.0, 0.3]),
    RegularizedKernel(InfiniteDepthKernel(), 0.5),
    RegularizedKernel(DepthKernel(3), 0.4),
    Mean(),
]


@pytest.mark.parametrize(("m", "n", "lam"), POINTS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_mean_and_the_covariance_of_a_step_are_those_of_the_generator(m, n, lam, kernel, rng):
    # Averages over ±√D e_i are those over D normal numbers, for polynomials of degree 3: exact up to O(h²).
    if kernel.depth == np.inf and not m == n == len(lam):
        pytest.skip("infinite depth lives on invertible matrices")
    lam = np.array(lam)
    r, temperature, chart = lam.size, 0.7, chart_of(kernel, m + n - 2 * len(lam))
    flat = chart.start(lam)
    s = chart.sigma(flat)
    u, _, vt = oracles.factors(rng, m, n, lam)
    frame = Frame(u.copy(), s, vt.copy(), kernel)
    columns = (r, 0, 0) if r == m == n else (r, m if m > r else 0, n if n > r else 0)
    shapes = [(a, r if a else 0) for a in columns]
    ends = np.cumsum([a * b for a, b in shapes])
    nodes = ends[-1] ** 0.5 * np.concatenate([np.eye(ends[-1]), -np.eye(ends[-1])])
    noise = [p.reshape(len(nodes), *s) for p, s in zip(np.split(nodes, ends[:-1], axis=1), shapes, strict=True)]
    g, radial = rng.standard_normal((m, n)) * s[0] ** (1 / chart.depth - 1), rng.standard_normal(r)
    # At equal singular values the potential of the flat coordinates has to be symmetric.
    radial = np.array([radial[np.flatnonzero(lam == value)[0]] for value in lam])
    tables, stretch, drift = chart.tables(np.repeat(flat[None], len(nodes), axis=0))
    spectral = (u * (radial * stretch[0] * chart.depth**0.5)) @ vt  # A of a gradient U diag(radial N ∂y/∂σ) Vᵀ
    base = np.stack([frame.cometric(e.reshape(m, n)).ravel() for e in np.eye(m * n)])

    def moments(h):
        state, h = repeat(u, flat, vt.T, len(nodes)), h / chart.slowness
        total = np.repeat(radial[None], len(nodes), axis=0) - temperature * drift
        numbers = np.repeat(g[None], len(nodes), axis=0), total, tuple(noise), chart.flat, h, temperature
        assert not _steps.advance(state, *numbers, tables).any()
        ends = (state["u"] * chart.sigma(state["lam"])[:, None]) @ state["v"].mT
        moved = (ends - (u * s) @ vt).reshape(len(nodes), -1)
        h *= chart.slowness
        return moved.mean(axis=0) / h, moved.T @ moved / (len(nodes) * 2 * h * temperature)

    h = 1e-5 / min(chart.depth, 64) ** 2
    (drift_at, covariance), (finer, smaller) = moments(h), moments(h / 2)
    exact = (temperature * frame.ito_drift() - frame.cometric(g) - spectral / chart.slowness).ravel()
    np.testing.assert_allclose(2 * finer - drift_at, exact, atol=1e-5 * abs(exact).max())
    np.testing.assert_allclose(2 * smaller - covariance, base, atol=1e-5 * abs(base).max())


@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 3), (2, 5)])
@pytest.mark.parametrize("depth", [2, 3, 8, 2.5])
def test_singular_values_move_by_their_exact_law(m, n, depth, rng):
    lam = np.array([1.4, 0.8, 0.3])[: 3 if (m, n) == (3, 3) else 2]
    u, _, vt = oracles.factors(rng, m, n, lam)
    r, h, temperature = lam.size, 0.1, 0.7
    noise = [rng.standard_normal((1, *shape)) for shape in ((r, r), (m, r), (n, r))]
    radial, state = rng.standard_normal(r), repeat(u, lam, vt.T, 1)
    none = np.empty((1, 0, 0))
    assert not _steps.advance(state, none, radial[None], tuple(noise), flat_of(depth), h, temperature).any()
    scale = (2 * h * temperature / depth) ** 0.5
    above, beside = (scale * (x[0] - q @ (q.T @ x[0])) for x, q in zip(noise[1:], (u, vt.T), strict=True))
    # Rows of V leave their frame, then columns of U theirs.
    upper = np.linalg.qr(np.vstack([(np.diag(lam - h * radial) + scale * noise[0][0]).T, beside]), mode="r")
    tall = np.vstack([(upper * np.sign(np.diag(upper))[:, None]).T, above])
    np.testing.assert_allclose(state["lam"][0], np.linalg.svd(tall, compute_uv=False), rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 64, 1.5, 2.5, 3.7, 64.5])
def test_coefficients_of_pairs_are_those_of_the_formulas_to_the_last_digits(depth):
    gaps = [0.9, 0.5, 1e-3 / depth, 1.5e-4 / depth, 0.5e-4 / depth, 1e-9]
    for gap in gaps:
        lam = np.array([1.3, 1.3 * (1 - gap), 1e-3])
        turn, stretch, normal = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
        _steps._coefficients(lam, int(depth), depth % 1, turn, stretch, normal)
        with mpmath.workdps(60 + 8 * int(depth)):
            values = [mpmath.mpf(x) for x in lam.tolist()]
            root = 1 / mpmath.sqrt(depth)
            for k, j in ((0, 1), (0, 2), (1, 2)):
                a, b = values[k], values[j]
                phi = (a ** (2 * depth) - b ** (2 * depth)) / (a**2 - b**2)
                for sign, found in ((1, turn[k, j]), (-1, turn[j, k])):
                    exact = mpmath.sqrt(phi) / (b**depth - sign * a**depth) - root / (b - sign * a)
                    assert found == pytest.approx(float(exact), rel=1e-8, abs=1e-11)
                assert stretch[k, j] == stretch[j, k] == pytest.approx(float(mpmath.sqrt(phi)), rel=1e-13)
            for k, a in enumerate(values):
                assert stretch[k, k] == pytest.approx(float(mpmath.sqrt(depth) * a ** (depth - 1)), rel=1e-13)
                expected = float((1 - root) / a), float(a ** (depth - 1))  # of φ(σ, 0) = λ^{2N−2}
                np.testing.assert_allclose(normal[:, k], expected, rtol=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_a_step_is_smooth_where_singular_values_coincide(depth, rng):
    u, _, vt = oracles.factors(rng, 4, 3, np.ones(3))
    noise, g = [rng.standard_normal((1, *s)) for s in ((3, 3), (4, 3), (3, 3))], rng.standard_normal((1, 4, 3))

    def moved(gap):
        state = repeat(u, np.array([1.2, 0.9 + gap, 0.9]), vt.T, 1)
        _steps.advance(state, g, np.zeros((1, 3)), tuple(noise), flat_of(depth), 0.05, 1.0)
        return points(state, depth)[0]

    slopes = [np.linalg.norm(moved(gap) - moved(0.0)) / gap for gap in (1e-3, 1e-5, 1e-7)]
    assert slopes[0] > 0.01
    np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)


@pytest.mark.parametrize("depth", [2, 3, 4, 7, 1, 2.5, 3.5])
def test_the_determinant_changes_sign_at_odd_depth_alone(depth, rng):
    chains = 400
    state = repeat(np.eye(3), np.array([1.0, 0.6, 0.05]), np.eye(3), chains)
    noise = (rng.standard_normal((chains, 3, 3)), np.empty((chains, 0, 0)), np.empty((chains, 0, 0)))
    none = np.empty((chains, 0, 0))
    assert not _steps.advance(state, none, np.zeros((chains, 3)), noise, flat_of(depth), 0.05, 1.0).any()
    sign = np.linalg.det(state["u"]) * np.linalg.det(state["v"])
    assert (sign < 0).any() == (depth % 2 == 1)
    # Other singular vectors do not care.
    flat = np.diag([1.0, 0.6, 0.05]) + (0.1 / depth) ** 0.5 * noise[0]
    if depth % 2 == 1:
        np.testing.assert_array_equal(sign > 0, np.linalg.det(flat) > 0)


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 3, 2), (12, 10, 10)])
@pytest.mark.parametrize("depth", [3, 64])
def test_frames_stay_orthonormal(m, n, r, depth, rng):
    """Also where λ comes close to zero, and the frames turn by large angles."""
    lam = np.linspace(1.0, 1e-6, r)
    u, _, vt = oracles.factors(rng, m, n, lam)
    state = repeat(u, lam, vt.T, 20)
    for _ in range(50):
        noise = tuple(rng.standard_normal((20, size, r)) for size in (r, m, n))
        assert not _steps.advance(state, np.empty((20, 0, 0)), state["lam"], noise, flat_of(depth), 0.1, 1.0).any()
    for frame in (state["u"], state["v"]):
        np.testing.assert_allclose(frame.mT @ frame, np.broadcast_to(np.eye(r), (20, r, r)), atol=1e-13)
    assert (np.diff(state["lam"], axis=1) <= 0).all()


def test_a_failed_step_leaves_its_chain_alone(rng):
    state = repeat(np.eye(2), np.array([1.0, 0.5]), np.eye(2), 3)
    radial, noise = np.zeros((3, 2)), rng.standard_normal((3, 2, 2))
    radial[1] = np.inf
    none = np.empty((3, 0, 0))
    failed = _steps.advance(state, none, radial, (noise, none, none), flat_of(3), 0.1, 1.0)
    assert failed.tolist() == [False, True, False]
    assert state["lam"][1].tolist() == [1.0, 0.5]
    assert state["u"][1].tolist() == np.eye(2).tolist()
    assert state["lam"][0].tolist() != [1.0, 0.5]


@pytest.mark.parametrize("depth", [2, 3, 7, 12, 64, 1.5, 2.7, 12.5])
def test_the_slope_of_the_entropy(depth, rng):
    lam = np.abs(rng.standard_normal((40, 4))) + 0.1
    lam[0] = 0.7
    lam[1, :2] = 0.7, 0.7 * (1 + 1e-9)
    lam[2, :2] = 0.7, 0.7 * (1 + 0.009 / depth)
    lam[3, :2] = 1.2, 10 ** (-60 / depth)
    lam[4] = 1.2, 1e-5, 1e-9, 1.2  # of which σ at depth 64 is none of doubles
    widths = (4, *[6] * (depth - 1), 4) if isinstance(depth, int) else None
    entropy = SpectralEntropy(4, 4, depth, widths=widths)
    expected = entropy.slope(depth * np.log(lam)) / lam
    np.testing.assert_allclose(entropy_slope(lam, entropy), expected, rtol=1e-13)
