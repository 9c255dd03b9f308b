"""``dlngeo complete``: tables come back in the form they came in, and nothing is filled that no data determine."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from commands import assert_one_line_and_code_2, call, succeed

import dlngeo.jobs.complete as job
from dlngeo.jobs.complete import Settings, complete, interval
from dlngeo.jobs.load import Data, load


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 2)) @ rng.standard_normal((2, 25)) + rng.standard_normal(25) + 3


@pytest.fixture
def shown(truth):
    return np.random.default_rng(1).random(truth.shape) < 0.6


@pytest.fixture
def wide(truth, shown):
    names = [f"r,{i}" for i in range(len(truth))]
    return pd.DataFrame(np.where(shown, truth, np.nan), index=names).add_prefix("c")


def test_a_wide_table_comes_back_wide(tmp_path, wide, truth, shown):
    wide.to_csv(tmp_path / "in.csv", index_label="id")
    result = succeed("complete", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--picture", tmp_path / "p.png")
    found = pd.read_csv(tmp_path / "out.csv", index_col="id", float_precision="round_trip")
    assert list(found.index) == list(wide.index)
    assert list(found.columns) == list(wide.columns)
    np.testing.assert_allclose(found, truth, atol=1e-4)
    np.testing.assert_array_equal(found.to_numpy()[shown], truth[shown])
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "→ complete" in result.stdout
    assert f"{(~shown).sum()} entries filled by complete of rank" in " ".join(result.stdout.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "p.png"]


def test_a_long_table_comes_back_long_with_its_separator_and_decimal_comma(tmp_path, truth, shown):
    lines = [f"u{i};{j + 100};{truth[i, j]:.4f}".replace(".", ",") for i, j in np.argwhere(shown)]
    (tmp_path / "in.csv").write_text("\n".join(["user;item;rating", *lines]))
    succeed("complete", tmp_path / "in.csv", "--long", "-o", tmp_path / "out.csv", "--method", "posterior")
    found = pd.read_csv(tmp_path / "out.csv", sep=";", decimal=",", float_precision="round_trip")
    assert list(found.columns) == ["user", "item", "rating"]
    assert len(found) == truth.size
    table = found.pivot(index="user", columns="item", values="rating").loc[[f"u{i}" for i in range(40)]]
    np.testing.assert_allclose(table, truth, atol=0.02)
    written = set((tmp_path / "out.csv").read_text().splitlines())
    assert {line for line in lines if not line.endswith("0")} <= written


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("suffix", [".json", pytest.param(".dta", marks=pytest.mark.slow)])
def test_other_tables_of_pandas(tmp_path, wide, truth, shown, suffix, long):
    frame = wide.rename_axis("id").reset_index()
    if long:
        frame = frame.melt("id", var_name="item", value_name="value").dropna()
    if suffix == ".json":
        frame.to_json(tmp_path / "in.json", orient="records", double_precision=15)
    else:
        frame.to_stata(tmp_path / "in.dta", write_index=False)
    succeed("complete", tmp_path / f"in{suffix}", "-o", tmp_path / f"out{suffix}", "--method", "posterior")
    found = load(tmp_path / f"out{suffix}")
    assert found.form.long == long
    order = [found.form.rows.index(name) for name in wide.index], [found.form.columns.index(c) for c in wide.columns]
    np.testing.assert_allclose(found.matrix[np.ix_(*order)], truth, atol=0.02)


@pytest.mark.parametrize(
    "suffix", [".npy", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".npz", ".mtx"))]
)
def test_matrices_stay_matrices(tmp_path, wide, truth, suffix):
    np.save(tmp_path / "in.npy", wide.to_numpy())
    succeed("complete", tmp_path / "in.npy", "-o", tmp_path / f"out{suffix}", "--method", "posterior")
    np.testing.assert_allclose(load(tmp_path / f"out{suffix}").matrix, truth, atol=0.02)


def test_what_no_data_determine_is_named_and_left_empty(tmp_path, wide):
    wide.iloc[4], wide["c7"] = np.nan, np.nan
    wide.iloc[:20, 12:], wide.iloc[20:, :12] = np.nan, np.nan
    wide.to_csv(tmp_path / "in.csv", index_label="id")
    result = succeed("complete", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--method", "posterior")
    found = pd.read_csv(tmp_path / "out.csv", index_col="id", float_precision="round_trip")
    inside = np.zeros(found.shape, bool)
    inside[:20, :12], inside[20:, 12:] = True, True
    inside[4], inside[:, 7] = False, False
    np.testing.assert_array_equal(found.notna(), inside)
    said = " ".join(result.stdout.split())
    assert "1 row without entries (r,4): left empty." in said
    assert "1 column without entries (c7): left empty." in said
    assert f"2 parts that share no row and no column with entries; {19 * 13 + 20 * 11} entries" in said
    options = ["-o", tmp_path / "all.csv", "--method", "posterior", "--undetermined", "offsets"]
    said = " ".join(succeed("complete", tmp_path / "in.csv", *options).stdout.split())
    assert "1 row without entries (r,4): filled by the offsets that are known." in said
    everything = pd.read_csv(tmp_path / "all.csv", index_col="id", float_precision="round_trip")
    assert everything.notna().all(axis=None)
    pd.testing.assert_frame_equal(everything.where(inside), found)
    steps = np.diff(everything.to_numpy()[:20, 12:], axis=0)  # of offsets alone
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-4)


@pytest.mark.slow
def test_the_error_is_that_of_entries_not_seen(truth, shown):
    """Over many tables the interval covers the error on the missing entries, of models with a little more data."""
    hits = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noisy = truth + 0.5 * rng.standard_normal(truth.shape)
        known = rng.random(truth.shape) < 0.6
        filled, result = complete(Data("a", np.where(known, noisy, np.nan)), Settings("posterior", seed=seed))
        error = math.sqrt(np.mean((filled - noisy)[~known] ** 2))
        assert 0.45 < error < 0.9
        _, low, high = result["rmse"]
        hits.append(low < error < high)
        json.dumps(result, allow_nan=False)
    assert sum(hits) >= 3


def test_no_method_is_chosen_by_the_errors_that_are_reported():
    errors = {"a": np.array([0.0, 0, 5, 5]), "b": np.array([1.0, 1, 1, 1]), "c": np.array([5.0, 5, 0, 0])}
    name, held = job._chosen(errors, np.array([0, 0, 1, 1]))
    assert name == "b"
    np.testing.assert_array_equal(held, [5, 5, 5, 5])  # c is best on the second part, a on the first


def test_intervals_cover():
    rng = np.random.default_rng(0)
    rows, hits = np.repeat(np.arange(40), 5), []
    for _ in range(400):
        scale = np.repeat(np.sqrt(rng.chisquare(4, 40) / 4), 5)
        _, low, high = interval(scale * rng.standard_normal(200), rows)
        hits.append(low < 1 < high)
    assert 0.9 < np.mean(hits) < 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.pkl"], "cannot write .pkl"),
        (["-o", "out.csv", "--picture", "p.txt"], "cannot write .txt"),
        (["-o", "nowhere/out.csv"], "the folder does not exist"),
        (["-o", "out.csv", "--method", "svd"], "the method must be one of"),
        (["-o", "out.csv", "--depth", "1"], "depth must be at least 2"),
        (["-o", "out.csv", "--undetermined", "zero"], "left empty or filled by offsets"),
        (["-o", "out.csv", "--method", "flow", "--depth", "inf"], "take a finite one"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, wide, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    wide.to_csv("in.csv")
    assert_one_line_and_code_2(call("complete", "in.csv", *arguments), message)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("a.json", {"a": [1, 2], "b": [2, 3], "c": [4, 5]}, "pass --long or --wide"),
        ("a.json", {"a": ["x", "y"], "b": ["s", "t"], "c": [1.0, 2], "d": [1.0, 3]}, "the column 'b' holds no numbers"),
        ("a.json", {"a": ["x", None], "b": ["s", "t"], "c": [1.0, 2]}, "line 2 names no row"),
        ("a.pkl", None, "cannot read .pkl"),
    ],
)
def test_other_tables_that_cannot_be_used_are_refused(tmp_path, name, frame, message):
    if frame is None:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    else:
        pd.DataFrame(frame).to_json(tmp_path / name, orient="records")
    assert_one_line_and_code_2(call("complete", tmp_path / name, "-o", tmp_path / "out.csv"), message)


@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_columns_that_are_not_used_are_named(tmp_path, truth, shown, suffix):
    i, j = np.nonzero(shown)
    frame = pd.DataFrame({"user": [f"u{k}" for k in i], "item": [f"i{k}" for k in j], "rating": truth[i, j], "when": 7})
    if suffix == ".tsv":
        frame.to_csv(tmp_path / "in.tsv", sep="\t", index=False)
    else:
        frame.to_json(tmp_path / "in.json", orient="records", double_precision=15)
    done = succeed("complete", tmp_path / f"in{suffix}", "--long", "-o", tmp_path / "out.csv", "--method", "offsets")
    assert "columns not used: when;" in " ".join(done.output.split())
