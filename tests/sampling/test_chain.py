"""Running chains: what is kept, where they stand, and going on."""

import subprocess
import sys

import numpy as np
import pytest
from networks import SQUARES, assert_same, starts

from dlngeo.geomstats import FixedRankMatrices
from dlngeo.sampling import ConstrainedHMC, Langevin, Sampler, UpstairsLangevin
from dlngeo.sampling.diagnostics import diagnose

SPACE = FixedRankMatrices(3, 4, 2, depth=3)
SAMPLERS = {
    "langevin": Langevin(SPACE, SQUARES, 2.0, 0.02),
    "retraction": Langevin(FixedRankMatrices(3, 4, 2, depth=2.5), SQUARES, 2.0, 0.02),
    "upstairs": UpstairsLangevin(SPACE, SQUARES, 2.0, 0.02, noise="isotropic"),
    "hmc": ConstrainedHMC(SPACE, SQUARES, None, 2.0, 0.2, 3),
}


class Walk(Sampler):
    """A random walk in the plane that counts its steps, and reuses the arrays it is given."""

    def start(self, points):
        return {"x": points, "steps": np.zeros(len(points), dtype=np.int32)}

    def step(self, state, rng):
        state["x"] += rng.standard_normal(state["x"].shape)
        state["steps"] += 1
        return state

    def points(self, state):
        return state["x"]

    def statistics(self, state):
        return {"steps": state["steps"], "odd": state["steps"] % 2 == 1}

    def settings(self):
        return {"sampler": "Walk"}


class Interrupted(Walk):
    """Ctrl-C in the middle of a step, with random numbers drawn and the state half changed."""

    def __init__(self, after):
        self.after = after

    def step(self, state, rng):
        state["x"] += rng.standard_normal(state["x"].shape)
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt
        state["steps"] += 1
        return state


def test_points_are_kept_every_thin_steps_after_burn_in(rng):
    start = rng.standard_normal((5, 2))
    everything = Walk().sample(start, 20, rng=1)
    assert everything.points.shape == (5, 20, 2)
    assert everything.statistics["odd"].dtype == bool
    some = Walk().sample(start, 20, burn_in=4, thin=5, rng=1)
    assert some.statistics["steps"][0].tolist() == [9, 14, 19]
    assert np.array_equal(some.points, everything.points[:, [8, 13, 18]])
    assert np.array_equal(some.state["x"], everything.points[:, -1])
    assert (some.n_steps, some.status) == (20, "complete")
    none = Walk().sample(start, 20, burn_in=4, thin=17, rng=1)
    assert none.points.shape == (5, 0, 2)
    assert none.statistics == {}


def test_draws_and_start_are_not_those_that_steps_change(rng):
    start = rng.standard_normal((1, 2))
    before = start.copy()
    samples = Walk().sample(start, 3, rng=0)
    assert np.array_equal(start, before)
    steps = np.diff(samples.points[0], axis=0, prepend=before)
    assert np.array_equal(np.round(steps, 12), np.round(np.random.default_rng(0).standard_normal((3, 2)), 12))
    state = {name: value.copy() for name, value in samples.state.items()}
    Walk().sample(samples, 3, rng=0)
    assert np.array_equal(samples.state["x"], state["x"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_point_is_one_chain_and_seeds_reproduce(name, rng):
    sampler, start = SAMPLERS[name], starts(2, rng)
    single = sampler.sample(start[0], 3, rng=5)
    assert single.points.shape == (1, 3, 3, 4)
    a, b, c = (sampler.sample(start, 3, rng=seed) for seed in (5, np.random.default_rng(5), 6))
    assert_same(a, b)
    assert a.settings == b.settings
    assert not np.array_equal(a.points, c.points)


@pytest.mark.parametrize("name", SAMPLERS)
def test_going_on_from_samples_is_one_long_run(name, rng):
    sampler, start = SAMPLERS[name], starts(3, rng)
    long = sampler.sample(start, 12, burn_in=2, thin=2, rng=7)
    generator = np.random.default_rng(7)
    first = sampler.sample(start, 6, burn_in=2, thin=2, rng=generator)
    second = sampler.sample(first, 6, thin=2, rng=generator)
    assert np.array_equal(np.concatenate([first.points, second.points], axis=1), long.points)
    for column in long.statistics:
        both = np.concatenate([first.statistics[column], second.statistics[column]], axis=1)
        np.testing.assert_array_equal(both, long.statistics[column])
    for key in long.state:
        assert np.array_equal(second.state[key], long.state[key])


@pytest.mark.parametrize("after", [1, 2, 7])
def test_ctrl_c_in_a_step_undoes_it(after, rng):
    start = rng.standard_normal((4, 2))
    whole = Walk().sample(start, 10, burn_in=2, rng=3)
    generator = np.random.default_rng(3)
    first = Interrupted(after).sample(start, 10, burn_in=2, rng=generator)
    assert (first.n_steps, first.status) == (after - 1, "interrupted")
    assert first.points.shape == (4, max(0, after - 3), 2)
    second = Walk().sample(first, 10 - first.n_steps, rng=generator)
    assert np.array_equal(second.points[:, -3:], whole.points[:, -3:])
    assert np.array_equal(second.state["steps"], whole.state["steps"])


def test_ctrl_c_between_a_point_and_its_statistics_leaves_neither(rng):
    class Sluggish(Walk):
        def statistics(self, state):
            if state["steps"][0] == 4:
                raise KeyboardInterrupt
            return super().statistics(state)

    samples = Sluggish().sample(rng.standard_normal((2, 2)), 10, rng=0)
    assert samples.points.shape == (2, 3, 2)
    assert samples.statistics["steps"].shape == (2, 3)
    assert samples.n_steps == 3


def test_ctrl_c_in_a_potential_keeps_a_consistent_state(rng):
    calls = 0

    def gradient(x):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return x

    sampler, start, generator = Langevin(SPACE, gradient, 1.0, 0.01), starts(2, rng), np.random.default_rng(8)
    first = sampler.sample(start, 9, rng=generator)
    assert (first.n_steps, first.points.shape[1]) == (4, 4)
    np.testing.assert_allclose(first.points[:, -1], sampler.points(first.state))
    second = sampler.sample(first, 5, rng=generator)
    whole = sampler.sample(start, 9, rng=8)
    assert np.array_equal(np.concatenate([first.points, second.points], axis=1), whole.points)


def test_a_failing_step_is_raised_and_leaves_the_generator_before_it(rng):
    class Failing(Interrupted):
        def step(self, state, rng):
            try:
                return super().step(state, rng)
            except KeyboardInterrupt:
                raise ValueError("too long a step") from None

    generator, other = np.random.default_rng(0), np.random.default_rng(0)
    with pytest.raises(ValueError, match="too long"):
        Failing(3).sample(np.zeros((1, 2)), 5, rng=generator)
    other.standard_normal(4)
    assert generator.bit_generator.state == other.bit_generator.state


def test_progress_calls_after_each_step_or_shows_a_bar(rng, capsys):
    done = []
    Walk().sample(np.zeros((1, 2)), 3, rng=0, progress=done.append)
    assert done == [0, 1, 2, 3]
    Walk().sample(np.zeros((1, 2)), 3, rng=0, progress=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"n_steps": 2.0}, TypeError, "n_steps must be an integer"),
        ({"thin": 0}, ValueError, "thin must be at least 1"),
        ({"burn_in": 5}, ValueError, "burn_in must be at least 0 and below n_steps = 5"),
        ({"burn_in": 1.5}, TypeError, "burn_in must be an integer"),
        ({"burn_in": -1}, ValueError, "burn_in must not be negative"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
        ({"initial_points": [[np.nan, 0]]}, ValueError, "NaN or infinite"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Walk().sample(**{"initial_points": np.zeros((1, 2)), "n_steps": 5, "rng": 0, **options})


def test_observables_are_summed_up(rng):
    samples = SAMPLERS["hmc"].sample(starts(4, rng), 30, rng=0)
    table = samples.summary(size=lambda x: np.sum(x**2, axis=(1, 2)), row=lambda x: x[:, 0])
    assert list(table.index) == ["size", "row[0]", "row[1]", "row[2]", "row[3]"]
    assert list(table.columns) == ["mean", "sd", "mcse_mean", "r_hat", "ess_bulk", "ess_tail"]
    assert table.loc["size", "mean"] == pytest.approx(float(np.mean(samples.points**2) * 12))
    assert table.loc["row[2]", "sd"] == pytest.approx(float(np.std(samples.points[:, :, 0, 2])))
    assert np.isfinite(table.to_numpy()).all()
    assert list(samples.summary().index)[::11] == ["points[0, 0]", "points[2, 3]"]


def test_diagnostics_of_an_autoregression_are_those_of_its_law():
    """``x' = a x + ε``: of n draws of variance 1/(1 − a²), n (1 − a)/(1 + a) are effective, and R-hat tends to 1."""
    a, rng = 0.6, np.random.default_rng(2)
    chains, draws = 40, 4000
    values = np.empty((chains, draws))
    x = rng.standard_normal(chains) / np.sqrt(1 - a**2)
    for k in range(draws):
        values[:, k] = x = a * x + rng.standard_normal(chains)
    found = diagnose(values)
    n = chains * draws * (1 - a) / (1 + a)
    assert found["ess_bulk"] == pytest.approx(n, rel=0.05)
    assert found["mcse"] == pytest.approx(1 / np.sqrt((1 - a**2) * n), rel=0.05)
    assert abs(found["mean"]) < 4 * found["mcse"]
    assert 0.999 < found["r_hat"] < 1.001 < 1.1 < diagnose(values + np.arange(chains)[:, None])["r_hat"]


@pytest.mark.parametrize("values", [np.ones((3, 9)), np.zeros((3, 0)), np.arange(6.0).reshape(2, 3)])
def test_what_has_no_diagnosis_is_nan(values):
    found = diagnose(values)
    assert [np.isnan(found[name]) for name in ("mcse", "r_hat", "ess_bulk", "ess_tail")] == [True] * 4
    assert np.isnan(found["mean"]) == (values.size == 0)
    assert np.isnan(diagnose(np.random.default_rng(0).random((1, 50)))["r_hat"])


def test_observables_go_to_arviz(rng):
    arviz = pytest.importorskip("arviz")
    samples = SAMPLERS["hmc"].sample(starts(4, rng), 30, rng=0)
    data = samples.to_inference_data(size=lambda x: np.sum(x**2, axis=(1, 2)), row=lambda x: x[:, 0])
    assert data.posterior["size"].shape == (4, 30)
    assert data.posterior["row"].shape == (4, 30, 4)
    np.testing.assert_allclose(data.posterior["row"], samples.points[:, :, 0])
    assert data.sample_stats["accepted"].shape == (4, 30)
    assert samples.to_inference_data().posterior["points"].shape == (4, 30, 3, 4)
    ours, theirs = diagnose(samples.points[:, :, 0, 0]), arviz.summary(data, kind="diagnostics", round_to="none")
    for name in ("ess_bulk", "ess_tail", "r_hat"):
        assert ours[name] == pytest.approx(float(theirs.loc["row[0]", name]), rel=1e-6)


def test_importing_leaves_the_random_numbers_of_others_alone():
    code = """
import random
import numpy as np
random.seed(1)
np.random.seed(1)
import dlngeo.sampling
assert random.getstate() == random.Random(1).getstate()
assert np.array_equal(np.random.get_state()[1], np.random.RandomState(1).get_state()[1])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
