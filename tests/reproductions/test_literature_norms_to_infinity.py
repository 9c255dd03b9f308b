"""Norms that grow while the loss vanishes: what was derived, on flows and on the page."""

import math

import norms_to_infinity as script
import numpy as np
import pytest
from cells import published


@pytest.mark.parametrize("depth", [2, 4, "∞"])
def test_the_entry_grows_like_the_root_of_the_loss(depth):
    cell = script.compute(depth, 1, 0, 1e-3)
    assert cell["product"] == pytest.approx((1 + cell["det"]) / math.sqrt(2), rel=3e-3)
    losses, x = np.array(cell["path"]).T
    assert np.all(np.abs(x) * np.sqrt(losses) >= (1 - np.sqrt(2 * losses)) ** 2 / math.sqrt(2))


def test_a_negative_determinant_bounds_the_entry():
    first, last = (script.compute(3, -1, 1, loss)["entry"] for loss in (1e-4, 1e-8))
    assert first == pytest.approx(last, abs=0.05)
    assert abs(last) < 2


def test_the_page_says_what_was_found():
    cells = published("literature/norms_to_infinity", script.TABLES)
    for c in (c for c in cells if c["sign"] > 0):
        assert c["product"] == pytest.approx((1 + c["det"]) / math.sqrt(2), rel=1e-3)
        assert c["rank"] < 1.01
        if c["depth"] in (3, 4):
            assert c["det"] == pytest.approx(script.determinant(c["depth"], c["entry"]), rel=0.2)
    assert max(abs(c["entry"]) for c in cells if c["sign"] < 0) < 20


@pytest.mark.slow
def test_at_infinite_depth_the_second_singular_value_is_a_hyperbola():
    """``1/σ₂ − x`` is constant, so that the product comes to √2."""
    shifts = []
    for loss in (1e-4, 1e-6):
        cell = script.compute("∞", 1, 0, loss)
        shifts.append(cell["entry"] / cell["det"] - cell["entry"])
    assert shifts[0] == pytest.approx(shifts[1], rel=0.02)
    assert cell["product"] > 1.3
