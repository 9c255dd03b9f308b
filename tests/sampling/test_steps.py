"""The compiled step: its decomposition against multiple precision, and one step against the retraction."""

import mpmath
import numpy as np
import oracles
import pytest

from dlngeo import DepthKernel
from dlngeo.frame import Blocks, Frame
from dlngeo.retraction import retract
from dlngeo.sampling import _steps
from dlngeo.sampling._svd import graded_svd, orthonormalize, orthonormalize_pivoted
from dlngeo.spectral_entropy import SpectralEntropy


def decompose(a):
    r = len(a)
    u, s, v = np.empty((r, r)), np.empty(r), np.empty((r, r))
    return graded_svd(a.copy(), u, s, v), u, s, v


@pytest.mark.parametrize("r", [1, 2, 3, 5, 8, 20])
def test_svd_of_a_matrix(r, rng):
    a = rng.standard_normal((r, r))
    converged, u, s, v = decompose(a)
    assert converged
    np.testing.assert_allclose((u * s) @ v.T, a, atol=1e-13 * r)
    np.testing.assert_allclose(u.T @ u, np.eye(r), atol=1e-13)
    np.testing.assert_allclose(v.T @ v, np.eye(r), atol=1e-13)
    assert (np.diff(s) <= 0).all()


@pytest.mark.parametrize("decades", [20, 100, 250])
def test_svd_keeps_the_digits_of_graded_matrices(decades, rng):
    d = 10.0 ** -np.linspace(0, decades / 2, 4)
    a = d[:, None] * rng.standard_normal((4, 4)) * d
    converged, u, s, v = decompose(a)
    with mpmath.workdps(2 * decades + 60):
        exact = mpmath.svd_r(mpmath.matrix(a.tolist()), compute_uv=False)
        errors = [float(abs(mpmath.mpf(x) / y - 1)) for x, y in zip(s.tolist(), exact, strict=True)]
    assert converged
    assert max(errors) < 1e-12
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(v.T @ v, np.eye(4), atol=1e-14)


def test_svd_says_when_the_rank_is_not_full():
    assert not decompose(np.diag([1.0, 0.0]))[0]
    assert not decompose(np.full((2, 2), np.nan))[0]


def test_orthonormalisation_returns_the_least_angle(rng):
    a = rng.standard_normal((5, 3))
    a[:, 2] = a[:, 0] + 1e-6 * rng.standard_normal(5)
    q, r = a.copy(), np.empty((3, 3))
    sine = orthonormalize(q, r)
    np.testing.assert_allclose(q @ r, a, atol=1e-14)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-14)
    expected = np.linalg.norm(a[:, 2] - q[:, :2] @ (q[:, :2].T @ a[:, 2])) / np.linalg.norm(a[:, 2])
    np.testing.assert_allclose(sine, expected, rtol=1e-8)
    assert orthonormalize(np.zeros((3, 2)), np.empty((2, 2))) == 0


def test_pivoted_orthonormalisation_completes_what_underflows(rng):
    a = rng.standard_normal((4, 4)) * [1e-200, 1.0, 0.0, 1e-100]
    q, r, order = a.copy(), np.empty((4, 4)), np.empty(4, dtype=np.int64)
    orthonormalize_pivoted(q, r, order)
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-14)
    np.testing.assert_allclose((q @ r)[:, :3], a[:, order][:, :3], rtol=1e-12)
    assert order.tolist() == [1, 3, 0, 2]


def state_at(rng, m, n, lam):
    u, _, vt = oracles.factors(rng, m, n, lam)
    return {"u": u[None].copy(), "lam": np.array(lam)[None], "v": vt.T[None].copy()}


@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 3), (2, 5)])
@pytest.mark.parametrize("depth", [2, 3, 4, 8])
def test_a_step_takes_singular_vectors_from_the_retraction(m, n, depth, rng):
    lam = np.array([1.4, 0.8, 0.3])[: min(m, n, 2 if (m, n) != (3, 3) else 3)]
    state = state_at(rng, m, n, lam)
    r, h, temperature = lam.size, 0.01, 0.7
    frame = Frame(state["u"][0].copy(), lam**depth, state["v"][0].T.copy(), DepthKernel(depth))
    g, radial = rng.standard_normal((m, n)), rng.standard_normal(r)
    noise = [rng.standard_normal(shape) for shape in ((r, r), (m, r), (n, r))]
    # The same step in ambient form: V = −h A(E′) + √(2h/β) A^{1/2} ξ.
    spectral = (frame.u * (radial * lam ** (1 - depth))) @ frame.vt
    force = frame.scale(frame.split(g + spectral), 1)
    normal = [
        None if force[1 + i] is None else x - q @ (q.T @ x)
        for i, (x, q) in enumerate(zip(noise[1:], (frame.u, frame.vt.T), strict=True))
    ]
    kick = frame.scale(Blocks(noise[0], *normal), 0.5)
    v = Blocks(
        *(None if a is None else (2 * h * temperature) ** 0.5 * b - h * a for a, b in zip(force, kick, strict=True))
    )
    u, s, vt = retract(frame, v)
    stacked = [x[None] for x in noise]
    assert not _steps.advance(state, g[None], radial[None], tuple(stacked), depth, h, temperature).any()
    # Its singular vectors; the singular values are those of Λ + √(2h/βN) G, whose law is exact without a force.
    x = (state["u"][0] * s) @ state["v"][0].T
    np.testing.assert_allclose(x, oracles.dense(u, s, vt), atol=1e-12)
    scale = (2 * h * temperature / depth) ** 0.5
    wide = [np.diag(lam) + scale * noise[0], *(scale * x.T for x in normal if x is not None)]
    wide[0] -= np.diag(h * (radial + np.diag(frame.u.T @ g @ frame.vt.T) * lam ** (depth - 1)))
    np.testing.assert_allclose(state["lam"][0], np.linalg.svd(np.hstack(wide), compute_uv=False), rtol=1e-13)


def exact_step(lam, noise, depth, amplitude):
    """λ and singular vectors of the product of the balanced factors, in multiple precision."""
    with mpmath.workdps(400):
        r, values = len(lam), [mpmath.mpf(v) for v in lam.tolist()]
        phi = [
            [sum(a ** (2 * (depth - p)) * b ** (2 * (p - 1)) for p in range(1, depth + 1)) for b in values]
            for a in values
        ]
        product = mpmath.eye(r)
        for p in range(1, depth + 1):
            factor = mpmath.diag(values)
            for k in range(r):
                for q in range(r):
                    power = values[k] ** (depth - p) * values[q] ** (p - 1)
                    factor[k, q] += power * amplitude * mpmath.mpf(float(noise[k, q])) / mpmath.sqrt(phi[k][q])
            product = factor * product
        u, s, vt = mpmath.svd_r(product)
        frames = (np.array(q.tolist(), dtype=float) for q in (u, vt.T))
        return np.array([float(mpmath.root(v, depth)) for v in s]), *frames


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize(("depth", "h"), [(2, 0.1), (5, 0.1), (8, 0.1), (64, 0.001), (64, 0.1)])
def test_vectors_of_small_singular_values_are_right_at_any_depth(depth, h, crossing, rng):
    for _ in range(5):
        lam = np.sort(rng.uniform(0.1, 1.5, 3))[::-1].copy()
        noise = rng.standard_normal((3, 3))
        if crossing:  # a singular value that comes within 1e-3 of zero in this step
            k = rng.integers(3)
            noise[k, k] = -lam[k] * (depth / (2 * h)) ** 0.5 * (1 - 10.0 ** rng.uniform(-3, -1))
        state = {"u": np.eye(3)[None].copy(), "lam": lam[None].copy(), "v": np.eye(3)[None].copy()}
        empty = np.empty((1, 0, 0))
        failed = _steps.advance(
            state, np.zeros((1, 3, 3)), np.zeros((1, 3)), (noise[None], empty, empty), depth, h, 1.0
        )
        assert not failed.any()
        exact, *frames = exact_step(lam, noise, depth, (2 * mpmath.mpf(h)) ** 0.5)
        gap = np.min(1 - (exact[1:] / exact[:-1]) ** depth)
        kept = exact > 3 * _steps.floor(depth)
        for frame, expected in zip((state["u"][0], state["v"][0]), frames, strict=True):
            np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-13)
            cosines = np.abs(np.sum(frame * expected, axis=0))
            np.testing.assert_allclose(cosines[kept], 1, atol=1e-9 / gap)


@pytest.mark.parametrize("depth", [2, 3, 64])
def test_the_slope_of_the_entropy(depth, rng):
    lam = np.abs(rng.standard_normal((40, 4))) + 0.1
    lam[0] = 0.7
    lam[1, :2] = 0.7, 0.7 * (1 + 1e-9)
    lam[2, :2] = 0.7, 0.7 * (1 + 0.009 / depth)
    entropy = SpectralEntropy(4, 4, depth, widths=(4, *[6] * (depth - 1), 4))
    sigma = lam**depth
    expected = entropy.gradient(sigma) * lam ** (depth - 1)
    np.testing.assert_allclose(_steps.entropy_slope(lam, depth, 2 * (depth - 1)), expected, rtol=1e-11, atol=1e-12)
