"""What the reproductions of entropy, equilibria, noise and balancing find, and that their pages say it."""

import balancing_rates
import entropy_formula
import free_energy_equilibria
import mixed_dynamics
import numpy as np
import projected_noise
import pytest
from cells import published

from dlngeo.thermodynamics.free_energy import orbit_volume


def cells_of(script, tables):
    return published(f"literature/{script.__name__}", tables)


# Menon and Yu.


def test_the_page_on_the_entropy_formula_says_what_was_found():
    for cell in cells_of(entropy_formula, (entropy_formula.volumes, entropy_formula.orthonormality)):
        assert cell["gram"] < 1e-13
        assert max(cell[name] for name in ("orthonormal", "vertical", "submersion")) < 1e-13
        if cell["thrown"] is not None:
            assert cell["error"] < 0.05 * cell["thrown"]
            assert abs(cell["thrown"] - cell["formula"]) < 2 * cell["error"]


@pytest.mark.parametrize(("d", "depth", "samples", "accuracy"), [(2, 2, 400_000, 0.02), (2, 3, 400_000, 0.1)])
def test_points_thrown_on_an_orbit_measure_its_volume(d, depth, samples, accuracy):
    exact = float(orbit_volume(np.diag(entropy_formula.spectrum(d)), depth))
    value, error, _ = entropy_formula.thrown_volume(d, depth, samples, entropy_formula.RADIUS[d, depth], seed=5)
    assert error < accuracy * exact
    assert abs(value - exact) < 3.2 * error


def test_a_cell_of_the_entropy_formula_is_computed_again():
    (stored,) = (c for c in cells_of(entropy_formula, ()) if (c["d"], c["depth"]) == (3, 3))
    cell = entropy_formula.compute(3, 3, 0)
    assert cell["formula"] == pytest.approx(stored["formula"], rel=1e-3)
    assert cell["gram"] < 1e-13


# Chen, Kotwal and Menon.


def test_the_page_on_equilibria_says_what_was_found():
    cells = cells_of(free_energy_equilibria, free_energy_equilibria.TABLES)
    for cell in cells:
        assert cell["minimisers"] == 1
        assert cell["gap"] < 1e-9
        assert cell["dimension"] == cell["d"] * (cell["d"] - 1) // 2
        for name in ("common", "apart"):
            assert cell[name] == pytest.approx(cell[f"{name} formula"], rel=1e-3)
        assert cell["geodesic"] == pytest.approx(cell["geodesic formula"], rel=1e-3)
        assert cell["geodesic"] > 0
        flat = (cell["d"], cell["depth"]) == (2, 2)
        assert abs(cell["euclidean"]) < 1e-11 if flat else cell["euclidean"] < -0.1
        for q, ratio in zip(free_energy_equilibria.POWERS, cell["powers"], strict=True):
            if q > cell["threshold"]:
                assert ratio == pytest.approx(1, abs=1e-3)
    (shown,) = (c for c in cells if (c["d"], c["depth"]) == (3, 4))
    assert shown["powers"][free_energy_equilibria.POWERS.index(0.6)] > 1000


def test_entropy_along_the_geodesic_is_that_of_its_singular_values():
    t = np.array([-0.4, 0.1, 0.6])
    s = np.stack([(1 + t) ** 4, np.ones(3), (1 - t) ** 4], axis=-1)
    phi = [(s[:, k] ** 2 - s[:, j] ** 2) / (s[:, k] ** 0.5 - s[:, j] ** 0.5) for k, j in ((0, 1), (0, 2), (1, 2))]
    found = free_energy_equilibria.along_geodesic(3, 4, t)
    np.testing.assert_allclose(np.diff(found), np.diff(np.sum(np.log(phi), axis=0) / 2), rtol=1e-7)


# Menon, Stromme and Vacher.


def test_the_page_on_projected_noise_says_what_was_found():
    cells = cells_of(projected_noise, (projected_noise.laws, projected_noise.equivalence))
    found = {c["process"]: c for c in cells}
    for cell in cells:
        assert cell["mean error"] < 0.015 * cell["mean"]
        assert abs(cell["mean"] - cell["exact"]) < 3.2 * cell["mean error"]
    first = found["projected"]

    def gaps(name):
        other = found[name]
        error = np.hypot(first["error"], other["error"])
        return (np.array(first["value"]) - other["value"]) / error

    assert np.max(np.abs(gaps("isotropic, corrected"))) < 3.5
    assert np.min(gaps("isotropic")) < -10


def test_the_exact_means_are_those_of_other_reckonings():
    """Of the measure of degree D in σ and an energy of degree 2, the mean energy is D/2β."""
    d, beta = projected_noise.SIDE, projected_noise.BETA
    assert projected_noise.exact("base", 1.0) == pytest.approx(d * d / 4 / beta, rel=1e-6)
    kappa = 0.25
    degree = d * d / 2 + d * (d - 1) / 4 / kappa  # S adds d(d − 1)/4 logarithms of σ, 1/κ times
    assert projected_noise.exact("isotropic", kappa) == pytest.approx(kappa * degree / 2 / beta, rel=1e-6)


@pytest.mark.slow
def test_projected_noise_has_the_law_of_corrected_isotropic_noise():
    first, second = (projected_noise.compute(name, 1500, 0.02) for name in ("projected", "isotropic, corrected"))
    gaps = (np.array(first["value"]) - second["value"]) / np.hypot(first["error"], second["error"])
    assert np.max(np.abs(gaps)) < 3.5
    assert max(first["error"]) < 0.03 * min(first["value"])


# Lindsey and Menon.


def test_the_page_on_balancing_says_what_was_found():
    for cell in cells_of(balancing_rates, (balancing_rates.rates,)):
        assert cell["drift"] < 1e-9
        if cell["predicted"] is None:
            assert cell["rate"] == pytest.approx(1, abs=0.1)
        else:
            assert cell["rate"] == pytest.approx(cell["predicted"], rel=0.02)
            assert abs(cell["norm"]) < 1e-6
        assert cell["exact"] is None or cell["exact"] < 1e-8


def test_the_rate_of_the_moment_flow_is_measured_again():
    cell = balancing_rates.compute((2, 2, 2, 3), "moment")
    assert cell["rate"] == pytest.approx(cell["predicted"], rel=0.02)


# Tu, Aranguri and Jacot.


def test_the_page_on_mixed_dynamics_says_what_was_found():
    for cell in cells_of(mixed_dynamics, (mixed_dynamics.agreement,)):
        assert cell["kernel"] < 1e-14
        assert cell["flow"] < 1e-11 < 1e-3 * cell["moved"]
        assert cell["above"] == pytest.approx(1, abs=1e-3)
        assert cell["below"] == pytest.approx(1 if cell["offset"] == 0 else 0, abs=1e-3)


def test_layers_of_an_offset_follow_the_published_equation():
    assert mixed_dynamics.compute(0.3)["flow"] < 1e-11
