"""The command line, end to end on small data: what all commands have in common, and ``dlngeo compare``."""

import inspect
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse
from commands import QUICK, assert_one_line_and_code_2, call, result_of, succeed

import dlngeo.cli
import dlngeo.jobs.compare
import dlngeo.jobs.flow
import dlngeo.jobs.load
import dlngeo.jobs.sample
from dlngeo.jobs.output import replace

over_commands = pytest.mark.parametrize("command", QUICK)


def process(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
        **{"stdout": subprocess.PIPE, "env": {**os.environ, "PYTHONIOENCODING": "utf-8"}, **options},
    )


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 2)) @ rng.standard_normal((2, 12)) + 0.1 * rng.standard_normal((16, 12))


@pytest.fixture
def data(matrix, tmp_path):
    np.save(tmp_path / "a.npy", matrix)
    return tmp_path / "a.npy"


@pytest.mark.parametrize("suffix", ["npy", "csv", *(pytest.param(s, marks=pytest.mark.slow) for s in ("npz", "mtx"))])
def test_each_format_gives_a_table_a_figure_and_a_result(tmp_path, matrix, suffix, request):
    if suffix != "npy":
        request.getfixturevalue("_sketchy")
    path = tmp_path / f"data.{suffix}"
    if suffix == "npy":
        np.save(path, matrix)
    elif suffix == "npz":
        np.savez(path, arr=matrix)
    elif suffix == "csv":
        pd.DataFrame(matrix).to_csv(path)
    else:
        scipy.io.mmwrite(path, scipy.sparse.coo_array(matrix))
    result = succeed("compare", path, *QUICK["compare"], "--output", tmp_path / "out")
    rows = (
        "depth 1",
        "depth 3",
        "full rank, depth 3",
        "FixedRankEmbedded",
        "additive",
        "ALS",
        "complete()",
        "SVD (floor)",
    )
    for word in (*rows, "effective", "seconds"):
        assert word in result.stdout
    assert "PSNR" not in result.stdout
    written = result_of(tmp_path / "out")
    assert written["schema"] == 1
    assert set(written) == {"schema", "status", "data", "settings", "notes", "rows", "pictures"}
    assert written["data"]["shape"] == [16, 12]
    assert written["settings"]["depths"] == [1, 3]
    if suffix == "npy":
        assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("command", "name", "magic"),
    [
        ("sample", "b.SVG", b"<?xml"),
        pytest.param("compare", "b.pdf", b"%PDF", marks=pytest.mark.slow),
        pytest.param("flow", "c.png", b"\x89PNG", marks=pytest.mark.slow),
    ],
)
def test_the_suffix_tells_the_format_of_the_figure(tmp_path, data, command, name, magic):
    given, out = [data] if command == "compare" else [], tmp_path / "out"
    result = succeed(command, *given, *QUICK[command], "--figure", name, "--output", out)
    assert (out / name).read_bytes()[: len(magic)] == magic
    assert name in result.stdout
    assert sorted(p.name for p in out.iterdir()) == sorted([name, "result.json"])


@over_commands
@pytest.mark.parametrize("name", ["a.gif", "a", ".png", "b/a.png", "../a.pdf"])
def test_other_formats_are_refused_before_any_work(tmp_path, command, name, monkeypatch):
    monkeypatch.setattr("dlngeo.cli._progress", None)
    result = call(command, *QUICK[command], "--figure", name, "--output", tmp_path / "out")
    assert_one_line_and_code_2(result, f".png, .pdf or .svg, got '{name}'")
    assert not (tmp_path / "out").exists()


def test_the_version_is_printed_and_the_package_is_a_program():
    run = subprocess.run([sys.executable, "-m", "dlngeo", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == succeed("--version").stdout == f"dlngeo {dlngeo.__version__}\n"
    assert "--depths" in subprocess.run(
        [sys.executable, "-m", "dlngeo", "compare", "--help"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


@pytest.mark.parametrize("name", ["[red][bogus=1]$x_{$.npy", "odd\udcff.npy"])
def test_a_file_name_is_only_a_name(tmp_path, matrix, name):
    np.save(tmp_path / name, matrix)
    result = succeed("compare", tmp_path / name, *QUICK["compare"], "--output", tmp_path / "[out]")
    assert name[:3] in result.stdout
    assert (tmp_path / "[out]" / "figure.png").exists()
    assert_one_line_and_code_2(call("compare", tmp_path / f"no{name}"), "no such file")


@pytest.mark.usefixtures("_sketchy")
def test_without_data_it_takes_the_photograph(tmp_path, monkeypatch):
    photograph = dlngeo.jobs.load.photograph
    monkeypatch.setattr(dlngeo.jobs.load, "photograph", lambda: photograph(shrink=14))
    result = succeed("compare", *QUICK["compare"], "--output", tmp_path)
    assert "PSNR" in result.stdout
    assert "china.jpg" in result.stdout
    assert "60×60 of rank 3" in result.stdout
    written = result_of(tmp_path)
    assert [row["name"] for row in written["rows"]] == [row["name"] for row in written["beside"]["rows"]]


@over_commands
def test_the_defaults_are_those_of_the_library(command):
    parameters = inspect.signature(getattr(dlngeo.cli, command)).parameters
    settings = vars(sys.modules[f"dlngeo.jobs.{command}"].Settings())
    assert dlngeo.cli._depths("1,2,3,8,inf") == settings.get("depths", (1, 2, 3, 8, np.inf))
    names = parameters.keys() & settings.keys() - {"depths", "shape", "energy"}
    assert len(names) > 5
    assert {name: parameters[name].default for name in names} == {name: settings[name] for name in names}


@pytest.mark.usefixtures("_sketchy")
@pytest.mark.parametrize("command", [pytest.param("compare", marks=pytest.mark.slow), "flow"])
def test_a_seed_reproduces_the_numbers(tmp_path, data, command):
    errors, given = [], [data] if command == "compare" else []
    for seed in (5, 5, 6):
        succeed(command, *given, *QUICK[command], "--seed", seed, "--output", tmp_path)
        errors.append([row.get("error", row.get("losses")) for row in result_of(tmp_path)["rows"]])
    assert errors[0] == errors[1] != errors[2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, "no such file"),
        ("junk.npy", b"\x80\x04junk", "not a readable .npy"),
        ("empty.csv", b"", "is empty"),
        ("words.csv", b"a,b\nc,d\n", "is not a number"),
        ("missing.csv", b",\n,\n,\n", "all entries are missing"),
        ("table.pkl", b"PK", "cannot read .pkl"),
    ],
)
@over_commands
def test_bad_files_get_one_line_and_code_2(command, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_one_line_and_code_2(call(command, tmp_path / name, "--output", tmp_path / "out"), message)
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
        (["--start", "nan"], "start size"),
        (["--rank", "0"], "rank must be at least 1"),
        (["--patience", "0"], "patience must be at least 1"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--iterations", "0"], "iterations must be at least 1"),
        (["--optimizer", "newton"], "optimizer must be one of"),
    ],
)
def test_bad_options_get_one_line_and_code_2(tmp_path, data, options, message):
    assert_one_line_and_code_2(call("compare", data, *options, "--output", tmp_path / "out"), message)


@over_commands
def test_holes_and_options_without_a_table_are_refused(command, tmp_path):
    assert_one_line_and_code_2(call(command, "--long"), "say how a file is written")
    (tmp_path / "long.csv").write_text("".join(f"{k % 4},{k % 3},{k}\n" for k in range(12)))
    assert_one_line_and_code_2(call(command, tmp_path / "long.csv"), "pass --long or --wide")
    np.save(tmp_path / "holes.npy", np.array([[1.0, np.nan], [0.0, 1.0]]))
    message = "only 3 entries are known" if command == "compare" else "1 of 4 entries are missing"
    assert_one_line_and_code_2(call(command, tmp_path / "holes.npy", "--output", tmp_path / "out"), message)


@over_commands
def test_an_output_that_is_a_file_gets_one_line(command, tmp_path, data):
    given = [data] if command == "compare" else []
    result = call(command, *given, *QUICK[command], "--output", data)
    assert result.exit_code == 2
    assert "cannot write to" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("command", "at"), [("compare", 4), ("flow", 0.3)])
def test_ctrl_c_keeps_what_is_done_and_gives_code_130(tmp_path, data, command, at, monkeypatch):
    # The process sends itself the signal that a terminal would, in the middle of the second row.
    job, name = sys.modules[f"dlngeo.jobs.{command}"], "compare" if command == "compare" else "run"
    run = getattr(job, name)

    def interrupted(*arguments, tick):
        def tick(name, done):
            if name == "depth 3" and done >= at:
                os.kill(os.getpid(), signal.SIGINT)

        return run(*arguments, tick=tick)

    monkeypatch.setattr(job, name, interrupted)
    given = [data] if command == "compare" else []
    found = call(command, *given, *QUICK[command], "--output", tmp_path)
    assert found.exit_code == 130, found.stderr
    assert "Traceback" not in found.stderr
    assert "interrupted" in found.stderr
    written = result_of(tmp_path)
    assert written["status"] == "interrupted"
    assert [row["name"] for row in written["rows"]] == ["depth 1", "depth 3"]
    assert "depth 3 ended: interrupted" in found.stdout
    assert (tmp_path / "figure.png").exists()
    if command == "compare":
        assert [row["iterations"] for row in written["rows"]] == [8, 4]
    else:
        assert [row["status"] for row in written["rows"]] == ["complete", "interrupted"]
        assert 6 < written["rows"][1]["t"][-1] < 20


RUN = "from dlngeo.cli import app; app()"


@pytest.mark.slow
def test_an_output_in_ascii_loses_no_number_and_a_full_one_is_told(tmp_path):
    arguments = "sample", *QUICK["sample"], "--output", tmp_path
    plain = process(RUN, *arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (plain.returncode, plain.stderr) == (0, "")
    assert r"\u03bb 2" in plain.stdout
    assert f"{result_of(tmp_path)['estimates']['energy']['mean']:.5g}" in plain.stdout
    with open("/dev/full", "w") as full:
        found = process(RUN, *arguments, stdout=full)
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert f"cannot print: No space left on device. wrote {tmp_path}" in found.stderr


@pytest.mark.usefixtures("_sketchy")
@over_commands
def test_narrow_tables_drop_columns_and_cut_no_number(command, tmp_path, data):
    given = [data] if command == "compare" else []
    result = succeed(command, *given, *QUICK[command], "--output", tmp_path, env={"COLUMNS": "40"})
    assert "…" not in result.stdout
    assert "Too narrow for: " in result.stdout
    written = result_of(tmp_path)
    if command == "sample":
        numbers = [f"{row['mean']:.5g}" for row in written["estimates"].values()]
    else:
        numbers = [
            f"{row['error']:.3f}" if command == "compare" else f"{row['losses'][-1]:.3g}" for row in written["rows"]
        ]
    assert all(number in result.stdout for number in numbers)


def test_files_that_a_killed_run_left_are_removed(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from dlngeo.jobs.output import replace
replace(Path(sys.argv[1]) / "figure.png", lambda path: os.kill(os.getpid(), signal.SIGKILL))
"""
    process(code, tmp_path)
    assert len(list(tmp_path.glob(".figure-*.png"))) == 1
    other = tmp_path / "result.json"

    def write(path):
        replace(other, lambda path: path.write_text("{}"))
        replace(tmp_path / "figure.png", lambda path: path.write_text("second"))  # leaves that of this process alone
        path.write_text("first")

    replace(tmp_path / "figure.png", write)
    assert (tmp_path / "figure.png").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "result.json"]


@over_commands
def test_help_is_quick_and_names_the_options(command):
    result = call(command, "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in inspect.signature(getattr(dlngeo.cli, command)).parameters:
        assert name.replace("_", "-") in result.output.lower()
    loaded = "import sys, dlngeo.cli; sys.exit(any(f'dlngeo.{room}' in sys.modules for room in ('jobs', 'sampling')))"
    assert process(loaded).returncode == 0
