"""Depth and the number of steps of a regression: the script, and the page."""

import implicit_acceleration as script
import numpy as np
from cells import published


def test_fourth_powers_gain_by_depth_and_squares_lose(monkeypatch):
    monkeypatch.setattr(script, "REACH", 1e-4)
    monkeypatch.setattr(script, "LIMIT", 800)
    monkeypatch.setattr(script, "RATES", (0.5, 1.0, 2.0))
    layers = {(power, depth): script.compute(power, depth, 0)["layers"] for power in (2, 4) for depth in (1, 2)}
    assert 0 < layers[2, 1] < layers[2, 2]
    assert layers[4, 1] > 1.5 * layers[4, 2] > 0


def test_layers_follow_the_end_to_end_step_at_small_steps():
    paths = [script.descend(1, 4, 3, 0.02, 200, explicit) for explicit in (False, True)]
    apart = np.abs(paths[0] - paths[1]).max()
    assert apart < 0.02
    halves = [script.descend(1, 4, 3, 0.01, 400, explicit) for explicit in (False, True)]
    assert np.abs(halves[0] - halves[1]).max() < 0.7 * apart


def test_the_minimum_is_one():
    inputs, outputs = script.data(2)
    bottom = script.least(inputs, outputs, 4)
    w = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    assert bottom < script.loss(inputs, outputs, w, 4)[0]
    rng = np.random.default_rng(0)
    assert all(bottom < script.loss(inputs, outputs, w + 0.1 * rng.standard_normal(8), 4)[0] for _ in range(100))


def test_the_page_says_what_was_found():
    cells = published("literature/implicit_acceleration", script.TABLES)
    found = {script.key(c): c["layers"] for c in cells}
    for seed in range(3):
        assert found[2, 1, seed] < 1.05 * found[2, 2, seed]
        assert found[2, 1, seed] < 0.8 * found[2, 3, seed]
        assert all(2 < found[4, 1, seed] / found[4, depth, seed] < 6 for depth in (2, 3))
