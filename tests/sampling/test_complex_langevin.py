"""Langevin dynamics of complex matrices: its generator to round-off, and its laws against exact ones."""

import geomstats.backend as gs
import numpy as np
import pytest
from complex_numbers import adjoint, gaussian, haar, matrix
from geomstats.geometry.complex_matrices import ComplexMatrices
from geomstats.geometry.hpd_matrices import HPDMatrices

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.geomstats import DLNMetric, FixedRankMatrices, SpectralMetric
from dlngeo.matrices.frame import Frame
from dlngeo.sampling import BrownianMotion, LabelNoise, Langevin, SpectralPotential
from dlngeo.sampling.complex_frames import advance
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

HALF = SpectralPotential(lambda lam: np.sum(lam**2, axis=1) / 2, lambda lam: lam)

POINTS = [
    (3, 3, [1.1, 0.8, 0.6]),
    (3, 3, [1.1, 0.8, 0.8]),
    (4, 3, [1.1, 0.7]),
    (2, 5, [0.9, 0.9]),
    (4, 4, [1.2]),
    (1, 1, [0.7]),
]


def space_of(m, n, r, depth):
    return FixedRankMatrices(m, n, r, depth=depth, field="complex")


def start(rng, chains, m, n, r, depth):
    """Chains at one law of Λ, of Haar frames."""
    u, v = (haar_of(rng, chains, size, r) for size in (m, n))
    return u, np.repeat(np.linspace(1.0, 0.6, r)[None], chains, axis=0), adjoint(v)


def haar_of(rng, chains, m, r):
    return np.linalg.qr(gaussian(rng, chains, m, r))[0]


def repeat(u, lam, v, count):
    return {name: np.repeat(np.array(a)[None], count, axis=0) for name, a in (("u", u), ("lam", lam), ("v", v))}


def parts(z):
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize(("m", "n", "lam"), POINTS, ids=str)
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 2.5])
def test_the_mean_and_the_covariance_of_a_step_are_those_of_the_generator(m, n, lam, depth, rng):
    # Averages over ±√D e_i are those over D normal numbers, for polynomials of degree 3: exact up to O(h²).
    lam, temperature = np.array(lam), 0.7
    r, c = lam.size, m + n - lam.size
    u, v = haar(rng, m, r), haar(rng, n, r)
    frame = Frame(u, lam**depth, adjoint(v), DepthKernel(depth))
    nodes = (2 * r * c) ** 0.5 * np.concatenate([np.eye(2 * r * c), -np.eye(2 * r * c)])
    flat = (nodes[:, : r * c] + 1j * nodes[:, r * c :]).reshape(-1, r, c)
    above, beside = (np.linalg.qr(q, mode="complete")[0][:, r:] for q in (u, v))
    noise = flat[..., :r], above @ adjoint(flat[..., r:m]), beside @ adjoint(flat[..., m:])
    g, radial = gaussian(rng, m, n), 0.5 * lam
    spectral = (u * (radial * depth * lam ** (depth - 1))) @ adjoint(v)  # dX of dλ = radial
    units = np.eye(m * n).reshape(-1, m, n)
    base = parts(frame.cometric(np.concatenate([units + 0j, 1j * units])).reshape(2 * m * n, -1))

    def moments(h):
        state, count = repeat(u, lam, v, len(nodes)), len(nodes)
        forces = np.repeat(g[None], count, axis=0), np.repeat(radial[None], count, axis=0)
        end, failed = advance(state, *forces, noise, depth, h, temperature)
        assert not failed.any()
        moved = (end["u"] * end["lam"][:, None] ** depth) @ adjoint(end["v"]) - (u * lam**depth) @ adjoint(v)
        moved = parts(moved.reshape(count, -1))
        return moved.mean(axis=0) / h, moved.T @ moved / (count * 2 * h * temperature)

    h = 1e-5 / depth**2
    (drift, covariance), (finer, smaller) = moments(h), moments(h / 2)
    exact = parts((temperature * frame.ito_drift() - frame.cometric(g) - spectral).ravel())
    np.testing.assert_allclose(2 * finer - drift, exact, atol=1e-6 * abs(exact).max())
    np.testing.assert_allclose(2 * smaller - covariance, base, atol=1e-6 * abs(base).max())


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 3, 2), (2, 4, 2)])
@pytest.mark.parametrize("depth", [1, 3, 2.5])
def test_singular_values_move_as_those_of_flat_matrices(m, n, r, depth, rng):
    """They are those of ``Λ + √(2hT/N) ξ``, ξ of r×(m + n − r), and frames stay orthonormal near rank r − 1."""
    lam, h, temperature = np.array([1.4, 0.8, 1e-6])[-r:], 0.1, 0.7
    state = repeat(haar(rng, m, r), lam, haar(rng, n, r), 50)
    noise = [gaussian(rng, 50, size, r) for size in (r, m, n)]
    end, failed = advance(state, np.empty((50, 0, 0)), 0 * state["lam"], noise, depth, h, temperature)
    assert not failed.any()
    core, above, beside = (x * (2 * h * temperature / depth) ** 0.5 for x in noise)
    above, beside = (x - q @ (adjoint(q) @ x) for q, x in ((state["u"], above), (state["v"], beside)))
    rows = np.concatenate([core + np.diag(lam), adjoint(beside)], axis=2)
    square = np.linalg.cholesky(rows @ adjoint(rows))  # with rows outside, r×r: L of rows = LQ, by positive diagonal
    values = np.linalg.svd(np.concatenate([square, above], axis=1), compute_uv=False)
    np.testing.assert_allclose(end["lam"], values, rtol=1e-7)
    for q in (end["u"], end["v"]):
        np.testing.assert_allclose(adjoint(q) @ q, np.broadcast_to(np.eye(r), (50, r, r)), atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_phase_of_a_number_turns_as_that_of_a_power(depth, rng):
    """1×1 matrices of integer depth are ``X = Yᴺ``, with Y in a plane: to the second order of a step."""
    y, temperature, noise = 0.8, 0.7, [gaussian(rng, 200, 1, 1)] * 3

    def error(h):
        end, _ = advance(
            repeat(np.ones((1, 1), complex), [y], np.ones((1, 1), complex), 200),
            np.empty((200, 0, 0)), np.zeros((200, 1)), noise, depth, h, temperature,
        )  # fmt: skip
        x = (end["u"] * end["lam"][:, None] ** depth) @ adjoint(end["v"])
        exact = (y + (2 * h * temperature / depth) ** 0.5 * noise[0]) ** depth
        return np.abs(x - exact).max()

    assert error(1e-4) < (1e-13 if depth == 1 else 1e-2)
    assert error(1e-6) <= max(error(1e-4) / 50, 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "n", "r", "depth", "noise"),
    [
        (2, 2, 2, 1, "base"),
        (2, 2, 2, 2, "base"),
        (3, 2, 2, 3, "base"),
        (3, 3, 2, 2, "isotropic"),
        (2, 2, 2, 2.5, "isotropic"),
    ],
)
def test_the_laws_are_exact_to_a_per_cent(m, n, r, depth, noise, rng):
    def energy(s):
        return np.sum(s ** (2 / depth), axis=-1) / 2

    law = SpectralLaw(energy, SpectralEntropy(m, n, depth, r, field="complex"), 2.0, noise)
    # A quadratic potential leaves no bias at any step; the entropy, whose slope is infinite at zero, one of h².
    chains, (h, steps, thin) = 4000, (0.3, 60, 3) if noise == "base" else (0.06, 120, 8)
    sampler = Langevin(space_of(m, n, r, depth), HALF, 2.0, h * depth, noise=noise)
    samples = sampler.sample(start(rng, chains, m, n, r, depth), steps, burn_in=steps // 3, thin=thin, rng=rng)
    s = np.linalg.svd(samples.points, compute_uv=False)[..., :r]
    found = {"energy": energy(s), "largest": s[..., 0] ** (1 / depth)}
    exact = {"energy": law.mean(energy), "largest": law.mean(lambda s: s[:, 0] ** (1 / depth))}
    if noise == "base":  # βλ²/2 are eigenvalues of a complex Wishart matrix, of trace r(m + n − r)
        assert exact["energy"] == pytest.approx(r * (m + n - r) / 2.0, rel=1e-8)
    for name, values in found.items():
        mean, error = values.mean(), values.mean(axis=1).std() / chains**0.5
        assert error < 0.0035 * exact[name]
        assert abs(mean - exact[name]) < min(3.2 * error, 0.01 * exact[name]), name


def test_the_laws_of_invariant_energies_and_their_phases(rng):
    """Quickly, of ``½‖X‖²`` by its gradient: the mean energy, the virial, and a determinant of any phase."""
    chains, beta, depth = 1500, 2.0, 2
    sampler = Langevin(
        space_of(2, 2, 2, depth), lambda x: x, beta, 0.1, potential=lambda x: np.sum(np.abs(x) ** 2, axis=(1, 2)) / 2
    )
    u = np.broadcast_to(np.eye(2, dtype=complex), (chains, 2, 2))
    samples = sampler.sample((u, np.full((chains, 2), 0.9), u), 90, burn_in=50, thin=4, rng=rng)
    assert np.iscomplexobj(samples.points)
    law = SpectralLaw(lambda s: np.sum(s**2, axis=-1) / 2, SpectralEntropy(2, 2, depth, field="complex"), beta)
    for values, exact in (
        (samples.statistics["energy"], law.mean(law.energy)),
        (samples.statistics["virial"], 1.0),
    ):
        error = values.mean(axis=1).std() / chains**0.5
        assert abs(values.mean() - exact) < 3.5 * error + 0.003 * exact
        assert error < 0.02 * exact
    det = np.linalg.det(samples.points)
    for power in (1, 2):
        phase = ((det / np.abs(det)) ** power).mean(axis=1)
        assert abs(phase.mean()) < 4 * phase.std() / chains**0.5
    table = samples.summary()
    assert "points.imag[0, 1]" in table.index


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_an_energy_that_is_not_invariant_has_the_law_of_a_quadrature(depth, rng):
    """``½|X|² − Re c̄X`` of complex numbers, of the density ``λ e^{−βE}`` in the plane of (λ, phase)."""
    beta, c, chains = 1.5, 1.2 - 0.9j, 8000
    lam, phase = np.meshgrid((np.arange(1000) + 0.5) / 1000 * 4.5 ** (1 / depth), np.arange(128) / 64 * np.pi)
    x = lam**depth * np.exp(1j * phase)
    p = lam * np.exp(-beta * (np.abs(x) ** 2 / 2 - (c.conjugate() * x).real))
    p /= p.sum()
    x0 = x.ravel()[rng.choice(p.size, chains, p=p.ravel())].reshape(-1, 1, 1)
    sampler = Langevin(space_of(1, 1, 1, depth), lambda x: x - c, beta, 0.16 / depth**2)
    samples = sampler.sample(x0, 250, burn_in=50, thin=5, rng=rng)
    z, weights = samples.points[..., 0, 0], p
    observables = (
        lambda x: (c.conjugate() * x).real,
        lambda x: np.abs(x) ** 2,
        lambda x: (c.conjugate() * x / np.abs(x)).real,
    )
    for observable in observables:
        values, exact = observable(z).mean(axis=1), np.sum(weights * observable(x))
        error = values.std() / chains**0.5
        assert error < 0.006 * exact
        assert abs(values.mean() - exact) < min(3 * error, 0.01 * exact)
    cross = (c.conjugate() * z).imag.mean(axis=1)
    assert abs(cross.mean()) < 4 * cross.std() / chains**0.5


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "depth"), [(2, 2, 2), (2, 2, 3), (3, 2, 2.5)])
def test_energies_that_turn_frames_have_a_virial_of_one_and_no_mean_drift(m, n, depth, rng):
    """Of ``½‖X − C‖²``. The entries of X are harmonic, so that ``⟨A_X(E′)⟩ = 0`` is the mean of their generator."""
    chains, c = 2500, matrix(rng, m, n, [1.5, 1.0])
    sampler = Langevin(space_of(m, n, 2, depth), lambda x: x - c, 1.5, 0.02)
    samples = sampler.sample(np.repeat(c[None], chains, axis=0), 200, burn_in=100, thin=10, rng=rng)
    virial = samples.statistics["virial"].mean(axis=1)
    assert virial.std() / chains**0.5 < 0.008
    assert abs(virial.mean() - 1) < 3 * virial.std() / chains**0.5 + 0.005
    x = samples.points.reshape(-1, m, n)
    frame = Frame.at(x, DepthKernel(depth))
    along = np.sum(c.conj() * frame.cometric(x - c), axis=(1, 2)).reshape(chains, -1).mean(axis=1)
    pull = np.sum(c.conj() * frame.cometric(c), axis=(1, 2)).real.mean()  # what it is made of
    for part in (along.real, along.imag):
        error = part.std() / chains**0.5
        assert error < 0.01 * pull
        assert abs(part.mean()) < 3 * error + 0.005 * pull


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(2, 2, 2, 3), (4, 2, 2, 2), (4, 3, 2, 2.5)])
def test_brownian_motion_has_the_moments_of_gaussian_matrices(m, n, r, depth, rng):
    """``⟨Σλ²⟩ = Σλ₀² + 2r(m + n − r) t/N``, with as many steps as one likes."""
    chains, h, steps = 3000, 0.2, 6
    begin = start(rng, chains, m, n, r, depth)
    samples = BrownianMotion(space_of(m, n, r, depth), h).sample(begin, steps, burn_in=steps - 1, rng=rng)
    square = np.sum(np.linalg.svd(samples.points[:, 0], compute_uv=False)[:, :r] ** (2 / depth), axis=1)
    exact = np.sum(begin[1][0] ** 2) + 2 * r * (m + n - r) * h * steps / depth
    assert abs(square.mean() - exact) < 4 * square.std() / chains**0.5


def test_spaces_of_geomstats_and_checkpoints(tmp_path, rng):
    space = ComplexMatrices(3, 2, equip=False).equip_with_metric(DLNMetric, depth=3)
    sampler = Langevin(space, lambda x: x, 1.0, 0.05, noise="isotropic")
    x = matrix(rng, 3, 2, [1.0, 0.5])
    whole = sampler.sample(x, 8, rng=1)
    assert whole.points.shape == (1, 8, 3, 2)
    assert np.all(gs.to_numpy(space.belongs(gs.from_numpy(whole.points[0]))))
    sampler.sample(x, 4, rng=1, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(sampler.sample(x, 8, rng=1, checkpoint=tmp_path / "run").points, whole.points)
    real = sampler.sample(np.ascontiguousarray(x.real), 2, rng=1)  # a real point among complex ones
    assert np.iscomplexobj(real.points)


def test_what_complex_chains_have_not_is_refused(rng):
    space = ComplexMatrices(2, 2, equip=False).equip_with_metric(SpectralMetric, kernel=InfiniteDepthKernel())
    with pytest.raises(NotImplementedError, match="finite depth"):
        Langevin(space, lambda x: x, 1.0, 0.1)
    part = HPDMatrices(2, equip=False).equip_with_metric(DLNMetric, depth=2)
    with pytest.raises(NotImplementedError, match="a part of the matrices"):
        Langevin(part, lambda x: x, 1.0, 0.1)
    with pytest.raises(NotImplementedError, match="noise of gradients"):
        Langevin(space_of(2, 2, 2, 2), lambda x: x, 1.0, 0.1, noise=LabelNoise(np.eye(4).reshape(4, 2, 2), 1.0, 0.1))
    sampler = Langevin(space_of(2, 2, 2, 2), lambda x: x, 1.0, 1e200)
    with pytest.raises(ValueError, match="not finite or lost rank"):
        sampler.sample(matrix(rng, 2, 2, [1.0, 0.5]), 5, rng=0)
    with pytest.raises(ValueError, match="rank below 2"):
        sampler.sample(matrix(rng, 2, 2, [1.0]), 5, rng=0)
    real = Langevin(FixedRankMatrices(2, 2, 2), lambda x: x, 1.0, 0.1)
    with pytest.raises(TypeError, match="must be real numbers"):
        real.sample(matrix(rng, 2, 2, [1.0, 0.5]), 5, rng=0)
