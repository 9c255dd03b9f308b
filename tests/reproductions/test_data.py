"""What ``data.py`` measures, on a part of its data, against definitions and the metrics that depths must agree with."""

import data as script
import numpy as np
import pytest
from data_report import interval


@pytest.fixture(scope="module")
def windows():
    return script.covariances("rr", 1)


def test_windows_are_those_of_one_sign_and_recording_each(windows):
    assert windows.x.shape == (60, 8, 8)
    np.testing.assert_array_equal(np.bincount(windows.sign), 12)
    np.testing.assert_array_equal(np.bincount(windows.recording), 5)
    np.testing.assert_array_equal(np.bincount(windows.session), 30)
    assert np.linalg.eigvalsh(windows.x).min() > 1e-3
    assert np.trace(windows.x.mean(axis=0)) == pytest.approx(8)


@pytest.mark.parametrize(("depth", "known"), [("depth 1", "Euclidean"), ("depth 2", "Bures–Wasserstein")])
@pytest.mark.parametrize("task", ["mean", "nearest mean", "neighbours"])
def test_depths_1_and_2_give_what_geomstats_gives(task, depth, known, windows):
    ours, theirs = (script.TASKS[task](script.space_of(name), windows) for name in (depth, known))
    for column in set(ours) - {"seconds", "rest"}:
        np.testing.assert_allclose(ours[column], theirs[column], atol=1e-4)


def test_coordinates_are_orthonormal_and_by_descending_variance(windows):
    space = script.space_of("affine-invariant")
    centre = script.mean(space, windows.x)
    about = script.coordinates(space, space.metric.log(windows.x, centre), centre)
    np.testing.assert_allclose(np.linalg.norm(about, axis=1), np.ravel(space.metric.dist(windows.x, centre)), rtol=1e-6)
    power = np.sum(about**2, axis=0)
    assert (np.diff(power) <= 1e-9 * power[0]).all()


def test_neighbours_of_the_same_recording_do_not_count():
    """Recordings lie on a line, with signs in turn: the nearest windows have the same sign, the nearest others not."""
    recording = np.repeat(np.arange(4), 6)
    x = (1 + recording + 0.01 * np.tile(np.arange(6), 4))[:, None, None] * np.eye(8)
    found = script.neighbours(script.space_of("Euclidean"), script.Data(x, recording % 2, recording))
    assert found["accuracy"] == [0, 0, 0, 0]


def test_intervals_are_those_of_the_mean():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    mid, low, high = interval(values)
    assert mid == values.mean()
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
