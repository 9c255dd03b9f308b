"""``dlngeo flow``, end to end on small matrices."""

import numpy as np
import pytest
from commands import QUICK, assert_one_line_and_code_2, call, result_of, succeed

from dlngeo.jobs.flow import Settings, random_target, run


@pytest.mark.parametrize("by", ["metric", "layers", "descent"])
def test_each_way_gives_a_table_a_figure_and_a_result(tmp_path, by):
    result = succeed("flow", *QUICK["flow"], "--by", by, "--output", tmp_path / "out")
    for word in ("depth 1", "depth 3", "limit", "imbalance", "9 of 9 entries"):
        assert word in result.stdout
    written = result_of(tmp_path / "out")
    assert set(written) == {"schema", "status", "data", "settings", "notes", "rows"}
    assert (written["schema"], written["status"]) == (1, "complete")
    for row in written["rows"]:
        assert len(row["t"]) == len(row["losses"]) == len(row["singular_values"])
        assert row["t"][-1] == pytest.approx(20)
        assert (row["imbalance"] is None) == (by == "metric" or row["depth"] == 1)
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["figure.png", "result.json"]


def test_metric_layers_and_descent_agree_from_a_balanced_start():
    target = random_target(4, 2, seed=3)
    settings = {"depths": (3,), "time": 30.0, "start": 0.1}
    metric, layers, descent = (
        run(target, "", Settings(by=by, step_size=2e-3, **settings))["rows"] for by in ("metric", "layers", "descent")
    )
    for a, b, c in zip(metric, layers, descent, strict=True):
        np.testing.assert_allclose(b["singular_values"], a["singular_values"], atol=1e-6)
        np.testing.assert_allclose(b["losses"], a["losses"], atol=1e-6)
        steps = np.searchsorted(c["t"], [3.0, 10.0, 29.0])
        exact = np.interp(np.array(c["t"])[steps], a["t"], a["losses"])
        np.testing.assert_allclose(np.array(c["losses"])[steps], exact, atol=5e-3)
        assert max(b["imbalance"]) < 1e-7 < max(c["imbalance"]) < 1e-2


def test_a_start_out_of_balance_stays_so_with_the_product_of_the_balanced_one():
    target = random_target(3, 2, seed=3)
    plain = run(target, "", Settings((3,), by="layers", time=5.0))["rows"][0]
    skewed = run(target, "", Settings((3,), by="layers", time=5.0, imbalance=0.5))["rows"][0]
    np.testing.assert_allclose(skewed["singular_values"][0], plain["singular_values"][0], rtol=1e-12)
    assert skewed["imbalance"][0] > 0.01
    np.testing.assert_allclose(skewed["imbalance"], skewed["imbalance"][0], rtol=1e-6)


def test_the_target_is_reached_and_the_limit_named():
    target = random_target(3, 3, seed=0)
    np.testing.assert_allclose(np.linalg.svd(target)[1], [1, 2 / 3, 1 / 3])
    rows = run(target, "", Settings((1, 2), time=200.0, start=0.1))["rows"]
    assert rows[0]["relative_error"] < 1e-6
    assert rows[0]["limit"]["kind"] == "minimiser"
    below = run(target, "", Settings((2, np.inf), rank=2, time=200.0, start=0.1))
    assert [row["name"] for row in below["rows"]] == ["depth 2"]
    assert "skipped" in below["notes"][0]
    (row,) = below["rows"]
    assert (row["limit"]["kind"], row["limit"]["rank"]) == ("minimiser", 2)
    assert row["losses"][-1] == pytest.approx(1 / 18, rel=1e-6)  # half the square of the singular value left out


@pytest.mark.parametrize(
    ("by", "depths"),
    [
        ("layers", (1, 2)),
        pytest.param("layers", (1, 2, 3, 8), marks=pytest.mark.slow),
        pytest.param("metric", (1, 2, 3, 8, np.inf), marks=pytest.mark.slow),
    ],
)
def test_with_no_time_each_depth_goes_on_until_it_rests(by, depths):
    """The model has a rank more than the target: what is too much falls like a power of time, the slower the deeper."""
    target = random_target(3, 2, seed=0)
    rows = run(target, "", Settings(depths, by))["rows"]
    assert [row["depth"] for row in rows] == ["inf" if depth == np.inf else depth for depth in depths]
    for row in rows:
        assert (row["status"], row["limit"]["kind"], row["limit"]["rank"]) == ("complete", "minimiser", 2)
        assert row["losses"][-1] < 1e-5
        assert np.all(np.diff(row["t"]) > 0)
        assert len(row["t"]) == len(row["losses"]) == len(row["singular_values"])
    lasts = [row["t"][-1] for row in rows]
    assert lasts == sorted(lasts)
    if 8 not in depths:
        return
    assert lasts[3] > 1e5
    fixed = run(target, "", Settings((8,), by, time=500.0))["rows"][0]
    assert (fixed["t"][-1], fixed["limit"]["kind"]) == (pytest.approx(500), "not converged")
    np.testing.assert_allclose(fixed["losses"], rows[3]["losses"][: len(fixed["losses"])])


@pytest.mark.slow
def test_a_flow_that_ends_at_a_saddle_says_so():
    """From the other sign of the determinant, no flow in the metric of even depth reaches the target."""
    limits = [run(np.eye(3), "", Settings((4,), seed=seed))["rows"][0]["limit"] for seed in range(3)]
    assert {(limit["kind"], limit["rank"]) for limit in limits} == {("minimiser", 3), ("saddle", 2)}


@pytest.mark.slow
def test_a_large_target_rests_at_a_critical_point():
    target = random_target(20, 2, seed=0)
    (row,) = run(target, "", Settings((2,), rank=20))["rows"]
    assert row["limit"] == {"kind": "critical", "rank": 2, "least_eigenvalue": None}


def test_a_target_from_a_file_and_a_part_of_its_entries(tmp_path):
    np.savetxt(tmp_path / "a.csv", np.arange(12.0).reshape(4, 3), delimiter=",")
    succeed("flow", tmp_path / "a.csv", *QUICK["flow"][4:], "--rank", 1, "--observed", 0.7, "--output", tmp_path)
    written = result_of(tmp_path)
    assert written["data"]["shape"] == [4, 3]
    assert written["data"]["name"] == "a.csv"
    assert 0 < written["data"]["n_observed"] < 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depths", "two"], "depths must be numbers"),
        (["--depths", "0.5"], "depth must be at least 1"),
        (["--by", "magic"], "--by must be"),
        (["--by", "layers", "--depths", "2.5"], "whole numbers"),
        (["--by", "layers", "--depths", "inf"], "whole numbers"),
        (["--imbalance", "0.5"], "needs --by layers"),
        (["--by", "layers", "--imbalance", "2"], "imbalance must lie"),
        (["--observed", "0"], "observed fraction"),
        (["--start", "0"], "start must be positive"),
        (["--time", "-1"], "time must be positive"),
        (["--time", "nan"], "time must be positive"),
        (["--figure", "a.gif"], "ends in .png, .pdf or .svg, got 'a.gif'"),
        (["--by", "descent", "--step-size", "0"], "step size must be positive"),
        (["--rank", "9"], "rank 9 exceeds"),
        (["--target-rank", "9"], "rank 9 exceeds"),
        (["--size", "0"], "size must be at least 1"),
        (["--size", "301"], "the size must be at most 300, got 301"),
        (["--size", 10**11], "the size must be at most 300"),
        (["--by", "layers", "--depths", "1e308"], "at most 1000 layers"),
        (["--by", "descent", "--step-size", "1e-300"], "steps of 1e-300, above"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--rank", "2", "--depths", "inf"], "skipped"),
    ],
)
def test_bad_options_get_one_line_and_code_2(tmp_path, options, message):
    assert_one_line_and_code_2(call("flow", *QUICK["flow"], *options, "--output", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()
