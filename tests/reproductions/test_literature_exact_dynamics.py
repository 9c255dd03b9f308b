"""The closed form of mode strengths against quadrature, the flows and the page."""

import exact_dynamics as script
import numpy as np
import pytest
from cells import published
from scipy.integrate import quad


@pytest.mark.parametrize("depth", [2, 3, 5, 8])
def test_the_time_is_the_integral(depth):
    for a in (0.02, 0.5, 0.99):
        integral = quad(lambda x: 1 / (depth * x ** (2 - 2 / depth) * (1 - x)), 0.01, a, epsabs=0, epsrel=1e-12)[0]
        assert script.time_at(a, 0.01, 1.0, depth) == pytest.approx(integral, rel=1e-10)
    times = np.linspace(0, 8, 9)
    strengths = script.strength_at(times, 0.01, 1.0, depth)
    grows = strengths < 1 - 1e-6
    np.testing.assert_allclose(script.time_at(strengths[grows], 0.01, 1.0, depth), times[grows], atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
def test_flows_of_product_and_layers_are_the_closed_form(depth):
    cell = script.compute(depth, 0.1)
    assert cell["flow"] < 1e-9
    assert cell["layers"] < 1e-9


def test_the_page_says_what_was_found():
    cells = published("literature/exact_dynamics", script.TABLES)
    assert max(max(c["flow"], c.get("layers", 0.0)) for c in cells) < 1e-11
    for c in cells:
        assert c["half"] == sorted(c["half"])
