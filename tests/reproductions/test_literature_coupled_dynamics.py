"""Rank one and coupling: the closed form of the limit, and the page."""

import coupled_dynamics as script
import numpy as np
import pytest
from cells import published


@pytest.mark.parametrize(("size", "depth"), [(2, 2), (3, 3), (3, "∞")])
def test_limits_are_those_of_the_closed_form(size, depth):
    assert script.compute(size, depth, 0.1, 2.0)["error"] < 1e-8


@pytest.mark.parametrize("depth", [2, 3, "∞"])
def test_a_diagonal_start_ends_at_the_identity(depth):
    assert script.compute(2, depth, 0.1, np.inf)["ratio"] == pytest.approx(1, abs=1e-8)


def test_smaller_starts_lower_the_rank_above_depth_2():
    small = [script.limit(script.start(2, depth, 1e-9, 4.0), script.number(depth)) for depth in (2, 3, 5, "∞")]
    ratios = [low / high for high, low in small]
    assert ratios[0] == pytest.approx(9 / 25)  # ((1 − 1/m)/(1 + 1/m))²
    assert max(ratios[1:]) < 1e-6


def test_the_page_says_what_was_found():
    cells = published("literature/coupled_dynamics", script.TABLES)
    assert max(c["error"] for c in cells) < 1e-8
    for c in cells:
        if c["depth"] == 2 or np.isinf(c["coupling"]):
            assert c["ratio"] > 0.03
        elif c["scale"] == min(script.SCALES) and c["coupling"] < 100:
            assert c["ratio"] < 3e-3
