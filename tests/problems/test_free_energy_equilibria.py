"""Free energies of any cost: derivatives, equilibria, branches over the temperature, and what confines them."""

import math
import warnings

import numpy as np
import oracles
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from scipy.optimize import minimize

from dlngeo.flows.limits import hessian_eigenvalues
from dlngeo.geomstats import DLNMetric
from dlngeo.problems import (
    ComplexCompletion,
    FreeEnergy,
    FunctionCost,
    LowRankApproximation,
    MatrixCompletion,
    MatrixSensing,
    Regression,
    UnboundedError,
    branches,
    confinement,
    continuation,
    equilibria,
)
from dlngeo.problems.equilibrium import classified, newton
from dlngeo.sampling import ConstrainedHMC, Langevin, Noise, UnconfinedWarning, UpstairsLangevin

DIAGONAL = MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2))
CORNER = MatrixCompletion([0, 0, 1], [0, 1, 0], [1.0, 0.5, 0.5], (2, 2))  # X_22 is hidden
DECAY = 0.02


def literal(energy, x, beta, depth, decay=0.0, ridge=0.0):
    """F of an invertible matrix up to a constant, by its definition."""
    s = np.linalg.svd(x)[1]
    pairs = [(s[k], s[j]) for k in range(len(s)) for j in range(k)]
    logs = [math.log((a**2 - b**2) / (a ** (2 / depth) - b ** (2 / depth))) for a, b in pairs]
    return energy(x) + decay * depth / 2 * np.sum(s ** (2 / depth)) + ridge / 2 * np.sum(x**2) - sum(logs) / 2 / beta


def difference(f, h):
    """Central difference at 0, extrapolated."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


@pytest.mark.parametrize(("depth", "decay", "ridge"), [(2, 0.3, 0.0), (3, 0.0, 0.2), (5, 0.4, 0.1), (2.5, 0.7, 0.0)])
def test_derivatives_are_those_of_the_definition(rng, depth, decay, ridge):
    cost = LowRankApproximation(rng.standard_normal((3, 3)))
    free = FreeEnergy(cost, 1.7, depth, decay=decay, ridge=ridge)
    x, z = oracles.dense(*oracles.factors(rng, 3, 3, (1.7, 0.9, 0.5))), rng.standard_normal((3, 3)) / 5

    def f(t):
        return literal(cost.cost, x + t * z, 1.7, depth, decay, ridge)

    assert free.cost(x + z) - free.cost(x) == pytest.approx(f(1.0) - f(0.0), rel=1e-12)
    assert np.sum(free.euclidean_gradient(x) * z) == pytest.approx(difference(f, 1e-3), rel=1e-8)
    product = difference(lambda t: free.euclidean_gradient(x + t * z), 1e-3)
    np.testing.assert_allclose(free.euclidean_hessian(x, z), product, rtol=1e-7, atol=1e-8)
    assert free.curvature(x, z) == pytest.approx(np.sum(product * z), rel=1e-7)
    factored = np.linalg.svd(x)
    np.testing.assert_allclose(free.euclidean_gradient(factored), free.euclidean_gradient(x), rtol=1e-11, atol=1e-12)
    batch = np.stack([x, z])
    np.testing.assert_allclose(free.euclidean_gradient(batch)[1], free.euclidean_gradient(z), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(free.cost(batch), [free.cost(x), free.cost(z)], rtol=1e-13)


def test_functions_are_costs(rng):
    a = rng.standard_normal((3, 2))
    given = FunctionCost(lambda x: np.sum(np.cosh(x - a)), lambda x: np.sinh(x - a), (3, 2))
    x, z = rng.standard_normal((2, 3, 2))
    np.testing.assert_allclose(given.euclidean_hessian(x, z), np.cosh(x - a) * z, rtol=1e-8, atol=1e-9)
    exact = FunctionCost(lambda x: 0.0, lambda x: 0 * x, (3, 2), lambda x, z: np.cosh(x - a) * z)
    assert exact.curvature(x, z) == pytest.approx(np.sum(z * np.cosh(x - a) * z))
    assert FunctionCost(lambda x: math.nan, lambda x: x, (3, 2)).cost(x) == math.inf
    with pytest.raises(TypeError, match="euclidean_gradient must be a function"):
        FunctionCost(lambda x: 0.0, None, (3, 2))
    with pytest.raises(ValueError, match="the gradient"):
        FunctionCost(lambda x: 0.0, lambda x: x[:2], (3, 2)).euclidean_gradient(x)


@pytest.mark.parametrize(("d", "depth", "beta"), [(2, 2, 1.0), (3, 3, 2.0), (3, math.inf, 0.7)])
def test_the_minimisers_of_the_quadratic_energy_are_orthogonal_matrices(d, depth, beta):
    """Theorem of Chen, Kotwal and Menon, by a search that knows nothing of singular values."""
    (found,) = equilibria(LowRankApproximation(np.zeros((d, d))), beta=beta, depth=depth, n_starts=4, rng=1)
    np.testing.assert_allclose(found.s, math.sqrt((d - 1) * (1 - 1 / depth) / (2 * beta)), rtol=1e-8)
    assert (found.kind, found.dimension, found.index) == ("degenerate minimum", d * (d - 1) // 2, 0)
    np.testing.assert_allclose(found.x.T @ found.x, found.s[0] ** 2 * np.eye(d), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_minimisers_are_those_of_a_search_on_the_entries(rng, depth):
    """Nelder–Mead from a grid of 2×2 matrices, on the literal formula, finds the same and no other minima."""
    cost = LowRankApproximation(np.array([[1.0, 0.4], [-0.3, 0.5]]))
    found = equilibria(cost, beta=4.0, depth=depth, n_starts=6, rng=0)
    minima, ends = [one for one in found if one.kind == "minimum"], []
    grid = np.stack(np.meshgrid(*[[-1.1, 0.9]] * 4), axis=-1).reshape(-1, 2, 2)[::2]
    starts = [(x, 0.05) for x in grid] + [(one.x + one.s[-1] / 9, one.s[-1] / 9) for one in minima]
    for x, size in starts:
        for _ in range(2):
            options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 3000}
            options["initial_simplex"] = np.ravel(x) + size * np.eye(5)[:, :4]
            x = minimize(
                lambda y: literal(cost.cost, y.reshape(2, 2), 4.0, depth),
                x.ravel(),
                method="Nelder-Mead",
                options=options,
            ).x
        ends.append(x.reshape(2, 2))
    assert all(min(np.abs(end - one.x).max() for one in minima) < 1e-5 for end in ends)
    assert all(min(np.abs(end - one.x).max() for end in ends) < 1e-5 for one in minima)
    free = FreeEnergy(cost, 4.0, depth)
    for one in minima:
        np.testing.assert_allclose(one.eigenvalues, hessian_eigenvalues(free, one.x, depth), rtol=1e-6)
        assert one.residual < 1e-9


@pytest.mark.slow
def test_saddles_have_the_index_of_the_hessian():
    """With the diagonal observed and a ridge, the antisymmetric pair of minima surrounds a saddle of index 1."""
    found = equilibria(DIAGONAL, beta=8.0, depth=2, ridge=DECAY, n_starts=9, saddles=True, rng=0)
    diagonal = [one for one in found if np.abs(one.x - np.diag(np.diag(one.x))).max() < 1e-8 and one.rank == 2]
    assert [(one.kind, one.index) for one in diagonal if np.all(np.diag(one.x) > 0)] == [("saddle", 1)]
    free = FreeEnergy(DIAGONAL, 8.0, 2, ridge=DECAY)

    def along(t):
        return free.cost(diagonal[0].x + t * np.array([[0, 1], [-1, 0]]))

    assert along(1e-2) < along(0)


# At a matrix of one rank less.


@pytest.mark.parametrize("depth", [2, 3, 4, 2.5])
def test_the_slope_across_the_lower_rank_is_that_of_the_definition(rng, depth):
    """About ``diag(1, 0)`` of 2×2 and a matrix of rank 2 of 3×3."""
    for s in ([0.8], [1.3, 0.7]):
        d = len(s) + 1
        u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
        cost = LowRankApproximation(rng.standard_normal((d, d)))
        low = FreeEnergy(cost, 1.3, depth, decay=0.4).lower()
        assert low is not None
        point = u[:, :-1], np.array(s), v[:, :-1].T
        base = (point[0] * point[1]) @ point[2]
        lam = np.array([3e-3, 6e-3])

        def f(t, sign, u=u, v=v, cost=cost, base=base):
            return literal(cost.cost, base + sign * t**depth * np.outer(u[:, -1], v[:, -1]), 1.3, depth, 0.4)

        values = np.array([min(f(t, 1), f(t, -1)) for t in lam])
        if depth in (2, 2.5, 3):  # take the term of the gradient off, which falls faster than λ² above N = 2
            normal = abs(u[:, -1] @ cost.euclidean_gradient(base) @ v[:, -1])
            values = values + (normal * lam**depth if depth > 2 else 0)
        slope = (values[1] - values[0]) / (lam[1] ** 2 - lam[0] ** 2)
        assert low.transverse(point) == pytest.approx(slope, rel=2e-3, abs=2e-4)


def test_where_the_free_energy_extends_to_the_lower_rank():
    target = LowRankApproximation(np.eye(3))
    assert FreeEnergy(target, 1.0, 3).lower().rank == 2
    assert FreeEnergy(target, 1.0, 3, rank=2).lower() is None  # inner layers of width 3: S → −∞
    assert FreeEnergy(target, 1.0, 3, rank=2, widths=(3, 2, 2, 3)).lower().rank == 1
    assert FreeEnergy(target, 1.0, math.inf).lower() is None
    assert FreeEnergy(target, 1.0, 1).lower() is None  # where nothing is singular, F is that of its critical points
    point = np.eye(3)[:, :2], np.ones(2), np.eye(3)[:2]
    assert FreeEnergy(target, 1.0, 1.5).lower().transverse(point) == -math.inf  # −e λ^N, e = 1
    assert math.isfinite(FreeEnergy(LowRankApproximation(np.zeros((3, 3))), 1.0, 1.5).lower().transverse(point))
    free = FreeEnergy(target, 1.0, 3)
    u = np.eye(3)
    near = [free.cost((u, np.array([1.0, 0.5, t]), u)) for t in (1e-9, 1e-12, 0.0)]
    assert near[0] == pytest.approx(near[2], abs=1e-5)
    assert free.cost((u, np.array([1.0, 0.0, 0.0]), u)) == math.inf


@pytest.mark.parametrize(("decay", "kind"), [(0.34, "minimum"), (1 / 3, "degenerate minimum"), (0.33, "saddle")])
def test_the_slope_across_the_lower_rank_decides_what_an_equilibrium_is(decay, kind):
    """At ``diag(1, 0)`` of three layers and β = 1 it is ``3/2 (μ − 1/3)``."""
    target = np.diag([1 + decay - 2 / 3, 0.0])  # where F of rank 1, with S = ⅔ log σ, is stationary at σ = 1
    found = classified(
        FreeEnergy(LowRankApproximation(target), 1.0, 3, decay=decay), (np.eye(2, 1), np.ones(1), np.eye(1, 2))
    )
    assert (found.kind, found.index, found.dimension) == (kind, 0, 0)
    assert found.transverse == pytest.approx(1.5 * (decay - 1 / 3), abs=1e-14)
    assert found.residual < 1e-14


# The phase change.


def exact_corner(beta):
    """At N = 2, where ``Σ ½‖W_p‖²`` is the nuclear norm ν: with X_22 = c > ¼, ``ν = 1 + c = 1/(2βμ)``."""
    c = 1 / (2 * beta * DECAY) - 1
    return np.linalg.svd([[1.0, 0.5], [0.5, c]])[1]


@pytest.mark.slow
def test_two_layers_lose_rank_continuously():
    """``β_c = 1/(2μ(1 + b²)) = 20``, where σ₂ goes to zero linearly, and so λ₂ like the root."""
    start = next(
        one for one in equilibria(CORNER, beta=10.0, depth=2, decay=DECAY, n_starts=6, rng=0) if one.x[1, 1] > 0.25
    )
    betas = np.append(20 - np.geomspace(10, 0.05, 9), [22.0, 40.0])
    branch = continuation(CORNER, start, betas, depth=2, decay=DECAY)
    (change,) = branch.transitions
    assert (change.kind, change.before.rank, change.after.rank) == ("rank", 2, 1)
    assert change.beta == pytest.approx(20, rel=1e-8)
    np.testing.assert_allclose(branch.s[:9], [exact_corner(beta) for beta in betas[:9]], rtol=1e-6)
    assert [one.kind for one in branch.equilibria] == ["minimum"] * 11
    slope = np.polyfit(np.log(20 - betas[5:9]), np.log(branch.s[5:9, 1]), 1)[0]
    assert slope == pytest.approx(1, abs=0.02)
    back = continuation(CORNER, branch.equilibria[-1], betas[::-1], depth=2, decay=DECAY)
    assert back.transitions[0].beta == pytest.approx(20, rel=1e-8)
    assert back.s[-1, 1] in (pytest.approx(exact_corner(10)[1]), pytest.approx(1.1043560, abs=1e-6))


@pytest.mark.slow
def test_three_layers_lose_rank_by_a_jump():
    """One more layer, and the term ``−e λ³`` makes the change of first order: the way back is another."""
    at = {"depth": 3, "decay": DECAY}
    betas = np.linspace(14.0, 32.0, 10)
    low = next(one for one in equilibria(CORNER, beta=14.0, n_starts=6, rng=0, **at) if one.rank == 2)
    up = continuation(CORNER, low, betas, **at)
    down = continuation(CORNER, up.equilibria[-1], betas[::-1], **at)
    assert [t.kind for t in up.transitions] == ["fold"]
    assert up.transitions[0].before.s[1] > 0.05 * up.transitions[0].before.s[0]
    assert all(t.beta < up.transitions[0].beta - 1 for t in down.transitions)


def test_a_pitchfork_of_full_rank():
    """With a ridge instead: at ``β = 1/(4ρ)`` the identity loses its symmetry, which needs no lower rank."""
    start = equilibria(DIAGONAL, beta=20.0, depth=2, ridge=DECAY, n_starts=3, rng=0)[0]
    branch = continuation(DIAGONAL, start, np.linspace(20, 9, 7), depth=2, ridge=DECAY)
    (change,) = branch.transitions
    assert (change.kind, change.beta) == ("bifurcation", pytest.approx(12.5, rel=1e-7))
    x = branch.x[-1]
    assert abs(x[0, 1]) > 0.3
    assert x[0, 1] == pytest.approx(-x[1, 0])
    still = continuation(DIAGONAL, start, np.linspace(20, 9, 7), depth=2, ridge=DECAY, minimisers=False)
    assert [one.kind for one in still.equilibria][-1] == "saddle"
    assert still.transitions == []


def test_a_branch_starts_at_an_equilibrium():
    start = equilibria(DIAGONAL, beta=20.0, depth=2, ridge=DECAY, n_starts=3, rng=0)[0]
    with pytest.raises(ValueError, match="increasing or decreasing"):
        continuation(DIAGONAL, start, [20.0, 10.0, 15.0], depth=2, ridge=DECAY)
    with pytest.raises(ValueError, match="increasing or decreasing"):
        continuation(DIAGONAL, start, 20.0, depth=2, ridge=DECAY)
    with pytest.raises(ValueError, match="no equilibrium at β = 3"):
        continuation(DIAGONAL, start, [3.0, 4.0], depth=2, ridge=DECAY)


COMPLEX = ComplexCompletion([0], [0], [1j], (2, 2))
ENERGY = FunctionCost(lambda x: 0.0, lambda x: x, (2, 2))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: FreeEnergy(COMPLEX, 1.0, 2), TypeError, "a cost of complex matrices"),
        (lambda: confinement(COMPLEX, 2), TypeError, "a cost of complex matrices"),
        (lambda: confinement("x", 2), TypeError, "must be a cost of dlngeo.problems, got str"),
        (lambda: confinement(ENERGY, 2, noise=Noise("isotropic", 0.0)), ValueError, "has no law"),
        (lambda: confinement(ENERGY, math.inf, decay=1.0), ValueError, "of infinitely many layers"),
        (lambda: continuation(ENERGY, None, [1.0, 2.0], depth=2), TypeError, "must be an Equilibrium"),
        (lambda: FunctionCost(ENERGY.cost, ENERGY.euclidean_gradient, 2), ValueError, r"a pair \(m, n\)"),
        (lambda: ENERGY.euclidean_hessian(np.eye(2), np.ones(2)), ValueError, "the direction has shape"),
        (lambda: FreeEnergy(ENERGY, 1.0, 2).transverse(np.eye(2)), ValueError, "no singular value can open"),
        (lambda: FreeEnergy(ENERGY, 1.0, math.inf).transverse(np.eye(2)), ValueError, "no singular value can open"),
    ],
)
def test_bad_input_says_what_to_give(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_steps_along_a_branch_follow_its_tangent(monkeypatch):
    starts = []

    def recorded(free, start, **options):
        starts.append(start[1])
        return newton(free, start, **options)

    cost = LowRankApproximation(np.zeros((2, 2)))
    (start,) = equilibria(cost, beta=1.0, depth=2, n_starts=1, rng=0)
    monkeypatch.setattr(branches, "newton", recorded)
    continuation(cost, start, [1.0, 1.01], depth=2)
    np.testing.assert_allclose(starts[-1], 0.5 / math.sqrt(1.01), atol=1e-4)  # 1/(2√β), which moves by 2.5e-3


def test_a_singular_value_opens_downhill(rng):
    cost = LowRankApproximation(rng.standard_normal((3, 4)))
    u, s, vt = np.linalg.svd(rng.standard_normal((3, 4)), full_matrices=False)
    low = classified(FreeEnergy(cost, 1.0, 2, decay=0.1), (u[:, :2], s[:2], vt[:2]))
    left, values, right = branches._opened(FreeEnergy(cost, 1.0, 2, decay=0.1), low)
    gradient = cost.euclidean_gradient(low.x)
    normal = (np.eye(3) - u[:, :2] @ u[:, :2].T) @ gradient @ (np.eye(4) - vt[:2].T @ vt[:2])
    assert values[-1] > 0
    assert left[:, -1] @ gradient @ right[-1] == pytest.approx(-np.linalg.norm(normal, 2))


# What is not confined.


def growth_of_the_mass(depth, vertical):
    """Exponent of ``dM/da``, the mass of ``e^{νS} dvol_g`` on ``[[1, a], [b, 1]]`` at large a > |b|, by quadrature.

    With ``1 − ab = ∓ a e^y`` nothing cancels.
    """

    def mass(a):
        total = 0.0
        for sign in (1, -1):
            y = np.linspace(-120.0, math.log(a), 20001)
            b = 1 / a + sign * np.exp(y)
            det = a * np.exp(y)
            s1 = (np.sqrt(2 + a**2 + b**2 + 2 * det) + np.sqrt(np.maximum(2 + a**2 + b**2 - 2 * det, 0))) / 2
            s2 = det / s1
            with np.errstate(invalid="ignore", divide="ignore"):
                phi = np.where(
                    s1 > s2 * (1 + 1e-9),
                    (s1**2 - s2**2) / (s1 ** (2 / depth) - s2 ** (2 / depth)),
                    depth * s1 ** (2 - 2 / depth),
                )
            own = depth * (s1 * s2) ** (1 - 1 / depth)  # √(φ(σ₁, σ₁) φ(σ₂, σ₂))
            total += np.trapezoid(phi ** (vertical / 2 - 1) / own * np.exp(y), y)
        return total

    return math.log(mass(1e9) / mass(1e7)) / math.log(100)


@pytest.mark.parametrize("noise", ["base", "isotropic", Noise("isotropic", 0.5), Noise("isotropic", 2.0)])
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_the_mass_of_the_law_is_finite_where_the_exponents_say(depth, noise):
    strengths = Noise.of(noise)
    eps, vertical = 1 - 1 / depth, strengths.vertical / strengths.kappa
    exponent = growth_of_the_mass(depth, vertical)
    expected = max(2 - 4 * eps + vertical * eps, 1 - 3 * eps + vertical * eps) - 1
    assert exponent == pytest.approx(expected, abs=0.02)
    told = confinement(DIAGONAL, depth, noise=noise)
    assert told.finite == (expected < -1 - 1e-9)
    assert told.bounded is False


@pytest.mark.parametrize("depth", [2, 4])
def test_along_the_ray_the_free_energy_falls_without_end(depth):
    told = confinement(DIAGONAL, depth)
    free = FreeEnergy(DIAGONAL, 50.0, depth)
    values = np.array([free.cost(np.eye(2) + t * told.ray) for t in 10.0 ** np.arange(2, 8)])
    np.testing.assert_allclose(np.diff(values), -(1 - 1 / depth) * math.log(10) / 50, rtol=2e-2)
    with pytest.raises(UnboundedError, match=r"not bounded below at any β.*decay"):
        equilibria(DIAGONAL, beta=50.0, depth=depth, n_starts=2, rng=0)


def test_what_confines():
    assert confinement(DIAGONAL, 2, ridge=1e-6).bounded
    assert confinement(DIAGONAL, 2, decay=1e-6).finite
    whole = MatrixCompletion.from_matrix(np.ones((2, 3)))
    assert (confinement(whole, 4).bounded, confinement(whole, 4).finite) == (True, True)
    assert confinement(DIAGONAL, 1).bounded  # no entropy
    assert confinement(DIAGONAL, 1).finite is False
    narrow = confinement(DIAGONAL, 2, rank=1, widths=(2, 1, 2))
    assert narrow.bounded  # nor here
    assert narrow.ray is None
    assert confinement(DIAGONAL, 2, rank=1).bounded is False
    unknown = FunctionCost(lambda x: 0.0, lambda x: 0 * x, (2, 2))
    assert confinement(unknown, 2).bounded is None


def test_tall_matrices_are_decided_as_wide_ones():
    hidden = np.zeros((14, 3), dtype=bool)
    hidden[:10, :2] = True
    for shown in (~hidden, ~hidden.T):
        rows, cols = np.nonzero(shown)
        data = MatrixCompletion(rows, cols, np.ones(rows.size), shown.shape)
        assert confinement(data, 4).finite is False  # p_1 = 10 + 2 − 1, against ¾ (16 − 2)


@pytest.mark.parametrize("turned", [False, True])
def test_rays_of_rank_one_are_of_the_kernel(rng, turned):
    """Data on one combination of the rows, or of the columns: ``uᵀX``, or ``Xu``."""
    u = rng.standard_normal(3)
    atoms = np.stack([np.outer(e, u) if turned else np.outer(u, e) for e in np.eye(3)])
    ray = confinement(MatrixSensing(atoms, np.ones(3)), 2, rank=1).ray
    assert np.linalg.matrix_rank(ray) == 1
    np.testing.assert_allclose(ray @ u if turned else u @ ray, 0, atol=1e-12)


def test_what_the_dimensions_leave_open_is_not_decided():
    told = confinement(MatrixCompletion([0], [0], [1.0], (3, 3)), 10, noise="base")
    assert told.finite is None  # q = 1: 4 < 4.5, q = 3: 8 < 8.1, and q = 2: at most 8, against 7.2
    assert "perhaps infinite" in told.reason


def test_samplers_say_that_there_is_no_law():
    space = GeneralLinear(2, equip=False)
    space.equip_with_metric(DLNMetric, depth=3)
    confined = MatrixCompletion.from_matrix(np.eye(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Langevin(space, DIAGONAL.euclidean_gradient, 1.0, 0.01)  # of base noise at N = 3
        Langevin(space, confined.euclidean_gradient, 1.0, 0.01, noise="isotropic")
        Langevin(space, DIAGONAL.euclidean_gradient, 1.0, 0.01, noise="isotropic", kappa=4.0)
        Langevin(space, lambda x: 0 * x, 1.0, 0.01)
    for make in (
        lambda: Langevin(space, DIAGONAL.euclidean_gradient, 1.0, 0.01, noise="isotropic"),
        lambda: UpstairsLangevin((2, 2, 2), DIAGONAL.euclidean_gradient, 1.0, 0.01),
        lambda: ConstrainedHMC((2, 2, 2), DIAGONAL.cost, DIAGONAL.euclidean_gradient, 1.0, 0.1, 3),
    ):
        with pytest.warns(UnconfinedWarning, match="ridge"):
            make()


def test_regression_and_sensing(rng):
    inputs = rng.standard_normal((3, 2))
    told = confinement(Regression(inputs, rng.standard_normal((4, 2))), 3, rank=1)
    assert told.bounded is False
    np.testing.assert_allclose(told.ray @ inputs, 0, atol=1e-12)
    assert np.linalg.matrix_rank(told.ray) == 1
    assert confinement(Regression(rng.standard_normal((3, 5)), rng.standard_normal((4, 5))), 3).bounded
    full = MatrixSensing(rng.standard_normal((9, 3, 3)), rng.standard_normal(9))
    assert confinement(full, 2).bounded
    few = MatrixSensing(rng.standard_normal((8, 3, 3)), rng.standard_normal(8))
    assert confinement(few, 2).bounded is False
    assert confinement(few, 2, rank=1).bounded is None  # its kernel is a line, of a matrix of rank 3


def test_a_black_box_that_runs_away_is_named():
    given = FunctionCost(DIAGONAL.cost, DIAGONAL.euclidean_gradient, (2, 2), DIAGONAL.euclidean_hessian)
    with pytest.raises(UnboundedError, match="ran away") as caught:
        equilibria(given, beta=2.0, depth=3, n_starts=1, rng=0)
    assert np.abs(np.diag(caught.value.ray)).max() < 1e-3
    found = equilibria(given, beta=2.0, depth=3, ridge=0.1, n_starts=2, rng=0)
    assert found[0].kind == "minimum"
