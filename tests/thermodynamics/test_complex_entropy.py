"""The entropy of complex matrices against Gram determinants and Gaussian integrals, its derivatives and its laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from complex_numbers import adjoint, gaussian, matrix
from scipy import stats
from user_kernels import Product

import dlngeo
from dlngeo.kernels import DepthKernel, RelaxedDepthKernel, of_depth
from dlngeo.thermodynamics.entropy import SpectralEntropy, log_stiefel_volume, require_spectral
from dlngeo.thermodynamics.equilibria import relaxation_rates
from dlngeo.thermodynamics.free_energy import (
    entropy,
    entropy_gradient,
    entropy_hessian,
    free_energy_gradient,
    orbit_volume,
)
from dlngeo.thermodynamics.kernel_entropy import KernelEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

# m, n, depth, inner widths or None, singular values.
CASES = {
    "full": (3, 3, 3, None, (1.7, 0.9, 0.2)),
    "two equal": (3, 3, 2, None, (2.1, 0.8, 0.8)),
    "close": (3, 3, 3, None, (1.1, 1.1 + 1e-9, 0.3)),
    "wide": (4, 2, 3, (3, 4), (1.4, 0.8)),
    "low rank": (4, 3, 3, (3, 4), (1.1, 0.4)),
    "one layer": (3, 4, 1, None, (1.4, 0.7)),
    "real depth": (3, 3, 2.5, None, (1.4, 0.7, 0.3)),
    "infinite": (3, 3, math.inf, None, (1.4, 0.7, 0.7)),
}
RELAXED = RelaxedDepthKernel([0, 0.7, 0.2])


def at(case):
    m, n, depth, inner, s = case
    return {"depth": depth, "rank": len(s), "widths": None if inner is None else (n, *inner, m)}


def generators(q):
    """Orthonormal skew-Hermitian matrices that turn the columns of q, in the Frobenius metric of U(d)."""
    d, r = q.shape
    full = np.hstack((q, np.linalg.qr(q, mode="complete")[0][:, r:]))
    out = []
    for i in range(r):
        for k in range(i, d):
            a, b = full[:, [i]], full[:, [k]]
            both = (
                [1j * a @ adjoint(a)]
                if i == k
                else [a @ adjoint(b) - b @ adjoint(a), 1j * (a @ adjoint(b) + b @ adjoint(a))]
            )
            out += [g / np.linalg.norm(g) for g in both]
    return out


def volume_by_gram(u, s, vt, inner, layers):
    """Orbit volume: that of the Stiefel manifolds times the Gram determinant of the generated vectors."""
    lam, r = np.diag(np.asarray(s) ** (1 / layers)), len(s)
    q = [adjoint(vt), *(np.linalg.qr(gaussian(np.random.default_rng(d), d, r))[0] for d in inner), u]
    weights = [b @ lam @ adjoint(a) for a, b in pairwise(q)]
    rows, total = [], 0.0
    for p, d in enumerate(inner, 1):
        total += sum(math.log(2) + k * math.log(math.pi) - math.lgamma(k) for k in range(d - r + 1, d + 1))
        total += (d * (d - 1) - (d - r) * (d - r - 1)) / 2 * math.log(2)
        for g in generators(q[p]):
            moved = [np.zeros_like(w) for w in weights]
            moved[p - 1], moved[p] = g @ weights[p - 1], -weights[p] @ g
            rows.append(np.concatenate([x.ravel() for x in moved]))
    gram = (np.conj(rows) @ np.transpose(rows)).real
    return total + np.linalg.slogdet(gram)[1] / 2, weights


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("one layer", "real depth", "infinite")])
def test_entropy_is_the_volume_of_the_orbit_by_gram_determinants(name, rng):
    m, n, depth, inner, s = CASES[name]
    x = matrix(rng, m, n, s)
    u, _, vt = np.linalg.svd(x)
    inner = inner or (min(m, n),) * (depth - 1)
    expected, weights = volume_by_gram(u[:, : len(s)], s, vt[: len(s)], inner, depth)
    np.testing.assert_allclose(dlngeo.end_to_end(weights), x, atol=1e-8)
    np.testing.assert_allclose(entropy(x, **at(CASES[name])), expected, rtol=1e-12)


def test_it_is_the_formula_of_both_fields(rng):
    """``(N − 1) log c_d + β/2 Σ_{k<l} log φ_kl + (β − 1)/2 Σ_k log φ_kk`` at full rank."""
    for depth in (2, 3, 2.5, 6):
        s, phi = np.array([1.5, 0.8, 0.3]), of_depth(depth)
        table = np.log(phi(s[:, None], s))
        pairs, own = np.sum(np.triu(table, 1)), np.sum(np.diag(table))
        for field, value in (("real", pairs / 2), ("complex", pairs + own / 2)):
            spectral = SpectralEntropy(3, 3, depth, field=field)
            np.testing.assert_allclose(spectral(s), (depth - 1) * log_stiefel_volume(3, 3, field) + value, rtol=1e-12)
            np.testing.assert_allclose(spectral(2 * s) - spectral(s), spectral.degree * math.log(2), rtol=1e-12)
    np.testing.assert_allclose(math.exp(log_stiefel_volume(1, 1, "complex")), 2 * math.pi)
    np.testing.assert_allclose(math.exp(log_stiefel_volume(2, 2, "complex")), 8 * math.pi**3)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_the_entropy(name, rng):
    m, n, _, _, s = case = CASES[name]
    x, z, options = matrix(rng, m, n, s), gaussian(rng, m, n), at(case)
    h, r = 1e-4, len(s)

    def cut(y):
        u, t, vt = np.linalg.svd(y, full_matrices=False)
        return (u[:, :r] * t[:r]) @ vt[:r]

    def difference(function):
        one, two = ((function(cut(x + t * z)) - function(cut(x - t * z))) / (2 * t) for t in (h, 2 * h))
        return (4 * one - two) / 3

    gradient = entropy_gradient(x, **options)
    slope = difference(lambda y: entropy(y, **options))
    np.testing.assert_allclose(np.vdot(gradient, z).real, slope, rtol=1e-6, atol=1e-8)
    product = entropy_hessian(z, x, **options)
    changed = difference(lambda y: entropy_gradient(y, **options))
    np.testing.assert_allclose(product, changed, rtol=1e-5, atol=1e-6 * max(1, np.abs(product).max()))
    w = gaussian(rng, m, n)
    np.testing.assert_allclose(np.vdot(w, product).real, np.vdot(z, entropy_hessian(w, x, **options)).real, rtol=1e-6)


def test_the_limit_of_infinite_depth(rng):
    x, r, d = matrix(rng, 4, 3, [1.4, 0.7]), 2, 3
    limit, errors = entropy(x, math.inf, rank=2), []
    for depth in (1e3, 1e4):
        value = entropy(x, depth, rank=2)
        errors.append(value - (depth - 1) * log_stiefel_volume(d, r, "complex") - r**2 / 2 * math.log(depth) - limit)
    assert abs(errors[1]) < 1e-3
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.05)
    np.testing.assert_allclose(entropy_gradient(x, 1e8, 2), entropy_gradient(x, math.inf, 2), atol=1e-6)


@pytest.mark.parametrize("kernel", [DepthKernel(3), RELAXED, Product(), DepthKernel(2.5)], ids=repr)
def test_entropies_of_kernels(kernel, rng):
    s = np.array([1.4, 0.9, 0.9, 0.3])
    spectral = KernelEntropy(4, 4, kernel, field="complex")
    if kernel.depth is not None:
        other = SpectralEntropy(4, 4, kernel.depth, field="complex")
        np.testing.assert_allclose(spectral.gradient(s), other.gradient(s), rtol=1e-11)
        np.testing.assert_allclose(spectral.hessian(s), other.hessian(s), rtol=1e-9, atol=1e-10)
        off = ~np.eye(4, dtype=bool)
        for one, two in zip(spectral.quotients(s), other.quotients(s), strict=True):
            np.testing.assert_allclose(one[off], two[off], rtol=1e-8)
        change = spectral(2 * s) - spectral(s), other(2 * s) - other(s)
        np.testing.assert_allclose(*change, rtol=1e-12)
    x, z, h = matrix(rng, 4, 4, s), gaussian(rng, 4, 4), 1e-4
    slope = (entropy(x + h * z, kernel=kernel) - entropy(x - h * z, kernel=kernel)) / (2 * h)
    np.testing.assert_allclose(np.vdot(entropy_gradient(x, kernel=kernel), z).real, slope, rtol=1e-5)
    ahead, behind = (entropy_gradient(x + t * z, kernel=kernel) for t in (h, -h))
    np.testing.assert_allclose(entropy_hessian(z, x, kernel=kernel), (ahead - behind) / (2 * h), atol=3e-6)


def test_the_orbit_of_layers_with_offsets_by_gram_determinant(rng):
    """Layers ``Q_p (x + c_p)^{1/2} Q_{p−1}*`` with ``Q_p`` in U(d): Jacobi determinants are ``φ(σ_k, σ_l)`` again."""
    offsets, d = np.array([0.0, 0.7, 0.2]), 3
    x = np.array([1.2, 0.5, 0.3])
    layers = [np.diag(np.sqrt(x + c)).astype(complex) for c in offsets]
    rows = []
    for p in (1, 2):
        for g in generators(np.eye(d, dtype=complex)):
            moved = [np.zeros((d, d), complex) for _ in layers]
            moved[p - 1], moved[p] = g @ layers[p - 1], -layers[p] @ g
            rows.append(np.concatenate([w.ravel() for w in moved]))
    gram = (np.conj(rows) @ np.transpose(rows)).real
    expected = 2 * log_stiefel_volume(d, d, "complex") + np.linalg.slogdet(gram)[1] / 2
    s = np.sqrt(np.prod(x + offsets[:, None], axis=0))
    np.testing.assert_allclose(
        KernelEntropy(d, d, RelaxedDepthKernel(offsets), field="complex")(s), expected, rtol=1e-12
    )


# Laws.


def half_norm(depth):
    return lambda s: np.sum(s ** (2 / depth), axis=-1) / 2


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (3, 2), (2, 4)])
def test_the_partition_function_of_a_gaussian_matrix(m, n):
    law = SpectralLaw(half_norm(1), SpectralEntropy(m, n, 1, field="complex"), 1.7)
    np.testing.assert_allclose(law.log_partition(), m * n * math.log(2 * math.pi / 1.7), rtol=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_partition_function_of_one_number_and_of_rank_one(depth):
    """``2π/β`` on ℂ in the coordinate ``λe^{iθ}``; on rank one a cone over two spheres with one phase in common."""
    law = SpectralLaw(half_norm(depth), SpectralEntropy(1, 1, depth, field="complex"), 2.0)
    np.testing.assert_allclose(law.log_partition(), math.log(math.pi), rtol=1e-10)
    law = SpectralLaw(half_norm(depth), SpectralEntropy(2, 3, depth, rank=1, field="complex"), 2.0)
    radial = math.factorial(3) / 2  # ∫ λ^7 e^{−λ²} dλ
    spheres = 2 * math.pi**2 * math.pi**3 / (2 * math.pi)
    np.testing.assert_allclose(law.log_partition(), math.log(radial * spheres), rtol=1e-10)


@pytest.mark.parametrize(("m", "n", "rank", "depth"), [(2, 2, 2, 3), (3, 2, 2, 1), (4, 3, 2, 4), (3, 3, 3, 2)])
def test_moments_of_complex_wishart_matrices(m, n, rank, depth):
    beta = 1.3
    law = SpectralLaw(half_norm(depth), SpectralEntropy(m, n, depth, rank, field="complex"), beta, n_nodes=60)
    # βλ²/2 are eigenvalues of G G*, G of size r×(m + n − r) with E|G_ij|² = 1.
    free = m + n - rank
    mean = law.mean(lambda s: beta / 2 * np.sum(s ** (2 / depth), axis=-1))
    square = law.mean(lambda s: beta**2 / 4 * np.sum(s ** (4 / depth), axis=-1))
    np.testing.assert_allclose(mean, rank * free, rtol=1e-9)
    np.testing.assert_allclose(square, rank * free * (rank + free), rtol=1e-9)


def test_isotropic_noise_shares_energy_equally():
    """On the balanced weights, a cone of dimension D, ``E = ½ Σ_p ‖W_p‖²`` has the mean D/2β."""
    from dlngeo.weights.balanced import dimension

    for sizes, rank in (((2, 2, 2, 2), 2), ((2, 3, 3), 2), ((3, 2, 4, 2), 1)):
        depth = len(sizes) - 1
        spectral = SpectralEntropy(sizes[-1], sizes[0], depth, rank, sizes, field="complex")

        def energy(s, depth=depth):
            return depth / 2 * np.sum(s ** (2 / depth), axis=-1)

        law = SpectralLaw(energy, spectral, 1.4, "isotropic")
        np.testing.assert_allclose(law.mean(energy), dimension(sizes, rank, "complex") / 2 / 1.4, rtol=1e-9)


def test_the_density_is_that_of_drawn_matrices(rng):
    """Singular values of Gaussian 3×2 matrices, by a Kolmogorov–Smirnov test of one of the two at random."""
    beta, count = 2.0, 4000
    s = np.linalg.svd(gaussian(rng, count, 3, 2) / math.sqrt(beta), compute_uv=False)
    law = SpectralLaw(half_norm(1), SpectralEntropy(3, 2, 1, field="complex"), beta)
    grid = np.linspace(0, 6, 800)
    density = law.density(grid)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    chosen = s[np.arange(count), rng.integers(2, size=count)]
    assert stats.kstest(chosen, lambda x: np.interp(x, grid, cumulative)).pvalue > 0.01


# Hosts and refusals.


def test_torch_differentiates_the_entropy_twice_and_others_refuse(rng):
    torch = pytest.importorskip("torch")
    x, z = matrix(rng, 3, 3, [1.3, 1.3, 0.5]), gaussian(rng, 3, 3)
    tensor = torch.from_numpy(x).requires_grad_()
    (gradient,) = torch.autograd.grad(entropy(tensor, 3), tensor, create_graph=True)
    np.testing.assert_allclose(gradient.detach().numpy(), entropy_gradient(x, 3), atol=1e-12)
    pairing = (gradient.conj() * torch.from_numpy(z)).real.sum()
    (product,) = torch.autograd.grad(pairing, tensor)
    np.testing.assert_allclose(product.numpy(), entropy_hessian(z, x, 3), atol=1e-10)
    import autograd
    import autograd.numpy as anp

    with pytest.raises(NotImplementedError, match="complex matrices are not differentiated by autograd"):
        autograd.grad(lambda y: anp.real(entropy(y, 3)))(x)
    jax = pytest.importorskip("jax")
    with pytest.raises(NotImplementedError, match="complex matrices are not differentiated by JAX"):
        entropy(jax.numpy.asarray(x), 3)


def test_free_energies_batches_and_refusals(rng):
    x = gaussian(rng, 4, 3, 2)
    values = entropy(x, 3)
    np.testing.assert_allclose(values, [entropy(one, 3) for one in x], rtol=1e-12)
    np.testing.assert_allclose(np.exp(values), orbit_volume(x, 3), rtol=1e-12)
    assert values.dtype == float
    found = free_energy_gradient(lambda y: y, x, 3, 2.0)
    np.testing.assert_allclose(found, x - entropy_gradient(x, 3) / 2, atol=1e-12)
    # The entropy of a real matrix is that of its real weights; the same matrix as a complex one has more of them.
    real = rng.standard_normal((3, 3))
    assert entropy(real, 3) != pytest.approx(entropy(real + 0j, 3))
    with pytest.raises(TypeError, match="must be real numbers"):
        free_energy_gradient(1j * real, real, 3, 2.0)
    with pytest.raises(TypeError, match="must be real numbers"):
        entropy_hessian(1j * real, real, 3)
    spectral = SpectralEntropy(3, 3, 2, field="complex")
    assert require_spectral(spectral, "complex") is spectral
    with pytest.raises(TypeError, match="entropy is that of complex matrices"):
        relaxation_rates(np.eye(3), spectral, 1.0, np.ones(3))
    with pytest.raises(ValueError, match="field must be"):
        SpectralEntropy(3, 3, 2, field="quaternionic")
