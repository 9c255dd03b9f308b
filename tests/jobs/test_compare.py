"""The comparison: splits, rows, notes, interruption, JSON and figure."""

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

import dlngeo.jobs.baselines as baselines
import dlngeo.jobs.methods as methods
from dlngeo.cli import app
from dlngeo.jobs.compare import Settings, compare, table
from dlngeo.jobs.load import Data
from dlngeo.jobs.low_rank import low_rank
from dlngeo.jobs.output import save
from dlngeo.plotting import compare_figure
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

QUICK = Settings(rank=4, depths=(1, 3, math.inf), observed=0.6, iterations=12)
OTHERS = ["FixedRankEmbedded", "full rank, depth 3", "additive", "ALS", "complete()"]


def data(m=20, n=20, missing=0.0, peak=None):
    rng = np.random.default_rng(0)
    matrix = 3 + rng.standard_normal((m, 2)) @ rng.standard_normal((2, n)) + 0.1 * rng.standard_normal((m, n))
    matrix[rng.random((m, n)) < missing] = np.nan
    return Data("test", matrix, peak)


@pytest.fixture(scope="module")
def result():
    return compare(data(), QUICK)


def without_times(result):
    out = json.loads(json.dumps(result))
    for row in out["rows"]:
        row.pop("seconds")
        row["history"].pop("seconds", None)
    return out


def printed(result):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(result))
    return console.export_text()


def fail(*args):
    raise np.linalg.LinAlgError("SVD did not converge")


def test_rows_are_the_methods_and_report_their_validated_point(result):
    names = [row["name"] for row in result["rows"]]
    assert names == ["depth 1", "depth 3", "depth ∞", *OTHERS, "SVD (floor)"]
    assert result["status"] == "complete"
    assert [row["floor"] for row in result["rows"]] == [False] * 8 + [True]
    assert all(row["psnr"] is None for row in result["rows"])
    for row in result["rows"]:
        assert np.shape(row["picture"]) == (20, 20)
        if not (history := row["history"]):
            assert row["name"] in ("additive", "SVD (floor)")
            continue
        assert len({len(column) for column in history.values()}) == 1
        if row["iterations"] > 20:  # not every point of the path is kept
            continue
        best = int(np.argmin(history["validation_error"]))
        assert row["best_iteration"] == history["iteration"][best]
        assert row["error"] == pytest.approx(history["test_error"][best])
        assert row["last_error"] == pytest.approx(history["test_error"][-1])
    floor = result["rows"][-1]
    assert all(floor["error"] < row["error"] for row in result["rows"][:-1])


def test_every_manifold_starts_at_the_same_small_point(result):
    first = [row["history"] for row in result["rows"][:4]]
    for history in first:
        assert history["iteration"][0] == 0
        assert history["singular_values"][0] == [1e-3] * 4
    assert first[0]["test_error"][0] == first[1]["test_error"][0] == first[3]["test_error"][0]


def test_depth_one_by_conjugate_gradients_is_fixed_rank_embedded():
    rows = compare(data(), dataclasses.replace(QUICK, optimizer="cg"))["rows"]
    ours, theirs = rows[0], rows[3]
    np.testing.assert_allclose(ours["history"]["test_error"], theirs["history"]["test_error"], rtol=1e-6)


def test_parts_are_disjoint_and_nothing_but_the_training_entries_is_fitted(monkeypatch):
    tasks = []
    monkeypatch.setattr(methods, "manifold", lambda task, *a: tasks.append(task) or methods.Row("none"))
    full = data()
    result = compare(full, dataclasses.replace(QUICK, depths=(2,)))
    task = tasks[0]
    parts = [set(zip(p.rows.tolist(), p.cols.tolist(), strict=True)) for p in (task.train, task.validation, task.test)]
    assert [len(p) for p in parts] == [216, 24, 160]
    assert len(set.union(*parts)) == 400
    counts = [result["data"][name] for name in ("n_train", "n_validation", "n_test")]
    assert counts == [216, 24, 160]
    # standardised by the training entries alone
    assert task.train.values.mean() == pytest.approx(0, abs=1e-12)
    assert task.train.values.std() == pytest.approx(1)
    mean, scale = result["data"]["mean"], result["data"]["scale"]
    np.testing.assert_allclose(mean + scale * task.test.values, full.matrix[task.test.rows, task.test.cols])


def test_a_run_is_reproduced_by_its_seed_and_changed_by_another(result):
    assert without_times(compare(data(), QUICK)) == without_times(result)
    other = compare(data(), dataclasses.replace(QUICK, seed=1, depths=(3,)))
    assert other["rows"][0]["error"] != result["rows"][1]["error"]


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_rectangular_data_with_missing_entries(shape):
    result = compare(data(*shape, missing=0.2, peak=10.0), QUICK)
    names = [row["name"] for row in result["rows"]]
    assert names == ["depth 1", "depth 3", "depth ∞", *OTHERS]
    assert "No SVD floor: the matrix itself has missing entries." in result["notes"]
    assert all(np.shape(row["picture"]) == shape for row in result["rows"])
    row = result["rows"][0]
    known = data(*shape, missing=0.2).matrix
    picture = np.array(result["pictures"]["original"], dtype=float)
    np.testing.assert_array_equal(np.isnan(picture), np.isnan(known))
    assert row["psnr"] > 0


def ends(task, depth, optimizer="flow"):
    with np.errstate(all="ignore"):  # as the command has it: steps that are refused may overflow
        return methods.manifold(task, "", depth, optimizer, lambda *_: None).last


def test_infinite_depth_at_the_rank_of_the_model_ends_where_that_of_full_rank_does():
    truth, observed = low_rank((20, 20), 2, condition=5.0, oversampling=2.5, rng=1)
    task = methods.Task(observed, observed, observed, 6, 1e-3, iterations=100, patience=None, seed=0)
    full, row = dataclasses.replace(task, rank=20), methods.Row("", optimizer="flow")
    with np.errstate(all="ignore"):
        methods.follow(full, row, FixedRank(20, 20, 20, depth=math.inf), lambda *_: None)
    for u, s, vt in (ends(task, math.inf), row.last):
        assert np.linalg.norm((u * s) @ vt - truth) < 5e-3 * np.linalg.norm(truth)


@pytest.mark.parametrize("seed", [101, pytest.param(102, marks=pytest.mark.slow)])
def test_the_flow_follows_the_bias_that_conjugate_gradients_leave(seed):
    truth, observed = low_rank(oversampling=3.0, rng=seed)
    task = methods.Task(observed, *observed.split(0.1, seed), 20, 1e-3, iterations=None, patience=None, seed=seed)
    flow, cg = (np.linalg.norm((u * s) @ vt - truth) for u, s, vt in (ends(task, 3, by) for by in ("flow", "cg")))
    assert 3 * flow < cg
    assert flow < 0.01 * np.linalg.norm(truth)


def test_the_flow_of_full_rank_finds_a_rank_that_it_is_not_told():
    truth, observed = low_rank(oversampling=3.0, rng=0)
    task = methods.Task(observed, *observed.split(0.1, 0), 20, 1e-3, iterations=None, patience=None, seed=0)
    row = methods.grown(task, "full rank", 3, lambda *tick: None)
    u, s, vt = row.best
    assert s.size == 3
    assert np.linalg.norm((u * s) @ vt - truth) < 1e-3 * np.linalg.norm(truth)


def test_a_method_that_fails_is_noted_and_does_not_cost_the_others(monkeypatch):
    monkeypatch.setattr(baselines, "alternating_least_squares", fail)
    result = compare(data(), dataclasses.replace(QUICK, depths=(2,)))
    names = [row["name"] for row in result["rows"]]
    assert names == ["depth 2", "FixedRankEmbedded", "full rank, depth 3", "additive", "complete()", "SVD (floor)"]
    assert "ALS failed: SVD did not converge" in result["notes"]


def test_where_every_method_fails_the_command_says_why_and_writes_nothing(monkeypatch, tmp_path):
    for name in ("manifold", "embedded", "grown"):
        monkeypatch.setattr(methods, name, fail)
    for name in ("additive", "alternating_least_squares", "reweighted", "truncated_svd"):
        monkeypatch.setattr(baselines, name, fail)
    np.save(tmp_path / "data.npy", data().matrix)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "data.npy"), "--depths", "2", "--output", str(out)])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dlngeo: nothing was done; nothing is written.")
    assert "ALS failed: SVD did not converge" in done.stderr
    assert not out.exists()


def test_the_saddle_at_a_tiny_start_is_not_taken_for_convergence():
    result = compare(data(), dataclasses.replace(QUICK, depths=(2, 8, math.inf), start=1e-12))
    assert all(row["status"] != "converged" for row in result["rows"][:3])


def test_methods_run_on_one_blas_thread(monkeypatch):
    seen = []

    def look(*args):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return methods.Row("none")

    monkeypatch.setattr(baselines, "alternating_least_squares", look)
    compare(data(), dataclasses.replace(QUICK, depths=()))
    assert seen
    assert set(seen) == {1}


def test_patience_stops_early():
    settings = dataclasses.replace(QUICK, depths=(1,), iterations=500, patience=20, optimizer="cg")
    row = compare(data(), settings)["rows"][0]
    assert row["status"] == "stopped early"
    assert row["iterations"] == row["best_iteration"] + 20


def test_depth_lowers_the_error_on_low_rank_data_from_few_entries():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 60))
    settings = Settings(rank=12, depths=(1, 2, 3), observed=0.25, iterations=120)
    errors = [row["error"] for row in compare(Data("low rank", matrix), settings)["rows"][:3]]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


@pytest.mark.parametrize(
    "stop",
    [
        ("depth 3", 0),
        *(pytest.param(stop, marks=pytest.mark.slow) for stop in (("depth 1", 5), ("ALS", 3), ("complete()", 2))),
    ],
)
def test_an_interruption_keeps_the_rows_done_and_the_partial_one(stop, tmp_path):
    def tick(name, iteration):
        if (name, iteration) == stop:
            raise KeyboardInterrupt

    result = compare(data(), QUICK, tick=tick)
    assert result["status"] == "interrupted"
    last = result["rows"][-1]
    assert last["name"] == stop[0]
    assert last["status"] == "interrupted"
    assert last["iterations"] == stop[1]
    _, figure = save(result, tmp_path, compare_figure)
    assert figure.stat().st_size > 10_000


def test_als_minimises_its_own_objective():
    rng = np.random.default_rng(2)
    full = rng.standard_normal((15, 2)) @ rng.standard_normal((2, 12))
    problem = MatrixCompletion.from_matrix(full, observed=rng.random(full.shape) < 0.7)
    groups = baselines._grouped(problem.rows, problem.cols, problem.values, 15)
    right = rng.standard_normal((12, 3))
    left = baselines._ridge_solve(groups, right, 0.3)
    residual = problem.euclidean_gradient((left, np.ones(3), right.T))
    np.testing.assert_allclose(residual @ right + 0.3 * left, 0, atol=1e-10)
    u, s, vt = baselines._svd_of_product(left, right)
    np.testing.assert_allclose((u * s) @ vt, left @ right.T, atol=1e-12)


def test_offsets_are_those_of_the_normal_equations_and_validation_chooses_the_ridge():
    rng = np.random.default_rng(4)
    full = rng.standard_normal((9, 1)) + rng.standard_normal(7) + 0.3 * rng.standard_normal((9, 7))
    train, validation = MatrixCompletion.from_matrix(full).split(0.4, rng)
    task = methods.Task(train, validation, validation, rank=2, start=1.0, iterations=None, patience=None, seed=0)
    row = baselines.additive(task, "offsets")
    design = np.hstack((np.eye(9)[train.rows], np.eye(7)[train.cols]))
    found = []
    for ridge in baselines.RIDGES:
        offsets = np.linalg.solve(design.T @ design + ridge * np.eye(16), design.T @ train.values)
        found.append(offsets[:9, None] + offsets[9:])
    best = min(found, key=validation.relative_error)
    u, s, vt = row.best
    np.testing.assert_allclose((u * s) @ vt, best, atol=1e-7)


@pytest.mark.parametrize("shape", [(30, 20), pytest.param((20, 30), marks=pytest.mark.slow)])
def test_a_second_matrix_is_completed_beside_the_first(shape):
    truth, observed = low_rank(shape, 2, oversampling=3.0, rng=0)
    shown = np.zeros(shape, bool)
    shown[observed.rows, observed.cols] = True
    ticks = []
    settings = dataclasses.replace(QUICK, depths=(2,), observed=None)
    second = Data("second", truth, shown=shown)
    result = compare(data(), settings, second, tick=lambda *tick: ticks.append(tick))
    beside = result["beside"]
    assert without_times(beside) == without_times(compare(second, settings))
    assert sum(beside["data"][f"n_{part}"] for part in ("train", "validation")) == shown.sum()
    picture = np.array(beside["pictures"]["observed"], dtype=float)
    np.testing.assert_array_equal(np.isnan(picture), ~shown)
    assert beside["rows"][-2]["name"] == "complete()"
    assert beside["rows"][-2]["error"] < 1e-6
    assert ("beside, depth 2", 12) in ticks
    asked = compare(data(), dataclasses.replace(QUICK, depths=(2,)), second)["beside"]
    assert asked["settings"]["observed"] == pytest.approx(QUICK.observed, abs=1e-3)
    for drawing in (compare_figure(result), compare_figure(json.loads(json.dumps(result)))):
        titles = " ".join(axes.get_title(loc="left") for axes in drawing.axes)
        assert all(name in titles for name in ("test", "second"))
        assert drawing.axes[-1].get_yscale() == "log"
    text = printed(result)
    assert text.count("effective") == 2
    assert text.count("Effective rank: exp") == 1


def test_an_interruption_beside_keeps_the_first():
    def tick(name, iteration):
        if name == "beside, depth 3":
            raise KeyboardInterrupt

    result = compare(data(), QUICK, data(16, 12), tick=tick)
    assert [result["status"], result["beside"]["status"]] == ["interrupted"] * 2
    assert [row["name"] for row in result["beside"]["rows"]] == ["depth 1", "depth 3"]
    assert len(result["rows"]) == len(OTHERS) + 4
    assert "depth 3 ended: interrupted." in printed(result)


@pytest.mark.slow
def test_each_optimizer_moves_the_depths_and_says_so(monkeypatch):
    monkeypatch.setattr(baselines, "reweighted", fail)  # which no optimizer moves
    found = {}
    for optimizer, (words, _) in methods.OPTIMIZERS.items():
        result = compare(data(), dataclasses.replace(QUICK, optimizer=optimizer, iterations=30))
        rows = {row["name"]: row for row in result["rows"]}
        assert {rows[name]["optimizer"] for name in ("depth 1", "depth 3", "depth ∞")} == {words}
        assert rows["FixedRankEmbedded"]["optimizer"] == methods.OPTIMIZERS["cg"][0]
        assert rows["ALS"]["optimizer"] is None
        assert rows["depth 3"]["history"]["train_error"][-1] < 0.6
        found[optimizer] = rows["depth 3"]["history"]["train_error"][-1]
        title = compare_figure(result).subfigs[0].subfigs[0].get_suptitle()
        assert title.endswith(f"depths by {words}")
        assert f"Depths: by {words}." in printed(result)
    assert len(set(found.values())) == len(methods.OPTIMIZERS)


def drawn(figure):
    """All numbers that a figure shows."""
    out = []
    for axes in figure.axes:
        out += [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
        out += [np.ma.filled(image.get_array(), np.nan) for image in axes.images]
    return out


@pytest.mark.parametrize(
    "shown",
    [pytest.param({}, marks=pytest.mark.slow), {"missing": 0.3}, pytest.param({"peak": 1.0}, marks=pytest.mark.slow)],
)
def test_the_json_draws_the_same_figure(shown):
    result = compare(data(**shown), dataclasses.replace(QUICK, iterations=5))
    loaded = json.loads(json.dumps(result, allow_nan=False))
    before, after = drawn(compare_figure(result)), drawn(compare_figure(loaded))
    assert len(before) == len(after) > 20
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_figure_shows_every_row_and_labels_its_axes(result):
    figure = compare_figure(result)
    titles = " ".join(axes.get_title() for axes in figure.axes)
    assert all(row["name"] in titles for row in result["rows"])
    assert "observed: 60 %" in titles
    errors = figure.axes[-1]
    assert errors.get_xlabel() == "iterations, steps, sweeps"
    assert errors.get_ylabel() == "held-out relative error"
    (legend,) = figure.subfigs[1].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [row["name"] for row in result["rows"]]
    curve = next(line for line in errors.lines if line.get_label() == "depth 3")
    np.testing.assert_array_equal(curve.get_ydata(), result["rows"][1]["history"]["test_error"][1:])


def test_a_failed_write_leaves_the_old_file(result, tmp_path, monkeypatch):
    file, _ = save(result, tmp_path, compare_figure)
    old = file.read_text(encoding="utf-8")
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save({**result, "status": "other"}, tmp_path, compare_figure)
    assert file.read_text(encoding="utf-8") == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "result.json"]


def test_large_matrices_are_drawn_by_a_part_of_their_entries():
    result = compare(data(300, 40), dataclasses.replace(QUICK, depths=(2,), observed=0.3))
    assert np.shape(result["pictures"]["original"]) == (150, 40)


def test_the_table_fits_eighty_columns(result):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table({**result, "data": {**result["data"], "peak": 1.0}}))
    text = console.export_text()
    assert "…" not in text
    assert all(row["name"] in text for row in result["rows"])


def test_a_rank_above_the_shape_and_too_few_entries_are_errors():
    with pytest.raises(ValueError, match="rank 21 exceeds"):
        compare(data(), Settings(rank=21))
    with pytest.raises(ValueError, match="leaves one part empty"):
        compare(data(5, 5), Settings(observed=0.1))
