"""What ``open_questions.py`` measures, in small, and that the page says what was found."""

import json
import math
from pathlib import Path

import fibre_noise
import numpy as np
import open_questions as script
import open_questions_report as report
import pytest
import strata

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def found():
    return json.loads((DOCS / "open-questions.json").read_text(encoding="utf-8"))


def test_the_page_has_the_tables_of_the_numbers(found):
    page = (DOCS / "open-questions.md").read_text(encoding="utf-8")
    assert set(found) == set(script.PARTS)
    for table in report.tables(found).values():
        assert table in page


# Noise along fibres.


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.9])
def test_the_growth_of_the_imbalance_on_a_hyperbola(angle):
    """Layers ``e^{±θ}``: ``‖G‖² = 4 sinh² 2θ`` over the arc length ``√(2 cosh 2θ) dθ``."""
    w = np.exp([angle, -angle]).reshape(2, 1, 1)
    c, s = math.cosh(2 * angle), math.sinh(2 * angle)
    assert fibre_noise.squared(w) == pytest.approx(4 * s**2)
    assert fibre_noise.half_laplacian(w) == pytest.approx(8 * c + 4 * s**2 / c, rel=1e-12)


def test_two_balanced_layers_lose_their_balance_at_a_known_rate(rng):
    """``½Δ‖G‖² = 4(d + 1) Σσ`` at G = 0, of 2 layers."""
    for d in (1, 2, 3):
        w = fibre_noise.balanced(d, 2, rng)
        s = np.linalg.svd(fibre_noise.product(w))[1]
        assert fibre_noise.half_laplacian(w) == pytest.approx(4 * (d + 1) * s.sum(), rel=1e-10)


def test_a_step_stays_on_the_fibre_and_balancing_does_too(rng):
    w = np.broadcast_to(fibre_noise.balanced(2, 3, rng), (5, 3, 2, 2))
    x = fibre_noise.product(w)
    for options in ({}, {"decay": 10.0}):
        moved = fibre_noise.steps(w, 1e-2, rng, **options)
        np.testing.assert_allclose(fibre_noise.product(moved), x, atol=1e-10)
        assert np.all(fibre_noise.squared(moved) > 1e-4)
    away = fibre_noise.steps(w, 1e-2, rng, returned=False)
    assert np.abs(fibre_noise.product(away) - x).max() > 1e-4


def test_noise_along_fibres_never_balances(found):
    for row in found["fibre_noise"]:
        assert row["least"] > 0.9 * row["at balance"] > 0
        assert abs(row["simulated"] - row["exact"]) < 3.5 * row["simulated_error"]
        times, medians, errors = np.array(row["fibre"]).T
        assert times[-1] == max(fibre_noise.TIMES)
        assert medians[-1] > medians[0] + 2 * errors[-1]
        # Balancing holds it at a level, the lower the faster it is.
        levels = [row[f"decay {c:g}"][-1][1] for c in fibre_noise.DECAYS]
        assert np.all(np.diff([medians[-1], *levels]) < 0)
    for row in found["fibre_noise"]:
        if row["depth"] == 2:
            s = np.linspace(1.5, 0.5, row["d"]) if row["d"] > 1 else np.ones(1)
            assert row["at balance"] == pytest.approx(4 * (row["d"] + 1) * s.sum(), rel=1e-3)


# Strata.


def test_the_dimension_is_a_codimension_and_the_chain_shows_it(found):
    assert strata.dimension(3, 3, 3, 2, "base") == 1  # of singular matrices among square ones
    assert strata.dimension(3, 5, 2, 2, "base") == (3 + 5 - 2) - 2 + 1  # of rank 1 among 2×6 matrices
    for row in found["strata"]:
        case = (row["m"], row["n"], row["rank"], row["depth"], row["noise"])
        assert row["derived"] == strata.dimension(*case)
        assert abs(row["measured"] - row["derived"]) < 3 * row["error"] + 0.03 * row["derived"]
        if row["changes"] is not None:
            assert (row["changes"] > 0.1) == (row["depth"] % 2 == 1)


# The others.


def test_the_phase_change_is_continuous_at_two_layers_and_a_jump_at_three(found):
    two, three, _ = found["phase_change"]
    assert two["up"] == pytest.approx(1 / (2 * script.DECAY * (1 + script.B**2)), rel=1e-3)
    assert (two["kind"], three["kind"]) == ("rank", "fold")
    assert abs(two["exponent"] - 1) < 0.02
    assert three["ratio"] > 0.03
    assert three["down"] < three["up"] - 1


def test_two_layers_end_at_full_rank_where_the_determinant_is_positive(found):
    cells = {(row["pattern"], row["depth"], row["scale"]): row for row in found["full_rank"]}
    diagonal = [cells["the diagonal", 2, scale] for scale in script.SCALES]
    assert np.ptp([row["positive"] for row in diagonal]) < 0.03
    assert min(row["positive"] for row in diagonal) > 0.95
    assert diagonal[-1]["negative"] == 0
    for depth in (3, 5):
        small, smaller = (cells["the diagonal", depth, scale] for scale in script.SCALES[1:])
        assert smaller["positive"] < small["positive"] - 2 * small["positive_error"]
        assert smaller["negative"] == 0
    for depth in (2, 3):
        coupled = [cells["all but X₂₁", depth, scale] for scale in script.SCALES]
        for sign in ("positive", "negative"):
            assert np.all(np.diff([row[sign + "_median"] for row in coupled]) < 0)


def test_infinite_depth_is_reached_like_one_over_depth_with_the_derived_constants(found):
    for row in found["infinite_depth"]:
        assert row["constant"] == pytest.approx(row["derived"], rel=1e-3, abs=1e-5)
        assert row["rate"] == pytest.approx(1 if row["derived"] else 2, abs=0.02)
