"""Laws of the singular values against Gaussian and Wishart integrals, equipartition, and importance sampling."""

import math

import numpy as np
import pytest
from scipy.special import digamma

from dlngeo import DepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.brownian import brownian_drift, brownian_moments
from dlngeo.thermodynamics.entropy import SpectralEntropy, log_orthogonal_volume
from dlngeo.thermodynamics.free_energy import entropy
from dlngeo.thermodynamics.laws import SpectralLaw
from dlngeo.weights.balanced import dimension

# m, n, rank, depth
SHAPES = [(2, 2, 2, 3), (3, 4, 2, 2), (3, 3, 3, 4), (4, 3, 1, 2.5), (2, 3, 2, 8)]


def half_norm(depth):
    """``½ Σ λ_k²`` as a function of σ."""
    return lambda s: np.sum(s ** (2 / depth), axis=-1) / 2


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (2, 4), (3, 3)])
def test_partition_function_of_a_gaussian_matrix(m, n):
    law = SpectralLaw(half_norm(1), SpectralEntropy(m, n, 1), 1.7)
    assert law.log_partition() == pytest.approx(m * n / 2 * math.log(2 * math.pi / 1.7), rel=1e-12)
    assert law.mean(lambda s: np.sum(s**2, axis=-1)) == pytest.approx(m * n / 1.7, rel=1e-12)


@pytest.mark.parametrize(("m", "n", "rank", "depth"), SHAPES)
def test_moments_of_wishart_matrices(m, n, rank, depth):
    """``Tr A`` and ``Tr A²`` of ``A ~ W_r(ν)``, ν = m + n − r, in ``βλ²``."""
    law, nu = SpectralLaw(half_norm(depth), SpectralEntropy(m, n, depth, rank), 0.6), m + n - rank
    first = law.mean(lambda s: np.sum(s ** (2 / depth), axis=-1)) * 0.6
    second = law.mean(lambda s: np.sum(s ** (4 / depth), axis=-1)) * 0.6**2
    log_det = law.mean(lambda s: np.sum(np.log(s), axis=-1)) * 2 / depth + rank * math.log(0.6)
    assert first == pytest.approx(rank * nu, rel=1e-11)
    assert second == pytest.approx(rank * nu * (nu + rank + 1), rel=1e-11)
    # The determinant is a product of χ² variables, with ν, ν − 1, … degrees of freedom.
    assert log_det == pytest.approx(sum(digamma((nu - i) / 2) + math.log(2) for i in range(rank)), abs=1e-5)


@pytest.mark.parametrize("beta", [0.3, 40.0])
@pytest.mark.parametrize(
    ("widths", "rank"), [((3, 3, 3, 3), 3), ((4, 2, 5, 3), 2), ((3, 4, 4, 4, 2), 1)], ids=["square", "wide", "rank 1"]
)
def test_isotropic_noise_shares_energy_equally(widths, rank, beta):
    """``⟨½Σλ²⟩ = dim/2β`` with the dimension of the balanced weights, of which the law is the image."""
    depth = len(widths) - 1
    spectral = SpectralEntropy(widths[-1], widths[0], depth, rank, widths)
    law = SpectralLaw(half_norm(depth), spectral, beta, noise="isotropic")
    mean = law.mean(lambda s: np.sum(s ** (2 / depth), axis=-1))
    assert mean == pytest.approx(dimension(widths, rank) / beta, rel=1e-11)


@pytest.mark.parametrize("noise", ["base", "isotropic"])
@pytest.mark.parametrize(
    ("m", "n", "depth"),
    [(2, 3, 1.5), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 2, 1.3), (1, 2, 1.5)))],
)
def test_law_by_importance_sampling(rng, m, n, depth, noise):
    """Gaussian matrices, weighted by the volume density at each, know nothing of the SVD's Jacobian.

    At small depths, since at greater ones the density is not square-integrable near singular matrices.
    """
    beta, count = 1.3, 200_000

    def energy(s):
        return np.sum(s**2 / 2 + np.cos(s), axis=-1)

    x = 1.2 * rng.standard_normal((count, m, n))
    frame = Frame.at(x, DepthKernel(depth))
    log_weight = frame.log_volume_density() - beta * energy(frame.s) + np.sum(x**2, axis=(-2, -1)) / (2 * 1.44)
    log_weight = log_weight + m * n / 2 * math.log(2 * math.pi * 1.44)
    if noise == "isotropic":
        log_weight = log_weight + entropy(x, depth)
    law = SpectralLaw(energy, SpectralEntropy(m, n, depth), beta, noise=noise)
    weight = np.exp(log_weight - law.log_partition())
    for f in (lambda s: np.ones(len(s)), lambda s: s[:, 0], lambda s: np.log(s[:, -1])):
        values, exact = weight * (f(frame.s) - law.mean(f)), 0.0
        if np.ptp(f(frame.s)) == 0:
            values, exact = weight, 1.0
        error = np.std(values) / count**0.5
        assert error < 0.02
        assert abs(np.mean(values) - exact) < 3.5 * error


@pytest.mark.parametrize("kappa", [0.2, 0.7, 3.0])
def test_anisotropy_leaves_the_free_energy_and_scales_the_temperature(kappa):
    """At any depth the energy is shared equally: e^{S/κ} has a degree in λ, and ``e^{−βE/κ}`` a χ² law."""
    m, n, rank, depth, widths, beta = 4, 3, 2, 3, (3, 4, 2, 4), 1.3
    spectral = SpectralEntropy(m, n, depth, rank, widths)
    law = SpectralLaw(half_norm(depth), spectral, beta, "isotropic", kappa=kappa)
    degree = dimension(widths, rank) - rank * (m + n - rank)  # of e^S, in λ
    mean = law.mean(lambda s: np.sum(s ** (2 / depth), axis=-1))
    assert mean == pytest.approx(kappa / beta * (rank * (m + n - rank) + degree / kappa), rel=1e-9)
    free = SpectralLaw(lambda s: half_norm(depth)(s) - spectral(s) / beta, spectral, beta / kappa)
    lam = np.array([[1.5, 0.7], [0.4, 0.3]])
    np.testing.assert_allclose(law.log_density(lam), free.log_density(lam), rtol=1e-12)
    with pytest.raises(ValueError, match="kappa must be positive"):
        SpectralLaw(np.sum, spectral, beta, "isotropic", kappa=0)
    with pytest.raises(ValueError, match="pass noise='isotropic'"):
        SpectralLaw(np.sum, spectral, beta, kappa=kappa)


def test_density_and_mean_agree_with_a_plain_quadrature():
    law = SpectralLaw(lambda s: np.sum(s, axis=-1), SpectralEntropy(2, 2, 2), 1.0, noise="isotropic")
    grid = (np.arange(1500) + 0.5) * 8 / 1500
    lam = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    lam = lam[lam[:, 0] > lam[:, 1]]
    density = np.exp(law.log_density(lam))
    assert math.log(np.sum(density) * (8 / 1500) ** 2) == pytest.approx(law.log_partition(), abs=1e-4)
    assert np.sum(density * lam[:, 1]) / np.sum(density) == pytest.approx(law.mean(lambda s: s[:, 1] ** 0.5), rel=1e-4)


def test_refusals():
    spectral = SpectralEntropy(2, 2, 2)
    with pytest.raises(ValueError, match="grows too slowly"):
        SpectralLaw(lambda s: np.zeros(s.shape[:-1]), spectral, 1.0).log_partition()
    with pytest.raises(ValueError, match="noise must be"):
        SpectralLaw(np.sum, spectral, 1.0, noise="upstairs")
    with pytest.raises(ValueError, match="finite depth"):
        SpectralLaw(np.sum, SpectralEntropy(2, 2, math.inf), 1.0)
    with pytest.raises(ValueError, match="too many"):
        SpectralLaw(half_norm(2), SpectralEntropy(5, 5, 2), 1.0).log_partition()
    with pytest.raises(TypeError, match="energy must be a function"):
        SpectralLaw(1.0, spectral, 1.0)
    with pytest.raises(TypeError, match=r"entropy must be a SpectralEntropy, .* got function"):
        SpectralLaw(half_norm(2), entropy, 1.0)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (np.sum, r"energy has shape \(\) at singular values of shape"),
        (lambda s: s, "energy has shape .* give one for each row"),
        (lambda s: np.full(s.shape[:-1], np.nan), "the density is NaN or zero everywhere"),
        (lambda s: np.where(s[..., 0] < 1.5, np.nan, np.sum(s, axis=-1)), "the energy is NaN at some singular values"),
    ],
    ids=["sum of all", "none summed", "NaN", "NaN somewhere"],
)
def test_energies_that_are_none_are_refused(energy, message):
    with pytest.raises(ValueError, match=message):
        SpectralLaw(energy, SpectralEntropy(2, 2, 2), 1.0).log_partition()


def test_arguments_of_wrong_shape_or_order_are_refused():
    law = SpectralLaw(half_norm(2), SpectralEntropy(2, 2, 2), 1.0)
    for lam in ([1.0, 2.0], [1.0, 0.0], [1.0, -1.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="positive, finite and decreasing"):
            law.log_density(lam)
    with pytest.raises(ValueError, match=r"2 values λ are expected on the last axis, got shape \(3,\)"):
        law.log_density([3.0, 2.0, 1.0])
    for lam in (1.0, [-1.0], [[1.0]], [math.nan]):
        with pytest.raises(ValueError, match="one array of numbers of at least 0"):
            law.density(lam)
    for function in (lambda s: s, lambda s: np.ones(3)):
        with pytest.raises(ValueError, match="the function gave shape"):
            law.mean(function)


@pytest.mark.parametrize("noise", ["base", "isotropic"])
def test_a_law_too_narrow_for_the_nodes_is_refused(noise):
    """Close to ``σ = 2``, where at N = 2 and β = 10⁴ the mean would be off by far more than the spread."""
    spectral = SpectralEntropy(2, 2, 2)

    def law(beta, n_nodes):
        return SpectralLaw(lambda s: np.sum((s - 2) ** 2, axis=-1), spectral, beta, noise, n_nodes)

    with pytest.raises(ValueError, match=r"too narrow for 80 nodes.*raise n_nodes"):
        law(1e4, 80).mean(lambda s: np.mean(s, axis=-1))
    # Laplace: with h = s₁ − s₂ of density h e^{−βh²/2}, up to factors that vary by the relative width.
    found = law(1e4, 1200)
    assert found.mean(lambda s: np.mean(s, axis=-1)) == pytest.approx(2, abs=1e-4)
    assert found.mean(lambda s: s[:, 0] - s[:, 1]) == pytest.approx(math.sqrt(math.pi / 2 / 1e4), rel=1e-3)


@pytest.mark.parametrize("depth", [60, 100])
def test_isotropic_laws_of_deep_networks_share_energy_equally_too(depth):
    """Where ``σ = λ^N`` leaves the range of doubles within that of λ."""
    beta = depth / 4  # keeps σ = λ^N itself in it
    law = SpectralLaw(half_norm(depth), SpectralEntropy(2, 2, depth), beta, noise="isotropic", n_nodes=160)
    mean = beta * law.mean(lambda s: np.sum(s ** (2 / depth), axis=-1))
    assert mean == pytest.approx(dimension((2,) * (depth + 1), 2), rel=1e-7)
    # At β = κ the density is e^{−E + S/κ} times that of dvol_g, so that ∂ log Z/∂κ = −⟨S⟩ at κ = 1.
    law, h = SpectralLaw(half_norm(depth), SpectralEntropy(3, 3, depth), 1.0, noise="isotropic", n_nodes=48), 1e-4
    up, down = (
        SpectralLaw(half_norm(depth), law.entropy, k, "isotropic", 48, kappa=k).log_partition() for k in (1 + h, 1 - h)
    )
    assert law.mean(law.entropy) == pytest.approx(-(up - down) / (2 * h), rel=1e-6)
    assert law.mean_entropy() == pytest.approx(law.mean(law.entropy), rel=1e-12)
    spectral, lam = SpectralEntropy(4, 3, depth, 2), np.array([[1.1, 0.9], [0.3, 0.29]])
    with_entropy, without = (
        SpectralLaw(half_norm(depth), spectral, 1.0, noise).log_density(lam) for noise in ("isotropic", "base")
    )
    np.testing.assert_allclose(with_entropy - without, spectral(lam**depth), rtol=1e-12)


@pytest.mark.parametrize("noise", ["base", "isotropic"])
@pytest.mark.parametrize(("m", "n", "rank", "depth"), [*SHAPES, pytest.param(4, 4, 4, 2, marks=pytest.mark.slow)])
def test_the_density_of_one_value_integrates_to_means(m, n, rank, depth, noise):
    law = SpectralLaw(
        half_norm(depth), SpectralEntropy(m, n, depth, rank), 2.0, noise, n_nodes={1: 100, 2: 80, 3: 60, 4: 30}[rank]
    )
    high = law._bounds[1]
    x, w = np.polynomial.legendre.leggauss(100)
    x, w = (x + 1) / 2 * high, w / 2 * high
    density = law.density(x)
    tolerance = 1e-6 if rank < 4 else 1e-4
    assert np.sum(w * density) == pytest.approx(1, abs=tolerance)
    for power in (1, 2, 3):
        mean = law.mean(lambda s, power=power: np.mean(s ** (power / depth), axis=-1))
        assert np.sum(w * x**power * density) == pytest.approx(mean, rel=10 * tolerance)
    assert law.density([high, 2 * high]).tolist() == [0, 0]


def test_the_mean_of_the_entropy_of_deep_networks():
    """Under base noise many λ are small, and ``σ = λ^N`` is zero.

    On 2×2 matrices ``S = (N − 1)(log c_2 + log λ_1) + ½ log((1 − ρ^N)/(1 − ρ))``, ``ρ = λ_2²/λ_1²``, and the law of
    λ is that of depth 1.
    """
    depth, gaussian = 200, SpectralLaw(half_norm(1), SpectralEntropy(2, 2, 1), 1.0)

    def exact(s):
        rho = (s[:, 1] / s[:, 0]) ** 2
        return (depth - 1) * np.log(s[:, 0]) + np.log((1 - rho**depth) / (1 - rho)) / 2

    law = SpectralLaw(half_norm(depth), SpectralEntropy(2, 2, depth), 1.0)
    constant = (depth - 1) * log_orthogonal_volume(2)
    assert law.mean_entropy() == pytest.approx(constant + gaussian.mean(exact), abs=1e-6 * depth)
    law = SpectralLaw(half_norm(3), SpectralEntropy(4, 3, 3, 2, (3, 4, 2, 4)), 1.0)
    assert law.mean_entropy() == pytest.approx(law.mean(law.entropy), rel=1e-9)


def test_the_density_of_one_of_two_values_as_an_integral():
    """With E = ½Σλ² on 2×2 matrices ``p(x) ∝ ∫ |x² − y²| e^{−(x² + y²)/2} dy``, at every depth."""
    law = SpectralLaw(half_norm(3), SpectralEntropy(2, 2, 3), 1.0)
    y = np.linspace(0, 12, 40_001)
    x = np.array([0.05, 0.6, 1.0, 2.5])
    inner = np.abs(x[:, None] ** 2 - y**2) * np.exp(-(x[:, None] ** 2 + y**2) / 2)
    np.testing.assert_allclose(law.density(x), np.trapezoid(inner, y) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: brownian_drift([2.0, 0.0], DepthKernel(2), (2, 2)), ValueError, "smallest singular value is 0"),
        (lambda: brownian_drift(2.0, DepthKernel(2), (2, 2)), ValueError, "add an axis"),
        (lambda: brownian_drift(["2"], DepthKernel(2), (2, 2)), TypeError, "singular values must be real numbers"),
        (lambda: brownian_drift([2.0], DepthKernel(2), 2), ValueError, "shape must be a pair"),
        (lambda: brownian_moments([2.0, 1.0], 1.0, 2, (2.5, 3)), TypeError, "rows must be an integer"),
        (lambda: brownian_moments([2.0, 0.0], 1.0, np.inf, (2, 2)), ValueError, "smallest singular value is 0"),
        (lambda: brownian_moments([2.0, 1.0, 0.5], 1.0, 2, (3, 2)), ValueError, "rank 3 exceeds"),
    ],
)
def test_brownian_motion_is_asked_for_singular_values_of_a_shape(call, error, match):
    with pytest.raises(error, match=match):
        call()
