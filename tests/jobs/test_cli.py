"""The command line, end to end on small data."""

import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from typer.testing import CliRunner

import dlngeo.cli
import dlngeo.jobs.load
from dlngeo.cli import app
from dlngeo.jobs.compare import Settings

QUICK = ["--rank", "3", "--depths", "1,3", "--observed", "0.6", "--iterations", "8"]


def run(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 2)) @ rng.standard_normal((2, 12)) + 0.1 * rng.standard_normal((16, 12))


def assert_one_line_and_code_2(result, message):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("dlngeo: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "mtx"])
def test_each_format_gives_a_table_a_figure_and_a_result(tmp_path, matrix, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "npy":
        np.save(path, matrix)
    elif suffix == "npz":
        np.savez(path, arr=matrix)
    elif suffix == "csv":
        np.savetxt(path, matrix, delimiter=",")
    else:
        scipy.io.mmwrite(path, scipy.sparse.coo_array(matrix))
    result = run(path, *QUICK, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for word in ("depth 1", "depth 3", "FixedRankEmbedded", "ALS", "SVD (floor)", "effective", "seconds"):
        assert word in result.stdout
    assert "PSNR" not in result.stdout
    written = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert written["schema"] == 1
    assert set(written) == {"schema", "status", "data", "settings", "notes", "rows", "pictures"}
    assert written["data"]["shape"] == [16, 12]
    assert written["settings"]["depths"] == [1, 3]
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["[red][bogus=1]$x_{$.npy", "odd\udcff.npy"])
def test_a_file_name_is_only_a_name(tmp_path, matrix, name):
    np.save(tmp_path / name, matrix)
    result = run(tmp_path / name, *QUICK, "--output", tmp_path / "[out]")
    assert result.exit_code == 0, result.output
    assert name[:3] in result.stdout
    assert (tmp_path / "[out]" / "figure.png").exists()
    assert_one_line_and_code_2(run(tmp_path / f"no{name}"), "no such file")


def test_without_data_it_takes_the_photograph(tmp_path, monkeypatch):
    photograph = dlngeo.jobs.load.photograph
    monkeypatch.setattr(dlngeo.jobs.load, "photograph", lambda: photograph(shrink=14))
    result = run(*QUICK, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "PSNR" in result.stdout
    assert "china.jpg" in result.stdout


def test_the_defaults_are_those_of_the_library():
    parameters = inspect.signature(dlngeo.cli.compare).parameters
    settings = Settings()
    assert dlngeo.cli._depths(parameters["depths"].default) == settings.depths
    for name in ("rank", "observed", "start", "iterations", "patience", "seed"):
        assert parameters[name].default == getattr(settings, name)


def test_a_seed_reproduces_the_numbers(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    errors = []
    for seed in (5, 5, 6):
        assert run(tmp_path / "a.npy", *QUICK, "--seed", seed, "--output", tmp_path).exit_code == 0
        written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
        errors.append([row["error"] for row in written["rows"]])
    assert errors[0] == errors[1] != errors[2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, "no such file"),
        ("junk.npy", b"\x80\x04junk", "not a readable .npy"),
        ("empty.csv", b"", "is empty"),
        ("words.csv", b"a,b\nc,d\n", "is not a number"),
        ("missing.csv", b",\n,\n,\n", "all entries are missing"),
        ("table.xlsx", b"PK", "cannot read .xlsx"),
    ],
)
def test_bad_files_get_one_line_and_code_2(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_one_line_and_code_2(run(tmp_path / name, "--output", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depths", "1,two"], "depths must be numbers"),
        (["--depths", "0.5"], "depth must be at least 1"),
        (["--depths", "nan"], "depths must be numbers"),
        (["--rank", "99"], "rank 99 exceeds"),
        (["--observed", "1.5"], "observed fraction"),
        (["--start", "0"], "start size"),
        (["--iterations", "0"], "iterations must be at least 1"),
    ],
)
def test_bad_options_get_one_line_and_code_2(tmp_path, matrix, options, message):
    np.save(tmp_path / "a.npy", matrix)
    assert_one_line_and_code_2(run(tmp_path / "a.npy", *options, "--output", tmp_path / "out"), message)


def test_an_output_that_is_a_file_gets_one_line(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    result = run(tmp_path / "a.npy", *QUICK, "--output", tmp_path / "a.npy")
    assert result.exit_code == 2
    assert "cannot write to" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_is_done_and_gives_code_130(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    # The process sends itself the signal that a terminal would, in the middle of the second method.
    code = """
import os, signal
import dlngeo.jobs.compare as run
from dlngeo.cli import app
compare = run.compare
def interrupted(data, settings, tick):
    def tick(name, iteration):
        if (name, iteration) == ("depth 3", 4):
            os.kill(os.getpid(), signal.SIGINT)
    return compare(data, settings, tick=tick)
run.compare = interrupted
app()
"""
    process = subprocess.run(
        [sys.executable, "-c", code, "compare", str(tmp_path / "a.npy"), *QUICK, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert process.returncode == 130, process.stderr
    assert "Traceback" not in process.stderr
    assert "interrupted" in process.stderr
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["status"] == "interrupted"
    assert [(row["name"], row["iterations"]) for row in written["rows"]] == [("depth 1", 8), ("depth 3", 4)]
    assert "depth 3 ended: interrupted" in process.stdout
    assert (tmp_path / "figure.png").exists()


def test_help_is_quick_and_names_the_options():
    result = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for word in ("--rank", "--depths", "--observed", "--start", "--iterations", "--seed", "--output", "--patience"):
        assert word in result.output
    loaded = "import sys, dlngeo.cli; sys.exit('dlngeo.jobs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
