"""``dlngeo sample``, end to end on short chains."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import commands
import numpy as np
import pytest
from commands import assert_one_line_and_code_2, result_of

from dlngeo import plotting
from dlngeo.jobs.gibbs import Gibbs
from dlngeo.jobs.sample import Settings, run
from dlngeo.sampling import Langevin, WorkerLostError
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.laws import SpectralLaw

QUICK = commands.QUICK["sample"]
call, succeed = partial(commands.call, "sample"), partial(commands.succeed, "sample")


def numbers(result):
    return {key: result[key] for key in ("estimates", "histogram", "traces", "n_steps", "n_draws", "status")}


@pytest.mark.usefixtures("_sketchy")
def test_steps_grow_with_the_time_of_relaxation_where_they_have_no_bias(tmp_path):
    succeed("--depth", "64", "--steps", "2000", "--thin", "4", "--output", tmp_path / "out")
    rows = result_of(tmp_path / "out")["estimates"]
    assert rows["virial"]["ess_bulk"] > 200  # 3 at a step that does not see the depth
    assert abs(rows["virial"]["mean"] - 1) < 4 * rows["virial"]["mcse"]


@pytest.mark.usefixtures("_sketchy")
@pytest.mark.parametrize("noise", ["base", "isotropic"])
def test_deep_networks_whose_singular_values_underflow(tmp_path, noise):
    succeed(*QUICK, "--depth", "64", "--noise", noise, "--output", tmp_path / "out")
    rows = result_of(tmp_path / "out")["estimates"]
    assert rows["energy"]["exact"] == pytest.approx(3.0 if noise == "base" else 34.5, rel=1e-3)


def test_it_gives_a_table_a_figure_and_a_result(tmp_path):
    result = succeed(*QUICK, "--output", tmp_path / "out")
    for word in ("½Σλ²", "2×3", "rank 2", "energy E", "entropy S", "free energy", "λ 2", "exact", "R-hat", "4 chains"):
        assert word in result.stdout
    written = result_of(tmp_path / "out")
    assert (written["schema"], written["status"], written["n_steps"], written["burn_in"]) == (1, "complete", 60, 12)
    assert written["n_draws"] == 24
    assert list(written["estimates"]) == ["energy", "entropy", "free_energy", "lambda_1", "lambda_2", "virial"]
    for row in written["estimates"].values():
        assert list(row) == ["mean", "sd", "mcse", "r_hat", "ess_bulk", "ess_tail", "exact"]
    assert np.sum(written["histogram"]["counts"], axis=1).tolist() == [4 * 24] * 2
    assert np.shape(written["traces"]["entropy"]) == (4, 30)
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figure.png", "result.json"]


@pytest.mark.parametrize(
    ("options", "energy", "entropy_of", "beta", "noise"),
    [
        ({"shape": (3, 2), "beta": 2.0}, lambda s: np.sum(s ** (2 / 3), -1) / 2, (3, 2, 3), 2.0, "base"),
        ({"energy": "norm", "depth": 2, "rank": 1}, lambda s: np.sum(s**2, -1) / 2, (3, 3, 2, 1), 1.0, "base"),
        ({"energy": "nuclear", "depth": 1.5, "shape": (2, 2)}, lambda s: np.sum(s, -1), (2, 2, 1.5), 1.0, "base"),
        ({"noise": "isotropic", "shape": (2, 2)}, lambda s: np.sum(s ** (2 / 3), -1) / 2, (2, 2, 3), 1.0, "isotropic"),
    ],
    ids=["lambda", "norm", "nuclear", "isotropic"],
)
def test_exact_values_are_those_of_the_law(options, energy, entropy_of, beta, noise):
    found = run(Settings(steps=40, chains=2, **options))
    law = SpectralLaw(energy, SpectralEntropy(*entropy_of), beta, noise)
    exact = {name: row["exact"] for name, row in found["estimates"].items()}
    assert exact["energy"] == pytest.approx(law.mean(energy), rel=1e-5)
    assert exact["entropy"] == pytest.approx(law.mean(law.entropy), rel=1e-5, abs=1e-5)
    mean = {name: row["mean"] for name, row in found["estimates"].items()}
    assert mean["free_energy"] == pytest.approx(mean["energy"] - mean["entropy"] / beta)
    assert exact["free_energy"] == pytest.approx(exact["energy"] - exact["entropy"] / beta)
    np.testing.assert_allclose(found["exact"]["density"], law.density(found["exact"]["lambda"]), atol=1e-4)


def test_anisotropy_sharpens_the_law_of_the_free_energy():
    """``e^{−(βE − S)/κ}``: with E = ½Σλ² on 1×1 matrices, of constant entropy, βλ²/κ is the square of a normal."""
    law = Gibbs("lambda", (1, 1), 2.0, beta=3.0, noise="isotropic", kappa=0.5)
    assert law.law.mean(law.spectral_energy) == pytest.approx(0.5 / 3 / 2)
    wide = Gibbs("lambda", (3, 4), 2.0, rank=2, width=5, beta=3.0, noise="isotropic", kappa=1.0)
    entropy = SpectralEntropy(3, 4, 2, 2, (4, 5, 3))
    direct = SpectralLaw(wide.spectral_energy, entropy, 3.0, "isotropic")
    assert wide.law.mean(wide.spectral_energy) == pytest.approx(direct.mean(wide.spectral_energy))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"beta": 2.0},
        {"energy": "norm", "shape": (3, 4), "rank": 2},
        {"energy": "nuclear", "depth": 2.0},
        {"noise": "isotropic", "kappa": 0.5, "shape": (2, 3), "width": 3},
    ],
    ids=["lambda", "norm", "nuclear", "isotropic"],
)
def test_estimates_agree_with_the_exact_law(options):
    """Within 4 standard errors of an average at half the default step, which leaves half a per cent of bias."""
    settings = Settings(chains=200, steps=8000, **options)
    law = Gibbs(settings.energy, settings.shape, settings.depth, settings.rank, settings.width, settings.beta,
                settings.noise, settings.kappa)  # fmt: skip
    found = run(Settings(**{**settings.__dict__, "step_size": law.step_size / 2}))
    for name in ("energy", "entropy"):
        row = found["estimates"][name]
        assert abs(row["mean"] - row["exact"]) < 4 * row["mcse"] + 0.01 * abs(row["sd"])
    edges, counts = np.array(found["histogram"]["edges"]), np.sum(found["histogram"]["counts"], axis=0)
    middle = np.interp((edges[1:] + edges[:-1]) / 2, found["exact"]["lambda"], found["exact"]["density"])
    density = counts / counts.sum() / np.diff(edges)
    assert np.sum(np.abs(density - middle) * np.diff(edges)) < 0.03


@pytest.mark.usefixtures("_sketchy")
def test_a_target_from_a_file(tmp_path):
    np.save(tmp_path / "a.npy", np.diag([3.0, 2.0, 1.0])[:2])
    succeed(tmp_path / "a.npy", *QUICK[:4], "--beta", "100", "--output", tmp_path)
    written = result_of(tmp_path)
    assert written["settings"]["energy"] == "target"
    assert written["settings"]["shape"] == [2, 3]
    assert written["data"]["name"] == "a.npy"
    np.testing.assert_allclose(written["data"]["singular_values"], [3, 2])
    assert written["exact"] is None
    assert written["estimates"]["energy"]["exact"] is None


def test_a_large_target_is_found(tmp_path):
    target = np.array([[2.0, 0.5, 0.0], [-1.0, 1.0, 0.3]])
    # Some chains stay at a saddle for some thousand steps.
    found = run(Settings("target", depth=2, beta=200.0, steps=9000, burn_in=6000, chains=20), target)
    # Near its minimum the energy is quadratic in 6 dimensions.
    assert found["estimates"]["energy"]["mean"] == pytest.approx(3 / 200, rel=0.1)
    assert found["estimates"]["lambda_1"]["mean"] == pytest.approx(np.linalg.norm(target, 2) ** 0.5, rel=0.02)


def test_seeds_reproduce():
    found = [run(Settings(shape=(2, 2), steps=60, chains=5, seed=seed)) for seed in (1, 1, 2)]
    assert numbers(found[0]) == numbers(found[1])
    assert found[0]["estimates"] != found[2]["estimates"]


@pytest.mark.slow
def test_jobs_share_the_chains():
    shared, again, alone = (run(Settings(steps=60, chains=5, seed=1, jobs=jobs)) for jobs in (2, 2, 1))
    assert numbers(shared) == numbers(again)
    assert np.shape(shared["traces"]["energy"]) == (5, 60)
    assert shared["estimates"] != alone["estimates"]


@pytest.mark.usefixtures("_sketchy")
def test_a_run_goes_on_from_its_checkpoint_and_gets_more_steps(tmp_path):
    folder = tmp_path / "run"
    options = [*QUICK, "--checkpoint", folder, "--output", tmp_path / "out"]
    succeed(*options)
    longer = ["--steps", "90", *options[2:]]
    succeed(*longer)
    went_on = result_of(tmp_path / "out")
    succeed(*longer[:-4], "--output", tmp_path / "out")
    assert numbers(result_of(tmp_path / "out")) == numbers(went_on)
    assert_one_line_and_code_2(call(*options), "has got to 90 steps, beyond the 60 asked for")
    assert_one_line_and_code_2(call(*longer, "--beta", 2), "beta was 1.0, and is now 2.0")
    assert_one_line_and_code_2(call(*longer, "--jobs", 2), "jobs was 1, and is now 2")
    assert_one_line_and_code_2(call(*longer, "--seed", 2), "seed was 0, and is now 2")
    thinner = ["--steps", "90", *QUICK[4:], "--checkpoint", folder, "--output", tmp_path / "out"]
    succeed(*thinner)  # without --thin that of the checkpoint holds
    assert numbers(result_of(tmp_path / "out")) == numbers(went_on)


@pytest.mark.usefixtures("_sketchy")
def test_other_folders_are_no_checkpoints(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "full", tmp_path / "full" / "thesis.tex"):
        message = "is something else than the folder of a run"
        assert_one_line_and_code_2(call(*QUICK, "--checkpoint", place, "--output", tmp_path / "out"), message)
    options = [*QUICK, "--checkpoint", tmp_path / "run", "--output", tmp_path / "out"]
    succeed(*options)
    (part,) = (tmp_path / "run").glob("part*")
    text = (part / "checkpoint.json").read_text()
    (part / "checkpoint.json").write_text(text[: len(text) // 2])
    assert_one_line_and_code_2(call(*options), "is damaged")
    (tmp_path / "run" / "settings.json").write_text("{")
    assert_one_line_and_code_2(call(*options), "is damaged")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--energy", "heat"], "the energy must be lambda, norm, nuclear, target"),
        (["--energy", "target"], "needs a TARGET"),
        (["--shape", "3"], "shape must be like 4x3"),
        (["--shape", "3x-1"], "shape must be like 4x3"),
        (["--shape", "0x3"], "sides of 1 to 300"),
        (["--shape", "301x3"], "sides of 1 to 300"),
        (["--depth", "0.5"], "depth must be at least 1"),
        (["--depth", "inf"], "no law is normalised at infinite depth"),
        (["--depth", "nan"], "depth must be at least 1"),
        (["--rank", "3"], "rank 3 exceeds"),
        (["--width", "0"], "width must be at least 1"),
        (["--width", "1", "--rank", "2"], "rank"),
        (["--depth", "2.5", "--width", "4"], "layers come in whole numbers"),
        (["--beta", "0"], "beta must be positive"),
        (["--noise", "loud"], "noise must be 'base' or 'isotropic'"),
        (["--kappa", "0", "--noise", "isotropic"], "kappa must be positive"),
        (["--kappa", "2"], "kappa = 2 is the anisotropy of isotropic noise"),
        (["--chains", "0"], "chains must be at least 1"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--burn-in", "60"], "burn-in must be"),
        (["--burn-in", "59"], "leave nothing after a burn-in"),
        (["--thin", "0"], "thin must be at least 1"),
        (["--step-size", "0"], "step size must be positive"),
        (["--step-size", "1e9"], "take a step_size below"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--jobs", "5"], "5 jobs are more than the 4 chains"),
        (["--depth", "1e308"], "is no kernel of a metric"),
        (["--beta", "1e-300"], "beta must lie in"),
        (["--kappa", "1e300", "--noise", "isotropic"], "kappa must lie in"),
        (["--chains", 99999999999999], "chains must be at most"),
        (["--chains", 99999999], "GB, above 4; keep fewer"),
        (["--depth", "1e9", "--width", "3"], "at most 10000 layers"),
    ],
)
def test_bad_options_get_one_line_and_code_2(tmp_path, options, message):
    assert_one_line_and_code_2(call(*QUICK, *options, "--output", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def start(*options):
    command = [sys.executable, "-c", "from dlngeo.cli import app; app()", "sample", *map(str, options)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.usefixtures("_sketchy")
def test_ctrl_c_in_a_step_keeps_the_steps_before_it(tmp_path, monkeypatch):
    step, calls = Langevin.step, iter(range(1000))

    def pressed(self, state, rng):
        if next(calls) == at:
            raise KeyboardInterrupt
        return step(self, state, rng)

    monkeypatch.setattr(Langevin, "step", pressed)
    options, at = [*QUICK, "--output", tmp_path / "out"], 40
    result = call(*options)
    assert (result.exit_code, result.stdout.count("38 steps of")) == (130, 1)  # the first step is compared, twice
    assert "interrupted after 38 of 60 steps. To be able to go on, give a --checkpoint." in result.stderr
    written = result_of(tmp_path / "out")
    assert (written["status"], written["n_steps"], written["n_draws"]) == ("interrupted", 38, 13)
    calls, at = iter(range(1000)), 10
    assert call(*options).exit_code == 130
    written = result_of(tmp_path / "out")
    assert (written["n_steps"], written["burn_in"]) == (8, 1)
    assert "within the burn-in" in written["notes"][0]
    calls, at = iter(range(1000)), 3
    result = call(*QUICK, "--output", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (130, "")
    assert "interrupted before anything was done" in result.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("jobs", "steps"), [pytest.param(1, 1_000_000, id="1"), pytest.param(2, 200_000, id="2")])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, jobs, steps):
    options = ["--steps", steps, "--thin", 1000, "--shape", "2x2", "--chains", 2, "--jobs", jobs]
    folder = tmp_path / "run"
    process = start(*options, "--checkpoint", folder, "--output", tmp_path / "out")
    wait_for(lambda: len(list(folder.glob("part*/checkpoint.json"))) == jobs)
    time.sleep(1.5 * jobs)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted after" in errors
    assert "The same command goes on from there" in errors
    written = result_of(tmp_path / "out")
    assert written["status"] == "interrupted"
    assert 1000 <= written["n_steps"] < steps
    assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    folder, out = tmp_path / "run", tmp_path / "out"
    options = ["--steps", 20_000, "--shape", "2x2", "--chains", 4, "--jobs", 2, "--seed", 3, "--output", out]
    process = start(*options, "--checkpoint", folder)
    wait_for(lambda: len(list(folder.glob("part*/part-3.npz"))) == 2)
    process.kill()
    process.communicate(timeout=30)  # which ends with the last worker that could write
    assert not out.exists()
    succeed(*options, "--checkpoint", folder)
    went_on = result_of(out)
    succeed(*options)
    assert numbers(went_on) == numbers(result_of(out))


@pytest.mark.parametrize("kept", [False, True], ids=["alone", "checkpoint"])
def test_processes_that_are_always_killed_get_one_line_and_code_2(tmp_path, monkeypatch, kept):
    def run_cells(*_, **__):
        raise WorkerLostError("killed", [{"part": 0}])

    monkeypatch.setattr("dlngeo.jobs.sample.run_cells", run_cells)
    options = ["--checkpoint", tmp_path / "run"] if kept else []
    result = call(*QUICK, *options, "--output", tmp_path / "out")
    assert_one_line_and_code_2(result, "what is done is kept." if kept else "nothing is kept without a checkpoint.")


def test_a_figure_is_drawn_of_whatever_a_result_holds():
    for settings in (Settings(depth=1, steps=40, chains=1), Settings(shape=(9, 9), steps=40, chains=14)):
        found = json.loads(json.dumps(run(settings), allow_nan=False))
        axes = plotting.sample_figure({**found, "status": "interrupted"}, "title").axes
        assert len(axes) == 4
        assert sum(line.get_label() == "exact law" for line in axes[0].lines) == (settings.shape == (3, 3))
