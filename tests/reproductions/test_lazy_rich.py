"""What ``lazy_rich.py`` runs, on one seed, and that the page says what was found."""

import lazy_rich as script
import numpy as np
import pytest
from cells import published

from dlngeo.pymanopt import FixedRank, GradientFlow


@pytest.mark.parametrize(("offset", "depth", "seed"), [(0.0, 3, 1), (1e6, 2, 0)])
def test_no_offset_is_the_depth_and_a_far_one_takes_a_layer_away(offset, depth, seed):
    cell = script.compute("depth 3 to 2", offset, seed)
    truth, data = script.instance(seed)
    start = data.initial_point(rank=8, size=script.START, rng=seed)
    u, s, vt = GradientFlow().run(data.problem(FixedRank(40, 40, 8, depth=depth)), initial_point=start).point
    gap = (u * s) @ vt - truth
    gap[data.rows, data.cols] = truth[data.rows, data.cols] = 0
    assert cell["error"] == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(truth), rel=0.1)


def test_a_little_offset_keeps_the_bias_and_most_of_the_plateau():
    """What the page concludes, from the cells of its table: the plateau is lost where the bias is."""
    cells = published("relaxed", [script.table])
    at = {offset: k for k, offset in enumerate(script.OFFSETS)}
    for family in script.FAMILIES:
        error, half = (np.median(script.values(cells, family, column), axis=1) for column in ("error", "half"))
        assert error[at[1e-3]] < 1.2 * error[0]
        assert half[at[1e-3]] > 0.9 * half[0]
        shorter = half < 0.6 * half[0]
        assert shorter.any()
        assert np.min(error[shorter]) > 2 * error[0]
