"""``dlngeo.compare``: any cost on any manifolds by any optimizers, resumed from its file."""

import json
import math

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDMatrices
from pymanopt.manifolds import FixedRankEmbedded, Sphere
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions

import dlngeo
from dlngeo.jobs.low_rank import low_rank
from dlngeo.jobs.runs import Task
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import Balanced, FixedRank, GradientFlow, SmallStartLineSearcher

SHAPE, RANK = (20, 18), 4
FLOW = GradientFlow(max_iterations=40)


def conjugate_gradients(iterations=30):
    return ConjugateGradient(verbosity=0, max_iterations=iterations, line_searcher=SmallStartLineSearcher())


@pytest.fixture(scope="module")
def data():
    truth, observed = low_rank(SHAPE, 2, oversampling=3.0, rng=0)
    train, heldout = observed.split(0.2, 0)
    rest = np.ones(SHAPE, bool)
    rest[observed.rows, observed.cols] = False
    return train, heldout, MatrixCompletion.from_matrix(truth, rest)


@pytest.fixture(scope="module")
def found(data):
    train, heldout, rest = data
    manifolds = {
        "depth 1": FixedRank(*SHAPE, RANK, 1),
        "embedded": FixedRankEmbedded(*SHAPE, RANK),
        "depth 2": FixedRank(*SHAPE, RANK, 2),
        "two layers": Balanced((18, 20, 20), RANK),
        "depth 3": FixedRank(*SHAPE, RANK, 3),
    }
    optimizers = {"flow": GradientFlow(), "cg": conjugate_gradients()}
    return dlngeo.compare(train, manifolds, optimizers, seeds=2, heldout=heldout, test=rest)


def of(found, manifold, optimizer="flow"):
    return [run for run in found.runs if (run["manifold"], run["optimizer"]) == (manifold, optimizer)]


def test_each_manifold_optimizer_and_seed_is_run_once(found):
    assert found.status == "complete"
    assert len(found.runs) == 5 * 2 * 2
    assert len({(run["manifold"], run["optimizer"], run["seed"]) for run in found.runs}) == 20
    for run in found.runs:
        assert run["status"] in ("converged", "iteration limit")
        history = run["history"]
        assert history["iteration"][0] == 0
        assert history["iteration"][-1] == run["iterations"] >= run["best_iteration"]
        assert history["cost"][-1] == run["last_cost"]
        assert run["heldout_error"] == pytest.approx(min(history["heldout_error"]), rel=0.2)
        assert run["heldout_error"] <= run["last_heldout_error"]


def test_manifolds_that_are_the_same_space_start_and_end_alike(found):
    """Depth 1 is FixedRankEmbedded, and the weights of two layers are above the matrices of depth 2."""
    for one, other in (("depth 1", "embedded"), ("depth 2", "two layers")):
        for a, b in zip(of(found, one), of(found, other), strict=True):
            assert a["history"]["cost"][0] == pytest.approx(b["history"]["cost"][0], rel=1e-12)
            assert a["history"]["gradient_norm"][0] == pytest.approx(b["history"]["gradient_norm"][0], rel=1e-9)
            assert a["test_error"] == pytest.approx(b["test_error"], rel=0.05)
    starts = [run["history"]["cost"][0] for run in of(found, "depth 1")]
    assert starts[0] != starts[1]
    errors = {name: np.median([run["test_error"] for run in of(found, name)]) for name in ("depth 1", "depth 3")}
    assert errors["depth 3"] < 0.05 < 0.5 < errors["depth 1"]


def test_the_result_is_a_table_a_frame_a_figure_and_json(found, tmp_path):
    frame = found.to_frame()
    assert len(frame) == 20
    assert frame.groupby(["manifold", "optimizer"]).test_error.median()["depth 3", "flow"] < 0.05
    table = found.table()
    assert str(found) == table
    for word in ("depth 3, flow", "embedded, cg", "held-out", "test", "2 converged", "effective"):
        assert word in table
    written, figure = found.save(tmp_path / "out", "a.pdf")
    assert figure.read_bytes()[:4] == b"%PDF"
    assert json.loads(written.read_text()) == found.to_json()
    axes = found.figure().axes
    assert len(axes[0].get_lines()) == 20
    with pytest.raises(ValueError, match=r"\.png, \.pdf or \.svg"):
        found.save(tmp_path / "other", "a.gif")
    assert not (tmp_path / "other").exists()


# Resuming.


def settings(data, file, seeds=2, **options):
    train, heldout, _ = data
    manifolds = {f"depth {depth}": FixedRank(*SHAPE, RANK, depth) for depth in (1, 3)}
    return {"problem": train, "manifolds": manifolds, "optimizers": FLOW, "seeds": seeds, "file": file} | (
        {"heldout": heldout} | options
    )


def counted(monkeypatch):
    ran, run = [], Task.run
    monkeypatch.setattr(Task, "run", lambda self: ran.append(self.key) or run(self))
    return ran


def test_finished_runs_are_not_run_again(data, tmp_path, monkeypatch):
    ran, file = counted(monkeypatch), tmp_path / "runs.json"
    first = dlngeo.compare(**settings(data, file))
    assert len(ran) == 4
    again = dlngeo.compare(**settings(data, file))
    assert len(ran) == 4
    assert again == first
    more = dlngeo.compare(**settings(data, file, seeds=3))
    assert ran[4:] == [("depth 1", "GradientFlow", 2), ("depth 3", "GradientFlow", 2)]
    assert len(more.runs) == 6
    assert len(dlngeo.compare(**settings(data, file, seeds=[1])).runs) == 2
    assert len(json.loads(file.read_text())["runs"]) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]


def test_after_ctrl_c_the_same_call_goes_on(data, tmp_path, monkeypatch):
    file, ran, run = tmp_path / "runs.json", [], Task.run

    def interrupted(self):
        ran.append(self.key)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(Task, "run", interrupted)
    part = dlngeo.compare(**settings(data, file))
    assert (part.status, len(part.runs)) == ("interrupted", 2)
    whole = dlngeo.compare(**settings(data, file))
    assert (whole.status, len(whole.runs)) == ("complete", 4)
    assert ran[3:] == [("depth 3", "GradientFlow", 0), ("depth 3", "GradientFlow", 1)]


def test_a_run_interrupted_on_its_way_is_kept_and_run_again(data, tmp_path, monkeypatch):
    file, gradient, calls = tmp_path / "runs.json", MatrixCompletion.euclidean_gradient, []

    def counting(self, point):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return gradient(self, point)

    def posed(manifold):
        numpy = pymanopt.function.numpy(manifold)
        return pymanopt.Problem(
            manifold, numpy(lambda *p: data[0].cost(p)), euclidean_gradient=numpy(lambda *p: counting(data[0], p))
        )

    options = settings(data, file, problem=posed, optimizers=conjugate_gradients(40), seeds=1)
    part = dlngeo.compare(**options)
    assert part.status == "interrupted"
    assert [run["status"] for run in part.runs] == ["interrupted"]
    assert part.runs[0]["iterations"] > 5
    whole = dlngeo.compare(**options)
    assert [run["status"] for run in whole.runs] == ["iteration limit"] * 2


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("kept") / "runs.json"
    dlngeo.compare(**settings(data, file, seeds=1))
    return file


@pytest.mark.parametrize("change", ["problem", "metric", "start", "settings", "patience", "heldout"])
def test_runs_of_another_comparison_are_refused(data, kept, change):
    train, heldout, _ = data
    changed = {
        "problem": {"problem": heldout},
        "metric": {"manifolds": {"depth 1": FixedRank(*SHAPE, RANK, 1.5)}},
        "start": {"start": 1e-2},
        "settings": {"optimizers": GradientFlow(max_iterations=41)},
        "patience": {"patience": 3},
        "heldout": {"heldout": train},
    }[change]
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=r"holds a run named depth 1, GradientFlow, 0 of other settings.*another file"):
        dlngeo.compare(**settings(data, kept, seeds=1, **changed))
    assert kept.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2, "runs": []}', '{"schema": 1, "runs": [{"seed": 1}]}', "[1]"])
def test_other_files_are_refused(data, tmp_path, text):
    file = tmp_path / "runs.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"is no file of dlngeo\.compare"):
        dlngeo.compare(**settings(data, file))
    assert file.read_text() == text
    with pytest.raises(ValueError, match="there is no folder"):
        dlngeo.compare(**settings(data, tmp_path / "no" / "runs.json"))


# Costs and manifolds of others.


def test_a_decorated_function_serves_all_manifolds_of_its_layout():
    target = np.diag([3.0, 1.0, 0.0])
    manifold = FixedRank(3, 3, 2, 3)

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        return anp.sum(((u * s) @ vt - target) ** 2) / 2

    found = dlngeo.compare(cost, [manifold, FixedRank(3, 3, 2, 1), FixedRankEmbedded(3, 3, 2)], seeds=2)
    assert list(dict.fromkeys(run["manifold"] for run in found.runs)) == ["depth 3", "depth 1", "FixedRankEmbedded"]
    assert all(run["cost"] < 1e-6 and run["heldout_error"] is None for run in found.runs)
    assert "held-out" not in found.table()
    assert found.figure().axes[0].get_ylabel() == "cost"
    with pytest.raises(TypeError, match="the function takes 3 arrays"):
        dlngeo.compare(cost, Sphere(3))


@pytest.mark.parametrize("backend", ["pytorch", "jax"])
def test_other_backends_serve_too(backend):
    library = pytest.importorskip({"pytorch": "torch", "jax": "jax"}[backend])
    manifold = Sphere(3)
    weights = library.numpy.array([1.0, 2.0, 4.0]) if backend == "jax" else library.tensor([1.0, 2.0, 4.0]).double()

    @getattr(pymanopt.function, backend)(manifold)
    def cost(x):
        return (weights * x**2).sum()

    found = dlngeo.compare(cost, {"sphere": manifold}, SteepestDescent(verbosity=0), seeds=2)
    assert all(run["cost"] == pytest.approx(1, abs=1e-3) for run in found.runs)


def test_spaces_of_geomstats_and_a_function_that_poses_the_problem():
    north = np.array([0.0, 0.0, 1.0])

    def posed(manifold):
        numpy = pymanopt.function.numpy(manifold)
        return pymanopt.Problem(manifold, numpy(lambda x: -x @ north), euclidean_gradient=numpy(lambda x: -north))

    found = dlngeo.compare(
        posed, [Hypersphere(2), Sphere(3)], SteepestDescent(verbosity=0), 3, lambda x: float(np.linalg.norm(x - north))
    )
    assert [run["manifold"] for run in found.runs] == ["Hypersphere"] * 3 + ["Sphere"] * 3
    assert all(run["heldout_error"] < 1e-5 and run["effective_rank"] is None for run in found.runs)
    again = dlngeo.compare(posed, Sphere(3), SteepestDescent(verbosity=0), 3)
    starts = [run["history"]["cost"][0] for run in found.runs[3:]]
    assert [run["history"]["cost"][0] for run in again.runs] == starts
    given = dlngeo.compare(
        posed, Sphere(3), SteepestDescent(verbosity=0), [7], start=lambda manifold, seed: -np.array([0.6, 0.0, 0.8])
    )
    assert given.runs[0]["history"]["cost"][0] == pytest.approx(0.8)
    assert given.runs[0]["seed"] == 7


def test_random_starts_leave_the_generator_of_the_process_alone():
    def posed(manifold):
        numpy = pymanopt.function.numpy(manifold)
        return pymanopt.Problem(manifold, numpy(lambda x: x[0]), euclidean_gradient=numpy(lambda x: np.eye(3)[0]))

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    dlngeo.compare(posed, Sphere(3), SteepestDescent(verbosity=0), 1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_what_fails_costs_the_others_nothing(data):
    train, heldout, _ = data
    manifolds = [FixedRankEmbedded(*SHAPE, RANK), FixedRank(*SHAPE, RANK, 2)]
    found = dlngeo.compare(train, manifolds, TrustRegions(verbosity=0, max_iterations=3), 1, heldout)
    assert [run["status"] for run in found.runs] == ["failed", "iteration limit"]
    assert "NotImplementedError" in found.runs[0]["message"]
    assert "FixedRankEmbedded, TrustRegions: NotImplementedError" in found.table()
    json.dumps(found.to_json(), allow_nan=False)
    found.figure()


def test_manifolds_of_one_name_are_told_apart():
    data = MatrixCompletion([0], [0], [1.0], (3, 3))
    found = dlngeo.compare(data, [FixedRank(3, 3, r, 2) for r in (1, 2, 3)], GradientFlow(max_iterations=2), 1)
    assert [run["manifold"] for run in found.runs] == ["depth 2", "depth 2 (2)", "depth 2 (3)"]


def test_spd_matrices_start_in_their_space():
    cost = dlngeo.problems.LowRankApproximation(np.diag([1.0, 2.0]))
    found = dlngeo.compare(cost, SPDMatrices(2), SteepestDescent(verbosity=0, max_iterations=50), 1, start=0.5)
    assert found.runs[0]["history"]["cost"][0] == pytest.approx((0.25 + 2.25) / 2)
    assert found.runs[0]["cost"] < 1e-6


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"problem": 3}, TypeError, "the problem must be"),
        ({"problem": lambda manifold: None}, TypeError, r"must return a pymanopt\.Problem"),
        ({"manifolds": []}, ValueError, "there is no manifold"),
        ({"manifolds": 3}, TypeError, "a manifold is expected"),
        ({"manifolds": [3]}, TypeError, "a manifold is expected, got 3"),
        ({"optimizers": {"flow": "flow"}}, TypeError, "an? optimizer is expected"),
        ({"optimizers": GradientFlow}, TypeError, "an? optimizer is expected"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1"),
        ({"seeds": []}, ValueError, "there are no seeds"),
        ({"seeds": [0.5]}, TypeError, "a seed must be an integer"),
        ({"start": 0.0}, ValueError, "start must be positive"),
        ({"start": math.inf}, ValueError, "start must be positive"),
        ({"heldout": 3}, TypeError, "held-out data"),
        ({"heldout": MatrixCompletion([0], [0], [1.0], (3, 3))}, ValueError, "they must be of one matrix"),
        ({"heldout": None, "patience": 3}, ValueError, "patience needs"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_run(data, tmp_path, monkeypatch, changed, error, message):
    ran = counted(monkeypatch)
    with pytest.raises(error, match=message):
        dlngeo.compare(**settings(data, tmp_path / "runs.json") | changed)
    assert ran == []
    assert list(tmp_path.iterdir()) == []
